"""Connections that are begun before it is known what they are for."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from dwcp.errors import UnreachableError
from dwcp.links.endpoints import LinkSettings
from dwcp.transfer import ahead
from dwcp.transfer.ahead import Ahead
from tests.support import Pair


@pytest.fixture
def settings(pair: Pair) -> LinkSettings:
    return pair.server.node.link_settings()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(10)
        yield listening


def address(listener: socket.socket) -> str:
    return f"127.0.0.1:{listener.getsockname()[1]}"


def test_each_is_had_once_and_those_that_are_left_end(listener: socket.socket, settings: LinkSettings) -> None:
    spare = Ahead(address(listener), settings)
    assert spare.take() is None
    spare.begin(3)
    accepted = [listener.accept()[0] for _ in range(3)]
    taken = spare.take()
    assert taken is not None
    spare.close()
    assert spare.take() is None
    taken.sendall(b"x")
    first = sorted(sock.recv(1) for sock in accepted)
    assert first == [b"", b"", b"x"]
    for sock in (taken, *accepted):
        sock.close()


def test_one_that_was_silent_for_long_is_not_relied_on(
    listener: socket.socket, settings: LinkSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    spare = Ahead(address(listener), settings)
    spare.begin(1)
    accepted, _ = listener.accept()
    monkeypatch.setattr(ahead, "FRESH", 0.0)
    assert spare.take() is None
    assert accepted.recv(1) == b"", "it ends"
    accepted.close()


def test_a_failure_is_told_to_who_takes_it(settings: LinkSettings) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        spare = Ahead(f"127.0.0.1:{closed.getsockname()[1]}", settings)
        spare.begin(2)
        with pytest.raises(UnreachableError, match="cannot connect"):
            spare.take()
        spare.close()


def test_one_that_leaves_without_a_word_is_no_failure(pair: Pair) -> None:
    refused = pair.server.counters().refused
    socket.create_connection(("127.0.0.1", pair.port)).close()
    (pair.directory / "file").write_bytes(b"x")
    pair.send(pair.directory / "file", "inbox/file")
    assert pair.server.counters().refused == refused
