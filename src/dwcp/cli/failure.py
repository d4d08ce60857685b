"""How a command ends when it fails: one line on standard error, the exit code of the error's class."""

from __future__ import annotations

import sys
from typing import NoReturn

import click

from dwcp.errors import ConfigError, DwcpError


def fail(error: DwcpError) -> NoReturn:
    if isinstance(error, ConfigError):
        click.echo("dwcp: invalid configuration", err=True)
        for line in error.problems:
            click.echo(line, err=True)
    else:
        click.echo(f"dwcp: {error}", err=True)
    sys.exit(error.exit_code)
