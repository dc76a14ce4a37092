"""The coordinator's items: from a member's bytes to an item, and to the bytes after a retry."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mcp_ops.capabilities.deadletter_items import Item, safe_id, unix_seconds
from mcp_ops.capabilities.deadletters import RetryEnd
from mcp_ops.clock import rfc3339

_MAX_ATTEMPTS = 1_000_000
_RAW_SHOWN = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A member as it was read. `head` is all of it unless it is larger than the read bound.

    `mark` is the SHA-1 of its bytes; `place` is where it stood (see scripts.py).
    """

    head: bytes
    size: int
    mark: str
    place: tuple[str, str, str]

    @property
    def whole(self) -> bool:
        """Whether `head` is the member itself."""
        return len(self.head) == self.size

    @property
    def raw_id(self) -> str:
        """An id that every member has, made of its bytes."""
        return f"raw-{self.mark[:16]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """An item, the member it came from, and its JSON object where it has one."""

    item: Item
    member: Member
    data: dict[str, Any] | None = None


def parse(member: Member) -> Parsed:
    """Read a member; one that is not in the format is an item with a `problem`, never an error."""
    if not member.whole:
        return _malformed(member, "too large to be read")
    try:
        data = json.loads(member.head.decode("utf-8"), parse_constant=_no_constant)
    except UnicodeDecodeError:
        return _malformed(member, "not UTF-8")
    except (ValueError, RecursionError):
        return _malformed(member, "not JSON, or nested too deep")
    if not isinstance(data, dict):
        return _malformed(member, "not a JSON object")
    problem = _problem(data)
    return _malformed(member, problem) if problem else _sound(member, data)


def with_other_id(parsed: Parsed) -> Parsed:
    """The same item under an id of its bytes, because another member has its id too."""
    return _malformed(parsed.member, "another item has the same id")


def told_apart(found: list[Parsed]) -> list[Parsed]:
    """The same items, those that share an id under ids of their bytes."""
    times = Counter(parsed.item.id for parsed in found)
    return [with_other_id(p) if times[p.item.id] > 1 and p.data is not None else p for p in found]


def sort_in(found: dict[str, list[Parsed]], parsed: Parsed, wanted: Sequence[str]) -> set[str]:
    """Put a member under each wanted id that it has; answers those ids.

    Byte-equal members (two of a list, or one seen from both ends) are one.
    """
    member = parsed.member
    ids = {parsed.item.id, member.raw_id} & set(wanted)
    for item_id in ids:
        same = found.setdefault(item_id, [])
        if all(other.member.mark != member.mark for other in same):
            same.append(parsed if item_id == parsed.item.id else with_other_id(parsed))
    return ids


def ref_of(member: Member) -> list[bytes | str]:
    """How a script finds exactly this member again: mark, bytes if they are all here, place."""
    first, second, field = member.place
    whole = member.head if member.whole else b""
    return [member.mark, whole, first, second, field.encode("utf-8", "surrogateescape")]


def rewritten(data: dict[str, Any], *, end: RetryEnd, note: str, now: float) -> bytes:
    """The member after a retry: one more attempt, and resolved if it went well."""
    after = dict(data)
    if end != "released":
        after["retry_count"] = int(data.get("retry_count") or 0) + 1
        after["last_retry"] = rfc3339(now).removesuffix("Z")
    if end == "resolved":
        after["resolved"] = True
    if note:
        after["resolution_notes"] = note[:500]
    return json.dumps(after).encode("utf-8")


def _no_constant(_: str) -> Any:
    raise ValueError("NaN and infinities are not JSON")


def _problem(data: dict[str, Any]) -> str:
    """What is wrong with an object, in words that hold none of its text."""
    texts = ("failure_type", "operation", "error")
    missing = [name for name in ("id", *texts) if name not in data]
    if missing:
        return f"lacks {', '.join(missing)}"
    if not safe_id(data["id"]):
        return "its id is not 1 to 64 plain characters"
    wrong = [name for name in texts if not isinstance(data[name], str)]
    wrong += [n for n in ("params", "context") if not isinstance(data.get(n) or {}, dict)]
    if not _is_count(data.get("retry_count") or 0):
        wrong.append("retry_count")
    return f"wrong type of {', '.join(wrong)}" if wrong else ""


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= _MAX_ATTEMPTS


def _sound(member: Member, data: dict[str, Any]) -> Parsed:
    item = Item(
        id=data["id"],
        size_bytes=member.size,
        operation=data["operation"],
        failure_type=data["failure_type"],
        error=data["error"],
        body=data.get("params") or {},
        context=data.get("context") or None,
        failed_at=_failed_at(member, data),
        attempts=data.get("retry_count") or 0,
        last_retry=unix_seconds(data.get("last_retry")),
        resolved=data.get("resolved") is True,
        notes=str(data.get("resolution_notes") or ""),
    )
    return Parsed(item=item, member=member, data=data)


def _malformed(member: Member, problem: str) -> Parsed:
    text = member.head[:_RAW_SHOWN].decode("utf-8", "backslashreplace")
    item = Item(
        id=member.raw_id,
        size_bytes=member.size,
        body=text,
        failed_at=_failed_at(member, {}),
        problem=problem,
    )
    return Parsed(item=item, member=member)


def _failed_at(member: Member, data: dict[str, Any]) -> float | None:
    """The item's own time, else the one of its place: a score, or the first half of a stream id."""
    own = unix_seconds(data.get("timestamp"))
    if own is not None:
        return own
    score, hint, field = member.place
    try:
        if hint and not field:
            return float(score)
        return int(score.split("-")[0]) / 1000 if "-" in score else None
    except ValueError:
        return None


def not_retried(parsed: Parsed, max_attempts: int) -> str:
    """Why an item is not retried, or nothing."""
    if parsed.item.problem:
        return f"malformed, {parsed.item.problem}"
    if parsed.item.resolved:
        return "it is resolved"
    if parsed.item.attempts >= max_attempts:
        return f"it was tried {max_attempts} times or more"
    return ""
