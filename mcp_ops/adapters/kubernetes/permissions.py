"""Which rights each tool needs in the target's namespace: the one source of the manifests in
`deploy/kubernetes`, of the chart's roles and of what `mcp-ops doctor` misses.

A test runs each tool with its own rights and no others against the lab's Kubernetes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

Part = Literal["read", "write", "destroy", "references"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """One right. `resource` is plural, group and subresource apart: `pods`, `apps`, `log`.

    A tool does without an optional one and leaves out what `without` says.
    """

    verb: str
    resource: str
    group: str = ""
    sub: str = ""
    without: str = ""

    @property
    def named(self) -> str:
        """The resource as access rules write it, without its group."""
        return f"{self.resource}/{self.sub}" if self.sub else self.resource

    @property
    def spoken(self) -> str:
        """The resource as people read it: with its group where it has a namesake."""
        return f"{self.named} of {self.group}" if "." in self.group else self.named


def _needs(verbs: str, resources: str, group: str = "", without: str = "") -> tuple[Need, ...]:
    found = []
    for verb in verbs.split():
        for named in resources.split():
            resource, _, sub = named.partition("/")
            found.append(Need(verb=verb, resource=resource, group=group, sub=sub, without=without))
    return tuple(found)


_WORKLOADS: Final = "deployments statefulsets daemonsets"
_SCALED: Final = "deployments statefulsets"
_OWNED: Final = _needs("list", "replicasets", "apps") + _needs("list", "pods")
_LOOK: Final = _needs("get", _WORKLOADS, "apps") + _OWNED
_CHANGE: Final = (*_LOOK, *_needs("patch", _WORKLOADS, "apps"))
_SCALE: Final = (*_needs("get patch", _SCALED, "apps"), *_OWNED)
_PAUSE: Final = (*_needs("get patch", "deployments", "apps"), *_OWNED)
_HISTORY: Final = _needs("list", "replicasets controllerrevisions", "apps")
_SCALERS: Final = _needs("list", "horizontalpodautoscalers", "autoscaling")
_REFERENCES: Final = _needs(
    "get", "configmaps secrets", without="whether a referenced ConfigMap or Secret has its key"
)
_HOLD: Final = _needs("get patch", "cronjobs", "batch")
_JOB: Final = (
    *_needs("get", "jobs cronjobs", "batch"),
    *_needs("list", "jobs", "batch"),
    *_needs("list", "pods"),
)

NEEDS: Final[Mapping[str, tuple[Need, ...]]] = {
    "list_deployments": (
        *_needs("list", _WORKLOADS, "apps"),
        *_needs("list", "pods", without="restarts, and what pods suffer from"),
    ),
    "get_deployment": (
        *_LOOK,
        *_needs("list", "events", without="events and failed probes"),
        *_needs("list", "pods", "metrics.k8s.io", without="what containers use"),
    ),
    "get_deployment_logs": (*_LOOK, *_needs("get", "pods/log")),
    "list_revisions": (*_needs("get", _WORKLOADS, "apps"), *_HISTORY),
    "list_config": (*_needs("get", _WORKLOADS, "apps"), *_REFERENCES),
    "list_jobs": _needs("list", "jobs cronjobs", "batch"),
    "restart_deployment": _CHANGE,
    "rollback_deployment": (*_CHANGE, *_HISTORY[1:]),
    "scale_deployment": (*_SCALE, *_SCALERS),
    "start_deployment": _SCALE,
    "pause_rollout": _PAUSE,
    "resume_rollout": _PAUSE,
    "set_resources": _CHANGE,
    "set_config": (*_CHANGE, *_HISTORY[1:], *_REFERENCES),
    "set_autoscaling": (
        *_needs("get", _SCALED, "apps"),
        *_SCALERS,
        *_needs("get patch", "horizontalpodautoscalers", "autoscaling"),
    ),
    "restart_instance": (*_LOOK, *_needs("get", "pods"), *_needs("create", "pods/eviction")),
    "run_job": (*_JOB, *_needs("create", "jobs", "batch")),
    "suspend_job": (*_HOLD, *_needs("list", "jobs", "batch")),
    "resume_job": _HOLD,
    "stop_deployment": (*_SCALE, *_SCALERS),
    "stop_job": (*_JOB, *_needs("delete", "jobs", "batch")),
}
# By what a tool can do at worst with its ordinary arguments; a test holds them against the tools.
_DESTROYS: Final = frozenset({"stop_deployment", "stop_job"})


def part_of(tool: str) -> Part:
    """In which manifest a tool's rights stand."""
    if tool in _DESTROYS:
        return "destroy"
    return "read" if tool.startswith(("list_", "get_")) else "write"


def rules(part: Part) -> list[dict[str, list[str]]]:
    """The rules that a manifest adds to those before it.

    Reading whether a reference holds stands apart: it takes the right to read Secrets.
    """
    if part == "references":
        return _grouped(_REFERENCES)
    before: dict[Part, tuple[Part, ...]] = {"read": (), "write": ("read",)}
    earlier = {need for each in before.get(part, ("read", "write")) for need in _of(each)}
    return _grouped([need for need in _of(part) if need not in earlier])


def _of(part: Part) -> list[Need]:
    found: dict[Need, None] = {}
    for tool, needs in NEEDS.items():
        if part_of(tool) == part:
            for need in needs:
                found[
                    Need(verb=need.verb, resource=need.resource, group=need.group, sub=need.sub)
                ] = None
    secret = {(need.verb, need.named) for need in _REFERENCES}
    return [need for need in found if (need.verb, need.named) not in secret]


def _grouped(needs: Iterable[Need]) -> list[dict[str, list[str]]]:
    """Rules as RBAC writes them: resources of one group with the same verbs share one."""
    verbs: dict[tuple[str, str], list[str]] = {}
    for need in needs:
        held = verbs.setdefault((need.group, need.named), [])
        if need.verb not in held:
            held.append(need.verb)
    shared: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (group, named), held in verbs.items():
        shared.setdefault((group, tuple(sorted(held))), []).append(named)
    return [
        {"apiGroups": [group], "resources": named, "verbs": list(held)}
        for (group, held), named in sorted(shared.items())
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """What a review of the caller's rules says. Without `complete`, what is not there is not
    known."""

    rules: tuple[Mapping[str, Any], ...]
    complete: bool

    def allows(self, need: Need) -> bool:
        """Whether a rule grants it for every object of the namespace."""
        return any(_grants(rule, need) for rule in self.rules)


def _grants(rule: Mapping[str, Any], need: Need) -> bool:
    named = {need.named, "*", *({f"*/{need.sub}"} if need.sub else ())}
    return (
        _among(rule, "verbs", {need.verb, "*"})
        and _among(rule, "apiGroups", {need.group, "*"})
        and _among(rule, "resources", named)
        and not rule.get("resourceNames")
    )


def _among(rule: Mapping[str, Any], key: str, wanted: set[str]) -> bool:
    held = rule.get(key)
    return isinstance(held, list) and any(isinstance(one, str) and one in wanted for one in held)


def needs_of(tools: Iterable[str]) -> Iterator[tuple[str, Need]]:
    """Each tool with each of its needs, in the order of the table above."""
    chosen = set(tools)
    for tool, needs in NEEDS.items():
        if tool in chosen:
            for need in needs:
                yield tool, need
