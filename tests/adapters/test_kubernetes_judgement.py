"""What the adapter makes of objects: rollouts, problems, levels. Pure functions, real shapes."""

from __future__ import annotations

from typing import Any

import pytest

from mcp_ops.adapters.kubernetes.describe import detail
from mcp_ops.adapters.kubernetes.look import Family, selector_of
from mcp_ops.adapters.kubernetes.pods import Pod, read_pod
from mcp_ops.adapters.kubernetes.rollout import blocked, judge
from mcp_ops.adapters.kubernetes.symptoms import Symptoms
from mcp_ops.adapters.kubernetes.workloads import (
    DAEMON_SET,
    DEPLOYMENT,
    STATEFUL_SET,
    Kind,
    counts_of,
    parse_name,
    status_problem,
)
from mcp_ops.errors import InvalidInput
from mcp_ops.wire.log_lines import level_of

NOW = 1_780_000_000.0  # 2026-05-28T20:26:40Z


def workload(
    *, spec: dict[str, Any] | None = None, generation: int = 2, **status: Any
) -> dict[str, Any]:
    return {
        "metadata": {"name": "x", "uid": "u", "generation": generation},
        "spec": {"replicas": 3, **(spec or {})},
        "status": {"observedGeneration": 2, **status},
    }


def progressing(reason: str) -> list[dict[str, str]]:
    return [{"type": "Progressing", "status": "True", "reason": reason}]


DONE: dict[str, Any] = {
    "replicas": 3,
    "updatedReplicas": 3,
    "readyReplicas": 3,
    "availableReplicas": 3,
}
NODES: dict[str, Any] = {
    "desiredNumberScheduled": 3,
    "currentNumberScheduled": 3,
    "updatedNumberScheduled": 3,
    "numberAvailable": 3,
    "numberReady": 3,
}
ONE_REVISION: dict[str, Any] = {"currentRevision": "a", "updateRevision": "a"}
TWO_REVISIONS: dict[str, Any] = {"currentRevision": "a", "updateRevision": "b"}
ROLLING = {"type": "RollingUpdate"}
PARTITION = {"updateStrategy": {**ROLLING, "rollingUpdate": {"partition": 2}}}
ON_DELETE = {"updateStrategy": {"type": "OnDelete"}}


@pytest.mark.parametrize(
    ("kind", "obj", "done", "why"),
    [
        (DEPLOYMENT, workload(**DONE), True, "complete"),
        (
            DEPLOYMENT,
            workload(**DONE, generation=3),
            False,
            "the platform has not looked at the new generation yet",
        ),
        (
            DEPLOYMENT,
            workload(**{**DONE, "updatedReplicas": 1}),
            False,
            "1 of 3 instances are of the new generation",
        ),
        (
            DEPLOYMENT,
            workload(**{**DONE, "replicas": 4}),
            False,
            "1 old instances have not ended",
        ),
        (
            DEPLOYMENT,
            workload(**{**DONE, "availableReplicas": 2}),
            False,
            "2 of 3 new instances are available",
        ),
        (DAEMON_SET, workload(**NODES), True, "complete"),
        (
            DAEMON_SET,
            workload(**{**NODES, "updatedNumberScheduled": 1}),
            False,
            "1 of 3 instances are of the new generation",
        ),
        (
            DAEMON_SET,
            workload(**{**NODES, "numberAvailable": 1}),
            False,
            "1 of 3 new instances are available",
        ),
        (STATEFUL_SET, workload(**DONE, **ONE_REVISION), True, "complete"),
        (
            STATEFUL_SET,
            workload(**{**DONE, "readyReplicas": 2}, **TWO_REVISIONS),
            False,
            "2 of 3 instances are ready",
        ),
        (
            STATEFUL_SET,
            workload(**{**DONE, "updatedReplicas": 2}, **TWO_REVISIONS),
            False,
            "2 of 3 instances are of the new generation",
        ),
        (STATEFUL_SET, workload(**DONE, **TWO_REVISIONS), True, "complete"),
        (
            STATEFUL_SET,
            workload(spec=PARTITION, **{**DONE, "updatedReplicas": 1}, **TWO_REVISIONS),
            True,
            "complete",
        ),
        (
            STATEFUL_SET,
            workload(spec=PARTITION, **{**DONE, "updatedReplicas": 0}, **TWO_REVISIONS),
            False,
            "0 of 1 instances are of the new generation",
        ),
    ],
)
def test_rollout_is_judged_as_kubectl_judges_it(
    kind: Kind, obj: dict[str, Any], done: bool, why: str
) -> None:
    found = judge(kind, obj, [])
    assert (found.done, found.failed, found.why) == (done, False, why)


def test_missed_deadline_is_a_failed_rollout() -> None:
    obj = workload(**DONE, conditions=progressing("ProgressDeadlineExceeded"))
    assert judge(DEPLOYMENT, obj, []).failed
    obj["metadata"]["generation"] = 3
    assert not judge(DEPLOYMENT, obj, []).failed


@pytest.mark.parametrize(
    ("kind", "obj", "problem"),
    [
        (DEPLOYMENT, workload(**DONE), "none"),
        (DEPLOYMENT, workload(spec={"replicas": 0}), "scaled_to_zero"),
        (DEPLOYMENT, workload(spec={"paused": True}, **DONE), "paused"),
        (
            DEPLOYMENT,
            workload(**DONE, conditions=progressing("ProgressDeadlineExceeded")),
            "rollout_stuck",
        ),
        (
            DEPLOYMENT,
            workload(**DONE, generation=3, conditions=progressing("ProgressDeadlineExceeded")),
            "rolling_out",
        ),
        (
            DEPLOYMENT,
            workload(conditions=[{"type": "ReplicaFailure", "status": "True"}]),
            "rollout_stuck",
        ),
        (
            DEPLOYMENT,
            workload(
                **{**DONE, "availableReplicas": 1}, conditions=progressing("ReplicaSetUpdated")
            ),
            "rolling_out",
        ),
        (
            DEPLOYMENT,
            workload(
                **{**DONE, "availableReplicas": 1},
                conditions=progressing("NewReplicaSetAvailable"),
            ),
            "not_ready",
        ),
        (STATEFUL_SET, workload(spec=PARTITION, **{**DONE, "updatedReplicas": 1}), "none"),
        (STATEFUL_SET, workload(**{**DONE, "updatedReplicas": 1}), "rolling_out"),
        (STATEFUL_SET, workload(spec=ON_DELETE, **{**DONE, "updatedReplicas": 1}), "none"),
        (STATEFUL_SET, workload(**{**DONE, "readyReplicas": 1}), "not_ready"),
        (DAEMON_SET, workload(), "none"),
        (DAEMON_SET, workload(**NODES), "none"),
        (DAEMON_SET, workload(**{**NODES, "numberReady": 1}), "not_ready"),
    ],
)
def test_problem_is_derived_from_the_status_alone(
    kind: Kind, obj: dict[str, Any], problem: str
) -> None:
    assert status_problem(kind, obj) == problem


@pytest.mark.parametrize(
    ("kind", "spec", "word"),
    [
        (DEPLOYMENT, {"paused": True}, "paused"),
        (STATEFUL_SET, ON_DELETE, "OnDelete"),
        (DAEMON_SET, ON_DELETE, "OnDelete"),
        (DEPLOYMENT, {"replicas": 0}, "zero"),
        (
            STATEFUL_SET,
            {"updateStrategy": {**ROLLING, "rollingUpdate": {"partition": 3}}},
            "partition",
        ),
    ],
)
def test_restart_is_blocked_where_it_would_replace_nothing(
    kind: Kind, spec: dict[str, Any], word: str
) -> None:
    obj = workload(spec=spec, **DONE, **NODES)
    assert word in blocked(kind, obj, counts_of(kind, obj))


def pod(
    *,
    ready: bool = False,
    waiting: str = "",
    ended: dict[str, Any] | None = None,
    started: bool = True,
    **more: Any,
) -> dict[str, Any]:
    status: dict[str, Any] = {
        "restartCount": 2,
        "started": started,
        "state": {"waiting": {"reason": waiting}} if waiting else {"running": {}},
        "lastState": {"terminated": ended} if ended else {},
    }
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    conditions += more.pop("conditions", [])
    return {
        "metadata": {"name": "p", "uid": "1", **more},
        "status": {"phase": "Running", "conditions": conditions, "containerStatuses": [status]},
    }


OOM = {"reason": "OOMKilled", "exitCode": 137, "finishedAt": "2026-05-28T20:20:00Z"}
OLD_OOM = {**OOM, "finishedAt": "2026-05-20T00:00:00Z"}
UNSCHEDULABLE = [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]


@pytest.mark.parametrize(
    ("obj", "problem"),
    [
        (pod(ready=True), "none"),
        (pod(), "not_ready"),
        (pod(started=False), "none"),
        (pod(waiting="CrashLoopBackOff"), "crash_loop"),
        (pod(waiting="CrashLoopBackOff", ended=OLD_OOM), "oom_killed"),
        (pod(ready=True, ended=OOM), "oom_killed"),
        (pod(ready=True, ended=OLD_OOM), "none"),
        (pod(ready=True, ended={"reason": "Error", "exitCode": 1}), "none"),
        (pod(waiting="ImagePullBackOff", started=False), "image_pull"),
        (pod(waiting="ErrImagePull", started=False), "image_pull"),
        (pod(waiting="CreateContainerConfigError", started=False), "not_ready"),
        (pod(waiting="ContainerCreating", started=False), "none"),
        (pod(started=False, conditions=UNSCHEDULABLE), "unschedulable"),
        (pod(waiting="CrashLoopBackOff", deletionTimestamp="2026-05-28T20:20:00Z"), "none"),
    ],
)
def test_trouble_of_a_pod_is_read_from_its_containers(obj: dict[str, Any], problem: str) -> None:
    assert read_pod(obj, now=NOW).trouble == problem


def family(kind: Kind, obj: dict[str, Any], *, cut: bool = False) -> Family:
    return Family(kind=kind, workload=obj, replica_sets=[], pods=[], cut=cut)


def described(obj: dict[str, Any], pods: list[dict[str, Any]], *, cut: bool = False) -> Any:
    read: list[Pod] = [read_pod(one, now=NOW) for one in pods]
    return detail(family(DEPLOYMENT, obj, cut=cut), read, Symptoms(), now=NOW)


@pytest.mark.parametrize(
    ("obj", "pods", "problem", "words"),
    [
        (workload(**DONE), [pod(ready=True, ended=OOM)], "oom_killed", "too much memory"),
        (workload(**DONE), [pod(waiting="ErrImagePull")] * 2, "image_pull", "2 instances can't"),
        (workload(), [pod(started=False, conditions=UNSCHEDULABLE)], "unschedulable", "no node"),
        (workload(spec={"replicas": 0}), [pod()], "scaled_to_zero", "scaled to zero"),
        (workload(spec={"paused": True}, **DONE), [], "paused", "paused"),
        (
            workload(conditions=[{"type": "ReplicaFailure", "status": "True"}]),
            [],
            "rollout_stuck",
            "quota",
        ),
        (
            workload(conditions=progressing("ProgressDeadlineExceeded")),
            [],
            "rollout_stuck",
            "no progress",
        ),
        (
            workload(conditions=progressing("ProgressDeadlineExceeded")),
            [pod(waiting="CrashLoopBackOff")],
            "crash_loop",
            "Its last rollout failed",
        ),
        (
            workload(
                **{**DONE, "availableReplicas": 1}, conditions=progressing("ReplicaSetUpdated")
            ),
            [pod(waiting="CrashLoopBackOff")],
            "crash_loop",
            "A rollout is under way: 1 of 3 new instances are available.",
        ),
        (workload(**DONE), [pod()], "not_ready", "without getting traffic"),
    ],
)
def test_explanation_names_the_most_telling_problem(
    obj: dict[str, Any], pods: list[dict[str, Any]], problem: str, words: str
) -> None:
    found = described(obj, pods)
    assert found.problem == problem
    assert words in found.explanation


def test_instances_that_fail_after_a_complete_rollout_are_no_rollout() -> None:
    complete = progressing("NewReplicaSetAvailable")
    obj = workload(**{**DONE, "availableReplicas": 1}, conditions=complete)
    found = described(obj, [pod(waiting="CrashLoopBackOff")])
    assert found.problem == "crash_loop"
    assert "rollout" not in found.explanation


def test_explanation_says_when_not_every_instance_was_looked_at() -> None:
    assert (
        "Only the first 500" in described(workload(**DONE), [pod(ready=True)], cut=True).explanation
    )


def test_memory_kills_and_restarts_are_summed() -> None:
    found = described(workload(**DONE), [pod(ready=True, ended=OLD_OOM), pod(ready=True)])
    assert (found.oom_kills, found.restarts, found.problem) == (1, 4, "none")
    assert found.instances[0].last_exit == "OOMKilled (exit code 137)"


def test_selector_carries_labels_and_expressions() -> None:
    selector = {
        "matchLabels": {"app": "x"},
        "matchExpressions": [
            {"key": "tier", "operator": "In", "values": ["a", "b"]},
            {"key": "tier", "operator": "NotIn", "values": ["c"]},
            {"key": "old", "operator": "DoesNotExist"},
            {"key": "new", "operator": "Exists"},
        ],
    }
    assert selector_of({"spec": {"selector": selector}}) == (
        "app=x,tier in (a,b),tier notin (c),!old,new"
    )


@pytest.mark.parametrize(
    ("line", "level"),
    [
        ('{"severity":"ERROR","message":"x"}', 3),
        ("level=info msg=error", 1),
        ("2026-01-01 [WARN] slow", 2),
        ("W0102 10:00:00 klog", 2),
        ("DEBUG x", 0),
        ("Traceback (most recent call last):", 3),
        ("    at com.example.Main", 3),
        ("level=custom fatal", 3),
    ],
)
def test_level_of_a_line_is_found_or_inherited(line: str, level: int) -> None:
    assert level_of(line, 3) == level


def test_names_say_their_kind() -> None:
    assert parse_name("api") == (DEPLOYMENT, "api")
    assert parse_name("deployment/api") == (DEPLOYMENT, "api")
    assert parse_name("daemonset/agent") == (DAEMON_SET, "agent")
    with pytest.raises(InvalidInput):
        parse_name("cronjob/x")
