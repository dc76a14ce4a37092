"""Tools on the settings of a workload."""

from __future__ import annotations

import re
from functools import partial
from typing import Annotated

from pydantic import AfterValidator, Field

from mcp_ops.capabilities.base import Effect
from mcp_ops.capabilities.changes import Change
from mcp_ops.capabilities.deployment_config import ConfigPage, ConfigurablePlatform
from mcp_ops.capabilities.deployments import WorkloadName
from mcp_ops.changes import WORK_S, after, carry_out
from mcp_ops.errors import InvalidInput
from mcp_ops.params import Cursor, Limit, NamedBy, WaitSeconds
from mcp_ops.tool import Write, tool

_KEY = re.compile(r"[A-Za-z_][\w.:-]*", re.ASCII)


def _key(name: str) -> str:
    """The rule is checked here and not in the schema, where a model would pay for it."""
    if not _KEY.fullmatch(name):
        raise ValueError("must be letters, digits and _ . : -, and begin with no digit")
    return name


Key = Annotated[str, Field(description="Name.", max_length=200), AfterValidator(_key)]
Value = Annotated[str, Field(description="No secret.", max_length=2_000), NamedBy("key")]
Reference = Annotated[str, Field(description="Where the value is.", max_length=500)]
Overwrite = Annotated[bool, Field(description="It is there.")]


@tool(effect=Effect.READ)
async def list_config(
    platform: ConfigurablePlatform, name: WorkloadName, limit: Limit = 50, cursor: Cursor = ""
) -> ConfigPage:
    """List the settings of a workload: names, masked values, references, and required ones that
    are missing."""
    return await platform.list_config(name, limit=limit, cursor=cursor)


@tool(effect=Effect.WRITE, resumable=True, timeout=WORK_S + 300, destroys_when={"overwrite": True})
async def set_config(
    platform: ConfigurablePlatform,
    write: Write,
    name: WorkloadName,
    key: Key,
    value: Value = "",
    value_ref: Reference = "",
    overwrite: Overwrite = False,
    wait_s: WaitSeconds = 45,
) -> Change:
    """Set one setting of a workload, a secret by value_ref to where it is kept. Its instances
    are replaced. One that is there needs overwrite, which destroys."""
    if bool(value) == bool(value_ref):
        raise InvalidInput("Pass one of value and value_ref.", hint="A secret: value_ref.")
    planning = partial(
        platform.plan_config, name, key, value=value, value_ref=value_ref, overwrite=overwrite
    )
    return await carry_out(platform, write, planning, wait_s=wait_s, after=after(name))
