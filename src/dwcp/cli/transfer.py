"""`dwcp send` and `dwcp get`."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, BinaryIO, Literal

import click

from dwcp import logs
from dwcp.cli.failure import fail
from dwcp.cli.options import configured, load, split_remote
from dwcp.cli.progress import Reporter, make_reporter
from dwcp.config import Config
from dwcp.errors import DwcpError, Interrupted, PartialError
from dwcp.transfer.client import Peer, connect
from dwcp.transfer.outbound import TransferResult

Checksum = Literal["xxh3", "blake3"]
Act = Callable[[Peer, Reporter], Awaitable[TransferResult]]


def _common(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(
        (
            click.option("--delete", is_flag=True, help="Remove at the destination what the source does not have."),
            click.option(
                "--checksum",
                type=click.Choice(["xxh3", "blake3"]),
                default="xxh3",
                show_default=True,
                help="Hash by which every block and the whole are verified; blake3 also against intent.",
            ),
            click.option("--json", "as_json", is_flag=True, help="Report in JSON lines on standard output."),
            click.option("-q", "--quiet", is_flag=True, help="Report nothing but errors."),
        )
    ):
        command = option(command)
    return configured(command)


@click.command()
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="PEER:EXPORT/PATH")
@_common
def send(source: str, target: str, files: tuple[Path, ...], overrides: tuple[str, ...], **options: Any) -> None:
    """Make PATH below a peer's EXPORT what SRC is: a file, a directory with all below it, or - for standard input.

    PATH names the result. Without one, or with a slash at its end, SRC's own name is put inside (- needs a name).
    What the peer has already is not sent; what was interrupted goes on where it was. Owners, extended attributes and
    special files are not kept.

    \b
      dwcp send /srv/images node2:inbox            becomes inbox/images
      dwcp send disk.img node2:inbox/vm7.img       becomes inbox/vm7.img
      pg_dump db | dwcp send - node2:inbox/db.sql
    """
    peer, path = split_remote(target)
    what: str | BinaryIO = sys.stdin.buffer if source == "-" else source

    async def act(connected: Peer, reporter: Reporter) -> TransferResult:
        return await connected.send(
            what, path, delete=options["delete"], checksum=options["checksum"], on_progress=reporter.progress
        )

    reporter = make_reporter(source, target, as_json=options["as_json"], quiet=options["quiet"], to_stderr=False)
    _run(load(files, overrides), peer, reporter, act)


@click.command()
@click.argument("source", metavar="PEER:EXPORT/PATH")
@click.argument("target", metavar="DST")
@_common
def get(source: str, target: str, files: tuple[Path, ...], overrides: tuple[str, ...], **options: Any) -> None:
    """Make DST what PATH below a peer's EXPORT is: a file, or a directory with all below it.

    DST names the result; with a slash at its end, or as . or .., the source's own name is put inside. - writes a
    single file to standard output once all of it is verified.
    """
    peer, path = split_remote(source)
    where: str | BinaryIO = sys.stdout.buffer if target == "-" else target

    async def act(connected: Peer, reporter: Reporter) -> TransferResult:
        return await connected.get(
            path, where, delete=options["delete"], checksum=options["checksum"], on_progress=reporter.progress
        )

    reporter = make_reporter(
        source, target, as_json=options["as_json"], quiet=options["quiet"], to_stderr=target == "-"
    )
    _run(load(files, overrides), peer, reporter, act)


def _run(config: Config, peer: str, reporter: Reporter, act: Act) -> None:
    logs.configure("warning" if config.node.log_level == "info" else config.node.log_level, config.node.log_format)
    try:
        with reporter:
            result = asyncio.run(_until_signal(config, peer, reporter, act))
            reporter.done(result)
    except PartialError as error:
        if isinstance(error.result, TransferResult):
            for line in error.result.errors:
                reporter.failed_file(line)
        reporter.error(error)
        fail(error)
    except DwcpError as error:
        reporter.error(error)
        fail(error)


async def _until_signal(config: Config, peer: str, reporter: Reporter, act: Act) -> TransferResult:
    """The transfer, cancelled in good order by INT and TERM."""
    task = asyncio.ensure_future(_transfer(config, peer, reporter, act))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        # by one of the signals above
        return await task
    raise Interrupted("interrupted; run the same command again and it goes on where it was")


async def _transfer(config: Config, peer: str, reporter: Reporter, act: Act) -> TransferResult:
    async with connect(peer, config=config) as connected:
        reporter.start()
        return await act(connected, reporter)
