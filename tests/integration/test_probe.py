"""The look at a peer: a block through a data connection and back, by the rules of any other session."""

from __future__ import annotations

import threading

import pytest

from dwcp.errors import AuthenticationError, IntegrityError, ProtocolError, TemporaryError, TimeoutExpired
from dwcp.transfer import probe as probing
from dwcp.transfer.channel import Channel
from dwcp.transfer.client import _node
from dwcp.transfer.node import Node
from dwcp.transfer.probe import probe
from dwcp.transfer.session import Dialled, confirm_stream, dial_session, dial_stream
from dwcp.wire import frames
from dwcp.wire import messages as m
from dwcp.wire.handshake import PROBE
from tests.support import Pair, Proxy, wait_until


def test_a_block_goes_there_and_comes_back(pair: Pair) -> None:
    seen: list[bytes] = []

    def watch(data: bytes, offset: int, inbound: bool) -> bytes:
        seen.append(data)
        return data

    proxy = Proxy(pair.port, watch)
    assert 0 < probe(_node(pair.client_config(proxy.port)), "b", 5.0) < 5
    proxy.close()
    blocks = [data for data in seen if frames.MAGIC + bytes([m.Probe.kind]) in data]
    assert sum(map(len, blocks)) > 2 * m.PROBE_SIZE, "each way"
    wait_until(lambda: pair.server.counters().sessions == 0, "nothing stays")
    assert pair.server.counters().refused == 0
    assert not pair.board.recent(), "it is no transfer"


def test_a_peer_that_does_not_know_of_probes_is_looked_at_all_the_same(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    introduction = Node.introduction

    def older(node: Node, *arguments: object) -> object:
        made = introduction(node, *arguments)  # type: ignore[arg-type]
        return type(made)(made.node, made.key, made.nonce, made.sign, made.certificate, ())

    with monkeypatch.context() as patch:
        patch.setattr(Node, "introduction", older)
        patch.setattr(probing, "_block", lambda *_: pytest.fail("it would not be understood"))
        assert probe(_node(pair.config), "b", 5.0) > 0


@pytest.mark.parametrize("harm", ["silent", "cut"])
def test_a_path_that_carries_no_blocks_is_found(pair: Pair, harm: str) -> None:
    """Small frames pass, as on a path that swallows full segments."""

    def swallow(data: bytes, offset: int, inbound: bool) -> bytes | None:
        return data if len(data) < m.PROBE_SIZE else b"" if harm == "silent" else None

    proxy = Proxy(pair.port, swallow)
    with pytest.raises(TimeoutExpired if harm == "silent" else TemporaryError):
        probe(_node(pair.client_config(proxy.port)), "b", 0.5)
    proxy.close()


def test_a_peer_that_gives_back_something_else_is_found(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    def lie(stream: Channel) -> None:
        stream.send(m.Joined())
        stream.max_body = m.PROBE_SIZE
        stream.receive()
        stream.send(m.Probe(), b"something else")

    monkeypatch.setattr("dwcp.transfer.server.answer_probe", lie)
    with pytest.raises(IntegrityError, match="does not give back the block"):
        probe(_node(pair.config), "b", 5.0)


def _dialled(pair: Pair) -> tuple[Node, str, Dialled]:
    node = _node(pair.config)
    address, expected = node.address_of("b")
    session = dial_session(node, address, expected)
    assert PROBE in session.features
    return node, address, session


def test_a_probe_obeys_the_rules_of_data_connections(pair: Pair) -> None:
    """One at a time, each number once, none where a transfer is, no more than so many bytes."""
    node, address, session = _dialled(pair)
    first = dial_stream(node, address, session, 7, probe=True)
    confirm_stream(first)
    for number in (7, 8):
        refused = dial_stream(node, address, session, number, probe=True)
        with pytest.raises(AuthenticationError):
            confirm_stream(refused)
        refused.link.close()
    first.send(m.Probe(), bytes(m.PROBE_SIZE + 1))
    first.max_body = m.PROBE_SIZE
    answer, _ = first.receive()
    assert isinstance(answer, m.Error)
    assert "are allowed" in answer.message
    first.link.close()
    session.channel.send(m.Open(transfer="x", direction="put", path=b"inbox/x"))
    assert isinstance(session.channel.receive()[0], m.Opened)
    late = dial_stream(node, address, session, 9, probe=True)
    with pytest.raises(AuthenticationError):
        confirm_stream(late)
    for channel in (late, session.channel):
        channel.link.close()
    wait_until(lambda: pair.server.counters().sessions == 0, "nothing stays")


def test_a_probe_that_is_none_is_a_breach(pair: Pair) -> None:
    node, address, session = _dialled(pair)
    stream = dial_stream(node, address, session, 0, probe=True)
    confirm_stream(stream)
    stream.send(m.Bye())
    answer, _ = stream.receive()
    assert isinstance(answer, m.Error)
    assert answer.code == ProtocolError.code
    for channel in (stream, session.channel):
        channel.link.close()


def test_probes_of_many_at_once_do_not_disturb_each_other(pair: Pair) -> None:
    node, failed = _node(pair.config), []

    def look() -> None:
        try:
            probe(node, "b", 10.0)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=look) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
