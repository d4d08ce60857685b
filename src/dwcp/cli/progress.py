"""How a transfer is told: a bar on a terminal, a line now and then elsewhere, JSON lines for programs, or nothing."""

from __future__ import annotations

import json
import sys
import time
from types import TracebackType
from typing import IO, Any

import click

from dwcp.cli.itemize import itemize
from dwcp.errors import DwcpError
from dwcp.transfer.board import Role, TransferStatus
from dwcp.transfer.result import TransferResult
from dwcp.units import format_duration, format_rate, format_size
from dwcp.wire.tree import Change

LINE_EVERY = 5.0
"""Seconds between lines where there is no terminal: a log stays readable."""
JSON_EVERY = 1.0
WIDE = 132
"""Columns of a terminal that has room for everything beside the bar."""


class Reporter:
    """Says nothing; the others override what they tell. `progress` is called from another thread."""

    def __init__(self, source: str, target: str, out: IO[str] | None) -> None:
        """`out`: None where it is closed."""
        self.sends = ":" in target
        """Content goes from here."""
        self.source = source
        self.target = target
        self.out = out
        self._silent = False

    def __enter__(self) -> Reporter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leaves the terminal as it was."""

    def tell(self, line: str) -> None:
        """Goes silent, once it has said why, when the line cannot be written: the transfer matters more."""
        if self._silent:
            return
        try:
            click.echo(line, file=self.out)
            if self.out is not None:
                self.out.flush()
        except OSError as error:
            self._silent = True
            if self.out is sys.stdout:
                # or the interpreter fails to flush it in the end
                sys.stdout = None
            if not isinstance(error, BrokenPipeError):
                click.echo(f"dwcp: reports cannot be written: {error.strerror}", err=True)

    def start(self) -> None:
        """The peer has proved who it is."""

    def progress(self, status: TransferStatus) -> None:
        """How far it is."""

    def done(self, result: TransferResult) -> None:
        """It went well."""

    def change(self, change: Change) -> None:
        """A name at the receiver changes. Called from another thread."""
        self.tell(itemize(change, sends=self.sends))

    def warning(self, line: str) -> None:
        """Something is not as it was asked for, and nothing failed."""

    def failed_file(self, line: str) -> None:
        """One of the files did not arrive."""

    def error(self, error: DwcpError) -> None:
        """It failed; the caller prints the error itself."""


class LineReporter(Reporter):
    def __init__(self, source: str, target: str, out: IO[str] | None) -> None:
        super().__init__(source, target, out)
        self._last = time.monotonic()

    def progress(self, status: TransferStatus) -> None:
        if time.monotonic() - self._last >= LINE_EVERY:
            self._last = time.monotonic()
            self.tell(describe(status))

    def done(self, result: TransferResult) -> None:
        for line in result.warnings:
            self.warning(line)
        self.tell(f"{self.source} -> {self.target}: {summary(result)}")

    def warning(self, line: str) -> None:
        click.echo(f"warning: {line}", err=True)

    def failed_file(self, line: str) -> None:
        click.echo(f"failed: {line}", err=True)


class BarReporter(LineReporter):
    """Rich, loaded only here."""

    def __init__(self, source: str, target: str, out: IO[str] | None) -> None:
        super().__init__(source, target, out)
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        console = Console(file=out)
        self._tell = describe if console.width >= WIDE else brief
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=None), TextColumn("{task.fields[text]}"))
        self._bar = Progress(*columns, console=console, transient=True, expand=True)
        self._task = self._bar.add_task("connecting", total=None, text="")

    def __enter__(self) -> Reporter:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def start(self) -> None:
        self._bar.update(self._task, description="scanning")

    def change(self, change: Change) -> None:
        self._bar.console.print(itemize(change, sends=self.sends), markup=False, highlight=False, soft_wrap=True)

    def progress(self, status: TransferStatus) -> None:
        total = status.bytes_total or None
        what = "sending" if status.role is Role.SEND else "receiving"
        self._bar.update(
            self._task, description=what, completed=status.bytes_done, total=total, text=self._tell(status)
        )

    def done(self, result: TransferResult) -> None:
        self._bar.stop()
        super().done(result)


class JsonReporter(Reporter):
    def __init__(self, source: str, target: str, out: IO[str] | None) -> None:
        super().__init__(source, target, out)
        self._last = time.monotonic()

    def _event(self, event: str, **fields: Any) -> None:
        self.tell(json.dumps({"event": event, **fields}, separators=(",", ":")))

    def start(self) -> None:
        self._event("start", source=self.source, target=self.target)

    def progress(self, status: TransferStatus) -> None:
        if time.monotonic() - self._last < JSON_EVERY:
            return
        self._last = time.monotonic()
        self._event(
            "progress",
            files=status.files_done,
            files_total=status.files_total,
            bytes=status.bytes_done,
            bytes_total=status.bytes_total,
            wire_bytes=status.wire_bytes,
            seconds=round(status.seconds, 3),
            streams=status.streams,
            paused=status.paused,
            eta_seconds=None if status.eta_seconds is None else round(status.eta_seconds, 1),
            eta_range_seconds=None if status.eta_range is None else [round(seconds, 1) for seconds in status.eta_range],
        )

    def done(self, result: TransferResult) -> None:
        for line in result.warnings:
            self.warning(line)
        self._event(
            "done",
            files=result.files,
            bytes=result.bytes,
            wire_bytes=result.wire_bytes,
            seconds=round(result.seconds, 3),
            verified=result.verified,
            unchanged=result.unchanged,
            deleted=result.deleted,
            streams=result.streams,
            sockets=result.sockets,
        )

    def change(self, change: Change) -> None:
        path = change.path.decode("utf-8", "backslashreplace")
        self._event("change", path=path, item=itemize(change, sends=self.sends).partition(" ")[0])

    def warning(self, line: str) -> None:
        self._event("warning", message=line)

    def failed_file(self, line: str) -> None:
        self._event("file-error", message=line)

    def error(self, error: DwcpError) -> None:
        self._event("error", code=error.code, message=str(error), exit_code=error.exit_code)


def make_reporter(source: str, target: str, *, as_json: bool, quiet: bool, to_stderr: bool) -> Reporter:
    """`to_stderr`: standard output carries content."""
    out = sys.stderr if to_stderr else sys.stdout
    if as_json:
        return JsonReporter(source, target, out)
    if quiet:
        return Reporter(source, target, out)
    if out is not None and out.isatty():
        return BarReporter(source, target, out)
    return LineReporter(source, target, out)


def describe(status: TransferStatus) -> str:
    """One line of progress."""
    eta = status.eta_seconds
    parts = [
        f"{format_size(status.bytes_done)} of {format_size(status.bytes_total)}",
        f"{status.files_done}/{status.files_total} files",
        format_rate(status.rate),
        f"ratio {status.ratio:.2f}",
        f"{status.streams} streams",
    ]
    if status.paused:
        parts.append("paused")
    elif eta is not None and status.bytes_done < status.bytes_total:
        parts.append(f"{format_duration(float(round(eta)))} left{_range(status)}")
    return ", ".join(parts)


def _range(status: TransferStatus) -> str:
    if status.eta_range is None:
        return ""
    best, worst = (format_duration(float(round(seconds))) for seconds in status.eta_range)
    return f" ({best} to {worst})"


def brief(status: TransferStatus) -> str:
    """What a terminal of 80 columns has room for beside a bar."""
    eta = status.eta_seconds
    parts = [
        f"{format_size(status.bytes_done)} of {format_size(status.bytes_total)}",
        format_rate(status.rate),
        f"ratio {status.ratio:.1f}",
    ]
    if status.paused:
        parts.append("paused")
    elif eta is not None and status.bytes_done < status.bytes_total:
        parts.append(f"{format_duration(float(round(eta)))} left")
    return ", ".join(parts)


def summary(result: TransferResult) -> str:
    """One line of what was done."""
    rate = format_rate(result.bytes * 8 / result.seconds) if result.seconds else "-"
    ratio = result.bytes / result.wire_bytes if result.wire_bytes else 0.0
    parts = [
        f"{result.files} files ({result.unchanged} unchanged)",
        f"{format_size(result.bytes)}",
        f"{format_size(result.wire_bytes)} on the wire (ratio {ratio:.1f})",
        f"{result.seconds:.1f} s",
        rate,
    ]
    if result.deleted:
        parts.insert(1, f"{result.deleted} deleted")
    return ", ".join(parts) + (", verified" if result.verified else ", NOT verified")
