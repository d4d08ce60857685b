"""`dwcp cluster` and `dwcp node`: who owns what, and who should."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from dwcp.cli.asking import ask_manager
from dwcp.cli.options import configured, load, printable
from dwcp.config.load import parse_overrides
from dwcp.config.yaml_reader import scalar
from dwcp.units import format_size

Files = tuple[Path, ...]
Overrides = tuple[str, ...]


@click.group()
def cluster() -> None:
    """See the nodes that agree on who owns each workload, and the etcd that they agree through."""


@cluster.command()
@click.option("--json", "as_json", is_flag=True, help="Everything, as one JSON object.")
@configured
def status(as_json: bool, files: Files, overrides: Overrides) -> None:
    """Show the nodes that are there, and who owns what."""
    found = ask_manager(load(files, overrides), "GET", "/cluster")
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    if not found["enabled"]:
        click.echo("this node is in no cluster: consensus.enabled is false")
        return
    click.echo(f"cluster {found['cluster'] or 'not reached yet'}, lease of {found['node']}: {found['lease']}")
    if found["problem"]:
        click.echo(f"no workload changes its owner: {printable(found['problem'])}")
    for node in found["nodes"]:
        click.echo(f"node {node['name']:<14} {printable(node['address'])}{', drained' if node['drained'] else ''}")
    for workload in found["workloads"]:
        click.echo(f"workload {workload['name']:<10} {_owner_line(workload)}")


def _owner_line(workload: dict[str, Any]) -> str:
    if not workload["owner"]:
        return f"has no owner: {printable(workload['waits_for'])}"
    to = workload["leaving_to"] or workload["moving_to"]
    moving = f", moving to {to}" if to and to != workload["owner"] else ""
    return f"{workload['owner']}, token {workload['token']}{moving}"


@cluster.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@configured
def members(as_json: bool, files: Files, overrides: Overrides) -> None:
    """Show the members of the etcd cluster."""
    for member in ask_manager(load(files, overrides), "GET", "/cluster/members"):
        if as_json:
            click.echo(json.dumps(member))
            continue
        role = "leader" if member["is_leader"] else "follower" if member["has_leader"] else "without a leader"
        well = f"{role}, etcd {member['version']}, {format_size(member['size'])}" if member["version"] else ""
        click.echo(f"{member['endpoint']}  {'; '.join(filter(None, (well, printable(member['problem']))))}")


@cluster.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@configured
def events(as_json: bool, files: Files, overrides: Overrides) -> None:
    """Show what happened to nodes and owners.

    As the local manager saw it since it started; `dwcp log --kind cluster` goes further back.
    """
    for event in ask_manager(load(files, overrides), "GET", "/cluster/events"):
        if as_json:
            click.echo(json.dumps(event))
            continue
        at = datetime.datetime.fromtimestamp(event["at"]).astimezone().isoformat(" ", "milliseconds")
        detail = " ".join(f"{key}={printable(str(value))}" for key, value in event["detail"].items())
        click.echo(f"{at}  {event['event']:<12} {detail}")


@cluster.command()
@click.argument("name")
@click.argument("places", metavar="NODE:EXPORT/PATH...", nargs=-1, required=True)
@click.option("--with", "settings", multiple=True, metavar="KEY=VALUE", help="As in workloads.NAME: every=5m.")
@configured
def share(name: str, places: tuple[str, ...], settings: tuple[str, ...], files: Files, overrides: Overrides) -> None:
    """Declare workload NAME once for all nodes.

    By its places, whose node should own it first. Nodes take it that have consensus.shared_workloads.
    """
    given = {key: scalar(text) for key, text in parse_overrides(settings).items()}
    body = {"name": name, "places": list(places), "settings": given}
    ask_manager(load(files, overrides), "POST", "/cluster/workloads", body)
    click.echo(f"workload {name} is declared for all nodes; see `dwcp cluster status`")


@cluster.command()
@click.argument("name")
@configured
def unshare(name: str, files: Files, overrides: Overrides) -> None:
    """Take the declaration of workload NAME back. What is at its places stays."""
    ask_manager(load(files, overrides), "DELETE", f"/cluster/workloads/{quote(name, safe='')}")
    click.echo(f"workload {name} is not declared for all nodes any more")


@cluster.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@configured
def fences(as_json: bool, files: Files, overrides: Overrides) -> None:
    """Show whose former owners are kept out here."""
    for fence in ask_manager(load(files, overrides), "GET", "/fences"):
        if as_json:
            click.echo(json.dumps(fence))
            continue
        click.echo(f"{printable(fence['key'])}  token {fence['highest']}  {printable(fence['path'])}")


@cluster.command()
@click.argument("key")
@configured
def unfence(key: str, files: Files, overrides: Overrides) -> None:
    """Let in whoever writes KEY next.

    For a workload whose cluster was made anew, or that is written without one from now on. KEY is as `dwcp cluster
    fences` shows it.
    """
    ask_manager(load(files, overrides), "DELETE", f"/fences?key={quote(key, safe='')}")
    click.echo(f"{printable(key)} is not fenced any more")


@click.group()
def node() -> None:
    """Empty a node of the cluster for maintenance."""


@node.command()
@click.argument("name")
@click.option("--undo", is_flag=True, help="Let it own workloads again; what was handed over stays where it is.")
@configured
def drain(name: str, undo: bool, files: Files, overrides: Overrides) -> None:
    """Have node NAME hand over all that it owns.

    Once what runs there has ended. It owns nothing until --undo.
    """
    ask_manager(load(files, overrides), "DELETE" if undo else "POST", f"/cluster/drains/{quote(name, safe='')}")
    done, asked = f"{name} may own workloads again", f"{name} hands over what it owns; see `dwcp cluster status`"
    click.echo(done if undo else asked)
