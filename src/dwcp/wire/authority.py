"""A certificate authority as a source of trust: whose certificate it has signed is who the certificate says.

Rules, all of them: the certificate is signed by one of the authorities itself (an intermediate one belongs into their
file); it carries the key that was proved; the node's name is among its DNS names (subjectAltName; the common name does
not count, RFC 6125, 6.4.4); now is within its dates and its authority's; the authority is marked as one; nothing
critical is in either that is not understood here (RFC 5280, 4.2); no signature uses SHA-1 or older. Revocation lists
are not looked at: short dates are how a certificate ends.

cryptography's own verifier follows the rules for public web servers, which leave Ed25519 out.
"""

from __future__ import annotations

import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

_UNDERSTOOD = (x509.BasicConstraints, x509.KeyUsage, x509.ExtendedKeyUsage, x509.SubjectAlternativeName)
UNREADABLE = (
    ValueError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What cryptography raises for certificates that somebody made to be no certificates; not all are ValueErrors."""
_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)


class Authority:
    """One or several authorities that count alike."""

    def __init__(self, pem: bytes) -> None:
        """Raises ValueError when there is none in it."""
        try:
            self._certificates = x509.load_pem_x509_certificates(pem)
            wrong = [certificate for certificate in self._certificates if not _may_sign(certificate)]
        except UNREADABLE as error:
            raise ValueError(str(error)) from error
        if wrong:
            raise ValueError(f"{wrong[0].subject.rfc4514_string()} is not the certificate of an authority")

    def objection(self, certificate: bytes, key: bytes, name: str, now: datetime.datetime) -> str:
        """Why `certificate` (DER) does not show that `key` (32 bytes, proved) is node `name`'s; empty when it does."""
        if not certificate:
            return "it shows no certificate of an authority"
        try:
            shown = x509.load_der_x509_certificate(certificate)
            return self._objection(shown, key, name, now)
        except UNREADABLE as error:
            return f"its certificate cannot be read: {error}"

    def _objection(self, shown: x509.Certificate, key: bytes, name: str, now: datetime.datetime) -> str:
        public = shown.public_key()
        if not isinstance(public, Ed25519PublicKey) or public.public_bytes_raw() != key:
            return "its certificate is for another key"
        issuers = [certificate for certificate in self._certificates if _signed(shown, certificate)]
        if not issuers:
            return "its certificate is not signed by an authority of security.ca_file"
        if not any(_valid(issuer, now) for issuer in issuers):
            return "the certificate of its authority has expired"
        # what it says is repeated only from here on: before, anybody could have written it
        if name not in _names(shown):
            return f"its certificate is for {', '.join(_names(shown)) or 'no name'}, not for {name}"
        if strange := _strange(shown):
            return f"its certificate has a critical extension that is not understood here, {strange}"
        if not _valid(shown, now):
            return f"its certificate is valid from {shown.not_valid_before_utc} to {shown.not_valid_after_utc}"
        return ""


def _may_sign(certificate: x509.Certificate) -> bool:
    extensions = certificate.extensions
    try:
        if not extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            return False
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound as error:
        # without a key usage the key may be used for everything (RFC 5280, 4.2.1.3)
        return error.oid == x509.KeyUsage.oid and not _strange(certificate)
    return bool(usage.key_cert_sign) and not _strange(certificate)


def _strange(certificate: x509.Certificate) -> str:
    for extension in certificate.extensions:
        if extension.critical and not isinstance(extension.value, _UNDERSTOOD):
            return str(extension.oid.dotted_string)
    return ""


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return list(names.get_values_for_type(x509.DNSName))


def _valid(certificate: x509.Certificate, now: datetime.datetime) -> bool:
    return certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc


def _signed(shown: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        digest = shown.signature_hash_algorithm
        shown.verify_directly_issued_by(authority)
    except (InvalidSignature, UnsupportedAlgorithm, TypeError, ValueError):
        return False
    # Ed25519 has its hash inside
    return digest is None or isinstance(digest, _HASHES)
