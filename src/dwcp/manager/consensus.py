"""The component that has this node take part in who owns what."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec

from dwcp.config.model import Consensus
from dwcp.errors import ConfigError
from dwcp.manager.component import Background
from dwcp.ownership.lease import LeaseState
from dwcp.registry.interface import Registry, RegistryError
from dwcp.supervise.health import HEALTHY, Health, Status
from dwcp.workloads.ownership import Ownership


def connector(settings: Callable[[], Consensus]) -> Callable[[str, float], Registry]:
    """Makes the registry that is configured. Raises ConfigError where what it needs is not installed."""
    if find_spec("aetcd") is None or find_spec("grpc") is None:
        raise ConfigError(["consensus.enabled needs the extra: pip install 'dwcp[consensus]'"])

    def connect(cluster: str, seconds: float) -> Registry:
        # what fails is told by us, in words; gRPC's own lines have no place in a manager's log
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        # late: grpc takes a fifth of a second to load, and most nodes never need it
        from dwcp.registry.channels import Access
        from dwcp.registry.etcd import EtcdRegistry

        wanted = settings()
        access = Access(
            wanted.endpoints,
            wanted.ca_file,
            wanted.cert_file,
            wanted.key_file,
            wanted.user,
            wanted.password_file,
        )
        return EtcdRegistry(access, seconds, cluster)

    return connect


class ConsensusComponent(Background):
    """Degraded at the worst while its loop lives: losing consensus stops changes of ownership and nothing else, and a
    restart would mend nothing."""

    name = "consensus"

    def __init__(
        self, ownership: Ownership, settings: Callable[[], Consensus], shared_problems: Callable[[], list[str]]
    ) -> None:
        """`shared_problems`: what is declared for all nodes and cannot be taken by this one."""
        self._ownership = ownership
        self._settings = settings
        self._shared_problems = shared_problems

    async def check(self) -> Health:
        trouble = self._trouble()
        if trouble:
            return Health(Status.UNHEALTHY, f"ownership is not looked after any more: {trouble}")
        status = self._ownership.status
        if status.problem or status.lease is not LeaseState.HELD:
            lost = "no workload changes its owner; transfers go on"
            return Health(Status.DEGRADED, f"{lost}: {status.problem or 'the registry has not been reached yet'}")
        return await self._about_members()

    async def _about_members(self) -> Health:
        try:
            members, voters = await self._ownership.survey()
        except RegistryError as error:
            return Health(Status.DEGRADED, str(error))
        problems = self._shared_problems() + [
            f"{member.endpoint}: {member.problem}" for member in members if member.problem
        ]
        wanted = self._settings().quorum_size
        if voters != wanted:
            problems.append(f"etcd has {voters} voters, and consensus.quorum_size is {wanted}: change one of the two")
        return Health(Status.DEGRADED, "; ".join(problems)) if problems else HEALTHY

    async def _run(self) -> None:
        await self._ownership.run(lambda seconds: self._alive(seconds + self.leeway))
