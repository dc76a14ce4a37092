"""What each tool needs of the cluster, held against what it asks, and what doctor misses."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from mcp_ops.adapters.kubernetes.adapter import KubernetesAdapter
from mcp_ops.adapters.kubernetes.failures import Ask
from mcp_ops.adapters.kubernetes.permissions import NEEDS, Granted, Need, part_of, rules
from mcp_ops.adapters.kubernetes.scaling import REMEMBERED
from mcp_ops.adapters.kubernetes.settings import KubernetesSettings
from mcp_ops.adapters.kubernetes.workloads import parse_name
from mcp_ops.capabilities.base import Effect
from mcp_ops.capabilities.changes import Plan
from mcp_ops.catalog import ALL_TOOLS
from mcp_ops.errors import Conflict, Forbidden, InvalidInput, NotFound
from mcp_ops.lab.kubernetes.api import kubeconfig, kubernetes
from mcp_ops.lab.kubernetes.roles import NOBODY, Role, Rule
from mcp_ops.opening import implements
from tests.kubernetes_lab import STEP_S, Between, answering, changed, served, wiring

TOKEN = "a-token-of-few-rights-0123"
Use = Callable[[KubernetesAdapter], Awaitable[Any]]


KINDS = ("api", "statefulset/postgres", "daemonset/agent")


async def get_logs(platform: KubernetesAdapter, name: str) -> None:
    await platform.logs(name, since_minutes=60, tail=5, grep="", level="", previous=False)


def reading(use: Callable[[KubernetesAdapter, str], Awaitable[Any]], *names: str) -> list[Use]:
    return [partial(_with_name, use, name) for name in names]


async def _with_name(
    use: Callable[[KubernetesAdapter, str], Awaitable[Any]],
    name: str,
    platform: KubernetesAdapter,
) -> None:
    await use(platform, name)


def changing(
    planning: Callable[[KubernetesAdapter, str], Awaitable[Plan]], *names: str
) -> list[Use]:
    """Each step of a change of these."""

    async def use(platform: KubernetesAdapter, name: str) -> None:
        plan = await planning(platform, name)
        await platform.rehearse(plan)
        begun = await platform.begin(plan, reason="to see the rights", call_id="c")
        await platform.find(plan, "another")
        await platform.follow(plan, begun)

    return reading(use, *names)


async def restarted_instance(platform: KubernetesAdapter, name: str) -> Plan:
    api = platform._site.api
    ask = Ask(verb="list", resource="pods")
    pods, _ = await api.list_page(
        api.path("", "pods"), ask, labelSelector=f"app={parse_name(name)[1]}", limit=1
    )
    return await platform.plan_instance_restart(name, pods[0]["metadata"]["name"])


async def started(platform: KubernetesAdapter, name: str) -> Plan:
    kind, plain = parse_name(name)
    body = {"metadata": {"annotations": {REMEMBERED: "2"}}, "spec": {"replicas": 0}}
    api, ask = platform._site.api, Ask(verb="patch", resource=kind.resource)
    await api.patch(api.path("apps", kind.plural, plain), ask, body)
    return await platform.plan_start(name)


async def autoscaled(platform: KubernetesAdapter) -> None:
    with pytest.raises(NotFound):
        await platform.plan_autoscaling("statefulset/postgres", 2, 4)


async def resumed(platform: KubernetesAdapter, name: str) -> Plan:
    pause = await platform.plan_pause(name)
    await platform.begin(pause, reason="to see the rights", call_id="pause")
    return await platform.plan_resume(name)


async def rolled_back(platform: KubernetesAdapter, name: str) -> Plan:
    restart = await platform.plan_restart(name)
    await platform.begin(restart, reason="to see the rights", call_id="restart")
    with anyio.fail_after(20):
        while len((await platform.list_revisions(name, limit=5, cursor="")).items) < 2:
            await anyio.sleep(STEP_S)
    return await platform.plan_rollback(name, "")


async def referring(kept: str, platform: KubernetesAdapter) -> None:
    plan = platform.plan_config(
        "web", "OTHER", value="", value_ref=f"{kept}/kept/key", overwrite=False
    )
    with suppress(Conflict, InvalidInput):  # the lab keeps none
        await plan


# Uses of each tool that ask for everything that it may ask for.
USES: dict[str, list[Use]] = {
    "list_deployments": [lambda p: p.list_workloads(limit=20, cursor="")],
    "get_deployment": reading(lambda p, name: p.describe(name), *KINDS),
    "get_deployment_logs": reading(get_logs, *KINDS),
    "list_revisions": reading(lambda p, name: p.list_revisions(name, limit=5, cursor=""), *KINDS),
    "list_config": reading(lambda p, name: p.list_config(name, limit=5, cursor=""), *KINDS),
    "list_jobs": [lambda p: p.list_jobs(limit=20, cursor="")],
    "restart_deployment": changing(lambda p, name: p.plan_restart(name), *KINDS),
    "rollback_deployment": changing(rolled_back, *KINDS),
    "scale_deployment": changing(lambda p, name: p.plan_scale(name, 2), "worker", KINDS[1]),
    "set_autoscaling": [
        *changing(lambda p, name: p.plan_autoscaling(name, 2, 4), "api"),
        autoscaled,
    ],
    "pause_rollout": changing(lambda p, name: p.plan_pause(name), "api"),
    "resume_rollout": changing(resumed, "api"),
    "start_deployment": changing(started, "web", KINDS[1]),
    "stop_deployment": changing(lambda p, name: p.plan_stop(name), "web", KINDS[1]),
    "set_resources": changing(
        lambda p, name: p.plan_resources(name, memory="300Mi", cpu="", tier=""), *KINDS
    ),
    "restart_instance": changing(restarted_instance, *KINDS),
    "set_config": changing(
        lambda p, name: p.plan_config(name, "LOG_SIZE", value="7", value_ref="", overwrite=False),
        *KINDS,
    )
    + [partial(referring, kept) for kept in ("secret", "configmap")],
    "run_job": changing(lambda p, name: p.plan_run(name, ""), "nightly-sync"),
    "suspend_job": changing(lambda p, name: p.plan_suspend(name), "nightly-sync"),
    "resume_job": changing(lambda p, name: p.plan_unsuspend(name), "report"),
    "stop_job": changing(lambda p, name: p.plan_job_stop(name), "reindex"),
}


def refers(answer: Any) -> None:
    for kind in ("secretKeyRef", "configMapKeyRef"):
        source = {"valueFrom": {kind: {"name": "kept", "key": "key"}}}
        template = answer["spec"]["template"]["spec"]
        template["containers"][0].setdefault("env", []).append({"name": kind, **source})


async def every_use(platform: KubernetesAdapter, between: Between, tool: str) -> None:
    if tool == "list_config":
        between.inject("GET", "/deployments/api", changed(refers))
    for use in USES[tool]:
        await use(platform)


def role(needs: tuple[Need, ...] | list[Need]) -> Role:
    granted = tuple(
        Rule(groups=(need.group,), resources=(need.named,), verbs=(need.verb,)) for need in needs
    )
    return Role(user="system:serviceaccount:mcp-ops:few", rules=granted)


@asynccontextmanager
async def acting(
    tmp_path: Path, held: Role, namespace: str = "shop"
) -> AsyncIterator[tuple[KubernetesAdapter, Between]]:
    """An adapter whose credential has that role."""
    stand_in = kubernetes(directory=tmp_path, roles={TOKEN: held}, settle_s=STEP_S)
    between = Between(stand_in.app)
    async with served(between) as url:
        path = tmp_path / "kubeconfig"
        path.write_text(kubeconfig(url, TOKEN, namespace), encoding="utf-8")
        settings = KubernetesSettings(kubeconfig=str(path))
        async with KubernetesAdapter.open(settings, wiring(tmp_path)) as platform:
            yield platform, between


def asked(between: Between) -> set[tuple[str, str, str]]:
    """Verb, group and resource of what came through."""
    verbs = {"POST": "create", "PATCH": "patch", "DELETE": "delete"}
    found = set()
    for method, path in between.seen:
        parts = path.strip("/").split("/")
        group = "" if parts[0] == "api" else parts[1]
        rest = parts[parts.index("namespaces") + 2 :]
        named = f"{rest[0]}/{rest[2]}" if len(rest) > 2 else rest[0]
        verb = verbs.get(method, "get" if len(rest) > 1 else "list")
        found.add((verb, group, named))
    return found


@pytest.mark.parametrize("tool", USES)
async def test_tool_works_with_the_rights_that_it_names_and_asks_for_each(
    tmp_path: Path, tool: str
) -> None:
    async with acting(tmp_path, role(NEEDS[tool])) as (platform, between):
        await every_use(platform, between, tool)
        named = {(need.verb, need.group, need.named) for need in NEEDS[tool]}
        assert asked(between) == named
        assert await platform.examine([tool]) == (await platform.examine([tool]))[:1]


@pytest.mark.parametrize("tool", [tool for tool in NEEDS if any(n.without for n in NEEDS[tool])])
async def test_tool_does_without_its_optional_rights(tmp_path: Path, tool: str) -> None:
    required = [need for need in NEEDS[tool] if not need.without]
    async with acting(tmp_path, role(required)) as (platform, between):
        await every_use(platform, between, tool)
        told = await platform.examine([tool])
        assert all(advice.good for advice in told)
        lost = {need.without for need in NEEDS[tool] if need.without}
        assert len(told) == 1 + len(lost)
        assert all(any(f"leaves out {each}" in one.message for one in told) for each in lost)


@pytest.mark.parametrize("tool", ["get_deployment", "restart_deployment", "run_job"])
async def test_tool_fails_without_one_of_the_others(tmp_path: Path, tool: str) -> None:
    required = [need for need in NEEDS[tool] if not need.without]
    gone = required[0]
    async with acting(tmp_path, role([need for need in required if need != gone])) as (
        platform,
        between,
    ):
        with pytest.raises(Forbidden):
            await every_use(platform, between, tool)
        (told,) = [one for one in await platform.examine([tool]) if not one.good]
        assert told.message == f"{tool} needs {gone.verb} on {gone.named}."
        assert f"rbac-{part_of(tool)}.yaml" in told.advice


def test_every_tool_of_the_adapter_has_its_rights_and_its_use() -> None:
    published = {
        tool.name
        for tool in ALL_TOOLS.values()
        if not tool.own and implements(KubernetesAdapter, tool.capability)
    }
    assert published <= NEEDS.keys()
    assert published == USES.keys()


def test_rights_stand_in_the_manifest_of_the_tool_s_effect() -> None:
    for tool in NEEDS:
        assert Effect(part_of(tool)) is ALL_TOOLS[tool].effect


def test_manifests_grant_what_the_tools_need_and_nothing_else() -> None:
    def pairs(*parts: Any) -> set[tuple[str, str, str]]:
        return {
            (verb, group, named)
            for part in parts
            for rule in rules(part)
            for verb in rule["verbs"]
            for group in rule["apiGroups"]
            for named in rule["resources"]
        }

    every = {(n.verb, n.group, n.named) for needs in NEEDS.values() for n in needs}
    assert pairs("read", "write", "destroy", "references") == every
    assert {verb for verb, _, _ in pairs("read")} == {"get", "list"}
    assert pairs("read") & pairs("write", "destroy") == set()
    assert not any("secrets" in named for _, _, named in pairs("read", "write", "destroy"))


NEED = Need(verb="patch", resource="deployments", group="apps", sub="scale")


@pytest.mark.parametrize(
    ("rule", "allowed"),
    [
        ({"verbs": ["patch"], "apiGroups": ["apps"], "resources": ["deployments/scale"]}, True),
        ({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}, True),
        ({"verbs": ["patch"], "apiGroups": ["apps"], "resources": ["*/scale"]}, True),
        ({"verbs": ["patch"], "apiGroups": ["apps"], "resources": ["deployments"]}, False),
        ({"verbs": ["get"], "apiGroups": ["apps"], "resources": ["*"]}, False),
        ({"verbs": ["patch"], "apiGroups": [""], "resources": ["*"]}, False),
        (
            {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "resourceNames": ["api"]},
            False,
        ),
        ({"verbs": "patch", "apiGroups": None, "resources": [7]}, False),
    ],
)
def test_rules_are_read_as_the_server_reads_them(rule: dict[str, Any], allowed: bool) -> None:
    assert Granted(rules=(rule,), complete=True).allows(NEED) is allowed


async def test_rules_that_are_incomplete_are_asked_for_one_by_one(tmp_path: Path) -> None:
    status = {"resourceRules": [], "nonResourceRules": [], "incomplete": True}
    held = [need for need in NEEDS["get_deployment"] if need.resource != "pods"]
    async with acting(tmp_path, role(held)) as (platform, between):
        rulesreview = "/selfsubjectrulesreviews"
        for partly in (answering(201, {"status": status}), answering(403, {"kind": "Status"})):
            between.inject("POST", rulesreview, partly)
            told = await platform.examine(["get_deployment"])
            needs, leaves_out = (one.message for one in told)
            assert needs == "get_deployment needs list on pods."
            assert leaves_out == (
                "get_deployment leaves out what containers use: that needs list on pods of "
                "metrics.k8s.io."
            )
        no = answering(403, {"kind": "Status"})
        between.inject("POST", "/apis/authorization.k8s.io/", *[no] * 12)
        (told_nothing,) = await platform.examine(["get_deployment"])
        assert told_nothing.good
        assert "does not say" in told_nothing.message


async def test_credential_without_rights_misses_all(tmp_path: Path) -> None:
    async with acting(tmp_path, NOBODY) as (platform, _):
        told = await platform.examine(NEEDS)
    assert {one.message.split()[0] for one in told if not one.good} == set(NEEDS)
    (scale,) = [one for one in told if one.message.startswith("scale_deployment")]
    assert scale.message == (
        "scale_deployment needs get on deployments and statefulsets; patch on deployments and "
        "statefulsets; list on replicasets, pods and horizontalpodautoscalers."
    )
