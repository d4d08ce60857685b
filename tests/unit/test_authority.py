"""Certificates of an authority: the one that counts, and everything that does not."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass, field, replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from dwcp.wire.authority import Authority

NOW = datetime.datetime(2030, 6, 1, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)
KEY, OTHER = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
ROOT_KEY = ec.generate_private_key(ec.SECP256R1())
RAW = KEY.public_key().public_bytes_raw()
SigningKey = Ed25519PrivateKey | ec.EllipticCurvePrivateKey


def usage(*, sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


@dataclass(frozen=True)
class Paper:
    """What goes into a certificate."""

    subject: str = "node"
    issuer: str = "root"
    key: SigningKey = KEY
    signer: SigningKey = ROOT_KEY
    names: tuple[str, ...] = ("b",)
    ca: bool | None = None
    begin: datetime.datetime = NOW - DAY
    end: datetime.datetime = NOW + DAY
    extensions: tuple[tuple[x509.ExtensionType, bool], ...] = field(default=())
    digest: hashes.HashAlgorithm = field(default_factory=hashes.SHA256)

    def made(self) -> x509.Certificate:
        def name(text: str) -> x509.Name:
            return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

        builder = (
            x509.CertificateBuilder()
            .subject_name(name(self.subject))
            .issuer_name(name(self.issuer))
            .public_key(self.key.public_key())
            .serial_number(7)
            .not_valid_before(self.begin)
            .not_valid_after(self.end)
        )
        if self.names:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([x509.DNSName(name) for name in self.names]), critical=False
            )
        if self.ca is not None:
            builder = builder.add_extension(x509.BasicConstraints(self.ca, None), critical=True)
        for extension, critical in self.extensions:
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(self.signer, None if isinstance(self.signer, Ed25519PrivateKey) else self.digest)

    @property
    def der(self) -> bytes:
        return self.made().public_bytes(Encoding.DER)

    @property
    def pem(self) -> bytes:
        return self.made().public_bytes(Encoding.PEM)


ROOT = Paper(subject="root", key=ROOT_KEY, names=(), ca=True)
GOOD = Paper()
GOOD_DER = GOOD.der
ROOT_PEM = ROOT.pem
CONSTRAINED = x509.NameConstraints(permitted_subtrees=[x509.DNSName("a")], excluded_subtrees=None)


def objection(shown: Paper | bytes, *, root: bytes = ROOT_PEM, key: bytes = RAW, name: str = "b") -> str:
    return Authority(root).objection(shown if isinstance(shown, bytes) else shown.der, key, name, NOW)


def test_what_the_authority_signed_for_the_name_is_trusted() -> None:
    assert objection(GOOD) == ""
    assert objection(replace(GOOD, names=("a", "b"))) == ""
    assert objection(replace(GOOD, extensions=((usage(sign=False), True),))) == ""
    by_ed25519 = replace(ROOT, key=OTHER, signer=OTHER)
    assert objection(replace(GOOD, signer=OTHER), root=ROOT.pem + by_ed25519.pem) == "", "any of several authorities"


@pytest.mark.parametrize(
    ("shown", "why"),
    [
        (b"", "shows no certificate"),
        (b"0\x00", "cannot be read"),
        (replace(GOOD, names=("c",)), "is for c, not for b"),
        (replace(GOOD, names=(), subject="b"), "is for no name, not for b"),
        (replace(GOOD, names=("*",)), r"is for \*, not for b"),
        (replace(GOOD, key=OTHER), "for another key"),
        (replace(GOOD, key=ROOT_KEY), "for another key"),
        (replace(GOOD, begin=NOW + DAY, end=NOW + 2 * DAY), "is valid from"),
        (replace(GOOD, begin=NOW - 2 * DAY, end=NOW - DAY), "is valid from"),
        (replace(GOOD, signer=OTHER), "not signed by an authority"),
        (replace(GOOD, issuer="b", subject="b", signer=KEY), "not signed by an authority"),
        (replace(GOOD, issuer="other"), "not signed by an authority"),
        (replace(GOOD, extensions=((CONSTRAINED, True),)), "critical extension"),
    ],
)
def test_what_is_no_proof_says_why(shown: Paper | bytes, why: str) -> None:
    assert re.search(why, objection(shown))


def test_a_chain_through_somebody_else_is_none() -> None:
    middle = replace(ROOT, subject="middle", key=OTHER, ca=True)
    leaf = replace(GOOD, issuer="middle", signer=OTHER)
    assert "not signed" in objection(leaf)
    assert objection(leaf, root=middle.pem) == ""


def test_the_authority_has_dates_too() -> None:
    assert "has expired" in objection(GOOD, root=replace(ROOT, begin=NOW - 9 * DAY, end=NOW - DAY).pem)


@pytest.mark.parametrize(
    "root",
    [
        replace(ROOT, ca=False),
        replace(ROOT, ca=None),
        replace(ROOT, extensions=((usage(sign=False), True),)),
        replace(ROOT, extensions=((CONSTRAINED, True),)),
    ],
)
def test_not_every_certificate_is_an_authority(root: Paper) -> None:
    with pytest.raises(ValueError, match="is not the certificate of an authority"):
        Authority(root.pem)
    assert Authority(replace(ROOT, extensions=((usage(sign=True), True),)).pem)


def test_a_file_without_certificates_is_no_authority() -> None:
    with pytest.raises(ValueError, match="PEM"):
        Authority(b"hello")


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
@given(st.integers(0, len(GOOD_DER) - 1), st.integers(1, 255))
def test_no_byte_of_a_certificate_may_be_another(at: int, change: int) -> None:
    content = bytearray(GOOD_DER)
    content[at] ^= change
    assert objection(bytes(content))
