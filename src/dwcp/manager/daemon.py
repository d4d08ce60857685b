"""`dwcp-manager`: the node as a process, for systemd, containers and terminals."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click
import structlog

from dwcp import logs
from dwcp.config import Config, default_files, dump_config, load_config, parse_overrides, summary
from dwcp.errors import ConfigError, DwcpError
from dwcp.manager.sdnotify import Notifier
from dwcp.store.peers import CONFIGURATION, origins, with_added
from dwcp.store.workloads import with_workloads
from dwcp.telemetry import shipping

if TYPE_CHECKING:
    from dwcp.manager.manager import Manager

log = structlog.get_logger()

FEED = 5.0
"""Seconds between two notifications, where the watchdog does not want them sooner."""


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--config",
    "files",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE",
    help="Configuration; several are merged in order. Without: /etc/dwcp/config.yaml, ~/.config/dwcp/config.yaml.",
)
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key, e.g. transport.max_streams=64."
)
@click.option(
    "--validate", is_flag=True, help="Check the configuration, say what would run, and exit (2 when it is wrong)."
)
@click.option("--print-config", is_flag=True, help="Print the effective configuration with all defaults, and exit.")
@click.version_option(package_name="dwcp", prog_name="dwcp-manager")
def main(files: tuple[Path, ...], overrides: tuple[str, ...], validate: bool, print_config: bool) -> None:
    """Run a DWCP node: receive and serve transfers, answer /health and /metrics.

    Signals: TERM and INT stop it in good order (a second one at once), HUP reads the configuration and the added peers
    again. Environment variables DWCP_SECTION__KEY override the files.

    Exit codes: 0 stopped as asked, 2 wrong configuration or usage, 5 temporary (an address is taken), 7 fatal.
    """

    def load_files() -> Config:
        chosen = list(files) or default_files(os.environ)
        return load_config(chosen, os.environ, parse_overrides(overrides))

    def load() -> Config:
        return with_workloads(with_added(load_files()))

    try:
        config = load()
        if print_config:
            click.echo(dump_config(config), nl=False)
            for name, origin in origins(load_files()).items():
                click.echo(f"# peers.{name}: from {'the ' if origin == CONFIGURATION else ''}{origin}")
        elif validate:
            click.echo("configuration is valid")
            for line in summary(config):
                click.echo(f"  {line}")
        else:
            _configure_logs(config)
            _run(config, load)
    except ConfigError as error:
        if not validate:
            click.echo("Failed to start DWCP manager\nError: invalid configuration", err=True)
        for line in error.problems:
            click.echo(line, err=True)
        sys.exit(error.exit_code)
    except DwcpError as error:
        click.echo(f"Failed to start DWCP manager\nError: {error}", err=True)
        sys.exit(error.exit_code)


def _configure_logs(config: Config) -> None:
    logs.configure(config.node.log_level, config.node.log_format, shipping(config.telemetry, config.node.name))


def _run(config: Config, load: Callable[[], Config]) -> None:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(config, load))


async def _serve(config: Config, load: Callable[[], Config]) -> None:
    # late, so that --help and --validate don't pay for it
    from dwcp.manager.manager import Manager

    notifier = Notifier(os.environ)
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    manager = Manager(config)

    def on_stop() -> None:
        if stop.is_set():
            log.warning("second signal: stopping at once")
            # whatever was under way is in its journals; nothing here is lost by not waiting
            os._exit(130)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_stop)
    loop.add_signal_handler(signal.SIGHUP, lambda: _reload(manager, load, notifier))
    async with manager:
        notifier.ready(_status_line(manager))
        keeper = asyncio.create_task(_keep_notified(manager, notifier))
        await stop.wait()
        notifier.stopping()
        keeper.cancel()
        log.info("stopping", running_transfers=len(manager.board.live()))


def _status_line(manager: Manager) -> str:
    health = manager.health()
    return f"{health.status}, {len(manager.board.live())} transfers" + (f": {health.reason}" if health.reason else "")


def _reload(manager: Manager, load: Callable[[], Config], notifier: Notifier) -> None:
    notifier.reloading()
    try:
        config = load()
    except ConfigError as error:
        for line in error.problems:
            log.error("configuration is not taken over", problem=line)
        manager.refused(error)
    else:
        applied, waiting = manager.reload(config)
        _configure_logs(manager.config)
        log.info("configuration was read again", applied=applied, needs_restart=waiting)
    notifier.ready(_status_line(manager))


async def _keep_notified(manager: Manager, notifier: Notifier) -> None:
    interval = min(notifier.watchdog_seconds or FEED, FEED)
    while True:
        await asyncio.sleep(interval)
        if notifier.watchdog_seconds is not None and not manager.stalled:
            notifier.alive()
        notifier.status(_status_line(manager))


if __name__ == "__main__":
    main()
