"""Options, and the fixtures that many tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import Pair


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="run the fault tests for longer")


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """A listening node `b` and a client node `a` that knows it, in this process."""
    made = Pair(tmp_path)
    try:
        yield made
    finally:
        made.close()
