"""What rsync(1) says of two trees, and trees with all that a file system can hold."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
from pathlib import Path

import pytest

from tests.support import make_tree

needs_rsync = pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is not installed")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

COMPARE = ("-aHAXn", "--delete", "--checksum", "--itemize-changes")


def differences(source: Path, copy: Path, *options: str) -> list[str]:
    """The lines of a dry run that compares everything: none where nothing differs."""
    command = ["rsync", *(options or COMPARE), f"{source}/", f"{copy}/"]
    done = subprocess.run(command, capture_output=True, text=True, errors="surrogateescape", check=True)
    return done.stdout.splitlines()


def acl(*named: tuple[int, int, int], group: int = 4) -> bytes:
    """Of a file or directory: owner rw, group and mask as given, others none, and `named` (tag, permissions, id)."""
    nobody = 2**32 - 1
    entries = [(1, 6, nobody), *(entry for entry in named if entry[0] == 2), (4, group, nobody)]
    entries += [*(entry for entry in named if entry[0] == 8), (16, 6, nobody), (32, 0, nobody)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def make_full_tree(root: Path) -> None:
    """As root: all that `-a` keeps."""
    make_tree(root)
    for number, name in enumerate(("small", "text", "sub", "sub/deep/large", "link", "empty", "sparse")):
        os.chown(root / name, 1000 + number, 2000 + number, follow_symlinks=False)
    (root / "program").write_text("#!/bin/sh\n")
    (root / "program").chmod(0o6755)
    (root / "sticky").mkdir()
    (root / "sticky").chmod(0o3777)
    os.setxattr(root / "small", "user.comment", b"a small file")
    os.setxattr(root / "text", "user.large", bytes(range(256)) * 4)
    os.setxattr(root / "sub", "user.of-a-directory", b"")
    os.setxattr(root / "text", "trusted.secret", b"\0\1")
    os.setxattr(root / "link", "trusted.of-a-symlink", b"x", follow_symlinks=False)
    os.setxattr(root / "program", "security.capability", bytes.fromhex("0100000200040000" + 24 * "0"))
    os.setxattr(root / "script", "system.posix_acl_access", acl((2, 6, 1234), (8, 4, 4321)))
    os.setxattr(root / "sub" / "deep", "system.posix_acl_default", acl((2, 6, 1234)))
    (root / "read-only").write_text("x")
    os.setxattr(root / "read-only", "user.x", b"y")
    (root / "read-only").chmod(0o400)
    os.mkfifo(root / "fifo", 0o640)
    os.mknod(root / "null", 0o20666, os.makedev(1, 3))
    os.mknod(root / "disk", 0o60660, os.makedev(7, 200))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fsencode(root / "socket"))
    os.link(root / "dangling", root / "sub" / "dangling too", follow_symlinks=False)
    os.link(root / "fifo", root / "sub" / "fifo too")
    for number, path in enumerate(sorted(root.rglob("*"), key=os.fsencode)):
        os.utime(path, ns=(10**18, 10**18 + number * 1_000_007), follow_symlinks=False)
    os.utime(root, ns=(10**18, 10**18 + 1))
