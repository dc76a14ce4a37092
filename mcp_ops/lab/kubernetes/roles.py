"""Roles as RBAC writes them, and the ones that the lab's tokens can have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mcp_ops.lab.kubernetes.kinds import READ_VERBS

_ACCOUNT: Final = "system:serviceaccount:mcp-ops:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule: what may be done to which resources; `*` stands for all.

    A subresource is a resource of its own, such as `deployments/scale`. With names, only objects
    of these names are meant, and so no list and no create.
    """

    groups: tuple[str, ...]
    resources: tuple[str, ...]
    verbs: tuple[str, ...]
    names: tuple[str, ...] = ()

    def allows(self, verb: str, group: str, resource: str, name: str) -> bool:
        """Whether this rule grants it."""
        return (
            _among(verb, self.verbs)
            and _among(group, self.groups)
            and (_among(resource, self.resources) or _any_parent(resource, self.resources))
            and (not self.names or name in self.names)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """A user, and the rules by which it is let through; rules only ever add."""

    user: str
    rules: tuple[Rule, ...]

    def allows(self, verb: str, group: str, resource: str, name: str = "") -> bool:
        """Whether a rule grants it."""
        return any(rule.allows(verb, group, resource, name) for rule in self.rules)


def _among(value: str, listed: tuple[str, ...]) -> bool:
    return "*" in listed or value in listed


def _any_parent(resource: str, listed: tuple[str, ...]) -> bool:
    """Whether `*/scale` and the like are granted."""
    _, slash, sub = resource.partition("/")
    return bool(slash) and f"*/{sub}" in listed


OPERATOR: Final = Role(
    user=f"{_ACCOUNT}operator", rules=(Rule(groups=("*",), resources=("*",), verbs=("*",)),)
)
_SEEN: Final = (
    Rule(groups=("",), resources=("pods", "pods/log", "events", "configmaps"), verbs=READ_VERBS),
    Rule(
        groups=("apps",),
        resources=(
            "deployments",
            "deployments/scale",
            "replicasets",
            "statefulsets",
            "statefulsets/scale",
            "daemonsets",
            "controllerrevisions",
        ),
        verbs=READ_VERBS,
    ),
    Rule(groups=("batch",), resources=("jobs", "cronjobs"), verbs=READ_VERBS),
    Rule(groups=("autoscaling",), resources=("horizontalpodautoscalers",), verbs=READ_VERBS),
    Rule(groups=("metrics.k8s.io",), resources=("pods",), verbs=("get", "list")),
)
READER: Final = Role(user=f"{_ACCOUNT}reader", rules=_SEEN)
WRITER: Final = Role(
    user=f"{_ACCOUNT}writer",
    rules=(
        *_SEEN,
        Rule(
            groups=("apps",),
            resources=("deployments", "statefulsets", "daemonsets"),
            verbs=("patch",),
        ),
        Rule(
            groups=("apps",),
            resources=("deployments/scale", "statefulsets/scale"),
            verbs=("patch", "update"),
        ),
        Rule(groups=("batch",), resources=("jobs",), verbs=("create", "patch", "delete")),
        Rule(groups=("batch",), resources=("cronjobs",), verbs=("patch",)),
        Rule(groups=("autoscaling",), resources=("horizontalpodautoscalers",), verbs=("patch",)),
    ),
)
NOBODY: Final = Role(user=f"{_ACCOUNT}nobody", rules=())
