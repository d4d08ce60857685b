"""Filter rules as rsync(1) writes them, "FILTER RULES IN DEPTH": one line each, the first that matches decides.

    - PATTERN   exclude      H PATTERN   hide: exclude at the sender      P PATTERN   protect: exclude from deletion
    + PATTERN   include      S PATTERN   show: include at the sender      R PATTERN   risk: include in deletion
    . FILE      merge        : NAME      dir-merge: rules in a file of every directory
    !           forget the rules before

Long names (`exclude PATTERN`) and modifiers (`-s PATTERN`, `hide,p PATTERN`) are as there: `!` for what does not match,
`s` and `r` for a side, `p` for rules that do not count in what is deleted; `e`, `n`, `w`, `-` and `+` after a merge.
Refused, since they mean nothing here or lead outside of the tree: `/`, `C`, `x`, and a dir-merge with a slash.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TypeAlias

from dwcp.errors import UsageError
from dwcp.filters.pattern import Pattern
from dwcp.wire.paths import display

IGNORE_FILE = b".dwcpignore"
MAX_MERGE_FILE = 1024 * 1024
"""Bytes of a file of rules that are read."""
MAX_DEPTH = 16
"""Of merge files that name each other."""

_LONG = {
    b"exclude": b"-",
    b"include": b"+",
    b"merge": b".",
    b"dir-merge": b":",
    b"hide": b"H",
    b"show": b"S",
    b"protect": b"P",
    b"risk": b"R",
    b"clear": b"!",
}
_SHORT = {b"-": (b"-", b""), b"+": (b"+", b""), b"H": (b"-", b"s"), b"S": (b"+", b"s")}
_SHORT |= {b"P": (b"-", b"r"), b"R": (b"+", b"r")}
_RULE_MODIFIERS = frozenset(b"!srp")
_MERGE_MODIFIERS = frozenset(b"enw-+srp")

ReadFile: TypeAlias = Callable[[bytes], bytes]
"""The content of a merge file. Raises a DwcpError."""


@dataclass(frozen=True, slots=True)
class Form:
    """How the lines of a file are read. `prefix`: `-` or `+` for bare patterns; empty for rules. `loose`: lines without
    `- ` or `+ ` in front are patterns to exclude, as in rsync's --exclude-from."""

    prefix: bytes = b""
    loose: bool = False
    words: bool = False
    modifiers: bytes = b""
    """Of every rule in it: sides, perishable."""


@dataclass(frozen=True, slots=True)
class Rule:
    """`text` is the rule in its shortest form, from which it can be parsed again."""

    text: bytes
    include: bool
    pattern: Pattern
    negated: bool
    sender: bool
    receiver: bool
    perishable: bool


@dataclass(frozen=True, slots=True)
class DirMerge:
    """Rules in the file `name` of every directory; `inherited` by those below."""

    text: bytes
    name: bytes
    form: Form
    inherited: bool


Item: TypeAlias = Rule | DirMerge
IGNORE_FILES = DirMerge(b"", IGNORE_FILE, Form(loose=True), True)


class Parser:
    """Turns lines into rules. `delete_excluded`: what names no side counts at the sender only."""

    def __init__(self, *, delete_excluded: bool = False, read: ReadFile | None = None) -> None:
        """`read`: merge files are read with it; without it they are refused."""
        self._delete_excluded = delete_excluded
        self._read = read

    def rules(self, lines: Iterable[bytes]) -> list[Item]:
        """Of the command line, or what it becomes on the wire. Raises UsageError."""
        items: list[Item] = []
        for line in lines:
            self.add(items, line)
        return items

    def add(self, items: list[Item], line: bytes) -> None:
        """One more rule, or what it makes of those before it. Raises UsageError."""
        self._add(items, line, Form(), b"", 0)

    def file(self, content: bytes, form: Form, *, base: bytes, where: bytes) -> tuple[list[Rule], bool]:
        """Of a dir-merge file in the directory `base`, and whether it forgets those of the directories above. `where`
        is the file's path, for errors. Raises UsageError."""
        items: list[Item] = []
        self._add_file(items, content, form, base, 0, where)
        found = [item for item in items if isinstance(item, Rule)]
        if len(found) < len(items):
            raise UsageError(f"{display(where)}: a dir-merge rule cannot stand in a file that a dir-merge names")
        return found, any(line.strip() in (b"!", b"clear") for line in content.splitlines())

    def add_pattern(self, items: list[Item], include: bool, text: bytes) -> None:
        """Of --include and --exclude: a pattern, or a rule where `+ ` or `- ` is in front. Raises UsageError."""
        self._add(items, text, Form(prefix=b"+" if include else b"-", loose=True), b"", 0)

    def add_patterns(self, items: list[Item], include: bool, content: bytes, where: bytes) -> None:
        """Of --include-from and --exclude-from. Raises UsageError."""
        self._add_file(items, content, Form(prefix=b"+" if include else b"-", loose=True), b"", 0, where)

    def _add_file(self, items: list[Item], content: bytes, form: Form, base: bytes, depth: int, where: bytes) -> None:
        if depth > MAX_DEPTH:
            raise UsageError(f"{display(where)}: more than {MAX_DEPTH} files of rules name each other")
        lines = _words(content, form) if form.words else content.splitlines()
        for number, line in enumerate(lines, 1):
            if not line.strip() or (not form.words and line.lstrip()[:1] in (b"#", b";")):
                continue
            try:
                self._add(items, line, form, base, depth)
            except UsageError as error:
                raise UsageError(f"{display(where)}, line {number}: {error}") from error

    def _add(self, items: list[Item], line: bytes, form: Form, base: bytes, depth: int) -> None:
        if form.loose:
            kind, rest = (line[:1], line[2:]) if line[:2] in (b"- ", b"+ ") else (form.prefix or b"-", line)
            kind, rest = (b"!", b"") if line == b"!" else (kind, rest)
            modifiers = b""
        elif form.prefix:
            kind, modifiers, rest = form.prefix, b"", line
        else:
            kind, modifiers, rest = _dissect(line)
        if kind == b"!":
            items.clear()
            return
        if kind in (b".", b":"):
            self._merge(items, line, kind, modifiers, rest, form, depth)
            return
        sign, side = _SHORT[kind]
        items.append(self._rule(line, sign, _without_conflict(line, modifiers + side, form), rest, base))

    def _rule(self, line: bytes, sign: bytes, modifiers: bytes, pattern: bytes, base: bytes) -> Rule:
        _check(line, modifiers, _RULE_MODIFIERS)
        if not pattern.strip(b"/"):
            raise UsageError(f"{display(line)}: a rule needs a pattern")
        named = b"s" in modifiers or b"r" in modifiers
        modifiers = bytes(sorted(set(modifiers)))
        return Rule(
            sign + modifiers + b" " + pattern,
            sign == b"+",
            Pattern(pattern, base=base),
            b"!" in modifiers,
            not named or b"s" in modifiers,
            b"r" in modifiers or not (named or self._delete_excluded),
            b"p" in modifiers,
        )

    def _merge(
        self, items: list[Item], line: bytes, kind: bytes, modifiers: bytes, name: bytes, form: Form, depth: int
    ) -> None:
        _check(line, modifiers, _MERGE_MODIFIERS)
        if not name:
            raise UsageError(f"{display(line)}: a merge rule needs a file")
        prefix = b"-" if b"-" in modifiers else b"+" if b"+" in modifiers else b""
        passed_on = bytes(char for char in modifiers if char in b"srp")
        inner = Form(prefix, False, b"w" in modifiers, passed_on or form.modifiers)
        if b"e" in modifiers:
            items.append(self._rule(line, b"-", b"", name.rpartition(b"/")[2], b""))
        if kind == b":":
            if b"/" in name or name in (b".", b".."):
                raise UsageError(f"{display(line)}: a dir-merge names a file of each directory, without a slash")
            shortest = bytes(char for char in modifiers if char != ord("e"))
            items.append(DirMerge(b":" + shortest + b" " + name, name, inner, b"n" not in modifiers))
            return
        if self._read is None:
            raise UsageError(f"{display(line)}: a merge rule is read where the command runs, and nowhere else")
        self._add_file(items, self._read(name), inner, b"", depth + 1, name)


def merge_names(items: Iterable[Item]) -> frozenset[bytes]:
    """Files that every directory is searched for."""
    return frozenset(item.name for item in items if isinstance(item, DirMerge))


def _dissect(line: bytes) -> tuple[bytes, bytes, bytes]:
    """(kind in its short form, modifiers, pattern or file) of a rule. Raises UsageError."""
    line = line.lstrip()
    name = re.match(rb"[a-z][a-z-]+(?=[ _,]|$)", line)
    kind = _LONG.get(name[0], b"") if name else line[:1]
    if kind not in _LONG.values():
        raise UsageError(f"{display(line)} is no filter rule; write for example '- *.o' or '+ /src/***'")
    rest = line[len(name[0] if name else kind) :].removeprefix(b",")
    ends = [at for at in (rest.find(b" "), rest.find(b"_")) if at >= 0]
    end = min(ends, default=len(rest))
    if kind == b"!" and rest.strip():
        raise UsageError(f"{display(line)}: clearing the rules takes nothing more")
    return kind, rest[:end], rest[end + 1 :]


def _check(line: bytes, modifiers: bytes, allowed: frozenset[int]) -> None:
    for char in modifiers:
        if char not in allowed:
            raise UsageError(f"{display(line)}: the modifier {chr(char)!r} is not known here")


def _without_conflict(line: bytes, modifiers: bytes, form: Form) -> bytes:
    sides = b"sr"
    if any(char in sides for char in modifiers) and any(char in sides for char in form.modifiers):
        raise UsageError(f"{display(line)}: the rule that names this file has chosen the side already")
    return modifiers + form.modifiers


def _words(content: bytes, form: Form) -> list[bytes]:
    """Split at white space, a rule's kind with what follows it."""
    words: list[bytes] = []
    kind = b""
    for word in content.split():
        if kind:
            words.append(kind + b" " + word)
            kind = b""
        elif not form.prefix and (word[:1] in _LONG.values() or word.partition(b",")[0] in _LONG) and word != b"!":
            kind = word
        else:
            words.append(word)
    return [*words, *([kind] if kind else [])]


@dataclass(frozen=True, slots=True)
class Level:
    """The rules in effect for what is in one directory. Immutable: `enter` gives those of a directory below."""

    items: tuple[Item, ...]
    parser: Parser
    at_sender: bool
    merged: tuple[tuple[Rule, ...], ...]
    """For each dir-merge, in their order: the rules of this directory, then those of the ones above."""
    rules: tuple[Rule, ...]
    """All that count at this side, in their order."""

    @classmethod
    def top(cls, items: Iterable[Item], parser: Parser, *, at_sender: bool) -> Level:
        """Above the tree's root."""
        kept = tuple(items)
        merged = tuple(() for item in kept if isinstance(item, DirMerge))
        return cls(kept, parser, at_sender, merged, _in_effect(kept, merged, at_sender))

    def enter(self, path: bytes, files: dict[bytes, bytes]) -> Level:
        """For the directory `path`, in which `files` of `merge_names` have that content. Raises UsageError."""
        merges = [item for item in self.items if isinstance(item, DirMerge)]
        merged = []
        for merge, inherited in zip(merges, self.merged, strict=True):
            kept = inherited if merge.inherited else ()
            if merge.name in files:
                where = path + b"/" + merge.name if path else merge.name
                rules, cleared = self.parser.file(files[merge.name], merge.form, base=path, where=where)
                kept = (*rules, *(() if cleared else kept))
            merged.append(kept)
        if tuple(merged) == self.merged:
            return self
        effect = _in_effect(self.items, tuple(merged), self.at_sender)
        return replace(self, merged=tuple(merged), rules=effect)

    def excludes(self, path: bytes, *, directory: bool, dying: bool = False) -> bool:
        """Whether a name is left out: at the sender from the transfer, at the receiver from deletion. `dying`: the
        directory that it is in is being deleted."""
        for rule in self.rules:
            if dying and rule.perishable:
                continue
            if rule.pattern.matches(path, directory=directory) is not rule.negated:
                return not rule.include
        return False


def _in_effect(items: tuple[Item, ...], merged: tuple[tuple[Rule, ...], ...], at_sender: bool) -> tuple[Rule, ...]:
    following = iter(merged)
    rules = [rule for item in items for rule in ((item,) if isinstance(item, Rule) else next(following))]
    return tuple(rule for rule in rules if (rule.sender if at_sender else rule.receiver))


def top_level(
    filters: Iterable[bytes], *, ignore_files: bool, at_sender: bool, delete_excluded: bool = False
) -> Level | None:
    """Above the tree's root; None where nothing can be excluded. Raises UsageError."""
    parser = Parser(delete_excluded=delete_excluded)
    items = [*parser.rules(filters), *([IGNORE_FILES] if ignore_files else [])]
    return Level.top(items, parser, at_sender=at_sender) if items else None
