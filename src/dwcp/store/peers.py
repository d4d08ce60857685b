"""Peers that were added by command: `peers.yaml` in the state directory, below the configuration's own.

The file has the shape of the configuration's `peers` section, so that it can be read, moved there, or kept under
version control. A peer that the configuration names is the configuration's alone: its address is never put beside a
fingerprint from here.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import yaml

from dwcp.config import Config, load_config
from dwcp.config.load import as_written
from dwcp.config.model import BY_AUTHORITY, PeerSection
from dwcp.config.yaml_reader import read
from dwcp.errors import ConfigError, NotFoundError, StateError, UsageError
from dwcp.store import durable

FILE = "peers.yaml"
CONFIGURATION = "configuration"
_HEADER = "# Written by `dwcp peer add` and `dwcp peer remove`. What the configuration says of a peer goes before.\n"


def with_added(config: Config) -> Config:
    """The configuration with the peers that were added. Raises ConfigError when their file cannot be used."""
    return config.model_copy(update={"peers": {**added_peers(_file(config)), **config.peers}})


def origins(config: Config) -> dict[str, str]:
    """Where each peer comes from, by name: CONFIGURATION or the path of the file. `config` without what was added.

    Raises ConfigError.
    """
    file = _file(config)
    return {**dict.fromkeys(added_peers(file), str(file)), **dict.fromkeys(config.peers, CONFIGURATION)}


def add_peer(config: Config, name: str, peer: PeerSection) -> bool:
    """False when it was there already, just so. `config` is the one without what was added.

    Raises UsageError when the name or the fingerprint is taken or there is no authority to go by, ConfigError or
    StateError when the file cannot be used.
    """
    file = _file(config)
    if name in config.peers:
        raise UsageError(f"peer {name!r} is in the configuration, which goes before; change it there")
    if peer.fingerprint == BY_AUTHORITY and not config.security.ca_file:
        raise UsageError(f"fingerprint {BY_AUTHORITY!r} needs security.ca_file, which is not set")
    with _locked(file.parent):
        peers = added_peers(file)
        if peers.get(name) == peer:
            return False
        if name in peers:
            raise UsageError(
                f"peer {name!r} is known already ({peers[name].address}, {peers[name].fingerprint}); "
                f"if that is out of date, `dwcp peer remove {name}` first"
            )
        for other, known in {**peers, **config.peers}.items():
            if known.fingerprint == peer.fingerprint != BY_AUTHORITY:
                raise UsageError(f"this fingerprint is known already, as peer {other!r}")
        _write(file, {**peers, name: peer})
    return True


def remove_peer(config: Config, name: str) -> None:
    """Raises NotFoundError, UsageError for a peer of the configuration, ConfigError or StateError."""
    file = _file(config)
    with _locked(file.parent):
        peers = added_peers(file)
        if name in peers:
            del peers[name]
            _write(file, peers)
            return
    if name in config.peers:
        raise UsageError(f"peer {name!r} is in the configuration; remove it there")
    raise NotFoundError(f"no peer {name!r} was added; there are: {', '.join(sorted(peers)) or 'none'}")


def added_peers(file: Path) -> dict[str, PeerSection]:
    """By name; empty where there is no file. Raises ConfigError with the place of each problem."""
    if not os.path.lexists(file):
        return {}
    document = read(file)
    other = [key for key in document.values if key != "peers"]
    if other:
        line, column = document.places[(other[0],)]
        raise ConfigError([f"{file}:{line}:{column}: {other[0]}: only peers belong into this file"])
    # whether there is an authority is for the configuration to say, not for this file
    return dict(load_config([file], overrides={"security.ca_file": "/"}).peers)


def _file(config: Config) -> Path:
    return Path(config.storage.state_dir) / FILE


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """One command at a time changes the file: flock(2) on its directory, which replacing the file does not lose."""
    try:
        with durable.locked(directory):
            yield
    except OSError as error:
        raise StateError(f"cannot use the state directory {directory}: {error.strerror}") from error


def _write(file: Path, peers: dict[str, PeerSection]) -> None:
    """Whole or not at all, also after a power cut."""
    written = {name: {key: value for key, value in as_written(peer).items() if value} for name, peer in peers.items()}
    text = _HEADER + yaml.safe_dump({"peers": written}, sort_keys=False, allow_unicode=True)
    try:
        durable.write(file, text.encode())
    except OSError as error:
        raise StateError(f"cannot write {file}: {error.strerror}; run as the user that owns it") from error
