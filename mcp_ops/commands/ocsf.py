"""A line of the ledger as an OCSF event: API Activity (6003) of OCSF 1.2.0.

docs/audit.md says which field becomes which attribute, and where that stands. What OCSF has no
attribute for is in `unmapped` under its own name.
"""

from __future__ import annotations

from typing import Any

from mcp_ops.clock import rfc3339
from mcp_ops.records import Entry, Line
from mcp_ops.version import VERSION

SCHEMA = "1.2.0"
_CATEGORY = 6
_CLASS = 6003
_ACTIVITIES = {
    "read": (2, "Read"),
    "write": (3, "Update"),
    "destroy": (4, "Delete"),
}
_STATUS = {
    "ok": (1, "Success"),
    "refused": (2, "Failure"),
    "invalid": (2, "Failure"),
    "failed": (2, "Failure"),
    "error": (2, "Failure"),
    "unknown": (0, "Unknown"),
}
_SEVERITY = {
    "refused": (2, "Low"),
    "invalid": (2, "Low"),
    "failed": (3, "Medium"),
    "error": (3, "Medium"),
    "unknown": (3, "Medium"),
}
_UNMAPPED = (
    "kind", "object", "channel", "era", "effect", "dry_run", "digest", "arguments", "reason",
    "policy", "approval", "verdict", "outcome", "evidence", "upstream_calls", "duration_ms",
    "trace_id", "parent", "writer",
)  # fmt: skip


def event(line: Line) -> dict[str, Any]:
    """The event of a line; times are in milliseconds."""
    entry = line.entry
    activity, activity_name = _activity(entry)
    status, status_name = _STATUS.get(entry.verdict, (99, entry.verdict or entry.kind.value))
    severity, severity_name = _SEVERITY.get(entry.verdict, (1, "Informational"))
    at = round(entry.at * 1000)
    found = {
        "activity_id": activity,
        "activity_name": activity_name,
        "category_uid": _CATEGORY,
        "category_name": "Application Activity",
        "class_uid": _CLASS,
        "class_name": "API Activity",
        "type_uid": _CLASS * 100 + activity,
        "type_name": f"API Activity: {activity_name}",
        "severity_id": severity,
        "severity": severity_name,
        "status_id": status,
        "status": status_name,
        "status_code": entry.code,
        "status_detail": entry.outcome,
        "time": at,
        "message": _message(entry),
        "metadata": _metadata(line),
        "actor": _actor(entry),
        "api": _api(entry),
        "src_endpoint": {"name": entry.client or _principal(entry), "svc_name": entry.channel},
        "dst_endpoint": {"svc_name": entry.target},
        "resources": [_resource(entry)] if entry.target or entry.object else [],
        "observables": _observables(entry),
        "unmapped": {
            **{name: value for name in _UNMAPPED if (value := getattr(entry, name))},
            "previous": line.previous,
            "hash": line.hash,
        },
        **_span(entry, at),
    }
    return {name: value for name, value in _filled(found).items() if value not in ("", [], {})}


def _activity(entry: Entry) -> tuple[int, str]:
    if entry.kind.value == "changed":
        return 3, "Update"
    return _ACTIVITIES.get(entry.effect, (0, "Unknown"))


def _message(entry: Entry) -> str:
    said = (entry.tool, entry.target, entry.object, entry.verdict or entry.kind.value, entry.code)
    return " ".join(part for part in said if part)


def _metadata(line: Line) -> dict[str, Any]:
    return {
        "version": SCHEMA,
        "product": {"name": "mcp-ops", "vendor_name": "mcp-ops", "version": VERSION},
        "profiles": [],
        "uid": line.hash,
        "sequence": line.entry.seq,
        "log_name": "ledger",
        "log_provider": line.entry.writer,
        "correlation_uid": line.entry.call_id,
        "original_time": rfc3339(line.entry.at),
    }


def _principal(entry: Entry) -> str:
    return entry.principal or "unknown"


def _actor(entry: Entry) -> dict[str, Any]:
    kind = _principal(entry).split(":")[0]
    person = {"operator": (1, "User"), "system": (3, "System")}.get(kind, (99, kind))
    user = {
        "name": _principal(entry),
        "uid": _principal(entry),
        "type_id": person[0],
        "type": person[1],
    }
    return {"user": user, "app_name": entry.client}


def _api(entry: Entry) -> dict[str, Any]:
    return {
        "operation": entry.tool or "unknown",
        "request": {"uid": entry.call_id},
        "response": {"error": entry.code},
        "service": {"name": "mcp-ops"},
        "version": VERSION,
    }


def _resource(entry: Entry) -> dict[str, Any]:
    return {
        "uid": "/".join(part for part in (entry.target, entry.object) if part),
        "name": entry.object or entry.target,
        "group": {"name": entry.target},
    }


def _observables(entry: Entry) -> list[dict[str, Any]]:
    found = [
        {"name": "actor.user.name", "type_id": 4, "type": "User Name", "value": _principal(entry)}
    ]
    if entry.target or entry.object:
        value = _resource(entry)["uid"]
        found.append(
            {"name": "resources.uid", "type_id": 10, "type": "Resource UID", "value": value}
        )
    return found


def _span(entry: Entry, at: int) -> dict[str, Any]:
    """How long the call took, and of how many calls a line of a flood is the record."""
    if entry.duration_ms is None:
        return {}
    repeats = entry.evidence.get("repeats", 1) if not entry.upstream_calls else 1
    times: dict[str, Any] = {
        "start_time": round(at - entry.duration_ms),
        "end_time": at,
        "duration": round(entry.duration_ms),
    }
    return {**times, "count": repeats} if isinstance(repeats, int) and repeats > 1 else times


def _filled(found: dict[str, Any]) -> dict[str, Any]:
    """Objects without their empty attributes; `unmapped` stays as it is."""
    return {
        name: {key: each for key, each in value.items() if each not in ("", [], {}, {"error": ""})}
        if isinstance(value, dict) and name != "unmapped"
        else value
        for name, value in found.items()
    }
