"""Rollouts as the real kubectl judges them, and changes as it sees them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import anyio
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from mcp_ops.adapters.kubernetes.adapter import KubernetesAdapter
from mcp_ops.adapters.kubernetes.rollout import RolloutState, judge
from mcp_ops.adapters.kubernetes.workloads import (
    DAEMON_SET,
    DEPLOYMENT,
    STATEFUL_SET,
    Kind,
    parse_name,
)
from mcp_ops.capabilities.changes import Begun, Plan
from mcp_ops.capabilities.deployments import DeploymentDetail
from tests.adapters.kubernetes_access import behind_tls
from tests.kubectl import Cluster, Kubectl, cluster, configured, until
from tests.kubernetes_lab import STEP_S, TOKEN, Lab, lab

NEVER_S = 3_600.0
COMPLETE = ("successfully rolled out", "roll out complete")
AT = "2026-05-28T20:20:00Z"
NO_WATCH = "--watch=false"


def verdict(kubectl: Kubectl, workload: str) -> str:
    """What kubectl makes of a rollout: done, failed, pending; or that it judges none such."""
    done = kubectl.run("rollout", "status", workload, NO_WATCH)
    if done.code:
        assert done.code == 1
        known = {"exceeded its progress deadline": "failed", "only available for": "not judged"}
        return next(word for text, word in known.items() if text in done.err)
    return "done" if any(word in done.out for word in COMPLETE) else "pending"


def ours(state: RolloutState) -> str:
    """The same of our judgement."""
    return "done" if state.done else "failed" if state.failed else "pending"


# Statuses that are written by hand, where no controller works.


@dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    """A cluster in which nothing moves."""

    place: Cluster

    def judged(self, kind: Kind, name: str, spec: Any, status: Any) -> tuple[str, str, str]:
        """What kubectl says of an object of this status, what we say, and why."""
        kubectl = self.place.kubectl
        labels = {"app": name}
        container = {"name": "main", "image": "lab/x:1"}
        template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
        obj = {
            "apiVersion": "apps/v1",
            "kind": kind.name,
            "metadata": {"name": name},
            "spec": {"selector": {"matchLabels": labels}, "template": template, **spec},
        }
        kubectl.says("create", "-f", "-", given=json.dumps(obj))
        workload = f"{kind.name.lower()}/{name}"
        patch = json.dumps({"status": {"observedGeneration": 1, **status}})
        change = ("patch", workload, "--subresource=status", "--type=merge", "-p", patch)
        found = json.loads(kubectl.says(*change, "-o", "json"))
        state = judge(kind, found, [])
        return verdict(kubectl, workload), ours(state), state.why


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Frozen]:
    with cluster(tmp_path_factory.mktemp("frozen"), settle_s=NEVER_S) as place:
        yield Frozen(place=place)


def replicas(wanted: int, ready: int, updated: int, total: int, **more: Any) -> Any:
    status = {"replicas": total, "updatedReplicas": updated, "readyReplicas": ready}
    return {"replicas": wanted}, {**status, "availableReplicas": ready, **more}


def progressing(reason: str, status: str = "True") -> Any:
    times = {"lastUpdateTime": AT, "lastTransitionTime": AT}
    return [{"type": "Progressing", "status": status, "reason": reason, "message": "", **times}]


LATE = progressing("ProgressDeadlineExceeded", "False")
DEPLOYMENTS: dict[str, tuple[Any, str]] = {
    "complete": (replicas(3, 3, 3, 3), "done"),
    "none-wanted": (replicas(0, 0, 0, 0), "done"),
    "none-wanted-old-left": (replicas(0, 0, 0, 1), "pending"),
    "not-observed": (replicas(3, 3, 3, 3, observedGeneration=0), "pending"),
    "not-all-new": (replicas(3, 3, 1, 3), "pending"),
    "old-left": (replicas(3, 3, 3, 4), "pending"),
    "more-than-wanted": (replicas(2, 3, 3, 3), "done"),
    "not-available": (replicas(3, 2, 3, 3), "pending"),
    "was-complete-not-available": (
        replicas(3, 2, 3, 3, conditions=progressing("NewReplicaSetAvailable")),
        "pending",
    ),
    "late": (replicas(3, 2, 1, 4, conditions=LATE), "failed"),
    "late-and-complete": (replicas(3, 3, 3, 3, conditions=LATE), "failed"),
    "late-before-the-newest": (
        replicas(3, 2, 1, 4, conditions=LATE, observedGeneration=0),
        "pending",
    ),
    "no-status": (({"replicas": 2}, {}), "pending"),
}


@pytest.mark.parametrize("case", DEPLOYMENTS)
def test_deployment_is_judged_as_kubectl_judges_it(frozen: Frozen, case: str) -> None:
    (spec, status), expected = DEPLOYMENTS[case]
    theirs, mine, why = frozen.judged(DEPLOYMENT, case, spec, status)
    assert (theirs, mine) == (expected, expected), why
    assert (why == "complete") == (expected == "done")


@pytest.mark.parametrize(("updated", "expected"), [(0, "pending"), (3, "done")])
def test_pause_is_no_state_of_a_rollout(frozen: Frozen, updated: int, expected: str) -> None:
    spec, status = replicas(3, 3, updated, 3)
    name = f"paused-{updated}"
    theirs, mine, _ = frozen.judged(DEPLOYMENT, name, {**spec, "paused": True}, status)
    assert (theirs, mine) == (expected, expected)


def rolling(partition: int) -> Any:
    return {"type": "RollingUpdate", "rollingUpdate": {"partition": partition}}


BOTH = {"currentRevision": "a", "updateRevision": "b"}
ONE = {"currentRevision": "b", "updateRevision": "b"}
STATEFUL_SETS: dict[str, tuple[Any, Any, str]] = {
    "complete": (None, replicas(3, 3, 3, 3, **ONE), "done"),
    "none-wanted": (None, replicas(0, 0, 0, 0, **ONE), "done"),
    "not-observed": (None, replicas(3, 3, 3, 3, **ONE, observedGeneration=0), "pending"),
    "not-ready": (None, replicas(3, 2, 3, 3, **ONE), "pending"),
    "not-all-new": (None, replicas(3, 3, 2, 3, **BOTH), "pending"),
    # `minReadySeconds`: ready, not available yet, and so the revision is not the current one.
    "all-new-not-current": (None, replicas(3, 3, 3, 3, **BOTH), "done"),
    "partition": (rolling(2), replicas(3, 3, 1, 3, **BOTH), "done"),
    "partition-not-reached": (rolling(1), replicas(3, 3, 1, 3, **BOTH), "pending"),
    "partition-keeps-all": (rolling(5), replicas(3, 3, 0, 3, **BOTH), "done"),
    "partition-not-ready": (rolling(2), replicas(3, 2, 1, 3, **BOTH), "pending"),
}


@pytest.mark.parametrize("case", STATEFUL_SETS)
def test_stateful_set_is_judged_as_kubectl_judges_it(frozen: Frozen, case: str) -> None:
    strategy, (spec, status), expected = STATEFUL_SETS[case]
    spec = {"serviceName": "x", **spec, **({"updateStrategy": strategy} if strategy else {})}
    theirs, mine, why = frozen.judged(STATEFUL_SET, case, spec, status)
    assert (theirs, mine) == (expected, expected), why


def nodes(wanted: int, updated: int, available: int, **more: Any) -> Any:
    return {
        "desiredNumberScheduled": wanted,
        "currentNumberScheduled": wanted,
        "updatedNumberScheduled": updated,
        "numberAvailable": available,
        "numberReady": available,
        "numberMisscheduled": 0,
        **more,
    }


DAEMON_SETS: dict[str, tuple[Any, str]] = {
    "complete": (nodes(3, 3, 3), "done"),
    "no-nodes": (nodes(0, 0, 0), "done"),
    "not-observed": (nodes(3, 3, 3, observedGeneration=0), "pending"),
    "not-all-new": (nodes(3, 1, 3), "pending"),
    "not-available": (nodes(3, 3, 2), "pending"),
    "more-scheduled-than-wanted": (nodes(2, 3, 3), "done"),
}


@pytest.mark.parametrize("case", DAEMON_SETS)
def test_daemon_set_is_judged_as_kubectl_judges_it(frozen: Frozen, case: str) -> None:
    status, expected = DAEMON_SETS[case]
    theirs, mine, why = frozen.judged(DAEMON_SET, case, {}, status)
    assert (theirs, mine) == (expected, expected), why


@pytest.mark.parametrize("updated", [1, 3])
def test_replacing_by_hand_is_judged_by_us_alone(frozen: Frozen, updated: int) -> None:
    by_hand = {"updateStrategy": {"type": "OnDelete"}}
    expected = "done" if updated == 3 else "pending"
    spec, status = replicas(3, 3, updated, 3, **BOTH)
    spec = {"serviceName": "x", **spec, **by_hand}
    found = frozen.judged(STATEFUL_SET, f"by-hand-{updated}", spec, status)
    assert found[:2] == ("not judged", expected)
    found = frozen.judged(DAEMON_SET, f"by-hand-{updated}", by_hand, nodes(3, updated, 3))
    assert found[:2] == ("not judged", expected)


# A cluster that moves: incidents, and changes of ours and of kubectl's.


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
        # Both look at one moment only where nothing moves; so it is asked until they could.
        while True:
            before = self.kubectl.get(workload)
            said = verdict(self.kubectl, workload)
            after = self.kubectl.get(workload)
            if before["status"] == after["status"] and before["spec"] == after["spec"]:
                return said, ours(judge(kind, after, []))

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
    assert verdict(both.kubectl, workload) == "done"
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
    assert verdict(both.kubectl, worker) == "done"
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
    until(lambda: verdict(kubectl, workload) == "failed")
    assert both.judged(name) == ("failed", "failed")
    assert "Its last rollout failed" in both.described(name).explanation
    both.portal.call(both.lab.stand_in.mend, fault)
    kubectl.says("patch", workload, "-p", json.dumps(patient))
    until(lambda: verdict(kubectl, workload) == "done")
    assert both.judged(name) == ("done", "done")


def test_pods_that_fail_later_leave_a_rollout_pending_and_not_under_way(both: Both) -> None:
    both.portal.call(both.lab.stand_in.inject, "oom")
    until(lambda: both.described("api").problem == "oom_killed")
    until(lambda: both.judged("api")[0] == "pending")
    both.portal.call(both.lab.stand_in.mend, "oom")
    until(lambda: both.judged("api") == ("done", "done"))
