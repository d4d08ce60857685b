"""Coverage-guided fuzzing (atheris) of what a stranger's bytes reach: frames, the handshake, a served session, both
roles of a transfer. Nothing but the protocol's own errors comes out, nothing hangs, memory stays bounded.

`python -m tests.soak.fuzz` runs every target for a while, each in a process of its own; with a target's name it is
that process, and what follows goes to libFuzzer: a file that was found wanting is tried again by naming it there.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

TARGETS = ("frames", "handshake", "session", "receiver", "sender", "delta", "sync")
MEMORY_MIB = 512
"""For a process with the interpreter, the instrumented modules and the fuzzer itself: 150 MiB of it."""
SECONDS_EACH = 10
"""For a single input, before it is called a hang."""


def _child(target: str, arguments: list[str]) -> None:
    import atheris

    with atheris.instrument_imports(include=["dwcp.wire", "dwcp.hde", "dwcp.transfer"]):
        from tests.soak import fuzz_targets

    with tempfile.TemporaryDirectory(prefix="dwcp-fuzz-") as directory:
        fuzz_targets.HOME = Path(directory)
        atheris.Setup([sys.argv[0], *arguments], fuzz_targets.TARGETS[target])
        atheris.Fuzz()


def _run(target: str, seconds: int, seed: int) -> bool:
    with tempfile.TemporaryDirectory(prefix="dwcp-corpus-") as directory:
        from tests.soak.fuzz_targets import corpus

        corpus_directory, scratch = Path(directory) / "corpus", Path(directory) / "scratch"
        corpus_directory.mkdir()
        scratch.mkdir()
        for number, data in enumerate(corpus()):
            (corpus_directory / str(number)).write_bytes(data)
        limits = [f"-max_total_time={seconds}", f"-rss_limit_mb={MEMORY_MIB}", f"-timeout={SECONDS_EACH}"]
        limits += ["-max_len=4096", f"-artifact_prefix={tempfile.gettempdir()}/dwcp-fuzz-{target}-"]
        command = [sys.executable, "-m", "tests.soak.fuzz", target, f"-seed={seed}", *limits]
        # libFuzzer ends its process without a farewell: what that made is removed here
        environment = {**os.environ, "TMPDIR": str(scratch)}
        done = subprocess.run(
            [*command, str(corpus_directory)], capture_output=True, text=True, check=False, env=environment
        )
    lines = done.stderr.splitlines()
    if done.returncode:
        print(*done.stdout.splitlines()[-40:], *lines[-12:], f"FAILED: {' '.join(command[2:5])}", sep="\n")
        return False
    print(f"{target}: {next((line for line in reversed(lines) if line.startswith('Done')), 'done')}", flush=True)
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=120, help="for all targets together")
    parser.add_argument("--seed", type=int, default=random.randrange(1, 10**6))
    given = parser.parse_args()
    if importlib.util.find_spec("atheris") is None:
        print("skipped: atheris is not to be had for this platform")
        return 0
    print(f"SOAK_SEED={given.seed}", flush=True)
    passed = [_run(target, given.seconds // len(TARGETS), given.seed) for target in TARGETS]
    return int(not all(passed))


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] in TARGETS:
        _child(sys.argv[1], sys.argv[2:])
    else:
        sys.exit(main())
