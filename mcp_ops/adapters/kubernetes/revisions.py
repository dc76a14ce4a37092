"""The versions that a workload had, and the way back to one, as `kubectl rollout undo` goes.

A Deployment keeps its versions in ReplicaSets, the other kinds keep them in ControllerRevisions. A
plan holds which of them, never what is in it: a template may hold secrets.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from mcp_ops.adapters.kubernetes.changing import (
    REVISION,
    Patch,
    Seen,
    look,
    plan_of,
    template_mark,
)
from mcp_ops.adapters.kubernetes.differing import difference, template_of
from mcp_ops.adapters.kubernetes.failures import Ask
from mcp_ops.adapters.kubernetes.fields import (
    Obj,
    controller_of,
    mapping,
    moment_of,
    name_of,
    number,
    text,
    uid_of,
)
from mcp_ops.adapters.kubernetes.following import follow_rollout
from mcp_ops.adapters.kubernetes.look import get_workload, selector_of
from mcp_ops.adapters.kubernetes.rollout import blocked
from mcp_ops.adapters.kubernetes.site import Handler, Site
from mcp_ops.adapters.kubernetes.workloads import (
    DEPLOYMENT,
    STATEFUL_SET,
    Kind,
    counts_of,
    image_of,
    parse_name,
)
from mcp_ops.capabilities.base import Undo
from mcp_ops.capabilities.changes import Plan
from mcp_ops.capabilities.deployments import Revision, RevisionPage
from mcp_ops.errors import Conflict, Forbidden, InvalidInput, NotFound

ROLLBACK: Final = "rollback"
CAUSE: Final = "kubernetes.io/change-cause"
_HASH: Final = "pod-template-hash"
_READ: Final = 500
_CURSOR: Final = re.compile(r"[0-9]{1,10}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One version of a workload; `holder` is the object that keeps it."""

    number: int
    uid: str
    template: Obj
    holder: Obj

    @property
    def cause(self) -> str:
        """Why it was made, where whoever deployed it said so."""
        return text(mapping(self.holder, "metadata", "annotations"), CAUSE)


async def versions_of(site: Site, kind: Kind, workload: Obj) -> list[Version]:
    """All that the platform still has, newest first; at most 500 objects are looked at."""
    plural = "replicasets" if kind is DEPLOYMENT else "controllerrevisions"
    selector = selector_of(workload)
    if not selector:
        return []
    found, _ = await site.api.list_page(
        site.api.path("apps", plural),
        Ask(verb="list", resource=f"{plural}.apps"),
        labelSelector=selector,
        limit=_READ,
    )
    read = [_version(kind, one) for one in found if controller_of(one) == uid_of(workload)]
    return sorted((one for one in read if one.number), key=lambda one: one.number, reverse=True)


def current_of(kind: Kind, workload: Obj, versions: list[Version]) -> Version | None:
    """The version that is wanted now, where the platform has taken it down already."""
    wanted = template_of(workload)
    same = next((one for one in versions if one.template == wanted), None)
    if same is not None or not versions:
        return same
    if kind is STATEFUL_SET:
        named = text(workload, "status", "updateRevision")
        return next((one for one in versions if name_of(one.holder) == named), None)
    newest = versions[0]
    if kind is DEPLOYMENT and str(newest.number) != _revision(workload):
        return None
    observed = number(workload, "status", "observedGeneration")
    return newest if observed >= number(workload, "metadata", "generation", absent=1) else None


async def list_revisions(site: Site, name: str, *, limit: int, cursor: str) -> RevisionPage:
    """One page; the cursor is the number of the last one that was shown."""
    if cursor and not _CURSOR.fullmatch(cursor):
        raise InvalidInput("cursor must be the next_cursor of an earlier page.")
    kind, plain = parse_name(name)
    workload = await get_workload(site.api, kind, plain)
    versions = await versions_of(site, kind, workload)
    current = current_of(kind, workload, versions)
    left = [one for one in versions if not cursor or one.number < int(cursor)]
    page = left[:limit]
    more = len(left) > len(page)
    kept = "ReplicaSets" if kind is DEPLOYMENT else "ControllerRevisions"
    return RevisionPage(
        name=kind.called(plain),
        items=[_shown(one, current) for one in page],
        next_cursor=str(page[-1].number) if more else "",
        truncated=more,
        searched=f"{len(versions)} versions in {kept} of {kind.called(plain)}",
    )


async def plan_rollback(site: Site, name: str, to_revision: str) -> Plan:
    """Run an earlier version; see `RevisionedPlatform`."""
    seen = await look(site, name)
    versions = await versions_of(site, seen.kind, seen.workload)
    current = current_of(seen.kind, seen.workload, versions)
    wanted = _wanted(versions, current, to_revision)
    if why := template_blocked(seen.kind, seen.workload):
        raise Conflict(
            f"A rollback would bring nothing back: {why}.",
            hint="Look with get_deployment; resume_rollout ends a pause.",
        )
    same = current is not None and wanted.uid == current.uid
    undo = undo_of(seen, current)
    lines = [f"Run version {wanted.number} of {seen.name} again{_instead(current)}."]
    lines += difference(template_of(seen.workload), wanted.template, site.redactor.text)
    # Numbers are an annotation, and a version's template can be changed where it is kept.
    mark = template_mark(_as_workload(wanted))
    evidence = {"to_revision": str(wanted.number), "to_image": image_of(_as_workload(wanted))[:200]}
    if current is not None:
        evidence["from_revision"] = str(current.number)
    return plan_of(
        ROLLBACK,
        seen,
        lines=lines,
        state={"to_revision": str(wanted.number), "template": mark},
        values={"version": wanted.uid, "to_revision": str(wanted.number), "template": mark},
        evidence=evidence,
        undo=undo,
        nothing=f"version {wanted.number} is the current one" if same else "",
    )


def undo_of(seen: Seen, current: Version | None) -> Undo | None:
    """Back to the version from before, which takes a change of the template back as a whole."""
    if current is None:
        return None
    arguments = {"name": seen.name, "to_revision": str(current.number)}
    return Undo(tool="rollback_deployment", arguments=arguments)


async def undo_by_version(site: Site, seen: Seen) -> Undo | None:
    """The same of what is current now; none for a caller who may not look at versions."""
    try:
        versions = await versions_of(site, seen.kind, seen.workload)
    except Forbidden:
        return None
    return undo_of(seen, current_of(seen.kind, seen.workload, versions))


def _wanted(versions: list[Version], current: Version | None, to_revision: str) -> Version:
    hint = "list_revisions shows those that there are."
    if to_revision:
        found = next((one for one in versions if str(one.number) == to_revision), None)
        if found is None:
            raise NotFound("The platform has no such version of this workload.", hint=hint)
        return found
    earlier = [one for one in versions if current is None or one.number < current.number]
    if not earlier:
        raise NotFound("The platform keeps no earlier version of this workload.", hint=hint)
    if current is None and len(versions) > 1:
        raise Conflict(
            "Which version is the current one is not settled yet; nothing was done.",
            hint="Name to_revision; list_revisions shows them.",
        )
    return earlier[0]


def _instead(current: Version | None) -> str:
    return "" if current is None else f" instead of version {current.number}"


def _version(kind: Kind, holder: Obj) -> Version:
    if kind is DEPLOYMENT:
        written = _revision(holder)
        found = int(written[:10]) if written.isascii() and written.isdigit() else 0
        template = copy.deepcopy(template_of(holder))
        mapping(template, "metadata", "labels").pop(_HASH, None)
    else:
        found = number(holder, "revision")
        template = dict(mapping(holder, "data", "spec", "template"))
        template.pop("$patch", None)
    return Version(number=found, uid=uid_of(holder), template=template, holder=holder)


def _revision(obj: Obj) -> str:
    return text(mapping(obj, "metadata", "annotations"), REVISION)


def _as_workload(version: Version) -> Obj:
    return {"spec": {"template": version.template}}


def _shown(version: Version, current: Version | None) -> Revision:
    is_current = current is not None and version.uid == current.uid
    return Revision(
        id=str(version.number),
        current=is_current,
        image=image_of(_as_workload(version)),
        made_at=moment_of(text(version.holder, "metadata", "creationTimestamp")),
        cause=version.cause,
        restorable=not is_current,
    )


def template_blocked(kind: Kind, workload: Obj) -> str:
    """Why another template would not reach the instances; empty when it would. A workload of zero
    instances takes one all the same."""
    counts = counts_of(kind, workload)
    why = blocked(kind, workload, counts)
    return "" if counts.desired == 0 and why.startswith("it has no instances") else why


def blocked_now(plan: Plan, workload: Obj) -> str:
    """The same of a workload that was read anew."""
    return template_blocked(parse_name(plan.name)[0], workload)


async def _body(site: Site, plan: Plan, workload: Obj, _at: str) -> Obj:
    kind, _ = parse_name(plan.name)
    versions = await versions_of(site, kind, workload)
    found = next((one for one in versions if one.uid == plan.values["version"]), None)
    if found is None:
        raise Conflict(
            f"Version {plan.values['to_revision']} is not kept any more; nothing was done.",
            hint="list_revisions shows those that there are.",
        )
    if template_mark(_as_workload(found)) != plan.values.get("template"):
        raise Conflict(
            f"Version {plan.values['to_revision']} is another one than was looked at.",
            hint="Look again, then decide again.",
        )
    body: Obj = {"spec": {"template": {**found.template, "$patch": "replace"}}}
    if kind is DEPLOYMENT:
        # As kubectl does: the history goes on saying why this version was made.
        body["metadata"] = {"annotations": {CAUSE: found.cause or None}}
    return body


HANDLERS: Final[Mapping[str, Handler]] = {
    ROLLBACK: Patch(body=_body, follow_up=follow_rollout, forbidden=blocked_now)
}
