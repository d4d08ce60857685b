"""Copies that a sender keeps: the next version goes as segments, and nothing depends on a copy being right."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from dwcp.store import baselines
from dwcp.transfer.sender import Sender
from dwcp.wire import messages as m
from tests.support import Pair, Proxy, random_file

SIZE = 6_000_000
SMALL = SIZE // 20
"""More than the segments of an edit take, and much less than pages or chunks of it."""


def pair_of(tmp_path: Path, **settings: dict[str, object]) -> Pair:
    return Pair(tmp_path, storage={"keep_baselines": "always"} | settings.pop("storage", {}), **settings)


@pytest.fixture(autouse=True)
def a_disk_with_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "FREE", 0)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    pair = pair_of(tmp_path)
    yield pair
    pair.close()


@pytest.fixture
def resends(monkeypatch: pytest.MonkeyPatch) -> list[m.Resend]:
    """What receivers ask for again."""
    asked: list[m.Resend] = []
    resend = Sender._resend

    def note(sender: Sender, message: m.Resend) -> None:
        asked.append(message)
        resend(sender, message)

    monkeypatch.setattr(Sender, "_resend", note)
    return asked


def edit(path: Path, seed: int) -> bytes:
    """Small changes everywhere, so that no page stays what it was, and some bytes in front."""
    rng = random.Random(seed)
    content = bytearray(path.read_bytes())
    for at in range(0, len(content), 3000):
        content[at : at + 4] = rng.randbytes(4)
    content[:0] = rng.randbytes(10)
    path.write_bytes(content)
    return bytes(content)


def copies(pair: Pair, node: str = "a") -> list[Path]:
    return [path for path in (pair.directory / node / "baselines").glob("*/*") if not path.suffix]


@pytest.mark.parametrize("algorithm", ["auto", "prefix", "rsync", "xor", "bsdiff"])
def test_a_new_version_costs_little_where_every_page_changed(tmp_path: Path, algorithm: str) -> None:
    # bsdiff may take seconds, in which a stream says nothing
    pair = pair_of(tmp_path, compression={"delta_algorithm": algorithm}, transport={"read_timeout": 60.0})
    content = random_file(tmp_path / "image", SIZE)
    pair.send(tmp_path / "image", "inbox/image")
    (kept,) = copies(pair)
    assert kept.read_bytes() == content
    for seed in range(3):
        content = edit(tmp_path / "image", seed)
        result = pair.send(tmp_path / "image", "inbox/image")
        assert (pair.inbox / "image").read_bytes() == content
        assert kept.read_bytes() == content
        # the other two do not look at what a literal replaces, or only at the same place
        assert algorithm in ("rsync", "xor") or result.wire_bytes < SMALL
    assert pair.leftovers() == []
    pair.close()


def test_a_tree_keeps_a_copy_of_each_large_file(pair: Pair, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("one", "two"):
        random_file(tree / name, SIZE, seed=ord(name[0]))
    random_file(tree / "small", 100_000)
    pair.send(tree, "inbox/tree")
    assert len(copies(pair)) == 2
    expected = [edit(tree / name, 1) for name in ("one", "two")]
    assert pair.send(tree, "inbox/tree").wire_bytes < 2 * SMALL
    assert [(pair.inbox / "tree" / name).read_bytes() for name in ("one", "two")] == expected


def test_what_a_peer_gets_is_kept_for_it_too(pair: Pair, tmp_path: Path) -> None:
    random_file(pair.inbox / "image", SIZE)
    pair.get("inbox/image", tmp_path / "image")
    assert len(copies(pair, "b")) == 1
    content = edit(pair.inbox / "image", 1)
    result = pair.get("inbox/image", tmp_path / "image")
    assert (tmp_path / "image").read_bytes() == content
    assert result.wire_bytes < SMALL


@pytest.mark.parametrize("size", [1_000_000, SIZE - 1_500_000, SIZE + 2_500_000])
def test_a_version_of_another_size(pair: Pair, tmp_path: Path, size: int) -> None:
    content = random_file(tmp_path / "image", SIZE)
    pair.send(tmp_path / "image", "inbox/image")
    content = (content[100_000:] + content)[:size]
    (tmp_path / "image").write_bytes(content)
    assert pair.send(tmp_path / "image", "inbox/image").wire_bytes < SMALL
    assert (pair.inbox / "image").read_bytes() == content


def test_a_receiver_whose_version_was_changed_gets_what_was_sent(pair: Pair, tmp_path: Path) -> None:
    random_file(tmp_path / "image", SIZE)
    pair.send(tmp_path / "image", "inbox/image")
    with (pair.inbox / "image").open("r+b") as there:
        there.seek(3_000_000)
        there.write(b"somebody else was here")
    content = edit(tmp_path / "image", 1)
    pair.send(tmp_path / "image", "inbox/image")
    assert (pair.inbox / "image").read_bytes() == content
    content = edit(tmp_path / "image", 2)
    pair.send(tmp_path / "image", "inbox/image")
    assert (pair.inbox / "image").read_bytes() == content


def test_a_copy_that_is_wrong_where_nothing_was_compared_costs_a_second_try(
    pair: Pair, tmp_path: Path, resends: list[m.Resend]
) -> None:
    """The first leaf is the same in both versions; its copy is damaged, and content of it turns up in another leaf."""
    content = random_file(tmp_path / "image", SIZE)
    pair.send(tmp_path / "image", "inbox/image")
    (kept,) = copies(pair)
    damaged = bytearray(content)
    damaged[500_000:500_008] = b"damaged!"
    kept.write_bytes(damaged)
    moved = bytes(damaged[400_000:600_000])
    content = content[:4_000_000] + moved + content[4_200_000:]
    (tmp_path / "image").write_bytes(content)
    result = pair.send(tmp_path / "image", "inbox/image")
    assert result.verified and resends
    assert (pair.inbox / "image").read_bytes() == content


def test_without_its_description_a_copy_is_not_used(pair: Pair, tmp_path: Path) -> None:
    random_file(tmp_path / "image", SIZE)
    pair.send(tmp_path / "image", "inbox/image")
    (kept,) = copies(pair)
    kept.with_name(kept.name + ".json").write_text("{")
    content = edit(tmp_path / "image", 1)
    pair.send(tmp_path / "image", "inbox/image")
    assert (pair.inbox / "image").read_bytes() == content
    assert kept.read_bytes() == content


@pytest.mark.parametrize("storage", [{"keep_baselines": "never"}, {"keep_baselines": "far"}, {"baselines_limit": 0}])
def test_nothing_is_kept_where_it_is_not_wanted(tmp_path: Path, storage: dict[str, object]) -> None:
    pair = pair_of(tmp_path, storage=storage)
    random_file(tmp_path / "image", SIZE)
    pair.send(tmp_path / "image", "inbox/image")
    assert copies(pair) == []
    pair.close()


def test_the_oldest_copies_make_room(tmp_path: Path) -> None:
    pair = pair_of(tmp_path, storage={"baselines_limit": 2 * SIZE + SIZE // 2})
    for name in ("one", "two", "three"):
        random_file(tmp_path / name, SIZE, seed=ord(name[1]))
        pair.send(tmp_path / name, f"inbox/{name}")
    kept = {path.read_bytes() for path in copies(pair)}
    assert kept == {(tmp_path / name).read_bytes() for name in ("two", "three")}
    random_file(tmp_path / "huge", 3 * SIZE)
    pair.send(tmp_path / "huge", "inbox/huge")
    assert {path.read_bytes() for path in copies(pair)} == kept
    pair.close()


def test_nothing_is_kept_on_a_disk_that_is_nearly_full(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baselines, "FREE", 100)
    random_file(tmp_path / "image", SIZE)
    assert pair.send(tmp_path / "image", "inbox/image").verified
    assert copies(pair) == []


def test_a_cut_link_leaves_a_copy_that_serves_the_next_try(pair: Pair, tmp_path: Path) -> None:
    random_file(tmp_path / "image", SIZE)
    pair.send(tmp_path / "image", "inbox/image")
    rng = random.Random(5)
    content = bytearray((tmp_path / "image").read_bytes())
    for at in range(0, SIZE, 3000):
        content[at : at + 1000] = rng.randbytes(1000)
    (tmp_path / "image").write_bytes(content)
    cuts = iter([400_000, 700_000])
    limit = next(cuts)

    def cut(data: bytes, offset: int, to_server: bool) -> bytes | None:
        nonlocal limit
        if to_server and offset + len(data) > limit:
            limit = next(cuts, 2**60)
            return None
        return data

    with contextlib.closing(Proxy(pair.port, cut)) as proxy:
        pair.send(tmp_path / "image", "inbox/image", config=pair.client_config(proxy.port))
    assert (pair.inbox / "image").read_bytes() == content
    expected = edit(tmp_path / "image", 3)
    assert pair.send(tmp_path / "image", "inbox/image").wire_bytes < SMALL
    assert (pair.inbox / "image").read_bytes() == expected


def test_a_damaged_segment_goes_again(pair: Pair, tmp_path: Path, resends: list[m.Resend]) -> None:
    random_file(tmp_path / "image", SIZE)
    pair.send(tmp_path / "image", "inbox/image")
    content = edit(tmp_path / "image", 1)
    done = False

    def flip(data: bytes, offset: int, to_server: bool) -> bytes:
        nonlocal done
        if to_server and not done and len(data) > 3_000:
            done = True
            damaged = bytearray(data)
            damaged[-1000] ^= 1
            return bytes(damaged)
        return data

    with contextlib.closing(Proxy(pair.port, flip)) as proxy:
        result = pair.send(tmp_path / "image", "inbox/image", config=pair.client_config(proxy.port))
    assert result.verified and resends
    assert (pair.inbox / "image").read_bytes() == content
