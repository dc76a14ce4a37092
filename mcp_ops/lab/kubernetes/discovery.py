"""The documents by which a client finds out what this server serves."""

from __future__ import annotations

from typing import Final

from mcp_ops.lab.kubernetes.kinds import (
    AUTOSCALER,
    CRON_JOB,
    JOB,
    POD,
    POD_METRICS,
    ROLE,
    SERVED,
    WORKLOADS,
    Obj,
)
from mcp_ops.lab.kubernetes.openapi import openapi_document

VERSION: Final[Obj] = {
    "major": "1",
    "minor": "36",
    "gitVersion": "v1.36.0",
    "gitCommit": "0000000000000000000000000000000000000000",
    "gitTreeState": "clean",
    "buildDate": "2026-01-01T00:00:00Z",
    "goVersion": "go1.26.0",
    "compiler": "gc",
    "platform": "linux/amd64",
}
GROUPS: Final = {
    "apps": "v1",
    "authorization.k8s.io": "v1",
    "autoscaling": "v2",
    "batch": "v1",
    ROLE.group: ROLE.version,
    POD_METRICS.group: POD_METRICS.version,
}
# What a client means by `all`.
_ALL: Final = (POD, *WORKLOADS, JOB, CRON_JOB, AUTOSCALER)
_REVIEWS: Final = ("SelfSubjectAccessReview", "SelfSubjectRulesReview")


def document(path: str, *, measured: bool = True) -> Obj | None:
    """The document at a path, or nothing when the path is no document.

    `measured` is whether the metrics API is there.
    """
    groups = {g: v for g, v in GROUPS.items() if measured or g != POD_METRICS.group}
    fixed: dict[str, Obj] = {
        "/version": VERSION,
        "/api": _core_versions(),
        "/apis": {
            "kind": "APIGroupList",
            "apiVersion": "v1",
            "groups": [_group(group) for group in groups],
        },
        "/api/v1": _resources("", "v1"),
        "/apis/authorization.k8s.io/v1": _review_resources(),
    }
    for group, version in groups.items():
        fixed[f"/apis/{group}"] = {"kind": "APIGroup", "apiVersion": "v1", **_group(group)}
        fixed.setdefault(f"/apis/{group}/{version}", _resources(group, version))
    return fixed.get(path) or openapi_document(path)


def _core_versions() -> Obj:
    address = {"clientCIDR": "0.0.0.0/0", "serverAddress": "10.0.0.1:6443"}
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [address]}


def _group(name: str) -> Obj:
    served = {"groupVersion": f"{name}/{GROUPS[name]}", "version": GROUPS[name]}
    return {"name": name, "versions": [served], "preferredVersion": served}


def _resources(group: str, version: str) -> Obj:
    listed: list[Obj] = []
    for kind in SERVED:
        if kind.group != group:
            continue
        common = {"singularName": kind.name.lower(), "namespaced": kind.namespaced}
        one = {"name": kind.plural, **common, "kind": kind.name, "verbs": sorted(kind.verbs)}
        if kind in _ALL:
            one["categories"] = ["all"]
        listed.append({**one, "shortNames": [kind.short]} if kind.short else one)
        for sub in kind.subresources:
            one = {**common, "singularName": "", "name": f"{kind.plural}/{sub}"}
            listed.append({**one, **_subresource(kind.name, sub)})
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": f"{group}/{version}" if group else version,
        "resources": listed,
    }


def _subresource(kind: str, sub: str) -> Obj:
    if sub == "scale":
        scale = {"group": "autoscaling", "version": "v1", "kind": "Scale"}
        return {**scale, "verbs": ["get", "patch", "update"]}
    if sub == "eviction":
        return {"group": "policy", "version": "v1", "kind": "Eviction", "verbs": ["create"]}
    return {"kind": kind, "verbs": ["get"] if sub == "log" else ["get", "patch", "update"]}


def _review_resources() -> Obj:
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": "authorization.k8s.io/v1",
        "resources": [
            {
                "name": f"{kind.lower()}s",
                "singularName": kind.lower(),
                "namespaced": False,
                "kind": kind,
                "verbs": ["create"],
            }
            for kind in _REVIEWS
        ],
    }
