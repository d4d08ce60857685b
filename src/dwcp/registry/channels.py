"""Channels to etcd's members: one each, verified before it is used, and what is wrong with those that fail.

The client's generated stubs are aetcd's; channels, TLS, timeouts and the choice of an endpoint are ours.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from aetcd import rpc

from dwcp.registry.interface import Member, RegistryError, Trouble

LOOK = 1.0
"""Seconds that a member gets to say how it is doing."""
DAMAGING = ((3, 5, 0), (3, 5, 1), (3, 5, 2))
"""Versions of etcd that may lose consistency when killed under load (etcd's issue 13766); its authors withdrew them."""
_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3000),
    ("grpc.use_local_subchannel_pool", 1),
)


@dataclass(frozen=True, slots=True)
class Access:
    """How etcd is reached. `endpoints`: `https://HOST:PORT` or `http://HOST:PORT`; the files are PEM, and read again
    for each connection."""

    endpoints: Sequence[str]
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    user: str = ""
    password_file: str = ""


class Channel:
    """To one endpoint."""

    def __init__(self, access: Access, endpoint: str) -> None:
        self.endpoint = endpoint
        scheme, _, self._address = endpoint.partition("://")
        self._access = access
        self._secure = scheme == "https"
        self._channel: grpc.aio.Channel | None = None
        self._verified = self._closed = False

    @property
    def raw(self) -> grpc.aio.Channel:
        """Raises RegistryError where its files cannot be read."""
        if self._closed:
            raise RegistryError(f"the connection to {self.endpoint} was given up", Trouble.UNREACHABLE)
        if self._channel is None:
            self._channel = self._open()
        return self._channel

    async def verified(self, cluster: int | None, seconds: float) -> grpc.aio.Channel:
        """As `raw`, once the member has shown that it is of the cluster and of a version that can be used. Raises
        RegistryError, AioRpcError."""
        if not self._verified:
            self.judge(await self.status(seconds), cluster)
            self._verified = True
        return self.raw

    async def status(self, seconds: float = LOOK) -> Any:
        """What the member says of itself, without asking others. Raises AioRpcError, RegistryError."""
        return await rpc.MaintenanceStub(self.raw).Status(rpc.StatusRequest(), timeout=seconds)

    def judge(self, status: Any, cluster: int | None) -> None:
        version = tuple(int(part) for part in status.version.split(".")[:3] if part.isdigit())
        if version in DAMAGING:
            raise RegistryError(
                f"etcd at {self.endpoint} is version {status.version}, which may lose data; bring it to 3.5.3 or later",
                Trouble.VERSION,
            )
        if cluster is not None and status.header.cluster_id != cluster:
            raise RegistryError(
                f"etcd at {self.endpoint} is of cluster {status.header.cluster_id:016x}, and this node's is "
                f"{cluster:016x}; correct consensus.endpoints, or, where the cluster was made anew on purpose, remove "
                f"the file `cluster` from the state directory",
                Trouble.ANOTHER_CLUSTER,
            )

    async def close(self, grace: float | None = None) -> None:
        """A call that is under way gets `grace` seconds to end."""
        channel, self._channel, self._closed = self._channel, None, True
        if channel is not None:
            await channel.close(grace)

    def _open(self) -> grpc.aio.Channel:
        if not self._secure:
            return grpc.aio.insecure_channel(self._address, options=_OPTIONS)
        access = self._access
        try:
            root = Path(access.ca_file).read_bytes() if access.ca_file else None
            key = Path(access.key_file).read_bytes() if access.key_file else None
            certificate = Path(access.cert_file).read_bytes() if access.cert_file else None
        except OSError as error:
            raise RegistryError(
                f"cannot read {error.filename}: {error.strerror}; correct consensus.ca_file, cert_file and key_file",
                Trouble.CERTIFICATE,
            ) from error
        credentials = grpc.ssl_channel_credentials(root, key, certificate)
        return grpc.aio.secure_channel(self._address, credentials, options=_OPTIONS)

    async def handshake_problem(self) -> str:
        """Why no TLS connection can be made, in OpenSSL's words; empty where that is not the reason."""
        if not self._secure:
            return ""
        host, _, port = self._address.rpartition(":")
        try:
            context = ssl.create_default_context(cafile=self._access.ca_file or None)
            if self._access.cert_file:
                context.load_cert_chain(self._access.cert_file, self._access.key_file or None)
            async with asyncio.timeout(LOOK):
                reader, writer = await asyncio.open_connection(
                    host.strip("[]"), int(port), ssl=context, server_hostname=host.strip("[]")
                )
                try:
                    # with TLS 1.3 a certificate of ours that is refused shows with the first read; HTTP/2's server
                    # speaks after the client's preface
                    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
                    await reader.read(1)
                finally:
                    writer.transport.abort()
        except ssl.SSLCertVerificationError as error:
            return f"its certificate is not accepted here ({error.verify_message})"
        except ssl.SSLError as error:
            return f"the TLS handshake fails ({error.reason or error})"
        except (OSError, TimeoutError):
            return ""
        return ""


class Channels:
    """To all endpoints; one of them is in use, the next one where it fails."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._all = [Channel(access, endpoint) for endpoint in access.endpoints]
        self._closing: set[asyncio.Task[None]] = set()
        # not a secret: the nodes of a cluster should not all ask the same member
        random.shuffle(self._all)
        self.cluster: int | None = None
        """That every member has to be of, once it is known."""

    def __len__(self) -> int:
        return len(self._all)

    @property
    def current(self) -> Channel:
        return self._all[0]

    def another(self) -> Channel:
        """To the member that is in use, for what goes on for long."""
        return Channel(self._access, self.current.endpoint)

    def give_up(self, channel: Channel, grace: float) -> None:
        """Another one is used from now on. Calls of others on it get `grace` seconds."""
        if self._all[0] is not channel:
            return
        self._all = [*self._all[1:], Channel(self._access, channel.endpoint)]
        task = asyncio.create_task(channel.close(grace))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        await asyncio.gather(*self._closing, *(channel.close() for channel in self._all))

    async def members(self) -> list[Member]:
        found = await asyncio.gather(*map(self._look, self._all))
        return sorted(found, key=lambda member: member.endpoint)

    async def _look(self, channel: Channel) -> Member:
        try:
            status = await channel.status()
        except grpc.aio.AioRpcError as error:
            problem = await channel.handshake_problem() or f"it does not answer ({error.code().name.lower()})"
            return Member(channel.endpoint, problem=problem)
        except RegistryError as error:
            return Member(channel.endpoint, problem=str(error))
        try:
            channel.judge(status, self.cluster)
            problem = ""
        except RegistryError as error:
            problem = str(error)
        if any("NOSPACE" in error for error in status.errors):
            problem = "its database has reached its quota (NOSPACE)"
        member_id = status.header.member_id
        return Member(
            channel.endpoint,
            f"{member_id:016x}",
            status.version,
            is_leader=bool(status.leader) and status.leader == member_id,
            has_leader=bool(status.leader),
            size=status.dbSize,
            problem=problem,
        )

    async def diagnosis(self, what: str) -> RegistryError:
        """What is wrong with the cluster as a whole, where `what` could not be done."""
        async with asyncio.TaskGroup() as group:
            looks = [group.create_task(self._look(channel)) for channel in self._all]
            handshakes = [group.create_task(channel.handshake_problem()) for channel in self._all]
        members = [look.result() for look in looks]
        answering = [member for member in members if member.version]
        said = "; ".join(f"{member.endpoint}: {member.problem}" for member in members if member.problem)
        if answering and all("of cluster" in member.problem for member in answering):
            return RegistryError(answering[0].problem, Trouble.ANOTHER_CLUSTER)
        if any("NOSPACE" in member.problem for member in answering):
            return full()
        if answering and not any(member.has_leader for member in answering):
            return RegistryError(
                f"cannot {what}: etcd has no quorum: of {len(members)} members {len(answering)} answer, and none knows "
                f"a leader; start the others, or mend the network between them ({said or 'all answer'})",
                Trouble.NO_QUORUM,
            )
        if answering:
            return RegistryError(
                f"cannot {what} in time: etcd is slow, or cut off from its leader; look at its disk and at the network "
                f"between its members, or raise consensus.election_timeout ({said or 'all members answer'})",
                Trouble.SLOW,
            )
        if any(handshake.result() for handshake in handshakes):
            return RegistryError(
                f"cannot {what}: etcd cannot be trusted, or does not trust this node: {said}; correct "
                f"consensus.ca_file, cert_file and key_file",
                Trouble.CERTIFICATE,
            )
        return RegistryError(
            f"cannot {what}: no etcd answers ({said}); start it, or correct consensus.endpoints", Trouble.UNREACHABLE
        )


def full() -> RegistryError:
    return RegistryError(
        "etcd's database is full (NOSPACE) and takes no writes; compact and defragment it and disarm the alarm "
        "(`etcdctl compact`, `etcdctl defrag`, `etcdctl alarm disarm`), or raise its --quota-backend-bytes",
        Trouble.FULL,
    )
