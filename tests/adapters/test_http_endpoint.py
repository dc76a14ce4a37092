"""The HTTP operation endpoint, against the lab's coordinator."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mcp_ops import errors
from mcp_ops.adapters.http_endpoint import HttpEndpointAdapter
from mcp_ops.capabilities.deadletters import Operation
from mcp_ops.lab.coordinator import coordinator
from mcp_ops.lab.standin import StandIn
from tests.served import Wired, loopback, serve

ITEM = Operation(id="dl-1", operation="oci_cost_get", arguments={"days": 7}, attempts=2)
Settings = HttpEndpointAdapter.Settings


@pytest.fixture
def standin(tmp_path: Path) -> StandIn:
    return coordinator(directory=tmp_path)


@pytest.fixture
async def endpoint(standin: StandIn, tmp_path: Path) -> AsyncIterator[HttpEndpointAdapter]:
    async with serve(standin.app) as url, opened(url, tmp_path) as adapter:
        yield adapter


@asynccontextmanager
async def opened(url: str, tmp_path: Path, **more: Any) -> AsyncIterator[HttpEndpointAdapter]:
    settings = Settings(url=url, allow_operations=("oci_*", "exact"), **more)
    wired = Wired(directory=tmp_path)
    async with HttpEndpointAdapter.open(settings, wired.wiring("coordinator")) as adapter:
        yield adapter


async def test_an_operation_is_executed_once_under_its_key(
    endpoint: HttpEndpointAdapter, standin: StandIn
) -> None:
    await endpoint.ping()
    answer = await endpoint.execute(ITEM)
    assert answer.success
    (line,) = standin.log.read()
    assert line["tool"] == "oci_cost_get"
    assert line["arguments"] == {"days": 7}
    assert line["operation"] == "dl-1-2"


async def test_a_failed_operation_is_an_answer(
    endpoint: HttpEndpointAdapter, standin: StandIn
) -> None:
    standin.inject("refuse")
    answer = await endpoint.execute(ITEM)
    assert not answer.success
    assert answer.error == "Server temporarily unavailable"
    assert standin.log.read() == []


async def test_a_lost_answer_says_that_it_may_have_run(
    endpoint: HttpEndpointAdapter, standin: StandIn
) -> None:
    standin.inject("lost-response")
    with pytest.raises(errors.ConnectionLost) as caught:
        await endpoint.execute(ITEM)
    assert caught.value.executed == "unknown"
    assert len(standin.log.read()) == 1


@pytest.mark.parametrize(
    ("fault", "kind", "wait"),
    [
        ("throttled", errors.UpstreamRateLimited, 30.0),
        ("unavailable", errors.UpstreamUnavailable, 5.0),
    ],
)
async def test_an_overloaded_service_has_executed_nothing(
    endpoint: HttpEndpointAdapter,
    standin: StandIn,
    fault: str,
    kind: type[errors.Upstream],
    wait: float,
) -> None:
    standin.inject(fault)
    with pytest.raises(kind) as caught:
        await endpoint.execute(ITEM)
    assert caught.value.executed == "no"
    assert caught.value.retry_after_s == wait
    assert standin.log.read() == []


async def test_a_service_that_is_down_is_unreachable(tmp_path: Path) -> None:
    bound, url = loopback()
    bound.close()
    async with opened(url, tmp_path) as adapter:
        with pytest.raises(errors.Unreachable):
            await adapter.execute(ITEM)
        with pytest.raises(errors.Unreachable):
            await adapter.ping()


@pytest.mark.parametrize("body", [{}, {"success": "yes"}, {"success": 1}, [True], None])
async def test_an_answer_without_success_is_a_bad_answer(tmp_path: Path, body: Any) -> None:
    async def execute(_request: Request) -> Response:
        return JSONResponse(body)

    app = Starlette(routes=[Route("/tools/execute", execute, methods=["POST"])])
    async with serve(app) as url, opened(url, tmp_path) as adapter:
        with pytest.raises(errors.BadAnswer):
            await adapter.execute(ITEM)


async def test_token_and_headers_are_sent_and_never_come_back(tmp_path: Path) -> None:
    seen: list[tuple[str, str, str]] = []

    async def execute(request: Request) -> Response:
        head = request.headers
        seen.append((head["authorization"], head["x-api-key"], head["idempotency-key"]))
        error = f"bad \x1b[31m{head['authorization']} {head['x-api-key']}" + "x" * 500
        return JSONResponse({"success": False, "error": error})

    app = Starlette(routes=[Route("/tools/execute", execute, methods=["POST"])])
    secrets = {
        "token": SecretStr("token-canary"),
        "headers": {"x-api-key": SecretStr("key-canary")},
    }
    async with serve(app) as url, opened(url, tmp_path, **secrets) as adapter:
        item = Operation(id="é\r\nx: y" + "z" * 300, operation="oci_x", arguments={}, attempts=0)
        answer = await adapter.execute(item)
    assert seen[0][:2] == ("Bearer token-canary", "key-canary")
    assert len(seen[0][2]) == 255
    assert "canary" not in answer.error
    assert "\x1b" not in answer.error
    assert len(answer.error) < 350


async def test_only_listed_operations_are_allowed(endpoint: HttpEndpointAdapter) -> None:
    assert endpoint.allows("oci_cost_get")
    assert endpoint.allows("exact")
    assert not endpoint.allows("Exact")
    assert not endpoint.allows("drop_database")


async def test_an_empty_list_allows_nothing(tmp_path: Path) -> None:
    settings = Settings(url="http://coordinator:8080")
    async with HttpEndpointAdapter.open(settings, Wired(directory=tmp_path).wiring("c")) as adapter:
        assert not adapter.allows("oci_cost_get")


def test_secrets_are_not_sent_over_plain_http_to_another_machine() -> None:
    with pytest.raises(ValidationError, match="must be https"):
        Settings(url="http://coordinator:8080", token=SecretStr("x"))
    with pytest.raises(ValidationError, match="must be https"):
        Settings(url="http://coordinator:8080", headers={"x": SecretStr("x")})
