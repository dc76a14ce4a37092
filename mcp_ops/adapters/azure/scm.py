"""Kudu, the app's own side of deployments and logs, with the same token.

The token only goes to an address below the domains that the operator named.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from mcp_ops.adapters.azure.arm import Ask, Wire, request_id
from mcp_ops.adapters.azure.fields import Obj, objects, text
from mcp_ops.adapters.azure.names import AppName
from mcp_ops.adapters.azure.settings import SITE
from mcp_ops.errors import BadAnswer, NotFound
from mcp_ops.wire.http import Answer, Listen

_HOST: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-.")


class Scm:
    """The Kudu of each app."""

    def __init__(self, wire: Wire, *, template: str, domains: tuple[str, ...]) -> None:
        self._wire = wire
        self._template = template
        self._domains = tuple(domain.lower().lstrip(".") for domain in domains)

    def address(self, name: AppName, raw: Obj) -> str:
        """Where an app's Kudu is. Raises `NotFound` where Azure names none that is allowed."""
        if self._template:
            return self._template.replace(SITE, name.scm)
        for state in objects(raw, "properties", "hostNameSslStates"):
            host = text(state, "name").lower()
            if text(state, "hostType") == "Repository" and self._allowed(host):
                return f"https://{host}"
        raise NotFound(
            "Azure names no address of Kudu for this app below the target's scm_domains.",
            hint="Set scm_domains or scm_url in the target's settings.",
        )

    def _allowed(self, host: str) -> bool:
        fine = bool(host) and set(host) <= _HOST and len(host) <= 253
        return fine and any(host.endswith(f".{domain}") for domain in self._domains)

    async def get(self, address: str, path: str, ask: Ask) -> Any:
        """A JSON value of Kudu."""
        return (await self._wire.send("GET", f"{address}/api/{path}", ask)).json()

    async def file(self, address: str, path: str, ask: Ask, *, first: int = 0) -> bytes:
        """A file below `/home`, from byte `first` on; raises `BadAnswer` when it is too large."""
        headers = {"accept": "*/*"}
        if first > 0:
            headers["range"] = f"bytes={first}-"
        url = f"{address}/api/vfs/{quote(path)}"
        answer = await self._wire.send("GET", url, ask, headers=headers)
        return answer.body

    async def listen(self, address: str, ask: Ask, listen: Listen) -> bytes:
        """The newest of what the app's log stream sends in that time."""
        headers = {"accept": "*/*"}
        url = f"{address}/api/logstream"
        answer = await self._wire.send("GET", url, ask, headers=headers, listen=listen)
        return answer.body

    async def put(self, address: str, path: str, ask: Ask, *, call_id: str) -> Answer:
        """Change something, once."""
        headers: Mapping[str, str] = {"x-ms-client-request-id": request_id(call_id)}
        return await self._wire.send("PUT", f"{address}/api/{path}", ask, body={}, headers=headers)


def listing(value: Any) -> list[Obj]:
    """The objects of a list that Kudu answered; raises `BadAnswer` for anything else."""
    if not isinstance(value, list):
        raise BadAnswer("Kudu's list is not the JSON that it should be.")
    return [each for each in value if isinstance(each, dict)]
