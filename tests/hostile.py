"""Peers that mean harm: one that dials with a proved identity and says what it likes, one that answers like a server.

`Watch` is what every attack is measured by: afterwards an honest transfer works, and descriptors, threads and memory
are back where they were.
"""

from __future__ import annotations

import gc
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from dwcp.errors import DwcpError, UnreachableError
from dwcp.hde import codecs
from dwcp.hde.hashes import XXH3
from dwcp.links.tcp import TcpLink
from dwcp.transfer.channel import Channel
from dwcp.transfer.client import _node
from dwcp.transfer.session import Dialled, Heartbeat, confirm_stream, dial_session, dial_stream, respond
from dwcp.wire import messages as m
from dwcp.wire.frames import MAX_BODY
from tests.support import Pair, random_file, wait_until

MIB = 2**20
M = TypeVar("M", bound=m.Message)


class Watch:
    """Takes the measure of a `pair` at rest; `check` compares and lets an honest peer try."""

    def __init__(self, pair: Pair, *, memory: int = 48 * MIB) -> None:
        self.pair = pair
        self.memory = memory
        self._honest()
        # the honest session's parting may take a moment
        wait_until(lambda: pair.server.counters().sessions == 0, "the honest session ends")
        gc.collect()
        self.descriptors, self.threads = _descriptors(), threading.active_count()
        Path("/proc/self/clear_refs").write_text("5")
        self.peak = _peak()

    def check(self, patience: float = 8.0) -> None:
        grown = _peak() - self.peak
        pair = self.pair
        wait_until(lambda: not pair.board.live(), "its transfers end", patience)
        wait_until(lambda: pair.server.counters().sessions == 0, "its sessions end", patience)
        self._honest()
        gc.collect()
        wait_until(lambda: _descriptors() <= self.descriptors, "descriptors are given back", patience)
        wait_until(lambda: threading.active_count() <= self.threads, "threads end", patience)
        assert grown < self.memory, f"{grown / MIB:.0f} MiB more were in use at one moment"

    def _honest(self) -> None:
        source = self.pair.directory / "honest"
        content = random_file(source, 3_000_000, seed=int.from_bytes(os.urandom(4), "big"))
        self.pair.send(source, "inbox/honest")
        assert (self.pair.inbox / "honest").read_bytes() == content
        self.pair.get("inbox/honest", self.pair.directory / "honest-back")
        assert (self.pair.directory / "honest-back").read_bytes() == content


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def _peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


class Attacker:
    """A session of the trusted node `a` whose other end says what it likes."""

    def __init__(self, pair: Pair) -> None:
        self._node = _node(pair.config)
        self._address = f"127.0.0.1:{pair.port}"
        self.session: Dialled = dial_session(self._node, self._address, pair.identities["b"].fingerprint)
        self.channel = self.session.channel
        self.channel.max_body = MAX_BODY
        self.streams: list[Channel] = []
        self._heartbeat = Heartbeat(self.channel, 1.0)

    def __enter__(self) -> Attacker:
        self._heartbeat.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._heartbeat.__exit__()
        for channel in (*self.streams, self.channel):
            channel.link.close()

    def send(self, message: m.Message, body: bytes | None = None) -> None:
        self.channel.send(message, body)

    def open(self, direction: str = "put", path: bytes = b"inbox/x", transfer: str = "evil", **options: Any) -> None:
        self.send(m.Open(transfer=transfer, direction=direction, path=path, **options))
        self.receive(m.Opened)

    def announce(self, *entries: m.Entry, first: int = 0) -> None:
        plain = m.encode_entries(list(entries))
        self.send(m.Entries(first=first, count=len(entries), size=len(plain)), codecs.encode_names(plain))

    def receive(self, kind: type[M]) -> M:
        """The next one of this kind; all others are dropped, an ERROR that was not asked for fails the test."""
        while True:
            message, _ = self.channel.receive()
            if isinstance(message, kind):
                return message
            assert not isinstance(message, m.Error), message

    def join(self, number: int = 0) -> Channel:
        channel = dial_stream(self._node, self._address, self.session, number)
        self.streams.append(channel)
        confirm_stream(channel)
        return channel

    def ending(self) -> m.Error | None:
        """What the server says in the end: its first ERROR, or None where it just closes."""
        error = None
        try:
            while True:
                message, _ = self.channel.receive()
                if isinstance(message, m.Error) and error is None:
                    error = message
                if isinstance(message, m.Bye):
                    return error
        except (EOFError, UnreachableError):
            return error

    def answer(self, *kinds: type[m.Message]) -> m.Message:
        """The first message of one of these kinds."""
        while True:
            message, _ = self.channel.receive()
            if isinstance(message, kinds):
                return message


def block(file: int, content: bytes, leaf: int = 0, **changes: object) -> tuple[m.Block, bytes]:
    """A plain BLOCK with its body, and what was changed of it."""
    fields: dict[str, object] = {"file": file, "leaf": leaf, "size": len(content), "codec": 0}
    return m.Block(**{**fields, "digest": XXH3.digest(content), **changes}), content  # type: ignore[arg-type]


def pack(*files: tuple[int, bytes], **changes: object) -> tuple[m.Pack, bytes]:
    body = b"".join(content for _, content in files)
    packed = [m.Packed(number, len(content), XXH3.digest(content)) for number, content in files]
    fields: dict[str, object] = {"codec": 0, "size": len(body), "files": packed}
    return m.Pack(**{**fields, **changes}), body  # type: ignore[arg-type]


def file_end(file: int, content: bytes, **changes: object) -> m.FileEnd:
    """Of a file of at most one leaf."""
    root = XXH3.root(XXH3.digest(content) if content else b"", len(content))
    return m.FileEnd(**{"file": file, "size": len(content), "root": root, **changes})  # type: ignore[arg-type]


class EvilServer:
    """Listens as node `b` with its true identity; `behave` gets each session once OPEN or LIST came."""

    def __init__(self, pair: Pair, behave: Callable[[EvilServer, Channel, m.Message], None]) -> None:
        self.pair = pair
        self.behave = behave
        self.streams: list[Channel] = []
        self.joined = threading.Event()
        self._node = pair.server.node
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.config = pair.client_config(self._listener.getsockname()[1])
        self._threads = [threading.Thread(target=self._accept)]
        self._links: list[TcpLink] = []
        self._threads[0].start()

    def __enter__(self) -> EvilServer:
        return self

    def __exit__(self, *exc: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for link in self._links:
            link.shutdown()
        for thread in self._threads:
            thread.join()
        for link in self._links:
            link.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            link = TcpLink(sock, read_timeout=5, write_timeout=5)
            self._links.append(link)
            thread = threading.Thread(target=self._serve, args=(Channel(link),))
            self._threads.append(thread)
            thread.start()

    def _serve(self, channel: Channel) -> None:
        try:
            message, head, _ = channel.receive_head()
            if isinstance(message, m.Join):
                channel.send(m.Joined())
                self.streams.append(channel)
                self.joined.set()
                return
            assert isinstance(message, m.Hello)
            welcome = m.Welcome(session=bytes(16), join_key=bytes(32))
            respond(self._node, self._node.credentials(), channel, message, head, welcome)
            while isinstance(request := channel.receive()[0], m.Ping):
                pass
            if not isinstance(request, m.Bye):
                self.behave(self, channel, request)
        except (DwcpError, EOFError):
            # the client has had enough: that is what the test is about
            return
        finally:
            if channel not in self.streams:
                channel.link.shutdown()
