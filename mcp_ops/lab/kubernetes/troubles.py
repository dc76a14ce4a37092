"""What ails a container or a pod: told by its image, its variables, its probes and its limits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from typing import Any, Final

from mcp_ops.lab.kubernetes.kinds import Obj

NODES: Final = ("node-a", "node-b")
NODE_CPU: Final = 8.0
NODE_MEMORY: Final = 16 * 2**30
_UNITS: Final = {
    "": 1.0,
    "n": 1e-9,
    "u": 1e-6,
    "m": 1e-3,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "Ki": 2.0**10,
    "Mi": 2.0**20,
    "Gi": 2.0**30,
    "Ti": 2.0**40,
}
_QUANTITY: Final = re.compile(r"^([0-9]{1,15}(?:\.[0-9]{1,9})?)([a-zA-Z]{0,2})$")


class Trouble(Enum):
    """Why a container does not do its work."""

    NONE = ""
    IMAGE = "its image can't be pulled"
    CRASH = "it ends at once"
    MEMORY = "it takes more memory than its limit"
    LIVENESS = "its liveness probe fails"
    READINESS = "its readiness probe fails"


RESTARTING: Final = (Trouble.CRASH, Trouble.MEMORY, Trouble.LIVENESS)


def quantity(text: object) -> float:
    """The number of a Kubernetes quantity such as `128Mi` or `250m`; 0 for what is none."""
    found = _QUANTITY.match(str(text))
    if not found or found[2] not in _UNITS:
        return 0.0
    return float(found[1]) * _UNITS[found[2]]


def tag_of(container: Obj) -> str:
    """The tag of a container's image."""
    return str(container.get("image", "")).rpartition("/")[2].partition(":")[2]


def variable(container: Obj, name: str) -> str:
    """The value of an environment variable of a container; empty when there is none."""
    env = container.get("env")
    for one in env if isinstance(env, list) else []:
        if isinstance(one, dict) and one.get("name") == name:
            return str(one.get("value", ""))
    return ""


def broken(container: Obj) -> bool:
    """Whether a container can't stay up: its tag says so, or its `LAB_BROKEN` variable does."""
    return "broken" in tag_of(container) or variable(container, "LAB_BROKEN") == "true"


def amount(container: Obj, what: str, resource: str) -> float:
    """What a container asks for (`requests`) or may have (`limits`); 0 when it does not say."""
    resources = container.get("resources")
    given = resources.get(what) if isinstance(resources, dict) else None
    return quantity(given.get(resource)) if isinstance(given, dict) else 0.0


def memory_of(appetite: Mapping[tuple[str, str], int], pod: Obj, container: Obj) -> float:
    """The bytes that a container takes: what it was made to want, or half of what it asks for."""
    wanted = variable(container, "LAB_MEMORY")
    if wanted:
        return quantity(wanted)
    app = (pod["metadata"].get("labels") or {}).get("app", "")
    extra = appetite.get((pod["metadata"]["namespace"], app), 0)
    return float(extra) or amount(container, "requests", "memory") / 2 or 48.0 * 2**20


def trouble(appetite: Mapping[tuple[str, str], int], pod: Obj, container: Obj) -> Trouble:
    """What ails a container, the first thing that it meets."""
    if "missing" in tag_of(container):
        return Trouble.IMAGE
    if broken(container):
        return Trouble.CRASH
    limit = amount(container, "limits", "memory")
    if limit and memory_of(appetite, pod, container) > limit:
        return Trouble.MEMORY
    if _fails(container, "livenessProbe"):
        return Trouble.LIVENESS
    if _fails(container, "readinessProbe"):
        return Trouble.READINESS
    return Trouble.NONE


def _fails(container: Obj, probe: str) -> bool:
    asked: Any = container.get(probe)
    get = asked.get("httpGet") if isinstance(asked, dict) else None
    return isinstance(get, dict) and "missing" in str(get.get("path", ""))


def unschedulable(pod: Obj) -> str:
    """Why no node takes a pod, in the scheduler's words; empty when one does."""
    spec, nodes = pod["spec"], len(NODES)
    selector = spec.get("nodeSelector")
    labels = {"kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
    if isinstance(selector, dict) and any(labels.get(k) != v for k, v in selector.items()):
        return (
            f"0/{nodes} nodes are available: {nodes} node(s) didn't match Pod's node "
            f"affinity/selector. preemption: 0/{nodes} nodes are available: {nodes} Preemption "
            "is not helpful for scheduling."
        )
    short = [
        f"{nodes} Insufficient {resource}"
        for resource, most in (("cpu", NODE_CPU), ("memory", NODE_MEMORY))
        if sum(amount(one, "requests", resource) for one in _containers(spec)) > most
    ]
    if not short:
        return ""
    return (
        f"0/{nodes} nodes are available: {', '.join(short)}. preemption: 0/{nodes} nodes are "
        f"available: {nodes} No preemption victims found for incoming pod."
    )


def _containers(spec: Obj) -> list[Obj]:
    return [one for one in spec["containers"] if isinstance(one, dict)]
