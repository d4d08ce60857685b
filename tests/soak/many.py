"""Ten transfers at once of 32 streams each, between one near and one far end: all finish, none starves, and memory is
bounded at both ends."""

from __future__ import annotations

import random
import sys
import tempfile
import time
from pathlib import Path

from tests.soak.ends import MIB, Ends, Route
from tests.soak.jobs import fill_file
from tests.soak.network import Network, NoNetworkError

TRANSFERS = 10
STREAMS = 32
SIZE = 100 * MIB
SLOWEST = 2.0
"""The longest time over the shortest one."""
MEMORY = 512 * MIB
"""Of each process."""
SECONDS = 150.0
LOOK = 0.01
TRANSPORT = {
    "min_streams": STREAMS,
    "initial_streams": STREAMS,
    "max_streams": STREAMS,
    "send_buffer_size": "16MiB",
    "recv_buffer_size": "16MiB",
    "connect_timeout": "30s",
    "read_timeout": "60s",
    "write_timeout": "60s",
    "enable_pacing": False,
}
"""As by default, but for the number of streams, and pacing, by which the ends would have less to do."""


def measure(ends: Ends) -> list[str]:
    """What is wrong, after it was printed how it went."""
    chance = random.Random(1)
    sources = [ends.directory / f"source-{number}" for number in range(TRANSFERS)]
    for source in sources:
        fill_file(chance, source, SIZE)
    began = time.monotonic()
    commands = [ends.run(Route.DIRECT, ["send", source, f"far:inbox/{source.name}"]) for source in sources]
    ended: dict[int, float] = {}
    try:
        while len(ended) < TRANSFERS and time.monotonic() - began < SECONDS:
            ends.measure(*commands)
            for number, command in enumerate(commands):
                if command.poll() is not None:
                    ended.setdefault(number, time.monotonic() - began)
            time.sleep(LOOK)
    finally:
        for command in commands:
            if command.poll() is None:
                command.kill()
            command.wait()
    problems = [f"transfer {n} ended with {c.returncode}" for n, c in enumerate(commands) if c.returncode]
    problems += [
        f"{source.name} arrived otherwise"
        for source, command in zip(sources, commands, strict=True)
        if command.returncode == 0 and (ends.inbox / source.name).read_bytes() != source.read_bytes()
    ]
    shortest, longest = min(ended.values(), default=0.0), max(ended.values(), default=0.0)
    rate = TRANSFERS * SIZE * 8 / 1e6 / max(longest, 0.001)
    print(
        f"{TRANSFERS} transfers at once of {STREAMS} streams and {SIZE / MIB:.0f} MiB each: {shortest:.1f} to "
        f"{longest:.1f} s, {rate:.0f} Mbit/s together; memory: {ends.peak['near'] / MIB:.0f} MiB in the largest "
        f"sender, {ends.peak['far'] / MIB:.0f} MiB in the receiver"
    )
    if longest > SLOWEST * shortest:
        problems.append(f"the slowest took {longest / shortest:.1f} times as long as the fastest")
    if max(ends.peak.values()) > MEMORY:
        problems.append(f"{max(ends.peak.values()) / MIB:.0f} MiB of memory were in use")
    return problems


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="dwcp-many-") as directory:
        try:
            with Network() as network, Ends(Path(directory), network, transport=TRANSPORT) as ends:
                problems = measure(ends)
                if problems:
                    print(ends.logs())
        except NoNetworkError as error:
            print(f"skipped: {error}")
            return 0
    print(*problems, sep="\n", end="\n" if problems else "")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
