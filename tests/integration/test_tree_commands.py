"""`dwcp send` and `get` with the options that are rsync's: how they are read, ordered, refused; what they print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner

from dwcp.cli import transfer
from dwcp.cli.tree_options import TreeCommand, read, tree_options
from dwcp.errors import DwcpError, NotFoundError, UsageError
from dwcp.wire.tree import ALL_KEPT, TreeOptions
from tests.processes import run_dwcp
from tests.support import Pair


def parsed(*arguments: str) -> TreeOptions:
    """What the options become."""
    found: list[TreeOptions] = []

    @click.command(cls=TreeCommand)
    @tree_options
    def command(**options: Any) -> None:
        found.append(read(options))

    result = CliRunner().invoke(command, list(arguments), standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return found[0]


def test_nothing_given_is_nothing_asked() -> None:
    assert parsed() == TreeOptions()


def test_archive_is_all_and_every_letter_a_part_of_it() -> None:
    assert parsed("-a").keep == list(ALL_KEPT) == parsed("-pogDAX").keep
    assert parsed("-o").keep == ["owner"]
    assert parsed("-X", "-H").keep == ["xattrs", "security"]


def test_filters_keep_the_order_of_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "more").write_text("+ /a\n# comment\n.b*\n")
    (tmp_path / "rules").write_text("- one\nmerge more\n+ two\n")
    monkeypatch.chdir(tmp_path)
    arguments = ["--exclude", "x", "-f", "+ y", "--include=z", "-af- w", "--exclude-from", "more", "--filter=. rules"]
    with pytest.raises(UsageError, match=r"'rules', line 2: 'more', line 3: '\.b\*'"):
        parsed(*arguments)
    (tmp_path / "more").write_text("+ /a\n# comment\n- .b*\n")
    wanted = [b"- x", b"+ y", b"+ z", b"- w", b"+ /a", b"- .b*", b"- one", b"+ /a", b"- .b*", b"+ two"]
    assert parsed(*arguments).filters == wanted
    assert parsed("--exclude", "x", "--include", "! not a rule", "--exclude", "!").filters == []


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (["-f", "nonsense"], UsageError, "is no filter rule"),
        (["--exclude-from", "missing"], NotFoundError, "cannot read 'missing'"),
        (["--bwlimit", "1000"], UsageError, "rsync's bare numbers are KiB/s"),
        (["--bwlimit", "0MB/s"], UsageError, "at a rate of zero"),
        (["--suffix", ".old"], UsageError, "add --backup"),
        (["--exclude", "x" * 200_000], UsageError, "more than can be sent"),
    ],
)
def test_what_cannot_be_meant_is_said(arguments: list[str], error: type[DwcpError], words: str) -> None:
    with pytest.raises(error, match=words):
        parsed(*arguments)


def test_backups_have_a_suffix_only_where_they_need_one() -> None:
    assert (parsed("-b").backup_dir, parsed("-b").backup_suffix) == (b"", b"~")
    beside = parsed("-b", "--backup-dir", "old")
    assert (beside.backup_dir, beside.backup_suffix) == (b"old", b"")
    assert parsed("--bwlimit", "2MB/s").rate == 16_000_000
    assert not parsed("--no-partial").partial


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--files-from", "-", "--delete"], "nothing can be deleted by it"),
        (["--delete-before", "--delete-after"], "exclude each other"),
    ],
)
def test_options_that_exclude_each_other(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(transfer.send, [*arguments, "a", "b:c/d"], input="")
    assert isinstance(result.exception, UsageError)
    assert words in str(result.exception)


def test_what_changes_is_printed_as_rsync_does_and_as_json(pair: Pair, tmp_path: Path) -> None:
    node2 = {"address": f"127.0.0.1:{pair.port}", "fingerprint": pair.identities["b"].fingerprint}
    config = {"peers": {"b": node2}, "storage": {"state_dir": str(pair.directory / "a")}}
    config["transport"] = {"congestion_algorithm": "cubic"}  # type: ignore[dict-item]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub" / "new\nline").write_text("x")
    (tree / "link").symlink_to("sub")
    (pair.inbox / "tree").mkdir()
    (pair.inbox / "tree" / "old").touch()
    command = ["send", "--config", tmp_path / "config.yaml", "-ni", "--delete", tree, "b:inbox/tree"]
    done = run_dwcp(*command)
    assert done.returncode == 0, done.stderr
    lines = sorted(done.stdout.splitlines()[:-1])
    assert lines[0] == "*deleting   old"
    assert lines[-3:] == ["<f+++++++++ sub/new\\nline", "cL+++++++++ link -> sub", "cd+++++++++ sub/"]
    assert [path.name for path in (pair.inbox / "tree").iterdir()] == ["old"]
    told = [json.loads(line) for line in run_dwcp(*command, "--json").stdout.splitlines()]
    items = {event["path"]: event["item"] for event in told if event["event"] == "change"}
    assert items["sub/new\nline"] == "<f+++++++++"
    assert items["old"] == "*deleting"
    back = run_dwcp("get", "--config", tmp_path / "config.yaml", "-i", "b:inbox/tree", tmp_path / "back")
    assert ">f+++++++++ old" in back.stdout.splitlines()
