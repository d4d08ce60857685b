"""`dwcp lab`: a few nodes on this machine, and `dwcp lab demo`, the project's main job from end to end."""

from __future__ import annotations

from pathlib import Path

import click

from dwcp.errors import NotFoundError
from dwcp.testing.lab import lab_down, lab_status, lab_up


@click.group()
def lab() -> None:
    """Run a few nodes on this machine, each with an identity, trust in the others and an export `inbox`."""


@lab.command()
@click.option("--nodes", type=click.IntRange(1, 64), default=2, show_default=True, help="How many nodes.")
@click.option("--dir", "directory", type=click.Path(path_type=Path), required=True, help="Where they keep everything.")
def up(nodes: int, directory: Path) -> None:
    """Start nodes on loopback with free ports. Their configuration files are there to be read and changed."""
    started = lab_up(directory, nodes)
    for node in started.nodes:
        click.echo(f"{node.name}: {node.http_url}/health  transport {node.transport}  config {node.config_file}")
    first, last = started.nodes[0], started.nodes[-1]
    click.echo("\nTry:")
    click.echo(f"  dwcp send --config {first.config_file} /etc/services {last.name}:inbox/")
    click.echo(f"  dwcp status --config {last.config_file}")
    click.echo(f"  dwcp lab down {directory}")


@lab.command()
@click.argument("directory", type=click.Path(path_type=Path))
def down(directory: Path) -> None:
    """Stop the nodes of a lab; their files stay."""
    stopped = lab_down(directory)
    click.echo(f"stopped {stopped} nodes" if stopped else "nothing was running")


@lab.command()
@click.argument("directory", type=click.Path(path_type=Path))
def status(directory: Path) -> None:
    """Show which nodes of a lab run."""
    nodes = lab_status(directory)
    if not nodes:
        raise NotFoundError(f"no lab was ever in {directory}; start one with `dwcp lab up --dir {directory}`")
    for name, running in nodes.items():
        click.echo(f"{name}: {'running' if running else 'stopped'}")


@lab.command(short_help="Let an owner die, and another node go on.")
@click.option("--dir", "directory", type=click.Path(path_type=Path), required=True, help="Where the lab goes.")
def cluster(directory: Path) -> None:
    """Start three nodes and three members of etcd, kill the owner of a workload, and tell what happens when."""
    from dwcp.cli.cluster_demo import run_cluster_demo

    run_cluster_demo(directory)


@lab.command(short_help="Ship a real tree twice, once changed, and compare.")
@click.option("--dir", "directory", type=click.Path(path_type=Path), required=True, help="Where the lab goes.")
@click.option("--keep", is_flag=True, help="Leave the nodes running, and say where.")
def demo(directory: Path, keep: bool) -> None:
    """Ship a real tree from one node to another, change it, ship it again, and compare."""
    from dwcp.cli.demo import run_demo

    run_demo(directory, keep=keep)
