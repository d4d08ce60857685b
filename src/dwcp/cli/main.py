"""`dwcp`: the table of commands. Each is loaded when it is used, so that --help and completion are quick."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import click

from dwcp.cli.failure import fail
from dwcp.errors import DwcpError, Interrupted, StorageError

_COMMANDS = {
    "send": "dwcp.cli.transfer:send",
    "get": "dwcp.cli.transfer:get",
    "workload": "dwcp.cli.workload:workload",
    "jobs": "dwcp.cli.jobs:jobs",
    "cluster": "dwcp.cli.cluster:cluster",
    "node": "dwcp.cli.cluster:node",
    "kv": "dwcp.cli.kv:kv",
    "ls": "dwcp.cli.peers:ls",
    "ping": "dwcp.cli.peers:ping",
    "id": "dwcp.cli.peers:show_id",
    "peer": "dwcp.cli.trust:peer",
    "status": "dwcp.cli.status:status",
    "top": "dwcp.cli.top:top",
    "doctor": "dwcp.cli.doctor:doctor",
    "bench": "dwcp.cli.bench:bench",
    "breaker": "dwcp.cli.breaker:breaker",
    "forecast": "dwcp.cli.forecast:forecast",
    "limit": "dwcp.cli.limit:limit",
    "delta": "dwcp.cli.delta:delta",
    "log": "dwcp.cli.log:log",
    "report": "dwcp.cli.report:report",
    "state": "dwcp.cli.state:state",
    "lab": "dwcp.cli.lab:lab",
}
_SUMMARIES = {
    "send": "Make a path at a peer what a local file, tree or stream is.",
    "get": "Make a local path what a file or tree at a peer is.",
    "workload": "Keep something at other sites by itself; versions, restore.",
    "jobs": "See and steer what the manager has to send.",
    "cluster": "See who owns which workload, and how etcd is.",
    "node": "Have a node hand over what it owns, and own nothing.",
    "kv": "Read and write what all nodes know: small documents by key.",
    "ls": "List a peer's exports, or a directory in one.",
    "ping": "Measure the round trip to a peer.",
    "id": "Show this node's fingerprint, by which peers know it.",
    "peer": "Add, list and remove peers, beside those in the configuration.",
    "status": "Show how the local manager is doing.",
    "top": "Watch the local manager, live, and act on what it does.",
    "doctor": "Say what is in the way of this node, and how to mend it.",
    "bench": "Measure two nodes on this machine, beside what is expected.",
    "breaker": "Show circuit breakers of the local manager; close one, or all.",
    "forecast": "Show what the link to a peer carried, and what it will.",
    "limit": "Set how fast this node may send, from now on.",
    "delta": "Make and apply deltas of files, against what both ends have.",
    "log": "Show what has happened at this node, manager or no manager.",
    "report": "Write what this node did in a day or a week as a page.",
    "state": "Check the state directory; list, take and restore snapshots of it.",
    "lab": "Run a few nodes on this machine, to try things out.",
}


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[name].partition(":")
        command = getattr(import_module(module), attribute)
        return command if isinstance(command, click.Command) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_SUMMARIES.items()))

    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().main(*args, **kwargs)
        except OSError as error:
            # nothing more can be written to an output that is full
            sys.stdout = None
            what = f"cannot use {error.filename!r}" if error.filename else "cannot write the output"
            fail(StorageError(f"{what}: {error.strerror or error}"))

    def invoke(self, ctx: click.Context) -> object:
        try:
            result = super().invoke(ctx)
            if sys.stdout is not None:
                # here, where a failure can still be told
                sys.stdout.flush()
            return result
        except DwcpError as error:
            fail(error)
        except KeyboardInterrupt:
            fail(Interrupted("interrupted"))
        except BrokenPipeError:
            # whoever read our output has seen enough
            sys.stdout = None
            sys.exit(0)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="dwcp", prog_name="dwcp")
def main() -> None:
    """Keep a workload's state at other sites: send files, trees and streams to peers, fast and verified.

    Peers are named by `dwcp peer add`, or in the configuration: /etc/dwcp/config.yaml or ~/.config/dwcp/config.yaml, or
    the files given with --config or in DWCP_CONFIG. PEER:EXPORT/PATH is a path below one of a peer's exported
    directories.

    Exit codes: 0 done, 2 usage or configuration, 3 not found, 5 temporary (try again), 7 fatal, 23 some files failed,
    130 interrupted.
    """
