"""Runs a command's coroutine so that INT and TERM end it in good order, and soon."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

import click

from dwcp.config import Config
from dwcp.errors import Interrupted
from dwcp.telemetry import spanning, telemetry_of

T = TypeVar("T")


def run(config: Config, work: Coroutine[Any, Any, T], resumes: str = "") -> T:
    """To its end. Raises Interrupted, with `resumes` as advice, once a signal has ended it. What it did in threads may
    then still wait for a peer that is silent, which is why asyncio.run, which would wait for them, is not used."""
    command = click.get_current_context()
    name = "dwcp" + command.command_path.removeprefix(command.find_root().command_path)
    with spanning(telemetry_of(config.telemetry, config.node.name), name, {}):
        return _run(work, resumes)


def _run(work: Coroutine[Any, Any, T], resumes: str) -> T:
    loop = asyncio.new_event_loop()
    try:
        task = loop.create_task(work)
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, task.cancel)
        try:
            return loop.run_until_complete(task)
        except asyncio.CancelledError:
            raise Interrupted("interrupted" + (f"; {resumes}" if resumes else "")) from None
    finally:
        loop.close()
