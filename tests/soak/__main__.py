"""Transfers under random faults, in network namespaces of their own (root), until as many were done as were asked for.

Every file has to arrive identical; what is sent again has to stay under RESENT of the content and one WINDOW a fault;
both ends have to stay below MEMORY. All that is random follows from the seed, except for what the kernel and the
scheduler add: a seed brings the same jobs and faults again, not the same instants.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.soak import faults, jobs
from tests.soak.ends import MIB, WINDOW, Ends, tracebacks
from tests.soak.network import Network, NoNetworkError

RESENT = 0.05
MEMORY = 512 * MIB
GAP = 48 * MIB
"""Bytes on the wire between two faults at most."""
HANG = 40.0
"""Seconds without content on the wire or an end: 20 times the timeouts, and more than the longest fault."""
MOVES = MIB // 4
"""Bytes on the wire that are more than signs of life and handshakes."""
TRIES = 20
"""Commands that may give up after one fault: each tries for TIMEOUT itself once it was connected."""
LOOK = 0.01
TEMPORARY = 5


class SoakError(Exception):
    """What a run has to end without."""


class Soak:
    def __init__(self, seed: int, wanted: int, network: Network, ends: Ends) -> None:
        self.history: list[str] = []
        self.kinds: Counter[str] = Counter()
        self.content = self.reruns = self.transfers = 0
        self._chance = random.Random(seed)
        self._wanted = wanted
        self._network = network
        self._ends = ends
        self._began = time.monotonic()

    @property
    def faults(self) -> int:
        return sum(self.kinds.values())

    def run(self) -> None:
        before = self._network.payload()
        while self.faults < self._wanted:
            job = jobs.draw(self._chance, self.transfers, self._ends)
            self._note(f"{job} begins")
            self._carry(job)
            differences = job.differences()
            if differences:
                raise SoakError(f"{job} arrived otherwise: {'; '.join(differences[:5])}")
            job.clear()
            self.transfers += 1
            self.content += job.size
        self._judge(self._network.payload() - before)

    def _carry(self, job: jobs.Job) -> None:
        """To its end, with a fault now and then."""
        command = self._ends.run(job.route, job.words, job.standard_input)
        tries = 0
        try:
            while True:
                self._await(command, self._network.payload() + self._chance.randrange(GAP))
                code = command.poll()
                if code == 0:
                    return
                if code is not None:
                    tries += 1
                    if code != TEMPORARY or tries > TRIES:
                        raise SoakError(f"{job} ended with {code}")
                    self._note("given up, and started again")
                    self.reruns += 1
                    command = self._ends.run(job.route, job.words, job.standard_input)
                elif self.faults < self._wanted:
                    fault = faults.draw(self._chance)
                    told = fault(faults.Scene(self._chance, self._network, self._ends, job, command))
                    self.kinds[fault.__name__] += 1
                    tries = 0
                    self._note(f"fault {self.faults}: {told}")
                    if command.poll() == -9:
                        command = self._ends.run(job.route, job.words, job.standard_input)
        finally:
            if command.poll() is None:
                command.kill()
            command.wait()

    def _await(self, command: subprocess.Popen[bytes], payload: int) -> None:
        """Until so much has passed or the command has ended."""
        moved, last_move = 0, time.monotonic()
        while command.poll() is None and (now := self._network.payload()) < payload:
            if now - moved > MOVES:
                moved, last_move = now, time.monotonic()
            if time.monotonic() - last_move > HANG:
                tracebacks(command)
                tracebacks(self._ends.manager.running)
                raise SoakError(f"nothing moved for {HANG:g} s")
            if self._ends.manager.running.poll() is not None:
                raise SoakError(f"the manager has ended by itself, with {self._ends.manager.running.returncode}")
            self._ends.measure(command)
            time.sleep(LOOK)

    def _judge(self, wire: int) -> None:
        again = wire - self.content
        allowed = int(RESENT * self.content) + WINDOW * self.faults
        peak = self._ends.peak
        print(
            f"{self.faults} faults ({', '.join(f'{count} {name}' for name, count in self.kinds.most_common())})\n"
            f"{self.transfers} transfers, {self.reruns} commands given again, "
            f"{time.monotonic() - self._began:.0f} s\n"
            f"{self.content / MIB:.0f} MiB of content, {wire / MIB:.0f} MiB on the wire: {again / MIB:.0f} MiB more "
            f"({again / self.content:.2%} of the content, {again / max(1, self.faults) / MIB:.2f} MiB a fault), "
            f"{allowed / MIB:.0f} MiB are allowed\n"
            f"memory: {peak['near'] / MIB:.0f} MiB at the near end, {peak['far'] / MIB:.0f} MiB at the far end"
        )
        if again > allowed:
            raise SoakError(f"{again / MIB:.0f} MiB were sent again")
        if max(peak.values()) > MEMORY:
            raise SoakError(f"{max(peak.values()) / MIB:.0f} MiB of memory were in use")

    def _note(self, line: str) -> None:
        self.history.append(f"{time.monotonic() - self._began:7.1f} s  {line}")
        print(self.history[-1], flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--faults", type=int, default=200)
    given = parser.parse_args()
    seed = random.randrange(10**6) if given.seed is None else given.seed
    print(f"SOAK_SEED={seed}", flush=True)
    # namespaces and processes are taken away however it ends
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with tempfile.TemporaryDirectory(prefix="dwcp-soak-") as directory:
        try:
            with Network() as network, Ends(Path(directory), network, seed) as ends:
                soak = Soak(seed, given.faults, network, ends)
                try:
                    soak.run()
                except BaseException as error:
                    kept = ends.keep_logs(f"dwcp-soak-{seed}")
                    print(ends.logs(), "\n".join(["-- what was done --", *soak.history]), sep="\n")
                    print(f"FAILED with SOAK_SEED={seed}: {error}\nall of both logs: {kept}")
                    if isinstance(error, SoakError):
                        return 1
                    raise
        except NoNetworkError as error:
            print(f"skipped: {error}")
            return 0
    print(f"passed with SOAK_SEED={seed}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
