"""The container and the manifests: hadolint and the API's schemas take them, and they agree with each other."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from dwcp.api.routes import ENDPOINTS
from tests.processes import run_manager

ROOT = Path(__file__).parent.parent.parent
DOCKERFILE = ROOT / "deployments" / "docker" / "dwcp-manager.Dockerfile"
MANIFESTS = ROOT / "deployments" / "kubernetes" / "dwcp-manager"
VERSIONS = ("1.30", "1.33", kubernetes_validate.latest_version())
"""Of the API: an old one that clusters still run, one between, and the newest that there are schemas of."""


def test_hadolint_finds_nothing() -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert hadolint is not None
    done = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_what_the_image_copies_is_there_and_not_ignored() -> None:
    copied = [
        word
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE.read_text(), re.MULTILINE)
        for word in line.split()[:-1]
    ]
    assert all((ROOT / name).exists() for name in copied)
    kept = set(
        re.findall(r"^!(.+)$", DOCKERFILE.with_name(f"{DOCKERFILE.name}.dockerignore").read_text(), re.MULTILINE)
    )
    assert set(copied) == kept


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    if shutil.which("kubectl") is None:
        pytest.skip("needs kubectl, for its kustomize")
    directory = tmp_path_factory.mktemp("kubernetes") / "dwcp-manager"
    shutil.copytree(MANIFESTS, directory)
    (directory / "api-token").write_text("a token\n")
    built = [
        subprocess.run(["kubectl", "kustomize", path], capture_output=True, text=True, check=True).stdout
        for path in (directory, directory / "monitoring")
    ]
    return [document for text in built for document in yaml.safe_load_all(text)]


def one(manifests: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = (manifest for manifest in manifests if manifest["kind"] == kind)
    return found


def test_the_manifests_are_all_there(manifests: list[dict[str, Any]]) -> None:
    assert sorted(manifest["kind"] for manifest in manifests) == [
        "ConfigMap",
        "Namespace",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "Secret",
        "Service",
        "ServiceMonitor",
        "StatefulSet",
    ]
    assert {manifest["metadata"].get("namespace", "dwcp") for manifest in manifests} == {"dwcp"}


@pytest.mark.parametrize("version", VERSIONS)
def test_the_api_takes_them(manifests: list[dict[str, Any]], version: str) -> None:
    """But for the ServiceMonitor, whose schema comes with the Prometheus operator."""
    for manifest in manifests:
        if manifest["kind"] != "ServiceMonitor":
            kubernetes_validate.validate(manifest, version, strict=True)


def test_whoever_selects_finds_the_pods_and_the_service(manifests: list[dict[str, Any]]) -> None:
    template = one(manifests, "StatefulSet")["spec"]["template"]
    labels = template["metadata"]["labels"].items()
    service = one(manifests, "Service")
    selectors = [
        one(manifests, "StatefulSet")["spec"]["selector"]["matchLabels"],
        template["spec"]["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"],
        one(manifests, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        one(manifests, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        service["spec"]["selector"],
    ]
    assert all(selector and selector.items() <= labels for selector in selectors)
    assert one(manifests, "StatefulSet")["spec"]["serviceName"] == service["metadata"]["name"]
    monitor = one(manifests, "ServiceMonitor")["spec"]
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    # which is the job that the alerts ask for
    assert service["metadata"]["labels"][monitor["jobLabel"]] == "dwcp-manager"


def test_ports_probes_and_volumes_exist(manifests: list[dict[str, Any]]) -> None:
    pod = one(manifests, "StatefulSet")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    ports = {port["name"] for port in container["ports"]}
    probes = [container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")]
    gets = {endpoint.path for endpoint in ENDPOINTS if endpoint.method == "GET"}
    assert {probe["path"] for probe in probes} <= gets
    assert {probe["port"] for probe in probes} <= ports
    service_ports = one(manifests, "Service")["spec"]["ports"]
    assert {port["targetPort"] for port in service_ports} <= ports
    assert {end["port"] for end in one(manifests, "ServiceMonitor")["spec"]["endpoints"]} <= {
        port["name"] for port in service_ports
    }
    ingress = one(manifests, "NetworkPolicy")["spec"]["ingress"]
    assert {port["port"] for rule in ingress for port in rule["ports"]} == ports
    volumes = {volume["name"] for volume in pod["volumes"]} | {
        claim["metadata"]["name"] for claim in one(manifests, "StatefulSet")["spec"]["volumeClaimTemplates"]
    }
    mounts = [mount["name"] for part in (container, *pod["initContainers"]) for mount in part["volumeMounts"]]
    assert set(mounts) == volumes
    refers = {
        volume.get("configMap", {}).get("name") or volume.get("secret", {}).get("secretName")
        for volume in pod["volumes"]
    }
    assert {one(manifests, kind)["metadata"]["name"] for kind in ("ConfigMap", "Secret")} <= refers


def test_pods_are_restricted_as_their_namespace_asks(manifests: list[dict[str, Any]]) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/, and a root that nobody writes to."""
    pod = one(manifests, "StatefulSet")["spec"]["template"]["spec"]
    user = re.search(r"^USER (\d+):(\d+)$", DOCKERFILE.read_text(), re.MULTILINE)
    assert user is not None
    context = pod["securityContext"]
    assert (context["runAsUser"], context["runAsGroup"]) == (int(user[1]), int(user[2]))
    assert context["runAsNonRoot"] is True
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    for part in (*pod["containers"], *pod["initContainers"]):
        assert part["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
    assert pod["automountServiceAccountToken"] is False


def test_the_manager_takes_the_configuration(manifests: list[dict[str, Any]], tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(one(manifests, "ConfigMap")["data"]["config.yaml"])
    done = run_manager("--config", file, "--validate")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_first_container_leaves_what_the_manager_expects(manifests: list[dict[str, Any]], tmp_path: Path) -> None:
    """Run as it is, with the pod's directories below another root."""
    (prepare,) = one(manifests, "StatefulSet")["spec"]["template"]["spec"]["initContainers"]
    (script,) = prepare["args"]
    here = re.sub(r"(?<= )/(?=srv|var|run)", f"{tmp_path}/", script)
    for name in ("srv/dwcp", "var/lib/dwcp", "run/secrets/dwcp"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "run/secrets/dwcp/api-token").write_text("first\n")
    for token in ("first", "second"):
        # it runs at each start of the pod
        (tmp_path / "run/secrets/dwcp/api-token").write_text(f"{token}\n")
        subprocess.run([*prepare["command"], here], check=True)
        made = tmp_path / "var/lib/dwcp/identity/api-token"
        assert made.read_text() == f"{token}\n"
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    assert stat.S_IMODE(made.parent.stat().st_mode) == 0o700
    assert (tmp_path / "srv/dwcp/inbox").is_dir()
