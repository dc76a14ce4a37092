"""OpenAPI v3, as far as kubectl needs it to apply: which writes check fields at the server.

There are no schemas in it, so `kubectl explain` finds nothing.
"""

from __future__ import annotations

from typing import Final

from mcp_ops.lab.kubernetes.kinds import SERVED, Kind, Obj

_ROOT: Final = "/openapi/v3"
_CHECKS: Final = ("dryRun", "fieldManager", "fieldValidation")


def openapi_document(path: str) -> Obj | None:
    """The index, or the document of one group, or nothing."""
    groups = {_address(kind): kind.api_version for kind in SERVED}
    if path == _ROOT:
        served = {one: {"serverRelativeURL": f"{_ROOT}/{one}?hash=0"} for one in groups}
        return {"paths": served}
    address = path.removeprefix(f"{_ROOT}/")
    if not path.startswith(_ROOT) or address not in groups:
        return None
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1.36.0"},
        "paths": {
            _template(kind): _operations(kind)
            for kind in SERVED
            if _address(kind) == address and "patch" in kind.verbs
        },
    }


def _address(kind: Kind) -> str:
    return f"{'apis' if kind.group else 'api'}/{kind.api_version}"


def _template(kind: Kind) -> str:
    within = "namespaces/{namespace}/" if kind.namespaced else ""
    return f"/{_address(kind)}/{within}{kind.plural}/{{name}}"


def _operations(kind: Kind) -> Obj:
    checks = [{"name": one, "in": "query", "schema": {"type": "string"}} for one in _CHECKS]
    what = {"group": kind.group, "version": kind.version, "kind": kind.name}
    patch = {
        "x-kubernetes-action": "patch",
        "x-kubernetes-group-version-kind": what,
        "parameters": checks,
        "responses": {"200": {"description": "OK"}},
    }
    return {"patch": patch}
