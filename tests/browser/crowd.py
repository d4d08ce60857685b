"""A manager with 100 peers and 1,000 transfers on its board, as a process: `python -m tests.browser.crowd CONFIG`.

Prints its HTTP address when it is up; ends with its standard input.
"""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import replace
from pathlib import Path

from dwcp import logs
from dwcp.config import load_config
from dwcp.manager.manager import Manager
from dwcp.transfer.board import Role, TransferStatus

TRANSFERS = 1000
PEERS = 100
SIZE = 10**9


async def main(config_file: Path) -> None:
    async with Manager(load_config([config_file], {}, {})) as node:
        began = time.monotonic()

        def read(status: TransferStatus) -> TransferStatus:
            done = min(SIZE, int((time.monotonic() - began) * 10**6))
            return replace(status, bytes_done=done, wire_bytes=done, streams=4)

        for number in range(TRANSFERS):
            status = TransferStatus(
                f"t{number}", Role.RECEIVE, f"peer{number % PEERS}", f"inbox/disk-{number}", bytes_total=SIZE
            )
            node.board.begin(status, read, lambda: None, lambda _: None)
        print(node.addresses["http"], flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    logs.configure("warning", "console")
    asyncio.run(main(Path(sys.argv[1])))
