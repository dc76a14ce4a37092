"""Fixtures of the suite that are tools like all others: each call of them passes the guard.

They work on the workloads of a cluster, so that limits, circuit and record are those of a target.
The suite sends no arguments: reasons have a default here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field, create_model

from mcp_ops.capabilities.base import Effect, Result, WriteResult
from mcp_ops.capabilities.deployments import DeploymentPlatform
from mcp_ops.errors import NotFound
from mcp_ops.tool import Tool, Write, tool

STEPS = 3
STEP_S = 0.1


class Counted(Result):
    """How many workloads there are."""

    workloads: int


class Done(WriteResult):
    """What a fixture that writes answers."""

    said: str = ""


@tool(effect=Effect.READ)
async def test_simple_text(platform: DeploymentPlatform) -> Counted:
    """Count the first workloads, for the conformance suite."""
    page = await platform.list_workloads(limit=5, cursor="")
    return Counted(workloads=len(page.items))


@tool(effect=Effect.READ)
async def test_error_handling(platform: DeploymentPlatform) -> Counted:
    """Fail, for the conformance suite."""
    raise NotFound("This tool always fails: it exists for the conformance suite.")


@tool(effect=Effect.READ)
async def test_custom_header(
    platform: DeploymentPlatform,
    region: Annotated[
        str,
        Field(
            description="Said in a header as well.",
            max_length=100,
            json_schema_extra={"x-mcp-header": "Region"},
        ),
    ],
) -> Counted:
    """Take an argument that is a header, too, for the conformance suite."""
    return Counted(workloads=0)


@tool(effect=Effect.WRITE)
async def test_tool_with_progress(platform: DeploymentPlatform, write: Write) -> Done:
    """Report progress, for the conformance suite."""
    for step in range(1, STEPS + 1):
        write.progress(step, STEPS, "counting")
        # What comes at once is told at once: the suite wants each step.
        await write.pause(STEP_S)
    return Done(outcome="verified", said=f"{STEPS} steps")


@tool(effect=Effect.WRITE)
async def test_elicitation(
    platform: DeploymentPlatform,
    write: Write,
    message: Annotated[str, Field(description="What the suite says.", max_length=200)],
) -> Done:
    """Be confirmed by the client's user, for the conformance suite."""
    return Done(outcome="verified", said=message)


@tool(effect=Effect.WRITE)
async def test_input_required_result_request_state(
    platform: DeploymentPlatform, write: Write
) -> Done:
    """Be confirmed in a second call, for the conformance suite."""
    return Done(outcome="verified", said="state-ok")


@tool(effect=Effect.WRITE)
async def test_input_required_result_tampered_state(
    platform: DeploymentPlatform, write: Write
) -> Done:
    """Be confirmed in a second call that the suite spoils."""
    return Done(outcome="verified", said="never")


def _without_reason(made: Tool) -> Tool:
    if made.effect is Effect.READ:
        return made
    reason: Any = (Annotated[str, Field(description="Why.", max_length=500)], "conformance")
    return replace(made, arguments=create_model(made.name, __base__=made.arguments, reason=reason))


GUARDED: Mapping[str, Tool] = {
    each.name: _without_reason(each)
    for each in (
        test_simple_text,
        test_error_handling,
        test_custom_header,
        test_tool_with_progress,
        test_elicitation,
        test_input_required_result_request_state,
        test_input_required_result_tampered_state,
    )
}
POLICY = """
# The suite writes to one object all the time.
[guard.limits]
writes_per_object = 100

# Told how far it is without a question before.
[[policy]]
tool = "test_tool_with_progress"
require = "none"
"""
