"""What the documents say is so: generated pages, links, commands, targets, quoted messages."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from dwcp.cli.main import main as dwcp
from dwcp.manager.daemon import main as dwcp_manager
from tests.processes import clean_environment

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
PROGRAMS = {"dwcp": dwcp, "dwcp-manager": dwcp_manager}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize(
    ("page", "module"),
    [
        ("configuration.md", "dwcp.config.reference"),
        ("http.md", "dwcp.api.reference"),
        ("metrics.md", "dwcp.metrics.reference"),
    ],
)
def test_generated_pages_are_up_to_date(page: str, module: str) -> None:
    done = subprocess.run([sys.executable, "-m", module], capture_output=True, env=clean_environment(), check=True)
    assert (ROOT / "docs" / page).read_bytes() == done.stdout, "run `make docs`"


def test_the_pages_that_others_link_to_are_there() -> None:
    assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/architecture.md", "docs/operations.md"} <= {
        name(page) for page in PAGES
    }


def without_code(text: str) -> str:
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Of headings, as forges make them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_relative_links_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text())):
        if re.match("[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), f"{name(page)} links to {target}"
        assert not anchor or anchor in anchors(file), f"{name(page)} links to {target}"


def commands(page: Path) -> Iterator[list[str]]:
    """Every `dwcp ...` and `dwcp-manager ...` of code blocks and inline code that is written out in full."""
    text = page.read_text()
    blocks = re.findall(r"```(?:sh|bash)\n(.*?)```", text, re.DOTALL)
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    for line in [*(line for block in blocks for line in block.splitlines()), *inline]:
        for part in re.split(r"\|+|&&|;", line):
            typed = re.sub(r"^(sudo (-u \w+ )?)?", "", part.strip())
            words = shlex.split(typed, comments=True) if re.match(r"dwcp(-manager)?\b", typed) else []
            if words and words[0] in PROGRAMS and "..." not in words:
                yield words


def parse(command: click.Command, arguments: list[str], parent: click.Context | None = None) -> None:
    """Raises click.UsageError. Nothing is invoked."""
    context = command.make_context(command.name, list(arguments), parent=parent)
    if isinstance(command, click.Group):
        rest = [*context._protected_args, *context.args]
        if rest:
            _, child, left = command.resolve_command(context, rest)
            assert child is not None
            parse(child, left, context)


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "protocol.md"], ids=name)
def test_commands_parse(page: Path) -> None:
    """But not where code is mostly bytes."""
    for program, *arguments in commands(page):
        # `dwcp send` in a sentence names the command; with arguments it is one to be typed
        if len(arguments) < 2 and program == "dwcp":
            assert not arguments or arguments[0].startswith("-") or dwcp.get_command(None, arguments[0])  # type: ignore[arg-type]
            continue
        if (
            program == "dwcp"
            and arguments[0] in ("jobs", "kv", "lab", "peer", "state", "workload")
            and len(arguments) == 2
        ):
            arguments.append("--help")
        try:
            parse(PROGRAMS[program], arguments)
        except click.exceptions.Exit:
            continue
        except click.UsageError as error:
            raise AssertionError(f"{name(page)}: {program} {' '.join(arguments)}: {error.message}") from error


def test_the_readme_shows_a_way_from_the_first_command_to_the_last() -> None:
    shown = [" ".join(words[:3]) for words in commands(ROOT / "README.md") if len(words) > 2]
    assert shown[0] == "dwcp lab up"
    assert shown[-1] == "dwcp lab down"
    assert len(shown) == 5


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)", page.read_text())) <= targets


def messages() -> str:
    """Every string of the program, the parts of formatted ones joined."""
    texts = []
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                texts.append(
                    "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return "\n".join(texts)


def test_troubleshooting_quotes_real_messages() -> None:
    section = (ROOT / "docs" / "operations.md").read_text().partition("## Troubleshooting")[2]
    quoted = re.findall(r"^### (.+)$", section, re.MULTILINE)
    assert len(quoted) > 10
    known = messages()
    assert [message for message in quoted if message not in known] == []


def test_exit_codes_are_those_of_the_errors() -> None:
    from dwcp.errors import DwcpError

    def codes(cls: type[DwcpError]) -> set[int]:
        return {cls.exit_code}.union(*(codes(child) for child in cls.__subclasses__()))

    section = (ROOT / "docs" / "operations.md").read_text().partition("## Exit codes")[2].partition("##")[0]
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", section, re.MULTILINE)} == codes(DwcpError) | {0}
