"""YAML with a place for every key, and limits on what a file can make of us.

Built from parser events, not by recursion, so that depth is a counter. Scalars are YAML 1.1's null, booleans, integers
and floats; what else 1.1 would turn into dates or base-60 numbers stays text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from dwcp.errors import ConfigError

MAX_BYTES = 1024 * 1024
MAX_DEPTH = 24
MAX_NODES = 20_000
"""After aliases are followed: a "billion laughs" file ends here."""

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_PLAIN = re.compile(
    r"(?P<null>~|null|Null|NULL|)|(?P<bool>yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF)"
    r"|(?P<int>[-+]?(0|[1-9][0-9_]{0,63})|0x[0-9a-fA-F][0-9a-fA-F_]{0,63}|0b[01][01_]{0,63})"
    r"|(?P<float>[-+]?[0-9][0-9_]*\.[0-9_]*([eE][-+]?[0-9]+)?)"
)
"""Integers of more digits than anything here can be stay text: Python refuses to convert very long ones."""
_TRUE = {"yes", "true", "on"}

KeyPath = tuple[str, ...]


@dataclass(slots=True)
class Document:
    """`places`: (line, column), from 1, of each key path's key; values as Python has them."""

    file: str
    values: dict[str, Any] = field(default_factory=dict)
    places: dict[KeyPath, tuple[int, int]] = field(default_factory=dict)


@dataclass(slots=True)
class _Node:
    """A parsed node. `value`: text and plainness of a scalar, items of a sequence, (key, value) pairs of a mapping."""

    kind: str
    mark: Any
    text: str = ""
    plain: bool = False
    items: list[_Node] = field(default_factory=list)


def read(path: Path) -> Document:
    """Raises ConfigError with a line for each problem of the file as such."""
    name = str(path)
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except IsADirectoryError as error:
        raise ConfigError([f"{name}: is a directory; name a file"]) from error
    except FileNotFoundError as error:
        raise ConfigError([f"{name}: no such file"]) from error
    except OSError as error:
        raise ConfigError([f"{name}: cannot be read: {error.strerror}"]) from error
    if len(raw) > MAX_BYTES:
        raise ConfigError([f"{name}: is larger than {MAX_BYTES} bytes; this is no configuration"])
    return parse(raw, name)


def parse(raw: bytes, name: str) -> Document:
    """Raises ConfigError as `read`."""
    if b"\0" in raw:
        raise ConfigError([f"{name}: is binary; a configuration is text (YAML in UTF-8)"])
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ConfigError([f"{name}:{line}:1: is not UTF-8 text"]) from error
    document = Document(name)
    try:
        root = _compose(text, name)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        raise ConfigError([f"{place}: {_explain(error, text, mark)}"]) from error
    except yaml.YAMLError as error:
        raise ConfigError([f"{name}: is no YAML: {' '.join(str(error).split())}"]) from error
    if root is None:
        return document
    if root.kind != "mapping":
        raise ConfigError([f"{_place(name, root.mark)}: a configuration is a mapping of keys to values"])
    _Builder(document).build(root)
    return document


def scalar(text: str) -> Any:
    """What a plain YAML scalar means; how environment variables and --set are read."""
    match = _PLAIN.fullmatch(text)
    if match is None:
        return text
    if match["bool"]:
        return text.lower() in _TRUE
    if match["int"]:
        return int(text.replace("_", ""), 0)
    if match["float"]:
        return float(text.replace("_", ""))
    return None


def _compose(text: str, name: str) -> _Node | None:
    root: _Node | None = None
    stack: list[_Node] = []
    anchors: dict[str, _Node] = {}
    documents = 0
    for event in yaml.parse(text, Loader=_LOADER):
        node: _Node | None = None
        mark = event.start_mark or yaml.Mark(name, 0, 0, 0, None, 0)
        match event:
            case yaml.DocumentStartEvent():
                documents += 1
                if documents > 1:
                    raise ConfigError([f"{_place(name, mark)}: a second document begins; one is allowed"])
            case yaml.ScalarEvent():
                node = _Node("scalar", mark, event.value, bool(event.implicit[0]))
            case yaml.SequenceStartEvent():
                node = _Node("sequence", mark)
            case yaml.MappingStartEvent():
                node = _Node("mapping", mark)
            case yaml.AliasEvent():
                if event.anchor not in anchors:
                    raise ConfigError([f"{_place(name, mark)}: alias *{event.anchor} has no anchor before it"])
                stack[-1].items.append(anchors[event.anchor])
            case yaml.SequenceEndEvent() | yaml.MappingEndEvent():
                closed = stack.pop()
                if not stack:
                    root = closed
        if node is None or not isinstance(event, yaml.NodeEvent):
            continue
        if stack:
            stack[-1].items.append(node)
        elif node.kind == "scalar" and (node.text or not node.plain):
            root = node
        if event.anchor is not None:
            anchors[event.anchor] = node
        if node.kind != "scalar":
            stack.append(node)
            if len(stack) > MAX_DEPTH:
                raise ConfigError([f"{_place(name, node.mark)}: nested deeper than {MAX_DEPTH} levels"])
    return root


class _Builder:
    def __init__(self, document: Document) -> None:
        self._document = document
        self._nodes = self._depth = 0
        self._problems: list[str] = []

    def build(self, root: _Node) -> None:
        self._document.values = self._mapping(root, ())
        if self._problems:
            raise ConfigError(self._problems)

    def _value(self, node: _Node, path: KeyPath) -> Any:
        self._nodes += 1
        # not the path's length, which a merge key does not add to
        if self._nodes > MAX_NODES or self._depth > MAX_DEPTH:
            raise ConfigError([f"{_place(self._document.file, node.mark)}: too large once its aliases are followed"])
        if node.kind == "scalar":
            return scalar(node.text) if node.plain else node.text
        self._depth += 1
        try:
            if node.kind == "sequence":
                return [self._value(item, (*path, str(number))) for number, item in enumerate(node.items)]
            return self._mapping(node, path)
        finally:
            self._depth -= 1

    def _mapping(self, node: _Node, path: KeyPath) -> dict[str, Any]:
        values: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in zip(node.items[::2], node.items[1::2], strict=True):
            place = _place(self._document.file, key_node.mark)
            if key_node.kind != "scalar":
                self._problems.append(f"{place}: a key must be plain text")
                continue
            key = key_node.text
            if key == "<<":
                sources = value_node.items if value_node.kind == "sequence" else [value_node]
                for source in sources:
                    value = self._value(source, path)
                    merged = {**(value if isinstance(value, dict) else {}), **merged}
                continue
            if key in values:
                first = self._document.places[(*path, key)]
                self._problems.append(f"{place}: {'.'.join((*path, key))}: given twice, first in line {first[0]}")
                continue
            self._document.places[(*path, key)] = (key_node.mark.line + 1, key_node.mark.column + 1)
            values[key] = self._value(value_node, (*path, key))
        return {**merged, **values}


def _place(name: str, mark: Any) -> str:
    return f"{name}:{mark.line + 1}:{mark.column + 1}"


def _explain(error: yaml.MarkedYAMLError, text: str, mark: Any) -> str:
    lines = text.splitlines()
    if mark is not None and mark.line < len(lines) and "\t" in lines[mark.line][: mark.column + 1]:
        return "a tab cannot indent YAML; use spaces"
    return f"is no YAML: {error.problem or error.context or 'cannot be parsed'}"
