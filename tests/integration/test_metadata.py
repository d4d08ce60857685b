"""What `-a` keeps: owners, all mode bits, ACLs, extended attributes, special files, holes; and what it says if not."""

from __future__ import annotations

import grp
import json
import os
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dwcp import TreeOptions
from dwcp.errors import DwcpError, PartialError
from dwcp.wire import handshake
from dwcp.wire.tree import ALL_KEPT
from tests.processes import clean_environment
from tests.rsync import COMPARE, acl, differences, make_full_tree, needs_root, needs_rsync
from tests.support import Pair, make_tree, random_file

ALL = TreeOptions(keep=list(ALL_KEPT))
AS_NOBODY = (
    *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"),
    *("--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"),
)
"""A prefix. Able to read what it is not allowed to, for the interpreter may be in root's home."""


@pytest.fixture
def privileged(tmp_path: Path) -> Iterator[Pair]:
    (tmp_path / "nodes").mkdir()
    made = Pair(tmp_path / "nodes", privileged=True)
    yield made
    made.close()


@needs_root
@needs_rsync
def test_all_of_a_tree_arrives_and_comes_back(privileged: Pair, tmp_path: Path) -> None:
    source, copy = tmp_path / "tree", privileged.inbox / "copy"
    source.mkdir()
    make_full_tree(source)
    result = privileged.send(source, "inbox/copy", tree=ALL)
    assert [line for line in result.warnings if "kept" in line] == []
    assert differences(source, copy) == []
    again = privileged.send(source, "inbox/copy", tree=ALL)
    assert again.unchanged == again.files
    privileged.get("inbox/copy", tmp_path / "back", tree=ALL)
    assert differences(source, tmp_path / "back") == []


@needs_root
@needs_rsync
def test_metadata_alone_follows(privileged: Pair, tmp_path: Path) -> None:
    source, copy = tmp_path / "tree", privileged.inbox / "copy"
    source.mkdir()
    make_full_tree(source)
    privileged.send(source, "inbox/copy", tree=ALL)
    before = (copy / "sub" / "deep" / "large").stat().st_ino
    os.chown(source / "sub" / "deep" / "large", 77, 78)
    os.chown(source / "link", 5, 6, follow_symlinks=False)
    os.chown(source / "fifo", 7, 8)
    os.removexattr(source / "small", "user.comment")
    os.setxattr(source / "text", "user.large", b"another")
    os.setxattr(source / "sub", "user.more", b"1")
    os.removexattr(source / "script", "system.posix_acl_access")
    os.setxattr(source / "empty", "system.posix_acl_access", acl((2, 4, 99)))
    os.removexattr(source / "sub" / "deep", "system.posix_acl_default")
    (source / "program").chmod(0o755)
    (source / "sticky").chmod(0o755)
    (source / "null").unlink()
    os.mknod(source / "null", 0o20666, os.makedev(1, 5))
    assert differences(source, copy)
    privileged.send(source, "inbox/copy", tree=ALL)
    assert differences(source, copy) == []
    assert (copy / "sub" / "deep" / "large").stat().st_ino == before, "nothing of its content was written"


@needs_root
@needs_rsync
@pytest.mark.skipif(shutil.which("debootstrap") is None, reason="debootstrap is not installed")
def test_a_debian_root_file_system_is_identical(privileged: Pair, tmp_path: Path) -> None:
    root, copy = tmp_path / "root", privileged.inbox / "copy"
    made = subprocess.run(["debootstrap", "--variant=minbase", "stable", str(root)], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"debootstrap cannot make a root file system here: {(made.stdout + made.stderr)[-200:]}")
    privileged.send(root, "inbox/copy", tree=ALL, delete=True)
    assert differences(root, copy) == []
    again = privileged.send(root, "inbox/copy", tree=ALL, delete=True)
    assert again.unchanged == again.files
    assert differences(root, copy) == []


@needs_root
def test_an_export_that_is_not_privileged_keeps_nobodys_rights(pair: Pair, tmp_path: Path) -> None:
    source = tmp_path / "tree"
    source.mkdir()
    make_full_tree(source)
    with pytest.raises(PartialError) as caught:
        pair.send(source, "inbox/copy", tree=ALL)
    result = caught.value.result
    because = "export 'inbox' is not privileged (storage.exports)"
    assert sorted(result.errors) == [  # type: ignore[attr-defined]
        f"the device 'disk' is not made: {because}",
        f"the device 'null' is not made: {because}",
    ]
    notes = [line for line in result.warnings if "kept" in line]  # type: ignore[attr-defined]
    assert [line.split(" of ")[0] for line in notes] == [
        "groups",
        "owners",
        "security.* and trusted.* attributes",
        "set-user-id, set-group-id and sticky bits",
    ]
    assert all(because in line for line in notes)
    copy = pair.inbox / "copy"
    assert {path.lstat().st_uid for path in copy.rglob("*")} == {os.geteuid()}
    assert not any(path.lstat().st_mode & 0o7000 for path in copy.rglob("*"))
    assert os.listxattr(copy / "program") == os.listxattr(copy / "link", follow_symlinks=False) == []
    assert os.getxattr(copy / "small", "user.comment") == b"a small file"
    assert os.getxattr(copy / "script", "system.posix_acl_access")
    assert stat.S_ISFIFO((copy / "fifo").stat().st_mode)


@pytest.fixture
def home() -> Iterator[Path]:
    """Of nobody: pytest's own directories are closed to others."""
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        yield Path(made)


@needs_root
@needs_rsync
def test_a_user_gets_what_a_user_may_have_and_reads_what_not(privileged: Pair, tmp_path: Path, home: Path) -> None:
    """As with rsync(1), which says nothing about it."""
    source = tmp_path / "tree"
    source.mkdir()
    make_full_tree(source)
    privileged.send(source, "inbox/copy", tree=ALL)
    config = json.loads(privileged.config.model_dump_json(exclude_defaults=True))
    config["storage"]["state_dir"] = str(home / "state")
    shutil.copytree(privileged.directory / "a", home / "state")
    (home / "config.yaml").write_text(json.dumps(config))
    for path in (home, *home.rglob("*")):
        os.chown(path, 65534, 65534)
    command = [sys.executable, "-m", "dwcp.cli", "get", "-a", "--config", str(home / "config.yaml")]
    done = subprocess.run(
        [*AS_NOBODY, *command, "b:inbox/copy", str(home / "back")],
        capture_output=True,
        text=True,
        cwd=home,
        env={**clean_environment(), "HOME": str(home)},
    )
    assert done.returncode == 23, done.stderr
    for line in (
        "failed: the device 'disk' is not made: the receiver does not run as root",
        "failed: the device 'null' is not made: the receiver does not run as root",
    ):
        assert line in done.stderr
    for what in (
        "owners",
        "groups",
        "set-user-id, set-group-id and sticky bits",
        "security.* and trusted.* attributes",
    ):
        assert f"warning: {what} of " in done.stderr
    left = differences(source, home / "back", *COMPARE, "--no-o", "--no-g")
    assert sorted(line.split()[1] for line in left) == ["disk", "link", "null", "program", "sticky/", "text"]


def test_owners_go_by_name_and_by_number_when_asked() -> None:
    from dwcp.files.attributes import Attributes
    from dwcp.wire.tree import Entry

    daemon = pwd.getpwnam("daemon")
    attributes = Attributes(["owner", "group", "acls"], privileged=True)
    entry = Entry(
        path=b"x", type="file", uid=54321, gid=54322, xattrs=[(b"system.posix_acl_access", acl((2, 6, 54321)))]
    )
    assert (attributes._user(entry), attributes._group(entry)) in ((54321, 54322), (-1, -1))
    group = grp.getgrgid(daemon.pw_gid).gr_name
    assert attributes.learn([(54321, b"daemon"), (0, b"daemon"), (7, b"a\0b")], [(54322, group.encode())])
    if attributes.full:
        assert (attributes._user(entry), attributes._group(entry)) == (daemon.pw_uid, daemon.pw_gid)
    assert attributes._xattrs(entry) == [(b"system.posix_acl_access", acl((2, 6, daemon.pw_uid)))]
    assert attributes._mapping.user(0) == 0, "the superuser is the superuser everywhere"
    assert attributes._mapping.user(7) == 7


def test_holes_are_neither_sent_nor_written(pair: Pair, tmp_path: Path) -> None:
    source = tmp_path / "tree"
    source.mkdir()
    for name, size, data_at in (
        ("large", 50_000_000, 30_000_001),
        ("small", 100_000, 70_000),
        ("end", 9_000_000, None),
    ):
        with (source / name).open("wb") as file:
            file.truncate(size)
            if data_at is not None:
                file.seek(data_at)
                file.write(b"data")
    result = pair.send(source, "inbox/copy")
    for path in source.iterdir():
        copy = pair.inbox / "copy" / path.name
        assert copy.read_bytes() == path.read_bytes()
        assert copy.stat().st_blocks <= path.stat().st_blocks, path.name
    assert result.wire_bytes < 200_000
    with (source / "large").open("r+b") as file:
        file.seek(1_000_000)
        file.write(random_file(tmp_path / "noise", 10_000))
    pair.send(source, "inbox/copy")
    copy = pair.inbox / "copy" / "large"
    assert copy.read_bytes() == (source / "large").read_bytes()
    assert copy.stat().st_blocks <= (source / "large").stat().st_blocks


def test_holes_are_made_where_an_earlier_try_has_written(tmp_path: Path) -> None:
    from dwcp.files.sparse import write_sparse

    content = random_file(tmp_path / "file", 64 * 4096)
    wanted = content[:4096] + bytes(8192) + content[12288:20000] + bytes(4096 * 4) + b"x"
    with (tmp_path / "file").open("r+b") as file:
        write_sparse(file.fileno(), memoryview(wanted), 0, fresh=False)
        os.ftruncate(file.fileno(), len(wanted))
    assert (tmp_path / "file").read_bytes() == wanted
    assert (tmp_path / "file").stat().st_blocks * 512 < len(wanted)


def test_a_peer_of_before_gets_what_it_knows_and_no_more_is_asked_of_it(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handshake, "FEATURES", ("delta", "blake3", "leaf"))
    make_tree(tmp_path / "tree")
    assert pair.send(tmp_path / "tree", "inbox/copy").verified
    with pytest.raises(DwcpError, match="b is older than what was asked for"):
        pair.send(tmp_path / "tree", "inbox/copy", tree=ALL)
