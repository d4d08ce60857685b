"""What several commands take, where the configuration is and PEER:PATH, and how they print a name."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from dwcp import logs
from dwcp.config import Config, default_files, load_config, parse_overrides
from dwcp.errors import UsageError
from dwcp.store.peers import with_added
from dwcp.telemetry import shipping

F = TypeVar("F", bound=Callable[..., Any])


def configured(command: F) -> F:
    """Adds --config and --set, which `load` takes."""
    files = click.option(
        "--config",
        "files",
        type=click.Path(path_type=Path),
        multiple=True,
        metavar="FILE",
        envvar="DWCP_CONFIG",
        help="Configuration; several are merged in order.",
    )
    overrides = click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key of it.")
    return files(overrides(command))


def load(files: tuple[Path, ...], overrides: tuple[str, ...]) -> Config:
    """The configuration, with the peers that were added by command. Raises ConfigError."""
    return with_added(load_files(files, overrides))


def load_files(files: tuple[Path, ...], overrides: tuple[str, ...]) -> Config:
    """The configuration as it is written; logs go as a command wants them: for people, and only what is a warning.

    Raises ConfigError.
    """
    config = load_config(list(files) or default_files(os.environ), os.environ, parse_overrides(overrides))
    level, form = config.node.log_level, config.node.log_format
    logs.configure(
        "warning" if level == "info" else level,
        "console" if form == "auto" else form,
        shipping(config.telemetry, config.node.name),
    )
    return config


def split_remote(text: str) -> tuple[str, str]:
    """(peer, EXPORT/PATH). Raises UsageError."""
    peer, colon, path = text.partition(":")
    if not colon or not peer:
        raise UsageError(f"{text!r} names no peer; write PEER:EXPORT/PATH, for example node2:inbox/backup")
    return peer, path


def printable(name: str) -> str:
    """As it is, but for bytes that are no UTF-8 and for what could move a terminal's cursor."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
