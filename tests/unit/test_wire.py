"""Frames whole, by the byte and with a tail; messages within their limits; the handshake and who it keeps out."""

from __future__ import annotations

import os

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from dwcp.errors import AuthenticationError, ProtocolError, RefusedError, VersionError
from dwcp.wire import frames
from dwcp.wire import messages as m
from dwcp.wire.frames import BodyError, FrameError, FrameReader
from dwcp.wire.handshake import Claim, Initiator, Introduction, Responder, fingerprint, join, joins
from dwcp.wire.paths import check_relative, display

bodies = st.binary(max_size=2000)
heads = st.binary(max_size=500)
kinds = st.integers(0, 255)


@given(st.lists(st.tuples(kinds, heads, bodies), max_size=5), st.integers(1, 400))
def test_frames_survive_any_slicing(sent: list[tuple[int, bytes, bytes]], step: int) -> None:
    stream = b"".join(frames.seal(kind, head, body) + body for kind, head, body in sent)
    reader = FrameReader()
    got = [frame for at in range(0, len(stream), step) for frame in reader.feed(stream[at : at + step])]
    assert got == sent


@given(kinds, heads, st.binary(min_size=1, max_size=300), st.data())
def test_no_bit_can_flip_unseen(kind: int, head: bytes, body: bytes, data: st.DataObject) -> None:
    frame = bytearray(frames.seal(kind, head, body) + body)
    at = data.draw(st.integers(0, len(frame) - 1))
    frame[at] ^= 1 << data.draw(st.integers(0, 7))
    in_body = at >= frames.PREFIX_SIZE + len(head)
    with pytest.raises(BodyError if in_body else FrameError):
        FrameReader().feed(bytes(frame))


@given(st.binary(max_size=3000))
def test_garbage_raises_nothing_but_protocol_errors(garbage: bytes) -> None:
    try:
        FrameReader().feed(garbage)
    except ProtocolError:
        return


@given(st.integers(0, 60), st.binary(max_size=400))
def test_no_head_raises_anything_but_protocol_errors(kind: int, head: bytes) -> None:
    try:
        message = m.decode(kind, head)
    except ProtocolError:
        return
    assert m.decode(kind, m.encode(message)) == message


@pytest.mark.parametrize(
    "message",
    [
        m.Open(transfer="t", direction="sideways", path=b"x"),
        m.Open(transfer="", direction="put", path=b"x"),
        m.Open(transfer="t", direction="put", path=b"x" * 5000),
        m.Ack(file=-1, leaves=[]),
        m.Ack(file=0, leaves=[(0, 1)] * 9000),
        m.Block(file=0, leaf=0, size=1, codec=0, ops=[(-2, 1)]),
        m.Pack(codec=0, size=0, files=[]),
        m.Hello(versions=[], node="n", key=bytes(32), nonce=bytes(32)),
        m.Hello(versions=[1], node="n", key=bytes(31), nonce=bytes(32)),
    ],
)
def test_limits_hold(message: m.Message) -> None:
    with pytest.raises(ProtocolError, match=type(message).__name__):
        m.decode(message.kind, m.encode(message))


@given(st.sets(st.integers(0, 200)))
def test_runs_and_indexes_are_inverse(indexes: set[int]) -> None:
    assert m.indexes_of(m.runs_of(sorted(indexes)), 201) == sorted(indexes)


@pytest.mark.parametrize("runs", [[(0, 11)], [(10, 1)], [(0, 6), (0, 6)], [(2**31, 2**31)]])
def test_runs_beyond_what_exists_are_refused(runs: list[tuple[int, int]]) -> None:
    with pytest.raises(ProtocolError):
        m.indexes_of(runs, 10)


@pytest.mark.parametrize(
    "path",
    [
        b"/x",
        b"..",
        b"a/..",
        b"a/../b",
        b".",
        b"a//b",
        b"a/",
        b"\0",
        b"a/\0",
        b"x" * 256,
        b"a/" * 3000,
        b".dwcp",
        b".dwcp/x",
    ],
)
def test_paths_that_lead_elsewhere(path: bytes) -> None:
    with pytest.raises(RefusedError):
        check_relative(path)


@given(st.binary(max_size=300))
def test_a_path_is_refused_or_safe(path: bytes) -> None:
    try:
        parts = check_relative(path)
    except RefusedError:
        return
    assert b"/".join(parts) == path
    assert not any(part in (b"", b".", b"..") or b"/" in part or b"\0" in part for part in parts)


def test_paths_are_displayed_whole_and_harmless() -> None:
    assert display("näme".encode()) == "'näme'"
    assert display(b"\x1b[31m\xff") == "'\\x1b[31m\\udcff'"


def _end(name: str, key: Ed25519PrivateKey | None = None) -> Introduction:
    key = key or Ed25519PrivateKey.generate()
    return Introduction(name, key.public_key().public_bytes_raw(), os.urandom(32), key.sign)


def _shake(initiator: Initiator, responder: Responder) -> str:
    hello = initiator.hello()
    reply, proof = responder.reply(hello, m.encode(hello))
    return responder.accept(initiator.answer(reply, m.encode(reply), proof))


def test_both_ends_prove_who_they_are() -> None:
    a, b = _end("a"), _end("b")
    names = {fingerprint(a.key): "alice"}
    assert _shake(Initiator(a, fingerprint(b.key)), Responder(b, lambda claim: names.get(claim.fingerprint))) == "alice"


def test_the_wrong_key_at_either_end() -> None:
    a, b, other = _end("a"), _end("b"), _end("b")
    with pytest.raises(AuthenticationError, match="is pinned for it"):
        _shake(Initiator(a, fingerprint(other.key)), Responder(b, lambda _: "a"))

    def nobody(claim: Claim) -> str:
        raise AuthenticationError(f"a stranger: {claim.node}, {claim.fingerprint}")

    with pytest.raises(AuthenticationError, match=f"a stranger: a, {fingerprint(a.key)}"):
        _shake(Initiator(a, fingerprint(b.key)), Responder(b, nobody))


def test_a_key_that_is_only_shown_proves_nothing() -> None:
    a, b, thief = _end("a"), _end("b"), _end("x")
    stolen_b = Introduction("b", b.key, b.nonce, thief.sign)
    with pytest.raises(AuthenticationError, match="could not prove"):
        _shake(Initiator(a, fingerprint(b.key)), Responder(stolen_b, lambda _: "a"))
    stolen_a = Introduction("a", a.key, a.nonce, thief.sign)
    with pytest.raises(AuthenticationError, match="could not prove"):
        _shake(Initiator(stolen_a, fingerprint(b.key)), Responder(b, lambda _: "a"))


def test_a_proof_from_another_conversation_is_worth_nothing() -> None:
    a, b = _end("a"), _end("b")
    first, second = Responder(b, lambda _: "a"), Responder(_end("b"), lambda _: "a")
    initiator = Initiator(a, fingerprint(b.key))
    hello = initiator.hello()
    reply, proof = first.reply(hello, m.encode(hello))
    recorded = initiator.answer(reply, m.encode(reply), proof)
    second.reply(hello, m.encode(hello))
    with pytest.raises(AuthenticationError):
        second.accept(recorded)


def test_no_common_version() -> None:
    b = _end("b")
    hello = m.Hello(versions=[9], node="a", key=bytes(32), nonce=bytes(32))
    with pytest.raises(VersionError, match=r"'a' speaks \[9\], this node \[1\]"):
        Responder(b, lambda _: "a").reply(hello, m.encode(hello))
    with pytest.raises(ProtocolError):
        Responder(b, lambda _: "a").accept(m.Auth(signature=bytes(64)))


def test_joining_needs_the_key_of_the_session() -> None:
    welcome = m.Welcome(session=bytes(16), join_key=os.urandom(32))
    good = join(welcome, 3)
    assert joins(good, welcome.join_key)
    assert not joins(good, os.urandom(32))
    assert not joins(m.Join(session=good.session, stream=4, mac=good.mac), welcome.join_key)
