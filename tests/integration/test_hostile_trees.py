"""Peers and neighbours that mean harm with what a tree has beside content: owners, bits, attributes, devices, links."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dwcp.hde.codecs import encode_names
from dwcp.transfer.channel import Channel
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
