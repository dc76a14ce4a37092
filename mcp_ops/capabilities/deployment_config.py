"""The settings of a workload: their names, masked values, what is missing, and how one is set."""

from __future__ import annotations

from typing import Literal, Protocol

from mcp_ops.capabilities.base import Model, Page, UntrustedLine
from mcp_ops.capabilities.changes import Changeable, Plan


class ConfigItem(Model):
    """A setting. `source` is `value` for one written in the workload itself, `reference` for one
    that is kept elsewhere; `shown` is the masked value or the reference, never a secret.
    `fingerprint` compares values without showing them. `problem` says why a reference is broken.
    """

    name: str
    source: Literal["value", "reference", "missing"]
    shown: UntrustedLine = ""
    fingerprint: str = ""
    required: bool = False
    problem: UntrustedLine = ""


class ConfigPage(Page[ConfigItem]):
    """Answer of list_config. `missing` are the required settings that are not there."""

    name: str
    missing: list[str] = []
    version: str = ""


class ConfigurablePlatform(Changeable, Protocol):
    """A platform that keeps the settings of its workloads."""

    async def list_config(self, name: str, *, limit: int, cursor: str) -> ConfigPage:
        """The settings by name; values masked."""
        ...

    async def plan_config(
        self, name: str, key: str, *, value: str, value_ref: str, overwrite: bool
    ) -> Plan:
        """Set one setting to a plain value or to a reference in the platform's words.

        Raises `Conflict` where the setting is there and `overwrite` is false, `InvalidInput` for
        a reference that the platform does not take, or a plain value that looks like a secret.
        The plan shows fingerprints of what would be overwritten, and no undo holds a value.
        """
        ...
