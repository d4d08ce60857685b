"""A machine for the runbook: its own network, processes and root directory, over the real one and gone afterwards."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.processes import clean_environment

ROOT = Path(__file__).parent.parent.parent
HOME = "/root/dwcp"
"""What the operator has unpacked, and stands in."""
HOSTS = ("consensus-node-01", "compression-api-01", "peer-node-01")
_PATHS = (ROOT, Path(sys.prefix), Path(sys.base_prefix))
LIMIT = 120.0
"""Seconds for one command."""
# sudo is not everywhere, and root needs none
_SUDO = 'sudo() { if [ "$1" = -u ]; then local who=$2; shift 2; runuser -u "$who" -- "$@"; else "$@"; fi; }\n'
_SETUP = r"""
set -e
upper=$1 root=$1/root tmp=$2; shift 2
mount -t tmpfs tmpfs "$upper"
mkdir "$upper/changes" "$upper/work" "$root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$upper/changes,workdir=$upper/work" "$root"
for shared in /dev /sys "$@"; do mount --rbind "$shared" "$root$shared"; done
mount -t proc proc "$root/proc"
mount --bind "$tmp" "$root/tmp"
ip link set lo up
exec chroot "$root" sh -c 'echo ready; exec cat'
"""


class NoMachineError(Exception):
    """It cannot be had here."""


class Machine:
    """`with Machine(directory) as machine:`; commands run as root in HOME."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._device = Path("/").stat().st_dev
        self._holder: subprocess.Popen[str] | None = None
        self.pid = 0
        """Of its first process, by which its namespaces are found."""
        self._inside: list[str] = []
        self._service: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Machine:
        upper, tmp = self._directory / "upper", self._directory / "tmp"
        upper.mkdir()
        tmp.mkdir()
        # dwcp runs as a user of its own
        tmp.chmod(0o1777)
        elsewhere = [path for path in _PATHS if path.stat().st_dev != self._device]
        namespaces = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child"]
        self._holder = subprocess.Popen(
            [*namespaces, "sh", "-c", _SETUP, "sh", str(upper), str(tmp), *map(str, elsewhere)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != "ready\n":
            self.__exit__()
            raise NoMachineError(
                "needs an overlay over the root directory, and namespaces for network, processes and mounts"
            )
        children = Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children").read_text().split()
        self.pid = int(children[0])
        self._inside = ["nsenter", f"--target={self.pid}", "--net", "--mount", "--pid", "--root", "--wd"]
        self._unpack()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._holder is not None:
            # and with the first process of its namespace everything in it
            self._holder.kill()
            self._holder.wait()
            for pipe in (self._holder.stdin, self._holder.stdout):
                if pipe is not None:
                    pipe.close()
        if self._service is not None:
            self._service.wait()

    def _unpack(self) -> None:
        # all of this is only done to the overlay: first, nothing of an installation on the real machine may be there
        self.check("test $(stat --file-system --format=%T /) = overlayfs")
        self.check(f"rm -rf /var/lib/dwcp /opt/dwcp /etc/dwcp /srv/dwcp /backup {HOME}; ! id dwcp 2>&1 || userdel dwcp")
        # the service's user has to come to Python
        closed = {str(parent) for path in _PATHS for parent in path.parents if parent.stat().st_dev == self._device}
        self.check(f"chmod o+x {' '.join(sorted(closed))}")
        hosts = "".join(f"; echo 127.0.0.1 {host} >> /etc/hosts" for host in HOSTS)
        self.check(f"mkdir -p /etc/dwcp /etc/prometheus /backup {hosts}")
        self.check(f"mkdir {HOME} && cp -r {ROOT}/scripts {HOME}/")
        self.install(HOME)
        self.install("/usr/local/bin")

    def install(self, directory: str = "/opt/dwcp/bin") -> None:
        """The programs under test."""
        for name, module in (("dwcp", "cli.main"), ("dwcp-manager", "manager.daemon")):
            self.write(f"{directory}/{name}", f"#!{sys.executable}\nfrom dwcp.{module} import main\nmain()\n")
            self.check(f"chmod 755 {directory}/{name}")

    def run(self, text: str) -> subprocess.CompletedProcess[str]:
        """In bash, as the operator's shell would."""
        script = f"{_SUDO}cd {HOME} 2>/dev/null\n{text}\n"
        return subprocess.run(
            [*self._inside, "bash", "-c", script],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=LIMIT,
            env=self._environment,
        )

    @property
    def _environment(self) -> dict[str, str]:
        return clean_environment(
            PYTHONPATH=str(ROOT / "src"),
            PYTHONDONTWRITEBYTECODE="1",
            HOME="/root",
            TMPDIR="/tmp",
            PATH="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )

    def check(self, text: str) -> str:
        """Standard output of what must succeed."""
        done = self.run(text)
        assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"
        return done.stdout

    def write(self, path: str, content: str) -> None:
        inside = Path(self._directory / "tmp" / "file")
        inside.write_text(content)
        self.check(f"mkdir -p $(dirname {path}) && cp /tmp/file {path}")

    def start(self) -> None:
        """What systemd would: the unit's ExecStart as its user; until it answers."""
        unit = self.check("cat /etc/systemd/system/dwcp-manager.service")
        values: dict[str, str] = dict(line.split("=", 1) for line in unit.splitlines() if "=" in line)
        with (self._directory / "log").open("ab") as log:
            command = ["runuser", "-u", values["User"], "--", *values["ExecStart"].split()]
            options: dict[str, Any] = {"stdout": log, "stderr": log, "env": self._environment}
            self._service = subprocess.Popen([*self._inside, *command], **options)
        deadline = time.monotonic() + LIMIT
        while self.run("curl --silent --fail http://localhost:8080/live").returncode:
            assert self._service.poll() is None and time.monotonic() < deadline, self.log()
        # it has to have looked at all of its components once
        while '"starting"' in self.run("curl --silent http://localhost:8080/health").stdout:
            assert time.monotonic() < deadline, self.log()

    def reload(self) -> None:
        """As the unit's ExecReload, which systemd waits for: until the manager has said that it is done."""
        done = "configuration was read again"
        before = self._whole_log().count(done)
        self.check("pkill -HUP -x dwcp-manager")
        deadline = time.monotonic() + LIMIT
        while self._whole_log().count(done) == before:
            assert time.monotonic() < deadline, self.log()

    def stop(self) -> None:
        if self._service is not None:
            self.check("pkill -TERM -x dwcp-manager || true")
            assert self._service.wait(LIMIT) == 0, self.log()
            self._service = None

    def log(self) -> str:
        return self._whole_log()[-4000:]

    def _whole_log(self) -> str:
        return (self._directory / "log").read_text()
