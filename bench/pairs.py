"""Pairs of versions, old and new, for `bench.delta`: real ones from packages and programs, and adversarial ones.

Each is made once, below the directory in DWCP_BENCH_PAIRS (~/.cache/dwcp/pairs), which may grow to some 12 GB. A pair
that cannot be made here (a program is missing, a registry is not to be had) is left out with its reason.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import Buffer

MIB = 1024 * 1024
CACHE = Path(os.environ.get("DWCP_BENCH_PAIRS", Path.home() / ".cache" / "dwcp" / "pairs"))

BASE_PACKAGES = ("perl-modules-5.36", "git", "python3.11-minimal", "libpython3.11-stdlib", "vim-runtime", "libllvm15")
NEW_PACKAGES = ("cpp-12", "gcc-12", "libgcc-12-dev", "libc6-dev")
WHEEL = ("scipy", "1.14.0", "1.14.1")
PGBENCH_SCALE, PGBENCH_SECONDS = 30, 15


class UnavailableError(RuntimeError):
    """This pair cannot be made here; the message says why."""


@dataclass(frozen=True, slots=True)
class Pair:
    """`changed`: bytes that are new, where that is known beforehand. `real`: counts for the sum of bytes."""

    name: str
    make: Callable[[Path, Path, Path], None]
    """(old, new, a directory to work in)."""
    real: bool = True
    changed: int | None = None

    @property
    def old(self) -> Path:
        return CACHE / self.name / "old"

    @property
    def new(self) -> Path:
        return CACHE / self.name / "new"

    def provide(self) -> None:
        """Raises UnavailableError."""
        if self.old.exists() and self.new.exists():
            return
        self.old.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.old.parent) as name:
            work = Path(name)
            made = work / "made-old", work / "made-new"
            try:
                self.make(*made, work)
            except (subprocess.CalledProcessError, OSError, ImportError) as error:
                what = getattr(error, "stderr", None) or error
                raise UnavailableError(f"{self.name}: {str(what).strip()[-300:]}") from error
            made[0].rename(self.old)
            made[1].rename(self.new)


def run(*command: str | Path, **options: object) -> str:
    done = subprocess.run(
        [str(part) for part in command], check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL, **options
    )  # type: ignore[call-overload]
    return str(done.stdout)


def need(*tools: str) -> None:
    for tool in tools:
        if shutil.which(tool) is None:
            raise UnavailableError(f"{tool} is not installed")


def pack(tree: Path, target: Path) -> None:
    """A tar in the order of names."""
    run("tar", "--sort=name", "-C", tree.parent, "-cf", target, tree.name)


def unpack_debs(packages: tuple[str, ...], tree: Path, work: Path) -> None:
    downloads = Path(tempfile.mkdtemp(dir=work))
    run("apt-get", "download", *packages, cwd=downloads)
    for deb in sorted(downloads.glob("*.deb")):
        run("dpkg-deb", "-x", deb, tree)


def disk_image(old: Path, new: Path, work: Path) -> None:
    """An ext4 image of 1 GiB before and after packages are unpacked into it, by the kernel that mounts it."""
    need("mke2fs", "apt-get", "dpkg-deb", "mount")
    tree = work / "root"
    tree.mkdir()
    unpack_debs(BASE_PACKAGES, tree, work)
    run("mke2fs", "-q", "-t", "ext4", "-d", tree, old, "1G")
    run("cp", "--sparse=always", old, new)
    mounted = work / "mounted"
    mounted.mkdir()
    run("mount", "-o", "loop", new, mounted)
    try:
        unpack_debs(NEW_PACKAGES, mounted, work)
    finally:
        run("umount", mounted)


def wheel(old: Path, new: Path, work: Path) -> None:
    name, *versions = WHEEL
    for version, target in zip(versions, (old, new), strict=True):
        directory = work / version
        options = ["--no-deps", "--only-binary=:all:", "--python-version=3.11", "--quiet"]
        run(sys.executable, "-m", "pip", "download", *options, "-d", directory, f"{name}=={version}")
        tree = work / f"tree-{version}" / "wheel"
        shutil.unpack_archive(next(directory.glob("*.whl")), tree, "zip")
        pack(tree, target)


def postgres(old: Path, new: Path, work: Path) -> None:
    """A data directory before and after pgbench, each time of a server that was shut down."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs or shutil.which("pgbench") is None:
        raise UnavailableError("PostgreSQL with pgbench is not installed")
    need("runuser")
    bin_, data = programs[-1], work / "data"
    work.chmod(0o711)
    data.mkdir()
    shutil.chown(data, "postgres")
    as_user = ["runuser", "-u", "postgres", "--"]
    environment = {**os.environ, "PGHOST": str(data)}

    def server(action: str) -> None:
        settings = ["-o", f"-k {data} -c listen_addresses='' -c max_wal_size=256MB"] if action == "start" else []
        run(*as_user, bin_ / "pg_ctl", "-D", data, "-l", data / "log", "-w", *settings, action, cwd="/")

    run(*as_user, bin_ / "initdb", "-D", data, "-A", "trust", cwd="/")
    server("start")
    try:
        run(*as_user, "pgbench", "-h", data, "-q", "-i", "-s", str(PGBENCH_SCALE), "postgres", cwd="/", env=environment)
        server("stop")
        pack(data, old)
        server("start")
        run(
            *as_user, "pgbench", "-h", data, "-c", "4", "-T", str(PGBENCH_SECONDS), "postgres", cwd="/", env=environment
        )
    finally:
        server("stop")
    pack(data, new)


def json_tree(old: Path, new: Path, work: Path) -> None:
    """30,000 small files of which one in twenty is edited; some come, some go."""
    source = random.Random(11)
    tree = work / "tree"

    def document(number: int) -> dict[str, object]:
        return {
            "id": number,
            "owner": f"user{source.randrange(500)}",
            "tags": source.sample(["red", "green", "blue", "hot", "cold", "new", "old"], 3),
            "readings": [round(source.gauss(20, 5), 3) for _ in range(source.randrange(20, 120))],
            "note": " ".join(source.choices(["pump", "valve", "checked", "replaced", "by", "night", "shift"], k=20)),
        }

    documents = {number: document(number) for number in range(30_000)}

    def write(numbers: list[int]) -> None:
        for number in numbers:
            path = tree / f"{number % 100:02}" / f"{number}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(documents[number], indent=1))
            os.utime(path, (1_700_000_000, 1_700_000_000))

    write(list(documents))
    pack(tree, old)
    edited = source.sample(sorted(documents), 1500)
    for number in edited:
        documents[number]["note"] = f"edited {source.random()}"
    added = range(30_000, 30_300)
    documents.update({number: document(number) for number in added})
    write([*edited, *added])
    for number in source.sample(range(30_000), 200):
        (tree / f"{number % 100:02}" / f"{number}.json").unlink()
    pack(tree, new)


def log(old: Path, new: Path, work: Path) -> None:
    source = random.Random(12)

    def line(number: int) -> str:
        host = f"10.0.{source.randrange(20)}.{source.randrange(255)}"
        day, hour, minute = 1 + number // 200_000, number // 8000 % 24, number // 130 % 60
        request = f"GET /items/{source.randrange(10**6)} {source.choice([200, 200, 200, 304, 404])}"
        moment = f"2026-03-{day:02}T{hour:02}:{minute:02}:{number % 60:02}Z"
        return f"{moment} {host} {request} {source.randrange(9000)}\n"

    with old.open("w") as file:
        file.writelines(line(number) for number in range(4_000_000))
    shutil.copyfile(old, new)
    with new.open("a") as file:
        file.writelines(line(number) for number in range(4_000_000, 4_080_000))


def checkpoint(old: Path, new: Path, work: Path) -> None:
    """The parameters of a multi-layer perceptron, float32, and three steps of Adam later."""
    import numpy as np

    source = np.random.default_rng(13)
    width, layers = 4096, 4
    weights = [source.normal(0, width**-0.5, (width, width)).astype(np.float32) for _ in range(layers)]
    first = [np.zeros_like(weight) for weight in weights]
    second = [np.zeros_like(weight) for weight in weights]
    inputs = source.normal(size=(128, width)).astype(np.float32)
    wanted = np.tanh(inputs[:, ::-1] * 0.5)

    def step(number: int) -> None:
        values = [inputs]
        for weight in weights:
            values.append(np.tanh(values[-1] @ weight))
        slope = (values[-1] - wanted) * (1 - values[-1] ** 2) / len(inputs)
        for at in reversed(range(layers)):
            gradient = values[at].T @ slope
            slope = (slope @ weights[at].T) * (1 - values[at] ** 2)
            first[at] += 0.1 * (gradient - first[at])
            second[at] += 0.001 * (gradient**2 - second[at])
            rate = 1e-5 * np.sqrt(1 - 0.999**number) / (1 - 0.9**number)
            weights[at] -= rate * first[at] / (np.sqrt(second[at]) + 1e-8)

    for number in range(1, 8):
        if number == 5:
            _save(weights, old)
        step(number)
    _save(weights, new)


def _save(weights: Sequence[Buffer], path: Path) -> None:
    with path.open("wb") as file:
        for weight in weights:
            file.write(memoryview(weight).cast("B"))


WORKER = """
import random, sys
table = {n: {"name": f"user {n}", "score": n * 7 % 1000, "tags": [n % 10, n % 7]} for n in range(400_000)}
source = random.Random(1)
for step in range(2):
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(20_000):
        n = source.randrange(400_000)
        table[n]["score"] += 1
        table[n]["tags"].append(source.randrange(100))
"""


def process_memory(old: Path, new: Path, work: Path) -> None:
    """All writable private memory of a running process, before and after it worked on its data."""
    worker = subprocess.Popen([sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with worker:
        assert worker.stdin is not None and worker.stdout is not None
        for target in (old, new):
            worker.stdout.readline()
            _dump(worker.pid, target)
            worker.stdin.write("\n")
            worker.stdin.flush()


def _dump(pid: int, target: Path) -> None:
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory, target.open("wb") as file:
        for line in maps:
            extent, rights = line.split()[:2]
            if rights.startswith("rw"):
                start, end = (int(part, 16) for part in extent.split("-"))
                memory.seek(start)
                file.write(memory.read(end - start))


def noise(path: Path, size: int, seed: int) -> None:
    source = random.Random(seed)
    with path.open("wb") as file:
        for _ in range(size // MIB):
            file.write(source.randbytes(MIB))


def zeros(old: Path, new: Path, work: Path) -> None:
    noise(old, 512 * MIB, 21)
    with new.open("wb") as file:
        for _ in range(512):
            file.write(bytes(MIB))


def unrelated(old: Path, new: Path, work: Path) -> None:
    noise(old, 512 * MIB, 22)
    noise(new, 512 * MIB, 23)


def reversed_blocks(old: Path, new: Path, work: Path) -> None:
    noise(old, 512 * MIB, 24)
    block = 64 * 1024
    with old.open("rb") as source, new.open("wb") as file:
        for at in reversed(range(0, 512 * MIB, block)):
            source.seek(at)
            file.write(source.read(block))


def front(old: Path, new: Path, work: Path) -> None:
    noise(old, 1024 * MIB, 25)
    with old.open("rb") as source, new.open("wb") as file:
        file.write(b"!")
        shutil.copyfileobj(source, file, 16 * MIB)


def same(old: Path, new: Path, work: Path) -> None:
    noise(old, 1024 * MIB, 26)
    shutil.copyfile(old, new)


PAIRS = (
    Pair("disk image", disk_image),
    Pair("wheel", wheel),
    Pair("PostgreSQL", postgres),
    Pair("JSON tree", json_tree),
    Pair("log", log),
    Pair("checkpoint", checkpoint),
    Pair("memory", process_memory),
    Pair("all zero", zeros, real=False, changed=0),
    Pair("random", unrelated, real=False),
    Pair("reversed blocks", reversed_blocks, real=False, changed=0),
    Pair("byte in front", front, real=False, changed=1),
    Pair("unchanged", same, real=False, changed=0),
)
