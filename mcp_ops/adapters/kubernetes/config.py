"""The settings of a workload: the environment of its containers.

A setting of the main container is called by its name, one of another container `CONTAINER:NAME`.
Values are masked and compared by fingerprints; a plan holds none but the one that it would set.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from mcp_ops.adapters.kubernetes.changing import Patch, Seen, look, plan_of
from mcp_ops.adapters.kubernetes.environment import (
    Setting,
    count_containers,
    prefixed,
    running_containers,
    setting_of,
    settings_of,
    taken_over,
)
from mcp_ops.adapters.kubernetes.fields import Obj, dig, mapping, objects, text
from mcp_ops.adapters.kubernetes.following import follow_rollout
from mcp_ops.adapters.kubernetes.look import get_workload
from mcp_ops.adapters.kubernetes.references import (
    Keepers,
    Reference,
    parse_reference,
)
from mcp_ops.adapters.kubernetes.resources import main_container
from mcp_ops.adapters.kubernetes.revisions import (
    blocked_now,
    template_blocked,
    undo_by_version,
)
from mcp_ops.adapters.kubernetes.site import Handler, Site
from mcp_ops.adapters.kubernetes.workloads import parse_name
from mcp_ops.capabilities.base import Undo
from mcp_ops.capabilities.changes import Plan
from mcp_ops.capabilities.deployment_config import ConfigItem, ConfigPage
from mcp_ops.errors import Conflict, InvalidInput
from mcp_ops.redact import MASK, named_as_secret, quoted

CONFIG: Final = "config"
_MOST: Final = 1_000
_SHOWN: Final = 80
_ENV_NAME: Final = re.compile(r"[-._A-Za-z][-._A-Za-z0-9]*")


async def list_config(site: Site, name: str, *, limit: int, cursor: str) -> ConfigPage:
    """One page by name; the cursor is the last name shown."""
    kind, plain = parse_name(name)
    workload = await get_workload(site.api, kind, plain)
    required = set(site.bounds.required.get(kind.called(plain), ()))
    keepers = Keepers(site=site)
    settings = list(settings_of(plain, workload))
    await keepers.look_at([one.reference for one in settings if one.reference is not None])
    items = {one.called: await _item(site, keepers, one, required) for one in settings}
    whole = await _whole_keepers(keepers, plain, workload, required)
    for item in whole:
        items.setdefault(item.name, item)
    missing = sorted(required - items.keys())
    # What may be in something that could not be looked at is not known to be missing.
    unseen = any(item.name.endswith("*") and item.problem.startswith("not known") for item in whole)
    problem = "not known: what is taken over as a whole may set it" if unseen else "it is not set"
    items |= {
        one: ConfigItem(name=one, source="missing", required=True, problem=problem)
        for one in missing
    }
    missing = [] if unseen else missing
    left = [items[one] for one in sorted(items) if not cursor or one > cursor]
    more = len(left) > limit
    return ConfigPage(
        name=kind.called(plain),
        items=left[:limit],
        missing=missing,
        next_cursor=left[limit - 1].name if more else "",
        truncated=more,
        searched=f"environment of {count_containers(workload)} containers of {kind.called(plain)}",
        version=text(workload, "metadata", "resourceVersion")[:40],
    )


async def plan_config(
    site: Site, name: str, key: str, *, value: str, value_ref: str, overwrite: bool
) -> Plan:
    """Set one setting; see `ConfigurablePlatform`."""
    reference = parse_reference(value_ref) if value_ref else None
    seen = await look(site, name)
    container, plain_key = _address(parse_name(name)[1], seen.workload, key)
    if reference is None:
        _no_secret(site, plain_key, value)
    keepers = Keepers(site=site)
    held = await _held(keepers, reference) if reference is not None else []
    old = setting_of(parse_name(name)[1], seen.workload, container, plain_key)
    taken, notes = await _taken(keepers, seen, container, plain_key) if old is None else ("", [])
    nothing = _same(old, value, reference)
    if not nothing:
        _may(seen, there=old is not None or bool(taken), overwrite=overwrite)
    lines = [_line(site, key, old, value, reference, taken), *notes, *held]
    lines.append(f"Replace {seen.now.desired} instances of {seen.name} with others that have it.")
    return plan_of(
        CONFIG,
        seen,
        lines=lines,
        state={"key": key, "before": _fingerprint(site, old)},
        values={"container": container, "key": plain_key, "value": value, "value_ref": value_ref},
        evidence=_evidence(site, key, old, value, reference),
        undo=await _undo(site, seen, key, old),
        nothing=nothing,
    )


async def _undo(site: Site, seen: Seen, key: str, old: Setting | None) -> Undo | None:
    """A reference can be set again; a value is in no undo: the version from before has it."""
    if old is not None and old.reference is not None:
        arguments = {
            "name": seen.name,
            "key": key,
            "value_ref": str(old.reference),
            "overwrite": True,
        }
        return Undo(tool="set_config", arguments=arguments)
    return await undo_by_version(site, seen)


async def _taken(keepers: Keepers, seen: Seen, container: str, key: str) -> tuple[str, list[str]]:
    """Where the container takes a setting from as part of a whole (`envFrom`), or nothing; and
    what could not be looked at for that."""
    found, notes = "", []
    for one in running_containers(seen.workload):
        for source in objects(one, "envFrom") if text(one, "name") == container else []:
            for item in await taken_over(keepers, "", source, set()):
                if item.name == key:
                    found = item.shown
                elif item.problem.startswith("not known"):
                    notes.append(f"Whether {item.shown} sets it, too, is {item.problem}.")
    return found, notes


def _may(seen: Seen, *, there: bool, overwrite: bool) -> None:
    if there and not overwrite:
        raise Conflict(
            "The setting is there already; nothing was done.",
            hint="Pass overwrite=true to set it to something else.",
        )
    if why := template_blocked(seen.kind, seen.workload):
        raise Conflict(
            f"It would not reach the instances: {why}.",
            hint="Look with get_deployment; resume_rollout ends a pause.",
        )


def _same(old: Setting | None, value: str, reference: Reference | None) -> str:
    if old is None:
        return ""
    if reference is not None:
        known = old.reference
        return "" if known is None or str(known) != str(reference) else "it is set to that already"
    plain = dig(old.entry, "valueFrom") is None
    return "it is set to that already" if plain and old.value == value else ""


def _no_secret(site: Site, key: str, value: str) -> None:
    if _hidden(site, key, value):
        raise InvalidInput(
            "That looks like a secret, which must not stand in a workload.",
            hint="Keep it in a Secret and pass value_ref=secret/NAME/KEY.",
        )


def _hidden(site: Site, key: str, value: str) -> bool:
    """Whether it is a secret by its name or its look."""
    return named_as_secret(key) or bool(site.redactor.value({key: value}) != {key: value})


async def _held(keepers: Keepers, reference: Reference) -> list[str]:
    """Instances would not start with a reference that is broken."""
    problem = await keepers.problem(reference)
    if not problem:
        return []
    if problem.startswith("not known"):
        return [f"Whether {reference} is there is {problem}."]
    raise InvalidInput(
        f"{reference} does not hold: {problem}.",
        hint="Name a key that is there: instances would not start without it.",
    )


def _line(
    site: Site, key: str, old: Setting | None, value: str, reference: Reference | None, taken: str
) -> str:
    new = str(reference) if reference is not None else quoted(value, 200)
    if old is None:
        return f"Set {key} to {new}; it is {taken or 'not set'} now."
    before = str(old.reference) if old.reference is not None else f"#{_fingerprint(site, old)}"
    return f"Set {key} to {new}; it is {before} now."


def _fingerprint(site: Site, old: Setting | None) -> str:
    """What tells the state before from others and shows nothing of it."""
    if old is None:
        return ""
    shown = old.value or repr(sorted(old.entry.items()))
    return site.redactor.fingerprint(shown, of=text(old.entry, "name"))


def _evidence(
    site: Site, key: str, old: Setting | None, value: str, reference: Reference | None
) -> dict[str, str]:
    found = {"key": key}
    if old is not None:
        found["fingerprint_before"] = _fingerprint(site, old)
    if old is not None and old.reference is not None:
        found["reference_before"] = str(old.reference)
    if reference is not None:
        found["reference"] = str(reference)
    else:
        found["fingerprint"] = site.redactor.fingerprint(value, of=key.rpartition(":")[2])
    return found


def _address(plain: str, workload: Obj, key: str) -> tuple[str, str]:
    """Container and name of a setting; raises `InvalidInput` for a container that is not one."""
    container, colon, name = key.rpartition(":")
    if not colon:
        container = text(main_container(plain, workload), "name")
    elif container not in {text(one, "name") for one in running_containers(workload)}:
        raise InvalidInput("There is no such container.", hint="list_config shows the names.")
    if not _ENV_NAME.fullmatch(name):
        raise InvalidInput("key must be letters, digits, '-', '_' or '.', or CONTAINER:KEY.")
    return container, name


async def _item(site: Site, keepers: Keepers, one: Setting, required: set[str]) -> ConfigItem:
    needed = one.called in required
    reference = one.reference
    if reference is not None:
        problem = "" if reference.optional else await keepers.problem(reference)
        kept = await keepers.look(reference.keeper, reference.name)
        return ConfigItem(
            name=one.called,
            source="reference",
            shown=str(reference),
            fingerprint=(kept.fingerprints or {}).get(reference.key, ""),
            required=needed,
            problem=problem,
        )
    if other := mapping(one.entry, "valueFrom"):
        shown = f"{next(iter(other))}: {text(next(iter(other.values())), 'fieldPath')}"
        return ConfigItem(name=one.called, source="reference", shown=shown, required=needed)
    return ConfigItem(
        name=one.called,
        source="value",
        shown=_masked(site, one),
        fingerprint=site.redactor.fingerprint(one.value, of=text(one.entry, "name")),
        required=needed,
        problem="" if one.value else "it is empty",
    )


def _masked(site: Site, one: Setting) -> str:
    """The first characters of what is no secret by its name or its look, else nothing of it."""
    if not one.value:
        return ""
    if _hidden(site, text(one.entry, "name"), one.value):
        return MASK
    return f"{one.value[:2]}…" if len(one.value) > 4 else "…"


async def _whole_keepers(
    keepers: Keepers, plain: str, workload: Obj, required: set[str]
) -> list[ConfigItem]:
    """What containers take over as a whole (`envFrom`): by key, where that may be looked at."""
    found: list[ConfigItem] = []
    for prefix, container in prefixed(plain, workload):
        for source in objects(container, "envFrom"):
            found += await taken_over(keepers, prefix, source, required)
    return found[:_MOST]


async def _body(_site: Site, plan: Plan, workload: Obj, _at: str) -> Obj:
    values, plain = plan.values, parse_name(plan.name)[1]
    old = setting_of(plain, workload, str(values["container"]), str(values["key"]))
    before = old.entry if old is not None else {}
    if values["value_ref"]:
        entry = parse_reference(str(values["value_ref"])).entry(before)
    else:
        entry = {"value": values["value"]}
        if "valueFrom" in before:
            entry["valueFrom"] = None
    container = {"name": values["container"], "env": [{"name": values["key"], **entry}]}
    return {"spec": {"template": {"spec": {"containers": [container]}}}}


HANDLERS: Final[Mapping[str, Handler]] = {
    CONFIG: Patch(body=_body, follow_up=follow_rollout, forbidden=blocked_now)
}
