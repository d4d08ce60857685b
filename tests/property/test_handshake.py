"""The handshake told anything in any order, and frames cut anywhere: errors of the protocol and nothing else, nobody
comes in without the key, and no more is held than one frame."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from dwcp.errors import AuthenticationError, DwcpError, ProtocolError
from dwcp.wire import frames
from dwcp.wire import messages as m
from dwcp.wire.frames import FrameReader
from dwcp.wire.handshake import Claim, Initiator, Introduction, Responder, fingerprint

KEYS = {name: Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number, name in enumerate("abs", 1)}
"""Of two nodes that know each other, and of a stranger."""
PUBLIC = {name: key.public_key().public_bytes_raw() for name, key in KEYS.items()}
bounded = settings(max_examples=60, stateful_step_count=20, deadline=None)
odd_bytes = st.binary(min_size=32, max_size=32)
odd_signatures = st.binary(min_size=64, max_size=64) | st.just(bytes(64))
odd_hellos = st.builds(
    m.Hello,
    versions=st.lists(st.sampled_from([0, 1, 2, 2**32 - 1]), min_size=1, max_size=3),
    node=st.sampled_from(["a", "b", "\0", "\x1b]0;"]),
    key=st.sampled_from([*PUBLIC.values(), bytes(32), b"\xff" * 32]) | odd_bytes,
    nonce=odd_bytes,
)
odd_replies = st.builds(
    m.HelloReply,
    version=st.sampled_from([0, 1, 2]),
    node=st.sampled_from(["b", "\0"]),
    key=st.sampled_from([*PUBLIC.values(), bytes(32)]),
    nonce=odd_bytes,
)


def introduction(name: str, nonce: bytes) -> Introduction:
    return Introduction(name, PUBLIC[name], nonce, KEYS[name].sign)


def trust(claim: Claim) -> str:
    for name in "ab":
        if claim.key == PUBLIC[name]:
            return name
    raise AuthenticationError("a stranger")


class Handshakes(RuleBasedStateMachine):
    """Many at once, whose messages go astray. A responder lets in whom `answered` says, and no other."""

    initiators: Bundle[Initiator] = Bundle("initiators")
    replies: Bundle[tuple[Responder, str, m.HelloReply, bytes, m.Auth, bytes]] = Bundle("replies")
    proofs: Bundle[tuple[m.Auth, str, bytes]] = Bundle("proofs")

    @rule(target=initiators, name=st.sampled_from("abs"), nonce=odd_bytes, pinned=st.sampled_from("abs"))
    def dial(self, name: str, nonce: bytes, pinned: str) -> Initiator:
        return Initiator(introduction(name, nonce), fingerprint(PUBLIC[pinned]))

    @rule(target=replies, initiator=initiators, name=st.sampled_from("abs"), nonce=odd_bytes)
    def answer(
        self, initiator: Initiator, name: str, nonce: bytes
    ) -> tuple[Responder, str, m.HelloReply, bytes, m.Auth, bytes]:
        hello = initiator.hello()
        responder = Responder(introduction(name, nonce), trust)
        reply, proof = responder.reply(hello, m.encode(hello))
        return responder, name, reply, m.encode(hello), proof, hello.key

    @rule(hello=odd_hellos, signature=odd_signatures)
    def answer_nonsense(self, hello: m.Hello, signature: bytes) -> None:
        responder = Responder(introduction("b", bytes(32)), trust)
        try:
            responder.reply(hello, m.encode(hello))
            responder.accept(m.Auth(signature=signature))
        except DwcpError:
            return
        raise AssertionError("a stranger came in")

    @rule(target=proofs, initiator=initiators, reply=replies)
    def prove(
        self, initiator: Initiator, reply: tuple[Responder, str, m.HelloReply, bytes, m.Auth, bytes]
    ) -> tuple[m.Auth, str, bytes]:
        _, name, told, hello_head, proof, _ = reply
        own = m.encode(initiator.hello())
        try:
            auth = initiator.answer(told, m.encode(told), proof)
        except DwcpError:
            return m.Auth(signature=bytes(64)), "", b""
        assert own == hello_head, "the proof was for somebody else"
        assert fingerprint(PUBLIC[name]) == initiator._expected
        return auth, next(n for n, key in PUBLIC.items() if key == initiator.hello().key), own + m.encode(told)

    @rule(initiator=initiators, told=odd_replies, signature=odd_signatures)
    def prove_to_nonsense(self, initiator: Initiator, told: m.HelloReply, signature: bytes) -> None:
        try:
            initiator.answer(told, m.encode(told), m.Auth(signature=signature))
        except DwcpError:
            return
        raise AssertionError("an impostor was believed")

    @rule(reply=replies, proof=proofs)
    def accept(
        self, reply: tuple[Responder, str, m.HelloReply, bytes, m.Auth, bytes], proof: tuple[m.Auth, str, bytes]
    ) -> None:
        responder, _, told, hello_head, _, _ = reply
        auth, who, transcript = proof
        try:
            assert responder.accept(auth) == who
        except DwcpError:
            assert transcript != hello_head + m.encode(told) or who == "s", "who proved it was kept out"
            return
        assert transcript == hello_head + m.encode(told)
        assert who in "ab"

    @rule(name=st.sampled_from("abs"), nonces=st.tuples(odd_bytes, odd_bytes), other=st.sampled_from("ab"))
    def meet(self, name: str, nonces: tuple[bytes, bytes], other: str) -> None:
        """All of one handshake in order, which a choice of rules hits upon too rarely."""
        initiator = self.dial(name, nonces[0], other)
        reply = self.answer(initiator, other, nonces[1])
        self.accept(reply, self.prove(initiator, reply))

    @rule(signature=odd_signatures)
    def prove_before_saying_hello(self, signature: bytes) -> None:
        try:
            Responder(introduction("b", bytes(32)), trust).accept(m.Auth(signature=signature))
        except ProtocolError:
            return
        raise AssertionError("nobody in particular came in")


class Cut(RuleBasedStateMachine):
    """Frames that come in pieces of any size, until one is damaged."""

    MOST = 2000

    @initialize()
    def begin(self) -> None:
        self.reader = FrameReader(self.MOST)
        self.coming: list[tuple[int, bytes, bytes]] = []
        self.wire = b""
        self.came: list[tuple[int, bytes, bytes]] = []
        self.broken = False

    @rule(kind=st.integers(0, 255), head=st.binary(max_size=300), body=st.binary(max_size=MOST))
    def send(self, kind: int, head: bytes, body: bytes) -> None:
        if not self.broken:
            self.coming.append((kind, head, body))
            self.wire += frames.seal(kind, head, body) + body

    @rule(size=st.integers(1, 1500), damage=st.integers(0, 30), at=st.integers(0, 1499), bit=st.integers(0, 7))
    def receive(self, size: int, damage: int, at: int, bit: int) -> None:
        piece, self.wire = self.wire[:size], self.wire[size:]
        if self.broken:
            return
        if not damage and at < len(piece):
            piece = piece[:at] + bytes([piece[at] ^ 1 << bit]) + piece[at + 1 :]
            self.broken = True
        try:
            self.came += self.reader.feed(piece)
        except ProtocolError:
            assert self.broken

    @invariant()
    def nothing_is_changed_and_little_is_held(self) -> None:
        if hasattr(self, "reader"):
            assert self.came == self.coming[: len(self.came)]
            assert len(self.reader._held) <= frames.PREFIX_SIZE + frames.MAX_HEAD + self.MOST


TestHandshakes = Handshakes.TestCase
TestHandshakes.settings = bounded
TestCut = Cut.TestCase
TestCut.settings = bounded
