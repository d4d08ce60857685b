"""Every fenced command of the runbooks, in order, on a machine of its own: run, or listed with the reason."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import no_own_network
from tests.runbook.commands import REPORT, Command, File, answers, steps
from tests.runbook.machine import ROOT, Machine, NoMachineError
from tests.runbook.not_run import ACTIONS, INSTALL, SERVICE, reason, unused

OURS = ROOT / "docs" / "runbook.md"
CONTRACT = ROOT.parent / "shared" / "runbook.md"
PAGES = [page for page in (OURS, CONTRACT) if page.exists()]
CONFIG = "/etc/dwcp/config.yaml"
PROFILES = "\ndebug:\n  enabled: true\n"
TOOLS = ("jq", "netstat", "ping", "yamllint", "ss", "ps")
MISSING = [tool for tool in TOOLS if shutil.which(tool) is None]
_REASON = no_own_network() or (f"needs {', '.join(MISSING)} (scripts/install-test-tools.sh)" if MISSING else "")

NOTHING_FOUND = {"sudo netstat -tulpn | grep -E ':(8080|8443|9000)'", "sudo ss -tulpn | grep -E ':(8080|8443|9000) '"}
"""Where grep finding nothing, and so ending with 1, is the good answer: the ports are free before the deployment."""
IN_OTHER_WORDS = {"./scripts/benchmark-dwcp-manager.sh": "health p99\nthroughput, TCP\nCPU, receiver\nmemory, receiver"}
"""An answer that has what is printed as a table; whether the goals are met is for the machine, not for a test."""
CASES = [(page, step) for page in PAGES for step in steps(page)]


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Path, Machine]]:
    """One for each runbook, with what its rollback finds in the backup."""
    if _REASON:
        pytest.skip(_REASON)
    with contextlib.ExitStack() as stack:
        found = {}
        for page in PAGES:
            try:
                found[page] = stack.enter_context(Machine(tmp_path_factory.mktemp(page.parent.name)))
            except NoMachineError as error:
                pytest.skip(str(error))
            found[page].check("cp dwcp-manager /backup/dwcp-manager-v1.9")
        yield found


@pytest.mark.root
@pytest.mark.skipif(bool(_REASON), reason=_REASON)
@pytest.mark.parametrize(("page", "step"), CASES, ids=[f"{page.parent.name}-{step.line}" for page, step in CASES])
def test_command(
    machines: dict[Path, Machine], page: Path, step: Command | File, request: pytest.FixtureRequest
) -> None:
    machine = machines[page]
    if isinstance(step, File):
        # the contract asks for profiles as if they were always there
        machine.write(step.path, step.content + (PROFILES if (page, step.path) == (CONTRACT, CONFIG) else ""))
        if step.path == CONFIG:
            machine.write(f"{step.path}.backup", step.content)
        return
    told = request.config.stash[REPORT]
    if reason(step.text):
        told.append((page, step, reason(step.text)))
        return
    service = SERVICE.match(step.text)
    if service:
        for action in ACTIONS[service[1]]:
            getattr(machine, action)()
        told.append((page, step, "run, by the unit's ExecStart"))
        return
    if INSTALL.match(step.text):
        machine.install()
        told.append((page, step, "run, with the program under test in the place of the archive's"))
        return
    done = machine.run(step.text)
    good = {1} if step.text in NOTHING_FOUND else {0}
    assert done.returncode in good, f"{step.text}\n{done.stdout}{done.stderr}"
    expected = IN_OTHER_WORDS.get(step.text, step.expected)
    assert not expected or answers(done.stdout, expected), f"{step.text}\nexpected {expected}\nfound {done.stdout}"
    told.append((page, step, "run"))


def test_the_table_has_nothing_that_no_runbook_asks_for() -> None:
    if CONTRACT not in PAGES:
        pytest.skip("the operator's contract is not beside this checkout")
    assert unused([step.text for _, step in CASES if isinstance(step, Command)]) == []
