"""Whatever is done to a tree: every version that is kept is what the tree was when it was made."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from dwcp.files.root import Parts
from dwcp.versions.manifest import quoted, unquoted
from dwcp.versions.walk import order, walk
from tests.unit.test_versions import Export, picture, replace, stored

_NAMES = st.sampled_from(["a", "b", "d/a", "d/b", "d/e/a"])
_STEPS = st.tuples(
    # few names and many versions, so that the same file is met again
    st.sampled_from(["write", "in-place", "remove", "link", "symlink", "mode", "touch", *["version"] * 5]),
    st.sampled_from(["a", "d/a"]),
    st.binary(max_size=20),
)
_PARTS = st.lists(st.binary(min_size=1, max_size=8).filter(lambda name: b"/" not in name), max_size=4).map(tuple)


def _step(tree: Path, what: str, name: str, content: bytes) -> None:
    path = tree / name
    if path.parent.is_symlink() or (path.parent.exists() and not path.parent.is_dir()):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if what == "write":
        replace(path, content)
    elif what == "symlink" and not os.path.lexists(path):
        path.symlink_to("x" + content.hex())
    elif path.is_symlink():
        path.unlink()
    elif path.is_file():
        if what == "in-place":
            path.write_bytes(content)
        elif what == "remove":
            path.unlink()
        elif what == "mode":
            path.chmod(0o600 | content.count(b"\0"))
        elif what == "touch":
            os.utime(path, ns=(0, len(content)))
        elif what == "link" and not os.path.lexists(tree / "linked"):
            os.link(path, tree / "linked")


@settings(max_examples=150, deadline=None)
@given(st.lists(_STEPS, min_size=4, max_size=25), st.integers(1, 4))
def test_versions_stay_what_they_were(steps: list[tuple[str, str, bytes]], last: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        export = Export(Path(directory))
        pictures: dict[str, dict[str, Any]] = {}
        try:
            for what, name, content in steps:
                if what != "version":
                    _step(export.tree, what, name, content)
                    continue
                made = export.make(last=last)
                pictures[made.version.id] = picture(export.tree)
            found = export.store.find()
            assert [version.id for version in found] == sorted(pictures)[-last:]
            for version in found:
                assert picture(stored(version)) == pictures[version.id]
            if found:
                assert (export.check().damaged, export.check().healed) == (0, 0)
        finally:
            export.store.close()
            export.root.close()


@given(_PARTS)
def test_names_come_back_from_a_manifest(parts: Parts) -> None:
    text = quoted(parts)
    assert text.isascii()
    assert unquoted(text) == parts


@settings(max_examples=30, deadline=None)
@given(st.lists(_NAMES.map(str.encode), max_size=5), st.lists(_PARTS, max_size=12))
def test_a_walk_ascends(names: list[bytes], more: list[Parts]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        export = Export(Path(directory))
        try:
            for parts in [*(tuple(name.split(b"/")) for name in names), *more]:
                if any(part in (b".", b"..") or b"\0" in part for part in parts):
                    continue
                os.makedirs(os.path.join(os.fsencode(export.tree), *parts), exist_ok=True)
            found = [walked.parts for walked in walk(export.root, (b"data", b"db"))]
            assert [order(parts) for parts in found] == sorted(order(parts) for parts in found)
            assert len(set(found)) == len(found)
        finally:
            export.store.close()
            export.root.close()
