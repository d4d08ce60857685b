"""`dwcp kv`: what nodes know of each other, through the manager of this machine."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import click

from dwcp.cli.asking import ask_manager
from dwcp.cli.options import configured, load, printable
from dwcp.errors import UsageError
from dwcp.units import format_duration, format_size, parse_duration

Files = tuple[Path, ...]
Overrides = tuple[str, ...]
as_json_flag = click.option("--json", "as_json", is_flag=True, help="The manager's answer as JSON.")
replaces_option = click.option(
    "--replaces",
    "versions",
    multiple=True,
    metavar="VERSION",
    help="A version that this replaces; may be repeated.",
)


@click.group()
def kv() -> None:
    """Read and write what all nodes know: small JSON documents by key (sync.enabled).

    Applications have keys app/NAME. node/NODE, links/NODE, breakers/NODE, workloads/NODE and baselines/NODE are what
    each node says of itself; NODE is its name or its id.
    """


@kv.command(name="list")
@click.argument("prefix", default="")
@as_json_flag
@configured
def list_entries(prefix: str, as_json: bool, files: Files, overrides: Overrides) -> None:
    """List the entries whose keys begin with PREFIX; all without."""
    config, after, stale = load(files, overrides), "", []
    while True:
        page = ask_manager(config, "GET", f"/sync/entries?{urlencode({'prefix': prefix, 'after': after})}")
        stale = page["stale_peers"]
        for entry in page["entries"]:
            click.echo(json.dumps(entry) if as_json else _line(entry))
            after = entry["key"]
        if not page["more"]:
            break
    _warn(stale)


@kv.command()
@click.argument("key")
@as_json_flag
@configured
def get(key: str, as_json: bool, files: Files, overrides: Overrides) -> None:
    """Print the value at KEY.

    Where there are several versions, each with its id. Exit code 3 where nothing is there.
    """
    entry = ask_manager(load(files, overrides), "GET", _path("entry", key))
    if as_json:
        click.echo(json.dumps(entry))
    elif entry["conflict"]:
        for version in entry["versions"]:
            click.echo(f"{version['id']}  {_written(version)}  {_text(version)}")
    else:
        click.echo(json.dumps(entry["value"], ensure_ascii=False, indent=2))
    _warn(entry["stale_peers"])


@kv.command()
@click.argument("key")
@click.argument("value")
@click.option("--expires-in", metavar="DURATION", help="Let it expire, like 30s or 24h.")
@replaces_option
@as_json_flag
@configured
def put(
    key: str,
    value: str,
    expires_in: str | None,
    versions: tuple[str, ...],
    as_json: bool,
    files: Files,
    overrides: Overrides,
) -> None:
    """Write VALUE at KEY (app/NAME): JSON, or text where it is none."""
    body: dict[str, Any] = {"value": _parsed(value)}
    if expires_in is not None:
        try:
            body["expires_in"] = parse_duration(expires_in)
        except ValueError as error:
            raise UsageError(f"--expires-in {expires_in}: {error}") from error
    if versions:
        body["replaces"] = list(versions)
    _answer(ask_manager(load(files, overrides), "PUT", _path("entry", key), body), as_json)


@kv.command()
@click.argument("key")
@click.argument("edits")
@as_json_flag
@configured
def edit(key: str, edits: str, as_json: bool, files: Files, overrides: Overrides) -> None:
    """Edit the document at KEY (crdt).

    EDITS is a JSON list of {"edit": "set-key", "key": K, "value": V}, {"edit": "remove-key", "key": K},
    {"edit": "add", "member": M}, {"edit": "remove", "member": M}, {"edit": "increment", "by": N}, {"edit": "insert",
    "at": N, "text": T} and {"edit": "cut", "at": N, "count": N}.
    """
    try:
        body = {"edits": json.loads(edits)}
    except ValueError as error:
        raise UsageError(f"EDITS is no JSON: {error}") from error
    _answer(ask_manager(load(files, overrides), "POST", _path("entry", key), body), as_json)


@kv.command()
@click.argument("key")
@replaces_option
@configured
def delete(key: str, versions: tuple[str, ...], files: Files, overrides: Overrides) -> None:
    """Delete what is at KEY, everywhere."""
    path = _path("entry", key, **({"replaces": ",".join(versions)} if versions else {}))
    ask_manager(load(files, overrides), "DELETE", path)


@kv.command()
@click.argument("key")
@as_json_flag
@configured
def history(key: str, as_json: bool, files: Files, overrides: Overrides) -> None:
    """Show what KEY was, newest first.

    As far as this node saw it, and remembers it (sync.enable_versioning).
    """
    for past in ask_manager(load(files, overrides), "GET", _path("history", key)):
        if as_json:
            click.echo(json.dumps(past))
        else:
            texts = " | ".join(_text(version) for version in past["versions"])
            click.echo(f"{_when(past['seen_at'])}  {_written(past['versions'][0])}  {texts}")


@kv.command()
@as_json_flag
@configured
def status(as_json: bool, files: Files, overrides: Overrides) -> None:
    """Show how old the view of each peer is."""
    found = ask_manager(load(files, overrides), "GET", "/sync")
    if as_json:
        click.echo(json.dumps(found))
        return
    if not found["enabled"]:
        click.echo("not enabled: set sync.enabled and restart the manager")
        return
    click.echo(
        f"id {found['id']}, {found['entries']} entries ({format_size(found['bytes'])}), "
        f"{found['tombstones']} deletions that not everybody has yet"
    )
    rounds = ", ".join(f"{count} {outcome}" for outcome, count in found["rounds"].items())
    sent, received = format_size(found["bytes_sent"]), format_size(found["bytes_received"])
    click.echo(f"exchanges: {rounds}; {sent} sent, {received} received")
    for name, peer in found["peers"].items():
        click.echo(f"  {printable(name):<20} {_view(peer)}  {printable(peer['error'])}".rstrip())
    for node, age in found["others"].items():
        click.echo(f"  {node:<20} {_age(age)} old (no peer of this node)")
    if found["refused"]:
        count = sum(found["refused"].values())
        click.echo(f"{count} entries were refused; the newest: {printable(found['newest_refusal'])}")
    if found["failure"]:
        click.echo(printable(found["failure"]))


def _path(what: str, key: str, **more: str) -> str:
    return f"/sync/{what}?{urlencode({'key': key, **more})}"


def _parsed(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


def _answer(entry: Mapping[str, Any], as_json: bool) -> None:
    click.echo(json.dumps(entry) if as_json else entry["versions"][0]["id"])


def _line(entry: Mapping[str, Any]) -> str:
    texts = " | ".join(_text(version) for version in entry["versions"])
    return f"{printable(entry['key'])}  {_written(entry['versions'][0])}  {texts}"


def _text(version: Mapping[str, Any]) -> str:
    if version["deleted"]:
        return "(deleted)"
    return printable(json.dumps(version["value"], ensure_ascii=False))


def _written(version: Mapping[str, Any]) -> str:
    return f"{_when(version['written_at'])} {printable(version['node'])}"


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _view(peer: Mapping[str, Any]) -> str:
    if peer["takes_part"] is False:
        return "takes no part"
    if peer["age"] is None:
        return "nothing was heard of it yet"
    return f"{_age(peer['age'])} old" + (", which is too old" if peer["stale"] else "")


def _age(seconds: float) -> str:
    return format_duration(float(round(seconds, 1)))


def _warn(stale: list[str]) -> None:
    if stale:
        click.echo(f"what these say of themselves may be older than it should be: {', '.join(stale)}", err=True)
