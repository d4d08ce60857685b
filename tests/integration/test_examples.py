"""The examples run as their first lines say, and the public API has the types that a user would expect."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dwcp.testing.lab import Lab
from tests.processes import DEADLINE, clean_environment

ROOT = Path(__file__).parent.parent.parent


def example(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "examples" / name, *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        env=clean_environment(),
        check=False,
    )


def test_send_tree(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "one").write_text("content")
    with Lab.up(tmp_path / "lab") as lab:
        arguments = ["--config", lab.nodes[0].config_file, tree, "node2", "inbox/tree"]
        done = example("send_tree.py", *arguments)
        assert done.returncode == 0, done.stderr
        assert re.match(r"1 files, 0 of them unchanged, \d+ bytes on the wire\n  one \(file, 7 bytes\)\n", done.stdout)
        assert "1 of them unchanged" in example("send_tree.py", *arguments).stdout
        assert (lab.nodes[1].inbox / "tree" / "one").read_text() == "content"
        arguments[-2] = "node9"
        failed = example("send_tree.py", *arguments)
        assert (failed.returncode, failed.stderr[:15]) == (3, "NotFoundError: ")


def test_embedded_manager(tmp_path: Path) -> None:
    done = example("embedded_manager.py", tmp_path)
    assert done.returncode == 0, done.stderr
    size = (ROOT / "examples" / "embedded_manager.py").stat().st_size
    assert re.fullmatch(
        rf"healthy, listening on 127\.0\.0\.1:\d+\nsent {size} bytes, verified: True\n"
        r"receive inbox/embedded_manager\.py from client: done\n",
        done.stdout,
    )
    assert (tmp_path / "inbox" / "embedded_manager.py").stat().st_size == size


def test_memory_rounds() -> None:
    done = example("memory_rounds.py", "8", "3")
    assert done.returncode == 0, done.stderr
    sizes = re.fullmatch(
        r"round 1: full, (\d+) bytes, [\d.]+ s\n"
        r"round 2: 50 dirty pages, (\d+) bytes, [\d.]+ s\nround 3: 50 dirty pages, (\d+) bytes, [\d.]+ s\n",
        done.stdout,
    )
    assert sizes is not None, done.stdout
    # 64 random bytes in each page, and where that is
    assert all(int(size) < 50 * 100 for size in sizes.groups()[1:])


def needs(*modules: str) -> pytest.MarkDecorator:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


@needs("fsspec", "pandas", "xarray", "h5netcdf", "h5py")
def test_dataframes(tmp_path: Path) -> None:
    with Lab.up(tmp_path / "lab") as lab:
        done = example("dataframes.py", "--config", lab.nodes[0].config_file, "dwcp://node2/inbox/data")
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-4:] == [
            "station a: 148.5",
            "station b: 149.5",
            "station c: 150.5",
            "one of 100 steps is as it was: True",
        ]
        assert (lab.nodes[1].inbox / "data" / "field.nc").stat().st_size > 100 * 200 * 200 * 8


@needs("fsspec", "torch")
def test_torch_checkpoint(tmp_path: Path) -> None:
    with Lab.up(tmp_path / "lab") as lab:
        arguments = ["--config", lab.nodes[0].config_file, "dwcp://node2/inbox/model.pt", "2"]
        for said in (["begins anew", *_steps(1, 2)], ["goes on after step 2", *_steps(3, 4)]):
            done = example("torch_checkpoint.py", *arguments)
            assert done.returncode == 0, done.stderr
            assert done.stdout.splitlines()[-3:] == said
        assert (lab.nodes[1].inbox / "model.pt").stat().st_size > 0


def _steps(*numbers: int) -> list[str]:
    return [f"step {number} is kept" for number in numbers]


def test_the_public_api_and_the_examples_are_typed(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "tests/typing/api.py", "examples"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=clean_environment(MYPYPATH="src"),
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
