"""Which of the rights that the tools need the caller has not, as the API server itself says."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Final

from mcp_ops.adapter import Advice
from mcp_ops.adapters.kubernetes.api import Api
from mcp_ops.adapters.kubernetes.fields import flag, objects
from mcp_ops.adapters.kubernetes.permissions import Granted, Need, needs_of, part_of
from mcp_ops.errors import Answered
from mcp_ops.wire.together import together

_RULES: Final = "SelfSubjectRulesReview"
_ACCESS: Final = "SelfSubjectAccessReview"
_UNKNOWN: Final = "The API server does not say what the credential may do in this namespace."


async def look_at_rights(api: Api, tools: Collection[str]) -> list[Advice]:
    """A line for each tool that misses a right, and one that says so where none does.

    One review of all rules; where that is not the whole truth (rules of a webhook are not listed),
    one review of each right that it does not show.
    """
    needs = list(needs_of(tools))
    try:
        missing = await _missing(api, {need for _, need in needs})
    except Answered:
        return [Advice(good=True, message=_UNKNOWN)]
    found: list[Advice] = []
    for tool in dict.fromkeys(tool for tool, _ in needs):
        lacks = [need for one, need in needs if one == tool and need in missing]
        found += _told(api.namespace, tool, lacks)
    if all(advice.good for advice in found):
        found.insert(0, Advice(good=True, message="The credential may do what its tools need."))
    return found


async def _missing(api: Api, needs: set[Need]) -> set[Need]:
    granted = await _granted(api)
    missing = {need for need in needs if not granted.allows(need)}
    if granted.complete:
        return missing
    allowed: set[Need] = set()

    async def ask(need: Need) -> None:
        attributes = {
            "namespace": api.namespace,
            "verb": need.verb,
            "group": need.group,
            "resource": need.resource,
            "subresource": need.sub,
        }
        if flag(await api.review(_ACCESS, {"resourceAttributes": attributes}), "allowed"):
            allowed.add(need)

    await together([partial(ask, need) for need in missing])
    return missing - allowed


async def _granted(api: Api) -> Granted:
    try:
        status = await api.review(_RULES, {"namespace": api.namespace})
    except Answered:
        return Granted(rules=(), complete=False)
    return Granted(
        rules=tuple(objects(status, "resourceRules")), complete=status.get("incomplete") is False
    )


def _told(namespace: str, tool: str, lacks: list[Need]) -> list[Advice]:
    required = [need for need in lacks if not need.without]
    found = []
    if required:
        found.append(
            Advice(
                good=False,
                message=f"{tool} needs {_spoken(required)}.",
                advice=f"Grant it in namespace {namespace}: deploy/kubernetes/"
                f"rbac-{part_of(tool)}.yaml has it; or leave the tool out (tools.exclude).",
            )
        )
    for without in dict.fromkeys(need.without for need in lacks if need.without):
        these = [need for need in lacks if need.without == without]
        found.append(
            Advice(good=True, message=f"{tool} leaves out {without}: that needs {_spoken(these)}.")
        )
    return found


def _spoken(needs: list[Need]) -> str:
    """The rights in words: `get on pods; patch on deployments and statefulsets`."""
    by_verb: dict[str, list[str]] = {}
    for need in needs:
        by_verb.setdefault(need.verb, []).append(need.spoken)
    parts = []
    for verb, resources in by_verb.items():
        *most, last = resources
        parts.append(f"{verb} on {', '.join(most)} and {last}" if most else f"{verb} on {last}")
    return "; ".join(parts)
