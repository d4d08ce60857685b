"""The pages for people who come from rsync and rclone: their commands are run, one after the other."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.processes import clean_environment
from tests.support import Pair, make_tree, random_file

DOCS = Path(__file__).parents[2] / "docs"


def commands(page: str) -> list[str]:
    """In tables and blocks, as they are typed."""
    text = (DOCS / page).read_text()
    blocks = [line for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    cells = [cell for cell in re.findall(r"`([^`\n]+)`", text) if cell.startswith("dwcp ") and len(cell.split()) > 3]
    return [*cells, *blocks, *re.findall(r"`(dwcp ls [^`]+)`", text)]


@pytest.mark.parametrize("page", ["coming-from-rsync.md", "coming-from-rclone.md"])
def test_every_command_does_its_job(pair: Pair, tmp_path: Path, page: str) -> None:
    for name in ("www", "photos"):
        make_tree(tmp_path / name)
    (tmp_path / "www" / "cache").mkdir()
    (tmp_path / "www" / "cache" / "keep").write_text("1")
    (tmp_path / "www" / "index.html").write_text("<p>")
    random_file(tmp_path / "photos" / "one.jpg", 100_000)
    (tmp_path / "list").write_text("small\nsub/medium\n")
    (tmp_path / "excludes").write_text("*.bak\n")
    node2 = {"address": f"127.0.0.1:{pair.port}", "fingerprint": pair.identities["b"].fingerprint}
    config = {
        "node": {"name": "a"},
        "peers": {"node2": node2},
        "storage": {"state_dir": str(pair.directory / "a")},
        "transport": {"congestion_algorithm": "cubic", "enable_pacing": False},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    program = f"{shlex.quote(sys.executable)} -m dwcp.cli"
    typed = commands(page)
    assert len(typed) > 12
    for line in typed:
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", re.sub(r"(^|\| )dwcp ", rf"\1{program} ", line)],
            cwd=tmp_path,
            env=clean_environment(DWCP_CONFIG=str(tmp_path / "config.yaml")),
            capture_output=True,
        )
        assert done.returncode == 0, (line, done.stderr)
    inbox = pair.inbox
    if page == "coming-from-rsync.md":
        assert os.path.samestat((inbox / "www" / "small").stat(), (inbox / "www" / "sub" / "same").stat())
        assert (tmp_path / "back" / "small").read_text() == "hello\n"
        assert sorted(path.name for path in (inbox / "html").rglob("*") if path.is_file()) == ["index.html"]
        assert sorted(path.name for path in (inbox / "some").iterdir()) == ["small", "sub"]
    else:
        assert (inbox / "best.jpg").read_bytes() == (tmp_path / "photos" / "one.jpg").read_bytes()
        assert (tmp_path / "restored" / "small").read_text() == "hello\n"
        assert (inbox / "photos.tar").stat().st_size > 3_000_000
