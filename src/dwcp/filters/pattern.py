"""A pattern of rsync's filters, as a matcher of paths. What it means is in rsync(1), "PATTERN MATCHING RULES":

    /x      the path `x` from where the rule applies; otherwise the end of a path, after a slash or at its beginning
    x/      a directory only
    a/b     with a slash inside: the last components of the path, as many as the pattern has
    *       any characters but a slash;  **  any characters;  ?  one character but a slash;  [a-z]  one of a class
    x/***   the directory `x` and all that is below it

A backslash takes the next character as it is, in patterns with a wildcard. A pattern without a slash and without ** is
matched against the last component.

Patterns come from peers too. They become regular expressions that never go back over more than one wildcard: the
shortest text before the first place where the next literal piece fits is kept (an atomic group), which is enough,
because whatever fits further on also fits from there. So the time is at most quadratic in the length of the path.
"""

from __future__ import annotations

import re

_CLASSES = {
    b"alnum": b"0-9A-Za-z",
    b"alpha": b"A-Za-z",
    b"blank": b" \\t",
    b"cntrl": b"\\x00-\\x1f\\x7f",
    b"digit": b"0-9",
    b"graph": b"\\x21-\\x7e",
    b"lower": b"a-z",
    b"print": b"\\x20-\\x7e",
    b"punct": b"\\x21-\\x2f\\x3a-\\x40\\x5b-\\x60\\x7b-\\x7e",
    b"space": b" \\t\\n\\r\\f\\v",
    b"upper": b"A-Z",
    b"xdigit": b"0-9A-Fa-f",
}
"""Of the C locale."""
_NEVER = b"(?!)"


class Pattern:
    """`matches` says whether a path, relative to the tree, fits."""

    def __init__(self, text: bytes, *, base: bytes = b"") -> None:
        """`base`: the directory of the file that the pattern stands in, for one that begins with a slash."""
        self.directories_only = len(text) > 1 and text.endswith(b"/")
        text = text[:-1] if self.directories_only else text
        self._anchored = text.startswith(b"/")
        text = text.removeprefix(b"/")
        start = re.escape(base + b"/") if self._anchored and base else b""
        self._components = text.count(b"/") + 1
        wild = re.search(rb"[*?\[]", text) is not None
        self._crossing = b"**" in text
        self._with_directory_itself = self._crossing and text.endswith(b"***")
        self._prefixed = not self._anchored and text.startswith(b"**")
        segments = _segments(text) if wild else [[re.escape(text)]]
        if self._crossing and not self._anchored and not self._prefixed:
            # it may begin after any slash; the first place where its beginning fits is as good as any other
            start = b"(?>(?:.*?/)??" + _segment(segments[0]) + b")"
            segments[0] = [b""]
        self._regex = re.compile(b"(?s:" + start + _join(segments) + b")")

    def matches(self, path: bytes, *, directory: bool) -> bool:
        if self.directories_only and not directory:
            return False
        name = path
        if not self._anchored and not self._crossing:
            components = path.rsplit(b"/", self._components)[-self._components :]
            if len(components) < self._components:
                return False
            name = b"/".join(components)
        elif self._prefixed:
            # "**/x" fits x at the beginning too
            name = b"/" + name
        if directory and self._with_directory_itself:
            name += b"/"
        return self._regex.fullmatch(name) is not None


def _segments(text: bytes) -> list[list[bytes]]:
    """What is between one ** and the next: pieces of expressions without stars, one * between them."""
    segments: list[list[bytes]] = [[b""]]
    at = 0
    while at < len(text):
        if text[at] == ord("*"):
            stars = len(text[at:]) - len(text[at:].lstrip(b"*"))
            at += stars
            segments.append([b""]) if stars > 1 else segments[-1].append(b"")
            continue
        piece, at = _piece(text, at)
        segments[-1][-1] += piece
    return segments


def _join(segments: list[list[bytes]]) -> bytes:
    *before, last = segments
    parts = [_segment(before[0])] if before else []
    parts += [b"(?>.*?" + _segment(segment) + b")" for segment in before[1:]]
    return b"".join(parts) + (b".*?" if before else b"") + _last_segment(last)


def _segment(pieces: list[bytes]) -> bytes:
    return pieces[0] + b"".join(b"(?>[^/]*?" + piece + b")" for piece in pieces[1:])


def _last_segment(pieces: list[bytes]) -> bytes:
    """Where all has to fit to the end of the path."""
    if len(pieces) == 1:
        return pieces[0]
    return _segment(pieces[:-1]) + b"[^/]*" + pieces[-1]


def _piece(text: bytes, at: int) -> tuple[bytes, int]:
    """One character of a pattern as an expression, and where the next one begins."""
    char = text[at : at + 1]
    if char == b"?":
        return b"[^/]", at + 1
    if char == b"[":
        return _bracket(text, at + 1)
    if char == b"\\":
        return (re.escape(text[at + 1 : at + 2]), at + 2) if at + 1 < len(text) else (_NEVER, at + 1)
    return re.escape(char), at + 1


def _bracket(text: bytes, at: int) -> tuple[bytes, int]:
    """A class of characters, as wildmatch.c of rsync reads it: never a slash; one without an end fits nothing."""
    negated = text[at : at + 1] in (b"!", b"^")
    at += negated
    found: set[int] = set()
    previous: int | None = None
    first = True
    while first or text[at : at + 1] != b"]":
        first = False
        if at >= len(text):
            return _NEVER, at
        char = text[at]
        if char == ord("\\"):
            at += 1
            if at >= len(text):
                return _NEVER, at
            char = text[at]
            found.add(char)
            previous = char
        elif char == ord("-") and previous is not None and text[at + 1 : at + 2] not in (b"", b"]"):
            at += 1 + (text[at + 1] == ord("\\"))
            if at >= len(text):
                return _NEVER, at
            found.update(range(previous, text[at] + 1))
            previous = None
        elif char == ord("[") and text[at + 1 : at + 2] == b":":
            end = text.find(b"]", at + 2)
            if end < 0:
                return _NEVER, len(text)
            if text[end - 1 : end] != b":" or end - 1 < at + 2:
                found.add(char)
                previous = char
            else:
                members = _CLASSES.get(text[at + 2 : end - 1])
                if members is None:
                    return _NEVER, len(text)
                found.update(value for value in range(128) if re.match(b"[" + members + b"]", bytes([value])))
                previous, at = None, end
        else:
            found.add(char)
            previous = char
        at += 1
    found = (set(range(256)) - found if negated else found) - {ord("/")}
    if not found:
        return _NEVER, at + 1
    return b"[" + b"".join(b"\\x%02x" % value for value in sorted(found)) + b"]", at + 1
