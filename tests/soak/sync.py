"""Fifty nodes with 10,000 keys through partitions, restarts and wrong clocks: all end with the same, and nothing that
was deleted comes back. `python -m tests.soak.sync`."""

from __future__ import annotations

import random
import sys

import click

from tests.simulation import simulate

NODES = 50
KEYS = 10_000
ROUNDS = 36
OLDEST = 6.0
"""Seconds of the oldest view in the end: sync.max_staleness, and a round."""


@click.command()
@click.option("--seed", type=int, help="Of a run that is to be repeated.")
@click.option("--runs", type=int, default=1, show_default=True, help="Each with another seed.")
def main(seed: int | None, runs: int) -> None:
    chosen = random.SystemRandom().randrange(2**32) if seed is None else seed
    for number in range(runs):
        print(f"seed {chosen + number}: {NODES} nodes, {KEYS} keys, {ROUNDS} rounds", flush=True)
        seconds, oldest = simulate(NODES, KEYS, ROUNDS, chosen + number)
        print(f"  the same {seconds} s after the last partition; oldest view {oldest:.1f} s", flush=True)
        if oldest > OLDEST:
            sys.exit(f"a view is {oldest:.1f} s old, more than {OLDEST:g} s")


if __name__ == "__main__":
    main()
