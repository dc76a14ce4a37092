"""Answers in the forms of Resource Manager and of App Service."""

from __future__ import annotations

import secrets
from typing import Any

from starlette.responses import JSONResponse, Response

from mcp_ops.lab.azure.world import World


def error(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> Response:
    """An error as Resource Manager reports it."""
    return JSONResponse({"error": {"code": code, "message": message}}, status, headers)


def conflict(message: str) -> Response:
    """An error as App Service itself reports it."""
    body: dict[str, Any] = {
        "Code": "Conflict",
        "Message": message,
        "Target": None,
        "Details": [{"Message": message}, {"Code": "Conflict"}],
        "Innererror": None,
    }
    return JSONResponse(body, 409)


def not_found(kind: str, name: str, group: str) -> Response:
    """There is no such resource."""
    return error(
        404,
        "ResourceNotFound",
        f"The Resource 'Microsoft.Web/{kind}/{name}' under resource group '{group}' was not found. "
        "For more details please go to https://aka.ms/ARMResourceNotFoundFix",
    )


def unauthenticated() -> Response:
    """The token is none of ours, or is over."""
    challenge = 'Bearer authorization_uri="https://login.example/", error="invalid_token"'
    return error(
        401,
        "InvalidAuthenticationToken",
        "The access token is invalid.",
        {"WWW-Authenticate": challenge},
    )


def forbidden(action: str, scope: str) -> Response:
    """The role does not allow it."""
    return error(
        403,
        "AuthorizationFailed",
        "The client 'lab' with object id '00000000-0000-0000-0000-00000000000a' does not have "
        f"authorization to perform action '{action}' over scope '{scope}' or the scope is invalid. "
        "If access was recently granted, please refresh your credentials.",
    )


def throttled() -> Response:
    """Too many requests."""
    return error(
        429,
        "TooManyRequests",
        "The request is being throttled. Please try again after '7' seconds.",
        {"Retry-After": "7", "x-ms-ratelimit-remaining-subscription-reads": "0"},
    )


def unavailable() -> Response:
    """The resource provider is away."""
    return error(503, "ServiceUnavailable", "The service is unavailable.", {"Retry-After": "5"})


def accepted(world: World, url: str, body: Any = None) -> Response:
    """A long operation has begun; `url` is where it can be asked."""
    headers = {"Location": url, "Retry-After": "1"}
    if body is None:
        return Response(status_code=202, headers=headers)
    return JSONResponse(body, 202, headers)


def stamped(answer: Response) -> Response:
    """With the headers that every answer has."""
    answer.headers["x-ms-request-id"] = secrets.token_hex(16)
    answer.headers["x-ms-correlation-request-id"] = secrets.token_hex(16)
    answer.headers.setdefault("x-ms-ratelimit-remaining-subscription-reads", "249")
    answer.headers.setdefault("x-ms-ratelimit-remaining-subscription-writes", "199")
    return answer
