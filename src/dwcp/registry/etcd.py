"""The registry in an etcd cluster (v3 API).

Every call is bounded. A read that fails is asked again of the next member. A write is sent once: where its answer is
lost it is unknown, and told by what is read afterwards; it is sent again only where that cannot make it twice (the key
has still the version that it had: no key ever has a version again).

All keys are below `dwcp/`, so that an etcd may be shared.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import grpc
import grpc.aio
from aetcd import rpc

from dwcp.registry.channels import LOOK, Access, Channels, full
from dwcp.registry.interface import (
    Entry,
    Lease,
    LeaseLostError,
    Member,
    RegistryError,
    Snapshot,
    Trouble,
    UnknownOutcomeError,
)

PREFIX = "dwcp/"
MAX_ENTRIES = 20_000
"""Keys in one snapshot: a thousand nodes and ten thousand workloads."""
PAUSE = 0.05
"""Seconds between two tries of a read, more or less by half."""
_LOST = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNKNOWN,  # "context deadline exceeded", of a member that waits for the others
)
"""What says nothing of whether a write was made."""
_LEADER = (("hasleader", "true"),)
"""Metadata by which a member that loses its leader ends a watch, instead of being silent (etcd's clientv3)."""

T = TypeVar("T")
Do = Callable[[grpc.aio.Channel, tuple[tuple[str, str], ...], float], Awaitable[T]]


class EtcdRegistry:
    """For one event loop."""

    def __init__(self, access: Access, timeout: float, cluster: str = "") -> None:
        """`timeout`: seconds for one call, with all its tries; `cluster`: what `open` gave earlier, and must again."""
        self._access = access
        self._timeout = timeout
        self._channels = Channels(access)
        self._channels.cluster = int(cluster, 16) if cluster else None
        self._token = ""

    async def open(self) -> str:
        status = await self._try("connect", lambda channel, _, left: self._status(channel, left))
        self._channels.cluster = int(status.header.cluster_id)
        return f"{self._channels.cluster:016x}"

    async def close(self) -> None:
        await self._channels.close()

    # -- leases --------------------------------------------------------------------------------------------------------

    async def grant(self, seconds: float) -> Lease:
        # a lease whose answer was lost holds nothing, and expires
        request = rpc.LeaseGrantRequest(TTL=math.ceil(seconds))
        answer = await self._ask("take a lease", request, lambda channel: rpc.LeaseStub(channel).LeaseGrant)
        return Lease(answer.ID, float(answer.TTL))

    async def keep(self, lease: Lease) -> float:
        async def once(channel: grpc.aio.Channel, metadata: Any, left: float) -> Any:
            call = rpc.LeaseStub(channel).LeaseKeepAlive(metadata=metadata, timeout=left)
            await call.write(rpc.LeaseKeepAliveRequest(ID=lease.id))
            answer = await call.read()
            call.cancel()
            if answer is grpc.aio.EOF:
                raise _Lost("the member ended the stream")
            return answer

        answer = await self._try("keep the lease", once)
        if answer.TTL <= 0:
            raise LeaseLostError("the lease has expired: this node was silent, or cut off, for too long")
        return float(answer.TTL)

    async def revoke(self, lease: Lease) -> None:
        request = rpc.LeaseRevokeRequest(ID=lease.id)
        try:
            await self._ask("end the lease", request, lambda channel: rpc.LeaseStub(channel).LeaseRevoke)
        except LeaseLostError:
            # as was wanted
            return

    # -- keys ----------------------------------------------------------------------------------------------------------

    async def get(self, key: str) -> Entry | None:
        answer = await self._ask("read", rpc.RangeRequest(key=_raw(key)), lambda channel: rpc.KVStub(channel).Range)
        return _entry(answer.kvs[0]) if answer.kvs else None

    async def snapshot(self, prefix: str) -> Snapshot:
        request = rpc.RangeRequest(key=_raw(prefix), range_end=_end(prefix), limit=MAX_ENTRIES)
        answer = await self._ask("read", request, lambda channel: rpc.KVStub(channel).Range)
        if answer.more:
            raise RegistryError(f"etcd has more than {MAX_ENTRIES} keys below {PREFIX}{prefix}; remove what is unknown")
        entries = map(_entry, answer.kvs)
        return Snapshot(answer.header.revision, {entry.key: entry for entry in entries})

    async def swap(self, key: str, version: int, value: bytes, lease: Lease | None = None) -> Entry | None:
        put = rpc.PutRequest(key=_raw(key), value=value, lease=lease.id if lease is not None else 0)
        request = _transaction(key, version, rpc.RequestOp(request_put=put))
        asked_again = False
        while True:
            try:
                answer = await self._send(request)
            except _Lost as lost:
                found = await self._after_loss(key, lost)
                if found is not None and found.value == value and found.version > version:
                    return found
                if found is None or found.version != version:
                    raise UnknownOutcomeError(
                        f"whether {key} was written is not known: the answer was lost ({lost}), and it is another now"
                    ) from lost
                asked_again = True
                continue
            if answer.succeeded:
                revision = answer.header.revision
                token = answer.responses[0].response_put.prev_kv.create_revision
                return Entry(key, value, revision, token if version else revision)
            kvs = answer.responses[0].response_range.kvs
            found = _entry(kvs[0]) if kvs else None
            if not asked_again:
                return None
            if found is None or found.value != value:
                # the first one may have been made after it was looked for, and overwritten since
                raise UnknownOutcomeError(f"whether {key} was written is not known: the first answer was lost")
            return found

    async def remove(self, key: str, version: int) -> bool:
        request = _transaction(key, version, rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=_raw(key))))
        asked_again = False
        while True:
            try:
                answer = await self._send(request)
            except _Lost as lost:
                found = await self._after_loss(key, lost)
                if found is None or found.version != version:
                    raise UnknownOutcomeError(
                        f"who removed {key} is not known: the answer was lost ({lost}), and it is gone or another now"
                    ) from lost
                asked_again = True
                continue
            if not answer.succeeded and asked_again:
                raise UnknownOutcomeError(f"who removed {key} is not known: the first answer was lost")
            return bool(answer.succeeded)

    async def watch(self, prefix: str, after: int) -> AsyncIterator[int]:
        used, channel = self._channels.current, self._channels.another()
        create = rpc.WatchCreateRequest(key=_raw(prefix), range_end=_end(prefix), start_revision=after + 1)
        try:
            raw = await channel.verified(self._channels.cluster, min(LOOK, self._timeout))
            call = rpc.WatchStub(raw).Watch(metadata=(*self._metadata(), *_LEADER))
            try:
                await call.write(rpc.WatchRequest(create_request=create))
                while (answer := await call.read()) is not grpc.aio.EOF:
                    if answer.canceled:
                        break
                    if answer.events:
                        yield answer.header.revision
            finally:
                call.cancel()
        except grpc.aio.AioRpcError as error:
            self._channels.give_up(used, self._timeout)
            ended = RegistryError(f"etcd at {channel.endpoint} ended a watch: {_said(error)}")
            raise self._named(error) or ended from error
        finally:
            await channel.close()
        self._channels.give_up(used, self._timeout)
        raise RegistryError(f"etcd at {channel.endpoint} ended a watch")

    async def members(self) -> list[Member]:
        return await self._channels.members()

    async def voters(self) -> int:
        answer = await self._ask(
            "list its members", rpc.MemberListRequest(), lambda channel: rpc.ClusterStub(channel).MemberList
        )
        return sum(not member.isLearner for member in answer.members)

    # -- calls ---------------------------------------------------------------------------------------------------------

    async def _ask(self, what: str, request: Any, method: Callable[[grpc.aio.Channel], Any]) -> Any:
        """A call that may be made twice."""

        async def once(channel: grpc.aio.Channel, metadata: Any, left: float) -> Any:
            return await method(channel)(request, metadata=metadata, timeout=left)

        return await self._try(what, once)

    async def _send(self, request: Any) -> Any:
        """A write, once. Raises _Lost where nobody knows what became of it."""

        async def once(channel: grpc.aio.Channel, metadata: Any, left: float) -> Any:
            return await rpc.KVStub(channel).Txn(request, metadata=metadata, timeout=left)

        return await self._try("write", once, tries=1)

    async def _after_loss(self, key: str, lost: _Lost) -> Entry | None:
        try:
            return await self.get(key)
        except RegistryError as error:
            raise UnknownOutcomeError(f"whether {key} was written is not known: {error}", error.trouble) from lost

    async def _try(self, what: str, do: Do[T], tries: int = 0) -> T:
        """Asks members in turn until one answers, for as long as a call may take; `tries`: no more often. Raises
        RegistryError, and _Lost where `tries` is given."""
        deadline = time.monotonic() + self._timeout
        attempt = max(0.25, self._timeout / (len(self._channels) + 1))
        authenticated = False
        while True:
            channel = self._channels.current
            left = min(attempt, max(0.05, deadline - time.monotonic()))
            sent = False
            try:
                raw = await channel.verified(self._channels.cluster, left)
                if self._access.user and not self._token:
                    await self._authenticate(raw, left)
                    authenticated = True
                sent = True
                return await do(raw, self._metadata(), left)
            except (grpc.aio.AioRpcError, grpc.aio.UsageError, _Lost) as error:
                # UsageError: another call has given the channel up meanwhile
                refused = self._named(error) if isinstance(error, grpc.aio.AioRpcError) else None
                if refused is not None and refused.trouble is Trouble.CREDENTIALS and self._token and not authenticated:
                    # a token ends after some minutes, and with the member that made it
                    self._token = ""
                    continue
                if refused is not None:
                    raise refused from error
                lost: Exception = error
            except RegistryError as error:
                if error.trouble in (Trouble.CERTIFICATE, Trouble.CREDENTIALS):
                    # files of ours that cannot be read
                    raise
                # this member cannot be used; another one may
                lost = error
            self._channels.give_up(channel, self._timeout)
            if tries and sent:
                raise _Lost(_said(lost)) from lost
            if time.monotonic() >= deadline:
                raise await self._channels.diagnosis(what) from lost
            # not a secret: it only keeps nodes from asking in step
            await asyncio.sleep(PAUSE * random.uniform(0.5, 1.5))  # noqa: S311

    async def _status(self, channel: grpc.aio.Channel, left: float) -> Any:
        return await rpc.MaintenanceStub(channel).Status(rpc.StatusRequest(), timeout=left)

    async def _authenticate(self, channel: grpc.aio.Channel, left: float) -> None:
        password = await asyncio.to_thread(_password, self._access.password_file)
        request = rpc.AuthenticateRequest(name=self._access.user, password=password)
        self._token = (await rpc.AuthStub(channel).Authenticate(request, timeout=left)).token

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return (("token", self._token),) if self._token else ()

    def _named(self, error: grpc.aio.AioRpcError) -> RegistryError | None:
        """What etcd says no with; None where it has not said anything for sure."""
        code, said = error.code(), _said(error)
        if code in _LOST:
            return None
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            return full() if "space" in said else RegistryError(f"etcd is busy: {said}", Trouble.SLOW)
        if code is grpc.StatusCode.NOT_FOUND and "lease" in said:
            return LeaseLostError("the lease has expired: this node was silent, or cut off, for too long")
        if (
            code in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED)
            or "auth" in said
            or "user name" in said
        ):
            return RegistryError(
                f"etcd refuses this node ({said}); correct consensus.user and password_file, or grant the user "
                f"reading and writing below {PREFIX}",
                Trouble.CREDENTIALS,
            )
        return RegistryError(f"etcd says: {said} ({code.name.lower()})")


class _Lost(Exception):
    """Nobody knows what became of a write."""


def _password(file: str) -> str:
    try:
        return Path(file).read_text().rstrip("\n")
    except OSError as error:
        raise RegistryError(
            f"cannot read {file}: {error.strerror}; correct consensus.password_file", Trouble.CREDENTIALS
        ) from error


def _said(error: BaseException) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return str(error.details() or error.code().name.lower())
    return str(error) or type(error).__name__


def _raw(key: str) -> bytes:
    return (PREFIX + key).encode()


def _end(prefix: str) -> bytes:
    """The first key after all that begin with it."""
    raw = _raw(prefix)
    return raw[:-1] + bytes([raw[-1] + 1])


def _entry(kv: Any) -> Entry:
    return Entry(kv.key.decode().removeprefix(PREFIX), kv.value, kv.mod_revision, kv.create_revision)


def _transaction(key: str, version: int, then: Any) -> Any:
    """Where the key has that version (0: does not exist) `then`, else reads it."""
    raw = _raw(key)
    compare = rpc.Compare(result=rpc.Compare.EQUAL, target=rpc.Compare.MOD, key=raw, mod_revision=version)
    if then.HasField("request_put"):
        then.request_put.prev_kv = True
    otherwise = rpc.RequestOp(request_range=rpc.RangeRequest(key=raw))
    return rpc.TxnRequest(compare=[compare], success=[then], failure=[otherwise])
