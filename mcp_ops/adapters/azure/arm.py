"""Requests to Azure Resource Manager: one subscription, errors translated in one place."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from pydantic import SecretStr

from mcp_ops.adapters.azure.credentials import Tokens
from mcp_ops.adapters.azure.fields import Obj, mapping, objects, text
from mcp_ops.errors import BadAnswer, Failed, Forbidden, NotFound, Unauthenticated, Upstream
from mcp_ops.wire.http import Answer, HttpClient, Listen

WEB: Final = "Microsoft.Web"
_PAGES: Final = 20
_SITES: Final = f"{WEB}/sites/"
_NAMESPACE: Final = uuid.UUID("6d63702d-6f70-5000-8000-617a75726530")
_CREDENTIAL: Final = "An operator must renew the target's credential."


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What is asked, in the words of Azure's roles: for hints, and for the truth on whether a
    write may have run."""

    action: str
    writes: bool = False

    def at(self, path: str) -> Ask:
        """The same at a path: roles name what is done to a slot apart."""
        if "/slots/" not in path or not self.action.startswith(_SITES):
            return self
        action = f"{_SITES}slots/{self.action.removeprefix(_SITES)}"
        return Ask(action=action, writes=self.writes)


def request_id(call_id: str) -> str:
    """The `x-ms-client-request-id` of a call: Azure's activity log keeps it."""
    return str(uuid.uuid5(_NAMESPACE, call_id))


class Wire:
    """HTTP with a bearer token, and what an answer without success means."""

    def __init__(self, http: HttpClient, tokens: Tokens) -> None:
        self.http = http
        self._tokens = tokens

    async def send(
        self,
        method: str,
        url: str,
        ask: Ask,
        *,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        listen: Listen | None = None,
    ) -> Answer:
        """Send once, and once more with a new token where the first was not accepted: nothing was
        executed then. Raises the `Upstream` errors for an answer without success."""
        token = await self._tokens.bearer()
        answer = await self._send(method, url, ask, token, body, headers, listen)
        if answer.status == 401 and self._tokens.refused(token):
            renewed = await self._tokens.bearer()
            if renewed.get_secret_value() != token.get_secret_value():
                answer = await self._send(method, url, ask, renewed, body, headers, listen)
        if not answer.ok:
            raise self._error(answer, ask)
        return answer

    async def _send(
        self,
        method: str,
        url: str,
        ask: Ask,
        token: SecretStr,
        body: Any,
        headers: Mapping[str, str] | None,
        listen: Listen | None,
    ) -> Answer:
        try:
            return await self.http.send(
                method, url, bearer=token, headers=headers, body=body, listen=listen
            )
        except Failed as error:
            raise settled(error, ask) from error.__cause__

    def _error(self, answer: Answer, ask: Ask) -> Upstream:
        code, message = said_in(answer)
        error = self.http.error(answer, said=f"{code}: {message}" if code else message)
        error.hint = error.hint or _hint(error, code, ask)
        if isinstance(error, Failed):
            # Whatever stands before Azure may say 5xx after the request went through.
            error.executed = "unknown"
        return settled(error, ask)


def settled(error: Upstream, ask: Ask) -> Upstream:
    """A read changes nothing, whatever became of its answer."""
    if isinstance(error, Failed) and not ask.writes:
        error.executed = "no"
    return error


def said_in(answer: Answer) -> tuple[str, str]:
    """Code and message of an error, in Resource Manager's form, App Service's or Kudu's."""
    try:
        body = answer.json()
    except BadAnswer:
        return "", ""
    inner = mapping(body, "error") or (body if isinstance(body, dict) else {})
    code = text(inner, "code") or text(inner, "Code")
    message = text(inner, "message") or text(inner, "Message") or text(inner, "ExceptionMessage")
    return code[:100], message[:1_500]


def _hint(error: Upstream, code: str, ask: Ask) -> str:
    if isinstance(error, Unauthenticated):
        return _CREDENTIAL
    if isinstance(error, Forbidden):
        return (
            f"It needs the action {ask.action} on the resource group: a role of its own "
            "(docs/targets/azure-app-service.md has one)."
        )
    if isinstance(error, NotFound):
        if code in ("ResourceGroupNotFound", "SubscriptionNotFound"):
            return "Check subscription_id and resource_group in the target's settings."
        return "See list_deployments for the names."
    return ""


class Arm:
    """Resource Manager, in one resource group."""

    def __init__(
        self, wire: Wire, *, url: str, subscription: str, group: str, api_version: str
    ) -> None:
        self._wire = wire
        self._url = url
        self._subscription = f"/subscriptions/{subscription}"
        self.group = group
        self.scope = f"{self._subscription}/resourceGroups/{group}"
        self._api_version = api_version

    def web(self, path: str) -> str:
        """The id of a resource of App Service in the resource group."""
        return f"{self.scope}/providers/{WEB}/{path}"

    def subscription(self, path: str) -> str:
        """A path below the subscription."""
        return f"{self._subscription}/{path}"

    async def get(self, path: str, ask: Ask, *, api_version: str = "", **query: str) -> Obj:
        """One object."""
        url = self._address(path, api_version, query)
        return (await self._wire.send("GET", url, ask.at(path))).json_object()

    async def read_by_post(self, path: str, ask: Ask, body: Any = None) -> Obj:
        """One object of a question that Azure wants as a POST."""
        url = self._address(path, "", {})
        sent = {} if body is None else body
        answer = await self._wire.send("POST", url, ask.at(path), body=sent)
        return answer.json_object()

    async def pages(
        self, path: str, ask: Ask, *, most: int, api_version: str = "", **query: str
    ) -> tuple[list[Obj], bool]:
        """The items of a list over all its pages, at most `most`, and whether there are more."""
        found: list[Obj] = []
        url = self._address(path, api_version, query)
        for _ in range(_PAGES):
            page = (await self._wire.send("GET", url, ask.at(path))).json_object()
            found += objects(page, "value")
            following = text(page, "nextLink")
            if not following:
                return found[:most], len(found) > most
            if len(found) >= most:
                return found[:most], True
            url = self._checked(following)
        return found[:most], True

    async def write(
        self, method: str, path: str, ask: Ask, *, call_id: str, body: Any = None, **query: str
    ) -> Answer:
        """Change something, once, under the call's id."""
        headers = {"x-ms-client-request-id": request_id(call_id)}
        url = self._address(path, "", query)
        # A POST without a body has a length all the same: proxies want one.
        content = body if body is not None else ({} if method == "POST" else None)
        return await self._wire.send(method, url, ask.at(path), body=content, headers=headers)

    async def poll(self, url: str, ask: Ask) -> Answer:
        """Ask how an operation is, at an address of `operation_of`."""
        return await self._wire.send("GET", url, ask)

    def operation_of(self, answer: Answer) -> str:
        """Where a running operation can be asked, or empty. An address elsewhere is not used: the
        token would go there."""
        headers = answer.headers
        url = headers.get("location") or headers.get("azure-asyncoperation") or ""
        return url if self._is_ours(url) else ""

    def _checked(self, url: str) -> str:
        if not self._is_ours(url):
            raise BadAnswer(
                "Azure's list goes on at another address; that is not followed.",
                hint="A proxy may have changed the answer: check arm_url.",
            )
        return url

    def _is_ours(self, url: str) -> bool:
        prefix = f"{self._url}{self._subscription}/"
        return url.isascii() and url.isprintable() and url.lower().startswith(prefix.lower())

    def _address(self, path: str, api_version: str, query: Mapping[str, str]) -> str:
        asked = {"api-version": api_version or self._api_version, **query}
        return f"{self._url}{path}?{urlencode(asked)}"
