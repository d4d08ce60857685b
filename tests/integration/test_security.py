"""TLS between two nodes in one process: what is shown, what is resumed, what changes without a restart."""

from __future__ import annotations

import asyncio
import datetime
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import replace as replace_fields
from pathlib import Path

import pytest
import structlog.testing
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import NameOID

from dwcp.errors import AuthenticationError, DwcpError, StateError, UnreachableError
from dwcp.links import tls
from dwcp.links.tls import TlsContexts, TlsLink, make_contexts
from dwcp.manager.parts import TransportComponent
from dwcp.store.identity import Identity, load_or_create
from dwcp.store.link_certificate import issuer, link_certificate
from dwcp.supervise.health import HEALTHY, Status
from dwcp.transfer.channel import Channel
from dwcp.transfer.client import _node
from dwcp.transfer.credentials import CredentialStore
from dwcp.transfer.node import Node
from dwcp.transfer.session import Dialled, confirm_stream, dial_session, dial_stream
from dwcp.wire import frames
from dwcp.wire import messages as m
from dwcp.wire.handshake import Claim
from tests.support import Pair, random_file, wait_until


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[Pair]:
    pair = Pair(tmp_path, security={"tls": "always"})
    try:
        yield pair
    finally:
        pair.close()


def tls_link(channel: Channel) -> TlsLink:
    assert isinstance(channel.link, TlsLink)
    return channel.link


def begin(pair: Pair, node: Node) -> Dialled:
    """A session with a put under way."""
    session = dial_session(node, f"127.0.0.1:{pair.port}", pair.server.node.identity.fingerprint)
    session.channel.send(m.Open(transfer="t", direction="put", path=b"inbox/x"))
    while not isinstance(session.channel.receive()[0], m.Opened):
        pass
    return session


def join(pair: Pair, node: Node, session: Dialled, number: int) -> Channel:
    channel = dial_stream(node, f"127.0.0.1:{pair.port}", session, number)
    confirm_stream(channel)
    return channel


def ping(session: Dialled) -> bool:
    session.channel.send(m.Ping(token=7))
    return session.channel.receive()[0] == m.Pong(token=7)


def replace(new: Identity, *, where: Path, key: bool = True, certificate: bool = True) -> None:
    for wanted, name in ((key, "node.key"), (certificate, "node.crt")):
        if wanted:
            (where / f"{name}.new").write_bytes((new.key_file.parent / name).read_bytes())
            (where / f"{name}.new").replace(where / name)


def test_only_the_first_connection_of_a_session_is_a_full_handshake(secured: Pair) -> None:
    node = _node(secured.config)
    session = begin(secured, node)
    assert not tls_link(session.channel).resumed
    channels: list[Channel] = []
    threads = [threading.Thread(target=lambda n=n: channels.append(join(secured, node, session, n))) for n in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [tls_link(channel).resumed for channel in channels] == [True] * 32
    certificates = {tls_link(channel).peer_certificate() for channel in (session.channel, *channels)}
    assert len(certificates) == 1, "a resumed connection shows the certificate of the one that it resumes"
    second = begin(secured, node)
    assert not tls_link(second.channel).resumed, "every session proves its identities anew"
    for channel in (*channels, session.channel, second.channel):
        channel.link.close()


def test_contexts_are_made_once_a_node(secured: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr("dwcp.transfer.credentials.make_contexts", lambda *pem: made.append(pem) or make_contexts(*pem))
    content = random_file(tmp_path / "file", 3_000_000)
    result = secured.send(tmp_path / "file", "inbox/file")
    assert (secured.inbox / "file").read_bytes() == content
    assert result.streams >= 1
    assert len(made) == 1, "the client's; the server's were there before"


def test_a_renewed_certificate_is_shown_without_a_restart(secured: Pair, tmp_path: Path) -> None:
    node = _node(secured.config)
    running = dial_session(node, f"127.0.0.1:{secured.port}", secured.server.node.identity.fingerprint)
    before = tls_link(running.channel).peer_certificate()
    identity = secured.identities["b"]
    (tmp_path / "renewed").mkdir()
    (tmp_path / "renewed" / "node.key").write_bytes(identity.key_file.read_bytes())
    replace(load_or_create(tmp_path / "renewed", "b"), where=identity.key_file.parent)
    session = begin(secured, node)
    assert tls_link(session.channel).peer_certificate() != before
    stream = join(secured, node, session, 1)
    assert tls_link(stream).resumed
    assert ping(running), "what ran goes on"
    for channel in (running.channel, session.channel, stream):
        channel.link.close()


def test_streams_of_a_running_session_outlive_a_renewal_at_either_end(secured: Pair, tmp_path: Path) -> None:
    node = _node(secured.config)
    session = begin(secured, node)
    for name in "ab":
        identity = secured.identities[name]
        (tmp_path / f"renewed-{name}").mkdir()
        (tmp_path / f"renewed-{name}" / "node.key").write_bytes(identity.key_file.read_bytes())
        replace(load_or_create(tmp_path / f"renewed-{name}", name), where=identity.key_file.parent)
    first = join(secured, node, session, 1)
    assert not tls_link(first).resumed, "a renewed server does not know the ticket of the one before"
    second = join(secured, node, session, 2)
    assert tls_link(second).resumed, "but the next stream has its own"
    for channel in (session.channel, first, second):
        channel.link.close()


def test_a_new_key_is_a_new_identity_once_its_certificate_is_there_too(secured: Pair, tmp_path: Path) -> None:
    node = _node(secured.config)
    address = f"127.0.0.1:{secured.port}"
    old = secured.identities["b"]
    new = load_or_create(tmp_path / "new", "b")
    replace(new, where=old.key_file.parent, certificate=False)
    dial_session(node, address, old.fingerprint).channel.link.close()
    replace(new, where=old.key_file.parent, key=False)
    with pytest.raises(AuthenticationError, match=r"is pinned for it"):
        dial_session(node, address, old.fingerprint)
    dial_session(node, address, new.fingerprint).channel.link.close()


def test_a_key_and_a_certificate_that_do_not_belong_together_are_named_at_the_start(tmp_path: Path) -> None:
    first, second = load_or_create(tmp_path / "1", "n"), load_or_create(tmp_path / "2", "n")
    replace(second, where=first.key_file.parent, certificate=False)
    with pytest.raises(StateError, match=r"node\.crt is not for the key in .*node\.key; put both in place"):
        load_or_create(tmp_path / "1", "n")


def test_a_session_is_offered_only_where_it_began(secured: Pair) -> None:
    node = _node(secured.config)
    session = begin(secured, node)
    contexts = session.credentials.contexts
    assert session.resumption.offer(contexts.client) is not None
    identity = secured.identities["a"]
    other = make_contexts(identity.key_pem, identity.certificate_pem, identity.certificate_pem, issuer())
    assert session.resumption.offer(other.client) is None
    session.channel.link.close()


def impostor(secured: Pair, tmp_path: Path) -> Dialled:
    """A session of `a`, but its further connections show the certificate of somebody else."""
    session = begin(secured, _node(secured.config))
    other = load_or_create(tmp_path / "other", "a")
    shown = link_certificate("a", other.private_key.public_key())
    contexts = make_contexts(other.key_pem, other.certificate_pem, shown, issuer())
    return replace_fields(session, credentials=replace_fields(session.credentials, contexts=contexts))


def test_the_server_wants_a_certificate(secured: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    node = _node(secured.config)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    bare = replace_fields(node.credentials(), contexts=TlsContexts(context, node.credentials().contexts.server))
    monkeypatch.setattr(node, "credentials", lambda: bare)
    # it is told when it first reads, or finds the connection closed, whichever comes first
    with pytest.raises(DwcpError, match=r"CERTIFICATE_REQUIRED|connection (was )?lost|closed the connection"):
        dial_session(node, f"127.0.0.1:{secured.port}", secured.identities["b"].fingerprint)
    wait_until(lambda: secured.server.counters().refused == 1, "the server counts it as refused")


def test_the_certificate_is_that_of_the_key_that_proves_itself(secured: Pair, tmp_path: Path) -> None:
    """A stolen conversation: the signatures are right, but the channel ends at somebody else."""
    node = _node(secured.config)
    session = impostor(secured, tmp_path)
    original = node.link_settings
    node.link_settings = lambda *_: original(session.credentials)  # type: ignore[method-assign]
    with pytest.raises(AuthenticationError):
        dial_session(node, f"127.0.0.1:{secured.port}", secured.identities["b"].fingerprint)
    session.channel.link.close()


def test_a_join_key_alone_does_not_join(secured: Pair, tmp_path: Path) -> None:
    session = impostor(secured, tmp_path)
    channel = dial_stream(_node(secured.config), f"127.0.0.1:{secured.port}", session, 1)
    with pytest.raises(AuthenticationError):
        confirm_stream(channel)
    channel.link.close()
    session.channel.link.close()


@pytest.mark.parametrize(
    ("cpuinfo", "first"),
    [
        ("processor\t: 0\nflags\t\t: fpu aes avx\n", "TLS_AES"),
        ("processor\t: 0\nflags\t\t: fpu aesx avx\n", "TLS_CHACHA20"),
        ("processor\t: 0\nFeatures\t: fp asimd aes pmull\n", "TLS_AES"),
        ("processor\t: 0\nFeatures\t: fp asimd\n", "TLS_CHACHA20"),
        ("", "TLS_AES"),
    ],
)
def test_the_cipher_is_what_the_processor_does_best(cpuinfo: str, first: str) -> None:
    suites = tls.preferred_suites(cpuinfo)
    assert suites.startswith(first)
    assert len(suites.split(":")) == 3


class Ca:
    """An authority of the test, and what it signs."""

    def __init__(self, directory: Path) -> None:
        self.key = Ed25519PrivateKey.generate()
        self.file = directory / "ca.pem"
        self.file.write_bytes(self._sign("ca", self.key.public_key(), [], ca=True))

    def sign(self, identity: Identity, *names: str) -> None:
        """Replaces the identity's certificate, as an operator or an agent for certificates would."""
        pem = self._sign("anything", identity.private_key.public_key(), list(names), ca=False)
        new = identity.certificate_file.with_name("new")
        new.write_bytes(pem)
        new.replace(identity.certificate_file)

    def _sign(self, subject: str, key: Ed25519PublicKey, names: list[str], *, ca: bool) -> bytes:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ca")]))
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca, None), critical=True)
        )
        if names:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False
            )
        return builder.sign(self.key, None).public_bytes(serialization.Encoding.PEM)


@pytest.mark.parametrize("security", ["auto", "always"])
def test_an_authority_instead_of_pins(tmp_path: Path, security: str) -> None:
    ca = Ca(tmp_path)
    pair = Pair(tmp_path, security={"tls": security, "ca_file": str(ca.file)})
    unpinned = {"b": pair.config.peers["b"].model_copy(update={"fingerprint": "ca"})}
    client = pair.config.model_copy(update={"peers": unpinned})
    pair.server.apply(pair.server_config.model_copy(update={"peers": {}}))
    content = random_file(tmp_path / "file", 300_000)

    with pytest.raises(AuthenticationError, match="it shows no certificate of an authority"):
        pair.send(tmp_path / "file", "inbox/file", client)
    ca.sign(pair.identities["b"], "c")
    with pytest.raises(AuthenticationError, match="its certificate is for c, not for b"):
        pair.send(tmp_path / "file", "inbox/file", client)
    ca.sign(pair.identities["b"], "b")
    with pytest.raises(AuthenticationError, match="does not know your fingerprint"):
        pair.send(tmp_path / "file", "inbox/file", client)
    ca.sign(pair.identities["a"], "a")
    pair.send(tmp_path / "file", "inbox/file", client)
    assert (pair.inbox / "file").read_bytes() == content
    wait_until(lambda: bool(pair.board.recent()), "the server has ended the transfer too")
    assert pair.board.recent()[0].peer == "a", "it goes by the name in its certificate"

    other = load_or_create(tmp_path / "other", "a").fingerprint
    pinned = pair.server_config.peers["a"].model_copy(update={"fingerprint": other})
    pair.server.apply(pair.server_config.model_copy(update={"peers": {"a": pinned}}))
    with pytest.raises(AuthenticationError, match="does not know your fingerprint"):
        pair.send(tmp_path / "file", "inbox/file", client)
    pair.close()


def test_the_name_of_the_node_itself_is_nobody_elses(tmp_path: Path) -> None:
    ca = Ca(tmp_path)
    pair = Pair(tmp_path, security={"ca_file": str(ca.file)})
    ca.sign(pair.identities["b"], "b")
    impostor = load_or_create(tmp_path / "impostor", "b")
    ca.sign(impostor, "b")
    impostor = load_or_create(tmp_path / "impostor", "b")
    claim = Claim("b", impostor.public_key, impostor.signed_certificate)
    for node in (Node(pair.config, pair.identities["a"]), pair.server.node):
        with pytest.raises(AuthenticationError, match="another node has that name"):
            node.trust(claim)
    assert pair.server.node.objection("b", claim) == ""
    pair.close()


def test_another_authority_is_taken_over_without_a_restart(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    old, new = Ca(tmp_path / "old"), Ca(tmp_path)
    identity = load_or_create(tmp_path / "n" / "identity", "n")
    new.sign(identity, "n")
    identity = load_or_create(tmp_path / "n" / "identity", "n")
    pair = Pair(tmp_path, security={"ca_file": str(old.file)})
    node = pair.server.node
    claim = Claim("n", identity.public_key, identity.signed_certificate)
    with pytest.raises(AuthenticationError, match=r"does not know 'n' .* not signed by an authority"):
        node.trust(claim)
    old.file.write_text("nonsense")
    with pytest.raises(AuthenticationError, match="not signed by an authority"):
        node.trust(claim)
    assert old.file.write_bytes(new.file.read_bytes())
    assert node.trust(claim) == "n"
    pair.close()
    with pytest.raises(StateError, match=r"security\.ca_file /no/such cannot be read"):
        CredentialStore(identity, "/no/such")


def closed_at_once(pair: Pair, content: bytes = b"") -> bool:
    """Whether the server ends a connection that sends `content`, without an answer."""
    with socket.create_connection(("127.0.0.1", pair.port), timeout=20) as sock:
        try:
            sock.sendall(content)
            return sock.recv(1) == b""
        except ConnectionError:
            return True


def test_who_fails_too_often_has_to_wait(tmp_path: Path) -> None:
    pair = Pair(tmp_path, security={"failed_handshakes_per_minute": 5})
    nonsense = bytes(40)
    with structlog.testing.capture_logs() as logged:
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", pair.port), timeout=20) as sock:
                sock.sendall(nonsense)
                assert sock.recv(3) == b"DW\x07", "an ERROR says why"
            wait_until(lambda: not pair.server._pending, "it has failed")
        assert closed_at_once(pair)
        with pytest.raises(UnreachableError):
            dial_session(_node(pair.config), f"127.0.0.1:{pair.port}", pair.identities["b"].fingerprint)
        wait_until(lambda: pair.server.counters().refused == 7, "all are counted")
    lines = [entry for entry in logged if entry["event"] == "a connection was refused"]
    assert 1 <= len(lines) < 7, "not a line for each"
    assert {line["address"] for line in lines} == {"127.0.0.1"}
    assert "this is no frame" in lines[0]["reason"]
    pair.close()


def test_a_node_that_keeps_itself_out_goes_on_serving(tmp_path: Path) -> None:
    """Unhealthy, it would be restarted, and cut the transfers of everybody else."""
    pair = Pair(tmp_path, security={"failed_handshakes_per_minute": 1})
    component = TransportComponent(pair.server)
    assert asyncio.run(component.check()) == HEALTHY
    assert closed_at_once(pair, b"GET / HTTP/1.1\r\n\r\n" + bytes(40)) is False
    wait_until(lambda: not pair.server._pending, "it has failed")
    health = asyncio.run(component.check())
    assert health.status is Status.DEGRADED
    assert "failed_handshakes_per_minute" in health.reason
    pair.close()


def test_one_address_does_not_take_all_places(tmp_path: Path) -> None:
    pair = Pair(tmp_path, security={"max_pending_per_address": 2, "max_pending_handshakes": 8})
    idle = [socket.create_connection(("127.0.0.1", pair.port), timeout=20) for _ in range(2)]
    wait_until(lambda: len(pair.server._pending) == 2, "both have a place")
    assert closed_at_once(pair)
    with socket.socket() as other:
        other.settimeout(20)
        other.bind(("127.0.0.2", 0))
        other.connect(("127.0.0.1", pair.port))
        wait_until(lambda: len(pair.server._pending) == 3, "another address has a place")
    for sock in idle:
        sock.close()
    wait_until(lambda: not pair.server._pending, "places become free")
    random_file(tmp_path / "file", 1000)
    pair.send(tmp_path / "file", "inbox/file")
    pair.close()


def test_strangers_do_not_keep_a_node_from_stopping(tmp_path: Path) -> None:
    pair = Pair(tmp_path, security={"handshake_timeout": 60.0})
    idle = [socket.create_connection(("127.0.0.1", pair.port), timeout=20) for _ in range(20)]
    wait_until(lambda: len(pair.server._pending) == 20, "all have a place")
    began = time.monotonic()
    pair.close()
    assert time.monotonic() - began < 1.5, "two seconds for the first of them, a tenth for each other"
    assert not pair.server._pending
    for sock in idle:
        assert sock.recv(1) == b""
        sock.close()


def test_a_stranger_cannot_make_a_large_head_be_read(pair: Pair) -> None:
    prefix = frames.seal(m.Hello.kind, bytes(frames.MAX_HEAD_BEFORE_WELCOME + 1))[: frames.PREFIX_SIZE]
    with socket.create_connection(("127.0.0.1", pair.port), timeout=20) as sock:
        sock.sendall(prefix)
        assert b"32768 are allowed here" in sock.recv(4096)
    longest = m.Hello(
        versions=[2**32 - 1] * 16,
        node="\U0010ffff" * 64,
        key=bytes(32),
        nonce=bytes(32),
        features=["\U0010ffff" * 64] * 64,
        certificate=bytes(8192),
    )
    assert len(m.encode(longest)) <= frames.MAX_HEAD_BEFORE_WELCOME


def test_sending_ends_when_the_peer_has_given_the_connection_up(tmp_path: Path) -> None:
    """It got a record that it could not read and said so by an alert; OpenSSL has no more to say than that it is over,
    and a sender that went on asking would do so for ever, while all others wait for its lock."""
    identity = load_or_create(tmp_path / "a" / "identity", "a")
    shown = link_certificate("a", identity.private_key.public_key())
    contexts = make_contexts(identity.key_pem, identity.certificate_pem, shown, issuer())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    secured: list[ssl.SSLSocket] = []
    accepting = threading.Thread(target=lambda: secured.append(contexts.server.wrap_socket(far, server_side=True)))
    accepting.start()
    client = TlsLink(contexts.client.wrap_socket(near), read_timeout=5, write_timeout=5)
    accepting.join()
    server = TlsLink(secured[0], read_timeout=5, write_timeout=5)
    os.write(secured[0].fileno(), b"\x17\x03\x03\x00\x20" + bytes(32))
    with pytest.raises(UnreachableError, match="TLS failed"):
        client.receive_into(memoryview(bytearray(1)))
    with pytest.raises(UnreachableError, match="TLS failed"):
        server.receive_into(memoryview(bytearray(1)))
    failures: list[DwcpError] = []

    def send() -> None:
        try:
            server.send(b"x" * 100)
        except DwcpError as error:
            failures.append(error)

    sending = threading.Thread(target=send, daemon=True)
    sending.start()
    sending.join(5)
    assert [type(error) for error in failures] == [UnreachableError]
    client.close()
    server.close()
