"""Fixtures of the suite beside tools: resources, prompts, completion, levels of logging."""

from __future__ import annotations

from typing import Any

import mcp_types as types
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError

from tests.conformance.asking import Context, answers, form, required
from tests.conformance.contents import IMAGE, PNG, Json, embedded, text

_TEMPLATE = "test://template/{id}/data"
_STATIC: dict[str, Json] = {
    "test://static-text": {"mimeType": "text/plain", "text": "The static text."},
    "test://static-binary": {"mimeType": "image/png", "blob": PNG},
    "test://watched-resource": {"mimeType": "text/plain", "text": "The watched text."},
}
_ARGUMENTS: dict[str, tuple[str, ...]] = {
    "test_simple_prompt": (),
    "test_prompt_with_arguments": ("arg1", "arg2"),
    "test_prompt_with_embedded_resource": ("resourceUri",),
    "test_prompt_with_image": (),
    "test_input_required_result_prompt": (),
}


def add_library(server: Server[Any]) -> None:
    """Put them on a server that has tools only."""
    add = server.add_request_handler
    paged = types.PaginatedRequestParams
    add("resources/list", paged, _list_resources)
    add("resources/templates/list", paged, _list_templates)
    add("resources/read", types.ReadResourceRequestParams, _read_resource)
    add("resources/subscribe", types.SubscribeRequestParams, _nothing)
    add("resources/unsubscribe", types.UnsubscribeRequestParams, _nothing)
    add("prompts/list", paged, _list_prompts)
    add("prompts/get", types.GetPromptRequestParams, _get_prompt)
    add("completion/complete", types.CompleteRequestParams, _complete)
    add("logging/setLevel", types.SetLevelRequestParams, _nothing)


async def _nothing(_ctx: Context, _params: Any) -> types.EmptyResult:
    return types.EmptyResult()


async def _list_resources(_ctx: Context, _params: Any) -> types.ListResourcesResult:
    resources = [
        types.Resource(
            uri=uri, name=uri.partition("//")[2], description="Of the suite.", mime_type=kind
        )
        for uri, each in _STATIC.items()
        if (kind := str(each["mimeType"]))
    ]
    return types.ListResourcesResult(resources=resources)


async def _list_templates(_ctx: Context, _params: Any) -> types.ListResourceTemplatesResult:
    template = types.ResourceTemplate(
        uri_template=_TEMPLATE, name="template", description="Of the suite."
    )
    return types.ListResourceTemplatesResult(resource_templates=[template])


async def _read_resource(
    _ctx: Context, params: types.ReadResourceRequestParams
) -> types.ReadResourceResult:
    found = _STATIC.get(params.uri)
    before, after = _TEMPLATE.split("{id}")
    if found is None and params.uri.startswith(before) and params.uri.endswith(after):
        number = params.uri.removeprefix(before).removesuffix(after)
        found = {"mimeType": "application/json", "text": f'{{"id": "{number}"}}'}
    if found is None:
        raise MCPError(
            code=types.INVALID_PARAMS, message="No such resource.", data={"uri": params.uri}
        )
    return types.ReadResourceResult.model_validate({"contents": [{"uri": params.uri, **found}]})


async def _list_prompts(_ctx: Context, _params: Any) -> types.ListPromptsResult:
    prompts = [
        types.Prompt(
            name=name,
            description="Of the suite.",
            arguments=[types.PromptArgument(name=each, required=True) for each in arguments],
        )
        for name, arguments in _ARGUMENTS.items()
    ]
    return types.ListPromptsResult(prompts=prompts)


async def _get_prompt(_ctx: Context, params: types.GetPromptRequestParams) -> Any:
    given = params.arguments or {}
    if params.name not in _ARGUMENTS:
        raise MCPError(code=types.INVALID_PARAMS, message="No such prompt.")
    if params.name == "test_input_required_result_prompt" and "context" not in answers(params):
        return required({"context": form("Which context?", context={"type": "string"})})
    blocks: dict[str, list[Json]] = {
        "test_prompt_with_arguments": [text(f"{given.get('arg1')} and {given.get('arg2')}")],
        "test_prompt_with_embedded_resource": [
            embedded(given.get("resourceUri", "test://none"), "text/plain", "inside"),
            text("What does it say?"),
        ],
        "test_prompt_with_image": [IMAGE, text("What is on it?")],
    }
    said = blocks.get(params.name, [text("A simple prompt.")])
    messages = [{"role": "user", "content": block} for block in said]
    return types.GetPromptResult.model_validate({"messages": messages})


async def _complete(_ctx: Context, params: types.CompleteRequestParams) -> types.CompleteResult:
    values = [f"{params.argument.value}{end}" for end in ("", "-1", "-2")]
    return types.CompleteResult(completion=types.Completion(values=values, total=3, has_more=False))
