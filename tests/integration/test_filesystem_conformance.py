"""fsspec's own tests of an implementation, on peers as a file system."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import Pair

fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed (extra fsspec)")
abstract = pytest.importorskip("fsspec.tests.abstract", reason="fsspec's own tests are not installed")


from dwcp.integrations.filesystem import DwcpFileSystem  # noqa: E402


class Tidied(DwcpFileSystem):
    """fsspec's tests remove what they made, which peers do not offer: here it is done behind the peer's back."""

    inbox = Path()

    def rm(self, path: str | list[str], recursive: bool = False, maxdepth: int | None = None) -> None:
        for one in [path] if isinstance(path, str) else path:
            found = self.inbox / self._strip_protocol(one).split("/", 2)[2]
            if found.is_dir():
                shutil.rmtree(found)
            else:
                found.unlink()


class Fixtures(abstract.AbstractFixtures):  # type: ignore[misc, name-defined]
    @pytest.fixture
    def fs(self, pair: Pair) -> Iterator[Tidied]:
        made = Tidied(pair.config, skip_instance_cache=True)
        made.inbox = pair.inbox
        yield made
        made.close()

    @pytest.fixture
    def fs_path(self) -> str:
        return "b/inbox"

    @pytest.fixture
    def fs_join(self) -> Any:
        return lambda *parts: "/".join(parts)


class TestGet(Fixtures, abstract.AbstractGetTests):  # type: ignore[misc, name-defined]
    pass


class TestPut(Fixtures, abstract.AbstractPutTests):  # type: ignore[misc, name-defined]
    pass


class TestOpen(Fixtures, abstract.AbstractOpenTests):  # type: ignore[misc, name-defined]
    pass


class TestPipe(Fixtures, abstract.AbstractPipeTests):  # type: ignore[misc, name-defined]
    pass
