"""`make dist`: everything that a node needs but the kernel and the C library, in one archive to unpack in /opt.

dwcp/bin/            dwcp and dwcp-manager, links into lib
dwcp/lib/            the programs, the interpreter, all libraries and their licences (PyInstaller)
dwcp/deployments/    units, rules, dashboard, sysctl and manifests
dwcp/docs/, ...      what a release has beside its programs
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
DOCUMENTS = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE")
DIRECTORIES = ("docs", "deployments", "examples")
PROGRAMS = ("dwcp", "dwcp-manager")


def build(work: Path) -> Path:
    """The directory `dwcp` below `work`, as it will be in /opt. Raises CalledProcessError."""
    command = [sys.executable, "-m", "PyInstaller", "--noconfirm", "--log-level=WARN", str(HERE / "dwcp.spec")]
    places = [f"--distpath={work / 'programs'}", f"--workpath={work / 'work'}"]
    subprocess.run([*command, *places], check=True)
    tree = work / "dwcp"
    (tree / "bin").mkdir(parents=True)
    (work / "programs" / "lib").rename(tree / "lib")
    for name in ("direct_url.json", "INSTALLER", "RECORD", "REQUESTED"):
        # how and from where they were installed here
        for file in (tree / "lib").glob(f"libraries/*.dist-info/{name}"):
            file.unlink()
    for program in PROGRAMS:
        (tree / "bin" / program).symlink_to(f"../lib/{program}")
    for name in DOCUMENTS:
        shutil.copy(ROOT / name, tree)
    for name in DIRECTORIES:
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "api-token"))
    return tree


def pack(tree: Path, archive: Path) -> None:
    """All of root's, for everybody to read, in the order of names."""

    def owned(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = "root"
        entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
        entry.mtime = int(os.environ.get("SOURCE_DATE_EPOCH", entry.mtime))
        return entry

    with tarfile.open(archive, "w:gz", compresslevel=6) as file:
        # tarfile goes through a directory in the order of names
        file.add(tree, tree.name, filter=owned)


def main() -> None:
    parser = argparse.ArgumentParser(description="Builds dwcp-VERSION-linux-MACHINE.tar.gz.")
    parser.add_argument("directory", type=Path, help="where to put it")
    directory: Path = parser.parse_args().directory
    directory.mkdir(parents=True, exist_ok=True)
    archive = directory / f"dwcp-{version('dwcp')}-linux-{platform.machine()}.tar.gz"
    with tempfile.TemporaryDirectory(prefix="dwcp-dist-") as work:
        pack(build(Path(work)), archive)
    print(archive)


if __name__ == "__main__":
    main()
