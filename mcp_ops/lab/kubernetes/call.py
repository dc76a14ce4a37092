"""A request to an object or a collection, taken apart as the API server takes it apart."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from mcp_ops.lab.kubernetes.kinds import NAMESPACE, Kind, find_kind
from mcp_ops.lab.kubernetes.patch import APPLY_PATCH, PATCH_TYPES
from mcp_ops.lab.kubernetes.protobuf import PROTOBUF, parse_protobuf
from mcp_ops.lab.kubernetes.status import bad_request, method_not_allowed, unsupported_media_type

JSON: Final = "application/json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """What a path names."""

    kind: Kind
    namespace: str
    name: str
    sub: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request, with everything a handler reads of it."""

    address: Address
    verb: str
    params: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    @property
    def dry_run(self) -> bool:
        """Whether nothing shall be kept."""
        return self.params.get("dryRun", "") == "All"

    @property
    def manager(self) -> str:
        """Who writes, as `managedFields` names it."""
        agent = self.headers.get("user-agent", "unknown").partition("/")[0]
        return self.params.get("fieldManager") or agent

    @property
    def media_type(self) -> str:
        """The type of the body."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    def document(self) -> Any:
        """The body as JSON; an object that is written must be."""
        accepted = PATCH_TYPES if self.verb == "patch" else (JSON, PROTOBUF)
        if self.media_type not in accepted and not (self.media_type == "" and JSON in accepted):
            raise unsupported_media_type(accepted)
        if self.media_type == PROTOBUF:
            return parse_protobuf(self.body)
        return parse_yaml(self.body) if self.media_type == APPLY_PATCH else parse(self.body)

    def options(self) -> dict[str, Any]:
        """The `DeleteOptions` of a deletion, which may come without a body."""
        if not self.body.strip():
            return {}
        options = parse(self.body)
        if not isinstance(options, dict) or not isinstance(
            options.get("preconditions") or {}, dict
        ):
            raise bad_request("couldn't get version/kind; json parse error")
        return options


def parse(body: bytes) -> Any:
    """JSON as the API server reads it: UTF-8, and no numbers that JSON does not have."""
    try:
        return json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as exc:
        raise bad_request(f"couldn't get version/kind; json parse error: {exc}") from exc


def parse_yaml(body: bytes) -> Any:
    """A configuration that is applied: YAML, of which JSON is a part."""
    import yaml

    try:
        document = yaml.safe_load(body)
        # What JSON has no form for, a date for example, is no configuration.
        return json.loads(json.dumps(document, allow_nan=False))
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as exc:
        raise bad_request(f"error decoding YAML: {type(exc).__name__}") from exc


def _no_constant(name: str) -> Any:
    raise ValueError(f"invalid number {name}")


def parse_path(path: str) -> Address | None:
    """The address of a path, or nothing when no such resource is served."""
    parts = path.strip("/").split("/")
    if parts[:2] == ["api", "v1"]:
        group, rest = "", parts[2:]
    elif len(parts) > 3 and parts[0] == "apis":
        group, rest = parts[1], parts[3:]
    else:
        return None
    namespace = ""
    if len(rest) > 2 and rest[0] == NAMESPACE.plural and find_kind(group, rest[2]):
        namespace, rest = rest[1], rest[2:]
    kind = find_kind(group, rest[0]) if rest else None
    if kind is None or len(rest) > 3 or not all(rest) or _version(parts) != kind.version:
        return None
    name, sub = (*rest[1:], "", "")[:2]
    if sub and sub not in kind.subresources:
        return None
    if kind.namespaced and name and not namespace:
        return None
    if kind is NAMESPACE:
        namespace = name
    return Address(kind=kind, namespace=namespace, name=name, sub=sub)


def _version(parts: list[str]) -> str:
    return parts[1] if parts[0] == "api" else parts[2]


def verb_of(method: str, address: Address, params: Mapping[str, str]) -> str:
    """The verb that is authorised: what a method means at an address."""
    whole = not address.name
    verbs = {
        "GET": "list" if whole else "get",
        "HEAD": "list" if whole else "get",
        "POST": "create" if whole or address.sub == "eviction" else "",
        "PUT": "" if whole else "update",
        "PATCH": "" if whole else "patch",
        "DELETE": "deletecollection" if whole else "" if address.sub else "delete",
    }
    verb = verbs.get(method, "")
    if verb not in {"eviction": ("create",), "log": ("get",)}.get(address.sub, (verb,)):
        verb = ""
    if whole and verb == "create" and address.kind.namespaced and not address.namespace:
        verb = ""
    if verb not in address.kind.verbs:
        raise method_not_allowed(address.kind, method)
    watch = params.get("watch", "").lower() in ("1", "true")
    return "watch" if verb == "list" and watch else verb
