"""Entries of one section of the configuration that were added by command, in a file of the state directory.

It has the shape of a configuration, so that it can be read, moved there, or kept under version control.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from dwcp.config import Config, load_config, yaml_reader
from dwcp.errors import ConfigError, StateError
from dwcp.store import durable


def read(file: Path, section: str, overrides: Mapping[str, str] | None = None) -> Config:
    """A configuration with what the file says, and nothing where there is none. Raises ConfigError with the place of
    each problem."""
    if not os.path.lexists(file):
        return Config()
    document = yaml_reader.read(file)
    other = [key for key in document.values if key != section]
    if other:
        line, column = document.places[(other[0],)]
        raise ConfigError([f"{file}:{line}:{column}: {other[0]}: only {section} belong into this file"])
    return load_config([file], overrides=overrides)


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """One process at a time changes the files: flock(2) on their directory, which replacing a file does not lose.
    Raises StateError."""
    try:
        with durable.locked(directory):
            yield
    except OSError as error:
        raise StateError(f"cannot use the state directory {directory}: {error.strerror}") from error


def write(file: Path, header: str, section: str, entries: Mapping[str, Mapping[str, Any]]) -> None:
    """Whole or not at all, also after a power cut. Raises StateError."""
    plain = {name: dict(entry) for name, entry in entries.items()}
    text = header + yaml.safe_dump({section: plain}, sort_keys=False, allow_unicode=True)
    try:
        durable.write(file, text.encode())
    except OSError as error:
        raise StateError(f"cannot write {file}: {error.strerror}; run as the user that owns it") from error
