"""`dwcp breaker`: the circuit breakers of the local manager."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from dwcp.cli.options import configured, load
from dwcp.cli.status import ask, find_manager
from dwcp.config import Config
from dwcp.units import format_duration


@click.group()
def breaker() -> None:
    """See which peers the local manager leaves alone, because they keep failing; and have one tried at once."""


@breaker.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="Everything, as one JSON object.")
@configured
def list_(as_json: bool, files: tuple[Path, ...], overrides: tuple[str, ...]) -> None:
    """Show the circuit breaker of each peer, and why it opened."""
    config = load(files, overrides)
    found = ask(_address(config), "/circuit-breakers")
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for name, status in found.items():
        click.echo(f"{name}: {breaker_line(status)}")


@breaker.command()
@click.argument("peer", required=False)
@configured
def reset(peer: str | None, files: tuple[Path, ...], overrides: tuple[str, ...]) -> None:
    """Close the circuit breaker of PEER, or all, to try again at once."""
    config = load(files, overrides)
    path = "/circuit-breaker/reset" + (f"?peer={quote(peer, safe='')}" if peer is not None else "")
    ask(_address(config), path, method="POST", token=_token(config))
    click.echo(f"the circuit breaker of {peer} is closed" if peer is not None else "all circuit breakers are closed")


def breaker_line(status: dict[str, Any]) -> str:
    """Of one row of /circuit-breakers."""
    words = str(status["state"])
    if status["state"] == "open":
        words += f", tried again in {format_duration(float(round(status['retry_at_seconds'])))}"
    if status["tripped_by"]:
        words += f", opened by {status['tripped_by']}"
    return f"{words}: {status['reason']}" if status["failures"] else words


def _address(config: Config) -> str:
    return find_manager(Path(config.storage.state_dir)).addresses["http"]


def _token(config: Config) -> str:
    """Empty where it cannot be read, which a listener on loopback does not mind."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return (Path(config.storage.state_dir) / "identity" / "api-token").read_text(encoding="ascii").strip()
    return ""
