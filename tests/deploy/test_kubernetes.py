"""The chart: rendered by Helm, every object held against the models of Kubernetes."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from mcp_ops.ports import Mode
from mcp_ops.settings_environ import VARIABLES
from mcp_ops.settings_file import load_settings
from tests.deploy.objects import problems
from tests.deploy.tools import ROOT, Tools

CHART = ROOT / "deploy" / "kubernetes" / "chart"
MINIMAL = {"image": {"repository": "registry.example.com/mcp-ops"}, "stores": {"secret": "stores"}}
FULL: dict[str, Any] = {
    "image": {
        "repository": "registry.example.com/mcp-ops",
        "digest": f"sha256:{'0' * 64}",
        "pullSecrets": [{"name": "registry"}],
    },
    "replicas": 3,
    "config": '[server]\ntransport = "http"\n\n[tools]\nprofile = "full"\n',
    "env": {"MCP_RATE_LIMIT_MODE": "read_only", "CIRCUIT_BREAKER_THRESHOLD": 5},
    "secretEnv": {"MCP_OPS_KEY": {"secret": "mcp-ops", "key": "access-key"}},
    "stores": {"secret": "stores"},
    "publicNames": ["ops.example.com", "ops.example.org"],
    "targets": {"shop": "write", "billing": "read"},
    "serviceAccount": {"annotations": {"azure.workload.identity/client-id": "0"}},
    "networkPolicy": {
        "from": [{"namespaceSelector": {"matchLabels": {"name": "agents"}}}],
        "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"port": 6379}]}],
    },
    "podLabels": {"team": "ops"},
    "podAnnotations": {"note": "x"},
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "ops", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "priorityClassName": "high",
}
INGRESS = {"ingress": {"enabled": True, "className": "nginx", "tlsSecret": "ops-tls"}}
GATEWAY = {"gateway": {"enabled": True, "name": "public", "namespace": "edge"}}


class Chart:
    """Renders, with each set of values once."""

    def __init__(self, helm: Path, folder: Path) -> None:
        self._helm, self._folder = helm, folder

    def run(self, values: dict[str, Any]) -> subprocess.CompletedProcess[str]:
        """What `helm template` says to these values."""
        file = self._folder / "values.yaml"
        file.write_text(yaml.safe_dump(values), encoding="utf-8")
        command = [str(self._helm), "template", "ops", str(CHART), "--namespace", "prod"]
        return subprocess.run(
            [*command, "--values", str(file)],
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
            env={"HOME": str(self._folder), "PATH": ""},
        )

    def render(self, *values: dict[str, Any]) -> list[dict[str, Any]]:
        """The objects."""
        merged: dict[str, Any] = {}
        for each in values:
            merged |= each
        done = self.run(merged)
        assert done.returncode == 0, done.stderr
        return [each for each in yaml.safe_load_all(done.stdout) if each]


@pytest.fixture(scope="module")
def chart(tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Chart:
    return Chart(tools.helm, tmp_path_factory.mktemp("chart"))


def of_kind(objects: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [each for each in objects if each["kind"] == kind]


def container(objects: list[dict[str, Any]]) -> dict[str, Any]:
    (deployment,) = of_kind(objects, "Deployment")
    (found,) = deployment["spec"]["template"]["spec"]["containers"]
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize(
    "values",
    [
        (MINIMAL,),
        (FULL,),
        (FULL, INGRESS),
        (FULL, GATEWAY),
        (MINIMAL, {"stores": {}, "replicas": 1}),
    ],
    ids=["minimal", "full", "ingress", "gateway", "alone"],
)
def test_every_object_is_one_that_kubernetes_knows(
    chart: Chart, values: tuple[dict[str, Any], ...]
) -> None:
    objects = chart.render(*values)
    assert [wrong for each in objects for wrong in problems(each)] == []
    assert len(
        {
            (each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"])
            for each in objects
        }
    ) == len(objects)


def test_the_check_of_objects_finds_what_is_wrong() -> None:
    wrong = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": 1},
        "spec": {"ports": [{"name": "http"}], "sesionAffinity": "None", "selector": {"a": 1}},
    }
    assert sorted(problems(wrong)) == [
        "Service.metadata.name: string_type",
        "Service.spec.ports.0.port: missing",
        "Service.spec.selector.a: string_type",
        "Service.spec.sesionAffinity: extra_forbidden",
    ]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"stores": {"secret": "stores"}}, "image.repository"),
        (MINIMAL | {"stores": {}}, "separate guards"),
        (MINIMAL | {"terminationGracePeriodSeconds": 30}, "terminationGracePeriodSeconds"),
        (FULL | INGRESS | GATEWAY, "one of the two"),
        (MINIMAL | INGRESS, "publicNames"),
        (FULL | {"ingress": {"enabled": True}}, "ingress.tlsSecret"),
        (FULL | {"targets": {"shop": "admin"}}, "targets.shop"),
        (MINIMAL | {"replica": 2}, "replica"),
        (MINIMAL | {"secretEnv": {"MCP_OPS_KEY": "a-key"}}, "MCP_OPS_KEY"),
    ],
)
def test_values_that_would_not_work_are_refused_with_a_reason(
    chart: Chart, values: dict[str, Any], said: str
) -> None:
    done = chart.run(values)
    assert done.returncode != 0
    assert said in done.stderr


def test_the_schema_knows_each_value_of_the_chart() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    assert values.keys() == schema["properties"].keys() - {"global"}
    for name, value in values.items():
        known = schema["properties"][name].get("properties")
        assert known is None or value.keys() == known.keys(), name


def test_the_example_of_the_page_renders(chart: Chart) -> None:
    page = (ROOT / "docs" / "deploy" / "kubernetes.md").read_text(encoding="utf-8")
    examples = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    first, *others = (yaml.safe_load(each) for each in examples)
    objects = chart.render(first)
    (config,) = of_kind(objects, "ConfigMap")
    assert "[targets.billing]" in config["data"]["config.toml"]
    for more in others:
        ingress = first["ingress"] | more.get("ingress", {})
        objects += chart.render(first, more, {"ingress": ingress})
    assert [wrong for each in objects for wrong in problems(each)] == []


def test_pods_are_restricted(chart: Chart) -> None:
    objects = chart.render(FULL)
    (deployment,) = of_kind(objects, "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container(objects)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "hostNetwork" not in pod
    assert [volume for volume in pod["volumes"] if "hostPath" in volume] == []


def test_rights_in_the_cluster_are_those_of_the_named_namespaces_alone(chart: Chart) -> None:
    objects = chart.render(FULL)
    assert of_kind(objects, "ClusterRole") == of_kind(objects, "ClusterRoleBinding") == []
    roles = {role["metadata"]["namespace"]: role["rules"] for role in of_kind(objects, "Role")}
    verbs = {
        namespace: {verb for rule in rules for verb in rule["verbs"]}
        for namespace, rules in roles.items()
    }
    assert verbs == {"shop": {"get", "list", "patch", "create"}, "billing": {"get", "list"}}
    assert of_kind(chart.render(MINIMAL), "Role") == []
    (deployment,) = of_kind(chart.render(MINIMAL), "Deployment")
    assert deployment["spec"]["template"]["spec"]["automountServiceAccountToken"] is False


def test_the_chart_and_the_manifests_grant_the_same(chart: Chart) -> None:
    granted = {}
    for part in ("read", "write", "destroy", "references"):
        file = ROOT / "deploy" / "kubernetes" / f"rbac-{part}.yaml"
        role, binding = yaml.safe_load_all(file.read_text(encoding="utf-8"))
        assert (role["kind"], binding["kind"]) == ("Role", "RoleBinding")
        assert binding["roleRef"]["name"] == role["metadata"]["name"]
        assert [wrong for each in (role, binding) for wrong in problems(each)] == []
        granted[part] = role["rules"]
    targets = {"targets": {"a": "read", "b": "write", "c": "destroy"}, "references": ["b"]}
    rendered = of_kind(chart.render(FULL, targets), "Role")
    roles = {role["metadata"]["namespace"]: role["rules"] for role in rendered}
    assert roles["a"] == granted["read"]
    assert roles["b"] == granted["read"] + granted["write"] + granted["references"]
    assert roles["c"] == granted["read"] + granted["write"] + granted["destroy"]


def test_secrets_stand_in_no_object(chart: Chart) -> None:
    objects = chart.render(FULL)
    assert of_kind(objects, "Secret") == []
    variables = {each["name"]: each for each in container(objects)["env"]}
    for name in ("MCP_OPS_KEY", "MCP_OPS_STORE_KEY", "MCP_OPS_STORE_HOT", "MCP_OPS_STORE_LEDGER"):
        assert variables[name].keys() == {"name", "valueFrom"}


def test_variables_are_those_that_the_server_reads(chart: Chart) -> None:
    names = {each["name"] for each in container(chart.render(FULL))["env"]}
    assert names <= {*VARIABLES, "MCP_OPS_CONFIG", "MCP_OPS_STATE_DIR", "MCP_OPS_KEY"}


def test_a_pod_of_the_example_starts_with_what_the_page_says(chart: Chart, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "deploy" / "kubernetes.md").read_text(encoding="utf-8")
    example = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)[0]
    objects = chart.render(yaml.safe_load(example))
    secrets = {
        "hot-url": "rediss://:password@redis.example.com:6380/0",
        "ledger-url": "postgresql://ops_guard:password@db.example.com/ops_guard",
    }
    environ = {
        each["name"]: each["value"]
        if "value" in each
        else secrets.get(each["valueFrom"]["secretKeyRef"]["key"], "x" * 32)
        for each in container(objects)["env"]
    }
    (mounted,) = of_kind(objects, "ConfigMap")
    config = tmp_path / "config.toml"
    config.write_text(mounted["data"]["config.toml"], encoding="utf-8")
    found = load_settings(config, environ, {})
    assert (found.server.transport, found.server.host, found.server.port) == (
        "http",
        "0.0.0.0",
        8000,
    )
    assert {"ops.example.com", "ops-mcp-ops"} <= set(found.server.allowed_hosts)
    assert [key.name for key in found.server.keys] == ["env"]
    assert found.guard.mode == Mode.READ_ONLY
    assert found.store.hot.get_secret_value() == secrets["hot-url"]
    assert {target.name for target in found.targets} == {"shop", "billing"}


def test_probes_call_by_a_name_that_is_served(chart: Chart) -> None:
    found = container(chart.render(MINIMAL))
    paths = {}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        get = found[probe]["httpGet"]
        assert get["httpHeaders"] == [{"name": "Host", "value": "localhost"}]
        paths[probe] = get["path"]
    assert paths == {
        "startupProbe": "/health/live",
        "livenessProbe": "/health/live",
        "readinessProbe": "/health/ready",
    }


def test_a_single_replica_on_files_is_never_doubled_and_keeps_its_ledger(chart: Chart) -> None:
    objects = chart.render(MINIMAL, {"stores": {}, "replicas": 1})
    (deployment,) = of_kind(objects, "Deployment")
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}
    (claim,) = of_kind(objects, "PersistentVolumeClaim")
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert of_kind(objects, "PodDisruptionBudget") == []


def test_replicas_are_replaced_one_at_a_time_with_time_to_drain(chart: Chart) -> None:
    (deployment,) = of_kind(chart.render(MINIMAL), "Deployment")
    assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    # 5 seconds before the signal, 25 to drain, and some to end.
    assert deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 45
