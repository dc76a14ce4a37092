"""Railway's public API for the lab: `POST /graphql/v2`, tokens, errors, limits and faults.

`docs/targets/railway.md` says which fact of the vendor each behaviour here follows.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mcp_ops.lab.oauth.wire import Wire, cut_answer
from mcp_ops.lab.railway.world import ENVIRONMENT, PROJECT, World, seeded
from mcp_ops.lab.standin import EffectLog, Faults, StandIn

PATH: Final = "/graphql/v2"
BREAK: Final = ("bad-release", "build-fails", "never-ready", "quiet-stop")
SUPPORTED: Final = (*BREAK, "throttle", "problem", "lost-answer")
_BAD_COMMIT: Final = "e5" * 20


@cache
def _schema() -> Any:
    from graphql import build_schema

    path = Path(__file__).with_name("schema.graphql")
    return build_schema(path.read_text(encoding="utf-8"))


@lru_cache(maxsize=100)
def _checked(document: str) -> tuple[Any, str, str]:
    """A document read, or what is wrong with it: message and code."""
    from graphql import GraphQLError, parse, validate

    try:
        parsed = parse(document)
    except GraphQLError as error:
        return None, error.message, "GRAPHQL_PARSE_FAILED"
    if problems := validate(_schema(), parsed):
        return None, problems[0].message, "GRAPHQL_VALIDATION_FAILED"
    return parsed, "", ""


class RailwayApi:
    """The endpoint, and the faults that it can have."""

    def __init__(self, world: World, log: EffectLog, tokens: Mapping[str, Any]) -> None:
        from mcp_ops.lab.railway.resolvers import Resolvers

        self.world = world
        self.faults = Faults()
        self._tokens = tokens
        self._resolvers = Resolvers(world, log, self.faults)

    def inject(self, name: str) -> None:
        """Break something; raises `KeyError` for what it can't."""
        if name not in SUPPORTED:
            raise KeyError(name)
        self.faults.active.add(name)
        backend = self.world.by_name("ecommerce-backend")
        if name == "bad-release":
            self._push(_BAD_COMMIT, "crashes")
        elif name == "build-fails":
            self._push(_BAD_COMMIT, "build-fails")
        elif name == "never-ready":
            self.world.next_outcome = "hangs"
        elif name == "quiet-stop":
            self.world.quiet_stops = True
        backend.head = backend.deployments[-1].commit

    def mend(self, name: str) -> None:
        """Undo it: a bad release is followed by a good one."""
        if name not in SUPPORTED:
            raise KeyError(name)
        self.faults.active.discard(name)
        if name in ("bad-release", "build-fails"):
            self._push("f6" * 20, "good")
        elif name == "never-ready":
            self.world.next_outcome = "good"
        elif name == "quiet-stop":
            self.world.quiet_stops = False

    def _push(self, commit: str, outcome: Any) -> None:
        service = self.world.by_name("ecommerce-backend")
        self.world.deploy(
            service,
            reason="deploy",
            commit=commit,
            message="Pool settings",
            outcome=outcome,
            builds=True,
        )

    async def serve(self, request: Request) -> Response:
        """One request."""
        if "throttle" in self.faults:
            errors = [{"message": "You are being ratelimited. Please try again later"}]
            return JSONResponse({"errors": errors}, 429, headers={"Retry-After": "1"})
        try:
            body = json.loads(await request.body())
            document, variables = body["query"], body.get("variables") or {}
        except (ValueError, TypeError, KeyError):
            return _failed("POST body missing, invalid, or not an object", "BAD_REQUEST", 400)
        return self._answer(request, document, variables, body.get("operationName"))

    def _answer(self, request: Request, document: Any, variables: Any, name: Any) -> Response:
        from graphql import OperationType, execute

        parsed, message, code = _checked(str(document))
        if parsed is None:
            return _failed(message, code, 400)
        changes = any(
            getattr(each, "operation", None) is OperationType.MUTATION
            for each in parsed.definitions
        )
        if changes and "problem" in self.faults:
            return _failed("Problem processing request", "INTERNAL_SERVER_ERROR", 200)
        self.world.settle()
        root = self._resolvers.root(self._caller(request))
        result: Any = execute(
            _schema(), parsed, root_value=root, variable_values=variables, operation_name=name
        )
        if changes and "lost-answer" in self.faults:
            return cut_answer()
        return JSONResponse(_shown(result), headers={"RateLimit-Policy": '"default";q=1000;w=3600'})

    def _caller(self, request: Request) -> Any:
        from mcp_ops.lab.railway.shapes import Caller

        of_project = request.headers.get("project-access-token", "")
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        found = self._tokens.get(of_project)
        if found is not None and found.kind == "project":
            return found
        found = self._tokens.get(bearer) if scheme.lower() == "bearer" else None
        return found if found is not None and found.kind != "project" else Caller()


def _shown(result: Any) -> dict[str, Any]:
    answer: dict[str, Any] = {"data": result.data}
    if result.errors:
        answer["errors"] = [
            {
                "message": error.message,
                "path": error.path,
                "extensions": error.extensions or {"code": "INTERNAL_SERVER_ERROR"},
                "traceId": secrets.token_hex(8),
            }
            for error in result.errors
        ]
    return answer


def _failed(message: str, code: str, status: int) -> Response:
    error = {"message": message, "extensions": {"code": code}, "traceId": secrets.token_hex(8)}
    return JSONResponse({"errors": [error]}, status)


def railway(
    *,
    directory: Path,
    token: str,
    account_token: str = "",
    workspace_token: str = "",
    foreign_token: str = "",
    settle_s: float = 1.0,
    clock: Callable[[], float] = time.time,
) -> StandIn:
    """A project with its services. `token` is the project token of its environment, the others are
    of the account, the workspace and another project; `settle_s` is one step of a deployment."""
    return railway_with_world(
        directory=directory,
        token=token,
        account_token=account_token,
        workspace_token=workspace_token,
        foreign_token=foreign_token,
        settle_s=settle_s,
        clock=clock,
    )[0]


def railway_with_world(
    *,
    directory: Path,
    token: str,
    account_token: str = "",
    workspace_token: str = "",
    foreign_token: str = "",
    settle_s: float = 1.0,
    clock: Callable[[], float] = time.time,
) -> tuple[StandIn, RailwayApi]:
    """The same, with what is inside, for tests that act as somebody else would."""
    from mcp_ops.lab.railway.shapes import Caller
    from mcp_ops.lab.railway.world import OTHER_ENVIRONMENT, OTHER_PROJECT

    tokens = {
        token: Caller(kind="project", project=PROJECT, environment=ENVIRONMENT),
        foreign_token: Caller(kind="project", project=OTHER_PROJECT, environment=OTHER_ENVIRONMENT),
        account_token: Caller(kind="account"),
        workspace_token: Caller(kind="workspace"),
    }
    tokens.pop("", None)
    log = EffectLog(directory / "railway.effects.jsonl", now=clock)
    api = RailwayApi(seeded(clock=clock, step=settle_s), log, tokens)
    app = Starlette(routes=[Route(PATH, api.serve, methods=["POST"])])
    stand_in = StandIn(
        name="railway",
        app=Wire(app, now=clock),
        log=log,
        supported=SUPPORTED,
        inject=api.inject,
        mend=api.mend,
    )
    return stand_in, api
