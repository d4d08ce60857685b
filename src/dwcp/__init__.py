"""DWCP: keeps a workload's state at other sites over long, lossy links.

    import dwcp

    async with dwcp.connect("node2") as peer:
        await peer.send("tree", "inbox/tree")

    async with dwcp.Manager(dwcp.load_config(["config.yaml"])):
        ...

The map of the package: `errors`, `units` and `config` may be known by all. The core decides, without sockets, files or
clocks: `wire` (protocol), `tuning` (streams), `hde` (delta encoding), `supervise` (health, recovery, breakers),
`policy` (schedules, jobs, retention). The shell acts: `links` (TCP, TLS), `store` (identity, journals, jobs), `files`
(trees), `versions` (of paths), `transfer` (one transfer, both roles), `workloads` (what is declared), `manager` (the
coordinator), `metrics`, `api`, `cli`, and `testing` (a lab of local nodes).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dwcp.errors import DwcpError

if TYPE_CHECKING:
    from dwcp.config import Config, load_config
    from dwcp.manager.manager import Manager
    from dwcp.transfer.board import TransferStatus
    from dwcp.transfer.client import Peer, connect, fingerprint
    from dwcp.transfer.remote_files import RemoteEntry
    from dwcp.transfer.remote_versions import CheckedVersions, KeptVersion, RemoteVersion
    from dwcp.transfer.result import TransferResult
    from dwcp.wire.tree import Change, TreeOptions

_LATE = {
    "Change": "dwcp.wire.tree",
    "Config": "dwcp.config",
    "Manager": "dwcp.manager.manager",
    "Peer": "dwcp.transfer.client",
    "RemoteEntry": "dwcp.transfer.remote_files",
    "CheckedVersions": "dwcp.transfer.remote_versions",
    "KeptVersion": "dwcp.transfer.remote_versions",
    "RemoteVersion": "dwcp.transfer.remote_versions",
    "TransferResult": "dwcp.transfer.result",
    "TransferStatus": "dwcp.transfer.board",
    "TreeOptions": "dwcp.wire.tree",
    "connect": "dwcp.transfer.client",
    "fingerprint": "dwcp.transfer.client",
    "load_config": "dwcp.config",
}
"""Loaded at first use: `dwcp --help` needs none of them."""

__all__ = [
    "Change",
    "CheckedVersions",
    "Config",
    "DwcpError",
    "KeptVersion",
    "Manager",
    "Peer",
    "RemoteEntry",
    "RemoteVersion",
    "TransferResult",
    "TransferStatus",
    "TreeOptions",
    "connect",
    "fingerprint",
    "load_config",
]


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module 'dwcp' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LATE[name]), name)
