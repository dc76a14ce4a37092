"""The documents by which a client finds out what this server serves."""

from __future__ import annotations

from typing import Final

from mcp_ops.lab.kubernetes.kinds import KINDS, READ_VERBS, WRITE_VERBS, Obj

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
_REVIEWS: Final = ("SelfSubjectAccessReview", "SelfSubjectRulesReview")


def document(path: str) -> Obj | None:
    """The document at a path, or nothing when the path is no document."""
    fixed = {
        "/version": VERSION,
        "/api": _core_versions(),
        "/apis": {
            "kind": "APIGroupList",
            "apiVersion": "v1",
            "groups": [_group("apps"), _group("authorization.k8s.io")],
        },
        "/apis/apps": {"kind": "APIGroup", "apiVersion": "v1", **_group("apps")},
        "/apis/authorization.k8s.io": {
            "kind": "APIGroup",
            "apiVersion": "v1",
            **_group("authorization.k8s.io"),
        },
        "/api/v1": _resources(""),
        "/apis/apps/v1": _resources("apps"),
        "/apis/authorization.k8s.io/v1": _review_resources(),
    }
    return fixed.get(path)


def _core_versions() -> Obj:
    address = {"clientCIDR": "0.0.0.0/0", "serverAddress": "10.0.0.1:6443"}
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [address]}


def _group(name: str) -> Obj:
    version = {"groupVersion": f"{name}/v1", "version": "v1"}
    return {"name": name, "versions": [version], "preferredVersion": version}


def _resources(group: str) -> Obj:
    listed: list[Obj] = []
    for kind in KINDS:
        if kind.group != group:
            continue
        common = {"singularName": kind.name.lower(), "namespaced": kind.namespaced}
        verbs = sorted({*READ_VERBS, *WRITE_VERBS})
        listed.append(
            {
                "name": kind.plural,
                **common,
                "kind": kind.name,
                "verbs": verbs,
                "shortNames": [kind.short],
            }
        )
        for sub in kind.subresources:
            one = {**common, "singularName": "", "name": f"{kind.plural}/{sub}"}
            listed.append({**one, **_subresource(kind.name, sub)})
    version = f"{group}/v1" if group else "v1"
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": version,
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
