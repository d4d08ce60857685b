"""Small objects that change one at a time: what they have in common goes once."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from dwcp.hde.dictionary import train
from dwcp.store.dictionaries import DIRECTORY, MOST, Dictionaries, Learned
from tests.support import Pair

WORDS = ("alpha", "beta", "gamma", "delta", "status", "running", "node", "volume", "claim", "ready")


def an_object(rng: random.Random) -> bytes:
    document = {
        "name": f"{rng.choice(WORDS)}-{rng.randrange(10**6)}",
        "labels": {word: rng.choice(WORDS) for word in rng.sample(WORDS, 5)},
        "spec": {"replicas": rng.randrange(9), "image": f"registry/{rng.choice(WORDS)}:{rng.randrange(99)}"},
        "status": {"conditions": [{"type": word, "since": f"2026-11-0{rng.randrange(9)}"} for word in WORDS[:6]]},
    }
    return json.dumps(document, indent=2).encode()


def write(directory: Path, seed: int, count: int) -> None:
    directory.mkdir(exist_ok=True)
    rng = random.Random(seed)
    for number in range(count):
        (directory / f"{number}.json").write_bytes(an_object(rng))


def change(directory: Path, seed: int) -> None:
    (directory / f"{seed}.json").write_bytes(an_object(random.Random(1000 + seed)))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    write(tmp_path / "tree", 1, 200)
    return tmp_path / "tree"


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    pair = Pair(tmp_path)
    yield pair
    pair.close()


def send(pair: Pair, tree: Path) -> int:
    """Bytes on the wire."""
    sent = pair.send(tree, "inbox/tree").wire_bytes
    for path in tree.iterdir():
        assert (pair.inbox / "tree" / path.name).read_bytes() == path.read_bytes()
    return sent


def files(pair: Pair, node: str, kind: str) -> list[Path]:
    return sorted((pair.directory / node / DIRECTORY).glob(f"*/{kind}-*"))


def learn(pair: Pair, tree: Path) -> int:
    """Bytes on the wire of a changed object without a dictionary; afterwards the receiver holds one."""
    send(pair, tree)
    without = []
    for seed in range(1, 30):
        change(tree, seed)
        sent = send(pair, tree)
        if files(pair, "b", "held"):
            return max(without)
        without.append(sent)
    raise AssertionError("nobody thinks that a dictionary pays")


def test_what_small_objects_have_in_common_goes_once(pair: Pair, tree: Path) -> None:
    without = learn(pair, tree)
    for seed in range(50, 55):
        change(tree, seed)
        assert send(pair, tree) < without - 100


def test_a_receiver_that_lost_it_asks_again_and_gets_it_once_more(pair: Pair, tree: Path) -> None:
    without = learn(pair, tree)
    (held,) = files(pair, "b", "held")
    for content in (None, b"nonsense", bytes(1000)):
        held.unlink()
        if content is not None:
            held.write_bytes(content)
        change(tree, 60)
        tree.joinpath("61.json").write_bytes(b"" if content is None else content)
        send(pair, tree)
        change(tree, 62)
        send(pair, tree)
        change(tree, 63)
        assert send(pair, tree) < without - 100
    assert files(pair, "b", "held") == [held]


def test_what_was_learned_may_be_damaged(pair: Pair, tree: Path) -> None:
    learn(pair, tree)
    (own,) = files(pair, "a", "own")
    for content in (b"", b"\xff" * 100, own.read_bytes()[:5000]):
        own.write_bytes(content)
        for seed in range(70, 90):
            change(tree, seed)
            send(pair, tree)
        assert msgspec.msgpack.decode(own.read_bytes(), type=Learned).offered > 0


@pytest.mark.parametrize("off", ["a", "b"])
def test_either_end_may_do_without(tmp_path: Path, tree: Path, off: str) -> None:
    pair = Pair(tmp_path, compression={"enable_dictionary": off == "a"})
    try:
        compression = pair.config.compression.model_copy(update={"enable_dictionary": off == "b"})
        config = pair.config.model_copy(update={"compression": compression})
        for seed in range(20):
            change(tree, seed)
            pair.send(tree, "inbox/tree", config)
        assert not files(pair, "b", "held")
        assert not files(pair, "a", "own")
    finally:
        pair.close()


def test_a_get_learns_as_well(pair: Pair, tree: Path, tmp_path: Path) -> None:
    send(pair, tree)
    for seed in range(1, 30):
        change(pair.inbox / "tree", seed)
        pair.get("inbox/tree", tmp_path / "back")
        if files(pair, "a", "held"):
            break
    change(pair.inbox / "tree", 80)
    pair.get("inbox/tree", tmp_path / "back")
    assert (tmp_path / "back" / "80.json").read_bytes() == (pair.inbox / "tree" / "80.json").read_bytes()
    assert files(pair, "a", "held")
    assert files(pair, "b", "own")


def test_no_peer_fills_the_state_directory(tmp_path: Path) -> None:
    store = Dictionaries(tmp_path, "a")
    for seed in range(MOST + 10):
        rng = random.Random(seed)
        found = train([an_object(rng) for _ in range(100)])
        assert found is not None
        store.hold(found)
    assert len(list((tmp_path / DIRECTORY / "a").iterdir())) == MOST
