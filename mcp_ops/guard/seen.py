"""What a target looked like when a person was asked, and whether it still does.

The tool's own dry run is the look: it says through its `Write` frame what it saw (`saw`) and, for
a selection, which items it means. A person is shown that, and an approved call runs only while
a second look sees the same; a selection is pinned to the items that were shown.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from mcp_ops.call import Call, new_id
from mcp_ops.capabilities.base import Result, WriteResult
from mcp_ops.errors import (
    Answered,
    ConfigurationError,
    InvalidInput,
    OpsError,
    RefusalCode,
    Refused,
    StoreUnavailable,
)
from mcp_ops.questions import Approval
from mcp_ops.redact import Redactor

MAX_ITEMS = 1_000
"""Items that one approval can pin: as many as a person is shown; others are not touched."""

_PLAN_LINES = 50
# What would end the call itself in the same way: the caller is told, and nobody is asked.
_SAME_FOR_THE_CALL = (Answered, InvalidInput, ConfigurationError, StoreUnavailable)
_REFUSED_ANYWAY = (RefusalCode.RATE_LIMITED, RefusalCode.BULKHEAD_FULL, RefusalCode.PROTECTED)


@dataclass(slots=True)
class Sight:
    """What a dry run tells of the target: its state without times and ages, and the items that a
    selection means; `state` None until it told."""

    state: Mapping[str, Any] | None = None
    items: tuple[str, ...] | None = None

    def tell(self, state: Mapping[str, Any], items: tuple[str, ...] | None) -> None:
        """Keep it; the tool calls this through `Write.saw`."""
        self.state = dict(state)
        self.items = None if items is None else items[:MAX_ITEMS]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A look: what it is compared by, and what people are shown of it.

    `digest` is empty where the target could not be looked at; `shown` says so then. `nothing`: the
    call selects items, and there is none.
    """

    digest: str = ""
    nothing: bool = False
    shown: Mapping[str, Any] = field(default_factory=dict)


Rehearse = Callable[[Call, Sight], Awaitable[Result]]


async def look(call: Call, rehearse: Rehearse, redactor: Redactor) -> Seen:
    """Look at what a write would change. Raises what would end the write itself the same way."""
    sight = Sight()
    try:
        result = await rehearse(rehearsal(call), sight)
    except _SAME_FOR_THE_CALL:
        raise
    except Refused as refusal:
        if refusal.reason in _REFUSED_ANYWAY:
            raise
        return _blind(refusal)
    except OpsError as error:
        return _blind(error)
    plan = list(result.plan) if isinstance(result, WriteResult) else []
    state = {"plan": plan} if sight.state is None else dict(sight.state)
    shown: dict[str, Any] = {"plan": plan[:_PLAN_LINES]}
    if sight.state:
        shown["state"] = state
    if sight.items is not None:
        shown["items"] = list(sight.items)
    return Seen(
        digest=_digest(state), nothing=sight.items == (), shown=redactor.value(_plain(shown))
    )


def rehearsal(call: Call) -> Call:
    """The dry run of a call: a read of its own under it, which nobody is asked about."""
    caller = call.caller
    return replace(
        call,
        id=new_id(),
        arguments=call.arguments.model_copy(update={"dry_run": True}),
        dry_run=True,
        parent=call.id,
        idempotency_key="",
        approved_by=call.id,
        caller=replace(
            caller,
            scopes=caller.scopes | {"ops:read"},
            ask=None,
            asks_by_result=False,
            answered=None,
            progress=None,
        ),
    )


def pinned(approval: Approval) -> tuple[str, ...] | None:
    """The items that an approved call may touch; None where it selects none. Where nothing could
    be looked at nobody was shown any: a call that selects some selects nothing then."""
    if "problem" in approval.seen_shown:
        return ()
    items = approval.seen_shown.get("items")
    return None if items is None else tuple(str(item) for item in items)


def _blind(error: OpsError) -> Seen:
    return Seen(shown={"problem": f"The present state could not be looked at ({error.code})."})


def same(state: Mapping[str, Any], seen: str) -> bool:
    """Whether a state is the one that was seen; nothing to compare it with counts as that."""
    return not seen or _digest(state) == seen


def _digest(state: Mapping[str, Any]) -> str:
    body = orjson.dumps(_plain(state), option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(body).hexdigest()


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON, in which a lone surrogate or an odd type is text."""
    try:
        body = orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:
        body = orjson.dumps({"unreadable": repr(value).encode("utf-8", "replace").decode()})
    plain: dict[str, Any] = orjson.loads(body)
    return plain
