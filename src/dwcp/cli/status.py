"""`dwcp status`: the local manager at a glance."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from dwcp.cli.options import configured, load
from dwcp.errors import NotFoundError, StateError, UnreachableError, from_code
from dwcp.links.endpoints import split_address
from dwcp.units import format_duration, format_rate, format_size

TIMEOUT = 5.0
"""Seconds: a manager on this machine answers in milliseconds, or not at all."""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Everything, as one JSON object.")
@configured
def status(as_json: bool, files: tuple[Path, ...], overrides: tuple[str, ...]) -> None:
    """Show the manager of this configuration: health, peers, transfers, and what its sockets really have."""
    config = load(files, overrides)
    address = find_manager(Path(config.storage.state_dir)).addresses["http"]
    parts = {name: ask(address, f"/{name}") for name in ("status", "health", "circuit-breakers", "transfers")}
    if as_json:
        click.echo(json.dumps(parts, indent=2))
    else:
        _show(parts)


@dataclass(frozen=True, slots=True)
class Run:
    """What a manager wrote of itself when it started. `pid`: 0 where it did not say."""

    pid: int
    addresses: Mapping[str, str]


def find_manager(state_dir: Path) -> Run:
    """The manager that runs on this state directory, or was killed there. Raises NotFoundError, StateError."""
    path = state_dir / "run.json"
    try:
        run = json.loads(path.read_text())
        addresses = {str(name): str(address) for name, address in run["addresses"].items()}
        return Run(int(run.get("pid", 0)), {"http": addresses["http"], **addresses})
    except PermissionError as error:
        raise StateError(
            f"cannot read {path}: {error.strerror}; run as the manager's user, for example with `sudo -u dwcp`"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise NotFoundError(
            f"no manager runs with state directory {state_dir}; start one with `dwcp-manager`, "
            f"or name its configuration with --config"
        ) from error


def ask(address: str, path: str, *, method: str = "GET", token: str = "") -> Any:
    """The JSON that a local manager answers. Raises UnreachableError, or what it says is wrong."""
    host, port = split_address(address)
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT)
    try:
        headers = {"Host": f"localhost:{port}", **({"Authorization": f"Bearer {token}"} if token else {})}
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        document = json.loads(answer.read())
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise UnreachableError(
            f"the manager at {address} does not answer ({error}); it may have been killed: start it again"
        ) from error
    finally:
        connection.close()
    if answer.status != http.client.OK and method != "GET":
        raise from_code(str(document.get("code")), str(document.get("message")))
    return document


def _show(parts: dict[str, Any]) -> None:
    node, health = parts["status"], parts["health"]
    click.echo(f"node {node['node']}: {health['status']}, up {format_duration(float(health['uptime_seconds'] or 0))}")
    click.echo(f"  fingerprint {node['fingerprint']}")
    click.echo("  " + ", ".join(f"{name} {address}" for name, address in sorted(node["addresses"].items())))
    for name, state in health["components"].items():
        reason = health.get("reasons", {}).get(name, "")
        click.echo(f"  {name:<16}{state}" + (f"  {reason}" if reason else ""))
    for name, export in node["exports"].items():
        click.echo(f"export {name}: {export['path']}" + (" (read-only)" if export["read_only"] else ""))
    for name, peer in node["peers"].items():
        breaker = parts["circuit-breakers"].get(name, {})
        latency = peer["latency_milliseconds"]
        far = f"{latency} ms" if latency is not None else "not reached"
        state = f", breaker {breaker['state']}" if breaker else ""
        if breaker.get("state") == "open":
            state += f", tried again in {format_duration(float(round(breaker['retry_at_seconds'])))}"
        why = f" ({breaker['reason']})" if breaker.get("reason") and latency is None else ""
        click.echo(f"peer {name}: {peer['address'] or 'no address'}, {far}{state}{why}")
    for transfer in parts["transfers"][:10]:
        click.echo(_transfer_line(transfer))
    click.echo("sockets: " + ", ".join(f"{name} {value}" for name, value in node["sockets"].items()))
    for warning in node["warnings"]:
        click.echo(f"warning: {warning}")


def _transfer_line(transfer: dict[str, Any]) -> str:
    size = f"{format_size(transfer['bytes_done'])} of {format_size(transfer['bytes_total'])}"
    what = f"{transfer['role']} {transfer['peer']} {transfer['target']}: {transfer['state']}"
    rate = f"{format_rate(transfer['rate_bits_per_second'])}, {transfer['streams']} streams"
    return f"transfer {transfer['id']} {what}, {size}, {rate} {transfer['error']}".rstrip()
