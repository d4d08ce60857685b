"""`dwcp workload`, `dwcp jobs` and their endpoints, with two managers that run."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from dwcp.config import load_config
from dwcp.config.workloads import WorkloadSection
from dwcp.errors import ConfigError, NotFoundError, UsageError
from dwcp.store.workloads import add_workload, added_workloads, remove_workload, with_workloads
from dwcp.testing.lab import Lab
from tests.processes import run_dwcp
from tests.support import make_tree, wait_until


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    settings = {"jobs": {"backoff": "50ms", "max_backoff": "100ms", "retries": 1}}
    with Lab.up(tmp_path_factory.mktemp("lab") / "lab", 2, settings) as made:
        yield made


@pytest.fixture
def source(tmp_path: Path) -> Path:
    make_tree(tmp_path / "db")
    return tmp_path / "db"


def dwcp(lab: Lab, *arguments: str | Path, code: int = 0) -> str:
    """What the command prints; `code`: what it has to end with."""
    command, verb, *rest = arguments
    done = run_dwcp(command, verb, "--config", lab.nodes[0].config_file, *rest)
    assert done.returncode == code, done.stdout + done.stderr
    return str(done.stdout + done.stderr)


def ask(
    lab: Lab, method: str, path: str, body: Any = None, *, token: str = "", headers: dict[str, str] | None = None
) -> tuple[int, Any]:
    host, port = lab.nodes[0].http_url.removeprefix("http://").split(":")
    sent = {"Host": f"localhost:{port}", **({"Authorization": f"Bearer {token}"} if token else {}), **(headers or {})}
    connection = HTTPConnection(host, int(port), timeout=20)
    try:
        connection.request(method, path, body=json.dumps(body) if body is not None else None, headers=sent)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def token(lab: Lab) -> str:
    return (lab.nodes[0].directory / "state" / "identity" / "api-token").read_text().strip()


def known(lab: Lab, name: str) -> bool:
    """The manager has taken it over."""
    return any(found["name"] == name for found in ask(lab, "GET", "/workloads")[1])


def done(lab: Lab, name: str) -> bool:
    jobs = [job for job in ask(lab, "GET", "/jobs")[1] if job["workload"] == name]
    return bool(jobs) and all(job["state"] == "done" for job in jobs)


def test_a_workload_from_its_declaration_to_its_end(lab: Lab, source: Path, tmp_path: Path) -> None:
    text = dwcp(lab, "workload", "add", "db", source, "node2:inbox/db", "--keep", "last 5, daily 7", "--max-age", "1h")
    assert "workload db is added" in text
    assert "takes it over" in text
    wait_until(lambda: known(lab, "db"), "the manager knows it")
    assert "never sent" in dwcp(lab, "workload", "list")
    assert "send" in dwcp(lab, "workload", "run", "db")
    wait_until(lambda: done(lab, "db"), "it is sent")
    first = json.loads(dwcp(lab, "workload", "versions", "db", "--json"))
    (source / "small").write_text("changed")
    dwcp(lab, "workload", "run", "db")
    wait_until(lambda: len(dwcp(lab, "workload", "versions", "db").splitlines()) == 2, "there are two versions")
    dwcp(lab, "workload", "restore", "db", tmp_path / "old", "--version", first["id"])
    dwcp(lab, "workload", "restore", "node2:inbox/db", tmp_path / "new")
    assert (tmp_path / "old" / "small").read_text() == "hello\n"
    assert (tmp_path / "new" / "small").read_text() == "changed"
    assert "exists" in dwcp(lab, "workload", "restore", "db", tmp_path / "new", code=2)
    assert "no version" in dwcp(lab, "workload", "restore", "db", tmp_path / "x", "--version", "no", code=3)
    assert "no target at node9" in dwcp(lab, "workload", "restore", "db", tmp_path / "x", "--from", "node9", code=3)
    assert "verify" in dwcp(lab, "workload", "verify", "db")
    wait_until(lambda: done(lab, "db"), "it is verified")
    shown = dwcp(lab, "workload", "show", "db")
    assert "last 5, daily 7" in shown
    assert "version 2" in shown
    dwcp(lab, "workload", "pause", "db")
    wait_until(lambda: "paused" in dwcp(lab, "workload", "list"), "it is paused")
    dwcp(lab, "workload", "resume", "db")
    assert "there is a workload 'db' already" in dwcp(lab, "workload", "add", "db", source, "node2:inbox/db", code=2)
    dwcp(lab, "workload", "add", "--replace", "db", source, "node2:inbox/other")
    dwcp(lab, "workload", "rm", "db")
    wait_until(lambda: not known(lab, "db"), "it is forgotten")
    assert (lab.nodes[1].inbox / "db" / "small").exists()
    dwcp(lab, "workload", "rm", "db", code=3)


@pytest.mark.parametrize(
    ("arguments", "text", "code"),
    [
        (["db", "/srv", "node9:inbox/db"], "no peer 'node9'", 3),
        (["d/b", "/srv", "node2:inbox/db"], "cannot be a name", 2),
        (["db", "/srv", "node2:inbox/db", "--every", "soon"], "no duration", 2),
    ],
)
def test_what_cannot_be_added_is_said(lab: Lab, arguments: list[str], text: str, code: int) -> None:
    assert text in dwcp(lab, "workload", "add", *arguments, code=code)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"targets": ["node2"]}, "no target"),
        ({"targets": ["node2:inbox/"]}, "no target"),
        ({"targets": ["b:inbox/x", "b:inbox/x"]}, "named twice"),
        ({"source": "db"}, "pattern"),
        ({"cron": "often"}, "no cron line"),
        ({"keep": "some"}, "no rule"),
        ({"priority": 10}, "less than or equal to 9"),
        ({"bandwidth": "0%"}, "no share"),
        ({"bandwidth": "1Kbit/s"}, "the least"),
        ({"verify_every": "1d"}, "set keep"),
    ],
)
def test_what_cannot_be_meant_is_said(values: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        WorkloadSection.model_validate({"source": "/srv", "targets": ["node2:inbox/db"], **values})


def test_jobs_by_command(lab: Lab, source: Path) -> None:
    number = dwcp(lab, "jobs", "add", source, "node2:inbox/by-command", "--delete").strip()
    wait_until(lambda: "state        done" in dwcp(lab, "jobs", "show", number), "it is done")
    assert (lab.nodes[1].inbox / "by-command" / "small").read_text() == "hello\n"
    assert f"{number:>6} done" in dwcp(lab, "jobs", "list", "--all")
    assert f"{number:>6} done" not in dwcp(lab, "jobs", "list")
    gone = dwcp(lab, "jobs", "add", source / "nothing", "node2:inbox/nothing").strip()
    wait_until(lambda: "parked" in dwcp(lab, "jobs", "list", "--state", "parked"), "it is given up")
    assert "cannot read" in dwcp(lab, "jobs", "list")
    (source / "nothing").write_text("something")
    dwcp(lab, "jobs", "retry", gone)
    wait_until(lambda: (lab.nodes[1].inbox / "nothing").exists(), "the retry sends it")
    wait_until(lambda: "state        done" in dwcp(lab, "jobs", "show", gone), "it is done")
    assert "is done already" in dwcp(lab, "jobs", "cancel", gone, code=2)
    assert "no job 9999" in dwcp(lab, "jobs", "show", "9999", code=3)
    assert "no job is ever" in dwcp(lab, "jobs", "list", "--state", "odd", code=2)
    assert "no peer 'node9'" in dwcp(lab, "jobs", "add", source, "node9:inbox/x", code=3)


def test_what_reads_files_or_forgets_needs_the_token_on_loopback_too(lab: Lab, source: Path) -> None:
    workload = {"name": "web", "source": str(source), "targets": ["node2:inbox/web"]}
    job = {"source": str(source), "target": "node2:inbox/web"}
    for method, path, body in [
        ("POST", "/workloads", workload),
        ("POST", "/jobs", job),
        ("DELETE", "/workloads/x", None),
    ]:
        assert ask(lab, method, path, body)[0] == 401
        assert ask(lab, method, path, body, token="wrong")[0] == 401
        other_site = {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"}
        assert ask(lab, method, path, body, token=token(lab), headers=other_site)[0] == 403
        assert ask(lab, method, path, body, token=token(lab), headers={"Host": "evil.example"})[0] == 403
    assert ask(lab, "POST", "/workloads", workload, token=token(lab))[0] == 201
    assert known(lab, "web")
    assert ask(lab, "POST", "/workloads", workload, token=token(lab))[0] == 400
    assert yaml.safe_load((lab.nodes[0].directory / "state" / "workloads.yaml").read_text()) == {
        "workloads": {"web": {"source": str(source), "targets": ["node2:inbox/web"]}}
    }
    status, jobs = ask(lab, "POST", "/workloads/web/run")
    assert (status, len(jobs)) == (202, 1)
    wait_until(lambda: done(lab, "web"), "it is sent")
    assert ask(lab, "POST", "/workloads/web/verify")[0] == 400
    assert ask(lab, "DELETE", "/workloads/web", token=token(lab))[0] == 200
    assert not known(lab, "web")


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"source": "/srv", "targets": ["node2:inbox/x"]}, "name is missing"),
        ({"name": "x", "source": "srv", "targets": ["node2:inbox/x"]}, "source"),
        ({"name": "x", "source": "/srv", "targets": ["node2:inbox/x"], "before": ["/bin/sh"]}, "not taken over HTTP"),
        ({"name": "x", "source": "/srv", "targets": ["node2:inbox/x"], "odd": 1}, "odd"),
        ({"name": "../x", "source": "/srv", "targets": ["node2:inbox/x"]}, "cannot be a name"),
        ([], "no JSON object"),
        ({"name": "x" * 70_000}, "more than"),
    ],
)
def test_bodies_that_cannot_be_meant_are_refused(lab: Lab, body: Any, text: str) -> None:
    status, answer = ask(lab, "POST", "/workloads", body, token=token(lab))
    assert status == 400
    assert text in answer["message"]


@pytest.mark.parametrize(
    "path", ["/jobs/0", "/jobs/x", "/jobs/99999999999999999999", "/workloads/none", "/workloads/none/versions?target=x"]
)
def test_what_is_not_there_is_404(lab: Lab, path: str) -> None:
    assert ask(lab, "GET", path)[0] == 404


def test_versions_are_listed_with_the_command_that_restores_them(lab: Lab, source: Path, tmp_path: Path) -> None:
    dwcp(lab, "workload", "add", "kept", source, "node2:inbox/kept", "--keep=all")
    wait_until(lambda: known(lab, "kept"), "it is known")
    # the peer's word on what it does not have yet
    assert ask(lab, "GET", "/workloads/kept/versions?target=node2:inbox/kept")[0] == 404
    assert ask(lab, "POST", "/workloads/kept/run")[0] == 202
    wait_until(lambda: done(lab, "kept"), "it is sent")
    status, (version,) = ask(lab, "GET", "/workloads/kept/versions?target=node2:inbox/kept")
    assert status == 200
    assert (version["files"] > 0, version["damaged"], version["checked_at"]) == (True, 0, 0)
    program, *arguments = version["restore"].replace("DST", str(tmp_path / "restored")).split()
    assert program == "dwcp"
    assert "verified" in dwcp(lab, *arguments)
    assert sorted(path.name for path in (tmp_path / "restored").iterdir()) == sorted(p.name for p in source.iterdir())
    assert ask(lab, "GET", "/workloads/kept/versions")[0] == 400
    assert ask(lab, "GET", "/workloads/kept/versions?target=node2:inbox/other")[0] == 404
    other_site = {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"}
    assert ask(lab, "GET", "/workloads/kept/versions?target=node2:inbox/kept", headers=other_site)[0] == 403
    dwcp(lab, "workload", "rm", "kept")


def test_metrics_tell_how_far_behind_a_target_is(lab: Lab, source: Path) -> None:
    workload = {"name": "slow", "source": str(source), "targets": ["node2:inbox/slow"], "max_age": "1h"}
    assert ask(lab, "POST", "/workloads", workload, token=token(lab))[0] == 201

    def metrics() -> str:
        host, port = lab.nodes[0].http_url.removeprefix("http://").split(":")
        connection = HTTPConnection(host, int(port), timeout=20)
        try:
            connection.request("GET", "/metrics")
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    wait_until(lambda: 'dwcp_workload_age_seconds{target="node2:inbox/slow",workload="slow"}' in metrics(), "its age")
    assert 'dwcp_workload_max_age_seconds{workload="slow"} 3600.0' in metrics()
    assert 'dwcp_jobs{state="parked"}' in metrics()
    ask(lab, "DELETE", "/workloads/slow", token=token(lab))


def test_the_configuration_goes_before_what_was_added(tmp_path: Path) -> None:
    def config(**workloads: Any) -> Any:
        (tmp_path / "c.yaml").write_text(
            yaml.safe_dump({"storage": {"state_dir": str(tmp_path)}, "workloads": workloads})
        )
        return load_config([tmp_path / "c.yaml"])

    section = WorkloadSection.model_validate(
        {"source": "/srv/db", "targets": ["b:inbox/db"], "every": "5m", "keep": "last 2", "before": ["/bin/true"]}
    )
    add_workload(config(), "db", section)
    assert with_workloads(config()).workloads == {"db": section}
    assert os.stat(tmp_path / "workloads.yaml").st_mode & 0o777 == 0o600
    other = {"source": "/srv/other", "targets": ["b:inbox/db"]}
    assert with_workloads(config(db=other)).workloads["db"].source == "/srv/other"
    with pytest.raises(UsageError, match="in the configuration"):
        add_workload(config(www=other), "www", section)
    with pytest.raises(UsageError, match="in the configuration"):
        remove_workload(config(www=other), "www")
    with pytest.raises(NotFoundError):
        remove_workload(config(), "www")
    remove_workload(config(), "db")
    assert added_workloads(tmp_path / "workloads.yaml") == {}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("peers: {}", "1:1: peers: only workloads belong into this file"),
        ("workloads: {db: {source: /a, targets: [b:inbox/x], every: 5}}", "every"),
        ("workloads: {db: {source: /a}}", "targets: is missing"),
    ],
)
def test_a_file_of_added_workloads_that_is_wrong_is_said_to_be(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "workloads.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        added_workloads(tmp_path / "workloads.yaml")
    assert any(problem in line for line in caught.value.problems), caught.value.problems
