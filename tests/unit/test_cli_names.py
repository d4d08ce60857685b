"""Names that a peer lists, on a terminal."""

from __future__ import annotations

import pytest

from dwcp.cli.peers import _line
from dwcp.transfer.client import RemoteEntry


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (RemoteEntry("a\udcff", "symlink", 1, 0, 0o777, "b\udcfe"), r"a\xff -> b\xfe"),
        (RemoteEntry("\x1b[2J", "file", 1, 0, 0o644, ""), r" \x1b[2J"),
        (RemoteEntry("x\ny", "file", 1, 2**64 - 1, 2**32 - 1, ""), r" x\ny"),
        (RemoteEntry("far", "dir", 1, 2**62 * 4, 0o755, ""), " far/"),
        (RemoteEntry("näme", "file", 1, -(2**63), 0o644, ""), " näme"),
    ],
)
def test_a_line_is_one_line_that_can_be_printed(entry: RemoteEntry, words: str) -> None:
    line = _line(entry)
    assert words in line
    assert line.isprintable()
    line.encode()
