"""What a node shows of itself, made anew when its files change: rotation without a restart."""

from __future__ import annotations

import os
import ssl
import threading
from dataclasses import dataclass
from pathlib import Path

import structlog

from dwcp.errors import StateError
from dwcp.links.tls import TlsContexts, make_contexts
from dwcp.store.identity import Identity, load_or_create
from dwcp.store.link_certificate import issuer, link_certificate
from dwcp.wire.authority import Authority

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Credentials:
    """A snapshot; whoever began with it goes on with it."""

    identity: Identity
    contexts: TlsContexts
    certificate: bytes
    """DER, where an authority has signed it; else empty."""
    authority: Authority | None


class CredentialStore:
    """`current` costs a stat call a file while nothing changes, some microseconds. Threads may share one."""

    def __init__(self, identity: Identity, ca_file: str = "") -> None:
        """Raises StateError when TLS cannot use the identity, or the authorities' file cannot be used."""
        self._lock = threading.Lock()
        self._ca_file = ca_file
        self._seen = self._stamps(identity)
        self._current = _make(identity, ca_file)

    def current(self) -> Credentials:
        """Of the files as they are; of those before while the new ones cannot be used, which is logged once."""
        with self._lock:
            old = self._current.identity
            stamps = self._stamps(old)
            if stamps != self._seen:
                self._seen = stamps
                self._reload(old)
            return self._current

    def _reload(self, old: Identity) -> None:
        if not (old.key_file.exists() and old.certificate_file.exists()):
            # being replaced, or lost: making a new identity is for the next start, not for a running node
            log.warning("the identity's files are gone; the one before stays", directory=str(old.key_file.parent))
            return
        try:
            self._current = _make(load_or_create(old.key_file.parent, old.node_name), self._ca_file)
        except StateError as error:
            # a key is in place before its certificate, for example: the next change is looked at again
            log.warning("a changed identity is not taken over", reason=str(error))
            return
        new = self._current.identity
        log.info("certificates were read again", fingerprint=new.fingerprint, new_key=new.public_key != old.public_key)

    def _stamps(self, identity: Identity) -> list[tuple[int, int, int] | None]:
        authorities = [Path(self._ca_file)] if self._ca_file else []
        return [_stamp(file) for file in (identity.key_file, identity.certificate_file, *authorities)]


def _make(identity: Identity, ca_file: str) -> Credentials:
    try:
        shown = link_certificate(identity.node_name, identity.private_key.public_key())
        contexts = make_contexts(identity.key_pem, identity.certificate_pem, shown, issuer())
        authority = _authority(ca_file) if ca_file else None
        return Credentials(identity, contexts, identity.signed_certificate, authority)
    except ssl.SSLError as error:
        raise StateError(f"TLS cannot use {identity.certificate_file}: {error.reason or error}") from error


def _authority(ca_file: str) -> Authority:
    try:
        return Authority(Path(ca_file).read_bytes())
    except OSError as error:
        raise StateError(f"security.ca_file {ca_file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise StateError(f"security.ca_file {ca_file} holds no certificates of authorities (PEM): {error}") from error


def _stamp(file: Path) -> tuple[int, int, int] | None:
    """Inode, time of change and size: what a replaced or rewritten file cannot keep all of (as in `make` and git)."""
    try:
        status = os.stat(file)  # noqa: PTH116  (half the time of Path.stat)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
