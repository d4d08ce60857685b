"""Requests about versions (`dwcp.versions`), as the node that has them answers them.

Whoever may write an export may keep versions of its paths, and is then the only one who may make, remove and mend those
of that path; whoever may read the export may list and get them.
"""

from __future__ import annotations

import datetime

import structlog

from dwcp.errors import UsageError
from dwcp.files.root import Parts, Root
from dwcp.transfer.channel import Channel
from dwcp.units import parse_keep
from dwcp.versions.checking import Pace, check_versions
from dwcp.versions.making import make_version
from dwcp.versions.store import Version, VersionStore, version_root
from dwcp.wire import messages as m
from dwcp.wire.paths import display

log = structlog.get_logger()


def answer(request: m.Keep | m.Versions | m.Check, root: Root, target: Parts, channel: Channel, peer: str) -> None:
    """Whoever was let in with a fence keeps the versions of its workload, whichever peer it is.

    Raises a DwcpError, which is the answer then."""
    with VersionStore(root, target, create=isinstance(request, m.Keep)) as store:
        match request:
            case m.Keep():
                channel.send(_keep(store, request, peer))
            case m.Versions():
                _list(store, channel)
            case m.Check():
                channel.send(_check(store, request, channel, peer))


def open_version(root: Root, target: Parts, version: str) -> Root:
    """The directory of a version, to read; takes over `root`. Raises NotFoundError, StorageError."""
    try:
        with VersionStore(root, target) as store:
            return version_root(store.get(version))
    finally:
        root.close()


def _owner(request: m.Keep | m.Check, peer: str) -> str:
    return f"workload {request.fence.workload}" if request.fence is not None else peer


def _keep(store: VersionStore, request: m.Keep, peer: str) -> m.Kept:
    try:
        rules = parse_keep(request.rules)
    except ValueError as error:
        raise UsageError(str(error)) from error
    made = make_version(store, _owner(request, peer), rules, datetime.datetime.now(datetime.UTC), heir_of=peer)
    if made.fresh or made.pruned:
        log.info(
            "version kept",
            path=display(request.path),
            version=made.version.id,
            fresh=made.fresh,
            removed=made.pruned,
            peer=peer,
        )
    return m.Kept(version=_entry(made.version), fresh=made.fresh, removed=made.pruned)


def _list(store: VersionStore, channel: Channel) -> None:
    entries = [_entry(version) for version in store.find()]
    while len(entries) > m.MAX_ENTRIES:
        channel.send(m.VersionListing(versions=entries[: m.MAX_ENTRIES], more=True))
        del entries[: m.MAX_ENTRIES]
    channel.send(m.VersionListing(versions=entries))


def _check(store: VersionStore, request: m.Check, channel: Channel, peer: str) -> m.Checked:
    # a peer that has gone shows when something is sent to it
    pace = Pace(request.rate or None, lambda: channel.send(m.Ping()))
    found = check_versions(store, _owner(request, peer), pace, heir_of=peer)
    if found.damaged or found.healed:
        log.warning(
            "stored files were damaged",
            path=display(request.path),
            healed=found.healed,
            damaged=found.damaged,
            first=found.lines[:1],
        )
    return m.Checked(
        files=found.files,
        bytes=found.bytes,
        healed=found.healed,
        damaged=found.damaged,
        removed=found.live_removed,
        lines=found.lines,
    )


def _entry(version: Version) -> m.VersionEntry:
    summary, checked = version.summary, version.checked
    return m.VersionEntry(
        version.id,
        max(0, int(summary.taken_at.timestamp())),
        summary.files,
        summary.bytes,
        summary.new_bytes,
        int(checked.at.timestamp()) if checked is not None else 0,
        checked.damaged if checked is not None else 0,
    )
