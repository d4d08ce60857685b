"""`dwcp delta` as it is typed."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import clean_environment, run_dwcp

BASE = random.Random(4).randbytes(3_000_000)
NEW = b"front" + BASE[:1_000_000] + bytes(2**21) + BASE[1_500_000:]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "base").write_bytes(BASE)
    (tmp_path / "new").write_bytes(NEW)
    return tmp_path


def test_there_and_back(files: Path) -> None:
    done = run_dwcp("delta", "encode", files / "base", files / "new", files / "delta", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["size"], told["delta_size"]) == (len(NEW), (files / "delta").stat().st_size)
    assert told["delta_size"] < 300
    assert told["zeros"] > 2**21 - 2**20
    done = run_dwcp("delta", "decode", files / "base", files / "delta", files / "made")
    assert done.returncode == 0, done.stderr
    assert (files / "made").read_bytes() == NEW
    done = run_dwcp("delta", "info", files / "delta")
    assert done.stdout.startswith("base 'base', 2.9 MiB, xxh3 ")
    assert json.loads(run_dwcp("delta", "info", "--json", files / "delta").stdout)["copied"] == told["copied"]


@pytest.mark.parametrize("algorithm", ["prefix", "xor", "rsync", "bsdiff"])
def test_algorithms(files: Path, algorithm: str) -> None:
    more = ["--algorithm", algorithm, "--hash", "blake3", "--seconds", "0.1"]
    assert run_dwcp("delta", "encode", files / "base", files / "new", files / "delta", *more).returncode == 0
    assert run_dwcp("delta", "decode", files / "base", files / "delta", files / "made").returncode == 0
    assert (files / "made").read_bytes() == NEW


def test_what_cannot_be_leaves_no_file_and_says_why(files: Path) -> None:
    run_dwcp("delta", "encode", files / "base", files / "new", files / "delta")
    (files / "damaged").write_bytes((files / "delta").read_bytes()[:-1] + b"?")
    before = sorted(path.name for path in files.iterdir())
    cases: list[tuple[list[str | Path], int, str]] = [
        (["encode", files / "none", files / "new", files / "x"], 3, "does not exist"),
        (["encode", files, files / "new", files / "x"], 2, "no regular file"),
        (["encode", files / "base", files / "new", files / "none" / "x"], 3, "does not exist"),
        (["decode", files / "new", files / "delta", files / "x"], 7, "needs a base of 3000000 bytes"),
        (["decode", files / "base", files / "new", files / "x"], 7, "this is no delta"),
        (["decode", files / "base", files / "damaged", files / "x"], 7, "is not what the delta was made of"),
        (["decode", files / "base", files / "delta", files / "x", "--max-size", "1MB"], 7, "are allowed here"),
        (["decode", files / "base", files / "delta", files / "x", "--max-size", "much"], 2, "is no size"),
        (["info", files / "base"], 7, "this is no delta"),
    ]
    for arguments, code, message in cases:
        done = run_dwcp("delta", *arguments)
        assert (done.returncode, message in done.stderr) == (code, True), (arguments, done.stderr)
    assert sorted(path.name for path in files.iterdir()) == before


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """8 GiB, sparse, of which some was written and some became other."""
    for name, seed in (("base", 1), ("new", 2)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(2**33)
            for place in range(0, 2**33, 2**30):
                file.seek(place)
                file.write(random.Random(place).randbytes(2**20))
            file.seek(2**32 + 2**25)
            file.write(random.Random(seed).randbytes(2**26))
    program = (
        "import re, sys; from dwcp.cli.main import main\n"
        "try:\n    main(sys.argv[1:])\n"
        # ru_maxrss would count what the tests' own process had when it made this one
        "finally:\n    print(re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1], file=sys.stderr)"
    )
    for command in (["encode", "base", "new", "delta"], ["decode", "base", "delta", "made"]):
        done = subprocess.run(
            [sys.executable, "-c", program, "delta", *command],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
            env=clean_environment(),
        )
        assert int(done.stderr) // 1024 < 512
    assert (tmp_path / "delta").stat().st_size < 2**26 + 2**20
    assert (tmp_path / "made").stat().st_blocks * 512 < 2**28
    subprocess.run(["cmp", "-n", str(2**27), "-i", str(2**32), tmp_path / "made", tmp_path / "new"], check=True)
