"""`dwcp workload`: what is kept at other sites by itself."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import click
from pydantic import ValidationError

from dwcp.cli.asking import ask_manager
from dwcp.cli.jobs import job_line
from dwcp.cli.options import configured, load, load_files, printable, split_remote
from dwcp.cli.running import run as run_to_end
from dwcp.config import Config
from dwcp.config.workloads import WorkloadSection
from dwcp.errors import NotFoundError, UsageError
from dwcp.manager.statedir import tell_to_reload
from dwcp.store.opening import open_existing, open_state
from dwcp.store.peers import with_added
from dwcp.store.workloads import add_workload, remove_workload, with_workloads
from dwcp.transfer.client import Peer, connect
from dwcp.units import format_duration, format_size
from dwcp.workloads.plan import workload_of

Files = tuple[Path, ...]
Overrides = tuple[str, ...]
T = TypeVar("T")


@click.group()
def workload() -> None:
    """Declare what has to be at other sites, and see where it stands.

    Workloads are in the configuration (`workloads`), or added here and kept in the state directory. The manager runs
    them.
    """


@workload.command()
@click.argument("name")
@click.argument("source", metavar="SRC")
@click.argument("targets", metavar="PEER:EXPORT/PATH...", nargs=-1, required=True)
@click.option("--every", help="Run once in so long: 5m, 24h.")
@click.option("--cron", help='Run by a cron line: "0 3 * * *".')
@click.option("--on-change", is_flag=True, default=None, help="Run when the source has changed and rests.")
@click.option("--settle", help="How long without a change is rest.")
@click.option("--keep", help='Versions to keep at each target: all, or like "last 5, daily 7".')
@click.option("--max-age", help="Age from which on the state at a target counts as stale.")
@click.option("--verify-every", help="Check the stored versions once in so long.")
@click.option(
    "--owner", "owners", multiple=True, metavar="NODE", help="With consensus: may own it; again for each node."
)
@click.option("--bandwidth", help="A share of the node's rate (25%), or a rate.")
@click.option("--priority", type=int, help="0 to 9: its jobs go before those of a lower one.")
@click.option(
    "--no-delete",
    "delete",
    flag_value=False,
    type=bool,
    default=None,
    help="Leave at the target what the source lacks.",
)
@click.option("--before", multiple=True, metavar="ARG", help="Program to run before; again for each argument.")
@click.option("--after", multiple=True, metavar="ARG", help="Program to run after; again for each argument.")
@click.option("--replace", is_flag=True, help="Take the place of the workload of that name.")
@configured
def add(
    name: str, source: str, targets: tuple[str, ...], replace: bool, files: Files, overrides: Overrides, **settings: Any
) -> None:
    """Keep SRC, a file or directory, at the targets, under NAME."""
    config = with_added(load_files(files, overrides))
    given = {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()}
    values = {key: value for key, value in given.items() if value not in (None, [])}
    try:
        values |= {"source": os.path.abspath(source), "targets": list(targets)}  # noqa: PTH100
        section = WorkloadSection.model_validate(values)
    except ValidationError as error:
        raise UsageError("; ".join(_problem(found) for found in error.errors())) from error
    for target in targets:
        peer = split_remote(target)[0]
        if peer not in config.peers:
            raise NotFoundError(f"no peer {peer!r}; `dwcp peer add` adds one")
    state = open_state(config)
    add_workload(config, name, section, replace=replace)
    state.recorder.write("workload", "add", name=name, source=section.source)
    click.echo(f"workload {name} is added")
    click.echo(tell_to_reload(Path(config.storage.state_dir)))


def _problem(found: Any) -> str:
    key = str(found["loc"][0]) if found["loc"] else "workload"
    extra = WorkloadSection.model_fields[key].json_schema_extra if found["loc"] else None
    allowed = f"; allowed: {extra['allowed']}" if isinstance(extra, dict) and "allowed" in extra else ""
    return f"{key}: {found['msg'].removeprefix('Value error, ')}{allowed}"


@workload.command(name="rm")
@click.argument("name")
@configured
def remove(name: str, files: Files, overrides: Overrides) -> None:
    """Forget a workload that was added. What is at its targets stays."""
    config = load_files(files, overrides)
    recorder = open_existing(config)
    remove_workload(config, name)
    recorder.write("workload", "remove", name=name)
    click.echo(f"workload {name} is removed")
    click.echo(tell_to_reload(Path(config.storage.state_dir)))


@workload.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@configured
def list_workloads(as_json: bool, files: Files, overrides: Overrides) -> None:
    """List the workloads, and how old each target is."""
    for found in ask_manager(load(files, overrides), "GET", "/workloads"):
        if as_json:
            click.echo(json.dumps(found))
            continue
        for target in found["targets"]:
            click.echo(f"{found['name']:<16} {printable(found['source'])} -> {_standing(found, target)}")


@workload.command()
@click.argument("name")
@configured
def show(name: str, files: Files, overrides: Overrides) -> None:
    """Show a workload, where it stands, its newest jobs."""
    config = load(files, overrides)
    found = ask_manager(config, "GET", f"/workloads/{name}")
    for key, value in found.items():
        if key != "targets" and value not in (None, [], ""):
            click.echo(f"{key:<14} {printable(str(value))}")
    for target in found["targets"]:
        click.echo(f"{'target':<14} {_standing(found, target)}")
    newest = [job for job in ask_manager(config, "GET", "/jobs") if job["workload"] == name][-10:]
    for job in newest:
        click.echo(job_line(job))


def _standing(found: dict[str, Any], target: dict[str, Any]) -> str:
    age = (
        f"{format_duration(float(int(time.time() - target['sent_at'])) or 1.0)} old"
        if target["sent_at"]
        else "never sent"
    )
    version = f", version {target['version']}" if target["version"] else ""
    damaged = f", {target['damaged']} files damaged" if target["damaged"] else ""
    off = ", paused" if found["paused"] else "" if found["enabled"] else ", not enabled"
    return f"{printable(target['target'])}: {age}{version}{damaged}{off}"


@workload.command()
@click.argument("name")
@configured
def run(name: str, files: Files, overrides: Overrides) -> None:
    """Run a workload now; prints its jobs."""
    for job in ask_manager(load(files, overrides), "POST", f"/workloads/{name}/run"):
        click.echo(job_line(job))


@workload.command()
@click.argument("name")
@configured
def verify(name: str, files: Files, overrides: Overrides) -> None:
    """Have the stored versions checked, and mended.

    They are read again and compared; what is damaged is mended from the live files and the source. Prints the jobs.
    """
    for job in ask_manager(load(files, overrides), "POST", f"/workloads/{name}/verify"):
        click.echo(job_line(job))


@workload.command()
@click.argument("name")
@configured
def pause(name: str, files: Files, overrides: Overrides) -> None:
    """Let a workload not run by itself any more.

    What runs already goes on.
    """
    ask_manager(load(files, overrides), "POST", f"/workloads/{name}/pause")


@workload.command()
@click.argument("name")
@configured
def resume(name: str, files: Files, overrides: Overrides) -> None:
    """Let a workload run by itself again."""
    ask_manager(load(files, overrides), "POST", f"/workloads/{name}/resume")


@workload.command()
@click.argument("name")
@click.argument("node", required=False)
@click.option("--cancel", is_flag=True, help="Leave it where it is, where it has not been handed over yet.")
@configured
def move(name: str, node: str | None, cancel: bool, files: Files, overrides: Overrides) -> None:
    """Hand workload NAME over to NODE.

    Its owner ends what runs, brings the targets up to date, and lets it go.
    """
    if (node is None) != cancel:
        raise UsageError("name the node that should own it, or --cancel")
    method, to = ("DELETE", "") if node is None else ("POST", f"?to={quote(node, safe='')}")
    ask_manager(load(files, overrides), method, f"/workloads/{quote(name, safe='')}/move{to}")
    click.echo(
        f"workload {name} stays" if node is None else f"workload {name} goes to {node}; see `dwcp cluster status`"
    )


@workload.command()
@click.argument("name", metavar="NAME|PEER:EXPORT/PATH")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@configured
def versions(name: str, as_json: bool, files: Files, overrides: Overrides) -> None:
    """List the versions at the targets of a workload.

    Or those of a path at a peer. No manager is needed.
    """
    config = with_workloads(load(files, overrides))
    for target in _targets(config, name):
        for version in _ask_peer(config, target, lambda peer, path: peer.versions(path)):
            about = {"target": target, **{key: getattr(version, key) for key in version.__slots__}}
            if as_json:
                click.echo(json.dumps(about))
                continue
            damaged = f", {version.damaged} damaged" if version.damaged else ""
            size = f"{version.files} files, {format_size(version.bytes)}, {format_size(version.new_bytes)} new"
            click.echo(f"{printable(target)}  {version.id}  {size}{damaged}")


@workload.command()
@click.argument("name", metavar="NAME|PEER:EXPORT/PATH")
@click.argument("destination", metavar="DST")
@click.option("--version", default="latest", show_default=True, help="As `dwcp workload versions` lists them.")
@click.option("--from", "peer", help="The target to restore from; the first without.")
@configured
def restore(name: str, destination: str, version: str, peer: str | None, files: Files, overrides: Overrides) -> None:
    """Make DST, which must not exist, what a version was.

    It has that name when all of it is there and verified. No manager is needed. What was interrupted goes on where it
    was when the same command is run again.
    """
    config = with_workloads(load(files, overrides))
    targets = [target for target in _targets(config, name) if peer in (None, split_remote(target)[0])]
    if not targets:
        raise NotFoundError(f"workload {name!r} has no target at {peer}")
    result = _ask_peer(
        config, targets[0], lambda connected, path: connected.restore(path, destination, version=version)
    )
    click.echo(f"restored from {targets[0]}: {format_size(result.bytes)}, verified")


def _targets(config: Config, name: str) -> list[str]:
    """Raises NotFoundError."""
    return [name] if ":" in name else workload_of(config, name).targets


def _ask_peer(config: Config, target: str, act: Callable[[Peer, str], Awaitable[T]]) -> T:
    peer, path = split_remote(target)

    async def asking() -> T:
        async with connect(peer, config=config) as connected:
            return await act(connected, path)

    return run_to_end(config, asking())
