"""`dwcp doctor`: what is in the way of this node, and how to mend it."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import click

from dwcp.cli.manager_http import ask
from dwcp.cli.options import configured, load
from dwcp.cli.status import find_manager
from dwcp.config import Config, default_files
from dwcp.doctor.examine import AREAS, Case, Running, examine
from dwcp.doctor.finding import Finding, Level
from dwcp.errors import ConfigError, DwcpError, NotFoundError, StateError, UnreachableError

MARK = {Level.OK: ("ok", "green"), Level.WARNING: ("warning", "yellow"), Level.PROBLEM: ("problem", "red")}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Everything, as one JSON object.")
@click.option(
    "--area",
    "areas",
    multiple=True,
    type=click.Choice(list(AREAS)),
    help="Look at this only; may be given again. Without: at everything.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0.1, 300),
    default=5.0,
    show_default=True,
    help="Seconds that a peer may take for each step.",
)
@configured
def doctor(
    as_json: bool, areas: tuple[str, ...], timeout: float, files: tuple[Path, ...], overrides: tuple[str, ...]
) -> None:
    """Look at this machine and node, say what is in the way, and how to mend it. Nothing is changed.

    Run it as the user that the manager runs as: `sudo -u dwcp dwcp doctor`. A warning works, only slower or less
    safely; a problem keeps something from working that the configuration asks for. Ends with 7 where there is a
    problem.
    """
    chosen = list(files) or default_files(os.environ)
    problems: list[str] = []
    try:
        config = load(files, overrides)
    except ConfigError as error:
        problems, config = error.problems, Config()
    running, closed = _running(Path(config.storage.state_dir))
    case = Case(config, chosen, problems, running, closed, timeout)
    findings = examine(case, areas or tuple(AREAS))
    counts = Counter(finding.level for finding in findings)
    if as_json:
        summary = {level.value: counts[level] for level in Level}
        click.echo(json.dumps({"summary": summary, "findings": [asdict(one) for one in findings]}, indent=2))
    else:
        _show(findings)
        click.echo(f"\n{counts[Level.OK]} ok, {counts[Level.WARNING]} warnings, {counts[Level.PROBLEM]} problems")
    if counts[Level.PROBLEM]:
        raise DwcpError(f"{counts[Level.PROBLEM]} problem(s); what mends each is said with it")


def _running(state_dir: Path) -> tuple[Running | None, str]:
    """The manager, and why it cannot be told whether there is one."""
    try:
        run = find_manager(state_dir)
        return Running(run.pid, run.addresses, ask(run.addresses["http"], "/health")), ""
    except (NotFoundError, UnreachableError):
        return None, ""
    except StateError as error:
        return None, str(error)


def _show(findings: list[Finding]) -> None:
    area = ""
    for finding in findings:
        if finding.area != area:
            click.secho(("\n" if area else "") + finding.area, bold=True)
            area = finding.area
        word, color = MARK[finding.level]
        click.echo(f"  {click.style(word.ljust(8), fg=color)} {finding.name}: {finding.found}")
        if finding.level is not Level.OK:
            click.echo(f"           wanted: {finding.wanted}")
            click.echo(f"           {finding.fix}")
            if finding.command:
                click.echo(f"           $ {finding.command}")
