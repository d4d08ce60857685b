"""`dwcp top`: the local manager live in a terminal."""

from __future__ import annotations

from pathlib import Path

import click

from dwcp.cli.manager_http import ManagerHttp, read_token
from dwcp.cli.options import configured, load_files
from dwcp.cli.status import find_manager
from dwcp.errors import UsageError


@click.command()
@configured
def top(files: tuple[Path, ...], overrides: tuple[str, ...]) -> None:
    """Watch the manager of this configuration live: transfers, workloads, jobs, peers, components, events.

    Keys: 1 to 6 choose what is shown. What is chosen there c cancels (a transfer, a job), p pauses or resumes (a
    transfer, a workload), r sets going at once (a workload, a job that waits or is parked, a peer whose circuit breaker
    is open); v lists the versions of a workload with the commands that restore them. l sets the sending limit, q ends.
    Needs the extra `tui`.
    """
    state_dir = Path(load_files(files, overrides).storage.state_dir)
    address = find_manager(state_dir).addresses["http"]
    try:
        from dwcp.cli.top_app import TopApp
    except ModuleNotFoundError as error:
        raise UsageError(
            f"dwcp top needs {error.name}, of the extra `tui`: pip install 'dwcp[tui]'; `dwcp status` shows a glance, "
            f"http://{address}/ the same in a browser"
        ) from error
    TopApp(ManagerHttp(address, read_token(state_dir))).run()
