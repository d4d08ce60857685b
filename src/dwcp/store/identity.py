"""A node's identity: one Ed25519 key, made at first start, and the self-signed certificate that carries it into TLS."""

from __future__ import annotations

import datetime
import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID

from dwcp.errors import StateError
from dwcp.store import durable
from dwcp.wire.authority import UNREADABLE
from dwcp.wire.handshake import fingerprint

CERTIFICATE_YEARS = 100
"""Trust hangs on the pinned key, not on a date: a certificate that expires would only cut the link one night."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The key, its certificate and where their files are."""

    node_name: str
    private_key: Ed25519PrivateKey
    key_file: Path
    certificate_file: Path
    certificate_pem: bytes
    """As it was read: the node's certificate first, whatever chain the operator has put behind it."""

    @property
    def public_key(self) -> bytes:
        """32 bytes."""
        return self.private_key.public_key().public_bytes_raw()

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.public_key)

    @property
    def signed_certificate(self) -> bytes:
        """DER; empty when only the node itself has signed it."""
        certificate = x509.load_pem_x509_certificate(self.certificate_pem)
        if certificate.issuer == certificate.subject:
            return b""
        return certificate.public_bytes(serialization.Encoding.DER)

    @property
    def key_pem(self) -> bytes:
        return _pem(self.private_key)

    def sign(self, message: bytes) -> bytes:
        """64 bytes."""
        return self.private_key.sign(message)


def load_or_create(directory: Path, node_name: str) -> Identity:
    """The identity in `directory`, made there (key readable by its owner alone) when there is none.

    Raises StateError when it cannot be read or written.
    """
    key_file, certificate_file = directory / "node.key", directory / "node.crt"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not key_file.exists():
            _write_new(key_file, _pem(Ed25519PrivateKey.generate()))
        key = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
        if not isinstance(key, Ed25519PrivateKey):
            raise StateError(f"{key_file} holds no Ed25519 key; move it away and a new identity is made")
        if not certificate_file.exists():
            _write_new(certificate_file, _certificate(key, node_name))
        certificate_pem = certificate_file.read_bytes()
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        if certificate.public_key() != key.public_key():
            raise StateError(
                f"{certificate_file} is not for the key in {key_file}; put both in place, "
                f"or move the certificate away and a new one is made"
            )
    except OSError as error:
        raise StateError(
            f"cannot use the identity in {directory}: {error.strerror}; run as the user that owns it, "
            f"or name another directory in storage.state_dir"
        ) from error
    except ValueError as error:
        raise StateError(
            f"the identity in {directory} cannot be read: {error}; {key_file.name} must be an Ed25519 key and "
            f"{certificate_file.name} its certificate, both PEM"
        ) from error
    return Identity(node_name, key, key_file, certificate_file, certificate_pem)


def public_key_of(certificate: bytes) -> bytes:
    """The raw public key in a DER certificate; empty when there is none, or of another kind, or no certificate."""
    if not certificate:
        return b""
    try:
        key = x509.load_der_x509_certificate(certificate).public_key()
    except UNREADABLE:
        return b""
    raw = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    # RFC 8410: an Ed25519 SubjectPublicKeyInfo is a fixed prefix of 12 bytes and the 32 bytes of the key
    return raw[12:] if raw.startswith(bytes.fromhex("302a300506032b6570032100")) else b""


def _write_new(path: Path, content: bytes) -> None:
    """Complete or not at all, also for two processes that start at the same time: the first one's stays."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        durable.create(temporary, content)
        os.link(temporary, path)
    except FileExistsError:
        return
    finally:
        temporary.unlink(missing_ok=True)


def _pem(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _certificate(key: Ed25519PrivateKey, node_name: str) -> bytes:
    now = datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node_name)])
    names: list[x509.GeneralName] = [x509.DNSName(node_name), x509.DNSName("localhost")]
    names += [x509.IPAddress(ipaddress.ip_address(address)) for address in ("127.0.0.1", "::1")]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=365 * CERTIFICATE_YEARS))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, algorithm=None)
    )
    return certificate.public_bytes(serialization.Encoding.PEM)
