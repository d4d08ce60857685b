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
    """Watch the manager of this configuration live: transfers, peers, components, events.

    Keys: 1 to 4 choose what is shown, c cancels the chosen transfer, r closes the chosen peer's circuit breaker, l sets
    the sending limit, q ends. Needs the extra `tui`.
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
