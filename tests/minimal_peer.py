"""An initiator of the wire protocol, written from docs/protocol.md alone.

It shares no code with the package, so a document that leaves something out, or says it wrongly, fails the tests that
use this peer. It knows one data connection, whole leaves and no deltas: what the document calls a minimal peer.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import socket
import struct
import sys
from typing import Any

import msgspec
import xxhash
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

HELLO, HELLO_REPLY, AUTH, WELCOME, JOIN, JOINED, ERROR, PING, BYE = 1, 2, 3, 4, 5, 6, 7, 8, 10
LIST, LISTING, OPEN, OPENED = 16, 17, 20, 21
ENTRIES, SCANNED, BLOCK, PACK, FILE_END = 24, 25, 26, 27, 28
NEED, ACK, DONE, FINISHED = 32, 34, 36, 38
NONE, ZSTD, ZERO = 0, 1, 255
MIB = 2**20


class RemoteError(Exception):
    """What the other end said in an ERROR."""

    def __init__(self, head: dict[str, Any]) -> None:
        super().__init__(f"{head['code']}: {head['message']}")
        self.code = head["code"]


def frame(kind: int, head: Any, body: bytes = b"") -> bytes:
    raw = msgspec.msgpack.encode(head)
    body_hash = xxhash.xxh3_128_digest(body) if body else bytes(16)
    prefix = struct.pack(">2sBBII16s", b"DW", kind, 0, len(raw), len(body), body_hash) + xxhash.xxh3_64_digest(raw)
    return prefix + xxhash.xxh3_64_digest(prefix)[4:] + raw + body


class Connection:
    """Frames on one plain socket."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self._file = self._socket.makefile("rb")
        self.last_head = b""

    def send(self, kind: int, head: Any, body: bytes = b"") -> bytes:
        """The head as it travelled."""
        self._socket.sendall(frame(kind, head, body))
        return msgspec.msgpack.encode(head)

    def receive(self) -> tuple[int, Any, bytes]:
        """The next frame that is no PING. Raises EOFError at the end, RemoteError for an ERROR."""
        while True:
            prefix = self._file.read(40)
            if not prefix:
                raise EOFError
            magic, kind, zero, head_size, body_size, body_hash = struct.unpack_from(">2sBBII16s", prefix)
            assert (magic, zero) == (b"DW", 0)
            assert prefix[36:] == xxhash.xxh3_64_digest(prefix[:36])[4:]
            raw, body = self._file.read(head_size), self._file.read(body_size)
            assert prefix[28:36] == xxhash.xxh3_64_digest(raw)
            assert body_hash == (xxhash.xxh3_128_digest(body) if body else bytes(16))
            head = msgspec.msgpack.decode(raw)
            self.last_head = raw
            if kind == ERROR:
                raise RemoteError(head)
            if kind != PING:
                return kind, head, body

    def expect(self, kind: int) -> tuple[Any, bytes]:
        found, head, body = self.receive()
        assert found == kind, (found, head)
        return head, body

    def close(self) -> None:
        self._file.close()
        self._socket.close()


class Session:
    """A control connection whose two ends have proved themselves, and the data connections that joined it."""

    def __init__(self, port: int, key: Ed25519PrivateKey, node: str, fingerprint: str) -> None:
        self._port = port
        self.control = Connection(port)
        self._connections = [self.control]
        try:
            self._welcome = self._shake_hands(key, node, fingerprint)
        except RemoteError:
            self.close()
            raise

    def _shake_hands(self, key: Ed25519PrivateKey, node: str, fingerprint: str) -> dict[str, Any]:
        control, public = self.control, key.public_key().public_bytes_raw()
        sent = control.send(HELLO, {"versions": [1], "node": node, "key": public, "nonce": os.urandom(32)})
        reply, _ = control.expect(HELLO_REPLY)
        transcript = hashlib.sha256(len(sent).to_bytes(4, "big") + sent + control.last_head).digest()
        assert reply["version"] == 1
        assert "sha256:" + hashlib.sha256(reply["key"]).hexdigest() == fingerprint
        proof, _ = control.expect(AUTH)
        Ed25519PublicKey.from_public_bytes(reply["key"]).verify(proof["signature"], b"dwcp responder" + transcript)
        control.send(AUTH, {"signature": key.sign(b"dwcp initiator" + transcript)})
        return dict(control.expect(WELCOME)[0])

    def close(self) -> None:
        for connection in self._connections:
            connection.close()

    def join(self, stream: int) -> Connection:
        session, join_key = self._welcome["session"], self._welcome["join_key"]
        mac = hmac.digest(join_key, b"dwcp join" + session + stream.to_bytes(4, "big"), "sha256")
        data = Connection(self._port)
        self._connections.append(data)
        data.send(JOIN, {"session": session, "stream": stream, "mac": mac})
        data.expect(JOINED)
        return data

    def list(self, path: bytes) -> list[list[Any]]:
        self.control.send(LIST, {"path": path})
        entries = []
        while True:
            head, _ = self.control.expect(LISTING)
            entries += head["entries"]
            if not head.get("more", False):
                return entries

    def open(self, direction: str, path: bytes) -> None:
        self.control.send(OPEN, {"transfer": os.urandom(8).hex(), "direction": direction, "path": path})
        self.control.expect(OPENED)

    def announce(self, entries: list[dict[str, Any]]) -> None:
        plain = msgspec.msgpack.encode(entries)
        head = {"first": 0, "count": len(entries), "size": len(plain)}
        self.control.send(ENTRIES, head, zstd.compress(plain))
        self.control.send(SCANNED, {"count": len(entries), "complete": True})

    def put(self, path: bytes, entries: list[dict[str, Any]], contents: dict[int, bytes]) -> dict[str, Any]:
        """Sends `contents`, by number of the entry; the receiver's FINISHED."""
        self.open("put", path)
        self.announce(entries)
        data = self.join(0)
        done: set[int] = set()
        while True:
            kind, head, _ = self.control.receive()
            if kind == NEED:
                for file in head["files"]:
                    self._send_file(data, file, contents[file])
            elif kind == DONE:
                for first, count in [*head["files"], *head.get("unchanged", [])]:
                    done.update(range(first, first + count))
            elif kind == FINISHED:
                assert done == set(range(len(entries)))
                data.send(BYE, {})
                self.leave()
                return dict(head)
            else:
                assert kind == ACK, (kind, head)

    def _send_file(self, data: Connection, file: int, content: bytes) -> None:
        if len(content) <= 128 * 1024:
            digest = xxhash.xxh3_128_digest(content)
            data.send(PACK, [NONE, len(content), [[file, len(content), digest]]], content)
            return
        digests = b""
        for leaf, piece in enumerate(leaves(content)):
            digest = xxhash.xxh3_128_digest(piece)
            digests += digest
            if any(piece):
                data.send(BLOCK, [file, leaf, len(piece), NONE], piece)
            else:
                data.send(BLOCK, [file, leaf, len(piece), ZERO, digest])
        self.control.send(FILE_END, {"file": file, "size": len(content), "root": root(digests, len(content))})

    def get(self, path: bytes) -> dict[bytes, bytes]:
        """Content of all files at and below `path`, by name; empty ones are left out."""
        self.open("get", path)
        head, body = self.control.expect(ENTRIES)
        entries = msgspec.msgpack.decode(zstd.decompress(body))
        assert (head["first"], head["count"]) == (0, len(entries))
        self.control.expect(SCANNED)
        sizes = {number: entry["size"] for number, entry in enumerate(entries) if entry.get("size", 0)}
        done = [[number, 1] for number in range(len(entries)) if number not in sizes]
        self.control.send(DONE, {"files": done})
        data = self.join(0)
        self.control.send(NEED, {"files": list(sizes)})
        got: dict[int, dict[int, bytes]] = {number: {} for number in sizes}
        while any(sum(map(len, got[number].values())) < size for number, size in sizes.items()):
            self._take(data, got)
        contents = {file: b"".join(got[file][leaf] for leaf in sorted(got[file])) for file in sizes}
        for _ in [size for size in sizes.values() if size > 128 * 1024]:
            end, _ = self.control.expect(FILE_END)
            digests = b"".join(xxhash.xxh3_128_digest(leaf) for leaf in leaves(contents[end["file"]]))
            assert end["root"] == root(digests, end["size"])
        self.control.send(DONE, {"files": [[number, 1] for number in sizes]})
        self.control.send(FINISHED, {"deleted": 0, "verified": True})
        self.leave()
        return {entries[number]["path"]: content for number, content in contents.items()}

    def _take(self, data: Connection, got: dict[int, dict[int, bytes]]) -> None:
        kind, head, body = data.receive()
        if kind == PACK:
            codec, size, packed, *_ = head
            content = decoded(codec, body, size)
            for file, length, digest in packed:
                got[file][0], content = content[:length], content[length:]
                assert xxhash.xxh3_128_digest(got[file][0]) == digest
            return
        assert kind == BLOCK
        file, leaf, size, codec, digest = (*head, b"")[:5]
        got[file][leaf] = decoded(codec, body, size)
        assert xxhash.xxh3_128_digest(got[file][leaf]) == digest or (codec == NONE and not digest)

    def leave(self) -> None:
        """Says BYE and waits until the other end has closed the connection."""
        self.control.send(BYE, {})
        try:
            while True:
                self.control.expect(BYE)
        except EOFError:
            self.close()


def leaves(content: bytes) -> list[bytes]:
    """Of a file up to 64 GiB."""
    return [content[at : at + MIB] for at in range(0, len(content), MIB)]


def root(digests: bytes, size: int) -> bytes:
    return xxhash.xxh3_128_digest(digests + size.to_bytes(8, "big"))


def decoded(codec: int, body: bytes, size: int) -> bytes:
    content = {NONE: lambda: body, ZSTD: lambda: zstd.decompress(body), ZERO: lambda: bytes(size)}[codec]()
    assert len(content) == size
    return content
