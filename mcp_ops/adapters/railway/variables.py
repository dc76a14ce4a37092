"""The variables of a service: names, masked values, references, and how one is set."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from mcp_ops.adapters.railway.access import Scope
from mcp_ops.adapters.railway.changing import Action, Driver, Made, confirmed, newer, plan_of, seen
from mcp_ops.adapters.railway.following import follow_new
from mcp_ops.adapters.railway.operations import Mutation, Query
from mcp_ops.adapters.railway.state import Deployment, Service, mapping, nodes, text
from mcp_ops.capabilities.base import Undo
from mcp_ops.capabilities.changes import Begun, Plan, Progress
from mcp_ops.capabilities.deployment_config import ConfigItem, ConfigPage
from mcp_ops.errors import Conflict, Forbidden, InvalidInput
from mcp_ops.redact import MASK, Redactor, named_as_secret, tame

SET: Final = "set_variable"
_MOST: Final = 2_000
_RANDOM: Final = 12  # shorter ones may be words
_KEY: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}")
# One reference and nothing round it: text between could be a secret.
_REFERENCE: Final = re.compile(
    r"\$\{\{\s*(?:(?P<space>[A-Za-z0-9][A-Za-z0-9 ._-]{0,100})\.)?"
    r"(?P<key>[A-Za-z_][A-Za-z0-9_]{0,199})\s*\}\}"
)
_HARMLESS: Final = re.compile(r"-?\d{1,6}|true|false|on|off|yes|no", re.IGNORECASE)
_OURS: Final = "RAILWAY_"


async def read_variables(driver: Driver, scope: Scope, service: Service) -> dict[str, str | None]:
    """The variables of a service as they are written, references not resolved; None is a sealed
    one, whose value nobody can read."""
    where = {"project": scope.project, "environment": scope.environment}
    data = await driver.api.ask(Query.VARIABLES, {**where, "service": service.id})
    raw = mapping(data, "variables")
    found = {
        name: value if isinstance(value, str) else None
        for name, value in list(raw.items())[:_MOST]
        if isinstance(name, str) and _KEY.fullmatch(name)
    }
    try:
        data = await driver.api.ask(Query.SEALED, {**where, "first": 500})
    except Forbidden:  # a token that may not: the sealed ones that Railway leaves out are unknown
        return found
    for node in nodes(data, "environment", "variables"):
        name, of = text(node, "name"), text(node, "serviceId")
        if of == service.id and node.get("isSealed") is True and _KEY.fullmatch(name):
            found[name] = None
    return found


def list_page(
    name: str,
    variables: Mapping[str, str | None],
    *,
    required: Iterable[str],
    services: set[str],
    redactor: Redactor,
    limit: int,
    cursor: str,
) -> ConfigPage:
    """A page of variables by name; those that are missing stand among them."""
    needed = set(required)
    missing = sorted(needed - variables.keys())
    names = sorted({*variables, *missing})
    after = [key for key in names if key > cursor]
    items = [
        _item(key, variables, needed=key in needed, services=services, redactor=redactor)
        for key in after[:limit]
    ]
    more = len(after) > limit
    return ConfigPage(
        name=name,
        items=items,
        missing=missing,
        next_cursor=items[-1].name if more else "",
        truncated=more,
        searched=f"{len(variables)} variables of the service in this environment",
    )


def _item(
    key: str,
    variables: Mapping[str, str | None],
    *,
    needed: bool,
    services: set[str],
    redactor: Redactor,
) -> ConfigItem:
    if key not in variables:
        return ConfigItem(name=key, source="missing", required=True)
    value = variables[key]
    if value is None:
        return ConfigItem(name=key, source="value", shown="[sealed]", required=needed)
    mark = redactor.fingerprint(value, of=key)
    match = _REFERENCE.fullmatch(value)
    if match is None:
        if named_as_secret(key) and len(value) >= _RANDOM:
            # So that no log line of the service shows it either.
            redactor.add(value)
        shown = value if harmless(key, value) else MASK if value else ""
        return ConfigItem(
            name=key,
            source="value",
            shown=shown,
            fingerprint=mark,
            required=needed,
            problem="" if value else "It is empty.",
        )
    return ConfigItem(
        name=key,
        source="reference",
        shown=tame(value, 300),
        fingerprint=mark,
        required=needed,
        problem=_broken(match, variables, services),
    )


def harmless(key: str, value: str) -> bool:
    """Whether a value may be shown: a switch or a small number that no secret is named after."""
    return bool(_HARMLESS.fullmatch(value)) and not named_as_secret(key)


def _broken(match: re.Match[str], variables: Mapping[str, str | None], services: set[str]) -> str:
    space, key = match["space"], match["key"]
    if space is None:
        own = key in variables or key.startswith(_OURS)
        return "" if own else "The service has no variable of this name."
    if space == "shared" or space in services:
        return ""
    return "No service of this name is in the environment."


def plan_config(
    name: str,
    service: Service,
    variables: Mapping[str, str | None],
    *,
    key: str,
    value: str,
    value_ref: str,
    overwrite: bool,
    services: set[str],
    redactor: Redactor,
) -> Plan:
    """Set one variable; Railway deploys the service anew with it."""
    _check_key(key)
    wanted = (
        _reference(value_ref, variables, services) if value_ref else _plain(key, value, redactor)
    )
    there, before = key in variables, variables.get(key)
    if there and not overwrite:
        raise Conflict(
            f"The variable {key} is there.", hint="Pass overwrite=true, which counts as destroying."
        )
    mark = redactor.fingerprint(before, of=key) if before is not None else ""
    shown = value_ref or (value if harmless(key, value) else MASK)
    lines = [
        f"Set {key} of {name} to {shown} (fingerprint {redactor.fingerprint(wanted, of=key)})."
    ]
    if there:
        old = f"fingerprint {mark}" if before is not None else "sealed: nobody can read it again"
        lines.append(f"It overwrites the value that is there ({old}).")
    if service.current is not None:
        lines.append("Railway deploys the service anew with it.")
    undo = None
    if before is not None and _REFERENCE.fullmatch(before):
        arguments = {"name": name, "key": key, "value_ref": before, "overwrite": True}
        undo = Undo(tool="set_config", arguments=arguments)
    return plan_of(
        SET,
        name,
        service,
        acted=service.current,
        lines=lines,
        undo=undo,
        nothing=f"{key} has this value" if before == wanted else "",
        state={"before": mark, "there": there},
        evidence={"key": key, "fingerprint_before": mark},
        values={
            "key": key,
            "value": wanted,
            "there": there,
            "before": mark,
            "sealed": there and before is None,
        },
    )


def _check_key(key: str) -> None:
    if not _KEY.fullmatch(key):
        raise InvalidInput("A variable's name has letters, digits and _ only.")
    if key.startswith(_OURS):
        raise InvalidInput(
            "Variables that begin with RAILWAY_ steer the platform itself.",
            hint="A person sets these in the dashboard.",
        )


def _reference(value_ref: str, variables: Mapping[str, str | None], services: set[str]) -> str:
    match = _REFERENCE.fullmatch(value_ref)
    if match is None:
        raise InvalidInput(
            "value_ref is not one reference of Railway.",
            hint="As ${{shared.NAME}}, ${{Service.NAME}} or ${{NAME}}, with nothing round it.",
        )
    if why := _broken(match, variables, services):
        raise InvalidInput(f"The reference leads nowhere: {why}", hint="list_config shows some.")
    return value_ref


def _plain(key: str, value: str, redactor: Redactor) -> str:
    if "${{" in value:
        raise InvalidInput("A reference is passed as value_ref.")
    assigned = f"{key}={value}"
    if named_as_secret(key) or redactor.text(assigned) != assigned:
        raise InvalidInput(
            "The value is, or is named like, a secret: none is passed through here.",
            hint="A person sets it as a shared variable; value_ref=${{shared.NAME}} refers to it.",
        )
    return value


async def _changed(driver: Driver, plan: Plan, scope: Scope, service: Service) -> str:
    variables = await read_variables(driver, scope, service)
    before = variables.get(plan.values["key"])
    mark = driver.redactor.fingerprint(before, of=plan.values["key"]) if before is not None else ""
    if (plan.values["key"] in variables, mark) != (plan.values["there"], plan.values["before"]):
        return "The variable was changed since it was looked at"
    return ""


async def _send(driver: Driver, scope: Scope, plan: Plan, _service: Service) -> Made:
    data = await driver.api.change(
        Mutation.SET_VARIABLE,
        {
            "project": scope.project,
            "environment": scope.environment,
            "service": plan.values["service"],
            "name": plan.values["key"],
            "value": plan.values["value"],
        },
    )
    confirmed(data, "variableUpsert")
    return Made()


async def _trace(driver: Driver, plan: Plan, scope: Scope, service: Service) -> Made | None:
    """The value is the one that was to be set, and was another one at the look."""
    # Of a sealed one nobody can read what it is.
    if plan.values["sealed"] or not await _is_set(driver, plan, scope, service):
        return None
    later = newer(plan, service)
    if not later:
        return Made(evidence={"variable_is_set": True})
    return Made(id=later[-1].id, evidence={"variable_is_set": True, **seen(later[-1])})


async def _is_set(driver: Driver, plan: Plan, scope: Scope, service: Service) -> bool:
    variables = await read_variables(driver, scope, service)
    key = plan.values["key"]
    if plan.values["sealed"] and key in variables and variables[key] is None:
        return True
    return bool(variables.get(key) == plan.values["value"])


async def _follow(
    driver: Driver, plan: Plan, begun: Begun, scope: Scope, service: Service
) -> Progress:
    if not plan.values["latest"]:
        found = Progress(state="verified", evidence={"deployed": "never: it waits for that"})
    else:
        found = follow_new(driver, plan, begun, service, _any)
    if found.state == "verified" and not await _is_set(driver, plan, scope, service):
        why = "The variable has another value by now."
        return found.model_copy(update={"state": "superseded", "why": why})
    return found


def _any(_plan: Plan, _one: Deployment) -> bool:
    return True


ACTION: Final = Action(send=_send, trace=_trace, judge=_follow, changed=_changed)
