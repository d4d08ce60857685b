"""The library's way in: `async with connect("node2") as peer: await peer.send("tree", "inbox/tree")`."""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, TypeVar

from msgspec.structs import replace

from dwcp.config import Config, default_files, load_config
from dwcp.errors import (
    NotFoundError,
    UsageError,
)
from dwcp.files.root import Root
from dwcp.store.open_breakers import open_breaker
from dwcp.store.opening import open_state
from dwcp.store.peers import with_added
from dwcp.supervise.breaker import rejection
from dwcp.transfer import remote_files, tracing
from dwcp.transfer.board import Board, TransferStatus
from dwcp.transfer.node import Node
from dwcp.transfer.recording import TransferRecording
from dwcp.transfer.remote_files import RemoteEntry
from dwcp.transfer.requests import Requests
from dwcp.transfer.result import TransferResult
from dwcp.transfer.session import Dialled
from dwcp.wire import messages as m
from dwcp.wire.handshake import FENCES
from dwcp.wire.paths import check_relative
from dwcp.wire.tree import Change, TreeOptions

if TYPE_CHECKING:
    from dwcp.transfer.outbound import Order
    from dwcp.transfer.remote_jobs import RemoteJob
    from dwcp.transfer.remote_versions import CheckedVersions, KeptVersion, RemoteVersion
    from dwcp.transfer.source import Source

_LATER = ("dwcp.transfer.outbound", "dwcp.transfer.source", "dwcp.transfer.download")
"""What a transfer needs beyond a session; a tenth of a second of loading, for which no peer should have to wait."""
Checksum = Literal["xxh3", "blake3"]
OnProgress = Callable[[TransferStatus], None]
OnChange = Callable[[Change], None]
T = TypeVar("T")
USUAL = TreeOptions()


class Peer:
    """A configured peer with a proved session. Made by `connect`; its methods may be awaited one after the other or at
    the same time. Each transfer runs on a session of its own, the first on the one that `connect` made: a handshake
    costs round trips."""

    def __init__(self, node: Node, name: str, address: str, expected: str, session: Dialled) -> None:
        self.name = name
        self.address = address
        self.fingerprint = expected
        """Or `ca:NAME`."""
        self._features = session.features
        self._node = node
        self._requests = Requests(
            name, partial(tracing.connect, node, name, address, expected), session, node.config.transport.read_timeout
        )

    async def send(
        self,
        source: str | os.PathLike[str] | BinaryIO,
        target: str,
        *,
        delete: bool = False,
        checksum: Checksum = "xxh3",
        tree: TreeOptions = USUAL,
        names: Iterable[bytes] | None = None,
        on_progress: OnProgress | None = None,
        on_change: OnChange | None = None,
        fence: m.Fence | None = None,
    ) -> TransferResult:
        """Makes `target` (EXPORT/PATH at the peer) what `source` is: a file, a tree, what is on a block device, or
        whatever a stream yields.

        With an empty PATH, or one that ends in a slash, the source's own name is put inside. `delete` removes below
        `target` what the source does not have. `tree`: what else is kept, left out and told; `names`: only these below
        the source, directories without their content. `on_progress` is called from another thread, about 5 times a
        second; so is `on_change`, with each name that is changed at the peer. `fence`: under whose ownership of a
        workload, for a peer that `keeps_fences`.

        Raises PartialError when single files failed; UnreachableError, TimeoutExpired, RefusedError, NotFoundError,
        StorageError or another DwcpError when the transfer did. Cancelling keeps what had arrived for the next try.
        """
        from dwcp.transfer.source import StreamSource

        if isinstance(source, str | os.PathLike):
            path = Path(source)
            remote = _remote_path(target, os.fsencode(_absolute(path).name))
            order_source, tree = _source(path, tree, names)
        else:
            if target.endswith("/") or "/" not in target:
                raise UsageError(f"a stream has no name of its own; write EXPORT/NAME instead of {target!r}")
            remote = _remote_path(target, None)
            order_source = StreamSource(source)
        return await self._send(
            order_source,
            remote,
            tree,
            on_change,
            delete=delete,
            checksum=checksum,
            on_progress=on_progress,
            fence=fence,
        )

    async def send_source(
        self, source: Source, target: str, *, delete: bool = False, checksum: Checksum = "xxh3"
    ) -> TransferResult:
        """As `send`, of a source that is open already and is closed at the end; `target` has a name of its own."""
        return await self._send(source, _remote_path(target, None), delete=delete, checksum=checksum)

    async def _send(
        self,
        source: Source,
        remote: bytes,
        tree: TreeOptions = USUAL,
        on_change: OnChange | None = None,
        *,
        delete: bool,
        checksum: Checksum,
        on_progress: OnProgress | None = None,
        fence: m.Fence | None = None,
    ) -> TransferResult:
        order = self._order(remote, tree, on_change, delete=delete, checksum=checksum, source=source, fence=fence)
        try:
            return await self._run(order, on_progress)
        finally:
            source.close()

    async def get(
        self,
        source: str,
        target: str | os.PathLike[str] | BinaryIO,
        *,
        delete: bool = False,
        checksum: Checksum = "xxh3",
        tree: TreeOptions = USUAL,
        on_progress: OnProgress | None = None,
        on_change: OnChange | None = None,
    ) -> TransferResult:
        """Makes the local `target` what `source` (EXPORT/PATH at the peer) is; the mirror of `send`.

        A `target` that ends in a slash, or is `.` or `..`, gets the source's own name inside. Into a stream only a
        single file can be got. Raises as `send`.
        """
        remote = _remote_path(source, None)
        if isinstance(target, str | os.PathLike):
            destination = _destination(os.fspath(target), remote)
            order = self._order(remote, tree, on_change, delete=delete, checksum=checksum, destination=destination)
            return await self._run(order, on_progress)
        from dwcp.transfer.download import StreamDestination

        with StreamDestination(target) as stream:
            order = self._order(remote, tree, None, delete=False, checksum=checksum, destination=stream.destination)
            result = await self._run(order, on_progress)
            await asyncio.to_thread(stream.copy)
            return result

    async def ls(self, path: str = "") -> list[RemoteEntry]:
        """What is in a directory of the peer; its exports for the empty path. Raises NotFoundError, RefusedError."""
        return await asyncio.to_thread(remote_files.ls, self._requests, path)

    async def stat(self, path: str) -> RemoteEntry:
        """What is at EXPORT or EXPORT/PATH itself; a symlink is not followed. Raises NotFoundError, RefusedError."""
        return await asyncio.to_thread(remote_files.stat, self._requests, path)

    async def read(self, path: str, offset: int, size: int, *, unchanged: RemoteEntry | None = None) -> bytes:
        """`size` bytes of a file (EXPORT/PATH) from `offset`, fewer where it ends; all of them are of one state of the
        file, of that which `unchanged` tells of where it is given. They are kept in memory and come on one connection:
        `get` is for much of a file.

        Raises TemporaryError where the file has changed, NotFoundError, RefusedError, StorageError.
        """
        return await asyncio.to_thread(remote_files.read, self._requests, path, offset, size, unchanged)

    async def ping(self) -> float:
        """Seconds of one round trip on the session."""
        return await asyncio.to_thread(self._requests.ping)

    async def order(
        self, source: str, peer: str, target: str, *, delete: bool = False, checksum: Checksum = "xxh3"
    ) -> RemoteJob:
        """Has this peer send what `source` (EXPORT/PATH there) is to a peer that it knows as `peer`; returns when that
        is queued there. Raises RefusedError where this node may not order (`peers.NAME.may_order`), NotFoundError."""
        from dwcp.transfer.remote_jobs import place

        request = partial(place, self, source, peer, target, delete=delete, checksum=checksum)
        return await _cancellable(request, self._requests.hang_up)

    async def order_status(self, job: int) -> RemoteJob:
        """How far it is. Raises NotFoundError for a job that this node has not ordered."""
        from dwcp.transfer.remote_jobs import look

        return await _cancellable(partial(look, self, job), self._requests.hang_up)

    async def keep_version(self, path: str, keep: str = "all", *, fence: m.Fence | None = None) -> KeptVersion:
        """Makes a version of what is at `path` (EXPORT/PATH) now, where it differs from the newest one, and removes
        those that the rules do not keep (`last 5, daily 7`).

        `fence`: as in `send`. Raises RefusedError where another peer keeps versions of it, TemporaryError where it
        changes meanwhile, NotFoundError, UsageError, StorageError.
        """
        from dwcp.transfer import remote_versions

        return await _cancellable(partial(remote_versions.keep, self, path, keep, fence), self._requests.hang_up)

    async def versions(self, path: str) -> list[RemoteVersion]:
        """Of what is at `path`, oldest first. Raises NotFoundError, RefusedError, StorageError."""
        from dwcp.transfer import remote_versions

        return await _cancellable(partial(remote_versions.find, self, path), self._requests.hang_up)

    async def check_versions(
        self, path: str, rate: int | None = None, *, fence: m.Fence | None = None
    ) -> CheckedVersions:
        """Reads all versions of `path` there again, compares, and mends what can be mended; `rate` in bytes per second.
        Raises as `keep_version`."""
        from dwcp.transfer import remote_versions

        return await _cancellable(partial(remote_versions.check, self, path, rate, fence), self._requests.hang_up)

    async def restore(
        self,
        path: str,
        target: str | os.PathLike[str],
        *,
        version: str = "latest",
        on_progress: OnProgress | None = None,
    ) -> TransferResult:
        """Makes the local `target`, which must not exist yet, what a version of `path` was. It has its name when all of
        it is there and is what the version's manifest says; what was interrupted goes on where it was.

        Raises IntegrityError where it is not, NotFoundError, UsageError, or as `get`.
        """
        from dwcp.transfer import remote_versions

        chosen = await asyncio.to_thread(remote_versions.choose, self, path, version)
        restoring = remote_versions.Restoring(Path(target), chosen.id)
        remote, destination = _remote_path(path, None), restoring.destination
        order = self._order(
            remote, USUAL, None, delete=True, checksum="blake3", destination=destination, version=chosen.id
        )
        result = await self._run(order, on_progress)
        await asyncio.to_thread(restoring.finish)
        return result

    # -- blocking parts, in threads ------------------------------------------------------------------------------------

    def _order(
        self,
        remote: bytes,
        tree: TreeOptions,
        on_change: OnChange | None,
        *,
        delete: bool,
        checksum: Checksum,
        source: Source | None = None,
        destination: tuple[Path, tuple[bytes, ...]] | None = None,
        version: str | None = None,
        fence: m.Fence | None = None,
    ) -> Order:
        from dwcp.transfer.outbound import Order

        if on_change is not None:
            tree = replace(tree, itemize=True)
        return Order(
            self.name,
            self.address,
            self.fingerprint,
            remote,
            delete,
            checksum,
            tree,
            on_change,
            source,
            destination,
            version,
            fence,
        )

    async def _run(self, order: Order, on_progress: OnProgress | None) -> TransferResult:
        from dwcp.transfer.outbound import Outbound

        outbound = Outbound(self._node, order, on_progress, self._requests.take())
        return await _cancellable(outbound.run, outbound.cancel)

    @property
    def keeps_fences(self) -> bool:
        """Whether it keeps former owners of a workload out."""
        return FENCES in self._features

    def leave(self) -> None:
        """Ends the session, where no transfer has taken it. Blocks."""
        self._requests.end()

    def request(self, request: m.Message, kind: type[M], feature: str = "") -> list[M]:
        """See `Requests.ask`; blocks."""
        return self._requests.ask(request, kind, feature)


M = TypeVar("M", bound=m.Message)


@asynccontextmanager
async def connect(
    peer: str, *, config: Config | None = None, ahead: int = 0, despite_breaker: bool = False
) -> AsyncIterator[Peer]:
    """A session with a peer of `config`, without one of the usual configuration files; or with a peer that
    `dwcp peer add` has added in its `storage.state_dir`. `ahead`: connections to begin at once for the streams of a
    transfer that follows, where the link is long. `despite_breaker`: try a peer too that the manager of this node
    leaves alone for now.

    The peer has proved who it is. Whether it knows this node comes with its first answer, because asking costs a round
    trip: AuthenticationError is raised there then.

    Raises NotFoundError for an unknown peer, CircuitOpenError, UnreachableError, TimeoutExpired, AuthenticationError
    or ConfigError.
    """
    connected = await open_peer(peer, config=config, ahead=ahead, despite_breaker=despite_breaker)
    try:
        yield connected
    finally:
        await asyncio.to_thread(connected.leave)


@asynccontextmanager
async def connect_as(node: Node, peer: str, ahead: int = 0) -> AsyncIterator[Peer]:
    """As `connect`, for a process that is a node already."""
    connected = await _open(node, peer, ahead)
    try:
        yield connected
    finally:
        await asyncio.to_thread(connected.leave)


async def open_peer(peer: str, *, config: Config | None = None, ahead: int = 0, despite_breaker: bool = False) -> Peer:
    """As `connect`, for whoever calls `Peer.leave` in the end."""
    node = await asyncio.to_thread(_node, config)
    # first, so that a peer that nobody knows is said to be unknown
    node.address_of(peer)
    if not despite_breaker:
        _ask_breaker(node, peer)
    return await _open(node, peer, ahead)


async def _open(node: Node, peer: str, ahead: int) -> Peer:
    address, fingerprint = node.address_of(peer)
    loading = asyncio.ensure_future(asyncio.to_thread(_load_what_comes_later))
    try:
        session = await asyncio.to_thread(tracing.connect, node, peer, address, fingerprint, ahead)
    finally:
        await loading
    return Peer(node, peer, address, fingerprint, session)


def _ask_breaker(node: Node, peer: str) -> None:
    """Raises CircuitOpenError where the manager beside us knows that the peer is away."""
    now = time.monotonic()
    found = open_breaker(Path(node.config.storage.state_dir), peer, now)
    if found is not None:
        raise rejection(peer, found.until - now, found.reason, time.time())


def _load_what_comes_later() -> None:
    """While the handshake is on its way."""
    for name in _LATER:
        import_module(name)


def fingerprint(config: Config) -> str:
    """By which peers know the node of this configuration, as `dwcp id` shows it; an identity is made where there is
    none. Raises StateError."""
    return open_state(config).identity.fingerprint


def _node(config: Config | None) -> Node:
    config = config or load_config(default_files(os.environ), os.environ)
    state = open_state(config)
    # read after that: a restore that was interrupted may have brought other peers
    return Node(with_added(config), state.identity, Board(TransferRecording(state.recorder, command=True)))


async def _cancellable(run: Callable[[], T], cancel: Callable[[], None]) -> T:
    """`run` in a thread; when the task is cancelled, `cancel` it and wait for its end, so that nothing goes on."""
    task = asyncio.ensure_future(asyncio.to_thread(run))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        cancel()
        await asyncio.gather(task, return_exceptions=True)
        raise


def _source(path: Path, tree: TreeOptions, names: Iterable[bytes] | None) -> tuple[Source, TreeOptions]:
    """What is at a path, and how it has to be transferred."""
    from dwcp.files.listed import in_order
    from dwcp.transfer.device import DeviceSource
    from dwcp.transfer.source import TreeSource

    listed = None if names is None else in_order(names)

    try:
        status = path.stat(follow_symlinks=False)
    except OSError as error:
        raise NotFoundError(f"cannot read {str(path)!r}: {error.strerror}") from error
    if stat.S_ISDIR(status.st_mode):
        return TreeSource(Root(path), (), tree, listed), tree
    if stat.S_ISBLK(status.st_mode):
        return DeviceSource(path), replace(tree, compare=True)
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISLNK(status.st_mode):
        raise UsageError(f"{str(path)!r} is no file, tree or disk; what it yields can be sent as a stream")
    absolute = _absolute(path)
    return TreeSource(Root(absolute.parent), (os.fsencode(absolute.name),), tree, listed), tree


def _absolute(path: Path) -> Path:
    """Without following a symlink, which is sent or replaced itself."""
    return Path(os.path.abspath(path))  # noqa: PTH100  (resolve() follows)


def _remote_path(text: str, own_name: bytes | None) -> bytes:
    """EXPORT/PATH as bytes, the source's own name put inside where PATH is empty or ends in a slash."""
    path = os.fsencode(text)
    inside = path.endswith(b"/") or b"/" not in path
    path = path.rstrip(b"/")
    if not path:
        raise UsageError("name an export at the peer: PEER:EXPORT/PATH (`dwcp ls PEER:` lists its exports)")
    if inside and own_name is not None:
        path += b"/" + own_name
    check_relative(path)
    return path


def _destination(text: str, remote: bytes) -> tuple[Path, tuple[bytes, ...]]:
    inside = text.endswith("/") or Path(text).name in ("", "..") or text == "."
    base = Path(text)
    if inside:
        name = remote.rpartition(b"/")[2]
        return base, (name,)
    absolute = _absolute(base)
    return absolute.parent, (os.fsencode(absolute.name),)
