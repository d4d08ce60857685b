"""The fixtures that many tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import Pair, logs_kept


@pytest.fixture(autouse=True)
def _own_logs() -> Iterator[None]:
    """What one test does to the logs of this process is none of the next one's business."""
    with logs_kept():
        yield


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """A listening node `b` and a client node `a` that knows it, in this process."""
    made = Pair(tmp_path)
    try:
        yield made
    finally:
        made.close()
