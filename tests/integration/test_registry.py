"""The registry's contract, kept by etcd and by the one in memory; and what etcd suffers from, by name."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from dwcp.registry.interface import LeaseLostError, Registry, RegistryError, Trouble, UnknownOutcomeError
from dwcp.registry.local import LocalRegistry
from dwcp.testing import etcd
from dwcp.testing.etcd import EtcdCluster
from tests.certificates import Authority, Files

needs_etcd = pytest.mark.skipif(bool(etcd.missing()), reason=etcd.missing())
TIMEOUT = 1.75
Story = Callable[[Registry], Awaitable[Any]]


def etcdctl(cluster: EtcdCluster, *arguments: str) -> str:
    return subprocess.run(
        ["etcdctl", "--endpoints", ",".join(cluster.endpoints), *arguments],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "ETCDCTL_API": "3"},
    ).stdout


def made(endpoints: list[str], cluster: str = "", timeout: float = TIMEOUT, **access: str) -> Registry:
    from dwcp.registry.channels import Access
    from dwcp.registry.etcd import EtcdRegistry

    return EtcdRegistry(Access(endpoints, **access), timeout, cluster)


def tell(registry_of: Callable[[], Registry], story: Story) -> Any:
    async def telling() -> Any:
        registry = registry_of()
        try:
            async with asyncio.timeout(60):
                return await story(registry)
        finally:
            await registry.close()

    return asyncio.run(telling())


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    with EtcdCluster(tmp_path_factory.mktemp("etcd"), 3) as found:
        yield found


@pytest.fixture(params=["local", pytest.param("etcd", marks=needs_etcd)])
def engine(request: pytest.FixtureRequest) -> Callable[[], Registry]:
    if request.param == "local":
        return LocalRegistry
    endpoints = request.getfixturevalue("cluster").endpoints
    return lambda: made(endpoints)


# -- the contract ------------------------------------------------------------------------------------------------------


def test_one_of_two_writers_wins(engine: Callable[[], Registry]) -> None:
    async def story(registry: Registry) -> None:
        await registry.open()
        first = await registry.swap("w/one", 0, b"1")
        assert first is not None
        assert await registry.swap("w/one", 0, b"2") is None
        second = await registry.swap("w/one", first.version, b"3")
        assert second is not None
        assert second.version > first.version
        assert second.token == first.token, "it is the same key still"
        assert await registry.get("w/one") == second
        assert not await registry.remove("w/one", first.version)
        assert await registry.remove("w/one", second.version)
        again = await registry.swap("w/one", 0, b"4")
        assert again is not None
        assert again.token > second.version, "made anew, its token is above all before"
        assert (await registry.snapshot("w/")).entries == {"w/one": again}
        assert await registry.remove("w/one", again.version)

    tell(engine, story)


def test_a_lease_takes_what_is_under_it_with_it(engine: Callable[[], Registry]) -> None:
    async def story(registry: Registry) -> None:
        await registry.open()
        lease = await registry.grant(2)
        assert await registry.keep(lease) > 0
        assert await registry.swap("l/mine", 0, b"x", lease) is not None
        before = await registry.snapshot("l/")
        async with aclosing(registry.watch("l/", before.moment)) as moments:
            told = asyncio.create_task(anext(moments))
            await registry.revoke(lease)
            assert await told > before.moment
        assert (await registry.snapshot("l/")).entries == {}
        with pytest.raises(LeaseLostError):
            await registry.keep(lease)
        with pytest.raises(LeaseLostError):
            await registry.swap("l/mine", 0, b"x", lease)
        await registry.revoke(lease)

    tell(engine, story)


def test_a_lease_that_is_not_kept_expires(engine: Callable[[], Registry]) -> None:
    async def story(registry: Registry) -> None:
        await registry.open()
        lease = await registry.grant(1)
        assert await registry.swap("l/short", 0, b"x", lease) is not None
        for _ in range(400):
            if await registry.get("l/short") is None:
                return
            await asyncio.sleep(0.02)
        raise AssertionError("it is there still")

    tell(engine, story)


# -- what etcd suffers from --------------------------------------------------------------------------------------------


@needs_etcd
def test_a_member_that_dies_is_not_noticed(cluster: EtcdCluster) -> None:
    async def story(registry: Registry) -> None:
        await registry.open()
        for member in cluster.members:
            written = await registry.swap(f"d/{member.name}", 0, member.name.encode())
            member.kill()
            assert await registry.get(f"d/{member.name}") == written
            cluster.start(member)
            await asyncio.to_thread(cluster.await_ready, member)
            assert written is not None
            assert await registry.remove(f"d/{member.name}", written.version)

    tell(lambda: made(cluster.endpoints), story)


@needs_etcd
def test_without_a_quorum_a_write_is_unknown_and_the_reason_named(cluster: EtcdCluster) -> None:
    async def story(registry: Registry) -> None:
        await registry.open()
        for member in cluster.members[:2]:
            member.kill()
        try:
            with pytest.raises(UnknownOutcomeError, match="not known") as unknown:
                await registry.swap("q/key", 0, b"x")
            assert unknown.value.trouble is Trouble.NO_QUORUM
            with pytest.raises(RegistryError, match="no quorum: of 3 members 1 answer"):
                await registry.get("q/key")
        finally:
            for member in cluster.members[:2]:
                cluster.start(member)
            for member in cluster.members[:2]:
                await asyncio.to_thread(cluster.await_ready, member)
        for _ in range(50):
            try:
                found = await registry.get("q/key")
                break
            except RegistryError:
                continue
        if found is not None:
            assert await registry.remove("q/key", found.version)

    tell(lambda: made(cluster.endpoints), story)


@needs_etcd
def test_a_cluster_that_stands_still_is_named(cluster: EtcdCluster) -> None:
    """All members stopped: connections are there, and nothing comes back."""

    async def story(registry: Registry) -> None:
        await registry.open()
        for member in cluster.members:
            member.signal(signal.SIGSTOP)
        try:
            with pytest.raises(RegistryError, match="no etcd answers") as found:
                await registry.get("s/key")
            assert found.value.trouble is Trouble.UNREACHABLE
        finally:
            for member in cluster.members:
                member.signal(signal.SIGCONT)

    tell(lambda: made(cluster.endpoints, timeout=1.0), story)


@needs_etcd
def test_a_member_that_is_cut_off_from_its_leader_is_slow(tmp_path: Path) -> None:
    """The leader stands still: for one election timeout the other knows a leader that does not answer."""
    with EtcdCluster(tmp_path, 2, options=["--election-timeout", "2500"]) as two:

        async def story(registry: Registry) -> None:
            await registry.open()
            members = {member.endpoint: member for member in await registry.members()}
            leader = next(each for each in two.members if members[each.endpoint].is_leader)
            leader.signal(signal.SIGSTOP)
            with pytest.raises(RegistryError, match="etcd is slow, or cut off from its leader") as found:
                await registry.get("s/key")
            assert found.value.trouble is Trouble.SLOW
            leader.signal(signal.SIGCONT)

        tell(lambda: made(two.endpoints, timeout=0.6), story)


@needs_etcd
def test_a_full_database_is_named_and_read(tmp_path: Path) -> None:
    with EtcdCluster(tmp_path, 1, options=["--quota-backend-bytes", str(64 * 1024)]) as small:

        async def story(registry: Registry) -> None:
            await registry.open()
            lease = await registry.grant(10)
            written = await registry.swap("f/first", 0, b"x", lease)
            with pytest.raises(RegistryError, match="etcd's database is full") as found:
                for number in range(100):
                    await registry.swap(f"f/{number}", 0, bytes(16_000))
            assert found.value.trouble is Trouble.FULL
            assert await registry.get("f/first") == written
            assert await registry.keep(lease) > 0, "who has a lease keeps it"
            assert "NOSPACE" in (await registry.members())[0].problem

        tell(lambda: made(small.endpoints), story)


@needs_etcd
def test_another_cluster_is_not_written_to(cluster: EtcdCluster, tmp_path: Path) -> None:
    with EtcdCluster(tmp_path, 1) as other:
        known = tell(lambda: made(cluster.endpoints), lambda registry: registry.open())

        async def story(registry: Registry) -> None:
            with pytest.raises(RegistryError, match=f"and this node's is {known}") as found:
                await registry.swap("o/key", 0, b"x")
            assert found.value.trouble is Trouble.ANOTHER_CLUSTER

        tell(lambda: made(other.endpoints, known), story)
        assert "o/key" not in etcdctl(other, "get", "--prefix", "", "--keys-only")


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EtcdCluster, Authority, Files]]:
    directory = tmp_path_factory.mktemp("tls")
    authority = Authority(directory, "authority")
    server, client = authority.issue("server"), authority.issue("client")
    options = ["--cert-file", str(server.certificate), "--key-file", str(server.key)]
    options += ["--trusted-ca-file", str(authority.file), "--client-cert-auth"]
    with EtcdCluster(directory / "etcd", 1, options=options, scheme="https") as found:
        yield found, authority, client


@needs_etcd
def test_both_ends_show_certificates(secured: tuple[EtcdCluster, Authority, Files], tmp_path: Path) -> None:
    found, authority, client = secured
    good = {
        "ca_file": str(authority.file),
        "cert_file": str(client.certificate),
        "key_file": str(client.key),
    }

    async def works(registry: Registry) -> None:
        await registry.open()
        assert await registry.swap("t/key", 0, b"x") is not None

    tell(lambda: made(found.endpoints, **good), works)
    stranger = Authority(tmp_path, "stranger")
    theirs = stranger.issue("their-client")
    strange = {"cert_file": str(theirs.certificate), "key_file": str(theirs.key)}
    for wrong, reason in (
        ({**good, "ca_file": str(stranger.file)}, "its certificate is not accepted here"),
        ({**good, **strange}, "the TLS handshake fails"),
        ({**good, "ca_file": str(tmp_path / "missing.pem")}, "missing.pem"),
    ):

        async def fails(registry: Registry, reason: str = reason) -> None:
            with pytest.raises(RegistryError, match=reason) as error:
                await registry.open()
            assert error.value.trouble is Trouble.CERTIFICATE

        tell(lambda wrong=wrong: made(found.endpoints, timeout=0.5, **wrong), fails)


@needs_etcd
def test_users_and_passwords(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("right\n")
    wrong = tmp_path / "wrong"
    wrong.write_text("wrong\n")
    with EtcdCluster(tmp_path / "etcd", 1, options=["--auth-token-ttl", "2"]) as found:
        for line in ("user add root:root", "user grant-role root root", "user add dwcp:right", "role add dwcp"):
            etcdctl(found, *line.split())
        etcdctl(found, "role", "grant-permission", "dwcp", "--prefix=true", "readwrite", "dwcp/")
        etcdctl(found, "user", "grant-role", "dwcp", "dwcp")
        etcdctl(found, "auth", "enable")

        async def works(registry: Registry) -> None:
            await registry.open()
            lease = await registry.grant(10)
            assert await registry.swap("u/key", 0, b"x", lease) is not None
            # the member forgets all tokens
            found.members[0].kill()
            found.start(found.members[0])
            await asyncio.to_thread(found.await_ready, found.members[0])
            assert await registry.get("u/key") is not None
            assert await registry.keep(lease) > 0

        async def refused(registry: Registry) -> None:
            with pytest.raises(RegistryError, match="etcd refuses this node") as error:
                await registry.get("u/key")
            assert error.value.trouble is Trouble.CREDENTIALS

        tell(lambda: made(found.endpoints, user="dwcp", password_file=str(password)), works)
        tell(lambda: made(found.endpoints, user="dwcp", password_file=str(wrong)), refused)
        tell(lambda: made(found.endpoints), refused)
