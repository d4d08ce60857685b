"""Which device RDMA goes over and whether it is there, by sysfs alone: a look costs microseconds and loads nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SYSFS = Path("/sys/class")
SHARED_MEMORY = "shm"
WORKING = ("up", "unknown")
"""Of operstate (linux/Documentation/networking/operstates.rst): loopback and tunnels never say more than unknown."""


@dataclass(frozen=True, slots=True)
class RdmaDevice:
    """An InfiniBand or RoCE device and its port. To try the same code without one, UCX can be given a network
    interface, which it drives with its own TCP, or `shm`, memory that processes of one machine share."""

    name: str
    port: int = 1
    sysfs: Path = SYSFS

    def __str__(self) -> str:
        return f"{self.name} port {self.port}" if self._is_rdma else self.name

    @property
    def _is_rdma(self) -> bool:
        return self._infiniband.exists()

    @property
    def _infiniband(self) -> Path:
        return self.sysfs / "infiniband" / self.name

    def problem(self) -> str | None:
        """Why it cannot be used now, as a sentence; None where it can."""
        if self.name == SHARED_MEMORY:
            return None
        if self._is_rdma:
            state = _read(self._infiniband / "ports" / str(self.port) / "state")
            if state is None:
                return f"RDMA device not found: {self.name} has no port {self.port}"
            # linux/drivers/infiniband/core/sysfs.c writes "4: ACTIVE"
            return None if state.startswith("4:") else f"RDMA device not found: {self} is {state.partition(': ')[2]}"
        state = _read(self.sysfs / "net" / self.name / "operstate")
        if state is None:
            return f"RDMA device not found: {self.name}"
        return None if state in WORKING else f"RDMA device not found: {self.name} is {state}"

    def options(self) -> dict[str, str]:
        """What UCX has to be told (UCX_TLS and UCX_NET_DEVICES of `ucx_info -c`, without their prefix)."""
        if self.name == SHARED_MEMORY:
            return {"TLS": "posix"}
        if self._is_rdma:
            return {"TLS": "ib", "NET_DEVICES": f"{self.name}:{self.port}"}
        return {"TLS": "tcp", "NET_DEVICES": self.name}

    @property
    def detects_failure(self) -> bool:
        """Whether UCX can tell that the other end is gone; not in shared memory ("no peer failure handler")."""
        return self.name != SHARED_MEMORY


def _read(file: Path) -> str | None:
    try:
        return file.read_text().strip()
    except OSError:
        return None
