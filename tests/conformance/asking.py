"""Fixtures of the suite that ask the client: by requests in the older era, by results since 2026.

Our own tools ask for nothing but a yes; the suite wants forms, a model's answer and roots as well.
State goes out in the clear here: the application's seal is what the suite tries.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp.shared.message import ServerMessageMetadata

from tests.conformance.contents import Json, complete, text

Context = ServerRequestContext[Any, Any]
Fixture = Callable[[Context, types.CallToolRequestParams], Awaitable[Any]]
_TOKENS = 100


def form(message: str, **properties: Json) -> Json:
    """A question to a person."""
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return {
        "method": "elicitation/create",
        "params": {"mode": "form", "message": message, "requestedSchema": schema},
    }


def _model(prompt: str) -> Json:
    message = {"role": "user", "content": text(prompt)}
    return {
        "method": "sampling/createMessage",
        "params": {"messages": [message], "maxTokens": _TOKENS},
    }


_STRING: Json = {"type": "string"}
_NAME = form("What is your name?", name=_STRING)
_ROOTS: Json = {"method": "roots/list", "params": {}}
# Which capability lets a client answer which request.
_NEEDED = {
    "elicitation/create": "elicitation",
    "sampling/createMessage": "sampling",
    "roots/list": "roots",
}


def required(requests: dict[str, Json], state: str = "") -> Json:
    """A result that asks; the client calls again with the answers and the state."""
    wire: Json = {"resultType": "input_required", "inputRequests": requests}
    return {**wire, "requestState": state} if state else wire


def answers(params: types.InputResponseRequestParams) -> dict[str, Any]:
    """What came back, by the key of the question."""
    found = params.input_responses or {}
    return {key: each.model_dump(mode="json", by_alias=True) for key, each in found.items()}


def _once(**requests: Json) -> Fixture:
    """Ask all at once; done when all are answered. Roots and a model's answer are just shown."""

    async def ask(_ctx: Context, params: types.CallToolRequestParams) -> Json:
        given = answers(params)
        state = "asked" if len(requests) > 1 else ""
        if set(requests) - set(given):
            return required(requests, state)
        return complete(text(str({key: given[key] for key in requests})))

    return ask


async def _rounds(_ctx: Context, params: types.CallToolRequestParams) -> Json:
    given, state = answers(params), params.request_state or ""
    if state == "second" and "step2" in given:
        return complete(text("both steps are answered"))
    if state == "first" and "step1" in given:
        return required({"step2": form("Step 2: your favourite colour?", color=_STRING)}, "second")
    return required({"step1": form("Step 1: your name?", name=_STRING)}, "first")


async def _what_it_can(ctx: Context, _params: types.CallToolRequestParams) -> Json:
    able = ctx.session.client_capabilities or types.ClientCapabilities()
    every = {"name": _NAME, "capital": _model("What is the capital of France?"), "roots": _ROOTS}
    asked = {key: each for key, each in every.items() if getattr(able, _NEEDED[each["method"]])}
    return required(asked) if asked else complete(text("this client can't be asked"))


async def _without_sampling(ctx: Context, _params: types.CallToolRequestParams) -> Json:
    able = ctx.session.client_capabilities
    if able is None or able.sampling is None:
        needed = types.ClientCapabilities(sampling=types.SamplingCapability())
        data = types.MissingRequiredClientCapabilityErrorData(required_capabilities=needed)
        raise MCPError(
            code=types.MISSING_REQUIRED_CLIENT_CAPABILITY,
            message="This tool needs sampling.",
            data=data.model_dump(mode="json", by_alias=True, exclude_none=True),
        )
    return complete(text("this client can sample"))


async def _sampling(ctx: Context, params: types.CallToolRequestParams) -> Json:
    said = types.TextContent(text=str((params.arguments or {}).get("prompt", "")))
    request = types.CreateMessageRequest(
        params=types.CreateMessageRequestParams(
            messages=[types.SamplingMessage(role="user", content=said)], max_tokens=_TOKENS
        )
    )
    answer = await _ask(ctx, request, types.CreateMessageResult)
    return complete(text(f"the model said: {answer.model_dump_json()}"))


def _person(message: str, properties: Json) -> Fixture:
    """Show a form to the client's user, in the older era."""

    async def ask(ctx: Context, _params: types.CallToolRequestParams) -> Json:
        schema: Json = {"type": "object", "properties": properties, "required": []}
        fields = types.ElicitRequestFormParams(message=message, requested_schema=schema)
        answer = await _ask(ctx, types.ElicitRequest(params=fields), types.ElicitResult)
        return complete(text(f"{answer.action}: {answer.content}"))

    return ask


async def _ask(ctx: Context, request: Any, kind: Any) -> Any:
    metadata = ServerMessageMetadata(related_request_id=ctx.request_id)
    return await ctx.session.send_request(request, kind, metadata=metadata)


_OPTIONS = ["option1", "option2", "option3"]
_TITLED = [{"const": f"value{n}", "title": f"Option {n}"} for n in (1, 2, 3)]
ASKING: dict[str, Fixture] = {
    "test_sampling": _sampling,
    "test_missing_capability": _without_sampling,
    "test_elicitation_sep1034_defaults": _person(
        "Defaults",
        {
            "name": {"type": "string", "default": "John Doe"},
            "age": {"type": "integer", "default": 30},
            "score": {"type": "number", "default": 95.5},
            "status": {
                "type": "string",
                "enum": ["active", "inactive", "pending"],
                "default": "active",
            },
            "verified": {"type": "boolean", "default": True},
        },
    ),
    "test_elicitation_sep1330_enums": _person(
        "Enums",
        {
            "untitledSingle": {"type": "string", "enum": _OPTIONS},
            "titledSingle": {"type": "string", "oneOf": _TITLED},
            "legacyEnum": {
                "type": "string",
                "enum": ["opt1", "opt2"],
                "enumNames": ["First", "Second"],
            },
            "untitledMulti": {"type": "array", "items": {"type": "string", "enum": _OPTIONS}},
            "titledMulti": {"type": "array", "items": {"anyOf": _TITLED}},
        },
    ),
    "test_input_required_result_elicitation": _once(user_name=_NAME),
    "test_input_required_result_sampling": _once(
        capital_question=_model("What is the capital of France?")
    ),
    "test_input_required_result_list_roots": _once(client_roots=_ROOTS),
    "test_input_required_result_multiple_inputs": _once(
        user_name=_NAME, greeting=_model("Generate a greeting"), client_roots=_ROOTS
    ),
    "test_input_required_result_multi_round": _rounds,
    "test_input_required_result_capabilities": _what_it_can,
}
