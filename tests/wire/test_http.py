"""The bounded HTTP client, against servers that misbehave on real sockets."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx2
import pytest
from anyio.abc import SocketStream
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from mcp_ops import errors
from mcp_ops.clock import ManualClock
from mcp_ops.heard import listening
from mcp_ops.redact import Redactor
from mcp_ops.wire.http import (
    TRANSLATIONS,
    Answer,
    HttpClient,
    Limits,
    check_url,
    error_of,
    open_client,
    retry_after,
    translated,
)
from tests.served import loopback, serve, serve_raw

NOW = 1_800_000_000.0


@asynccontextmanager
async def client(**limits: Any) -> AsyncIterator[HttpClient]:
    with anyio.fail_after(5):
        async with open_client(
            system="Acme", clock=ManualClock(NOW), redactor=Redactor(), limits=Limits(**limits)
        ) as http:
            yield http


def answer(body: bytes, status: int = 200, **headers: str) -> Answer:
    return Answer(status=status, headers=headers, body=body)


def theirs() -> list[type[Exception]]:
    """Every exception class that the client library makes public."""
    found = [v for v in vars(httpx2).values() if isinstance(v, type) and issubclass(v, Exception)]
    assert len(found) > 20
    return found


@pytest.mark.parametrize("kind", theirs(), ids=lambda kind: kind.__name__)
def test_every_exception_of_the_library_becomes_one_of_ours(kind: type[Exception]) -> None:
    exc = kind.__new__(kind)
    with pytest.raises(errors.OpsError) as caught, translated("Acme"):
        raise exc
    assert caught.value.__cause__ is exc
    assert "Acme" in caught.value.message


def test_no_translation_is_hidden_by_a_wider_one_before_it() -> None:
    for at, (kind, _, _) in enumerate(TRANSLATIONS):
        assert not [w for w, _, _ in TRANSLATIONS[:at] if issubclass(kind, w)], kind.__name__


async def test_a_refused_connection_says_that_nothing_was_executed() -> None:
    bound, url = loopback()
    bound.close()
    async with client() as http:
        with pytest.raises(errors.Unreachable) as caught:
            await http.send("POST", url)
    assert caught.value.executed == "no"
    assert "127.0.0.1" not in caught.value.message


async def test_a_cut_connection_says_that_the_outcome_is_unknown() -> None:
    async def cut(stream: SocketStream) -> None:
        await stream.aclose()

    async with client() as http, serve_raw(cut) as url:
        with pytest.raises(errors.ConnectionLost) as caught:
            await http.send("POST", url, form={"a": "b"})
    assert caught.value.executed == "unknown"


async def test_a_silent_server_is_left_after_the_read_timeout() -> None:
    async def silent(stream: SocketStream) -> None:
        await anyio.sleep_forever()

    async with client(read_s=0.05) as http, serve_raw(silent) as url:
        with listening() as signs, pytest.raises(errors.UpstreamTimeout):
            await http.send("GET", url)
    assert not signs.heard


async def test_a_dripping_body_is_left_at_the_total_deadline() -> None:
    async def drip(stream: SocketStream) -> None:
        await stream.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
        while True:
            await stream.send(b"x")
            await anyio.sleep(0.01)

    async with client(total_s=0.1) as http, serve_raw(drip) as url:
        with listening() as signs, pytest.raises(errors.UpstreamTimeout) as caught:
            await http.send("GET", url)
    assert "0.1 seconds" in caught.value.message
    assert signs.heard  # slow, not silent: the guard does not count it against the target


async def test_an_endless_body_is_dropped_at_the_byte_limit() -> None:
    async def endless(stream: SocketStream) -> None:
        await stream.send(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await stream.send(b"x" * 4096)

    async with client(max_bytes=10_000) as http, serve_raw(endless) as url:
        with pytest.raises(errors.BadAnswer, match="larger than 10000 bytes"):
            await http.send("GET", url)


def squeezed(body: bytes, encoding: str = "gzip") -> Starlette:
    async def home(_request: Request) -> Response:
        return Response(body, headers={"content-encoding": encoding})

    return Starlette(routes=[Route("/", home)])


async def test_a_compressed_bomb_is_dropped_at_the_byte_limit() -> None:
    app = squeezed(gzip.compress(b"0" * 50_000_000))
    async with client() as http, serve(app) as url:
        with pytest.raises(errors.BadAnswer, match="larger than"):
            await http.send("GET", url)


async def test_a_compressed_answer_within_the_limit_is_read() -> None:
    async with client() as http, serve(squeezed(gzip.compress(b'{"a": 1}'))) as url:
        assert (await http.send("GET", url)).json_object() == {"a": 1}


@pytest.mark.parametrize(
    ("body", "encoding"), [(b"not gzip", "gzip"), (b"x", "br")], ids=["garbage", "other"]
)
async def test_a_compression_that_cannot_be_read_is_a_bad_answer(
    body: bytes, encoding: str
) -> None:
    async with client() as http, serve(squeezed(body, encoding)) as url:
        with pytest.raises(errors.BadAnswer):
            await http.send("GET", url)


async def test_a_redirect_is_not_followed_with_the_credential() -> None:
    seen: list[str] = []

    async def home(_request: Request) -> Response:
        return RedirectResponse("/elsewhere", 307)

    async def elsewhere(request: Request) -> Response:
        seen.append(request.headers["authorization"])
        return Response()

    app = Starlette(routes=[Route("/", home), Route("/elsewhere", elsewhere)])
    async with client() as http, serve(app) as url:
        got = await http.send("GET", url, bearer=SecretStr("token-canary"))
    assert got.status == 307
    assert isinstance(http.error(got), errors.BadAnswer)
    assert seen == []


async def test_cookies_are_not_kept() -> None:
    seen: list[str | None] = []

    async def home(request: Request) -> Response:
        seen.append(request.headers.get("cookie"))
        return JSONResponse({}, headers={"set-cookie": "id=1; path=/"})

    async with client() as http, serve(Starlette(routes=[Route("/", home)])) as url:
        await http.send("GET", url)
        await http.send("GET", url)
    assert seen == [None, None]


@pytest.mark.parametrize("token", ["", "a\r\nx: y", "ein tökén", "two words"])
async def test_a_token_that_no_header_can_carry_is_not_sent(token: str) -> None:
    async with client() as http:
        with pytest.raises(errors.Unauthenticated) as caught:
            await http.send("GET", "http://127.0.0.1:1", bearer=SecretStr(token))
    assert not token or token not in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b'{"a": NaN}',
        b"[Infinity]",
        b"[-Infinity]",
        b"[1e999]",
        b'"\xff"',
        b"[" * 40 + b"]" * 40,
        b"[" * 100_000,
        b"[" + b"9" * 5000 + b"]",
    ],
    ids=range(10),
)
def test_what_is_not_strict_json_is_a_bad_answer(body: bytes) -> None:
    with pytest.raises(errors.BadAnswer):
        answer(body).json()


def test_nan_may_be_read_as_null_where_the_rest_is_worth_having() -> None:
    assert answer(b'{"a": NaN, "b": 1}').json(constants="null") == {"a": None, "b": 1}


def test_json_that_is_no_object_is_a_bad_answer_where_an_object_is_due() -> None:
    with pytest.raises(errors.BadAnswer):
        answer(b"[]").json_object()


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("²", None),
        ("0", 0.0),
        (" 30 ", 30.0),
        ("999999999", 3600.0),
        ("9" * 5000, 3600.0),
        ("Fri, 15 Jan 2027 08:01:00 GMT", 60.0),
        ("Fri, 15 Jan 2027 07:00:00 GMT", 0.0),
        ("Fri, 15 Jan 2099 08:01:00 GMT", 3600.0),
        ("Fri, 99 Jan 2027 08:01:00 GMT", None),
    ],
)
def test_retry_after_is_seconds_between_zero_and_an_hour(
    header: str | None, seconds: float | None
) -> None:
    assert retry_after(header, now=NOW) == seconds


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (101, errors.BadAnswer),
        (304, errors.BadAnswer),
        (400, errors.Rejected),
        (401, errors.Unauthenticated),
        (403, errors.Forbidden),
        (404, errors.NotFound),
        (408, errors.UpstreamUnavailable),
        (409, errors.Conflict),
        (412, errors.Conflict),
        (418, errors.Rejected),
        (422, errors.Rejected),
        (429, errors.UpstreamRateLimited),
        (500, errors.UpstreamBroken),
        (502, errors.UpstreamBroken),
        (503, errors.UpstreamUnavailable),
        (504, errors.UpstreamBroken),
        (999, errors.BadAnswer),
    ],
)
def test_a_status_stands_for_one_error(status: int, kind: type[errors.Upstream]) -> None:
    error = error_of(
        answer(b"", status, **{"retry-after": "7"}), system="Acme", now=NOW, said="x\x1b[0m" * 400
    )
    assert type(error) is kind
    assert "Acme" in error.message
    assert "x" * 10 not in error.message
    assert "\x1b" not in error.said
    assert len(error.said) < 350
    assert error.retry_after_s == (7.0 if status in (408, 429, 503) else None)


@pytest.mark.parametrize(
    "url",
    [
        "https://acme.example/base/",
        "http://127.0.0.1:8080",
        "http://localhost/",
        "http://[::1]:9/",
    ],
)
def test_a_url_for_secrets_is_https_or_this_machine(url: str) -> None:
    assert check_url(url) == url.rstrip("/")


@pytest.mark.parametrize(
    "url",
    [
        "http://acme.example",
        "http://localhost.evil.example",
        "ftp://acme.example",
        "https://user:pw@acme.example",
        "https://acme.example/?a=b",
        "https://acme.example/#x",
        "https://äcme.example",
        "acme.example",
        "https://",
        "",
    ],
)
def test_other_urls_are_refused_for_secrets(url: str) -> None:
    with pytest.raises(ValueError, match="must"):
        check_url(url)


async def test_a_body_with_lone_surrogates_can_be_sent() -> None:
    seen: list[Any] = []

    async def home(request: Request) -> Response:
        seen.append(json.loads(await request.body()))
        return JSONResponse({})

    app = Starlette(routes=[Route("/", home, methods=["POST"])])
    async with client() as http, serve(app) as url:
        await http.send("POST", url, body={"text": "a\ud800"})
    assert seen == [{"text": "a\ud800"}]
