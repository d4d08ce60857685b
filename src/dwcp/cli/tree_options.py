"""What `dwcp send` and `dwcp get` take beyond where from and where to: the options of rsync(1), by its names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from dwcp.wire.tree import ALL_KEPT, Kept, TreeOptions

F = TypeVar("F", bound=Callable[..., Any])

_KEEPING: dict[str, tuple[Kept, ...]] = {
    "perms": ("modes",),
    "owner": ("owner",),
    "group": ("group",),
    "devices": ("special",),
    "acls": ("acls",),
    "xattrs": ("xattrs", "security"),
    "archive": ALL_KEPT,
}

_OPTIONS = (
    click.option(
        "-a", "--archive", is_flag=True, help="Keep all of what a tree has: -pogDAX. Links and times always are."
    ),
    click.option("-p", "--perms", is_flag=True, help="Keep set-user-id, set-group-id and sticky bits (root)."),
    click.option("-o", "--owner", is_flag=True, help="Keep owners (root)."),
    click.option("-g", "--group", is_flag=True, help="Keep groups; without root those that the receiver is in."),
    click.option("-D", "--devices", is_flag=True, help="Keep devices (root), FIFOs and sockets."),
    click.option("-H", "--hard-links", is_flag=True, help="Keep hard links, which is always done."),
    click.option("-A", "--acls", is_flag=True, help="Keep POSIX ACLs."),
    click.option(
        "-X", "--xattrs", is_flag=True, help="Keep extended attributes, as root security.* and trusted.* too."
    ),
    click.option("--numeric-ids", is_flag=True, help="Keep owners by number, not by name."),
)


def tree_options(command: F) -> F:
    """Adds the options, which `read` turns into TreeOptions."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def read(options: dict[str, Any]) -> TreeOptions:
    """Raises UsageError."""
    keep = {kind for name, kinds in _KEEPING.items() if options[name] for kind in kinds}
    return TreeOptions(keep=[kind for kind in ALL_KEPT if kind in keep], numeric_ids=options["numeric_ids"])
