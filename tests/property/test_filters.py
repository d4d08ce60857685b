"""Filter rules: patterns beside a literal port of rsync's matcher, whole rule sets beside rsync itself."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dwcp.errors import UsageError
from dwcp.filters.pattern import Pattern
from dwcp.filters.rules import Item, Level, Parser, merge_names, top_level
from tests.rsync import needs_rsync

# -- the dumb twin -----------------------------------------------------------------------------------------------------


def wildmatch(pattern: bytes, text: bytes) -> bool:
    """wildmatch.c of rsync(1) without its short cuts: tries everything."""
    if not pattern:
        return not text
    char = pattern[:1]
    if char == b"*":
        stars = len(pattern) - len(pattern.lstrip(b"*"))
        rest = pattern[stars:]
        for at in range(len(text) + 1):
            if stars == 1 and b"/" in text[:at]:
                return False
            if wildmatch(rest, text[at:]):
                return True
        return False
    if char == b"[":
        members, negated, rest = bracket(pattern[1:])
        if members is None or not text or text[:1] == b"/":
            return False
        return (text[0] in members) is not negated and wildmatch(rest, text[1:])
    if not text:
        return False
    if char == b"?":
        return text[:1] != b"/" and wildmatch(pattern[1:], text[1:])
    if char == b"\\":
        pattern = pattern[1:]
    return pattern[:1] == text[:1] and wildmatch(pattern[1:], text[1:])


def bracket(pattern: bytes) -> tuple[set[int] | None, bool, bytes]:
    negated = pattern[:1] in (b"!", b"^")
    at = int(negated)
    members: set[int] = set()
    previous = -1
    while True:
        if at >= len(pattern):
            return None, False, b""
        char = pattern[at]
        if char == ord("-") and previous >= 0 and at + 1 < len(pattern) and pattern[at + 1] != ord("]"):
            at += 1
            if pattern[at] == ord("\\"):
                at += 1
                if at >= len(pattern):
                    return None, False, b""
            members.update(range(previous, pattern[at] + 1))
            previous = -1
        elif char == ord("\\"):
            at += 1
            if at >= len(pattern):
                return None, False, b""
            members.add(pattern[at])
            previous = pattern[at]
        else:
            members.add(char)
            previous = char
        at += 1
        if pattern[at : at + 1] == b"]":
            return members, negated, pattern[at + 1 :]


def rule_matches(pattern: bytes, path: bytes, directory: bool) -> bool:
    """rule_matches() of rsync's exclude.c."""
    if len(pattern) > 1 and pattern.endswith(b"/"):
        if not directory:
            return False
        pattern = pattern[:-1]
    wild = any(char in pattern for char in b"*?[")
    name = path
    crossing = wild and b"**" in pattern
    prefixed = pattern.startswith(b"**")
    if b"/" not in pattern and not crossing:
        name = name.rpartition(b"/")[2]
    elif prefixed:
        name = b"/" + name
    if directory and crossing and pattern.endswith(b"***"):
        name += b"/"
    anchored = pattern.startswith(b"/")
    slashes = pattern.count(b"/")
    pattern = pattern.removeprefix(b"/")
    if not wild:
        return name == pattern or (not anchored and name.endswith(b"/" + pattern))
    if not anchored and slashes and not crossing:
        parts = name.split(b"/")
        return len(parts) > slashes and wildmatch(pattern, b"/".join(parts[-slashes - 1 :]))
    if not anchored and crossing and not prefixed:
        starts = [0, *(at + 1 for at, char in enumerate(name) if char == ord("/"))]
        return any(wildmatch(pattern, name[start:]) for start in starts)
    return wildmatch(pattern, name)


names = st.text("ab.", min_size=1, max_size=3).filter(lambda name: name not in (".", "..")).map(str.encode)
paths = st.lists(names, min_size=1, max_size=4).map(b"/".join)
pieces = st.sampled_from(
    [b"a", b"b", b"ab", b".", b"/", b"/", b"*", b"*", b"**", b"***", b"?", b"[ab]", b"[!a]", b"[^.-b]", b"\\a", b"\\*"]
)
patterns = st.lists(pieces, min_size=1, max_size=6).map(b"".join)
usual_patterns = patterns.filter(lambda text: b"//" not in text and text.strip(b"/") != b"" and b"\\" not in text)


@settings(max_examples=1500, deadline=None)
@given(patterns.filter(lambda text: bool(text.strip(b"/"))), paths, st.booleans())
@example(b"**b*c", b"a/b/xbzc", False)
@example(b"a/***", b"x/a", True)
@example(b"a*b/c", b"axb/c", False)
@example(b"[", b"[", False)
@example(b"[]a]", b"]", False)
@example(b"\\", b"\\", False)
def test_a_pattern_matches_as_the_dumb_twin_does(pattern: bytes, path: bytes, directory: bool) -> None:
    assert Pattern(pattern).matches(path, directory=directory) == rule_matches(pattern, path, directory)


@given(st.binary(min_size=1, max_size=40).filter(lambda text: bool(text.strip(b"/"))), st.binary(max_size=40))
def test_any_bytes_are_a_pattern(pattern: bytes, path: bytes) -> None:
    Pattern(pattern).matches(path, directory=False)


@pytest.mark.parametrize("pattern", [b"*a" * 200, b"**a" * 200 + b"b", b"a*" * 200 + b"/b", b"**/*a*" * 50 + b"x"])
def test_no_pattern_takes_for_ever(pattern: bytes) -> None:
    """By a naive expression these take longer than anybody lives: the limit says nothing of this machine."""
    began = time.monotonic()
    for path in (b"a" * 4000, b"a/" * 2000 + b"a", (b"a" * 200 + b"/") * 20):
        Pattern(pattern).matches(path, directory=False)
    assert time.monotonic() - began < 60


# -- rsync itself ------------------------------------------------------------------------------------------------------


def chosen(tree: Path, level: Level) -> Iterator[bytes]:
    """Names below `tree` that are not excluded, directories with a slash at the end, as rsync lists them."""
    waiting = [(b"", level)]
    while waiting:
        path, above = waiting.pop()
        directory = os.fsencode(tree) + b"/" + path
        found = os.listdir(directory)
        files = {}
        for name in merge_names(above.items) & set(found):
            files[name] = (Path(os.fsdecode(directory)) / os.fsdecode(name)).read_bytes()
        inside = above.enter(path, files)
        for name in found:
            child = path + b"/" + name if path else name
            is_directory = os.path.isdir(directory + b"/" + name)
            if inside.excludes(child, directory=is_directory):
                continue
            yield child + b"/" * is_directory
            if is_directory:
                waiting.append((child, inside))


def listed(tree: Path, *options: bytes) -> set[bytes]:
    with tempfile.TemporaryDirectory() as empty:
        command = [b"rsync", b"-rn", b"--out-format=%n", *options, os.fsencode(tree) + b"/", os.fsencode(empty)]
        done = subprocess.run(command, capture_output=True, check=True)
    return set(done.stdout.splitlines()) - {b"./"}


@pytest.fixture(scope="module")
def tree() -> Iterator[Path]:
    """Every path of up to three components out of a few."""
    with tempfile.TemporaryDirectory() as made:
        root = Path(made)
        parts = ("a", "b", "ab", "a.b")
        for first in parts:
            for second in parts:
                for third in parts:
                    (root / first / second).mkdir(parents=True, exist_ok=True)
                    (root / first / second / third).touch()
            (root / first / "f").touch()
        yield root


rules = st.builds(
    lambda sign, modifiers, pattern: sign + modifiers + b" " + pattern,
    st.sampled_from([b"-", b"+", b"H", b"S", b"P", b"R", b"exclude", b"include,"]),
    st.just(b""),
    usual_patterns,
) | st.builds(
    lambda sign, modifiers, pattern: sign + modifiers + b" " + pattern,
    st.sampled_from([b"-", b"+"]),
    st.sampled_from([b"!", b"s", b"r", b"sr", b"p", b",!"]),
    usual_patterns,
)


@needs_rsync
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(rules | st.just(b"!"), min_size=1, max_size=5))
def test_rules_choose_what_rsync_chooses(tree: Path, lines: list[bytes]) -> None:
    level = top_level(lines, ignore_files=False, at_sender=True)
    everything = Level.top((), Parser(), at_sender=True)
    assert set(chosen(tree, level or everything)) == listed(tree, *(b"--filter=" + line for line in lines))


@needs_rsync
@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from([b": .rules", b":n .rules", b":- .rules", b":+ .rules", b":e .rules", b"dir-merge,ns .rules"]),
    st.lists(rules.filter(lambda rule: rule[:1] in b"-+"), max_size=2),
    st.dictionaries(
        st.sampled_from(["", "a", "a/b", "b", "b/a"]), st.lists(usual_patterns, min_size=1, max_size=3), min_size=1
    ),
)
def test_files_of_rules_count_where_rsync_reads_them(
    merge: bytes, before: list[bytes], files: dict[str, list[bytes]]
) -> None:
    with tempfile.TemporaryDirectory() as made:
        root = Path(made)
        for directory in ("a/b", "b/a", "ab"):
            (root / directory).mkdir(parents=True)
            for name in ("a", "b", "ab"):
                if not (root / directory / name).exists():
                    (root / directory / name).touch()
        bare = b"-" in merge.split(b" ")[0][1:2] or b"+" in merge[:2]
        for directory, lines in files.items():
            signs = (b"", b"") if bare else (b"- ", b"+ ")
            content = b"\n".join(signs[number % 2] + line for number, line in enumerate(lines))
            (root / directory / ".rules").write_bytes(b"# a comment\n\n" + content + b"\n")
        level = top_level([*before, merge], ignore_files=False, at_sender=True)
        assert level is not None
        options = [b"--filter=" + line for line in (*before, merge)]
        assert set(chosen(root, level)) == listed(root, *options)


@needs_rsync
def test_files_given_to_options_are_read_as_rsync_reads_them(tmp_path: Path, tree: Path) -> None:
    cases = {
        b"--exclude-from": b"# comment\n\na.b\n+ /a/**\n- b\n; another\n",
        b"--include-from": b"/a\n- ab/\n*/f\n",
    }
    for option, content in cases.items():
        (tmp_path / "file").write_bytes(content)
        items: list[Item] = []
        Parser().add_patterns(items, option == b"--include-from", content, b"file")
        level = top_level([*(item.text for item in items), b"- /b/"], ignore_files=False, at_sender=True)
        assert level is not None
        given_to_rsync = [option + b"=" + os.fsencode(tmp_path / "file"), b"--exclude=/b/"]
        assert set(chosen(tree, level)) == listed(tree, *given_to_rsync)


def test_merge_files_are_read_once_and_where_the_command_runs() -> None:
    content = {b"one": b"- a\n. two\n+ c\n", b"two": b"-s b\n", b"round": b". round\n", b"words": b"-s x + z"}
    lines = [item.text for item in Parser(read=content.__getitem__).rules([b". one", b"merge,w words", b":e- .x"])]
    assert lines == [b"- a", b"-s b", b"+ c", b"-s x", b"+ z", b"- .x", b":- .x"]
    assert [item.text for item in Parser().rules(lines)] == lines
    with pytest.raises(UsageError, match="name each other"):
        Parser(read=content.__getitem__).rules([b". round"])
    with pytest.raises(UsageError, match="is read where the command runs"):
        Parser().rules([b". one"])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"nonsense", "is no filter rule"),
        (b"- ", "needs a pattern"),
        (b"-/ /etc", "the modifier '/' is not known here"),
        (b"-C", "the modifier 'C' is not known here"),
        (b"-x user.*", "the modifier 'x' is not known here"),
        (b": /.rsync-filter", "without a slash"),
        (b": ../x", "without a slash"),
        (b":", "needs a file"),
        (b"! x", "takes nothing more"),
    ],
)
def test_what_is_no_rule_is_named(line: bytes, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Parser().rules([line])


def test_a_bad_file_of_rules_is_named_with_its_line() -> None:
    level = top_level([b": .rules"], ignore_files=False, at_sender=True)
    assert level is not None
    with pytest.raises(UsageError, match=r"'sub/\.rules', line 2: 'nonsense' is no filter rule"):
        level.enter(b"sub", {b".rules": b"- a\nnonsense\n"})


def test_ignore_files_take_bare_patterns() -> None:
    level = top_level([], ignore_files=True, at_sender=True)
    assert level is not None
    inside = level.enter(b"", {b".dwcpignore": b"# made\n*.o\n/build/\n!\n*.tmp\n+ keep.tmp\n"})
    assert inside.excludes(b"x/y.tmp", directory=False)
    assert not inside.excludes(b"x.o", directory=False), "the line ! forgets what came before"
