"""How large the pieces are that streams carry.

A piece keeps its stream busy for its whole length, and the transfer ends with its slowest stream: on a path of 100
Mbit/s shared by 100 streams, 1 MiB takes eight seconds, in which at the end of a transfer all others have nothing to
do. Large pieces, on the other hand, cost less of our own time each. So a piece is what one of the streams moves in
BUSY seconds.
"""

from __future__ import annotations

import math

BUSY = 0.1
FAR = 0.005
"""Seconds of round trip from which on a path is one between sites."""
SMALLEST_LOG, USUAL_LOG = 17, 20
UNKNOWN_RATE = 500e6
"""Bits per second that a path between sites is taken for until something was sent there."""


def leaf_log(round_trip: float, rate: float | None, streams: int) -> int:
    """Binary logarithm of the least leaf size in bytes, from 17 (128 KiB) to 20 (1 MiB).

    `round_trip` in seconds, `rate` of the path in bits per second as far as it is known.
    """
    if round_trip < FAR:
        return USUAL_LOG
    wanted = (rate or UNKNOWN_RATE) / 8 / max(1, streams) * BUSY
    return max(SMALLEST_LOG, min(USUAL_LOG, math.ceil(math.log2(max(1.0, wanted)))))
