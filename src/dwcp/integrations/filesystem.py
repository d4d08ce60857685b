"""Peers as a file system of fsspec: `dwcp://PEER/EXPORT/PATH`, for pandas, xarray, Dask, PyTorch and whatever else
opens files by it. docs/library.md tells what it can do.

fsspec finds the class by the entry point `fsspec.specs`, and makes the methods without an underscore from those here.
"""

from __future__ import annotations

import asyncio
import datetime
import os
import stat
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fsspec.asyn import AsyncFileSystem
from fsspec.callbacks import DEFAULT_CALLBACK
from fsspec.utils import isfilelike

from dwcp.config import Config, default_files, load_config
from dwcp.errors import IntegrityError, TemporaryError
from dwcp.integrations.files import Outgoing, RemoteFile
from dwcp.integrations.translation import BY_CONTENT, Info, entry_of, info_of, os_errors, reporting
from dwcp.store.peers import with_added
from dwcp.transfer.client import Peer, open_peer
from dwcp.transfer.remote_files import RemoteEntry

BY_TRANSFER = 64 * 1024 * 1024
"""Bytes of a range from which on the file is got by a transfer, on many streams, if the range is most of it: a transfer
costs a handshake, which is some 1% of what so much takes at 1 Gbit/s over a round trip of 5 ms."""

ConfigFiles = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


class DwcpFileSystem(AsyncFileSystem):
    """The first part of a path names a peer, the second one an export of it.

    A name shows the old content or all of the new one, verified. Directories above a file are made. Nothing is cached
    but what a file that is open has read ahead.
    """

    protocol = "dwcp"
    root_marker = ""

    def __init__(self, config: ConfigFiles | Config | None = None, **options: Any) -> None:
        """`config`: files of the node's configuration, as of `dwcp --config`, or what `dwcp.load_config` has made of
        them; the usual ones without. `options`: of fsspec's AsyncFileSystem."""
        super().__init__(config=config, **options)
        self._config = config
        self._peers: dict[str, Peer] = {}
        self._opening: dict[str, asyncio.Lock] = {}
        weakref.finalize(self, _leave, self._peers, os.getpid())

    def close(self) -> None:
        """Ends the sessions with peers. The next use begins others."""
        _leave(self._peers, os.getpid())

    # -- looking -------------------------------------------------------------------------------------------------------

    async def _info(self, path: str, **kwargs: Any) -> Info:
        path = self._strip_protocol(path)
        name, _, remote = path.partition("/")
        if not remote:
            if name and name not in await self._known_peers():
                with os_errors(path):
                    # says what is wrong with it
                    await self._peer(name)
            return {"name": path, "size": 0, "type": "directory"}
        with os_errors(path):
            peer = await self._peer(name)
            return info_of(path, await peer.stat(remote))

    async def _ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Info] | list[str]:
        path = self._strip_protocol(path)
        name, _, remote = path.partition("/")
        if name:
            with os_errors(path):
                peer = await self._peer(name)
                found = await self._entries(peer, path, remote)
        else:
            found = [{"name": known, "size": 0, "type": "directory"} for known in await self._known_peers()]
        return found if detail else [info["name"] for info in found]

    async def _entries(self, peer: Peer, path: str, remote: str) -> list[Info]:
        entries = await peer.ls(remote)
        own = remote.rpartition("/")[2]
        # a file's listing is itself, and so may be that of a directory with one file
        if [entry.name for entry in entries] == [own] and entries[0].kind not in ("dir", "export"):
            itself = await peer.stat(remote)
            if itself.kind != "dir":
                return [info_of(path, itself)]
        return [info_of(f"{path}/{entry.name}", entry) for entry in entries]

    def modified(self, path: str) -> datetime.datetime:
        """When the content was last changed, in UTC."""
        return datetime.datetime.fromtimestamp(self.info(path)["mtime_ns"] / 1e9, datetime.UTC)

    # -- reading -------------------------------------------------------------------------------------------------------

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        autocommit: bool = True,
        cache_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> RemoteFile:
        if mode == "ab":
            raise NotImplementedError(f"cannot append to {path}: a peer replaces whole files")
        if mode == "xb" and self.exists(path):
            raise FileExistsError(f"{path} exists")
        if mode == "rb" and "size" not in kwargs:
            info = self.info(path)
            _file_or_raise(path, info)
            kwargs["details"] = info
        return RemoteFile(self, path, mode, block_size, autocommit=autocommit, cache_options=cache_options, **kwargs)

    async def _cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        start = start or 0
        if start >= 0 and end is not None and end >= 0 and end - start < BY_TRANSFER:
            with os_errors(path):
                peer, remote = await self._locate(path)
                return await peer.read(remote, start, max(0, end - start))
        info = await self._info(path)
        first, last, _ = slice(start, end).indices(info["size"])
        return await self._read_range(path, first, last, info)

    async def _read_range(self, path: str, start: int, end: int, info: Info) -> bytes:
        """Of the state of the file that `info` tells of. Raises TemporaryError where it has changed."""
        _file_or_raise(path, info)
        size = max(0, end - start)
        with os_errors(path):
            peer, remote = await self._locate(path)
            if size >= max(BY_TRANSFER, info["size"] // 2):
                return await _transferred(peer, remote, start, size, entry_of(info))
            return await peer.read(remote, start, size, unchanged=entry_of(info))

    async def _get_file(self, rpath: str, lpath: Any, callback: Any = DEFAULT_CALLBACK, **kwargs: Any) -> None:
        """`lpath`: a local path, or a file that is open. What is there already is not sent again."""
        info = await self._info(rpath)
        if info["type"] == "directory":
            await asyncio.to_thread(os.makedirs, lpath, exist_ok=True)
            return
        _file_or_raise(rpath, info)
        with os_errors(rpath):
            peer, remote = await self._locate(rpath)
            if isfilelike(lpath):
                result = await peer.get(remote, lpath, on_progress=reporting(callback))
            else:
                target = await asyncio.to_thread(_place, Path(lpath))
                result = await peer.get(remote, target, tree=BY_CONTENT, on_progress=reporting(callback))
                await asyncio.to_thread(_state_of, target)
        callback.set_size(result.bytes)
        callback.absolute_update(result.bytes)

    # -- writing -------------------------------------------------------------------------------------------------------

    async def _put_file(
        self, lpath: str, rpath: str, callback: Any = DEFAULT_CALLBACK, mode: str = "overwrite", **kwargs: Any
    ) -> None:
        # raises FileNotFoundError; a link counts for what it leads to
        source = await asyncio.to_thread(Path(lpath).resolve, strict=True)
        if await asyncio.to_thread(source.is_dir):
            await self._makedirs(rpath, exist_ok=True)
            return
        if mode == "create" and await self._exists(rpath):
            raise FileExistsError(f"{rpath} exists")
        with os_errors(rpath):
            peer, remote = await self._locate(rpath)
            result = await peer.send(source, remote, tree=BY_CONTENT, on_progress=reporting(callback))
        callback.set_size(result.bytes)
        callback.absolute_update(result.bytes)

    async def _pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        with Outgoing() as outgoing:
            await asyncio.to_thread(outgoing.write, value)
            await asyncio.to_thread(outgoing.finish)
            await self._put_file(str(outgoing.path), path, mode=mode)

    async def _mkdir(self, path: str, create_parents: bool = True, **kwargs: Any) -> None:
        path = self._strip_protocol(path)
        if not create_parents and not await self._exists(self._parent(path)):
            raise FileNotFoundError(f"{self._parent(path)} does not exist")
        await self._makedirs(path)

    async def _makedirs(self, path: str, exist_ok: bool = False) -> None:
        """By sending an empty directory, above which a peer makes what is missing."""
        path = self._strip_protocol(path)
        try:
            info = await self._info(path)
        except FileNotFoundError:
            with os_errors(path), tempfile.TemporaryDirectory(prefix="dwcp-") as directory:
                peer, remote = await self._locate(path)
                empty = Path(directory, "empty")
                # with the permissions that the user's umask gives to a new directory
                await asyncio.to_thread(empty.mkdir)
                await peer.send(empty, remote)
            return
        if not exist_ok or info["type"] != "directory":
            raise FileExistsError(f"{path} exists")

    # -- what no peer does ---------------------------------------------------------------------------------------------

    async def _rm_file(self, path: str, **kwargs: Any) -> None:
        raise _cannot("remove", path)

    async def _cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        raise _cannot("copy", path1)

    async def _mv_file(self, path1: str, path2: str) -> None:
        raise _cannot("move", path1)

    def rmdir(self, path: str) -> None:
        """Raises NotImplementedError."""
        raise _cannot("remove", path)

    # -- peers ---------------------------------------------------------------------------------------------------------

    async def _locate(self, path: str) -> tuple[Peer, str]:
        """The peer of a path, and what it calls it: EXPORT/PATH. Raises as `connect`; IsADirectoryError for a path that
        ends before that."""
        path = self._strip_protocol(path)
        name, _, remote = path.partition("/")
        if "/" not in remote:
            raise IsADirectoryError(f"{path!r} names no file: a path is PEER/EXPORT/PATH")
        return await self._peer(name), remote

    async def _peer(self, name: str) -> Peer:
        async with self._opening.setdefault(name, asyncio.Lock()):
            peer = self._peers.get(name)
            if peer is None:
                config = await asyncio.to_thread(self._configuration)
                peer = self._peers[name] = await open_peer(name, config=config)
            return peer

    async def _known_peers(self) -> list[str]:
        config = await asyncio.to_thread(lambda: with_added(self._configuration()))
        return sorted(name for name, peer in config.peers.items() if peer.address is not None)

    def _configuration(self) -> Config:
        config = self._config
        if isinstance(config, Config):
            return config
        if config is None:
            return load_config(default_files(os.environ), os.environ)
        files = [config] if isinstance(config, str | os.PathLike) else config
        return load_config([Path(file) for file in files], os.environ)


async def _transferred(peer: Peer, remote: str, start: int, size: int, entry: RemoteEntry) -> bytes:
    with tempfile.TemporaryDirectory(prefix="dwcp-") as directory:
        target = Path(directory, "content")
        await peer.get(remote, target)
        if await asyncio.to_thread(_state_of, target) != (entry.size, entry.mtime_ns):
            raise TemporaryError(f"{remote} changed while it was read; open it again")
        return await asyncio.to_thread(_read_local, target, start, size)


def _read_local(path: Path, start: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(size)


def _place(path: Path) -> Path:
    """Where a file has to go: what a link leads to, as for everybody who writes one; directories above it are made."""
    target = path.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def _state_of(target: Path) -> tuple[int, int]:
    """(size, mtime_ns) of a file that was got. A transfer brings whatever is at the peer by then: of a link nothing is
    left, so that nobody follows it. Raises IntegrityError."""
    status = target.lstat()
    if stat.S_ISLNK(status.st_mode):
        target.unlink()
    if not stat.S_ISREG(status.st_mode):
        raise IntegrityError(f"the peer sent something else than a file for {target}")
    return status.st_size, status.st_mtime_ns


def _file_or_raise(path: str, info: Info) -> None:
    if info["type"] == "directory":
        raise IsADirectoryError(f"{path} is a directory")
    if info["type"] != "file":
        raise PermissionError(f"{path} is no regular file, and nothing else is read; links are not followed")


def _cannot(what: str, path: str) -> NotImplementedError:
    return NotImplementedError(
        f"cannot {what} {path}: peers do not offer that; `dwcp send --delete` brings a target to what its source is"
    )


def _leave(peers: dict[str, Peer], process: int) -> None:
    if process != os.getpid():
        # the sessions are those of the process that this one was forked from
        return
    while peers:
        peers.popitem()[1].leave()
