"""Commands of the runbooks that cannot be run in a test, and why. Whatever is not here is run."""

from __future__ import annotations

import re
import shutil

SYSTEMD = "needs systemd as the first process"
JOURNAL = "needs the journal of systemd; the log is the unit's standard output"
PACKAGES = "needs the package archive; scripts/install-test-tools.sh installs what the tests need"
GO = "builds a program in Go; this one is Python, and make builds it"
ENGINE = "needs a container engine; tests/deployments looks at the image"
CLUSTER = "needs a Kubernetes cluster; tests/deployments looks at the manifests"
PROMETHEUS = "needs a Prometheus that runs as a service"
RDMA = "needs RDMA hardware and its tools"
ARCHIVE = "takes minutes; tests/deployments builds and unpacks the archive, the machine has the program under test"

_TABLE: dict[str, str] = {
    r"go (version|mod|build)\b": GO,
    r"cd /home/kp/": GO,
    r"(sudo )?apt-get ": PACKAGES,
    r"ibv_devices\b": RDMA,
    r"rdma link show": RDMA,
    r"(sudo )?systemctl (status|daemon-reload|enable|show)": SYSTEMD,
    r"(sudo )?systemctl reload prometheus": PROMETHEUS,
    r"curl http://localhost:9090/": PROMETHEUS,
    r"(sudo )?journalctl ": JOURNAL,
    r"docker ": ENGINE,
    r"kubectl ": CLUSTER,
    r"curl \S+/metrics \| grep go_memstats": "metrics of Go's runtime; dwcp has process_resident_memory_bytes",
    r"echo 'Environment=\"GOGC": "sets Go's garbage collector; here memory.limit bounds what is kept",
    r"top ": "needs a terminal, and runs until somebody ends it",
    r"make dist": ARCHIVE,
    r"(sudo )?(sysctl -w|modprobe) ": "sets what the kernel of the host has for all",
}
"""Regular expression for the beginning of a command: reason."""
if shutil.which("go") is None:
    _TABLE[r"go tool pprof"] = "needs Go's pprof (scripts/install-test-tools.sh)"

ACTIONS = {
    "start": ("start",),
    "stop": ("stop",),
    "restart": ("stop", "start"),
    "reload": ("reload",),
    "enable --now": ("start",),
}
SERVICE = re.compile(r"(?:sudo )?systemctl (start|stop|restart|reload|enable --now) dwcp-manager$")
"""Run without systemd: the unit's ExecStart as its user, until it answers; and a TERM that it must obey."""


INSTALL = re.compile(r"(?:sudo )?tar -C /opt -xzf dist/dwcp-\*\.tar\.gz$")
"""Run without the archive: the program under test takes the place of what is in it."""


def reason(text: str) -> str:
    """Why a command is not run; empty where it is."""
    if SERVICE.match(text) or INSTALL.match(text):
        return ""
    return next((why for beginning, why in _TABLE.items() if re.match(beginning, text)), "")


def unused(texts: list[str]) -> list[str]:
    """Entries that fit no command: a table that says more than is true."""
    return [beginning for beginning in _TABLE if not any(re.match(beginning, text) for text in texts)]
