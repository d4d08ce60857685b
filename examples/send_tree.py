"""Send a tree to a peer, with progress, and look at what is there afterwards.

    python examples/send_tree.py --config FILE SOURCE PEER EXPORT/PATH

Two nodes to try it with: `dwcp lab up --dir /tmp/lab`, then

    python examples/send_tree.py --config /tmp/lab/node1/config.yaml docs node2 inbox/docs
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

import dwcp


def show(status: dwcp.TransferStatus) -> None:
    """Called about five times a second, from another thread."""
    print(f"{status.bytes_done} of {status.bytes_total} bytes on {status.streams} streams", file=sys.stderr)


async def main() -> int:
    parser = argparse.ArgumentParser(description="Send a tree to a peer.")
    parser.add_argument("--config", type=Path, action="append", default=[], help="as of dwcp; may be repeated")
    parser.add_argument("source", type=Path)
    parser.add_argument("peer")
    parser.add_argument("target", metavar="EXPORT/PATH")
    arguments = parser.parse_args()
    try:
        config = dwcp.load_config(arguments.config) if arguments.config else None
        async with dwcp.connect(arguments.peer, config=config) as peer:
            result = await peer.send(arguments.source, arguments.target, on_progress=show)
            listing = await peer.ls(arguments.target) if arguments.source.is_dir() else []
    except dwcp.DwcpError as error:
        # what was sent so far is kept: the same call again goes on from there
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{result.files} files, {result.unchanged} of them unchanged, {result.wire_bytes} bytes on the wire")
    for entry in listing:
        print(f"  {entry.name} ({entry.kind}, {entry.size} bytes)")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
