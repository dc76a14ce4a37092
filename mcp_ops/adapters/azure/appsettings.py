"""The settings of an app: names, masked values, Key Vault references; and how one is set.

Resource Manager only takes the whole dictionary. It is read, compared with what was planned for,
and put back with the one change; then it is read again. A change that somebody else makes between
that reading and that writing (some hundred milliseconds) is lost, and nothing can show that it
was: docs/targets/azure-app-service.md says so.
"""

from __future__ import annotations

import json
import re
from functools import partial
from typing import Any, Final

from mcp_ops.adapters.azure.acting import Action, not_busy, planned
from mcp_ops.adapters.azure.arm import Ask
from mcp_ops.adapters.azure.fields import Obj, dig, text
from mcp_ops.adapters.azure.look import (
    READ_CONFIG,
    Azure,
    get_site,
    if_allowed,
)
from mcp_ops.adapters.azure.names import AppName, parse_name
from mcp_ops.adapters.azure.restart import serving
from mcp_ops.capabilities.changes import Begun, Plan, Progress
from mcp_ops.capabilities.deployment_config import ConfigItem, ConfigPage
from mcp_ops.errors import BadAnswer, Conflict, InvalidInput
from mcp_ops.redact import Redactor, named_as_secret, tame
from mcp_ops.wire.http import Answer
from mcp_ops.wire.together import together

SET: Final = "set_setting"
_LIST: Final = Ask(action="Microsoft.Web/sites/config/list/Action")
_WRITE: Final = Ask(action="Microsoft.Web/sites/config/Write", writes=True)
_AFTER: Final = "after:"
_VAULT: Final = "@microsoft.keyvault("
_REFERENCE: Final = re.compile(
    r"@Microsoft\.KeyVault\((?:"
    r"SecretUri=https://[a-z0-9-]{3,24}\.vault\.[a-z.]{5,40}/secrets/[A-Za-z0-9-]{1,127}"
    r"(?:/[0-9a-f]{0,32})?/?"
    r"|VaultName=[A-Za-z0-9-]{3,24};SecretName=[A-Za-z0-9-]{1,127}"
    r"(?:;SecretVersion=[0-9a-f]{0,32})?)\)",
    re.IGNORECASE,
)
_RESOLVED: Final = "resolved"
_WAITING: Final = frozenset({"", "initialized"})


async def read_settings(azure: Azure, name: AppName) -> dict[str, str]:
    """The dictionary as it is; the values stay inside this module.

    Raises `BadAnswer` for an answer without one: taken for an empty one it would be written back.
    """
    found = await azure.arm.read_by_post(
        azure.arm.web(f"{name.path}/config/appsettings/list"), _LIST
    )
    properties = dig(found, "properties")
    if not isinstance(properties, dict) or not all(
        isinstance(each, str) for each in properties.values()
    ):
        raise BadAnswer("Azure's answer is no dictionary of settings.")
    return properties


async def _references(azure: Azure, name: AppName) -> dict[str, tuple[str, str]]:
    """Status and details of each Key Vault reference, by the setting's name in lower case."""
    path = azure.arm.web(f"{name.path}/config/configreferences/appsettings")
    found = await if_allowed(partial(azure.arm.pages, path, READ_CONFIG, most=2_000))
    return {
        text(one, "name").rpartition("/")[2].lower(): (
            text(one, "properties", "status")[:60],
            text(one, "properties", "details")[:300],
        )
        for one in (found[0] if found is not None else [])
    }


def version_of(settings: dict[str, str], redactor: Redactor) -> str:
    """A fingerprint of all of them; it tells nothing of a value."""
    return redactor.fingerprint(json.dumps(sorted(settings.items())))


async def list_config(azure: Azure, name: AppName, *, limit: int, cursor: str) -> ConfigPage:
    """One page of settings by name; required ones that are missing come with them."""
    if cursor and not cursor.startswith(_AFTER):
        raise InvalidInput("cursor must be the next_cursor of an earlier page.")
    settings, references = await together(
        [partial(read_settings, azure, name), partial(_references, azure, name)]
    )
    required = {each.lower(): each for each in azure.settings.required_settings}
    there = {each.lower() for each in settings}
    missing = sorted(shown for low, shown in required.items() if low not in there)
    items = [
        *(_item(key, settings[key], references, required, azure.redactor) for key in settings),
        *(ConfigItem(name=each, source="missing", required=True) for each in missing),
    ]
    after = cursor.removeprefix(_AFTER)
    rest = sorted((each for each in items if each.name > after), key=lambda each: each.name)
    page = rest[:limit]
    left = len(rest) > len(page)
    return ConfigPage(
        name=name.shown,
        items=page,
        missing=missing,
        version=version_of(settings, azure.redactor),
        next_cursor=f"{_AFTER}{page[-1].name}" if left else "",
        truncated=left,
        searched="application settings; connection strings are not among them",
    )


def _item(
    key: str,
    value: str,
    references: dict[str, tuple[str, str]],
    required: dict[str, str],
    redactor: Redactor,
) -> ConfigItem:
    is_required = key.lower() in required
    if not value.lower().startswith(_VAULT):
        return ConfigItem(
            name=tame(key, 200),
            source="value",
            shown=f"*** ({len(value)} characters)",
            fingerprint=redactor.fingerprint(value, of=key.lower()),
            required=is_required,
            problem="it is empty" if is_required and not value else "",
        )
    status, details = references.get(key.lower(), ("", ""))
    broken = status.lower() not in (_RESOLVED, *_WAITING)
    return ConfigItem(
        name=tame(key, 200),
        source="reference",
        shown=shown_reference(value),
        required=is_required,
        problem=redactor.text(f"{status}: {details}" if details else status) if broken else "",
    )


def shown_reference(value: str) -> str:
    """A Key Vault reference as it may be shown: one of a known form holds no secret."""
    return value if _REFERENCE.fullmatch(value) else "@Microsoft.KeyVault(…) of an unknown form"


async def plan_config(
    azure: Azure, name: AppName, key: str, *, value: str, value_ref: str, overwrite: bool
) -> Plan:
    """Set one setting; the instances restart."""
    _check_value(azure, key, value, value_ref)
    site = await get_site(azure, name)
    not_busy(site)
    if site.linux and ":" in key:
        raise InvalidInput("A setting of an app on Linux has no colon in its name: write __.")
    settings = await read_settings(azure, name)
    known = _known(settings, key)
    wanted = value or value_ref
    old = settings.get(known) if known is not None else None
    if old is not None and old != wanted and not overwrite:
        raise Conflict(
            f"The setting {known} is there; it is only replaced with overwrite.",
            hint="list_config shows it; overwrite=true counts as destroying.",
        )
    written = known if known is not None else key
    what = shown_reference(wanted) if value_ref else f"a plain value of {len(value)} characters"
    lines = [f"Set {written} of {name.shown} to {what}; all its instances restart."]
    if old is not None:
        lines.append(f"It replaces {_shown(written, old, azure)}; nobody keeps that for an undo.")
    return Plan(
        action=SET,
        name=name.shown,
        lines=lines,
        state={
            "setting": written,
            "is": _shown(written, old, azure) if old is not None else "not there",
        },
        lock=version_of(settings, azure.redactor),
        values=planned(azure, key=written, value=wanted, rest=_rest(settings, written, azure)),
        evidence={
            "setting": written,
            "fingerprint": azure.redactor.fingerprint(wanted, of=written.lower()),
            "before": _shown(written, old, azure) if old is not None else "not there",
        },
        nothing="it has this value" if old == wanted else "",
        repeatable=True,
    )


def _check_value(azure: Azure, key: str, value: str, value_ref: str) -> None:
    if value_ref and not _REFERENCE.fullmatch(value_ref):
        raise InvalidInput(
            "value_ref must be a Key Vault reference.",
            hint="@Microsoft.KeyVault(VaultName=shop;SecretName=api-key) or "
            "@Microsoft.KeyVault(SecretUri=https://shop.vault.azure.net/secrets/api-key)",
        )
    if not value:
        return
    if value.lower().startswith("@microsoft."):
        raise InvalidInput("A reference goes into value_ref, not into value.")
    shown: Any = {key: value}
    if named_as_secret(key) or azure.redactor.value(shown) != shown:
        raise InvalidInput(
            "value looks like a secret, by its form or by the setting's name; it was not sent.",
            hint="Put it into a Key Vault and pass value_ref.",
        )


def _known(settings: dict[str, str], key: str) -> str | None:
    """The name of a setting as it is written there: an environment knows no case on Windows."""
    if key in settings:
        return key
    return next((each for each in settings if each.lower() == key.lower()), None)


def _shown(key: str, value: str, azure: Azure) -> str:
    if value.lower().startswith(_VAULT):
        return shown_reference(value)
    return f"a value with the fingerprint {azure.redactor.fingerprint(value, of=key.lower())}"


def _rest(settings: dict[str, str], key: str, azure: Azure) -> str:
    """The version of all the others."""
    return version_of({k: v for k, v in settings.items() if k != key}, azure.redactor)


async def _check(azure: Azure, plan: Plan) -> dict[str, str]:
    name = parse_name(plan.name)
    not_busy(await get_site(azure, name))
    # Read last: what is compared here is what is put back.
    settings = await read_settings(azure, name)
    done = settings.get(str(plan.values["key"])) == plan.values["value"]
    same = version_of(settings, azure.redactor) == plan.lock
    if not same and not (
        done and _rest(settings, plan.values["key"], azure) == plan.values["rest"]
    ):
        raise Conflict(
            "The settings were changed since they were looked at; nothing was done.",
            hint="Look with list_config, then decide again.",
        )
    return settings


async def _send(azure: Azure, plan: Plan, settings: Any, call_id: str) -> Answer:
    path = azure.arm.web(f"{parse_name(plan.name).path}/config/appsettings")
    body = {"properties": {**settings, str(plan.values["key"]): plan.values["value"]}}
    return await azure.arm.write("PUT", path, _WRITE, call_id=call_id, body=body)


async def _shows(azure: Azure, plan: Plan) -> dict[str, Any] | None:
    settings = await read_settings(azure, parse_name(plan.name))
    if settings.get(str(plan.values["key"])) != plan.values["value"]:
        return None
    return {"others_as_before": _rest(settings, plan.values["key"], azure) == plan.values["rest"]}


async def _follow(azure: Azure, plan: Plan, _begun: Begun) -> Progress:
    name, key = parse_name(plan.name), str(plan.values["key"])
    settings = await read_settings(azure, name)
    same = _rest(settings, key, azure) == plan.values["rest"]
    evidence: Obj = {"settings": len(settings), "others_as_before": same}
    if settings.get(key) != plan.values["value"]:
        why = "The setting has another value: somebody wrote the settings after this change."
        return Progress(state="superseded", why=why, evidence=evidence)
    if str(plan.values["value"]).lower().startswith(_VAULT):
        status, details = (await _references(azure, name)).get(key.lower(), ("", ""))
        evidence["reference"] = tame(status, 60) or "not shown"
        if status.lower() in _WAITING:
            why = "Azure has not resolved the reference yet"
            return Progress(state="pending", why=why, wanted=1, evidence=evidence)
        if status.lower() != _RESOLVED:
            said = tame(azure.redactor.text(details), 200)
            why = f"The setting is there, but its reference is broken ({tame(status, 60)}): {said}"
            return Progress(state="failed", why=why, wanted=1, evidence=evidence)
    return await serving(azure, name, await get_site(azure, name), evidence)


ACTIONS: Final[dict[str, Action]] = {
    SET: Action(ask=_WRITE, check=_check, send=_send, follow=_follow, shows=_shows)
}
