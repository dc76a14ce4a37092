"""The approval page: a person signs in with a secret, looks at a question, and answers by POST.

No GET changes anything, and no link approves. It is an ASGI route beside the protocol's, behind
the same edge (`transport_edge`), or alone on loopback (`mcp-ops approvals page`).
"""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Final, Protocol
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from mcp_ops import approval_page_html as view
from mcp_ops.approval_page_sessions import (
    SESSION_S,
    Credentials,
    KeyCredentials,
    Session,
    Sessions,
    Signer,
    Throttle,
)
from mcp_ops.auth.ring import KeyRing
from mcp_ops.call import Caller
from mcp_ops.clock import Clock
from mcp_ops.errors import (
    Conflict,
    InvalidInput,
    NotFound,
    OpsError,
    RefusalCode,
    Refused,
    StoreUnavailable,
)
from mcp_ops.questions import Approval
from mcp_ops.transport_edge import APPROVALS_PATH, is_loopback, origin_host

COOKIE: Final = "mcp-ops-approvals"
LONGEST_NOTE: Final = 500
_MAX_FORM = 16 * 1024
_LISTED = 100
_REFRESH_S = 15
_ID = re.compile(r"[0-9a-z]{1,64}")
_FORM_TYPE = "application/x-www-form-urlencoded"
_log = logging.getLogger("mcp_ops.approvals")


class Desk(Protocol):
    """What people can do with questions: the guard's own rules hold behind it."""

    async def recent(self, limit: int) -> list[Approval]:
        """Pending ones first, then the newest."""
        ...

    async def get(self, approval_id: str) -> Approval:
        """One question; raises `NotFound`."""
        ...

    async def decide(
        self, approval_id: str, caller: Caller, *, approved: bool, note: str
    ) -> Approval:
        """Say yes or no; raises `OpsError`."""
        ...

    async def revoke(self, approval_id: str, caller: Caller, *, note: str) -> Approval:
        """Take a question back; raises `OpsError`."""
        ...


class _Answer(Exception):
    """Ends a request with a page that says what is wrong."""

    def __init__(self, status: int, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.hint = status, message, hint


@dataclass(frozen=True, slots=True, kw_only=True)
class _Visit:
    """One request, with the session that it carries, if it carries one."""

    request: Request
    where: tuple[str, ...]
    session_id: str
    session: Session | None

    @property
    def base(self) -> str:
        """Where the pages of this session are."""
        return _base(self.session.place if self.session else "")


def approval_routes(desk: Desk, credentials: Credentials, clock: Clock) -> list[BaseRoute]:
    """The routes of the page, to stand behind the edge."""
    served = ApprovalPage(desk, credentials, clock)
    paths = (APPROVALS_PATH, f"{APPROVALS_PATH}/{{rest:path}}")
    return [Route(path, endpoint=served.answer, methods=["GET", "POST"]) for path in paths]


def key_page(desk: Desk, keys: KeyRing, clock: Clock) -> list[BaseRoute]:
    """The page for those whose key may approve; 404 while there is no such key."""
    return approval_routes(desk, KeyCredentials(keys), clock)


class ApprovalPage:
    """The page; sessions live in this process and end with it."""

    def __init__(self, desk: Desk, credentials: Credentials, clock: Clock) -> None:
        self._desk = desk
        self._credentials = credentials
        self._clock = clock
        self._sessions = Sessions(clock.monotonic)
        self._throttle = Throttle(clock.monotonic)

    async def answer(self, request: Request) -> Response:
        """Answer a request, with the same headers whatever becomes of it."""
        if not self._credentials.offered():
            return Response(status_code=404)
        nonce = secrets.token_urlsafe(16)
        visit = self._visit(request)
        try:
            response = await (
                self._post(visit, nonce) if request.method == "POST" else self._get(visit, nonce)
            )
        except _Answer as wrong:
            response = self._problem(visit, nonce, wrong.status, wrong.message, wrong.hint)
        except OpsError as error:
            response = self._problem(visit, nonce, _status(error), error.message, error.hint)
        except ClientDisconnect:
            response = Response(status_code=400)
        response.headers.update(_headers(nonce))
        return response

    async def _get(self, visit: _Visit, nonce: str) -> Response:
        if len(visit.where) > 1:
            raise _not_here()
        if visit.session is None:
            return self._sign_in_form(visit, nonce, 200)
        if visit.where:
            return await self._detail(visit, visit.session, visit.where[0], nonce)
        found = await self._desk.recent(_LISTED)
        body = view.listing(found, self._clock.now(), visit.base)
        return self._show("Approvals", body, visit, nonce, refresh_s=_REFRESH_S)

    async def _detail(
        self, visit: _Visit, session: Session, approval_id: str, nonce: str
    ) -> Response:
        found = await self._desk.get(_checked_id(approval_id))
        body = view.detail(found, self._clock.now(), session.csrf, visit.base)
        back = f'<p><a href="{visit.base}">All questions</a></p>'
        return self._show(f"Question {found.id}", back + body, visit, nonce)

    async def _post(self, visit: _Visit, nonce: str) -> Response:
        _same_origin(visit.request)
        form = await _form(visit.request)
        if visit.where == ("sign-in",):
            return self._sign_in(visit, form, nonce)
        if visit.session is None:
            return self._sign_in_form(visit, nonce, 401, "Your session is over: sign in again.")
        if not visit.session.carries(form.get("csrf", "")):
            raise _Answer(403, "This form is not of your session.", "Open the page again.")
        if visit.where == ("sign-out",):
            self._sessions.close(visit.session_id)
            return _forget(_see_other(APPROVALS_PATH), visit.base)
        if len(visit.where) != 2:
            raise _not_here()
        approval_id, verb = visit.where
        await self._decide(visit.session, _checked_id(approval_id), verb, form.get("note", ""))
        return _see_other(f"{visit.base}/{approval_id}")

    async def _decide(self, session: Session, approval_id: str, verb: str, note: str) -> None:
        caller = _caller(session.signer)
        note = note.strip()
        if len(note) > LONGEST_NOTE:
            raise _Answer(422, f"A reason has at most {LONGEST_NOTE} characters.")
        if verb not in ("approve", "deny", "revoke"):
            raise _not_here()
        if verb != "approve" and not note:
            raise _Answer(422, "A reason is needed: the agent is told.", "Go back and give one.")
        if verb == "revoke":
            await self._desk.revoke(approval_id, caller, note=note)
        else:
            await self._desk.decide(approval_id, caller, approved=verb == "approve", note=note)

    def _sign_in(self, visit: _Visit, form: Mapping[str, str], nonce: str) -> Response:
        address = visit.request.client.host if visit.request.client else ""
        waits = self._throttle.wait_s(address)
        if waits:
            response = self._sign_in_form(
                visit, nonce, 429, "Too many failed sign-ins: wait a minute."
            )
            response.headers["retry-after"] = str(round(waits) + 1)
            return response
        # No await between the look at the throttle and the count: parallel guesses are counted.
        signer = self._credentials.who(form.get("secret", ""))
        if signer is None:
            self._throttle.failed(address)
            _log.warning("a sign-in at the approval page failed")
            return self._sign_in_form(visit, nonce, 401, "That may not approve.")
        _log.info("%s signed in at the approval page", signer.principal)
        self._sessions.close(visit.session_id)
        after = form.get("after", "")
        local = is_loopback(visit.request.url.hostname or "")
        # A browser sends a cookie of 127.0.0.1 to each port of it, also to the server of another
        # user of this machine: there the path that it is for is a secret, too.
        place = secrets.token_urlsafe(16) if local else ""
        base = _base(place)
        response = _see_other(f"{base}/{after}" if _ID.fullmatch(after) else base)
        response.set_cookie(
            COOKIE,
            self._sessions.open(signer, place=place),
            max_age=int(SESSION_S),
            path=base,
            secure=not local,
            httponly=True,
            samesite="strict",
        )
        return response

    def _visit(self, request: Request) -> _Visit:
        rest = str(request.path_params.get("rest", ""))
        session_id = _cookie(request)
        where = tuple(rest.split("/")) if rest else ()
        place = where[0].removeprefix("~") if where and where[0].startswith("~") else ""
        session = self._sessions.find(session_id) if session_id else None
        if session is not None and session.place != place:
            session = None
        if session is not None and not self._credentials.holds(session.signer):
            self._sessions.close(session_id)
            session = None
        return _Visit(
            request=request,
            where=where[1:] if place else where,
            session_id=session_id,
            session=session,
        )

    def _sign_in_form(self, visit: _Visit, nonce: str, status: int, problem: str = "") -> Response:
        after = visit.where[0] if visit.where and _ID.fullmatch(visit.where[0]) else ""
        body = view.sign_in(self._credentials.label, after=after, problem=problem)
        return HTMLResponse(view.page("Approvals", body, nonce=nonce), status_code=status)

    def _problem(self, visit: _Visit, nonce: str, status: int, message: str, hint: str) -> Response:
        body = view.notice(message, hint) + f'<p><a href="{visit.base}">All questions</a></p>'
        return self._show("Approvals", body, visit, nonce, status=status)

    def _show(
        self,
        title: str,
        body: str,
        visit: _Visit,
        nonce: str,
        *,
        status: int = 200,
        refresh_s: int = 0,
    ) -> Response:
        session = visit.session
        top = view.signed_in(session.signer.principal, session.csrf, visit.base) if session else ""
        text = view.page(title, body, nonce=nonce, session=top, refresh_s=refresh_s)
        return HTMLResponse(text, status_code=status)


def _headers(nonce: str) -> dict[str, str]:
    return {
        "content-security-policy": f"default-src 'none'; style-src 'nonce-{nonce}'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
        "x-frame-options": "DENY",
        "x-content-type-options": "nosniff",
        # Not no-referrer: with that a browser sends "Origin: null" with our own forms.
        "referrer-policy": "same-origin",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "cache-control": "no-store",
    }


def _same_origin(request: Request) -> None:
    """A form counts only from this page: its origin is the host that it is sent to."""
    host = request.headers.get("host", "").lower()
    mine = host and origin_host(request.headers.get("origin", "")) == host
    if not mine or request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
        raise _Answer(403, "The form came from another page; nothing was done.")


async def _form(request: Request) -> dict[str, str]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != _FORM_TYPE:
        raise _Answer(415, "Only the page's own forms are accepted.")
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_FORM:
            raise _Answer(413, "The form is too large.")
    try:
        fields = parse_qsl(
            body.decode("ascii"), keep_blank_values=True, max_num_fields=10, errors="replace"
        )
    except ValueError:
        raise _Answer(400, "The form cannot be read.") from None
    if len({name for name, _ in fields}) < len(fields):
        raise _Answer(400, "The form has a field twice.")
    return dict(fields)


def _cookie(request: Request) -> str:
    jar: SimpleCookie = SimpleCookie()
    try:
        jar.load(request.headers.get("cookie", ""))
    except CookieError:
        return ""
    return jar[COOKIE].value if COOKIE in jar else ""


def _caller(signer: Signer) -> Caller:
    return Caller(
        principal=signer.principal,
        scopes=signer.scopes,
        reach=signer.reach,
        channel="http",
        client="approval page",
    )


def _checked_id(approval_id: str) -> str:
    if not _ID.fullmatch(approval_id):
        raise _not_here()
    return approval_id


def _not_here() -> _Answer:
    return _Answer(404, "There is no such page.")


def _see_other(path: str) -> RedirectResponse:
    return RedirectResponse(path, status_code=303)


def _base(place: str) -> str:
    return f"{APPROVALS_PATH}/~{place}" if place else APPROVALS_PATH


def _forget(response: Response, base: str) -> Response:
    response.delete_cookie(COOKIE, path=base, httponly=True, samesite="strict")
    return response


def _status(error: OpsError) -> int:
    if isinstance(error, Refused):
        return 403 if error.reason is RefusalCode.PERMISSION_DENIED else 409
    statuses: tuple[tuple[type[OpsError], int], ...] = (
        (NotFound, 404),
        (Conflict, 409),
        (InvalidInput, 422),
        (StoreUnavailable, 503),
    )
    return next((status for kind, status in statuses if isinstance(error, kind)), 500)
