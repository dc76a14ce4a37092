"""Errors as Kubernetes answers them: a `Status` object with a reason, details and causes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from starlette.responses import JSONResponse

from mcp_ops.lab.kubernetes.kinds import Kind, Obj


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """One thing wrong with an object, by the path of the field."""

    field: str
    reason: str
    message: str


@dataclass(slots=True, eq=False)
class StatusError(Exception):
    """A request that was not done, as the caller gets to read it."""

    code: int
    reason: str
    message: str
    details: dict[str, Any] | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def body(self) -> Obj:
        """The `Status` object."""
        body: Obj = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        }
        if self.details is not None:
            body["details"] = self.details
        return body

    def response(self) -> JSONResponse:
        """The HTTP answer."""
        return JSONResponse(self.body(), status_code=self.code, headers=self.headers)


def success(kind: Kind, obj: Obj) -> Obj:
    """The `Status` object that answers a deletion."""
    details = {**_details(kind, obj["metadata"]["name"]), "uid": obj["metadata"]["uid"]}
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": details,
    }


def _details(kind: Kind, name: str) -> dict[str, Any]:
    details = {"name": name, "group": kind.group, "kind": kind.plural}
    return {key: value for key, value in details.items() if value}


def unauthorized() -> StatusError:
    """No or a wrong bearer token."""
    return StatusError(401, "Unauthorized", "Unauthorized")


def bad_request(message: str) -> StatusError:
    """The request itself makes no sense."""
    return StatusError(400, "BadRequest", message)


def not_found(kind: Kind, name: str) -> StatusError:
    """No object of that name."""
    message = f'{kind.resource} "{name}" not found'
    return StatusError(404, "NotFound", message, _details(kind, name))


def already_exists(kind: Kind, name: str) -> StatusError:
    """An object of that name is there already."""
    message = f'{kind.resource} "{name}" already exists'
    return StatusError(409, "AlreadyExists", message, _details(kind, name))


def conflict(kind: Kind, name: str, why: str = "") -> StatusError:
    """The object is not the one the caller has seen."""
    why = why or (
        "the object has been modified; please apply your changes to the latest version "
        "and try again"
    )
    message = f'Operation cannot be fulfilled on {kind.resource} "{name}": {why}'
    return StatusError(409, "Conflict", message, _details(kind, name))


def forbidden(kind: Kind, name: str, why: str) -> StatusError:
    """The caller may not do that."""
    named = f' "{name}"' if name else ""
    message = f"{kind.resource}{named} is forbidden: {why}"
    return StatusError(403, "Forbidden", message, _details(kind, name))


def invalid(kind: Kind, name: str, causes: list[Cause]) -> StatusError:
    """The object breaks the rules of its kind."""
    texts = [f"{cause.field}: {cause.message}" for cause in causes]
    what = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    details = {"name": name, "group": kind.group, "kind": kind.name}
    listed = [{"reason": c.reason, "message": c.message, "field": c.field} for c in causes]
    return StatusError(
        422,
        "Invalid",
        f'{kind.qualified} "{name}" is invalid: {what}',
        {**{key: value for key, value in details.items() if value}, "causes": listed},
    )


def unprocessable_patch() -> StatusError:
    """A JSON patch whose test failed or whose path does not exist."""
    message = "the server rejected our request due to an error in our request"
    return StatusError(422, "Invalid", message, {})


def unsupported_media_type(accepted: tuple[str, ...]) -> StatusError:
    """A body in a format that is not read here."""
    message = (
        "the body of the request was in an unknown format - "
        f"accepted media types include: {', '.join(accepted)}"
    )
    return StatusError(415, "UnsupportedMediaType", message)


def not_acceptable() -> StatusError:
    """Only formats are asked for that are not written here."""
    message = "only the following media types are accepted: application/json"
    return StatusError(406, "NotAcceptable", message)


def method_not_allowed(kind: Kind, method: str) -> StatusError:
    """The resource is there, the method is not."""
    message = f'{method} is not supported on resources of kind "{kind.resource}"'
    return StatusError(405, "MethodNotAllowed", message, _details(kind, ""))


def too_large(limit: int) -> StatusError:
    """A body over the limit of the server."""
    message = f"Request entity too large: limit is {limit}"
    return StatusError(413, "RequestEntityTooLarge", message)


def too_many_requests(retry_after_s: int) -> StatusError:
    """The server sheds load; the caller shall come back later."""
    return StatusError(
        429,
        "TooManyRequests",
        "Too many requests: too many requests, please try again later",
        {"retryAfterSeconds": retry_after_s},
        {"Retry-After": str(retry_after_s)},
    )


def expired(why: str) -> StatusError:
    """The state that the caller refers to is no longer kept."""
    return StatusError(410, "Expired", why)


def apply_conflict(conflicts: list[tuple[str, str]]) -> StatusError:
    """Other managers own what is applied otherwise: who, and the path of the field."""
    causes = [
        {"reason": "FieldManagerConflict", "message": f"conflict with {who}", "field": path}
        for who, path in conflicts
    ]
    if len(conflicts) == 1:
        what = f"1 conflict: conflict with {conflicts[0][0]}: {conflicts[0][1]}"
    else:
        lines = []
        for who in dict.fromkeys(who for who, _ in conflicts):
            paths = [f"- {path}" for owner, path in conflicts if owner == who]
            lines += [f"conflicts with {who}:", *paths]
        what = f"{len(conflicts)} conflicts: " + "\n".join(lines)
    return StatusError(409, "Conflict", f"Apply failed with {what}", {"causes": causes})


def internal_error(why: str) -> StatusError:
    """Something broke inside."""
    message = f"Internal error occurred: {why}"
    return StatusError(500, "InternalError", message, {"causes": [{"message": why}]})


def unavailable() -> StatusError:
    """The server, or what it asks, is not there at the moment."""
    message = "the server is currently unable to handle the request"
    return StatusError(503, "ServiceUnavailable", message)


def timed_out() -> StatusError:
    """It took too long; whether it was done is not said."""
    message = "Timeout: request did not complete within the allotted duration"
    return StatusError(504, "Timeout", message, {})
