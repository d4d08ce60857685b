"""The fixtures that many tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import Pair


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """A listening node `b` and a client node `a` that knows it, in this process."""
    made = Pair(tmp_path)
    try:
        yield made
    finally:
        made.close()
