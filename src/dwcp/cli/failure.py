"""How a command ends when it fails: one line on standard error, the exit code of the error's class."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import NoReturn

import click

from dwcp.errors import ConfigError, DwcpError, Interrupted


def fail(error: DwcpError) -> NoReturn:
    if isinstance(error, ConfigError):
        click.echo("dwcp: invalid configuration", err=True)
        for line in error.problems:
            click.echo(line, err=True)
    else:
        click.echo(f"dwcp: {error}", err=True)
    if isinstance(error, Interrupted):
        # a thread that waits for a silent peer would hold the process until its timeout is over
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, AttributeError, ValueError):
                # None, closed, or with nobody who reads: there is nothing to flush
                stream.flush()
        os._exit(error.exit_code)
    sys.exit(error.exit_code)
