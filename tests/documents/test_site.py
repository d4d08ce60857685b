"""The documentation as a site: built without a warning, every page in it, nothing from elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built strictly: a link that leads nowhere, or a page that is in no menu, fails."""
    directory = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(directory)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return directory


def test_every_page_is_in_it(site: Path) -> None:
    built = {path.stem for path in site.glob("*.html")} - {"404"}
    assert built == {path.stem for path in (ROOT / "docs").glob("*.md")}


def test_it_asks_for_nothing_from_elsewhere(site: Path) -> None:
    for page in site.glob("*.html"):
        fetched = re.findall(r'<(?:script|img|iframe)[^>]*\ssrc="([^"]+)"', page.read_text())
        fetched += re.findall(r'<link[^>]*rel="(?:stylesheet|icon|preconnect)"[^>]*href="([^"]+)"', page.read_text())
        assert fetched
        assert [address for address in fetched if re.match("[a-z]*:?//", address)] == [], page.name


def test_links_into_the_repository_are_named_without_a_link(site: Path) -> None:
    page = (site / "deployment.html").read_text()
    assert 'href="../' not in page
    assert "deployments/systemd/dwcp-manager.service" in page
