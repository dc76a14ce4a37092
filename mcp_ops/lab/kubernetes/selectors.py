"""Label and field selectors, as list and watch requests carry them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from mcp_ops.lab.kubernetes.kinds import EVENT, NAMESPACE, POD, Kind, Obj
from mcp_ops.lab.kubernetes.status import bad_request

Matches = Callable[[Obj], bool]
Labels = dict[str, str]

_KEY: Final = r"[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?"
_SET: Final = re.compile(rf"^({_KEY})\s+(in|notin)\s*\(([^()]*)\)$")
_EQUAL: Final = re.compile(rf"^({_KEY})\s*(==|=|!=)\s*([A-Za-z0-9._-]*)$")
_EXISTS: Final = re.compile(rf"^(!?)\s*({_KEY})$")
_COMMA: Final = re.compile(r",(?![^()]*\))")

_FIELDS: Final = {
    POD.plural: {
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "spec.hostNetwork",
        "status.phase",
        "status.podIP",
        "status.nominatedNodeName",
    },
    EVENT.plural: {
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "source",
        "type",
    },
    NAMESPACE.plural: {"status.phase"},
}


def label_selector(text: str) -> Matches:
    """What tells the objects that a label selector asks for."""
    tests = [_requirement(part.strip()) for part in _COMMA.split(text)] if text.strip() else []

    def matches(obj: Obj) -> bool:
        labels = obj["metadata"].get("labels") or {}
        return all(test(labels) for test in tests)

    return matches


def _requirement(text: str) -> Callable[[Labels], bool]:
    if found := _SET.match(text):
        key, values = found[1], {value.strip() for value in found[4].split(",")}
        wanted = found[3] == "in"
        return lambda labels: (labels.get(key) in values) is wanted
    if found := _EQUAL.match(text):
        key, value, equal = found[1], found[4], found[3] != "!="
        return lambda labels: (labels.get(key) == value) is equal
    if found := _EXISTS.match(text):
        key, there = found[2], not found[1]
        return lambda labels: (key in labels) is there
    raise bad_request(f'unable to parse requirement: found "{text}"')


def field_selector(kind: Kind, text: str) -> Matches:
    """What tells the objects that a field selector asks for."""
    supported = {"metadata.name", "metadata.namespace"} | _FIELDS.get(kind.plural, set())
    tests: list[tuple[str, str, bool]] = []
    for part in filter(None, text.split(",")):
        found = re.match(r"^([^=!]+)(==|=|!=)(.*)$", part)
        if not found:
            raise bad_request(f"invalid selector: '{text}'; can't understand '{part}'")
        if found[1] not in supported:
            raise bad_request(
                f'Unable to find "{kind.api_version}, Resource={kind.plural}" that match label '
                f'selector "", field selector "{text}": field label not supported: {found[1]}'
            )
        tests.append((found[1], found[3], found[2] != "!="))
    return lambda obj: all((_field(obj, path) == value) is same for path, value, same in tests)


def _field(obj: Obj, path: str) -> str:
    """The value of a field as a selector compares it; absent is empty."""
    if path == "source":
        path = "source.component"
    value: object = obj
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)


def matches_labels(selector: Obj, labels: Labels) -> bool:
    """Whether labels fulfil a `LabelSelector` object's `matchLabels`."""
    wanted: Labels = selector.get("matchLabels") or {}
    return all(labels.get(key) == value for key, value in wanted.items())
