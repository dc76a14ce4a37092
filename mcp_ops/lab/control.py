"""How `mcp-ops lab break`, `mend` and `status` reach the running lab: a loopback endpoint.

Whoever can read the lab's directory may use it: the address and a token are in `lab.json`. On the
same port is the page on which an authorization in the lab ends.
"""

from __future__ import annotations

import hmac
import html
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from mcp_ops.errors import ConfigurationError, InvalidInput, OpsError

FILE: Final = "lab.json"
CALLBACK: Final = "/callback"
_WAIT_S: Final = 30.0
_PAGE: Final = """<!doctype html><html lang="en"><title>mcp-ops lab</title>
<h1>This is a lab</h1>
<p>The consent has been given. Hand this to the agent, for complete_oauth_authorization:</p>
<pre>code  {code}
state {state}</pre></html>"""

Act = Callable[[str, str], Awaitable[dict[str, Any]]]


class _Control:
    """The endpoint, over what it may do."""

    def __init__(self, token: str, status: Callable[[], dict[str, Any]]) -> None:
        self._token = token
        self._status = status

    def refused(self, request: Request) -> Response | None:
        """An answer for whoever does not have the token."""
        given = request.headers.get("authorization", "")
        if hmac.compare_digest(given.encode(), f"Bearer {self._token}".encode()):
            return None
        return JSONResponse({"error": {"message": "This is the control of a lab."}}, 401)

    def acting(self, act: Act) -> Callable[[Request], Awaitable[Response]]:
        """The endpoint of an act on a fault."""

        async def answer(request: Request) -> Response:
            if (no := self.refused(request)) is not None:
                return no
            try:
                asked = await request.json()
                return JSONResponse(await act(str(asked["name"]), str(asked.get("at", ""))))
            except (ValueError, KeyError, AttributeError, TypeError):
                return JSONResponse({"error": {"message": "name is missing."}}, 400)
            except OpsError as exc:
                return JSONResponse({"error": {"message": exc.message, "hint": exc.hint}}, 400)

        return answer

    async def tell(self, request: Request) -> Response:
        """The status."""
        return self.refused(request) or JSONResponse(self._status())


async def _callback(request: Request) -> Response:
    given = request.query_params
    page = _PAGE.format(
        code=html.escape(given.get("code", "")), state=html.escape(given.get("state", ""))
    )
    return HTMLResponse(page, headers={"Cache-Control": "no-store"})


def control(
    *, token: str, break_fault: Act, mend_fault: Act, status: Callable[[], dict[str, Any]]
) -> Starlette:
    """The endpoint's application."""
    endpoint = _Control(token, status)
    return Starlette(
        routes=[
            Route("/break", endpoint.acting(break_fault), methods=["POST"]),
            Route("/mend", endpoint.acting(mend_fault), methods=["POST"]),
            Route("/status", endpoint.tell),
            Route(CALLBACK, _callback),
        ]
    )


def ask_lab(directory: Path, path: str, body: dict[str, str] | None = None) -> dict[str, Any]:
    """Ask the lab that runs in a directory; raises what it refuses with, as `InvalidInput`."""
    import httpx2

    nobody = ConfigurationError(
        f"No lab runs in {directory}.",
        hint="Start one: mcp-ops lab. If it runs elsewhere, name its --directory.",
    )
    try:
        known = json.loads((directory / FILE).read_text(encoding="utf-8"))
        url, token = f"{known['control']}{path}", str(known["token"])
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise nobody from exc
    try:
        with httpx2.Client(timeout=_WAIT_S, trust_env=False) as client:
            answer = client.request(
                "GET" if body is None else "POST",
                url,
                json=body,
                headers={"authorization": f"Bearer {token}"},
            )
            said = answer.json()
    except (httpx2.HTTPError, ValueError) as exc:
        raise nobody from exc
    if answer.status_code == 401 or not isinstance(said, dict):
        raise nobody
    if "error" in said:
        error = said["error"]
        raise InvalidInput(str(error.get("message", "")), hint=str(error.get("hint", "")))
    return said
