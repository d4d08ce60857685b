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

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Credentials:
    """A snapshot; whoever began with it goes on with it."""

    identity: Identity
    contexts: TlsContexts


class CredentialStore:
    """`current` costs two stat calls while nothing changes, some 3 microseconds. Threads may share one."""

    def __init__(self, identity: Identity) -> None:
        """Raises StateError when TLS cannot use the identity."""
        self._lock = threading.Lock()
        self._seen = _stamps(identity.key_file, identity.certificate_file)
        self._current = _make(identity)

    def current(self) -> Credentials:
        """Of the files as they are; of those before while the new ones cannot be used, which is logged once."""
        with self._lock:
            old = self._current.identity
            stamps = _stamps(old.key_file, old.certificate_file)
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
            self._current = _make(load_or_create(old.key_file.parent, old.node_name))
        except StateError as error:
            # a key is in place before its certificate, for example: the next change is looked at again
            log.warning("a changed identity is not taken over", reason=str(error))
            return
        new = self._current.identity
        log.info("certificate was read again", fingerprint=new.fingerprint, new_key=new.public_key != old.public_key)


def _make(identity: Identity) -> Credentials:
    try:
        shown = link_certificate(identity.node_name, identity.private_key.public_key())
        return Credentials(identity, make_contexts(identity.key_pem, identity.certificate_pem, shown, issuer()))
    except ssl.SSLError as error:
        raise StateError(f"TLS cannot use {identity.certificate_file}: {error.reason or error}") from error


def _stamps(*files: Path) -> list[tuple[int, int, int] | None]:
    """Inode, time of change and size: what a replaced or rewritten file cannot keep all of (as in `make` and git)."""
    return [_stamp(file) for file in files]


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        status = os.stat(file)  # noqa: PTH116  (half the time of Path.stat)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
