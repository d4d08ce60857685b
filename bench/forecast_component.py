"""What forecasting 32 peers costs a manager: seconds of processor a round, and resident memory."""

from __future__ import annotations

import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

from dwcp.config.model import Prediction
from dwcp.prediction.predictor import Predictor
from dwcp.store.links import Sample

PEERS, MEASUREMENTS, STEP = 32, 720, 5.0
ROUNDS = 5
MOST_MIB, MOST_SHARE = 120.0, 0.02
"""Goals: of memory, and of one core at the default interval (30 s), which nobody notices."""


def main() -> int:
    config = Prediction(enabled=True, model_type="auto")
    source, now = random.Random(1), time.time()
    with tempfile.TemporaryDirectory() as directory:
        before = _resident_mib()
        predictor = Predictor(Path(directory), lambda: config)
        peers = [f"peer{number}" for number in range(PEERS)]
        for peer in peers:
            for index in range(MEASUREMENTS):
                rate = source.lognormvariate(17, 0.4)
                predictor.store.add(peer, Sample(now - index * STEP, STEP, rate, False, "transfer"))
        first, *others = (_seconds(predictor, peers, now + 30 * number) for number in range(1 + ROUNDS))
        resident = _resident_mib() - before
        predictor.close()
    a_round = statistics.median(others)
    share = a_round / config.update_interval
    print(f"{PEERS} peers, auto: the first round takes {first:.2f} s, then {a_round * 1000:.0f} ms of a core")
    print(f"resident memory: {resident:.0f} MiB more, at most {MOST_MIB:g}")
    return int(share > MOST_SHARE or resident > MOST_MIB)


def _seconds(predictor: Predictor, peers: list[str], now: float) -> float:
    began = time.process_time()
    predictor.round(peers, now)
    return time.process_time() - began


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    sys.exit(main())
