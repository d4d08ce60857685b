"""`dwcp delta`: what changed between two versions of a file, as a file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import click

from dwcp.errors import UsageError
from dwcp.files.root import failure
from dwcp.files.versions import open_version, write_version
from dwcp.hde import residue
from dwcp.hde.decoder import DeltaDecoder
from dwcp.hde.encoder import PENDING, DeltaEncoder, Statistics
from dwcp.hde.hashes import HASHES
from dwcp.hde.segment import MAX_ID, Segment, read_segment
from dwcp.units import format_size, parse_size

_NAMES = {
    residue.STORED: "stored",
    residue.ZSTD: "zstd",
    residue.PREFIX: "prefix",
    residue.XOR: "xor",
    residue.BSDIFF: "bsdiff",
}
_file = click.Path(path_type=Path)


@click.group()
def delta() -> None:
    """Make, apply and look into deltas of files: what changed, against a version that both ends have."""


@delta.command()
@click.argument("base", type=_file)
@click.argument("new", type=_file)
@click.argument("target", metavar="DELTA", type=_file)
@click.option(
    "--algorithm",
    type=click.Choice(residue.ALGORITHMS),
    default="auto",
    show_default=True,
    help="How what is not in BASE is coded.",
)
@click.option("--seconds", type=click.FloatRange(0), help="That coding each segment (32 MiB) may take.")
@click.option(
    "--hash", "checksum", type=click.Choice(sorted(HASHES)), default="xxh3", show_default=True, help="See dwcp send."
)
@click.option("--json", "as_json", is_flag=True, help="Report as one JSON object.")
def encode(
    base: Path, new: Path, target: Path, algorithm: str, seconds: float | None, checksum: str, as_json: bool
) -> None:
    """Write what makes NEW of BASE into DELTA."""
    with open_version(base) as old, open_version(new) as content, ThreadPoolExecutor(PENDING) as coder:
        encoder = DeltaEncoder(
            old,
            content,
            # a hint for people; the root is what proves it
            base_id=os.fsencode(base.name)[:MAX_ID],
            hash_=HASHES[checksum],
            algorithm=algorithm,
            budget=seconds,
            submit=lambda work: coder.submit(work).result,
        )
        size = _write(target, encoder)
        _report(encoder.statistics, size, content.size, as_json)


def _write(target: Path, encoder: DeltaEncoder) -> int:
    size = 0

    def pieces() -> Iterator[tuple[int, bytes]]:
        nonlocal size
        for piece in encoder.run():
            size += len(piece)
            yield len(piece), piece

    write_version(target, pieces())
    return size


@delta.command()
@click.argument("base", type=_file)
@click.argument("source", metavar="DELTA", type=_file)
@click.argument("target", metavar="NEW", type=_file)
@click.option("--max-size", default="16TiB", show_default=True, help="Bytes that NEW may have.")
@click.option("--json", "as_json", is_flag=True, help="Report as one JSON object.")
def decode(base: Path, source: Path, target: Path, max_size: str, as_json: bool) -> None:
    """Make NEW of BASE and DELTA. It gets its name when all of it is there and verified."""
    try:
        limit = parse_size(max_size)
    except ValueError as error:
        raise UsageError(str(error)) from error
    with open_version(base) as old, _opened(source) as file:
        decoder = DeltaDecoder(file.read)
        write_version(target, decoder.run(old, max_size=limit))
        _report(decoder.statistics, source.stat().st_size, decoder.header.size, as_json)


@delta.command()
@click.argument("source", metavar="DELTA", type=_file)
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def info(source: Path, as_json: bool) -> None:
    """Show what DELTA is of, and what it is made of. The base is not needed."""
    statistics = Statistics()
    with _opened(source) as file:
        header = DeltaDecoder(file.read).header
        at = 0
        while isinstance(part := read_segment(file.read, header, at), Segment):
            statistics.add(part)
            at += part.span
    about: dict[str, Any] = {
        "base": header.base_id.decode(errors="replace"),
        "base_size": header.base_size,
        "hash": header.hash.name,
        "base_root": header.base_root.hex(),
        "root": part.hex(),
    }
    if as_json:
        click.echo(json.dumps(about | _numbers(statistics, source.stat().st_size, header.size)))
        return
    click.echo(f"base {about['base']!r}, {format_size(header.base_size)}, {header.hash.name} {about['base_root']}")
    click.echo(f"makes {format_size(header.size)}, {header.hash.name} {about['root']}")
    _report(statistics, source.stat().st_size, header.size, False)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise failure(error, "cannot read", os.fsencode(path)) from error
    with file:
        yield file


def _numbers(statistics: Statistics, delta_size: int, size: int) -> dict[str, Any]:
    return {
        "size": size,
        "delta_size": delta_size,
        "copied": statistics.copied,
        "zeros": statistics.zeros,
        "literal": statistics.literal,
        "coded": statistics.coded,
        "segments": statistics.segments,
        "codings": {_NAMES[coding]: count for coding, count in statistics.codings.items()},
    }


def _report(statistics: Statistics, delta_size: int, size: int, as_json: bool) -> None:
    numbers = _numbers(statistics, delta_size, size)
    if as_json:
        click.echo(json.dumps(numbers))
        return
    codings = ", ".join(f"{name} {format_size(count)}" for name, count in numbers["codings"].items())
    click.echo(
        f"{format_size(delta_size)} for {format_size(size)}: {format_size(statistics.copied)} from the base, "
        f"{format_size(statistics.zeros)} zeros, {format_size(statistics.literal)} of literals"
        + (f" ({codings})" if codings else "")
    )
