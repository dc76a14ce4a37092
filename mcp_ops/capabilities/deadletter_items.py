"""One dead letter in plain form: what queues of every kind share to filter, show and count it."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import orjson

from mcp_ops.capabilities.deadletters import (
    Count,
    DeadLetter,
    DeadLetterDetail,
    DeadLetterFilter,
    DeadLetterStats,
    ErrorGroup,
)
from mcp_ops.clock import rfc3339
from mcp_ops.redact import Redactor, tame

WARNING_ABOVE = 50
CRITICAL_ABOVE = 100

_SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:@-]{0,63}")
_VARIABLE = re.compile(
    r"\b[0-9a-fA-F]{8}-[0-9a-fA-F-]{27}\b|\bocid1\.[\w.-]+|\b0x[0-9a-fA-F]+\b"
    r"|\b(?=[a-fA-F]*\d)[0-9a-fA-F]{8,}\b|\b\w+_\d+\b|\d+"
)
_SHOWN_GROUPS = 10
_SHOWN_VALUES = 10
_SHOWN_HOURS = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A dead letter as its queue holds it. Times are Unix seconds, `size_bytes` the stored size.

    `problem` says why a member is not in the queue's format; such an item is never retried.
    `body` is the payload as JSON-like value, or the start of the member's text.
    """

    id: str
    size_bytes: int
    operation: str = ""
    failure_type: str = ""
    error: str = ""
    body: Any = field(default_factory=dict)
    context: Any = None
    failed_at: float | None = None
    attempts: int = 0
    last_retry: float | None = None
    resolved: bool = False
    notes: str = ""
    problem: str = ""


def safe_id(value: object) -> bool:
    """Whether an item's own id can be shown and used as it is: short, plain ASCII."""
    if not isinstance(value, str) or value.startswith("raw-"):
        return False
    return bool(_SAFE_ID.fullmatch(value))


def unix_seconds(text: object) -> float | None:
    """An ISO 8601 time as Unix seconds, without offset read as UTC; None when it is none."""
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def moment(seconds: float | None) -> str | None:
    """RFC 3339, or None for no time or one outside of the calendar."""
    try:
        return None if seconds is None else rfc3339(seconds)
    except (ValueError, OverflowError, OSError):
        return None


def matches(item: Item, selection: DeadLetterFilter, redactor: Redactor) -> bool:
    """Whether an item that still waits is meant by a selection's filter fields (not its ids).

    Text is searched in what may be shown: a filter must not tell what a secret is.
    """
    if item.resolved:
        return False
    if selection.failure_type and item.failure_type != selection.failure_type:
        return False
    if selection.operation and item.operation != selection.operation:
        return False
    if not _in_time(item.failed_at, selection):
        return False
    if not selection.text:
        return True
    shown = f"{redactor.text(item.error)}\n{item.operation}\n{payload_text(item, redactor)}"
    return selection.text.casefold() in shown.casefold()


def payload_text(item: Item, redactor: Redactor) -> str:
    """The payload as compact text without secrets."""
    return _as_text(item.body, redactor)


def listed(item: Item, redactor: Redactor) -> DeadLetter:
    """An item as a line of a list: bounded, so that a page of them stays readable."""
    return DeadLetter(
        id=item.id,
        operation=_clip(item.operation, 48),
        failure_type=_clip(item.failure_type, 40),
        error=_clip(redactor.text(item.error[:4_000]), 56),
        failed_at=_second(item.failed_at),
        attempts=item.attempts,
        size_bytes=item.size_bytes,
        # Quotes inside a JSON string cost a model two tokens each and say nothing here.
        preview=_clip(payload_text(item, redactor).replace('"', ""), 24),
        problem=item.problem or None,
    )


def detailed(item: Item, redactor: Redactor) -> DeadLetterDetail:
    """An item as a whole; models cut what is longer than a result may be."""
    line = listed(item, redactor).model_copy(
        update={"error": tame(redactor.text(item.error), 300), "preview": ""}
    )
    return DeadLetterDetail(
        item=line,
        payload=payload_text(item, redactor),
        context=_as_text(item.context, redactor) if item.context else None,
        last_retry=moment(item.last_retry),
        resolved=item.resolved,
        resolution_notes=redactor.text(item.notes) or None,
    )


def breakdown(items: Iterable[Item], *, total: int, redactor: Redactor) -> DeadLetterStats:
    """What dominates among items (newest first), and whether the total is a reason to act."""
    examined = list(items)
    waiting = [item for item in examined if not item.resolved]
    times = [item.failed_at for item in examined if item.failed_at is not None]
    hours = Counter(text[:13] + ":00Z" for i in waiting if (text := moment(i.failed_at)))
    resolved = len(examined) - len(waiting)
    return DeadLetterStats(
        total=total,
        examined=len(examined),
        resolved=resolved,
        oldest=moment(min(times, default=None)),
        newest=moment(max(times, default=None)),
        by_failure_type=_counts(item.failure_type for item in waiting if not item.problem),
        by_operation=_counts(item.operation for item in waiting if not item.problem),
        by_hour=[
            Count(value=h, count=hours[h]) for h in sorted(hours, reverse=True)[:_SHOWN_HOURS]
        ],
        groups=_groups(waiting, redactor),
        malformed=sum(1 for item in waiting if item.problem),
        level=level_of(total - resolved),
    )


def level_of(waiting: int) -> Literal["ok", "warning", "critical"]:
    """The level of a number of waiting items, by the thresholds of the operations runbook."""
    if waiting > CRITICAL_ABOVE:
        return "critical"
    return "warning" if waiting > WARNING_ABOVE else "ok"


def _second(seconds: float | None) -> str | None:
    text = moment(seconds)
    return f"{text[:19]}Z" if text else None


def _in_time(failed_at: float | None, selection: DeadLetterFilter) -> bool:
    if selection.since is None and selection.until is None:
        return True
    if failed_at is None:
        return False
    if selection.since is not None and failed_at < selection.since:
        return False
    return selection.until is None or failed_at < selection.until


def _counts(values: Iterable[str]) -> list[Count]:
    counted = Counter(_clip(value, 64) for value in values)
    return [Count(value=value, count=n) for value, n in counted.most_common(_SHOWN_VALUES)]


def _groups(items: list[Item], redactor: Redactor) -> list[ErrorGroup]:
    counted: Counter[str] = Counter()
    sample: dict[str, str] = {}
    for item in items:
        if item.problem:
            continue
        shape = _VARIABLE.sub("#", _clip(redactor.text(item.error[:1_000]), 160))
        counted[shape] += 1
        sample.setdefault(shape, item.id)
    return [
        ErrorGroup(error=shape, count=n, sample_id=sample[shape])
        for shape, n in counted.most_common(_SHOWN_GROUPS)
    ]


def _as_text(value: Any, redactor: Redactor) -> str:
    if isinstance(value, str):
        return redactor.text(value)
    try:
        return redactor.text(orjson.dumps(redactor.value(value), default=str).decode("utf-8"))
    except orjson.JSONEncodeError:
        # Lone surrogates and integers beyond 64 bits, which only the slower one writes.
        text = json.dumps(redactor.value(value), ensure_ascii=False, default=str)
        return redactor.text(text.encode("utf-8", "replace").decode("utf-8"))


def _clip(text: str, limit: int) -> str:
    """At most `limit` bytes on one line: a character beyond ASCII costs a model more."""
    line = " ".join(tame(text, limit * 4).split())
    raw = line.encode("utf-8", "replace")
    if len(raw) <= limit:
        return line
    return raw[: limit - 3].decode("utf-8", "ignore") + "…"
