"""Versions at a peer: kept, listed, restored bit for bit, checked, and closed to everybody else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dwcp.errors import IntegrityError, NotFoundError, RefusedError, UsageError
from tests.support import Pair
from tests.unit.test_versions import fill, picture


def _source(pair: Pair) -> Path:
    source = pair.directory / "db"
    source.mkdir()
    fill(source)
    return source


def _ship(pair: Pair, source: Path, keep: str = "all") -> str:
    async def act(peer: object) -> str:
        await peer.send(source, "inbox/db", delete=True)  # type: ignore[attr-defined]
        kept = await peer.keep_version("inbox/db", keep)  # type: ignore[attr-defined]
        return kept.version.id  # type: ignore[no-any-return]

    return str(pair.do(act))


def test_each_version_restores_bit_for_bit(pair: Pair, tmp_path: Path) -> None:
    source, pictures, names = _source(pair), [], []
    for change in (b"one", b"two", b"three"):
        (source / "a").write_bytes(change * 1000)
        (source / change.decode()).write_bytes(os.urandom(1000))
        pictures.append(picture(source))
        names.append(_ship(pair, source))
    listed = pair.do(lambda peer: peer.versions("inbox/db"))
    assert [version.id for version in listed] == names
    for name, expected in zip(names, pictures, strict=True):
        target = tmp_path / "back" / name
        target.parent.mkdir(exist_ok=True)
        pair.do(lambda peer, name=name, target=target: peer.restore("inbox/db", target, version=name))
        assert picture(target) == expected
        assert [path.name for path in target.parent.iterdir() if path.name.startswith(".")] == []
    latest = tmp_path / "latest"
    pair.do(lambda peer: peer.restore("inbox/db", latest))
    assert picture(latest) == pictures[-1]


def test_a_file_restores_too(pair: Pair, tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(os.urandom(3_000_000))

    async def act(peer: object) -> None:
        await peer.send(image, "inbox/disk.img")  # type: ignore[attr-defined]
        await peer.keep_version("inbox/disk.img")  # type: ignore[attr-defined]
        await peer.restore("inbox/disk.img", tmp_path / "again.img")  # type: ignore[attr-defined]

    pair.do(act)
    assert (tmp_path / "again.img").read_bytes() == image.read_bytes()


def test_the_rules_decide_what_stays(pair: Pair) -> None:
    source = _source(pair)
    for number in range(4):
        (source / "a").write_bytes(b"%d" % number)
        _ship(pair, source, "last 2")
    assert len(pair.do(lambda peer: peer.versions("inbox/db"))) == 2
    with pytest.raises(UsageError, match="no rule"):
        pair.do(lambda peer: peer.keep_version("inbox/db", "some"))


def test_what_is_not_there_is_said(pair: Pair, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no versions of 'db'"):
        pair.do(lambda peer: peer.versions("inbox/db"))
    with pytest.raises(NotFoundError):
        pair.do(lambda peer: peer.keep_version("inbox/db"))
    _ship(pair, _source(pair))
    with pytest.raises(NotFoundError, match="no version 'x' of inbox/db; the newest are: 2"):
        pair.do(lambda peer: peer.restore("inbox/db", tmp_path / "new", version="x"))
    with pytest.raises(UsageError, match="exists"):
        pair.do(lambda peer: peer.restore("inbox/db", tmp_path))


def test_a_read_only_export_keeps_none(pair: Pair) -> None:
    (pair.inbox / "db").mkdir()
    for act in ("keep_version", "check_versions"):
        with pytest.raises(RefusedError, match="read-only"):
            pair.do(lambda peer, act=act: getattr(peer, act)("fixed/db"))


def test_versions_of_another_peer_can_be_read_and_not_touched(pair: Pair, tmp_path: Path) -> None:
    source = _source(pair)
    _ship(pair, source)
    about = next((pair.inbox / ".dwcp" / "versions").iterdir()) / "about"
    from dwcp.store.records import seal

    about.write_bytes(seal(b'{"path":"db","owner":"somebody"}'))
    for act in ("keep_version", "check_versions"):
        with pytest.raises(RefusedError, match="kept for somebody, not for a"):
            pair.do(lambda peer, act=act: getattr(peer, act)("inbox/db"))
    assert len(pair.do(lambda peer: peer.versions("inbox/db"))) == 1
    pair.do(lambda peer: peer.restore("inbox/db", tmp_path / "back"))
    assert picture(tmp_path / "back") == picture(source)


@pytest.mark.parametrize("path", ["inbox/.dwcp/versions", "inbox/../x", "inbox", "inbox/db/../../x"])
def test_no_path_leads_out(pair: Pair, path: str) -> None:
    with pytest.raises((RefusedError, UsageError)):
        pair.do(lambda peer: peer.keep_version(path))


def test_damage_shows_in_a_check_and_in_a_restore(pair: Pair, tmp_path: Path) -> None:
    source = _source(pair)
    name = _ship(pair, source)
    for copy in (pair.inbox / ".dwcp" / "versions").glob(f"*/{name}/tree/sub/b"):
        with copy.open("r+b") as file:
            file.write(b"ROTTEN")
        os.utime(copy, ns=(0, (source / "sub" / "b").stat().st_mtime_ns))
    with pytest.raises(IntegrityError, match="'sub/b': has other content"):
        pair.do(lambda peer: peer.restore("inbox/db", tmp_path / "back"))
    assert not (tmp_path / "back").exists()
    checked = pair.do(lambda peer: peer.check_versions("inbox/db"))
    assert (checked.healed, checked.damaged) == (1, 0)
    # the same command goes on with what it has
    pair.do(lambda peer: peer.restore("inbox/db", tmp_path / "back"))
    assert picture(tmp_path / "back") == picture(source)
