"""The screen of `dwcp top`, by Textual. It shows what the feed tells, and asks the manager for what its keys do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, ClassVar

import msgspec
from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import DataTable, Footer, Input, Label, RichLog, Sparkline, Static, TabbedContent, TabPane

from dwcp.cli import top_rows
from dwcp.cli.log import line
from dwcp.cli.manager_http import ManagerHttp
from dwcp.cli.options import printable
from dwcp.cli.top_rows import Row, quoted
from dwcp.dashboard.mirror import Mirror
from dwcp.dashboard.rates import SAMPLES
from dwcp.errors import DwcpError
from dwcp.store.records import Record
from dwcp.units import format_rate

PAUSES = (0.5, 1.0, 2.0, 5.0)
"""Seconds between tries to reach a manager that is away; the last again and again."""


class TopApp(App[None]):
    """Follows one manager until `q`."""

    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #overall { padding: 0 1; height: auto; }
    #throughput { height: 3; margin: 0 1; }
    DataTable, RichLog { height: 1fr; }
    TabbedContent { height: 1fr; }
    ModalScreen { align: center middle; }
    #question, #told { max-width: 90%; height: auto; padding: 1 2; border: round $primary; background: $surface; }
    #question { width: 64; }
    #told { width: 96; max-height: 80%; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("1", "show('transfers')", "Transfers"),
        Binding("2", "show('workloads')", "Workloads"),
        Binding("3", "show('jobs')", "Jobs"),
        Binding("4", "show('peers')", "Peers"),
        Binding("5", "show('components')", "Components"),
        Binding("6", "show('events')", "Events"),
        Binding("c", "cancel", "Cancel"),
        Binding("p", "pause", "Pause, resume"),
        Binding("r", "at_once", "Run, retry, close breaker"),
        Binding("v", "versions", "Versions"),
        Binding("l", "limit", "Sending limit"),
        Binding("q", "quit", "Quit"),
    ]

    def __init__(self, manager: ManagerHttp) -> None:
        super().__init__()
        self._manager = manager
        self._mirror = Mirror()
        self._lost = "connecting"
        self._stop = threading.Event()
        self._shown_seq = 0

    def compose(self) -> ComposeResult:
        yield Static(id="overall")
        yield Sparkline([], id="throughput")
        with TabbedContent(initial="transfers"):
            for name, columns in top_rows.COLUMNS.items():
                with TabPane(name.capitalize(), id=name):
                    table: DataTable[Text] = DataTable(id=f"{name}-table", cursor_type="row")
                    for column in columns:
                        table.add_column(column, key=column)
                    yield table
            with TabPane("Events", id="events"):
                yield RichLog(id="events-log", max_lines=1000)
        yield Footer()

    def on_mount(self) -> None:
        self.query_one("#transfers-table").focus()
        self.run_worker(self._follow, thread=True, exit_on_error=False)
        self.set_interval(1.0, self._show_overall)

    def on_unmount(self) -> None:
        self._stop.set()
        self._manager.close()

    # -- what is shown -------------------------------------------------------------------------------------------------

    def _follow(self) -> None:
        """In a thread of its own."""
        tries = 0
        while not self._stop.is_set():
            try:
                for event, data in self._manager.events():
                    tries = 0
                    if self._stop.is_set():
                        return
                    self.call_from_thread(self._take, event, data)
                reason = "the manager has ended the stream"
            except DwcpError as error:
                reason = str(error)
            if self._stop.is_set():
                return
            self.call_from_thread(self._lose, reason)
            self._stop.wait(PAUSES[min(tries, len(PAUSES) - 1)])
            tries += 1

    def _take(self, event: str, data: Any) -> None:
        self._lost = ""
        self._mirror.take(event, data)
        document = self._mirror.document
        if event in ("snapshot", "patch"):
            self._show_overall()
            for name, parts in top_rows.PARTS.items():
                if event == "snapshot" or not parts.isdisjoint(data):
                    self._fill(name, top_rows.rows(name, document, time.time()))
        if event in ("snapshot", "sample"):
            values = [float(sample["sent"] + sample["received"]) for sample in self._mirror.samples]
            self.query_one(Sparkline).data = [0.0] * (SAMPLES - len(values)) + values
        if event in ("snapshot", "log"):
            self._show_log()

    def _lose(self, reason: str) -> None:
        self._lost = f"not connected, trying again: {reason}"
        self._show_overall()

    def _show_overall(self) -> None:
        self.query_one("#overall", Static).update(top_rows.overall(self._mirror.document, self._lost, time.time()))

    def _fill(self, name: str, rows: dict[str, Row]) -> None:
        table = self.query_one(f"#{name}-table", DataTable)
        if list(rows) != [key.value for key in table.rows]:
            chosen = self._chosen(name)
            table.clear()
            for key, cells in rows.items():
                table.add_row(*cells, key=key)
            if chosen in rows:
                table.move_cursor(row=list(rows).index(chosen))
            return
        for key, cells in rows.items():
            for column, cell in zip(top_rows.COLUMNS[name], cells, strict=True):
                if table.get_cell(key, column) != cell:
                    table.update_cell(key, column, cell)

    def _show_log(self) -> None:
        log = self.query_one(RichLog)
        records = [record for record in self._mirror.log if record["seq"] > self._shown_seq]
        for record in records:
            log.write(line(msgspec.convert(record, Record)))
        if records:
            self._shown_seq = records[-1]["seq"]

    def _chosen(self, name: str) -> str:
        table = self.query_one(f"#{name}-table", DataTable)
        if not table.row_count:
            return ""
        return str(table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value)

    # -- what keys do --------------------------------------------------------------------------------------------------

    def action_show(self, name: str) -> None:
        self.query_one(TabbedContent).active = name
        self.query_one("#events-log" if name == "events" else f"#{name}-table").focus()

    @property
    def _shown(self) -> str:
        return self.query_one(TabbedContent).active

    def _choose(self, what: str) -> None:
        self.notify(f"Choose {what}.", severity="warning")

    def _transfer(self) -> tuple[str, dict[str, Any]] | None:
        """The chosen one, if it runs."""
        chosen = self._chosen("transfers")
        transfer = self._mirror.document.get("transfers", {}).get(chosen)
        return (chosen, transfer) if transfer is not None and transfer["state"] == "running" else None

    def action_cancel(self) -> None:
        job = self._chosen("jobs") if self._shown == "jobs" else ""
        transfer = self._transfer() if self._shown == "transfers" else None
        if job:
            self._confirm(f"Cancel job {job}?", f"/jobs/{job}/cancel", f"Job {job} is cancelled.")
        elif transfer is not None:
            path = f"/transfers/{quoted(transfer[0])}/cancel"
            self._confirm(f"Cancel {printable(transfer[1]['target'])}?", path, "It is being cancelled.")
        else:
            self._choose("a transfer that is running, or a job")

    def action_pause(self) -> None:
        transfer = self._transfer() if self._shown == "transfers" else None
        name, _ = top_rows.placed(self._chosen("workloads")) if self._shown == "workloads" else ("", "")
        workload = self._mirror.document.get("workloads", {}).get(name)
        if transfer is not None:
            self._pause(f"/transfers/{quoted(transfer[0])}", bool(transfer[1].get("paused")), transfer[1]["target"])
        elif workload is not None:
            self._pause(f"/workloads/{quoted(name)}", workload["paused"], name)
        else:
            self._choose("a transfer that is running, or a workload")

    def _pause(self, path: str, paused: bool, what: str) -> None:
        if paused:
            self._post(f"{path}/resume", f"{printable(what)} goes on.")
        else:
            self._post(f"{path}/pause", f"{printable(what)} is paused.")

    def action_at_once(self) -> None:
        chosen = self._chosen(self._shown) if self._shown in ("workloads", "jobs", "peers") else ""
        if not chosen:
            self._choose("a workload, a job or a peer")
        elif self._shown == "workloads":
            name, _ = top_rows.placed(chosen)
            self._post(f"/workloads/{quoted(name)}/run", f"{name} is queued.")
        elif self._shown == "jobs":
            self._post(f"/jobs/{chosen}/retry", f"Job {chosen} goes as soon as there is room.")
        else:
            self._post(
                f"/circuit-breaker/reset?peer={quoted(chosen)}", f"The breaker of {printable(chosen)} is closed."
            )

    def action_versions(self) -> None:
        chosen = self._chosen("workloads") if self._shown == "workloads" else ""
        if not chosen:
            self._choose("a workload")
            return
        name, target = top_rows.placed(chosen)

        def show() -> None:
            found = self._manager.ask_a_peer(f"/workloads/{quoted(name)}/versions?target={quoted(target)}")
            self.call_from_thread(self.push_screen, Told(top_rows.versions(name, target, found)))

        self._ask(show)

    def action_limit(self) -> None:
        def answered(rate: str | None) -> None:
            if rate:
                self._post(f"/limit?rate={quoted(rate)}", "The sending limit is set.")

        limit = self._mirror.document.get("transport", {}).get("limit_bits_per_second")
        self.push_screen(AskLimit(format_rate(limit) if limit is not None else "no limit"), answered)

    def _confirm(self, question: str, path: str, done: str) -> None:
        def answered(yes: bool | None) -> None:
            if yes:
                self._post(path, done)

        self.push_screen(Confirm(f"{question} What has arrived is kept."), answered)

    def _post(self, path: str, done: str) -> None:
        def post() -> None:
            self._manager.post(path)
            self.call_from_thread(self.notify, done, markup=False)

        self._ask(post)

    def _ask(self, request: Callable[[], None]) -> None:
        """In a thread: a manager that hangs must not hold the screen."""

        def run() -> None:
            try:
                request()
            except DwcpError as error:
                self.call_from_thread(self.notify, str(error), severity="error", markup=False)

        self.run_worker(run, thread=True)


class Confirm(ModalScreen[bool]):
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "dismiss(True)", "Yes"),
        Binding("n,escape", "dismiss(False)", "No"),
    ]

    def __init__(self, question: str) -> None:
        super().__init__()
        self._question = question

    def compose(self) -> ComposeResult:
        with Vertical(id="question"):
            yield Label(Text(f"{self._question}\n\ny: yes   n: no"))


class Told(ModalScreen[None]):
    """Something to read, until a key is pressed."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,enter,q", "dismiss", "Close")]

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="told"):
            yield Static(Text(self._text))


class AskLimit(ModalScreen[str]):
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss('')", "Leave it")]

    def __init__(self, now: str) -> None:
        super().__init__()
        self._now = now

    def compose(self) -> ComposeResult:
        with Vertical(id="question"):
            yield Label(Text(f"How fast may this node send? Now: {self._now}"))
            yield Input(placeholder="200Mbit/s, off, or auto for as configured")

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self.dismiss(event.value.strip())
