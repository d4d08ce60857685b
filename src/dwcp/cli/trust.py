"""`dwcp peer`: whom this node knows."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click
from pydantic import ValidationError

from dwcp.cli.options import configured, load_files
from dwcp.config import Config
from dwcp.config.model import NODE_NAME, PeerSection
from dwcp.errors import UsageError
from dwcp.manager.statedir import tell_to_reload
from dwcp.store.opening import open_existing, open_state
from dwcp.store.peers import CONFIGURATION, add_peer, origins, remove_peer, with_added
from dwcp.transfer.node import Node
from dwcp.transfer.session import discover

NOWHERE = "-"
"""In place of the address of a node that this one never connects to."""


@click.group()
def peer() -> None:
    """Know other nodes, beside those in the configuration. What is added here is kept in the state directory."""


@peer.command()
@click.argument("name")
@click.argument("address", metavar="HOST:PORT")
@click.argument("fingerprint", required=False)
@click.option(
    "--trust-first-use",
    is_flag=True,
    help="Connect, and trust whoever answers from now on. Compare what is shown with `dwcp id` there.",
)
@configured
def add(
    name: str,
    address: str,
    fingerprint: str | None,
    trust_first_use: bool,
    files: tuple[Path, ...],
    overrides: tuple[str, ...],
) -> None:
    """Know the node on HOST:PORT as NAME.

    HOST:PORT is - for one that only connects to this node. FINGERPRINT is what `dwcp id` shows there; or `ca`, to go by
    a certificate for NAME (security.ca_file).
    """
    config = load_files(files, overrides)
    reached = None if address == NOWHERE else address
    if (fingerprint is None) != trust_first_use:
        raise UsageError(
            "give the peer's fingerprint, which `dwcp id` there shows, or --trust-first-use to take the one that is "
            "found at the address; one of the two"
        )
    if not re.match(NODE_NAME, name):
        raise UsageError(f"{name!r} cannot be a name; allowed: letters, digits, . _ -, at most 63")
    # checked before it is dialled
    _section(reached, fingerprint or "sha256:" + "0" * 64)
    state = open_state(config)
    identity = state.identity
    if fingerprint is None:
        if reached is None:
            raise UsageError("whoever is not to be connected to cannot be asked for a fingerprint; give it")
        fingerprint, calls_itself = discover(Node(config, identity), reached)
        click.echo(f"found at {address}: node {calls_itself}, fingerprint {fingerprint}")
    if fingerprint == identity.fingerprint:
        raise UsageError("this is the fingerprint of this node itself")
    if not add_peer(config, name, _section(reached, fingerprint)):
        click.echo(f"peer {name} is known already")
        return
    state.recorder.write("peer", "add", peer=name, address=address, fingerprint=fingerprint)
    click.echo(f"peer {name} is added: {reached or 'no address'}, {fingerprint}")
    click.echo(tell_to_reload(Path(config.storage.state_dir)))
    click.echo(f"For it to know this node: dwcp peer add {config.node.name} HOST:PORT {identity.fingerprint}")
    click.echo("(with - for HOST:PORT if it is not to connect to this one)")


def _section(address: str | None, fingerprint: str) -> PeerSection:
    try:
        return PeerSection(address=address, fingerprint=fingerprint)
    except ValidationError as error:
        key = str(error.errors()[0]["loc"][0])
        extra = PeerSection.model_fields[key].json_schema_extra
        allowed = extra.get("allowed") if isinstance(extra, dict) else None
        found = address if key == "address" else fingerprint
        raise UsageError(f"{key}: found {found!r}; allowed: {allowed}") from error


@peer.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@configured
def list_peers(as_json: bool, files: tuple[Path, ...], overrides: tuple[str, ...]) -> None:
    """List the peers that are known, and where each comes from."""
    config = load_files(files, overrides)
    for line in _lines(config, as_json=as_json):
        click.echo(line)


def _lines(config: Config, *, as_json: bool) -> list[str]:
    sources = origins(config)
    lines = []
    for name, known in sorted(with_added(config).peers.items()):
        source = sources[name]
        if as_json:
            entry = {"name": name, "address": known.address, "fingerprint": known.fingerprint, "source": source}
            lines.append(json.dumps(entry))
        else:
            origin = "from the configuration" if source == CONFIGURATION else f"from {source}"
            lines.append(f"{name}  {known.address or 'no address'}  {known.fingerprint}  {origin}")
    return lines


@peer.command()
@click.argument("name")
@configured
def remove(name: str, files: tuple[Path, ...], overrides: tuple[str, ...]) -> None:
    """Forget a peer that was added. Sessions that it has go on; it gets no new ones."""
    config = load_files(files, overrides)
    recorder = open_existing(config)
    remove_peer(config, name)
    recorder.write("peer", "remove", peer=name)
    click.echo(f"peer {name} is removed")
    click.echo(tell_to_reload(Path(config.storage.state_dir)))
