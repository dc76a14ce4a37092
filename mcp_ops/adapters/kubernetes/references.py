"""Where the values of settings are kept: ConfigMaps and Secrets, looked at for what they have.

Of a Secret only the names of its keys and a fingerprint are used. A caller who may not read it is
told that it is not known whether a reference holds; that is no error.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Literal

from mcp_ops.adapters.kubernetes.failures import Ask
from mcp_ops.adapters.kubernetes.fields import Obj, flag, mapping, text
from mcp_ops.adapters.kubernetes.site import Site
from mcp_ops.errors import Forbidden, InvalidInput, NotFound
from mcp_ops.wire.together import together

Keeper = Literal["secret", "configmap"]
_MOST: Final = 50  # each is a request
_PLURALS: Final[dict[str, str]] = {"secret": "secrets", "configmap": "configmaps"}
_SELECTORS: Final[dict[str, Keeper]] = {
    "secretKeyRef": "secret",
    "configMapKeyRef": "configmap",
}
_WRITTEN: Final = re.compile(
    r"(secret|configmap)/([a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?)/([-._A-Za-z0-9]{1,253})"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """One key of a Secret or a ConfigMap; `optional` means that pods start without it."""

    keeper: Keeper
    name: str
    key: str
    optional: bool = False

    def __str__(self) -> str:
        return f"{self.keeper}/{self.name}/{self.key}"

    def entry(self, before: Obj) -> Obj:
        """The reference as a container's setting has it, in the place of what is there now."""
        chosen = next(one for one, keeper in _SELECTORS.items() if keeper == self.keeper)
        sources: Obj = dict.fromkeys(mapping(before, "valueFrom"))
        selector: Obj = {"name": self.name, "key": self.key}
        if "optional" in mapping(before, "valueFrom", chosen):
            selector["optional"] = None
        entry: Obj = {"valueFrom": {**sources, chosen: selector}}
        return {"value": None, **entry} if "value" in before else entry


def parse_reference(written: str) -> Reference:
    """The reference that `secret/NAME/KEY` or `configmap/NAME/KEY` means."""
    found = _WRITTEN.fullmatch(written)
    if not found:
        raise InvalidInput("value_ref must be secret/NAME/KEY or configmap/NAME/KEY.")
    keeper: Keeper = "secret" if found[1] == "secret" else "configmap"
    return Reference(keeper=keeper, name=found[2], key=found[3])


def reference_of(setting: Obj) -> Reference | None:
    """The key that a container's setting refers to, where it does."""
    for field_name, keeper in _SELECTORS.items():
        found = mapping(setting, "valueFrom", field_name)
        if found:
            return Reference(
                keeper=keeper,
                name=text(found, "name")[:253],
                key=text(found, "key")[:253],
                optional=flag(found, "optional"),
            )
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What is known of one Secret or ConfigMap. `fingerprints` by key; None: not known, and
    `unknown` says why."""

    missing: bool = False
    fingerprints: dict[str, str] | None = None
    unknown: str = ""


@dataclass(slots=True, kw_only=True)
class Keepers:
    """Secrets and ConfigMaps of the namespace, each looked at once."""

    site: Site
    seen: dict[tuple[str, str], Kept] = field(default_factory=dict)

    async def look(self, keeper: Keeper, name: str) -> Kept:
        """What is known of it."""
        if (keeper, name) not in self.seen:
            if len(self.seen) >= _MOST:
                return Kept(unknown=f"more than {_MOST} are used, and no more are looked at")
            self.seen[keeper, name] = await self._read(keeper, name)
        return self.seen[keeper, name]

    async def look_at(self, references: Sequence[Reference]) -> None:
        """Look at those of these references, several at a time."""
        wanted = dict.fromkeys((each.keeper, each.name) for each in references)
        asks = [partial(self._read, *each) for each in list(wanted)[:_MOST]]
        self.seen.update(zip(wanted, await together(asks), strict=False))

    async def problem(self, reference: Reference) -> str:
        """Why it is broken, in a sentence's end; empty when it holds."""
        kept = await self.look(reference.keeper, reference.name)
        if kept.missing:
            return f"there is no {reference.keeper} of that name"
        if kept.fingerprints is None:
            return f"not known: {kept.unknown}"
        if reference.key not in kept.fingerprints:
            return f"the {reference.keeper} has no such key"
        return ""

    async def _read(self, keeper: Keeper, name: str) -> Kept:
        plural = _PLURALS[keeper]
        ask = Ask(verb="get", resource=plural)
        try:
            found = await self.site.api.get_plain(self.site.api.path("", plural, name), ask)
        except NotFound:
            return Kept(missing=True)
        except Forbidden:
            return Kept(unknown=f"the credential may not read {plural}")
        if keeper == "secret":
            values = {key: _decoded(value) for key, value in mapping(found, "data").items()}
        else:
            values = {**mapping(found, "data"), **mapping(found, "binaryData")}
        return Kept(
            fingerprints={
                # Under a name that no setting can have, or a guess could be tried there.
                str(key): self.site.redactor.fingerprint(str(value), of=f"{keeper}/{key}")
                for key, value in values.items()
            }
        )


def _decoded(value: Any) -> str:
    """The same text as a container gets, so that fingerprints of one value are one."""
    try:
        return base64.b64decode(str(value), validate=True).decode("utf-8", "replace")
    except (binascii.Error, ValueError):
        return str(value)
