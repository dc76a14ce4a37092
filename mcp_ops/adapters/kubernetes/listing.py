"""The list of workloads: the API's own pages, kind after kind."""

from __future__ import annotations

from typing import Final

from mcp_ops.adapters.kubernetes.api import Api
from mcp_ops.adapters.kubernetes.failures import Ask
from mcp_ops.adapters.kubernetes.workloads import KINDS, Kind, cursor_of, listed, parse_cursor
from mcp_ops.capabilities.deployments import Deployment, DeploymentPage
from mcp_ops.errors import Conflict, Forbidden, InvalidInput, Rejected

_STALE: Final = "The cursor is too old or not one of this list."


async def list_workloads(api: Api, *, limit: int, cursor: str) -> DeploymentPage:
    """One page: deployments, then stateful sets, then daemon sets, each by name.

    A kind that the credential may not list is named in `searched`; `Forbidden` is raised only
    when that is all of them. Raises `InvalidInput` for a cursor that the API does not take.
    """
    index, token = parse_cursor(cursor)
    items: list[Deployment] = []
    looked: list[str] = []
    refused: list[Forbidden] = []
    while index < len(KINDS) and len(items) < limit:
        kind = KINDS[index]
        try:
            found, token = await _page(api, kind, limit=limit - len(items), token=token)
        except Forbidden as error:
            refused.append(error)
            looked.append(f"not {kind.plural} (no permission)")
            found, token = [], ""
        else:
            looked.append(kind.plural)
        items.extend(found)
        if not token:
            index += 1
    if refused and len(refused) == len(looked):
        raise refused[0]
    next_cursor = cursor_of(index, token) if index < len(KINDS) else ""
    return DeploymentPage(
        items=items,
        next_cursor=next_cursor,
        truncated=bool(next_cursor),
        searched=f"{', '.join(looked)} of the target's namespace",
    )


async def _page(api: Api, kind: Kind, *, limit: int, token: str) -> tuple[list[Deployment], str]:
    query: dict[str, str | int] = {"limit": limit}
    if token:
        query["continue"] = token
    ask = Ask(verb="list", resource=kind.resource)
    try:
        found, token = await api.list_page(api.path("apps", kind.plural), ask, **query)
    except (Conflict, Rejected) as exc:
        raise InvalidInput(_STALE, hint="Call list_deployments again without a cursor.") from exc
    return [listed(kind, workload) for workload in found], token
