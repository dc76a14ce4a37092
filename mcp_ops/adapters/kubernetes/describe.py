"""One workload in full, and what is wrong with it in plain words and numbers."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Final

from mcp_ops.adapters.kubernetes.fields import (
    Obj,
    mapping,
    moment_of,
    objects,
    seconds,
    text,
)
from mcp_ops.adapters.kubernetes.look import PODS, Family
from mcp_ops.adapters.kubernetes.pods import Pod
from mcp_ops.adapters.kubernetes.rollout import judge
from mcp_ops.adapters.kubernetes.symptoms import Symptoms
from mcp_ops.adapters.kubernetes.workloads import (
    DEPLOYMENT,
    STATEFUL_SET,
    Counts,
    counts_of,
    image_of,
    on_delete,
    status_problem,
    stuck_creating,
)
from mcp_ops.capabilities.deployments import (
    Condition,
    DeploymentDetail,
    Problem,
)

RESTARTED_AT: Final = "kubectl.kubernetes.io/restartedAt"
_REVISION: Final = "deployment.kubernetes.io/revision"
_SHOWN: Final = 15
_CREATING: Final = frozenset({"ContainerCreating", "PodInitializing"})
_SLOW_S: Final = 120
_WORST_FIRST: Final[tuple[Problem, ...]] = (
    "oom_killed",
    "image_pull",
    "crash_loop",
    "unschedulable",
)


def detail(family: Family, pods: list[Pod], symptoms: Symptoms, *, now: float) -> DeploymentDetail:
    """The whole answer; `now` in Unix seconds."""
    pods = [pod if pod.message or pod.ready else _complained(pod, symptoms) for pod in pods]
    evictions = sum(pod.evicted for pod in pods)
    kind, workload = family.kind, family.workload
    counts = counts_of(kind, workload)
    problem = problem_of(family, pods)
    shown = sorted(pods, key=lambda pod: (pod.trouble == "none", pod.ready, pod.name))[:_SHOWN]
    return DeploymentDetail(
        name=kind.called(text(workload, "metadata", "name")),
        image=image_of(workload),
        revision=_revision(family) or None,
        generation=counts.generation,
        desired=counts.desired,
        ready=counts.ready,
        updated=counts.updated,
        available=counts.available,
        restarts=sum(pod.restarts for pod in pods),
        oom_kills=sum(pod.oom_kills for pod in pods),
        evictions=evictions or None,
        containers=symptoms.containers(pods),
        probe_failures=symptoms.probes(),
        last_deploy=_last_deploy(family),
        last_restart=moment_of(_template_annotation(workload, RESTARTED_AT)),
        conditions=[_condition(one) for one in objects(workload, "status", "conditions")[:6]],
        events=symptoms.shown(),
        instances=[pod.instance() for pod in shown],
        problem=problem,
        explanation=explain(family, counts, pods, problem) + _probed(symptoms),
    )


def _complained(pod: Pod, symptoms: Symptoms) -> Pod:
    """A pod that says nothing itself, with what an event says: a volume that can't be mounted."""
    return replace(pod, message=symptoms.complaint(pod.uid))


def problem_of(family: Family, pods: list[Pod]) -> Problem:
    """The most telling problem: what the pods suffer from before what the status counts."""
    status = status_problem(family.kind, family.workload)
    return worst_of(status, {pod.trouble for pod in pods})


def worst_of(status: Problem, troubles: Collection[Problem]) -> Problem:
    """The same of what the status tells and what single pods suffer from."""
    if status == "scaled_to_zero":
        return status
    for worst in _WORST_FIRST:
        if worst in troubles:
            return worst
    if status == "none" and "not_ready" in troubles:
        return "not_ready"
    return status


def explain(family: Family, counts: Counts, pods: list[Pod], problem: Problem) -> str:
    """One or two sentences with numbers, without a word of the system's."""
    hit = [pod for pod in pods if pod.trouble == problem]
    restarts = sum(pod.restarts for pod in hit)
    said = {
        "none": "All is as wanted.",
        "scaled_to_zero": "It is scaled to zero: no instance is wanted, so none runs.",
        "paused": "Its rollouts are paused: changes wait until somebody resumes them.",
        "oom_killed": (
            f"{_many(hit)} had a container killed for using too much memory{_limit(hit)}."
        ),
        "image_pull": f"{_many(hit)} can't get the container image.",
        "crash_loop": f"{_many(hit)} crashed again and again ({restarts} restarts).",
        "unschedulable": f"{_many(hit)} found no node that could run it.",
        "rollout_stuck": _stuck(family),
        "rolling_out": (f"A rollout is under way: {judge(family.kind, family.workload, []).why}."),
        "not_ready": "Those that are not ready run, or start, without getting traffic.",
    }[problem]
    parts = [
        f"{counts.ready} of {counts.desired} instances are ready.",
        said,
        _rest(family, problem),
    ]
    parts += _asides(pods)
    if family.cut:
        parts.append(f"Only the first {PODS} instances were looked at.")
    return " ".join(filter(None, parts))


def _asides(pods: list[Pod]) -> list[str]:
    """What is no problem of its own and still worth a sentence."""
    evicted = [pod for pod in pods if pod.evicted]
    slow = [pod for pod in pods if pod.waiting in _CREATING and pod.age_s > _SLOW_S]
    said = []
    if evicted:
        said.append(f"{_many(evicted)} had to leave a node that ran short (evicted).")
    if slow:
        oldest = max(pod.age_s for pod in slow)
        said.append(f"{_many(slow)} can't be created: the oldest waits for {oldest} s.")
    return said


def _probed(symptoms: Symptoms) -> str:
    failed = symptoms.probes()
    if failed is None:
        return ""
    told = [f"{kind} {count} times" for kind, count in failed.model_dump().items() if count]
    return f" Probes failed lately: {', '.join(told)}."


def _limit(hit: list[Pod]) -> str:
    limits = {one.memory_limit for pod in hit for one in pod.containers if one.oom_kills}
    known = sorted(limit for limit in limits if limit is not None)
    return f": its limit is {known[-1]:g} MiB" if known else ""


def _stuck(family: Family) -> str:
    if stuck_creating(family.workload):
        return "The platform can't create instances: a quota or an admission rule forbids it."
    return "The rollout made no progress within its deadline."


def _many(pods: list[Pod]) -> str:
    return "1 instance" if len(pods) == 1 else f"{len(pods)} instances"


def _rest(family: Family, problem: Problem) -> str:
    """What else is good to know: a rollout that waits for the instances in trouble."""
    if on_delete(family.kind, family.workload):
        return "Its instances are replaced only when somebody deletes them (OnDelete)."
    progress = judge(family.kind, family.workload, [])
    if problem not in _WORST_FIRST or progress.done:
        return ""
    if progress.failed:
        return "Its last rollout failed: no progress within the deadline."
    if status_problem(family.kind, family.workload) != "rolling_out":
        return ""  # It was complete once, and its instances failed since.
    return f"A rollout is under way: {progress.why}."


def _condition(one: Obj) -> Condition:
    return Condition(
        type=text(one, "type")[:50],
        status=text(one, "status")[:10],
        reason=text(one, "reason"),
        message=text(one, "message"),
        since=moment_of(text(one, "lastTransitionTime")),
    )


def _revision(family: Family) -> str:
    if family.kind is DEPLOYMENT:
        return text(family.workload, "metadata", "annotations", _REVISION)[:20]
    if family.kind is STATEFUL_SET:
        return text(family.workload, "status", "updateRevision")[:253]
    return ""


def _last_deploy(family: Family) -> str | None:
    """When the newest replica set was made; for other kinds when the newest pod was."""
    made = family.replica_sets if family.kind is DEPLOYMENT else family.pods
    moments = [text(one, "metadata", "creationTimestamp") for one in made]
    known = [(at, moment) for moment in moments if (at := seconds(moment)) is not None]
    return moment_of(max(known)[1]) if known else None


def _template_annotation(workload: Obj, key: str) -> str:
    return text(mapping(workload, "spec", "template", "metadata", "annotations"), key)
