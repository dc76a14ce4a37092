"""Slot swap: a long operation. The site keeps when the last one ended, and of which slots."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from mcp_ops.adapters.azure.acting import Action, not_busy, planned, version_of
from mcp_ops.adapters.azure.arm import Ask
from mcp_ops.adapters.azure.fields import Obj, mapping, moment, objects, text
from mcp_ops.adapters.azure.look import Azure, Site, get_site, if_allowed
from mcp_ops.adapters.azure.names import PRODUCTION, AppName, parse_name, slot_name
from mcp_ops.adapters.azure.restart import serving
from mcp_ops.capabilities.base import Undo
from mcp_ops.capabilities.changes import Begun, Plan, Progress
from mcp_ops.errors import Conflict, InvalidInput
from mcp_ops.redact import tame
from mcp_ops.wire.http import Answer
from mcp_ops.wire.together import together

SWAP: Final = "swap"
_DIFFS: Final = Ask(action="Microsoft.Web/sites/slotsdiffs/Action")
_SHOWN: Final = 15


async def plan_swap(azure: Azure, name: AppName, slot: str) -> Plan:
    """Swap a slot with production; the lines name the settings that differ, without values."""
    if name.slot:
        raise InvalidInput(
            "name must be the app itself, and slot the slot to swap with production.",
            hint=f"name={name.site}, slot={name.slot}",
        )
    other = AppName(site=name.site, slot=slot_name(slot))
    site, staged = await together([partial(get_site, azure, name), partial(get_site, azure, other)])
    not_busy(site)
    not_busy(staged)
    if not staged.running:
        raise Conflict(
            f"The slot is {staged.said('state')[:20]}: a swap would take production down.",
            hint="start_deployment starts it.",
        )
    differing = await if_allowed(partial(_differences, azure, name, other.slot))
    lines = [f"Swap slot {other.slot} of {name.site} with production; the same swap takes it back."]
    if differing is None:
        lines.append("What differs between them could not be read.")
    elif not differing:
        lines.append("Azure shows no difference of their settings.")
    else:
        lines += differing[:_SHOWN]
        more = len(differing) - _SHOWN
        lines += [f"and {more} more differences."] if more > 0 else []
    return Plan(
        action=SWAP,
        name=name.shown,
        lines=lines,
        state={"production": version_of(site), "slot": version_of(staged), "differs": differing},
        lock=_swapped_at(site),
        values=planned(azure, slot=other.slot, versions=[version_of(site), version_of(staged)]),
        evidence={"last_swap_before": _last_swap(site)},
        undo=Undo(tool="swap_slots", arguments={"name": name.shown, "slot": other.slot}),
        reaches=[other.shown],
    )


async def _differences(azure: Azure, name: AppName, slot: str) -> list[str]:
    """Settings that differ; their values may be secrets and stay where they are."""
    found = await azure.arm.read_by_post(
        azure.arm.web(f"{name.path}/slotsdiffs"), _DIFFS, _body(slot)
    )
    return sorted(filter(None, map(_difference, objects(found, "value"))))


def _difference(one: Obj) -> str:
    said = mapping(one, "properties")
    setting = tame(text(said, "settingName"), 80)
    if not setting:
        return ""
    kind = tame(text(said, "settingType"), 30) or "setting"
    level, rule = tame(text(said, "level"), 20), tame(text(said, "diffRule"), 60)
    more = ", ".join(each for each in (level, rule) if each)
    return f"{kind} {setting} differs" + (f" ({more})." if more else ".")


def _body(slot: str) -> Obj:
    return {"targetSlot": slot, "preserveVnet": True}


def _swapped_at(site: Site) -> str:
    return text(site.raw, "properties", "slotSwapStatus", "timestampUtc")[:40]


def _last_swap(site: Site) -> dict[str, Any]:
    swap = mapping(site.raw, "properties", "slotSwapStatus")
    return {
        "at": moment(text(swap, "timestampUtc")) or "never",
        "source": tame(text(swap, "sourceSlotName"), 60),
        "destination": tame(text(swap, "destinationSlotName"), 60),
    }


def _ours(site: Site, plan: Plan) -> bool:
    """Whether the last swap is another one than at the look, and of these slots."""
    swap = _last_swap(site)
    slots = {str(swap["source"]).lower(), str(swap["destination"]).lower()}
    return _swapped_at(site) != plan.lock and slots == {PRODUCTION, plan.values["slot"]}


async def _check(azure: Azure, plan: Plan) -> None:
    """A swap made twice is a swap back: it has to be the very pair that was looked at."""
    name = parse_name(plan.name)
    other = AppName(site=name.site, slot=str(plan.values["slot"]))
    site, staged = await together([partial(get_site, azure, name), partial(get_site, azure, other)])
    if [version_of(site), version_of(staged)] != plan.values["versions"]:
        raise Conflict(
            "The app or the slot was changed since it was looked at; nothing was swapped.",
            hint="Look at both with get_deployment, then decide again.",
        )
    not_busy(site)
    not_busy(staged)


async def _send(azure: Azure, plan: Plan, _seen: Any, call_id: str) -> Answer:
    name = parse_name(plan.name)
    path = azure.arm.web(f"{name.path}/slotsswap")
    body = _body(str(plan.values["slot"]))
    return await azure.arm.write("POST", path, ACTIONS[SWAP].ask, call_id=call_id, body=body)


async def _shows(azure: Azure, plan: Plan) -> dict[str, Any] | None:
    site = await get_site(azure, parse_name(plan.name))
    if _ours(site, plan):
        return {"last_swap": _last_swap(site)}
    target = site.said("targetSwapSlot").lower()
    if _swapped_at(site) == plan.lock and site.busy and target == plan.values["slot"]:
        return {"operation_under_way": tame(site.busy, 60)}
    return None


async def _follow(azure: Azure, plan: Plan, _begun: Begun) -> Progress:
    name = parse_name(plan.name)
    site = await get_site(azure, name)
    evidence = {"last_swap": _last_swap(site), "state": site.said("state")[:40]}
    if _ours(site, plan):
        return await serving(azure, name, site, evidence)
    if _swapped_at(site) != plan.lock:
        why = "Another slot was swapped after this swap was planned."
        return Progress(state="superseded", why=why, evidence=evidence)
    why = "Azure is still swapping" if site.busy else "Azure does not show the swap yet"
    return Progress(state="pending", why=why, wanted=1, evidence=evidence)


ACTIONS: Final[dict[str, Action]] = {
    SWAP: Action(
        ask=Ask(action="Microsoft.Web/sites/slotsswap/Action", writes=True),
        check=_check,
        send=_send,
        follow=_follow,
        shows=_shows,
    )
}
