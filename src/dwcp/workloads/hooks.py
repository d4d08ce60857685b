"""Commands that a workload runs before and after a transfer: an argument list, never a shell, with an end."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import Mapping, Sequence

import structlog

from dwcp.errors import DwcpError

MAX_SHOWN = 500
"""Characters of a command's output that a message ends with."""

log = structlog.get_logger()


class HookError(DwcpError):
    """A command of the operator failed; whether another try helps only the command knows, so it is tried again."""


async def run_hook(command: Sequence[str], seconds: float, variables: Mapping[str, str]) -> None:
    """Runs it to its end, in a process group of its own that is killed after so many `seconds` or when this is
    cancelled. `variables` go into its environment. Raises HookError."""
    with tempfile.TemporaryFile() as output:
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **variables},
                start_new_session=True,
            )
        except OSError as error:
            raise HookError(f"hook {command[0]} cannot be run: {error.strerror}") from error
        try:
            async with asyncio.timeout(seconds):
                status = await process.wait()
        except TimeoutError as error:
            raise HookError(f"hook {command[0]} took longer than {seconds:g} s and was killed") from error
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        output.seek(max(0, output.seek(0, os.SEEK_END) - 4 * MAX_SHOWN))
        said = output.read().decode(errors="replace").strip()[-MAX_SHOWN:]
    if status:
        raise HookError(f"hook {command[0]} ended with {status}" + (f": {said}" if said else ""))
    log.info("hook ran", command=command[0], said=said)
