"""Manual pages from the same commands that make --help: `python -m dwcp.cli.manual DIRECTORY`.

Pages are written in man(7)'s macros, one for each command: dwcp.1, dwcp-send.1, dwcp-peer-add.1, dwcp-manager.1. They
have no date, so that the same commands make the same pages.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import version
from inspect import cleandoc
from pathlib import Path

import click

from dwcp.cli.main import main as dwcp
from dwcp.manager.daemon import main as dwcp_manager


def pages() -> Iterator[tuple[str, str]]:
    """(file name, content) of every page."""
    for name, command in (("dwcp", dwcp), ("dwcp-manager", dwcp_manager)):
        yield from _pages(_context(command, name, None))


def _pages(context: click.Context) -> Iterator[tuple[str, str]]:
    yield f"{_name(context)}.1", _page(context)
    for child in _children(context):
        yield from _pages(child)


def _children(context: click.Context) -> list[click.Context]:
    group = context.command
    if not isinstance(group, click.Group):
        return []
    found = ((name, group.get_command(context, name)) for name in group.list_commands(context))
    return [_context(command, name, context) for name, command in found if command is not None and not command.hidden]


def _context(command: click.Command, name: str, parent: click.Context | None) -> click.Context:
    return command.context_class(command, info_name=name, parent=parent, **command.context_settings)


def _name(context: click.Context) -> str:
    return context.command_path.replace(" ", "-")


def _page(context: click.Context) -> str:
    command, name = context.command, _name(context)
    help_text = cleandoc(command.help or "")
    lines = [
        f'.TH "{name.upper()}" "1" "" "dwcp {version("dwcp")}" "DWCP Manager"',
        ".SH NAME",
        f"{_escaped(name)} \\- {_escaped(_summary(help_text))}",
        ".SH SYNOPSIS",
        f".B {_escaped(context.command_path)}",
        _escaped(" ".join(command.collect_usage_pieces(context))),
        ".SH DESCRIPTION",
        *_paragraphs(help_text),
    ]
    shown = [parameter for parameter in command.get_params(context) if isinstance(parameter, click.Option)]
    options = [record for option in shown if (record := option.get_help_record(context))]
    if options:
        lines.append(".SH OPTIONS")
        for flags, text in options:
            lines += [".TP", f".B {_escaped(flags)}", *_paragraphs(text)]
    children = _children(context)
    if children:
        lines.append(".SH COMMANDS")
        for child in children:
            summary = _summary(cleandoc(child.command.help or ""))
            lines += [".TP", f".BR {_escaped(_name(child))} (1)", _escaped(summary)]
    above = [_name(context.parent)] if context.parent is not None else ["dwcp-manager" if name == "dwcp" else "dwcp"]
    lines += [".SH SEE ALSO", ",\n".join(f".BR {_escaped(other)} (1)" for other in above)]
    return "\n".join(lines) + "\n"


def _summary(help_text: str) -> str:
    """The first sentence, as manual pages have it: small, without a full stop."""
    first = " ".join(help_text.partition("\n\n")[0].split()).partition(". ")[0].rstrip(".")
    return first[:1].lower() + first[1:]


def _paragraphs(text: str) -> list[str]:
    lines: list[str] = []
    for paragraph in text.split("\n\n"):
        lines += [".PP"] if lines else []
        written = [_escaped(line) for line in paragraph.splitlines()]
        # click's mark for what is not to be wrapped
        lines += [".nf", *written[1:], ".fi"] if written[0] == "\b" else written
    return lines


def _escaped(text: str) -> str:
    """As it is, whatever roff(7) would make of it."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("`", "\\(ga")
    return f"\\&{text}" if text.startswith((".", "'")) else text


def main() -> None:
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in pages():
        (directory / name).write_text(content)


if __name__ == "__main__":
    main()
