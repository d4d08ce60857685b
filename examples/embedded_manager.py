"""A node inside another program: a manager with an export, and a client that sends it a file.

    python examples/embedded_manager.py DIRECTORY

Everything is kept below DIRECTORY. Here the client is in the same program, as a second node with its own identity; as a
rule it is at another site, and the two learn each other's fingerprints from `dwcp id`.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path
from typing import Any

import structlog
import yaml

import dwcp


def write_config(directory: Path, name: str, **sections: dict[str, Any]) -> dwcp.Config:
    """A configuration like any other: from a file, checked to the last key."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "config.yaml"
    everything = {
        "node": {"name": name},
        "storage": {"state_dir": str(directory / "state")},
        # port 0: any that is free
        "transport": {"listen": "127.0.0.1:0"},
        "http": {"listen": "127.0.0.1:0", "tls_listen": ""},
    }
    for section, values in sections.items():
        everything[section] = {**everything.get(section, {}), **values}
    path.write_text(yaml.safe_dump(everything))
    return dwcp.load_config([path])


async def main(directory: Path) -> None:
    (directory / "inbox").mkdir(parents=True, exist_ok=True)
    client = write_config(directory / "client", "client")
    trusted = {"client": {"fingerprint": dwcp.fingerprint(client)}}
    exports = {"exports": {"inbox": {"path": str(directory / "inbox")}}, "state_dir": str(directory / "node" / "state")}
    server = write_config(directory / "node", "node", peers=trusted, storage=exports)

    async with dwcp.Manager(server) as node:
        print(f"{node.health().status}, listening on {node.addresses['transport']}")
        known = {"node": {"address": node.addresses["transport"], "fingerprint": node.fingerprint}}
        client = write_config(directory / "client", "client", peers=known)
        async with dwcp.connect("node", config=client) as peer:
            result = await peer.send(Path(__file__), "inbox/")
            print(f"sent {result.bytes} bytes, verified: {result.verified}")
    # stopped, and so done with everything; while it runs, node.board.live() has what is under way
    for status in node.board.recent():
        print(f"{status.role} {status.target} from {status.peer}: {status.state}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    # a node logs by structlog; where that goes and how much of it is for the program to say
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    asyncio.run(main(Path(sys.argv[1]).absolute()))
