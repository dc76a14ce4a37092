"""How apps and slots are named: `app` and `app/slots/slot`, in lower case.

Azure compares names without their case; here one object has one name, so that budgets, replay
and protection see one object.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from mcp_ops.errors import InvalidInput, NotFound

PRODUCTION: Final = "production"
_PART: Final = re.compile(r"[a-z0-9][-a-z0-9]{0,58}[a-z0-9]|[a-z0-9]")
_SLOTS: Final = "/slots/"
_HINT: Final = "See list_deployments for the names."


@dataclass(frozen=True, slots=True, kw_only=True)
class AppName:
    """An app, or one of its slots. `slot` is empty for the one in production."""

    site: str
    slot: str = ""

    @property
    def shown(self) -> str:
        """The name that the tools use."""
        return f"{self.site}{_SLOTS}{self.slot}" if self.slot else self.site

    @property
    def scm(self) -> str:
        """The first label of its host names."""
        return f"{self.site}-{self.slot}" if self.slot else self.site

    @property
    def path(self) -> str:
        """The path below `Microsoft.Web`."""
        site = f"sites/{quote(self.site, safe='')}"
        return f"{site}/slots/{quote(self.slot, safe='')}" if self.slot else site


def parse_name(name: str, only: str = "") -> AppName:
    """The app of a tool's argument; `only` is the one app that the target is, if it is one.

    Raises `InvalidInput` for what can't be a name, `NotFound` for another app than that one.
    """
    site, slash, slot = name.partition(_SLOTS)
    parts = (site, slot) if slash else (site,)
    if not all(_PART.fullmatch(part) for part in parts):
        raise InvalidInput("name must be APP or APP/slots/SLOT, in lower case.", hint=_HINT)
    if only and site != only.lower():
        raise NotFound("This target is one other app and its slots.", hint=_HINT)
    return AppName(site=site, slot="" if slot == PRODUCTION else slot)


def slot_name(slot: str) -> str:
    """A slot's name in lower case; raises `InvalidInput`."""
    low = slot.lower()
    if not _PART.fullmatch(low) or low == PRODUCTION:
        raise InvalidInput("slot must be the name of a slot, and not production.", hint=_HINT)
    return low


def listed_name(resource: str) -> AppName | None:
    """The app of a resource's name (`App` or `App/Slot`), or None where it is no name."""
    site, _, slot = resource.lower().partition("/")
    if _PART.fullmatch(site) and (not slot or _PART.fullmatch(slot)):
        return AppName(site=site, slot=slot)
    return None
