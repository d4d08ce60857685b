"""One pair of nodes with its Prometheus for all tests of what watches them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.deployments.live import Watched, watching


@pytest.fixture(scope="package")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    for program in ("prometheus", "prometheus-node-exporter"):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program} (apt)")
    with watching(tmp_path_factory.mktemp("watched")) as watched:
        yield watched
