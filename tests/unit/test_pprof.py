"""Profiles: what is written is what pprof's own definition and Go's reader find in it, and what ran is in it."""

from __future__ import annotations

import gzip
import hashlib
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwcp.errors import TemporaryError
from dwcp.profiling import cpu, heap, stacks
from dwcp.profiling.pprof import Frame, Kind, Profile, Sample, encode, varint
from tests.processes import clean_environment
from tests.support import wait_until

DEFINITION = Path("/usr/share/gocode/src/github.com/google/pprof/proto/profile.proto")
EXAMPLE = Profile(
    kinds=(Kind("inuse_objects", "count"), Kind("inuse_space", "bytes")),
    default="inuse_space",
    samples=[
        Sample((Frame("inner", "/a.py", 7, 5), Frame("outer", "/b.py", 70, 60)), (1, 2**40), (("thread", "t"),)),
        Sample((Frame("outer", "/b.py", 71, 60),), (0, 300)),
    ],
    taken_at=1_700_000_000_000_000_000,
    duration=10**9,
    period_kind=Kind("wall", "nanoseconds"),
    period=10**7,
    comments=("said so",),
)


def protoc(profile: bytes) -> str:
    """The profile as text, by pprof's own definition."""
    if shutil.which("protoc") is None or not DEFINITION.exists():
        pytest.skip("needs protoc and pprof's profile.proto (protobuf-compiler, golang-github-google-pprof-dev)")
    command = ["protoc", "-I", DEFINITION.parent, "--decode=perftools.profiles.Profile", DEFINITION.name]
    done = subprocess.run(command, input=gzip.decompress(profile), capture_output=True, check=True)
    assert done.stderr == b""
    return done.stdout.decode()


def go_pprof(profile: bytes, directory: Path, *arguments: str) -> str:
    if shutil.which("go") is None:
        pytest.skip("needs go tool pprof (golang-go)")
    file = directory / "profile.pb.gz"
    file.write_bytes(profile)
    environment = clean_environment(PPROF_TMPDIR=str(directory), HOME=str(directory))
    command = ["go", "tool", "pprof", *arguments, str(file)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout


@given(st.integers(0, 2**64 - 1))
def test_varints_are_read_back(value: int) -> None:
    encoded = varint(value)
    assert all(byte & 0x80 for byte in encoded[:-1])
    assert not encoded[-1] & 0x80
    assert sum((byte & 0x7F) << 7 * place for place, byte in enumerate(encoded)) == value
    assert len(encoded) == max(1, -(-value.bit_length() // 7))


def test_negative_numbers_are_twos_complement() -> None:
    assert varint(-1) == b"\xff" * 9 + b"\x01"


def test_the_definition_reads_what_was_written() -> None:
    text = protoc(encode(EXAMPLE))
    strings = re.findall(r'^string_table: "(.*)"$', text, re.MULTILINE)
    assert strings[0] == ""
    # a field that the definition does not know is shown by its number
    assert not re.search(r"^\s*\d+:", text, re.MULTILINE)

    def blocks(name: str) -> list[str]:
        return re.findall(rf"^{name} {{\n(.*?)^}}", text, re.MULTILINE | re.DOTALL)

    def number(name: str, block: str) -> int:
        found = re.search(rf"^\s*{name}: (\d+)$", block, re.MULTILINE)
        return int(found[1]) if found else 0

    kinds = [(strings[number("type", b)], strings[number("unit", b)]) for b in blocks("sample_type")]
    assert kinds == [("inuse_objects", "count"), ("inuse_space", "bytes")]
    functions = {number("id", b): b for b in blocks("function")}
    assert [strings[number("filename", b)] for b in functions.values()] == ["/a.py", "/b.py"]
    assert [number("start_line", b) for b in functions.values()] == [5, 60]
    lines = {
        number("id", b): (strings[number("name", functions[number("function_id", b)])], number("line", b))
        for b in blocks("location")
    }
    samples = blocks("sample")
    found = [[lines[int(place)] for place in re.findall(r"location_id: (\d+)", block)] for block in samples]
    assert found == [[("inner", 7), ("outer", 70)], [("outer", 71)]]
    assert [re.findall(r"value: (\d+)", block) for block in samples] == [["1", str(2**40)], ["0", "300"]]
    assert (strings[number("key", samples[0])], strings[number("str", samples[0])]) == ("thread", "t")
    assert number("time_nanos", text) == EXAMPLE.taken_at
    assert number("duration_nanos", text) == EXAMPLE.duration
    assert number("period", text) == EXAMPLE.period
    assert strings[number("comment", text)] == "said so"
    assert strings[number("default_sample_type", text)] == "inuse_space"


def test_go_reads_what_was_written(tmp_path: Path) -> None:
    text = go_pprof(encode(EXAMPLE), tmp_path, "-raw")
    assert "inuse_objects/count inuse_space/bytes[dflt]" in text
    assert re.search(rf"^\s+1\s+{2**40}: 1 2 $", text, re.MULTILINE)
    assert re.search(r"^\s+thread:\[t\]", text, re.MULTILINE)
    assert re.search(r"inner /a\.py:7:?\d* s=5", text)
    assert "Duration: 1" in text


# -- what is in them ---------------------------------------------------------------------------------------------------


def calculate(stop: threading.Event) -> None:
    while not stop.is_set():
        sum(range(10_000))


def digest(stop: threading.Event) -> None:
    content = bytes(2**22)
    while not stop.is_set():
        hashlib.sha256(content)


def rest(stop: threading.Event) -> None:
    stop.wait()


@contextmanager
def running(*functions: object) -> Iterator[None]:
    stop = threading.Event()
    threads = [threading.Thread(target=f, args=(stop,), name=f"t-{f.__name__}") for f in functions]  # type: ignore[attr-defined, arg-type]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def by_function(profile: Profile, name: str) -> tuple[int, ...]:
    """Sums of the samples that have a function in their stack."""
    found = [sample.values for sample in profile.samples if any(frame.function == name for frame in sample.stack)]
    return tuple(map(sum, zip(*found, strict=True))) if found else (0, 0, 0)


def test_processor_time_goes_to_who_has_had_it() -> None:
    with running(calculate, digest, rest):
        profile = cpu.profile(1.5, threading.Event())
    seconds = profile.duration / 1e9
    assert seconds >= 1.4
    samples, busy, wall = by_function(profile, "calculate")
    assert samples > 5
    assert 0 < busy <= wall * 1.1
    # the interpreter's lock is free while a hash is made, so it is seen in the middle of its work
    assert by_function(profile, "digest")[1] > 0
    idle, idle_cpu, idle_wall = by_function(profile, "rest")
    assert idle == samples
    assert idle_cpu < idle_wall / 20
    assert abs(idle_wall - profile.duration) < 1e8
    labels = {dict(sample.labels).get("thread") for sample in profile.samples}
    assert {"t-calculate", "t-digest", "t-rest"} <= labels
    assert not any(frame.function == "_look" for sample in profile.samples for frame in sample.stack)


def test_a_profile_ends_when_it_is_told_to_and_only_one_is_taken_at_a_time() -> None:
    stop, results = threading.Event(), []
    with running(rest):
        thread = threading.Thread(target=lambda: results.append(cpu.profile(300, stop)))
        thread.start()
        wait_until(cpu._one_at_a_time.locked, "it has begun")
        with pytest.raises(TemporaryError, match="another CPU profile"):
            cpu.profile(1, threading.Event())
        stop.set()
        thread.join(10)
    assert results[0].duration < 60e9


def test_more_stacks_than_are_kept_are_still_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "MAX_STACKS", 1)
    with running(rest, digest):
        profile = cpu.profile(0.3, threading.Event())
    kept = [sample.stack for sample in profile.samples if sample.values[0]]
    assert len(kept) == 2
    assert (Frame("(further stacks)"),) in kept


def test_threads_are_shown_with_where_they_are() -> None:
    with running(rest):
        found = next(entry for entry in stacks.threads() if entry.name == "t-rest")
    assert [frame.function for frame in found.stack if frame.file == __file__] == ["rest"]
    assert found.cpu_seconds is not None


def test_memory_by_type_of_object() -> None:
    kept = [bytearray(10**6) for _ in range(30)]
    profile = heap.profile()
    count, size = next(s.values for s in profile.samples if s.stack[0].function == "bytearray")
    assert count >= len(kept)
    assert size >= 30 * 10**6
    assert "by type" in profile.comments[0]
    assert any(sample.stack[0].function.startswith("(not in Python objects") for sample in profile.samples)


def test_only_one_heap_profile_is_taken_at_a_time() -> None:
    with heap._one_at_a_time, pytest.raises(TemporaryError, match="another heap profile"):
        heap.profile()
    assert heap.profile().samples


TRACED = """
import sys
from dwcp.profiling import heap, pprof
heap.trace(5)
def keep(): return bytearray(30 * 10**6)
def outer(): return keep()
kept = outer()
sys.stdout.buffer.write(pprof.encode(heap.profile()))
"""


def test_memory_by_stack_where_allocations_are_traced(tmp_path: Path) -> None:
    script = tmp_path / "traced.py"
    script.write_text(TRACED)
    done = subprocess.run([sys.executable, script], capture_output=True, env=clean_environment(), check=True)
    text = go_pprof(done.stdout, tmp_path, "-traces", "-lines")
    assert "by the stack that allocated, 5 frames deep" in text
    stack = [f"keep {script}:5", f"outer {script}:6", f"(module) {script}:7"]
    assert re.search(r"28\.61MB\s+" + r"\s+".join(map(re.escape, stack)), text)
