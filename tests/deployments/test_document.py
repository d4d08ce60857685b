"""docs/deployment.md names what is there, and all of it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "deployment.md").read_text()
MADE = {"deployments/kubernetes/dwcp-manager/api-token"}
"""By a command of the page itself."""


def named() -> set[str]:
    """Every path below deployments/ in a command, in a word of code or as a link."""
    blocks = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    words = [word for block in blocks for word in shlex.split(block.replace("\\\n", ""), comments=True)]
    for code, link in re.findall(r"`(deployments/[^`]+)`|\(\.\./(deployments/[^)]+)\)", PAGE):
        words.append(code or link)
    return {word.rstrip("/") for word in words if word.startswith("deployments/")}


def test_what_the_page_names_is_there() -> None:
    assert [path for path in named() - MADE if not list(ROOT.glob(path))] == []


def test_each_directory_of_deployments_is_named() -> None:
    directories = {f"deployments/{path.name}" for path in (ROOT / "deployments").iterdir() if path.is_dir()}
    # how the archive is built concerns nobody who unpacks it
    directories -= {"deployments/archive"}
    assert [directory for directory in directories if not any(path.startswith(directory) for path in named())] == []
