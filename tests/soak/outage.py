"""The link is down for a minute in the midst of a transfer, with the timeouts that everybody has: the same command goes
on by itself, and sends little twice."""

from __future__ import annotations

import filecmp
import random
import sys
import tempfile
import threading
import time
from pathlib import Path

from tests.soak.ends import MIB, WINDOW, Ends, Route
from tests.soak.jobs import fill_file
from tests.soak.network import Network, NoNetworkError

SIZE = 300 * MIB
DOWN = 60.0
SECONDS = 240.0
LOOK = 0.05
TRANSPORT = {"connect_timeout": "30s", "read_timeout": "60s", "write_timeout": "60s", "pacing_rate": "200Mbit/s"}


def outage(network: Network, ends: Ends) -> list[str]:
    """What is wrong, after it was printed how it went."""
    source = ends.directory / "source"
    size = fill_file(random.Random(1), source, SIZE)
    before, began = network.payload(), time.monotonic()
    command = ends.run(Route.DIRECT, ["send", source, "far:inbox/source"])
    try:
        while network.payload() - before < size // 3 and command.poll() is None:
            time.sleep(LOOK)
        network.set_link(False)
        threading.Event().wait(DOWN)
        network.set_link(True)
        again = time.monotonic()
        command.wait(SECONDS)
    finally:
        if command.poll() is None:
            command.kill()
        command.wait()
    more = network.payload() - before - size
    print(
        f"link down for {DOWN:g} s: {time.monotonic() - began:.0f} s in all, {time.monotonic() - again:.0f} s after it "
        f"was up again, {more / MIB:.1f} MiB sent again ({WINDOW / MIB:.0f} are allowed)"
    )
    problems = [f"the command ended with {command.returncode}"] if command.returncode else []
    if not problems and not filecmp.cmp(source, ends.inbox / "source", shallow=False):
        problems.append("it arrived otherwise")
    if more > WINDOW:
        problems.append(f"{more / MIB:.0f} MiB were sent again")
    return problems


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="dwcp-outage-") as directory:
        try:
            with Network() as network, Ends(Path(directory), network, transport=TRANSPORT) as ends:
                problems = outage(network, ends)
                if problems:
                    print(ends.logs())
        except NoNetworkError as error:
            print(f"skipped: {error}")
            return 0
    print(*problems, sep="\n", end="\n" if problems else "")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
