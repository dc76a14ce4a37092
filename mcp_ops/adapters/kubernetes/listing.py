"""The list of workloads: the API's own pages, kind after kind, with what their pods suffer from."""

from __future__ import annotations

from typing import Final

from mcp_ops.adapters.kubernetes.api import Api
from mcp_ops.adapters.kubernetes.describe import worst_of
from mcp_ops.adapters.kubernetes.failures import Ask
from mcp_ops.adapters.kubernetes.fields import Obj
from mcp_ops.adapters.kubernetes.tallies import Tallies, Workload, tally
from mcp_ops.adapters.kubernetes.workloads import KINDS, Kind, cursor_of, listed, parse_cursor
from mcp_ops.capabilities.deployments import Deployment, DeploymentPage
from mcp_ops.clock import Clock
from mcp_ops.errors import Conflict, Forbidden, InvalidInput, Rejected

# As many as fit into a result; their pods are counted, so more would be work for nothing.
PAGE: Final = 70
_STALE: Final = "The cursor is too old or not one of this list."


async def list_workloads(api: Api, *, limit: int, cursor: str, clock: Clock) -> DeploymentPage:
    """One page: deployments, then stateful sets, then daemon sets, each by name; at most 70.

    Their pods are counted for restarts and for what ails them; where that was not possible,
    `searched` says so, and `problem` is what the workload's own status tells.

    A kind that the credential may not list is named in `searched`; `Forbidden` is raised only
    when that is all of them. Raises `InvalidInput` for a cursor that the API does not take.
    """
    index, token = parse_cursor(cursor)
    limit = min(limit, PAGE)
    items: list[Workload] = []
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
    counted = await tally(api, items, clock=clock)
    if counted.why:
        looked.append(counted.why)
    next_cursor = cursor_of(index, token) if index < len(KINDS) else ""
    return DeploymentPage(
        items=[_listed(*one, counted) for one in items],
        next_cursor=next_cursor,
        truncated=bool(next_cursor),
        searched=f"{', '.join(looked)} of the target's namespace",
    )


def _listed(kind: Kind, workload: Obj, counted: Tallies) -> Deployment:
    item, held = listed(kind, workload), counted.of(workload)
    if held is None:
        return item
    problem = worst_of(item.problem, held.troubles)
    return item.model_copy(update={"restarts": held.restarts, "problem": problem})


async def _page(api: Api, kind: Kind, *, limit: int, token: str) -> tuple[list[Workload], str]:
    query: dict[str, str | int] = {"limit": limit}
    if token:
        query["continue"] = token
    ask = Ask(verb="list", resource=kind.resource)
    try:
        found, token = await api.list_page(api.path("apps", kind.plural), ask, **query)
    except (Conflict, Rejected) as exc:
        raise InvalidInput(_STALE, hint="Call list_deployments again without a cursor.") from exc
    return [(kind, workload) for workload in found], token
