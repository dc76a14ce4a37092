"""Rollouts that move, as the adapter and the real kubectl judge them, and changes of either."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import anyio
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from mcp_ops.adapters.kubernetes.adapter import KubernetesAdapter
from mcp_ops.adapters.kubernetes.rollout import judge
from mcp_ops.adapters.kubernetes.workloads import parse_name
from mcp_ops.capabilities.changes import Begun, Plan
from mcp_ops.capabilities.deployments import DeploymentDetail
from tests.adapters.kubernetes_access import behind_tls
from tests.kubectl import Kubectl, configured, ours, until
from tests.kubernetes_lab import STEP_S, TOKEN, Lab, lab


@dataclass(frozen=True, slots=True, kw_only=True)
class Both:
    """The adapter and kubectl before the same API server."""

    kubectl: Kubectl
    lab: Lab
    portal: BlockingPortal

    @property
    def platform(self) -> KubernetesAdapter:
        """The adapter; called through `ask`."""
        return self.lab.platform

    def ask(self, function: Any, *arguments: Any, **named: Any) -> Any:
        """Let the adapter do something in the lab's thread."""

        async def asked() -> Any:
            with anyio.fail_after(60):
                return await function(*arguments, **named)

        return self.portal.call(asked)

    def described(self, name: str) -> DeploymentDetail:
        """What get_deployment would say."""
        found: DeploymentDetail = self.ask(self.platform.describe, name)
        return found

    def judged(self, name: str) -> tuple[str, str]:
        """What kubectl says of a rollout, and what we say."""
        kind, plain = parse_name(name)
        workload = f"{kind.name.lower()}/{plain}"

        def at_one_moment() -> tuple[str, str] | None:
            before = self.kubectl.get(workload)
            said = self.kubectl.verdict(workload)
            after = self.kubectl.get(workload)
            versions = {one["metadata"]["resourceVersion"] for one in (before, after)}
            return (said, ours(judge(kind, after, []))) if len(versions) == 1 else None

        found: tuple[str, str] = until(at_one_moment)
        return found

    def change(self, plan: Plan, call_id: str) -> None:
        """Make a change, and follow it until it is verified."""
        begun: Begun = self.ask(self.platform.begin, plan, reason="a test", call_id=call_id)

        async def followed() -> None:
            with anyio.fail_after(60):
                while (seen := await self.platform.follow(plan, begun)).state != "verified":
                    assert seen.state == "pending", seen
                    await anyio.sleep(STEP_S)

        self.portal.call(followed)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    folder = tmp_path_factory.mktemp("both")
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(lab(folder)) as place,
        portal.wrap_async_context_manager(
            behind_tls(folder, place.url, certificates=False)
        ) as front,
    ):
        kubectl = configured(folder, front.url, TOKEN, front.authority.pem)
        yield Both(kubectl=kubectl, lab=place, portal=portal)


@pytest.mark.parametrize("name", ["api", "statefulset/postgres", "daemonset/agent"])
def test_restart_of_ours_is_one_more_revision_for_kubectl(both: Both, name: str) -> None:
    kind, plain = parse_name(name)
    workload = f"{kind.name.lower()}/{plain}"
    former = revisions(both.kubectl, workload)
    both.change(both.ask(both.platform.plan_restart, name), f"restart-{plain}")
    assert both.kubectl.verdict(workload) == "done"
    assert len(revisions(both.kubectl, workload)) == len(former) + 1
    found = both.kubectl.get(workload)
    template = found["spec"]["template"]["metadata"]["annotations"]
    assert template["mcp-ops.io/call-id"] == f"restart-{plain}"
    assert "kubectl.kubernetes.io/restartedAt" in template
    assert "mcp-ops" in managers(found)
    both.kubectl.says("rollout", "undo", workload)
    both.kubectl.says("rollout", "status", workload)
    back = both.kubectl.get(workload)["spec"]["template"]["metadata"].get("annotations", {})
    assert back.get("mcp-ops.io/call-id") != f"restart-{plain}"
    listed = both.ask(both.platform.list_revisions, name, limit=20, cursor="")
    assert [int(one.id) for one in listed.items][::-1] == sorted(revisions(both.kubectl, workload))


def revisions(kubectl: Kubectl, workload: str) -> list[int]:
    lines = kubectl.says("rollout", "history", workload).splitlines()[2:]
    return [int(line.split()[0]) for line in lines if line]


def managers(obj: Any) -> set[str]:
    return {one["manager"] for one in obj["metadata"]["managedFields"]}


def env(kubectl: Kubectl, workload: str) -> list[str]:
    return kubectl.says("set", "env", workload, "--list").splitlines()[1:]


def test_kubectl_takes_our_setting_back_and_we_take_back_kubectls(both: Both) -> None:
    worker = "deployment/worker"
    former = env(both.kubectl, worker)
    plan = both.ask(
        both.platform.plan_config, "worker", "REGION", value="eu", value_ref="", overwrite=False
    )
    both.change(plan, "config")
    assert env(both.kubectl, worker) == [*former, "REGION=eu"]
    assert "mcp-ops" in managers(both.kubectl.get(worker))
    both.kubectl.says("rollout", "undo", worker)
    both.kubectl.says("rollout", "status", worker)
    assert env(both.kubectl, worker) == former
    both.kubectl.says("set", "env", worker, "REGION=us")
    both.kubectl.says("annotate", worker, "kubernetes.io/change-cause=by hand")
    both.kubectl.says("rollout", "status", worker)
    page = until(lambda: _caused(both, "by hand"))
    both.change(both.ask(both.platform.plan_rollback, "worker", page[1].id), "rollback")
    assert env(both.kubectl, worker) == former
    assert both.kubectl.verdict(worker) == "done"
    annotations = both.kubectl.get(worker)["metadata"]["annotations"]
    assert "kubernetes.io/change-cause" not in annotations


def _caused(both: Both, cause: str) -> Any:
    items = both.ask(both.platform.list_revisions, "worker", limit=20, cursor="").items
    return items if items[0].cause == cause else None


def test_number_size_and_pause_of_ours_are_kubectls(both: Both) -> None:
    kubectl, platform = both.kubectl, both.platform
    both.change(both.ask(platform.plan_scale, "web", 3), "scale")
    assert kubectl.rows("deployment/web")[0][:2] == ["web", "3/3"]
    sized = both.ask(platform.plan_resources, "web", memory="300Mi", cpu="", tier="")
    both.change(sized, "size")
    limit = "jsonpath={.spec.template.spec.containers[0].resources.limits.memory}"
    assert kubectl.says("get", "deployment/web", "-o", limit) == "300Mi"
    both.change(both.ask(platform.plan_pause, "web"), "pause")
    assert "can't restart paused" in kubectl.refused("rollout", "restart", "deployment/web")
    kubectl.says("rollout", "resume", "deployment/web")
    nothing = both.ask(platform.plan_resume, "web").nothing
    assert nothing
    both.change(both.ask(platform.plan_stop, "web"), "stop")
    assert both.judged("web") == ("done", "done")
    assert both.described("web").problem == "scaled_to_zero"
    kubectl.says("scale", "deployment/web", "--replicas=2")
    kubectl.says("rollout", "status", "deployment/web")
    assert both.described("web").problem == "none"


def test_autoscaler_and_schedule_of_ours_are_kubectls(both: Both) -> None:
    kubectl, platform = both.kubectl, both.platform
    both.change(both.ask(platform.plan_autoscaling, "api", 2, 5), "autoscale")
    assert kubectl.rows("hpa/api")[0][4:6] == ["2", "5"]
    both.change(both.ask(platform.plan_suspend, "nightly-sync"), "suspend")
    assert kubectl.rows("cronjob/nightly-sync")[0][7] == "True"
    both.change(both.ask(platform.plan_unsuspend, "nightly-sync"), "unsuspend")
    begun = both.ask(
        platform.begin,
        both.ask(platform.plan_run, "nightly-sync", ""),
        reason="a test",
        call_id="run",
    )
    job = begun.id.removeprefix("run/")
    kubectl.says("wait", f"job/{job}", "--for=condition=Complete")
    found = kubectl.get(f"job/{job}")
    kubectl.says("create", "job", "by-hand", "--from=cronjob/nightly-sync")
    kubectl.says("wait", "job/by-hand", "--for=condition=Complete")
    theirs = kubectl.get("job/by-hand")
    instantiate = "cronjob.kubernetes.io/instantiate"
    assert found["metadata"]["annotations"][instantiate] == "manual"
    assert theirs["metadata"]["annotations"] == {instantiate: "manual"}
    assert found["spec"]["template"]["spec"] == theirs["spec"]["template"]["spec"]
    assert "mcp-ops" in managers(found)
    listed = both.ask(platform.list_jobs, limit=50, cursor="").items
    last = next(one.last_start for one in listed if one.name == "nightly-sync")
    assert last[:19] == theirs["status"]["startTime"][:19]


def test_partition_of_a_moving_set_is_judged_alike(both: Both) -> None:
    kubectl, name = both.kubectl, "statefulset/postgres"
    kubectl.says("scale", name, "--replicas=3")
    kubectl.says("rollout", "status", name)
    kept = {"spec": {"updateStrategy": {"rollingUpdate": {"partition": 2}}}}
    kubectl.says("patch", name, "-p", json.dumps(kept))
    kubectl.says("set", "env", name, "A=b")
    kubectl.says("rollout", "status", name)
    assert both.judged(name) == ("done", "done")
    hashes = {
        row[0]: row[-1]
        for row in kubectl.rows("pods", "-l", "app=postgres", "-L", "controller-revision-hash")
    }
    assert hashes["postgres-0"] == hashes["postgres-1"] != hashes["postgres-2"]
    assert both.described(name).problem == "none"


@pytest.mark.parametrize(
    ("fault", "name", "problem"),
    [
        ("bad-release", "api", "crash_loop"),
        ("image-pull", "web", "image_pull"),
        ("unschedulable", "worker", "unschedulable"),
    ],
)
def test_stuck_release_is_judged_alike(both: Both, fault: str, name: str, problem: str) -> None:
    kubectl, workload = both.kubectl, f"deployment/{name}"
    patient, soon = ({"spec": {"progressDeadlineSeconds": s}} for s in (600, 1))
    kubectl.says("patch", workload, "-p", json.dumps(patient))
    both.portal.call(both.lab.stand_in.inject, fault)
    until(lambda: both.described(name).problem == problem)
    assert both.judged(name) == ("pending", "pending")
    assert "A rollout is under way" in both.described(name).explanation
    kubectl.says("patch", workload, "-p", json.dumps(soon))
    until(lambda: kubectl.verdict(workload) == "failed")
    assert both.judged(name) == ("failed", "failed")
    assert "Its last rollout failed" in both.described(name).explanation
    both.portal.call(both.lab.stand_in.mend, fault)
    kubectl.says("patch", workload, "-p", json.dumps(patient))
    until(lambda: kubectl.verdict(workload) == "done")
    assert both.judged(name) == ("done", "done")


def test_pods_that_fail_later_leave_a_rollout_pending_and_not_under_way(both: Both) -> None:
    both.portal.call(both.lab.stand_in.inject, "oom")
    until(lambda: both.kubectl.verdict("deployment/api") == "pending")
    found = until(lambda: _killed(both.described("api")))
    assert "A rollout is under way" not in found.explanation
    both.portal.call(both.lab.stand_in.mend, "oom")
    until(lambda: both.judged("api") == ("done", "done"))


def _killed(found: DeploymentDetail) -> DeploymentDetail | None:
    return found if found.problem == "oom_killed" and found.ready < found.desired else None
