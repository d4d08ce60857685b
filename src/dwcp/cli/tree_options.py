"""What `dwcp send` and `dwcp get` take beyond where from and where to: the options of rsync(1), by its names."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from dwcp.errors import NotFoundError, UsageError
from dwcp.files.listed import parse
from dwcp.filters.rules import Item, Parser
from dwcp.units import format_size, parse_rate
from dwcp.wire.frames import MAX_HEAD
from dwcp.wire.tree import ALL_KEPT, MAX_FILTER, MAX_FILTERS, Kept, TreeOptions

F = TypeVar("F", bound=Callable[..., Any])

MAX_FILTER_BYTES = MAX_HEAD * 3 // 4
"""Of all rules together: they travel in one head."""

_KEEPING: dict[str, tuple[Kept, ...]] = {
    "perms": ("modes",),
    "owner": ("owner",),
    "group": ("group",),
    "devices": ("special",),
    "acls": ("acls",),
    "xattrs": ("xattrs", "security"),
    "archive": ALL_KEPT,
}
_BACKUP_SUFFIX = "~"
_PATTERN_OPTIONS = ("include", "exclude", "include-from", "exclude-from")

_METADATA = (
    click.option(
        "-a", "--archive", is_flag=True, help="Keep all that a tree has: -pogDAX; links and times are kept anyway."
    ),
    click.option("-p", "--perms", is_flag=True, help="Keep set-user-id, set-group-id and sticky bits (root)."),
    click.option("-o", "--owner", is_flag=True, help="Keep owners (root)."),
    click.option("-g", "--group", is_flag=True, help="Keep groups; without root those that the receiver is in."),
    click.option("-D", "--devices", is_flag=True, help="Keep devices (root), FIFOs and sockets."),
    click.option("-H", "--hard-links", is_flag=True, help="Keep hard links; always done."),
    click.option("-A", "--acls", is_flag=True, help="Keep POSIX ACLs."),
    click.option("-X", "--xattrs", is_flag=True, help="Keep extended attributes; security.* and trusted.* as root."),
    click.option("--numeric-ids", is_flag=True, help="Keep owners by number, not by name."),
)
_WHAT = (
    click.option("-c", "--checksum", "compare", is_flag=True, help="Compare files by content, not by size and time."),
    click.option("-x", "--one-file-system", is_flag=True, help="Leave out what is mounted below the source."),
    click.option("--no-ignore-files", is_flag=True, help="Send what .dwcpignore files in the source leave out too."),
)
_HOW = (
    click.option("-n", "--dry-run", is_flag=True, help="Change nothing; with -i say what would change."),
    click.option("-i", "--itemize-changes", is_flag=True, help="Print a line for each change, as rsync does."),
    click.option("--delete-before", is_flag=True, help="Delete before the first file is sent, not at the end."),
    click.option("--delete-after", is_flag=True, help="Delete at the end; as --delete does."),
    click.option("--delete-excluded", is_flag=True, help="Delete also what the filters leave out at the source."),
    click.option("--max-delete", type=click.IntRange(0), metavar="N", help="Delete no more than N names."),
    click.option("-b", "--backup", is_flag=True, help="Keep what is replaced or deleted, with ~ after its name."),
    click.option("--backup-dir", metavar="DIR", help="Keep it there, below the destination."),
    click.option("--suffix", metavar="TEXT", help="End of a backup's name; ~ without --backup-dir."),
    click.option(
        "--partial/--no-partial", default=True, help="Keep what has arrived of a file when the transfer breaks off."
    ),
    click.option("--bwlimit", metavar="RATE", help="Send no faster than this, for example 20MB/s or 100Mbit/s."),
)


_FILTERS = (
    click.option("-f", "--filter", "filter", multiple=True, metavar="RULE", help="Filter by a rule of rsync's syntax."),
    click.option("--include", multiple=True, metavar="PATTERN", help="Do not leave out what matches: '+ PATTERN'."),
    click.option("--exclude", multiple=True, metavar="PATTERN", help="Leave out what matches: '- PATTERN'."),
    click.option("--include-from", multiple=True, metavar="FILE", help="--include for each line of a file."),
    click.option("--exclude-from", multiple=True, metavar="FILE", help="--exclude for each line of a file."),
)
_FILTER_OPTION = re.compile(
    r"--(filter|include|exclude|include-from|exclude-from)(?:=.*)?|-[A-Za-eg-z]*(f).*", re.DOTALL
)
"""On the command line. All other short options are flags, so `f` may follow some of them."""


class TreeCommand(click.Command):
    """Remembers in which order filters were given: click tells none between values of several options."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        given = args[: args.index("--")] if "--" in args else args
        found = [match[1] or "filter" for arg in given if (match := _FILTER_OPTION.fullmatch(arg))]
        ctx.meta[__name__] = found
        return super().parse_args(ctx, args)


def tree_options(command: F) -> F:
    """Adds the options, which `read` turns into TreeOptions, to a TreeCommand."""
    for option in reversed((*_METADATA, *_WHAT, *_FILTERS, *_HOW)):
        command = option(command)
    return command


def read(options: dict[str, Any]) -> TreeOptions:
    """Raises UsageError or NotFoundError."""
    keep = {kind for name, kinds in _KEEPING.items() if options[name] for kind in kinds}
    directory, suffix = options["backup_dir"], options["suffix"]
    if (directory or suffix) and not options["backup"]:
        raise UsageError("--backup-dir and --suffix say where --backup keeps things; add --backup")
    if suffix is None:
        suffix = "" if directory else _BACKUP_SUFFIX
    return TreeOptions(
        keep=[kind for kind in ALL_KEPT if kind in keep],
        numeric_ids=options["numeric_ids"],
        compare=options["compare"],
        filters=_filters(options),
        ignore_files=not options["no_ignore_files"],
        one_file_system=options["one_file_system"],
        delete_excluded=options["delete_excluded"],
        delete_before=options["delete_before"],
        max_delete=options["max_delete"],
        dry_run=options["dry_run"],
        itemize=options["itemize_changes"],
        backup=options["backup"],
        backup_dir=os.fsencode(directory or ""),
        backup_suffix=os.fsencode(suffix),
        partial=options["partial"],
        rate=_rate(options["bwlimit"]),
    )


def is_usual(tree: TreeOptions) -> bool:
    """Whether `read` was given nothing that a transfer would not do by itself."""
    return tree == TreeOptions(ignore_files=True, backup_suffix=_BACKUP_SUFFIX.encode())


def deletes(options: dict[str, Any]) -> bool:
    """Whether any of the options asks for deletions. Raises UsageError."""
    if options["delete_before"] and options["delete_after"]:
        raise UsageError("--delete-before and --delete-after exclude each other")
    return any(options[name] for name in ("delete", "delete_before", "delete_after", "delete_excluded"))


def names_in(path: str | None, *, zeros: bool) -> list[bytes] | None:
    """Of --files-from. Raises NotFoundError."""
    return None if path is None else parse(_read_file(os.fsencode(path)), zeros=zeros)


def _rate(text: str | None) -> int:
    if text is None:
        return 0
    try:
        rate = parse_rate(text)
    except ValueError as error:
        hint = "; rsync's bare numbers are KiB/s" if text.isdecimal() else ""
        raise UsageError(f"--bwlimit: {error}{hint}") from error
    if not rate:
        raise UsageError("--bwlimit: nothing is sent at a rate of zero; leave the option out for no limit")
    return rate


def _filters(options: dict[str, Any]) -> list[bytes]:
    """The rules in the order of the command line, files merged in."""
    order = click.get_current_context().meta[__name__]
    values = {name: iter(options[name.replace("-", "_")]) for name in ("filter", *_PATTERN_OPTIONS)}
    parser = Parser(read=_read_file)
    items: list[Item] = []
    for name in order:
        value = next(values[name], None)
        if value is None:
            raise UsageError(f"--{name} needs a value that is no option")
        text = os.fsencode(value)
        include = name.startswith("include")
        if name == "filter":
            parser.add(items, text)
        elif name.endswith("-from"):
            parser.add_patterns(items, include, _read_file(text), text)
        else:
            parser.add_pattern(items, include, text)
    rules = [item.text for item in items]
    if len(rules) > MAX_FILTERS or sum(map(len, rules)) > MAX_FILTER_BYTES or any(len(r) > MAX_FILTER for r in rules):
        raise UsageError(
            f"{len(rules)} filter rules are more than can be sent: at most {MAX_FILTERS}, of "
            f"{format_size(MAX_FILTER_BYTES)} in all; a dir-merge rule has its rules in the tree"
        )
    return rules


def _read_file(name: bytes) -> bytes:
    """A file of rules or names; - for standard input. Raises NotFoundError, UsageError."""
    if name == b"-":
        return sys.stdin.buffer.read()
    try:
        return Path(os.fsdecode(name)).read_bytes()
    except OSError as error:
        raise NotFoundError(f"cannot read {os.fsdecode(name)!r}: {error.strerror}") from error
