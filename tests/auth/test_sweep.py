"""Every route of the application, without a credential and with a wrong one: closed, or known."""

from __future__ import annotations

from pathlib import Path

from starlette.routing import Mount, Route

from mcp_ops.clock import ManualClock
from mcp_ops.transport_edge import OPEN_ROUTES
from tests.auth.issuer import open_issuer
from tests.auth.standing import ALICE, Standing, key, oidc, standing
from tests.transport_peer import health

METADATA = "/.well-known/oauth-protected-resource"
# What answers a stranger, and with which codes. A route that is none of these has to refuse.
OPEN = {
    "/health": {200, 405},
    "/health/live": {200, 405},
    "/health/ready": {200, 405},
    METADATA: {200, 204, 405},
    f"{METADATA}/mcp": {200, 204, 405},
    f"{METADATA}/sse": {200, 204, 405},
    # The sign-in form; posts need its origin.
    "/approvals": {200, 403, 405},
    "/approvals/{rest:path}": {200, 403, 404, 405},
}
METHODS = ("GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS", "TRACE", "PROPFIND")
WRONG: tuple[dict[str, str], ...] = (
    {},
    {"authorization": ""},
    {"authorization": "Bearer"},
    {"authorization": "Bearer x"},
    {"authorization": "Bearer a.b.c"},
    {"authorization": f"Basic {ALICE}"},
    {"cookie": f"authorization=Bearer {ALICE}"},
    {"x-api-key": ALICE},
    {"x-arr-clientcert": "MIIB"},
    {"x-forwarded-for": "127.0.0.1", "x-ms-client-principal": "e30="},
    {"mcp-session-id": "0" * 32},
)


def paths(s: Standing) -> set[str]:
    """The paths of all routes, and of what is below a mount."""
    found: set[str] = set()
    for route in s.app.routes:
        assert isinstance(route, Route | Mount), "the sweep does not know this kind of route"
        path = f"{route.path}/" if isinstance(route, Mount) else route.path
        found |= {path, f"{path}x"} if isinstance(route, Mount) else {path}
    return found


async def test_a_stranger_gets_in_nowhere_but_where_it_is_known(tmp_path: Path) -> None:
    clock = ManualClock()
    async with (
        open_issuer(clock) as issuer,
        standing(
            tmp_path,
            clock=clock,
            issuers=[oidc(issuer)],
            keys=[key("alice", ALICE, "ops:read", "ops:approve")],
        ) as s,
    ):
        everything = paths(s)
        assert {"/mcp", "/sse", "/messages/", "/health", METADATA, "/approvals"} <= everything
        assert {"/health/live", "/health/ready", "/metrics"} <= everything
        assert set(OPEN_ROUTES) <= set(OPEN), "a further open route: is it meant to be?"
        for path in sorted(everything | {"/", "/x", "/mcp/", "/MCP", "//mcp", "/mcp%2f", "/docs"}):
            place = path.replace("{rest:path}", "0123456789abcdef")
            for method in METHODS:
                for headers in WRONG if method in ("GET", "POST") else WRONG[:4:3]:
                    answer = await s.http.request(method, place, headers=headers)
                    allowed = OPEN.get(path, {401})
                    wrong_method = (
                        {405} if method not in ("GET", "HEAD", "POST", "DELETE") else set()
                    )
                    assert answer.status_code in allowed | wrong_method, (method, path, headers)
        assert s.b.world.asked == []
        # What is open says nothing that is worth knowing.
        assert (await s.http.get("/health")).json() == {"status": (await health())[1]["status"]}
        signing = (await s.http.get("/approvals")).text
        assert "Sign in" in signing
        assert "key:alice" not in signing


async def test_a_path_that_only_begins_like_an_open_one_is_closed(tmp_path: Path) -> None:
    async with standing(tmp_path, keys=[key("alice", ALICE)]) as s:
        for path in ("/healthx", "/health/", "/health/../mcp", "/approvalsx", "/.well-known/x"):
            answer = await s.http.post(path)
            assert answer.status_code == 401, path
        # Below the metadata's place nothing is served that is not metadata.
        assert (await s.http.get(f"{METADATA}/../../mcp")).status_code in (401, 404)
        assert (await s.http.get(f"{METADATA}x/mcp")).status_code == 401
