"""The lab's Kudu of each app: deployments that are deployed again, and log files."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from typing import Final

import anyio
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from mcp_ops.clock import rfc3339
from mcp_ops.lab.azure.world import App, World

_RANGE: Final = re.compile(r"bytes=(\d+)-")


class Kudu:
    """Kudu over one world."""

    def __init__(self, world: World, check: Callable[[str], bool]) -> None:
        self._world = world
        self._check = check

    async def serve(self, request: Request) -> Response:
        """One request of Kudu's own API; it knows the same tokens."""
        self._world.advance()
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not self._check(token):
            return PlainTextResponse("Unauthorized", 401)
        name, path = request.path_params["app"], request.path_params["path"]
        app = next((each for each in self._world.apps.values() if each.scm == name), None)
        if app is None:
            return PlainTextResponse("Not Found", 404)
        if path.startswith("deployments/") and request.method == "PUT":
            return self._deploy(app, path.removeprefix("deployments/"), request)
        if request.method != "GET":
            return PlainTextResponse("Method Not Allowed", 405)
        if path == "logs/docker":
            return JSONResponse(self._docker(app, request))
        if path == "logstream":
            return StreamingResponse(self._stream(app), media_type="text/plain")
        if path.startswith("vfs/LogFiles/"):
            return self._file(app, path.removeprefix("vfs/LogFiles/"), request)
        return PlainTextResponse("Not Found", 404)

    def _deploy(self, app: App, wanted: str, request: Request) -> Response:
        if "arm-forbidden" in self._world.faults:
            return PlainTextResponse("Forbidden", 403)
        if app.operation is not None:
            message = (
                "There is a deployment currently in progress. Please try again when it completes."
            )
            return JSONResponse({"Message": message}, 409)
        found = next((one for one in app.deployments if one["id"] == wanted), None)
        if found is None:
            return JSONResponse({"Message": f"Deployment '{wanted}' not found."}, 404)
        world = self._world
        found.update(status=2, start_time=rfc3339(world.now()), end_time=None)
        app.operation = world.begin("Deploy", lambda: world.deploy(app, found))
        asked = request.headers.get("x-ms-client-request-id", "")
        world.log.append("client.redeploy", request=asked, site=app.key, id=wanted)
        return JSONResponse({"id": wanted, "status": 2}, 202)

    async def _stream(self, app: App) -> AsyncIterator[bytes]:
        """The greeting, the last lines, and what is written from now on, until the client goes."""
        now = rfc3339(self._world.now())[:19]
        yield f"{now}  Welcome, you are now connected to log-streaming service.\n".encode()
        sent = max(len(app.log) - 10, 0)
        while True:
            self._world.advance()
            for at, _, _, words in app.log[sent:]:
                yield f"{rfc3339(at)} {words}\n".encode()
            sent = len(app.log)
            await anyio.sleep(0.05)

    # Files

    def _lines(self, app: App, name: str) -> bytes:
        machine, platform = _parts(name)
        now = self._world.now()
        if not app.files:
            return b""
        lines = [
            f"{rfc3339(at)} {words}\n"
            for at, where, ours, words in app.log
            if where == machine and ours == platform and at <= now
        ]
        return "".join(lines).encode()

    def _names(self, app: App) -> list[str]:
        day = rfc3339(self._world.now())[:10].replace("-", "_")
        machines = sorted({where for _, where, _, _ in app.log}) if app.files else []
        return [
            f"{day}_{each}{end}"
            for each in machines
            for end in ("_docker.log", "_default_docker.log")
        ]

    def _docker(self, app: App, request: Request) -> list[dict[str, object]]:
        base = str(request.url).split("/api/")[0]
        return [
            {
                "machineName": _parts(name)[0],
                "lastUpdated": rfc3339(self._world.now()),
                "size": len(self._lines(app, name)),
                "href": f"{base}/api/vfs/LogFiles/{name}",
                "path": f"/home/LogFiles/{name}",
            }
            for name in self._names(app)
        ]

    def _file(self, app: App, name: str, request: Request) -> Response:
        if name == "Application/" and not app.farm.linux:
            return JSONResponse(self._traces(app))
        plain = name.removeprefix("Application/")
        content = self._lines(app, plain)
        if not content:
            return JSONResponse({"Message": "The file was not found."}, 404)
        found = _RANGE.fullmatch(request.headers.get("range", ""))
        if found is None:
            return Response(content, media_type="application/octet-stream")
        first = int(found[1])
        headers = {"Content-Range": f"bytes {first}-{len(content) - 1}/{len(content)}"}
        return Response(content[first:], 206, headers, "application/octet-stream")

    def _traces(self, app: App) -> list[dict[str, object]]:
        names = [name for name in self._names(app) if "_default_" in name]
        return [
            {
                "name": name,
                "size": len(self._lines(app, name)),
                "mtime": rfc3339(self._world.now()),
                "mime": "text/plain",
            }
            for name in names
        ]


def _parts(name: str) -> tuple[str, bool]:
    """The worker that a file is of, and whether the platform wrote it."""
    pieces = name.split("_")
    machine = pieces[3] if len(pieces) > 3 else ""
    return machine, "_default_" not in name
