"""`make dist`: the archive is unpacked into a root of its own without Python, and does the main job there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from tests.processes import no_own_network

ROOT = Path(__file__).parent.parent.parent
BUILD = ROOT / "deployments" / "archive" / "build.py"
UNIT = ROOT / "deployments" / "systemd" / "dwcp-manager.service"

_REASON = no_own_network()
pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(bool(_REASON), reason=_REASON),
]

ENTER = 'mount --bind /dev "$1/dev" && mount -t proc proc "$1/proc" && exec chroot "$@"'
SYSTEM = ("libz.so.*", "ld-*", "libc.so.*", "libm.so.*", "libdl.so.*", "libpthread.so.*", "librt.so.*", "libutil.so.*")


class Root:
    """A directory with the C library, zlib and what was unpacked in its /opt, as / of programs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name in ("dev", "proc", "tmp", "opt", "lib64", "lib"):
            (directory / name).mkdir()
        libraries = Path("/lib", f"{sys.implementation._multiarch}")  # type: ignore[attr-defined]
        (directory / str(libraries)[1:]).mkdir()
        for pattern in SYSTEM:
            for file in libraries.glob(pattern):
                shutil.copy(file, directory / str(file)[1:])
        for loader in (*Path("/lib64").glob("ld-*"), *Path("/lib").glob("ld-*")):
            shutil.copy(loader, directory / str(loader)[1:])

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """With an empty environment, as a service has nearly."""
        inside = ["unshare", "--mount", "sh", "-c", ENTER, "sh", str(self.directory), *command]
        return subprocess.run(
            inside, capture_output=True, text=True, check=False, env={"PATH": "/usr/sbin:/usr/bin:/bin"}
        )

    def succeeds(self, *command: str) -> str:
        done = self.run(*command)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("dist")
    done = subprocess.run([sys.executable, BUILD, directory], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


@pytest.fixture(scope="module")
def root(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Root:
    made = Root(tmp_path_factory.mktemp("root"))
    with tarfile.open(archive) as file:
        file.extractall(made.directory / "opt", filter="tar")
    return made


def test_it_holds_what_a_node_needs_and_nothing_of_where_it_was_built(archive: Path, root: Root) -> None:
    with tarfile.open(archive) as file:
        members = file.getmembers()
    assert {member.name.partition("/")[0] for member in members} == {"dwcp"}
    assert {(member.uid, member.uname) for member in members} == {(0, "root")}
    opt = root.directory / "opt" / "dwcp"
    assert {path.name for path in opt.iterdir()} == {
        *("bin", "lib", "docs", "deployments", "examples"),
        *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE"),
    }
    assert (opt / "lib" / "libraries" / "dwcp" / "dashboard" / "assets" / "index.html").exists()
    locked = dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "requirements" / "run.lock").read_text(), re.MULTILINE))
    installed = {
        tuple(path.name.removesuffix(".dist-info").split("-", 1)) for path in opt.glob("lib/libraries/*.dist-info")
    } - {("dwcp", version("dwcp"))}
    assert installed
    assert {(name.replace("_", "-"), number) for name, number in installed} <= locked.items()
    texts = (path for path in opt.rglob("*") if path.is_file() and path.suffix in ("", ".json", ".txt", ".md", ".toml"))
    assert [path for path in texts if str(ROOT).encode() in path.read_bytes()] == []


def test_the_unit_starts_what_is_in_it(root: Root) -> None:
    start = re.search(r"^ExecStart=(\S+)", UNIT.read_text(), re.MULTILINE)
    assert start is not None
    assert root.succeeds(start[1], "--version").startswith("dwcp-manager, version ")


def test_it_says_what_is_wrong_with_a_configuration(root: Root) -> None:
    (root.directory / "tmp" / "bad.yaml").write_text("transport: {max_streams: many}\n")
    done = root.run("/opt/dwcp/bin/dwcp-manager", "--config", "/tmp/bad.yaml", "--validate")
    assert (done.returncode, done.stdout) == (2, "")
    assert "/tmp/bad.yaml:1:" in done.stderr


def test_two_nodes_of_it_do_the_main_job(root: Root) -> None:
    """Its programs find each other, all codecs and the delta encoder in it, and warn of nothing on the way."""
    dwcp = "/opt/dwcp/bin/dwcp"
    root.succeeds(dwcp, "lab", "up", "--dir", "/tmp/lab")
    try:
        one, two = (f"/tmp/lab/{name}/config.yaml" for name in ("node1", "node2"))
        for _ in range(2):
            root.succeeds(dwcp, "send", "--config", one, "/opt/dwcp/docs", "node2:inbox/docs")
        received = root.directory / "tmp/lab/node2/inbox/docs/operations.md"
        assert received.read_bytes() == (ROOT / "docs" / "operations.md").read_bytes()
        status = yaml.safe_load(root.succeeds(dwcp, "status", "--json", "--config", two))
        assert status["health"]["status"] == "healthy"
        assert {"compression", "transport", "http"} <= status["health"]["components"].keys()
    finally:
        root.succeeds(dwcp, "lab", "down", "/tmp/lab")
    for name in ("node1", "node2"):
        log = (root.directory / "tmp/lab" / name / "manager.log").read_text()
        assert [line for line in log.splitlines() if not line.startswith("{")] == []
        assert '"level": "error"' not in log
