"""Peers and neighbours that mean harm with what a tree has beside content: owners, bits, attributes, devices, links."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dwcp.errors import DwcpError, PartialError
from dwcp.hde.codecs import encode_names
from dwcp.transfer.channel import Channel
from dwcp.transfer.removal import Removal
from dwcp.wire import messages as m
from dwcp.wire.tree import ALL_KEPT, MAX_XATTRS_SIZE, TreeOptions
from tests.hostile import Attacker, EvilServer, pack
from tests.rsync import acl, needs_root
from tests.support import Pair, wait_until

TEN = b"0123456789"
ALL = TreeOptions(keep=list(ALL_KEPT))
USER = 1000


@pytest.fixture(params=[False, True], ids=["plain", "privileged"])
def export(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path, privileged=request.param)
    yield made
    made.close()


@pytest.mark.parametrize(
    "entry",
    [
        m.Entry(path=b"../device", type="char", device=(1, 3)),
        m.Entry(path=b"/dev/device", type="block", device=(1, 3)),
        m.Entry(path=b"d", type="char", device=(2**32 - 1, 2**32 - 1)),
        m.Entry(path=b"d", type="block", device=(2**12, 0)),
        m.Entry(path=b"f", type="file", xattrs=[(b"system.nfs4_acl", b"x")]),
        m.Entry(path=b"f", type="file", xattrs=[(b"user.nul\0", b"x")]),
        m.Entry(path=b"f", type="file", xattrs=[(b"", b"x")]),
        m.Entry(path=b"f", type="file", xattrs=[(b"com.apple.quarantine", b"x")]),
        m.Entry(path=b"f", type="file", xattrs=[(b"system.posix_acl_access", b"")]),
        m.Entry(path=b"f", type="file", xattrs=[(b"system.posix_acl_access", acl() + b"x")]),
        m.Entry(path=b"f", type="file", xattrs=[(b"system.posix_acl_access", b"\xff" * 12)]),
        m.Entry(path=b"d", type="dir", xattrs=[(b"/../../x", b"x")]),
    ],
    ids=lambda entry: f"{entry.type}-{entry.device}-{entry.xattrs[:1]!r:.40}",
)
def test_what_cannot_be_is_refused_and_nothing_is_made_of_it(export: Pair, entry: m.Entry) -> None:
    with Attacker(export) as evil:
        evil.open(path=b"inbox/x", tree=ALL)
        evil.announce(m.Entry(path=b"", type="dir", mode=0o755), entry)
        evil.send(m.Scanned(count=2, complete=True))
        error = evil.answer(m.Error, m.Finished)
        assert isinstance(error, m.Error)
        assert error.code == "refused"
    wait_until(lambda: not export.board.live(), "it is ended")
    left = export.inbox / "x" / os.fsdecode(entry.path.rpartition(b"/")[2])
    assert not left.exists() or os.listxattr(left) == []
    assert not left.is_char_device()
    assert not left.is_block_device()


@pytest.mark.parametrize(
    "entry",
    [
        m.Entry(path=b"f", type="file", uid=2**32 - 1, gid=2**32 - 1, mode=2**32 - 1),
        m.Entry(path=b"f", type="file", xattrs=[(b"user.x", bytes(65536))] * 3),
        m.Entry(path=b"f", type="file", xattrs=[(b"system.posix_acl_access", acl((2, 6, 2**32 - 1)))]),
        m.Entry(path=b"f", type="file", xattrs=[(b"user.%d" % n, b"") for n in range(1024)]),
        m.Entry(path=b"f", type="socket", mode=0o7777, size=0),
        m.Entry(path=b"f", type="fifo", xattrs=[(b"user.x", b"not on a FIFO")]),
    ],
    ids=lambda entry: f"{entry.type}-{entry.uid}-{entry.xattrs[:1]!r:.40}",
)
def test_what_no_file_system_takes_ends_well(export: Pair, entry: m.Entry) -> None:
    with Attacker(export) as evil:
        evil.open(path=b"inbox/x", tree=ALL)
        evil.announce(m.Entry(path=b"", type="dir", mode=0o755), entry)
        evil.send(m.Scanned(count=2, complete=True))
        assert evil.answer(m.Finished, m.Error)
        evil.send(m.Bye())
    wait_until(lambda: not export.board.live(), "it is ended")
    assert list((export.inbox / "x").iterdir()) in ([], [export.inbox / "x" / "f"])


@pytest.mark.parametrize(
    "entry",
    [
        m.Entry(path=b"f", type="file", xattrs=[(b"user.%d" % n, bytes(65000)) for n in range(5)]),
        m.Entry(path=b"f", type="fifo", size=1),
        m.Entry(path=b"f", type="char", size=1),
    ],
)
def test_what_no_sender_says_ends_the_transfer(pair: Pair, entry: m.Entry) -> None:
    assert MAX_XATTRS_SIZE < 5 * 65000
    with Attacker(pair) as evil:
        evil.open(tree=ALL)
        evil.announce(entry)
        error = evil.ending()
        assert error is not None
        assert error.code == "protocol"


@needs_root
def test_nobody_gives_away_rights_in_an_export_that_is_not_privileged(pair: Pair) -> None:
    with Attacker(pair) as evil:
        evil.open(path=b"inbox/x", tree=ALL)
        evil.announce(
            m.Entry(path=b"", type="dir", mode=0o7777, uid=USER, gid=USER),
            m.Entry(path=b"f", type="file", size=10, mode=0o7777, uid=USER, gid=USER, xattrs=[(b"trusted.x", b"")]),
            m.Entry(path=b"s", type="symlink", link=b"f", uid=USER, gid=USER, xattrs=[(b"trusted.x", b"")]),
            m.Entry(path=b"p", type="fifo", mode=0o7777, uid=USER, gid=USER),
        )
        evil.receive(m.Need)
        evil.join().send(*pack((1, TEN)))
        evil.send(m.Scanned(count=4, complete=True))
        assert len(evil.receive(m.Finished).notes) == 4
        evil.send(m.Bye())
    for path in (pair.inbox / "x", *(pair.inbox / "x").iterdir()):
        status = path.lstat()
        assert (status.st_uid, status.st_gid) == (os.geteuid(), os.getegid())
        assert path.is_symlink() or not status.st_mode & 0o7000
        assert os.listxattr(path, follow_symlinks=False) == []


@needs_root
def test_without_being_asked_nothing_is_kept_whatever_a_peer_sends(tmp_path: Path) -> None:
    pair = Pair(tmp_path, privileged=True)
    try:
        with Attacker(pair) as evil:
            evil.open(path=b"inbox/x")
            evil.announce(
                m.Entry(path=b"", type="dir", mode=0o755),
                m.Entry(path=b"f", type="file", mode=0o6755, uid=USER, gid=USER, xattrs=[(b"user.x", b"")]),
            )
            evil.send(m.Scanned(count=2, complete=True))
            assert evil.receive(m.Finished).notes == []
            evil.send(m.Bye())
        status = (pair.inbox / "x" / "f").stat()
        assert (status.st_uid, status.st_mode & 0o7777) == (os.geteuid(), 0o755)
        assert os.listxattr(pair.inbox / "x" / "f") == []
    finally:
        pair.close()


def test_more_names_of_users_than_any_sender_tells_end_the_transfer(pair: Pair) -> None:
    with Attacker(pair) as evil:
        evil.open(tree=ALL)
        plain = m.encode_entries([m.Entry(path=b"", type="dir")])

        for number in range(66):
            entries = [m.Entry(path=b"" if not number else b"d%d" % number, type="dir")]
            plain = m.encode_entries(entries)
            users = [(number * 1000 + n + 1, b"nobody-has-this-name") for n in range(1000)]
            evil.send(m.Entries(first=number, count=1, size=len(plain), users=users), encode_names(plain))
        error = evil.ending()
        assert error is not None
        assert error.code == "protocol"


def test_a_server_cannot_give_what_was_not_asked_for(pair: Pair, tmp_path: Path) -> None:
    def serve(server: EvilServer, channel: Channel, request: m.Message) -> None:
        channel.send(m.Opened())
        entries = [
            m.Entry(path=b"", type="dir", mode=0o7755),
            m.Entry(path=b"f", type="file", mode=0o6755, uid=USER, gid=USER, xattrs=[(b"user.x", b"")]),
        ]
        plain = m.encode_entries(entries)

        channel.send(m.Entries(first=0, count=2, size=len(plain)), encode_names(plain))
        channel.send(m.Scanned(count=2, complete=True))
        while not isinstance(channel.receive()[0], m.Bye):
            pass

    with EvilServer(pair, serve) as evil:
        pair.do(lambda peer: peer.get("inbox/x", tmp_path / "got"), evil.config)
    status = (tmp_path / "got" / "f").stat()
    assert (status.st_uid, status.st_mode & 0o7777) == (os.geteuid(), 0o755)
    assert os.listxattr(tmp_path / "got" / "f") == []


def test_a_file_with_a_name_outside_of_the_export_is_not_changed_there(pair: Pair, tmp_path: Path) -> None:
    """Somebody at the receiver gave it a second name; mode and time follow, but for the name in the export only."""
    outside = tmp_path / "outside"
    for content in (TEN, os.urandom(300_000)):
        (tmp_path / "file").write_bytes(content)
        (tmp_path / "file").chmod(0o644)
        pair.send(tmp_path / "file", "inbox/file")
        os.link(pair.inbox / "file", outside)
        before = outside.stat()
        (tmp_path / "file").chmod(0o777)
        assert pair.send(tmp_path / "file", "inbox/file").verified
        os.utime(tmp_path / "file", ns=(1, 2))
        assert pair.send(tmp_path / "file", "inbox/file").verified
        assert (pair.inbox / "file").read_bytes() == content
        assert ((pair.inbox / "file").stat().st_mode & 0o777, (pair.inbox / "file").stat().st_mtime_ns) == (0o777, 2)
        assert (outside.stat().st_mode, outside.stat().st_mtime_ns) == (before.st_mode, before.st_mtime_ns)
        outside.unlink()


# -- links that lead outside, and what is deleted, replaced or read meanwhile ------------------------------------------


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """Must be as it was afterwards."""
    made = tmp_path / "outside"
    (made / "sub").mkdir(parents=True)
    (made / "secret").write_bytes(TEN)
    (made / "sub" / "secret").write_bytes(TEN)
    (made / ".dwcpignore").write_bytes(b"*\n")

    def all_of_it() -> list[tuple[str, int, int, int]]:
        found = [(path, path.lstat()) for path in sorted([made, *made.rglob("*")])]
        return [(str(path), status.st_mode, status.st_mtime_ns, status.st_nlink) for path, status in found]

    before = all_of_it()
    yield made
    assert all_of_it() == before


def test_deletions_do_not_follow_links(pair: Pair, tmp_path: Path, outside: Path) -> None:
    (tmp_path / "tree" / "sub").mkdir(parents=True)
    (pair.inbox / "copy" / "deep").mkdir(parents=True)
    for link in ("gone", "sub", "deep/gone"):
        (pair.inbox / "copy" / link).symlink_to(outside)
    for before in (False, True):
        pair.send(tmp_path / "tree", "inbox/copy", delete=True, tree=TreeOptions(delete_before=before))
        assert [path.name for path in (pair.inbox / "copy").iterdir()] == ["sub"]
        (pair.inbox / "copy" / "gone").symlink_to(outside)


def test_a_directory_that_becomes_a_link_while_it_is_deleted_is_not_followed(
    pair: Pair, tmp_path: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tree").mkdir()
    (pair.inbox / "copy" / "gone" / "sub").mkdir(parents=True)
    (pair.inbox / "copy" / "gone" / "sub" / "secret").write_bytes(TEN)
    look = Removal._look_into

    def swap(self: Removal, visit: Any, kept: Any) -> Any:
        found = look(self, visit, kept)
        gone = pair.inbox / "copy" / "gone"
        if visit.parts[-1] == b"gone" and not gone.is_symlink():
            gone.rename(tmp_path / "moved")
            gone.symlink_to(outside)
        return found

    monkeypatch.setattr(Removal, "_look_into", swap)
    with pytest.raises(PartialError, match="never followed"):
        pair.send(tmp_path / "tree", "inbox/copy", delete=True)


@pytest.mark.parametrize("directory", [b"link", b"link/sub", b"real/link"])
def test_backups_do_not_follow_links(pair: Pair, tmp_path: Path, outside: Path, directory: bytes) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "secret").write_bytes(b"new")
    (pair.inbox / "copy" / "real").mkdir(parents=True)
    (pair.inbox / "copy" / "link").symlink_to(outside)
    (pair.inbox / "copy" / "real" / "link").symlink_to(outside)
    (pair.inbox / "copy" / "secret").write_bytes(b"old")
    options = TreeOptions(backup=True, backup_dir=directory, backup_suffix=b"")
    with pytest.raises(PartialError, match="never followed"):
        pair.send(tmp_path / "tree", "inbox/copy", tree=options)
    assert (pair.inbox / "copy" / "secret").read_bytes() == b"old", "what has no backup is not replaced"


@pytest.mark.parametrize("name", [b".dwcpignore", b".rules"])
def test_rules_outside_are_not_read(pair: Pair, tmp_path: Path, outside: Path, name: bytes) -> None:
    """Neither by a sender, which would tell by what it leaves out, nor by a receiver that deletes."""
    tree = pair.inbox / "tree"
    tree.mkdir()
    (tree / "a").touch()
    (tree / os.fsdecode(name)).symlink_to(outside / ".dwcpignore")
    options = TreeOptions(filters=[b": .rules"])
    with pytest.raises(DwcpError, match="never followed"):
        pair.get("inbox/tree", tmp_path / "got", tree=options)
    (tmp_path / "empty").mkdir()
    # the receiver's own tree has it: what it would protect is not known, so nothing is deleted
    with pytest.raises(PartialError, match="never followed"):
        pair.send(tmp_path / "empty", "inbox/tree", delete=True, tree=options)
    assert (tree / "a").exists()


def test_a_tree_deeper_than_anything_is_made_and_deleted(pair: Pair, tmp_path: Path) -> None:
    """More levels than Python has frames or a process descriptors; a name of them can still be said."""
    depth = 1100
    with Attacker(pair) as evil:
        evil.open(path=b"inbox/x")
        for first in range(0, depth, 100):
            paths = [b"/".join([b"d"] * level) for level in range(first, first + 100)]
            evil.announce(*(m.Entry(path=path, type="dir", mode=0o755, mtime_ns=1) for path in paths), first=first)
        evil.send(m.Scanned(count=depth, complete=True))
        assert evil.receive(m.Finished).verified
        evil.send(m.Bye())
    (tmp_path / "empty").mkdir()
    for options in (TreeOptions(dry_run=True), TreeOptions()):
        result = pair.send(tmp_path / "empty", "inbox/x", delete=True, tree=options)
        assert result.deleted == depth - 1
    assert list((pair.inbox / "x").iterdir()) == []


@pytest.mark.parametrize("kind", ["file", "fifo", "symlink"])
def test_a_name_that_is_first_something_and_then_a_directory(pair: Pair, outside: Path, kind: str) -> None:
    first = {
        "file": m.Entry(path=b"d", type="file", mode=0o644),
        "fifo": m.Entry(path=b"d", type="fifo", mode=0o644),
        "symlink": m.Entry(path=b"d", type="symlink", link=os.fsencode(outside)),
    }[kind]
    for swapped in (False, True):
        directory = [m.Entry(path=b"d", type="dir", mode=0o755), m.Entry(path=b"d/secret", type="file", mode=0o644)]
        entries = [*directory, first] if swapped else [first, *directory]
        with Attacker(pair) as evil:
            evil.open(path=b"inbox/x", tree=ALL, delete=True)
            evil.announce(m.Entry(path=b"", type="dir", mode=0o755), *entries)
            evil.send(m.Scanned(count=4, complete=True))
            evil.answer(m.Finished, m.Error)
        wait_until(lambda: not pair.board.live(), "it is ended")


def test_hard_links_lead_nowhere_but_into_the_tree(pair: Pair, tmp_path: Path, outside: Path) -> None:
    (pair.inbox / "x").mkdir()
    (pair.inbox / "x" / "link").symlink_to(outside)
    (pair.inbox / "other").write_bytes(b"of another tree")
    with Attacker(pair) as evil:
        evil.open(path=b"inbox/x", tree=ALL)
        evil.announce(
            m.Entry(path=b"", type="dir", mode=0o755),
            m.Entry(path=b"a", type="hardlink", link=b"link/secret"),
            m.Entry(path=b"b", type="hardlink", link=b"link/sub/secret"),
            m.Entry(path=b"c", type="hardlink", link=b"link"),
        )
        evil.send(m.Scanned(count=4, complete=True))
        finished = evil.receive(m.Finished)
        assert len(finished.errors) == 2
        evil.send(m.Bye())
    assert (pair.inbox / "x" / "c").is_symlink()
    with Attacker(pair) as evil:
        evil.open(path=b"inbox/x", tree=ALL)
        evil.announce(m.Entry(path=b"a", type="hardlink", link=b"../other"))
        error = evil.answer(m.Error)
        assert isinstance(error, m.Error)
        assert error.code == "refused"


@pytest.mark.parametrize(
    "message",
    [
        m.Names(count=1, size=4, last=True, complete=True),
        m.Names(count=5, size=4, last=True, complete=True),
        m.Names(count=0, size=1, last=True, complete=True),
    ],
)
@pytest.mark.parametrize("asked", [False, True])
def test_names_that_do_not_belong(pair: Pair, message: m.Names, asked: bool) -> None:
    (pair.inbox / "x").mkdir()
    (pair.inbox / "x" / "stays").touch()
    with Attacker(pair) as evil:
        evil.open(path=b"inbox/x", delete=True, tree=TreeOptions(delete_before=asked))
        names = encode_names(m.encode_names([b".."]))
        evil.send(message, names)
        evil.send(message, names)
        error = evil.ending()
        assert error is not None
        assert error.code in ("protocol", "refused")
    if message.count:
        assert (pair.inbox / "x" / "stays").exists()


def test_patterns_of_a_peer_do_not_keep_us_busy(pair: Pair) -> None:
    directory = pair.inbox
    for _ in range(15):
        directory = directory / ("a" * 200)
        directory.mkdir()
    with Attacker(pair) as evil:
        rules = [b"- " + b"*a" * 90 + b"b", b"- " + b"**a" * 90 + b"b", b"- " + b"a*/" * 15 + b"**b"] * 5
        evil.open(direction="get", path=b"inbox", tree=TreeOptions(filters=rules))
        assert evil.receive(m.Scanned).count == 16
