"""Peers that were added by command: `peers.yaml` in the state directory, below the configuration's own.

The file has the shape of the configuration's `peers` section, so that it can be read, moved there, or kept under
version control. A peer that the configuration names is the configuration's alone: its address is never put beside a
fingerprint from here.
"""

from __future__ import annotations

from pathlib import Path

from dwcp.config import Config
from dwcp.config.load import as_written
from dwcp.config.model import BY_AUTHORITY, PeerSection
from dwcp.errors import NotFoundError, UsageError
from dwcp.store import added

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
    with added.locked(file.parent):
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
    with added.locked(file.parent):
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
    # whether there is an authority is for the configuration to say, not for this file
    return added.read(file, "peers", {"security.ca_file": "/"}).peers


def _file(config: Config) -> Path:
    return Path(config.storage.state_dir) / FILE


def _write(file: Path, peers: dict[str, PeerSection]) -> None:
    written = {name: {key: value for key, value in as_written(peer).items() if value} for name, peer in peers.items()}
    added.write(file, _HEADER, "peers", written)
