"""Who is there: both ends prove their Ed25519 identity before anything else is said.

    initiator                                   responder
    HELLO  versions, key, nonce      ----->
                                     <-----     HELLO_REPLY  version, key, nonce
                                     <-----     AUTH   signs "dwcp responder" and the transcript
    AUTH   signs "dwcp initiator" and the transcript  ----->
                                     <-----     WELCOME  session, join key

The transcript is SHA-256 over the heads of HELLO and HELLO_REPLY as they travelled. It holds both keys and both
nonces, so neither signature can be used in another conversation (a man in the middle would have to show one of the
ends a key of his own, which is not pinned there). Under TLS the initiator also checks that the responder's
certificate carries the same key, which binds the channel to the proof. This is SIGMA's signature part
(Krawczyk, 2003); secrecy is left to TLS.

Further connections of a session don't sign: they show that they know the join key (`join_mac`), once for each stream
number.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from dwcp.errors import AuthenticationError, ProtocolError, VersionError
from dwcp.wire.messages import VERSION, Auth, Hello, HelloReply, Join, Welcome, encode

VERSIONS = (VERSION,)
SEGMENT = "segment"
DICTIONARY = "dictionary"
"""Of a node that takes leaves as segments of a delta."""
FEATURES: tuple[str, ...] = ("delta", "blake3", "leaf", SEGMENT, "trees")
"""Of every node of this version."""
RDMA = "rdma"
"""Of a node that takes data connections over RDMA now."""
PROBE = "probe"
"""Of a node that answers probes on data connections."""
VERSIONED = "versions"
"""Of a node that keeps versions of what is at a path."""
FENCES = "fences"
"""Of a node that keeps former owners of a workload out."""
PAUSE = "pause"
"""Of a node that pauses a transfer when its receiver asks for it, and says when it does."""
ORDERS = "orders"
"""Of a node that sends to others what it is told to."""
SYNC = "sync"
"""Of a node that exchanges what it knows of all nodes."""
TRACES = "traces"
"""Of a node that tells a collector of its transfers."""
READ = "read"
"""Of a node that gives ranges of files and tells of a path itself."""

Sign = Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class Claim:
    """Who the other end says that it is; its key is proved."""

    node: str
    key: bytes
    certificate: bytes

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.key)


Trust = Callable[[Claim], str]
"""The name that a peer goes by here. Raises AuthenticationError for a stranger."""
Objection = Callable[[Claim], str]
"""Why the other end is not who it should be; empty when it is."""


def fingerprint(key: bytes) -> str:
    """`sha256:` and 64 hexadecimal digits, of a raw Ed25519 public key of 32 bytes."""
    return "sha256:" + hashlib.sha256(key).hexdigest()


@dataclass(frozen=True, slots=True)
class Introduction:
    """What one end says of itself. `nonce`: 32 random bytes, fresh for each handshake."""

    node: str
    key: bytes
    nonce: bytes
    sign: Sign
    certificate: bytes = b""
    also: tuple[str, ...] = ()
    """Features beyond those of every node."""


class Initiator:
    """The end that dialled. Call `hello`, then `answer` with what came, in this order."""

    def __init__(self, me: Introduction, expected: str | Objection) -> None:
        """`expected`: the fingerprint that is pinned for the peer, or what else has to be asked about it."""
        self._me = me
        self._expected = expected
        self._hello = Hello(
            versions=list(VERSIONS),
            node=me.node,
            key=me.key,
            nonce=me.nonce,
            features=[*FEATURES, *me.also],
            certificate=me.certificate,
        )

    def hello(self) -> Hello:
        return self._hello

    def answer(self, reply: HelloReply, reply_head: bytes, auth: Auth) -> Auth:
        """Our AUTH, once the responder has proved to be who is expected.

        Raises VersionError or AuthenticationError.
        """
        if reply.version not in VERSIONS:
            raise VersionError(_version_text(reply.node, [reply.version]))
        found = fingerprint(reply.key)
        if not isinstance(self._expected, str):
            objection = self._expected(Claim(reply.node, reply.key, reply.certificate))
            if objection:
                raise AuthenticationError(
                    f"the node that answers calls itself {reply.node!r} and has fingerprint {found}, but {objection}"
                )
        elif found != self._expected:
            raise AuthenticationError(
                f"the node that answers calls itself {reply.node!r} and has fingerprint {found}, but {self._expected} "
                f"is pinned for it; if the peer was set up anew, put its new fingerprint (`dwcp id` there) into peers"
            )
        transcript = _transcript(encode(self._hello), reply_head)
        _verify(reply.key, b"dwcp responder" + transcript, auth.signature, reply.node)
        return Auth(signature=self._me.sign(b"dwcp initiator" + transcript))


class Responder:
    """The end that was dialled. Call `reply`, then `accept` with what came, in this order."""

    def __init__(self, me: Introduction, trust: Trust) -> None:
        self._me = me
        self._trust = trust
        self._hello: Hello | None = None
        self._transcript = b""

    def reply(self, hello: Hello, hello_head: bytes) -> tuple[HelloReply, Auth]:
        """Raises VersionError when no version is shared."""
        shared = [version for version in hello.versions if version in VERSIONS]
        if not shared:
            raise VersionError(_version_text(hello.node, hello.versions))
        reply = HelloReply(
            version=max(shared),
            node=self._me.node,
            key=self._me.key,
            nonce=self._me.nonce,
            features=[*FEATURES, *self._me.also],
            certificate=self._me.certificate,
        )
        self._hello = hello
        self._transcript = _transcript(hello_head, encode(reply))
        return reply, Auth(signature=self._me.sign(b"dwcp responder" + self._transcript))

    def accept(self, auth: Auth) -> str:
        """The name that the peer goes by here, proved. Raises AuthenticationError."""
        hello = self._hello
        if hello is None:
            raise ProtocolError("the peer sent its AUTH before its HELLO")
        _verify(hello.key, b"dwcp initiator" + self._transcript, auth.signature, hello.node)
        return self._trust(Claim(hello.node, hello.key, hello.certificate))


def join(welcome: Welcome, stream: int, rdma: bytes = b"", *, probe: bool = False) -> Join:
    """First frame of a data connection. Stream numbers are never used twice in a session. `rdma`, `probe`: see
    `Join`."""
    mac = join_mac(welcome.join_key, welcome.session, stream)
    return Join(session=welcome.session, stream=stream, mac=mac, rdma=rdma, probe=probe)


def join_mac(join_key: bytes, session: bytes, stream: int) -> bytes:
    """HMAC-SHA-256, 32 bytes."""
    return hmac.digest(join_key, b"dwcp join" + session + stream.to_bytes(4, "big"), "sha256")


def joins(join: Join, join_key: bytes) -> bool:
    """Whether the connection knows the session's join key."""
    return hmac.compare_digest(join.mac, join_mac(join_key, join.session, join.stream))


def _transcript(hello_head: bytes, reply_head: bytes) -> bytes:
    return hashlib.sha256(len(hello_head).to_bytes(4, "big") + hello_head + reply_head).digest()


def _verify(key: bytes, message: bytes, signature: bytes, node: str) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError) as error:
        raise AuthenticationError(f"node {node!r} could not prove the key that it shows") from error


def _version_text(node: str, theirs: list[int]) -> str:
    return f"no common protocol version: {node!r} speaks {theirs}, this node {list(VERSIONS)}; upgrade the older one"
