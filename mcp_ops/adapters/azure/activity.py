"""Traces of a request: Azure's activity log keeps the id that each of our requests carries.

It shows a request minutes after it was made, so it settles what a process left behind that was
lost, and rarely an answer that was lost a second ago. And what the credential may do.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from typing import Final

from mcp_ops.adapters.azure.arm import Ask, request_id
from mcp_ops.adapters.azure.fields import Obj, dig, objects, text
from mcp_ops.adapters.azure.look import Azure, if_allowed
from mcp_ops.clock import rfc3339
from mcp_ops.errors import Forbidden
from mcp_ops.redact import tame

_LOG: Final = Ask(action="Microsoft.Insights/eventtypes/values/Read")
_LOG_VERSION: Final = "2015-04-01"
_PERMISSIONS: Final = Ask(action="Microsoft.Authorization/*/read")
_PERMISSIONS_VERSION: Final = "2022-04-01"
_MOST: Final = 400
_BEFORE_S: Final = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A request in the activity log: when it is first mentioned, and its last status."""

    first: str
    status: str


async def traced(azure: Azure, call_id: str, looked_at: float) -> Trace | None:
    """This call's request in the activity log, or None: it proves nothing."""
    since = rfc3339(looked_at - _BEFORE_S)
    where = f"eventTimestamp ge '{since}' and resourceGroupName eq '{azure.arm.group}'"
    ask = partial(
        azure.arm.pages,
        azure.arm.subscription("providers/Microsoft.Insights/eventtypes/management/values"),
        _LOG,
        most=_MOST,
        api_version=_LOG_VERSION,
        **{"$filter": where},
    )
    found = await if_allowed(ask)
    wanted = request_id(call_id)
    events = [
        event
        for event in (found[0] if found is not None else [])
        if text(event, "httpRequest", "clientRequestId").lower() == wanted
    ]
    if not events:
        return None
    events.sort(key=lambda event: text(event, "eventTimestamp"))
    status = tame(text(events[-1], "status", "value"), 40)
    return Trace(first=text(events[0], "eventTimestamp"), status=status)


async def check_allowed(azure: Azure, ask: Ask) -> None:
    """Raise `Forbidden` where the role certainly does not allow an action on the resource group.

    A credential that may not read its own permissions passes: the change itself then tells.
    """
    path = f"{azure.arm.scope}/providers/Microsoft.Authorization/permissions"
    found = await if_allowed(
        partial(azure.arm.get, path, _PERMISSIONS, api_version=_PERMISSIONS_VERSION)
    )
    granted = objects(found, "value")
    if not granted or any(_grants(one, ask.action) for one in granted):
        return
    raise Forbidden(
        "The credential may not do this.",
        hint=f"It needs the action {ask.action} on the resource group: a role of its own "
        "(docs/targets/azure-app-service.md has one).",
    )


def _grants(permission: Obj, action: str) -> bool:
    return _any(permission, "actions", action) and not _any(permission, "notActions", action)


def _any(permission: Obj, key: str, action: str) -> bool:
    patterns = dig(permission, key)
    if not isinstance(patterns, list):
        return False
    return any(isinstance(each, str) and _matches(each, action) for each in patterns[:500])


def _matches(pattern: str, action: str) -> bool:
    written = ".*".join(re.escape(part) for part in pattern[:200].split("*"))
    return re.fullmatch(written, action, re.IGNORECASE) is not None
