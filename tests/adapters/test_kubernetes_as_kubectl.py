"""Rollouts as the real kubectl judges them: statuses written by hand, where nothing moves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from mcp_ops.adapters.kubernetes.rollout import judge
from mcp_ops.adapters.kubernetes.workloads import DAEMON_SET, DEPLOYMENT, STATEFUL_SET, Kind
from tests.kubectl import Cluster, cluster, ours

NEVER_S = 3_600.0
AT = "2026-05-28T20:20:00Z"


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
        return kubectl.verdict(workload), ours(state), state.why


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
