"""What the lab's API server reads and writes besides plain JSON: protobuf, and spans of time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mcp_ops.lab.kubernetes.protobuf import PROTOBUF
from mcp_ops.lab.kubernetes.store import ago, duration, short
from tests.lab.kubernetes_serving import CORE, served, told

REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
MAGIC = b"k8s\0"


def part(number: int, data: bytes) -> bytes:
    """A field that has a length."""
    return bytes([number << 3 | 2, len(data)]) + data


def enveloped(kind: bytes, raw: bytes) -> bytes:
    """A body as kubectl sends it."""
    return MAGIC + part(1, part(1, b"v1") + part(2, kind)) + part(2, raw)


CONFIG_MAP = b"ConfigMap"
NAMED = part(1, part(1, b"made"))
ENTRY = part(2, part(1, b"key") + part(2, b"value"))


async def test_object_in_protobuf_is_the_object_in_json(tmp_path: Path) -> None:
    async with served(tmp_path) as lab:
        headers = {"content-type": PROTOBUF}
        body = enveloped(CONFIG_MAP, NAMED + ENTRY)
        answer = await lab.http.post(f"{CORE}/configmaps", content=body, headers=headers)
        assert answer.status_code == 201
        found = await lab.get(f"{CORE}/configmaps/made")
        assert (found["kind"], found["data"]) == ("ConfigMap", {"key": "value"})


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        MAGIC,
        MAGIC + b"\xff",
        MAGIC + b"\xff" * 12,
        MAGIC + part(1, b"x"),
        MAGIC + b"\x0a\x7fshort",
        enveloped(CONFIG_MAP, b"\x08\x01"),
        enveloped(CONFIG_MAP, b"\x0d\x01\x01\x01\x01"),
        enveloped(CONFIG_MAP, part(1, part(1, b"\xff\xfe"))),
        enveloped(CONFIG_MAP, NAMED + part(2, part(2, b"no key"))),
        enveloped(CONFIG_MAP, NAMED + part(9, b"unknown")),
        enveloped(CONFIG_MAP, NAMED + part(4, b"no flag")),
    ],
)
async def test_malformed_protobuf_is_a_bad_request(tmp_path: Path, body: bytes) -> None:
    async with served(tmp_path) as lab:
        headers = {"content-type": PROTOBUF}
        for path in (f"{CORE}/configmaps", REVIEWS):
            refused = await lab.http.post(path, content=body, headers=headers)
            assert told(refused) == (400, "BadRequest")
        assert (await lab.get(f"{CORE}/configmaps"))["items"] == []


async def test_kind_that_is_not_read_in_protobuf_says_what_is(tmp_path: Path) -> None:
    async with served(tmp_path) as lab:
        refused = await lab.http.post(
            f"{CORE}/pods", content=enveloped(b"Pod", b""), headers={"content-type": PROTOBUF}
        )
        assert told(refused) == (415, "UnsupportedMediaType")


async def test_watch_of_the_fleet_ends_its_initial_events_too(tmp_path: Path) -> None:
    async with served(tmp_path, fleet=20) as lab:
        asked = {"watch": "1", "timeoutSeconds": "1", "allowWatchBookmarks": "true"}
        streaming = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
        answer = await lab.http.get("/api/v1/namespaces/fleet/pods", params={**asked, **streaming})
        types = [json.loads(line)["type"] for line in answer.text.splitlines()]
        assert types == ["ADDED"] * 20 + ["BOOKMARK"]


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-1, "0s"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (125, "2m5s"),
        (600, "10m"),
        (10_799, "179m"),
        (10_800, "3h"),
        (18_060, "5h1m"),
        (86_400, "24h"),
        (172_800, "2d"),
        (262_800, "3d1h"),
        (691_200, "8d"),
        (86_400 * 800, "2y70d"),
        (86_400 * 365 * 9, "9y"),
    ],
)
def test_span_is_the_less_exact_the_longer_it_is(seconds: int, shown: str) -> None:
    assert short(seconds) == shown


def test_moment_that_is_missing_has_no_span() -> None:
    assert (ago(None, 0), duration(None, None, 0)) == ("<unknown>", "")
    ended = "1970-01-01T00:01:00Z"
    assert (ago(ended, 90), duration(ended, None, 90)) == ("30s", "30s")
    assert duration("1970-01-01T00:00:00Z", ended, 90) == "60s"
