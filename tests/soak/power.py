"""The power goes while versions are made: what was written and not synced is gone, and every listed version is whole.

    unshare --mount python -m tests.soak.power --cuts 100 --seed 4711

A real file system loses it: XFS is shut down without its log being flushed, unmounted, and mounted again. In a mount
namespace of its own (root), for a namespace that somebody else makes meanwhile would keep the dead file system alive.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import fcntl
import os
import random
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from dwcp.errors import DwcpError
from tests.soak.managed import change, picture
from tests.unit.test_versions import Export, stored

GOINGDOWN = 0x8004587D
"""XFS_IOC_GOINGDOWN of xfs_fs.h: _IOR('X', 125, __u32)."""
NO_LOG_FLUSH = 2
"""XFS_FSOP_GOING_FLAGS_NOLOGFLUSH: as a power cut."""
KEEP = 30
"""Versions that stay, so that the image does not fill up."""


class PowerError(Exception):
    """What a run has to end without."""


class Disk:
    """An image with a file system that can lose its power."""

    def __init__(self, directory: Path) -> None:
        self.image = directory / "image"
        self.top = directory / "mounted"
        self.top.mkdir()
        with self.image.open("wb") as file:
            file.truncate(400 * 2**20)
        subprocess.run(["mkfs.xfs", "-q", self.image], check=True)

    @contextlib.contextmanager
    def mounted(self) -> Iterator[None]:
        subprocess.run(["mount", "-o", "loop", self.image, self.top], check=True)
        try:
            yield
        finally:
            subprocess.run(["umount", self.top], check=True)

    def cut(self) -> None:
        fd = os.open(self.top, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, GOINGDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(fd)


@contextlib.contextmanager
def opened(disk: Disk) -> Iterator[Export]:
    export = Export(disk.top / "export")
    export.now = datetime.datetime.now(datetime.UTC)
    try:
        yield export
    finally:
        export.store.close()
        export.root.close()


def run(directory: Path, cuts: int, seed: int) -> str:
    """What was done, in a line. Raises PowerError."""
    disk, chance = Disk(directory), random.Random(seed)
    promised: dict[str, str] = {}
    checked = 0
    for number in range(cuts):
        with disk.mounted(), opened(disk) as export:
            begun = _make_until_the_cut(disk, export, chance, number, promised)
        with disk.mounted(), opened(disk) as export:
            listed = {version.id: picture(stored(version)) for version in export.store.find()}
            unsure = listed.keys() - promised.keys()
            # one at the most was being made
            if len(unsure) > 1 or not all(listed[name] in begun for name in unsure):
                raise PowerError(f"cut {number} (seed {seed}): {unsure} is nothing that the tree was")
            changed = [name for name, state in promised.items() if listed.get(name, state) != state]
            # those that the rules let go went in the order of their age
            gone = [name for name in list(promised)[-(KEEP - 1) :] if name not in listed]
            if changed or gone:
                raise PowerError(f"cut {number} (seed {seed}): {changed} are not what they were, {gone} are gone")
            if export.check().damaged:
                raise PowerError(f"cut {number} (seed {seed}): a listed version is damaged")
            promised = listed
            checked += len(listed)
    return f"{cuts} cuts, {checked} versions compared after them (seed {seed})"


def _make_until_the_cut(
    disk: Disk, export: Export, chance: random.Random, number: int, promised: dict[str, str]
) -> set[str]:
    """Adds the versions that were said to be made, and gives back what the tree was when one was begun."""
    begun = set()
    timer = threading.Timer(chance.uniform(0.1, 0.7), disk.cut)
    timer.start()
    try:
        while True:
            change(export.tree, chance, number)
            state = picture(export.tree)
            begun.add(state)
            promised[export.make(last=KEEP).version.id] = state
    except (OSError, DwcpError):
        # the disk is gone
        timer.join()
    return begun


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cuts", type=int, default=100)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        try:
            print(run(Path(directory), options.cuts, options.seed))
        except PowerError as error:
            print(f"versions failed: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
