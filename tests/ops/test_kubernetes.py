"""deploy/kubernetes, built by kustomize and held to Kubernetes' own schemas, to the settings and to the programs that
`batchinfer up` starts. No cluster has run it."""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from batchinfer.api import health
from batchinfer.settings import PREFIX, Settings, load_settings
from batchinfer.stack import alive
from batchinfer.stack.models import ModelFolder
from batchinfer.stack.programs import Fleet, list_programs
from batchinfer.store.session import CONNECT_TIMEOUT_S, STATEMENT_TIMEOUT_S
from workers.crew import LAST_WRITES_S
from workers.duty import SPARE_S

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
OVERLAYS = ("cpu", "gpu")
#: The oldest minor version that has all that is used (preStop with sleep).
KUBERNETES = "1.32.0"
SETTINGS, SECRETS = "batchinfer-settings", "batchinfer-secrets"
NEEDED = {"BATCHINFER_DATABASE_URL", "BATCHINFER_REDIS_URL", "BATCHINFER_SECRET_KEY"}
#: Of KEDA's CRD (v1alpha1, 2.22): fields of `spec` that are used, with their types.
SCALED_OBJECT = {
    "scaleTargetRef": dict, "minReplicaCount": int, "maxReplicaCount": int, "pollingInterval": int,
    "cooldownPeriod": int, "fallback": dict, "advanced": dict, "triggers": list,
}  # fmt: skip


@cache
def build(overlay: str) -> list[dict[str, Any]]:
    """The objects of an overlay."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed")
    run = subprocess.run([kubectl, "kustomize", FOLDER / "overlays" / overlay], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return [one for one in yaml.safe_load_all(run.stdout) if one]


def find(overlay: str, *kinds: str) -> dict[str, dict[str, Any]]:
    """Its objects of these kinds, by name."""
    return {one["metadata"]["name"]: one for one in build(overlay) if one["kind"] in kinds}


def pods(overlay: str) -> dict[str, dict[str, Any]]:
    """The pod template of each of its Deployments and Jobs, by name."""
    return {name: one["spec"]["template"] for name, one in find(overlay, "Deployment", "Job").items()}


def container(pod: dict[str, Any]) -> dict[str, Any]:
    (only,) = pod["spec"]["containers"]
    return dict(only)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_object_is_as_kubernetes_says(overlay: str) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    seen = set()
    for one in build(overlay):
        if one["apiVersion"].startswith("keda.sh/"):
            continue
        validate.validate(one, KUBERNETES, strict=True)
        seen.add(one["kind"])
    assert seen == {
        "Namespace", "ServiceAccount", "ConfigMap", "PersistentVolumeClaim", "Job", "Deployment", "Service", "Ingress",
        "PodDisruptionBudget", "NetworkPolicy",
    }  # fmt: skip


def test_the_check_would_see_a_wrong_field() -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    web = {**find("cpu", "Deployment")["web"]}
    web["spec"] = {**web["spec"], "replica": 2}
    with pytest.raises(validate.ValidationError):
        validate.validate(web, KUBERNETES, strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_scaling_is_by_the_age_of_the_queue(overlay: str) -> None:
    """KEDA's own schema is in no package: the fields that are used, by name and type."""
    deployments = find(overlay, "Deployment")
    scaled = find(overlay, "ScaledObject")
    assert scaled
    for name, one in scaled.items():
        assert one["apiVersion"] == "keda.sh/v1alpha1"
        spec = one["spec"]
        assert {field: type(value) for field, value in spec.items()} == {
            field: kind for field, kind in SCALED_OBJECT.items() if field in spec
        }
        target = deployments[spec["scaleTargetRef"]["name"]]
        assert name == target["metadata"]["name"]
        assert "replicas" not in target["spec"], "applying it again would undo the scaling"
        (trigger,) = spec["triggers"]
        assert (trigger["type"], trigger["metricType"]) == ("prometheus", "AverageValue")
        assert all(isinstance(value, str) for value in trigger["metadata"].values())
        arguments = container(target["spec"]["template"])["args"]
        model = arguments[arguments.index("--model") + 1]
        assert trigger["metadata"]["query"] == f'max(batchinfer_queue_oldest_seconds{{model="{model}"}})'
        assert spec["minReplicaCount"] <= spec["fallback"]["replicas"] <= spec["maxReplicaCount"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_setting_is_one_of_ours_and_no_secret_is_kept(overlay: str) -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    settings = find(overlay, "ConfigMap")[SETTINGS]["data"]
    assert set(settings) <= known
    assert not NEEDED & set(settings)
    assert PREFIX + "HOST_NAME" not in settings, "pods would answer for one another when they are probed"
    load_settings(**{name.removeprefix(PREFIX).lower(): value for name, value in settings.items()})
    assert not find(overlay, "Secret")
    for pod in pods(overlay).values():
        assert container(pod)["envFrom"] == [{"configMapRef": {"name": SETTINGS}}, {"secretRef": {"name": SECRETS}}]
        assert "env" not in container(pod)


def test_the_page_says_which_secrets_are_needed() -> None:
    told = (ROOT / "docs" / "kubernetes.md").read_text()
    assert set(re.findall(r"--from-literal=(\w+)", told)) == NEEDED
    assert f"create secret generic {SECRETS}" in told


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_commands_are_those_of_the_stack(overlay: str, tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path)
    fleet = Fleet(ModelFolder("m", None, "r1"), "fake", ["cpu"], 1)
    ours = {program.role: list(program.argv[2:]) for program in list_programs(settings, fleet, 3)}
    commands = {name: container(pod)["command"] for name, pod in pods(overlay).items()}

    def name_no_worker(words: list[str]) -> list[str]:
        return [word for word in words if "@" not in word]

    assert commands["beat"] == ours["beat"]
    assert name_no_worker(commands["cpu"]) == name_no_worker(ours["cpu"])
    assert commands["web"][-1] == ours["web"][-1]
    assert commands["web"][1] == "--config=" + ours["web"][ours["web"].index("-c") + 1]
    known = set(re.findall(r'option\("(--[a-z-]+)"', (ROOT / "workers" / "model.py").read_text()))
    models = [name for name in commands if name.startswith("model-")]
    assert models
    for name in models:
        like_cpu = [word.replace("workers.cpu", "workers.model") for word in commands["cpu"]]
        assert name_no_worker(commands[name]) == name_no_worker(like_cpu)
        arguments = container(pods(overlay)[name])["args"]
        assert {word for word in arguments if word.startswith("--")} <= known
        assert arguments[arguments.index("--device") + 1] == {"cpu": "cpu", "gpu": "cuda:0"}[overlay]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_web_is_asked_where_it_answers(overlay: str) -> None:
    pod = container(pods(overlay)["web"])
    (port,) = pod["ports"]
    assert f"--bind=0.0.0.0:{port['containerPort']}" in pod["command"]
    routes = re.findall(r'@routes\.get\("(/\w+)"', Path(health.__file__).read_text())
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = pod[probe]["httpGet"]
        assert asked["path"] in routes
        assert asked["port"] == port["name"]
    service = find(overlay, "Service")["web"]["spec"]
    assert service["selector"].items() <= pods(overlay)["web"]["metadata"]["labels"].items()
    assert service["ports"][0]["targetPort"] == port["name"]
    allowed = find(overlay, "NetworkPolicy")["web"]["spec"]["ingress"][0]["ports"]
    assert [one["port"] for one in allowed] == [port["containerPort"]]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_deployment_is_probed(overlay: str) -> None:
    """By HTTP where there is a port, else by the pod's sign of life; and nobody is ended because Postgres is away."""
    asks = ["python", "-m", "batchinfer.stack.alive"]
    for name, deployment in find(overlay, "Deployment").items():
        only, spec = container(deployment["spec"]["template"]), deployment["spec"]
        probes = {kind: probe for kind, probe in only.items() if kind.endswith("Probe")}
        assert "livenessProbe" in probes, name
        role = name.partition("-")[0]
        assert "startupProbe" in probes or role == "beat", "without it what starts slowly would be ended"
        for kind, probe in probes.items():
            if "ports" in only:
                assert set(probe) & {"httpGet", "exec", "tcpSocket"} == {"httpGet"}, name
                continue
            excuse = [alive.EXCUSE] if kind == "livenessProbe" else []
            assert probe["exec"]["command"] == [*asks, role, *excuse], name
            # A probe that is cut off counts as failed: it must outlast the database's own limits, to be able to excuse.
            assert probe["timeoutSeconds"] >= CONNECT_TIMEOUT_S + STATEMENT_TIMEOUT_S + 10, name
            assert role in alive.ROLES
        if "ports" not in only:
            alive_s = probes["livenessProbe"]["periodSeconds"] * probes["livenessProbe"]["failureThreshold"]
            assert alive_s >= 4 * Settings().lease_ttl_s, "time to come back by itself"
            startup = probes.get("startupProbe", {"periodSeconds": 0, "failureThreshold": 0})
            started_s = startup["periodSeconds"] * startup["failureThreshold"]
            assert spec.get("progressDeadlineSeconds", 600) > started_s, name


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_whoever_stops_has_the_time_for_it(overlay: str) -> None:
    changes = find(overlay, "ConfigMap")[SETTINGS]["data"]
    settings = load_settings(**{name.removeprefix(PREFIX).lower(): value for name, value in changes.items()})
    found = pods(overlay)
    for name in [one for one in found if one == "cpu" or one.startswith("model-")]:
        grace_s = found[name]["spec"]["terminationGracePeriodSeconds"]
        assert grace_s >= settings.drain_s + LAST_WRITES_S + SPARE_S
    before_s = container(found["web"])["lifecycle"]["preStop"]["sleep"]["seconds"]
    # As gunicorn_settings counts it.
    assert found["web"]["spec"]["terminationGracePeriodSeconds"] >= before_s + settings.max_wait_s + 5


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_pod_is_restricted_and_bounded(overlay: str) -> None:
    for pod in pods(overlay).values():
        spec, only = pod["spec"], container(pod)
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert only["securityContext"] == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        }  # fmt: skip
        assert only["resources"]["requests"]["cpu"]
        assert only["resources"]["limits"]["memory"]
        mounted = {mount["name"] for mount in only["volumeMounts"]}
        assert mounted == {volume["name"] for volume in spec["volumes"]}
    gpus = [container(pod)["resources"]["limits"].get("nvidia.com/gpu") for pod in pods(overlay).values()]
    assert [gpu for gpu in gpus if gpu] == (["1"] if overlay == "gpu" else [])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_budgets_and_policies_are_about_pods_that_are_there(overlay: str) -> None:
    labels = [pod["metadata"]["labels"] for pod in pods(overlay).values()]
    budgets = find(overlay, "PodDisruptionBudget")
    assert set(budgets) == {name for name in find(overlay, "Deployment") if name != "beat"}
    for name, budget in budgets.items():
        wanted = budget["spec"]["selector"]["matchLabels"].items()
        assert wanted <= pods(overlay)[name]["metadata"]["labels"].items()
        assert sum(wanted <= found.items() for found in labels) == 1
    policies = find(overlay, "NetworkPolicy")
    assert policies["nothing"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for policy in policies.values():
        wanted = policy["spec"]["podSelector"].get("matchLabels", {}).items()
        assert any(wanted <= found.items() for found in labels)
    # None but the CPU workers reaches what is outside.
    assert [name for name, one in policies.items() if "0.0.0.0/0" in str(one)] == ["outside"]
    assert policies["outside"]["spec"]["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "cpu"}
    beat = find(overlay, "Deployment")["beat"]["spec"]
    assert (beat["replicas"], beat["strategy"]) == (1, {"type": "Recreate"})


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_each_role_can_be_applied_alone(overlay: str) -> None:
    """As docs/kubernetes.md does for a new release: a selector finds objects by their own labels."""
    label = "app.kubernetes.io/name"
    for name, one in find(overlay, "Deployment", "Job").items():
        role = one["spec"]["template"]["metadata"]["labels"][label]
        assert one["metadata"]["labels"][label] == role == name.partition("-")[0]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_all_is_in_one_namespace_whose_pods_must_be_restricted(overlay: str) -> None:
    ((name, namespace),) = find(overlay, "Namespace").items()
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert {one["metadata"].get("namespace") for one in build(overlay) if one["kind"] != "Namespace"} == {name}
