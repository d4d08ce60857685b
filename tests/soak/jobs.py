"""What the soak transfers: files, trees, streams and gets, of random content that no codec shrinks."""

from __future__ import annotations

import filecmp
import shutil
from dataclasses import dataclass
from pathlib import Path
from random import Random

from dwcp.cli.demo import compare_trees
from tests.soak.ends import MIB, Ends, Route
from tests.support import make_tree

PIECE = 16 * MIB


@dataclass(frozen=True, slots=True)
class Job:
    """One command, to be given again until it has succeeded."""

    name: str
    words: list[str | Path]
    standard_input: Path | None
    source: Path
    target: Path
    size: int
    """Bytes of content."""
    route: Route

    def __str__(self) -> str:
        return f"{self.name} ({self.size / MIB:.0f} MiB, {self.route.name})"

    def differences(self) -> list[str]:
        """Between what was sent and what has arrived."""
        if self.source.is_dir():
            return compare_trees(self.source, self.target)
        same = self.target.exists() and filecmp.cmp(self.source, self.target, shallow=False)
        return [] if same else [f"{self.target} is not what was sent"]

    def clear(self) -> None:
        for path in (self.source, self.target):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def draw(chance: Random, number: int, ends: Ends) -> Job:
    """The next one; its content is written here. Call `clear` in the end."""
    kind = chance.choice(["put", "put", "tree", "tree", "get", "get", "get-tree", "pipe"])
    route = chance.choice(list(Route))
    name = f"{kind}-{number}"
    here, there = ends.directory / name, ends.inbox / name
    source, target = (there, here) if kind.startswith("get") else (here, there)
    size = fill_tree(chance, source) if "tree" in kind else fill_file(chance, source, chance.randrange(64, 320) * MIB)
    remote = f"far:inbox/{name}"
    if kind.startswith("get"):
        words: list[str | Path] = ["get", remote, here]
    else:
        words = ["send", "-" if kind == "pipe" else here, remote]
    return Job(name, words, here if kind == "pipe" else None, source, target, size, route)


def fill_file(chance: Random, path: Path, size: int) -> int:
    size += chance.randrange(MIB)
    with path.open("wb") as file:
        for at in range(0, size, PIECE):
            file.write(chance.randbytes(min(PIECE, size - at)))
    return size


def fill_tree(chance: Random, root: Path) -> int:
    """A bit of everything, many small files that ride in packs, some that don't."""
    make_tree(root)
    for number in range(chance.randrange(200, 1500)):
        (root / f"small-{number}").write_bytes(chance.randbytes(chance.randrange(100_000)))
    for number in range(chance.randrange(1, 12)):
        fill_file(chance, root / f"large-{number}", chance.randrange(1, 24) * MIB)
    return sum(path.lstat().st_size for path in root.rglob("*") if path.is_file() and not path.is_symlink())
