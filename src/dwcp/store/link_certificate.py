"""The certificate that an initiator shows in TLS: it carries the identity key to the responder and vouches for nothing.

A responder wants to see the key of whoever calls, pinned or not yet known, and to check it itself. OpenSSL can do that
by a callback, which Python does not have: there a client's certificate must come from an issuer that the server holds,
or the handshake fails. So every node issues its own, in the name of one issuer whose private key is in the open: it is
made from the words below. That anybody can issue such certificates is the point. TLS proves that its owner has the
key, and `wire.handshake` who may have which key.

It is made in memory, with dates that no clock is outside of: a wrong clock shall not cut a link.
"""

from __future__ import annotations

import datetime
import hashlib

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

ISSUER = "dwcp link issuer"
_BEGIN = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)
_END = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)
"""RFC 5280, 4.1.2.5: no well-defined expiry."""


def issuer() -> bytes:
    """The issuer's certificate, PEM; the same at every node."""
    return _certificate(ISSUER, _issuer_key().public_key(), serial=1, is_issuer=True)


def link_certificate(node_name: str, key: Ed25519PublicKey) -> bytes:
    """PEM; the same for the same name and key."""
    serial = int.from_bytes(hashlib.sha256(key.public_bytes_raw()).digest()[:16], "big") | 1
    return _certificate(node_name, key, serial=serial, is_issuer=False)


def _issuer_key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(ISSUER.encode()).digest())


def _certificate(name: str, key: Ed25519PublicKey, *, serial: int, is_issuer: bool) -> bytes:
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, ISSUER)]))
        .public_key(key)
        .serial_number(serial)
        .not_valid_before(_BEGIN)
        .not_valid_after(_END)
        .add_extension(x509.BasicConstraints(ca=is_issuer, path_length=0 if is_issuer else None), critical=True)
        .sign(_issuer_key(), algorithm=None)
    )
    return certificate.public_bytes(Encoding.PEM)
