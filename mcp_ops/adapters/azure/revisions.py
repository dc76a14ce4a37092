"""The deployments of an app: what can be deployed again, and how one is going.

Resource Manager lists them; deploying one again is Kudu's (`PUT /api/deployments/ID`).
"""

from __future__ import annotations

import re
from typing import Final

from mcp_ops.adapters.azure.arm import Ask
from mcp_ops.adapters.azure.fields import Obj, flag, moment, number, text
from mcp_ops.adapters.azure.look import Azure
from mcp_ops.adapters.azure.names import AppName
from mcp_ops.capabilities.deployments import Event, Revision, RevisionPage
from mcp_ops.errors import InvalidInput

READ: Final = Ask(action="Microsoft.Web/sites/deployments/read")
PENDING: Final = frozenset({0, 1, 2})
FAILED: Final = 3
SUCCESS: Final = 4
_MOST: Final = 200
_ID: Final = re.compile(r"[A-Za-z0-9][-\w.]{0,99}", re.ASCII)
_WORDS: Final = {0: "Pending", 1: "Building", 2: "Deploying", 3: "Failed", 4: "Success"}
_AFTER: Final = "after:"


def id_of(deployment: Obj) -> str:
    """The deployment's id, which may come with the app's name before it."""
    found = text(deployment, "properties", "id") or text(deployment, "name")
    found = found.rpartition("/")[2]
    return found if _ID.fullmatch(found) else ""


def status_of(deployment: Obj) -> int:
    """Kudu's number of a state; 4 is success, 3 a failure."""
    return number(deployment, "properties", "status", absent=-1)


def word_of(status: int) -> str:
    """The same as a word."""
    return _WORDS.get(status, "Unknown")


def active(deployment: Obj) -> bool:
    """Whether it is the one that is deployed now."""
    return flag(deployment, "properties", "active")


def started(deployment: Obj) -> str:
    """When it was begun last, as Azure writes it."""
    return text(deployment, "properties", "start_time")[:40]


def check_id(revision: str) -> str:
    """An id of list_revisions; raises `InvalidInput`."""
    if not _ID.fullmatch(revision):
        raise InvalidInput(
            "to_revision must be the id of a deployment.", hint="See list_revisions."
        )
    return revision


async def deployments_of(azure: Azure, name: AppName) -> list[Obj]:
    """An app's deployments, the newest first, at most two hundred."""
    path = azure.arm.web(f"{name.path}/deployments")
    found, _ = await azure.arm.pages(path, READ, most=_MOST)
    usable = [one for one in found if id_of(one)]
    return sorted(usable, key=lambda one: moment(started(one)) or "", reverse=True)


async def list_revisions(azure: Azure, name: AppName, *, limit: int, cursor: str) -> RevisionPage:
    """One page of deployments, the newest first."""
    if cursor and not cursor.startswith(_AFTER):
        raise InvalidInput("cursor must be the next_cursor of an earlier page.")
    found = await deployments_of(azure, name)
    if cursor:
        ids = [id_of(one) for one in found]
        last = cursor.removeprefix(_AFTER)
        found = found[ids.index(last) + 1 :] if last in ids else []
    page = found[:limit]
    left = len(found) > len(page)
    return RevisionPage(
        name=name.shown,
        items=[_revision(one) for one in page],
        next_cursor=f"{_AFTER}{id_of(page[-1])}" if left else "",
        truncated=left,
        searched="deployments that Azure still lists; apps that run a container image have none",
    )


def _revision(deployment: Obj) -> Revision:
    return Revision(
        id=id_of(deployment),
        current=active(deployment),
        image=text(deployment, "properties", "deployer"),
        made_at=moment(text(deployment, "properties", "end_time")) or moment(started(deployment)),
        status=word_of(status_of(deployment)),
        cause=_cause(deployment),
        restorable=status_of(deployment) == SUCCESS,
    )


def _cause(deployment: Obj) -> str:
    message, author = (
        text(deployment, "properties", "message"),
        text(deployment, "properties", "author"),
    )
    return f"{message[:200]} ({author[:60]})" if author else message[:260]


def event_of(deployment: Obj) -> Event:
    """A deployment as an event of the app."""
    status = status_of(deployment)
    return Event(
        at=moment(text(deployment, "properties", "end_time")) or moment(started(deployment)),
        type="Warning" if status == FAILED else "Normal",
        reason=f"Deployment{word_of(status)}",
        message=f"{id_of(deployment)}: {_cause(deployment)}",
        count=1,
    )
