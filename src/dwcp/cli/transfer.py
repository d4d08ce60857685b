"""`dwcp send` and `dwcp get`."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import click

from dwcp.cli.failure import fail
from dwcp.cli.options import configured, load, split_remote
from dwcp.cli.order import order
from dwcp.cli.progress import Reporter, make_reporter
from dwcp.cli.running import run
from dwcp.cli.tree_options import TreeCommand, deletes, is_usual, names_in, read, tree_options
from dwcp.config import Config
from dwcp.errors import DwcpError, PartialError, StorageError, UsageError
from dwcp.transfer.ahead import worth_beginning
from dwcp.transfer.client import Peer, connect
from dwcp.transfer.result import TransferResult

Checksum = Literal["xxh3", "blake3"]
RESUMES = "run the same command again and it goes on where it was"
Act = Callable[[Peer, Reporter], Awaitable[TransferResult]]


def _common(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(
        (
            click.option("--delete", is_flag=True, help="Remove at the destination what the source does not have."),
            click.option(
                "--hash",
                "checksum",
                type=click.Choice(["xxh3", "blake3"]),
                default="xxh3",
                show_default=True,
                help="Hash by which every block and the whole are verified; blake3 also withstands forgery.",
            ),
            click.option("--json", "as_json", is_flag=True, help="Report in JSON lines on standard output."),
            click.option("-q", "--quiet", is_flag=True, help="Report nothing but errors."),
        )
    ):
        command = option(command)
    return tree_options(configured(command))


@click.command(cls=TreeCommand)
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="PEER:EXPORT/PATH")
@click.option("--files-from", metavar="FILE", help="Send only the names in a file; a directory without its content.")
@click.option("-0", "--from0", is_flag=True, help="Names in --files-from end with zero bytes, not with lines.")
@click.option(
    "--from",
    "sender",
    metavar="PEER",
    help="Let this peer send it: SRC is EXPORT/PATH there, and the target's PEER one that it knows.",
)
@_common
def send(
    source: str,
    target: str,
    sender: str | None,
    files: tuple[Path, ...],
    overrides: tuple[str, ...],
    **options: Any,
) -> None:
    """Make PATH below a peer's EXPORT what SRC is: a file, a directory with all below it, or - for standard input.

    PATH names the result. Without one, or with a slash at its end, SRC's own name is put inside (- needs a name).
    What the peer has already is not sent; what was interrupted goes on where it was. Content, permissions, times, links
    and holes are kept; -a keeps owners, ACLs, extended attributes and special files too.

    \b
      dwcp send /srv/images node2:inbox            becomes inbox/images
      dwcp send disk.img node2:inbox/vm7.img       becomes inbox/vm7.img
      pg_dump db | dwcp send - node2:inbox/db.sql
      dwcp send --from node2 inbox/vm7.img node3:inbox/vm7.img
    """
    peer, path = split_remote(target)
    tree, delete = read(options), deletes(options)
    names = names_in(options["files_from"], zeros=options["from0"])
    if names is not None and delete:
        raise UsageError("--files-from says what is sent, not all that there is: nothing can be deleted by it")
    if sender is not None:
        if names is not None or not is_usual(tree):
            raise UsageError("--from takes --delete and --hash; of the other options the sending peer learns nothing")
        hash_, quiet, as_json = options["checksum"], options["quiet"], options["as_json"]
        order(
            load(files, overrides), sender, source, target, as_json=as_json, quiet=quiet, delete=delete, checksum=hash_
        )
        return
    what: str | BinaryIO = _standard_input() if source == "-" else source

    async def act(connected: Peer, reporter: Reporter) -> TransferResult:
        return await connected.send(
            what,
            path,
            delete=delete,
            checksum=options["checksum"],
            tree=tree,
            names=names,
            on_progress=reporter.progress,
            on_change=reporter.change if tree.itemize else None,
        )

    reporter = make_reporter(source, target, as_json=options["as_json"], quiet=options["quiet"], to_stderr=False)
    config = load(files, overrides)
    size = Path(source).stat().st_size if Path(source).is_file() else None
    _run(config, peer, reporter, act, worth_beginning(config, size))


@click.command(cls=TreeCommand)
@click.argument("source", metavar="PEER:EXPORT/PATH")
@click.argument("target", metavar="DST")
@_common
def get(source: str, target: str, files: tuple[Path, ...], overrides: tuple[str, ...], **options: Any) -> None:
    """Make DST what PATH below a peer's EXPORT is: a file, or a directory with all below it.

    DST names the result; with a slash at its end, or as . or .., the source's own name is put inside. - writes a
    single file to standard output once all of it is verified.
    """
    peer, path = split_remote(source)
    tree, delete = read(options), deletes(options)
    where: str | BinaryIO = _standard_output() if target == "-" else target

    async def act(connected: Peer, reporter: Reporter) -> TransferResult:
        return await connected.get(
            path,
            where,
            delete=delete,
            checksum=options["checksum"],
            tree=tree,
            on_progress=reporter.progress,
            on_change=reporter.change if tree.itemize else None,
        )

    reporter = make_reporter(
        source, target, as_json=options["as_json"], quiet=options["quiet"], to_stderr=target == "-"
    )
    config = load(files, overrides)
    _run(config, peer, reporter, act, worth_beginning(config, None))


def _standard_input() -> BinaryIO:
    """Raises UsageError."""
    if sys.stdin is None:
        raise UsageError("standard input is closed; name a file to send")
    # unbuffered: a buffer's lock, held by a thread that waits for input, would abort the interpreter when it ends
    return cast(BinaryIO, open(sys.stdin.fileno(), "rb", buffering=0, closefd=False))


def _standard_output() -> BinaryIO:
    """Raises UsageError."""
    if sys.stdout is None:
        raise UsageError("standard output is closed; name a file to write")
    return sys.stdout.buffer


def _run(config: Config, peer: str, reporter: Reporter, act: Act, ahead: int) -> None:
    try:
        with reporter:
            result = run(config, _transfer(config, peer, reporter, act, ahead), RESUMES)
            reporter.done(result)
    except PartialError as error:
        if isinstance(error.result, TransferResult):
            for line in error.result.warnings:
                reporter.warning(line)
            for line in error.result.errors:
                reporter.failed_file(line)
        reporter.error(error)
        fail(error)
    except DwcpError as error:
        reporter.error(error)
        fail(error)
    except BrokenPipeError:
        # reports are never the cause: a reporter goes silent when nobody reads it
        sys.stdout = None
        fail(StorageError("standard output was closed before all of the content was written"))


async def _transfer(config: Config, peer: str, reporter: Reporter, act: Act, ahead: int) -> TransferResult:
    async with connect(peer, config=config, ahead=ahead) as connected:
        reporter.start()
        return await act(connected, reporter)
