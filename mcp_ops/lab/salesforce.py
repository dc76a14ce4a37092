"""A Salesforce org for the lab: the REST limits, a query, and the org's own OAuth endpoints.

`docs/targets/salesforce.md` says which vendor fact each behaviour here follows.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from mcp_ops.lab.oauth.grants import Answer
from mcp_ops.lab.oauth.server import Authority, authorize_page, form_of, respond
from mcp_ops.lab.oauth.store import TokenCheck, fingerprint
from mcp_ops.lab.oauth.wire import Wire
from mcp_ops.lab.standin import EffectLog, Faults, StandIn

ORG_ID: Final = "00D7Q000000LAB1UAE"
USER_ID: Final = "0057Q000000LAB1QAE"
QUOTA_PERCENT: Final = {"quota": 85, "quota-critical": 93, "quota-exhausted": 100}
CALM_PERCENT: Final = 12
SUPPORTED: Final = (*QUOTA_PERCENT, "html-error", "garbage", "unavailable")
_VERSIONS: Final = range(55, 67)
_SEASONS: Final = ("Winter", "Spring", "Summer")
_ORGANIZATION: Final = {
    "Id": ORG_ID,
    "Name": "mcp-ops lab",
    "OrganizationType": "Developer Edition",
    "InstanceName": "LAB1",
    "IsSandbox": False,
}
_SOQL: Final = re.compile(r"\s*select\s+(?P<fields>.+?)\s+from\s+(?P<object>\w+)", re.I | re.S)
_MAINTENANCE: Final = (
    "<!doctype html><html><head><title>Scheduled maintenance</title></head>"
    "<body><h1>We are down for maintenance</h1></body></html>"
)
_PER_APP: Final = ("Ant Migration Tool", "Dataloader Bulk", "Salesforce for iOS")
# Names of the vendor, numbers of a Developer Edition org at rest: name, maximum, used.
_LIMITS: Final = """
ActiveScratchOrgs 3 0
AnalyticsExternalDataSizeMB 40960 0
ConcurrentAsyncGetReportInstances 200 0
ConcurrentEinsteinDataInsightsStoryCreation 5 0
ConcurrentEinsteinDiscoveryStoryCreation 2 0
ConcurrentSyncReportRuns 20 1
DailyAnalyticsDataflowJobExecutions 60 0
DailyAnalyticsUploadedFilesSizeMB 51200 0
DailyAsyncApexExecutions 250000 1417
DailyAsyncApexTests 500 0
DailyBulkApiBatches 15000 12
DailyBulkV2QueryFileStorageMB 976562 3
DailyBulkV2QueryJobs 10000 4
DailyDeliveredPlatformEvents 10000 0
DailyDurableGenericStreamingApiEvents 10000 0
DailyDurableStreamingApiEvents 10000 0
DailyEinsteinDataInsightsStoryCreation 1000 0
DailyEinsteinDiscoveryPredictAPICalls 50000 0
DailyEinsteinDiscoveryPredictionsByCDC 5000000 0
DailyEinsteinDiscoveryStoryCreation 100 0
DailyFunctionsApiCallLimit 235000 0
DailyGenericStreamingApiEvents 10000 0
DailyScratchOrgs 6 0
DailyStandardVolumePlatformEvents 10000 0
DailyStreamingApiEvents 10000 0
DailyWorkflowEmails 100000 31
DataStorageMB 1024 640
DurableStreamingApiConcurrentClients 20 0
FileStorageMB 1024 97
HourlyAsyncReportRuns 1200 0
HourlyDashboardRefreshes 200 0
HourlyDashboardResults 5000 0
HourlyDashboardStatuses 999999999 0
HourlyLongTermIdMapping 100000 0
HourlyManagedContentPublicRequests 50000 0
HourlyODataCallout 20000 0
HourlyPublishedPlatformEvents 50000 0
HourlyPublishedStandardVolumePlatformEvents 1000 0
HourlyShortTermIdMapping 100000 0
HourlySyncReportRuns 500 2
HourlyTimeBasedWorkflow 1000 0
MassEmail 5000 0
MonthlyEinsteinDiscoveryStoryCreation 500 0
Package2VersionCreates 6 0
Package2VersionCreatesWithoutValidation 500 0
PermissionSets 1500 4
PlatformEventTriggersWithParallelProcessing 5 1
PrivateConnectOutboundCalloutHourlyLimitMB 0 0
SingleEmail 5000 210
StreamingApiConcurrentClients 20 0
"""


def _pair(maximum: int, used: int) -> dict[str, Any]:
    return {"Max": maximum, "Remaining": maximum - used}


def _limits(daily_limit: int, used: int) -> dict[str, Any]:
    """The limits resource, with the objects that Salesforce nests in it."""
    table = {}
    for line in _LIMITS.split("\n")[1:-1]:
        name, maximum, taken = line.split()
        table[name] = _pair(int(maximum), int(taken))
    table["PermissionSets"]["CreateCustom"] = _pair(1000, 4)
    daily = _pair(daily_limit, min(used, daily_limit))
    table["DailyApiRequests"] = daily | {name: _pair(0, 0) for name in _PER_APP}
    return dict(sorted(table.items()))


def _garbage(daily_limit: int, used: int) -> dict[str, Any]:
    """The limits resource as no client wants it."""
    return _limits(daily_limit, used) | {
        "DailyApiRequests": {"Max": str(daily_limit), "Remaining": float("nan")},
        "DailyBulkApiBatches": {"Max": -1, "Remaining": 99999},
        "DailyAsyncApexExecutions": {"Max": 250000, "Remaining": -17},
        "DataStorageMB": {"Max": 1024},
        "FileStorageMB": {"Remaining": "unlimited", "Max": None},
        "HourlySyncReportRuns": [500, 498],
        "MassEmail": None,
        "SingleEmail": {"Max": 0, "Remaining": 12},
    }


def _error(status: int, code: str, message: str) -> Response:
    """An error as REST resources report it: a list with one object."""
    return JSONResponse([{"message": message, "errorCode": code}], status)


class _Org:
    """The org: how many requests it has served, and its resources."""

    def __init__(
        self,
        *,
        check_token: Callable[[str], TokenCheck],
        oauth: Authority,
        log: EffectLog,
        clock: Callable[[], float],
        daily_limit: int,
        rotate: bool,
    ) -> None:
        self._check_token = check_token
        self._oauth = oauth
        self._log = log
        self._clock = clock
        self._daily_limit = daily_limit
        self._rotate = rotate
        self._faults = Faults()
        self._used = 0
        self._use(CALM_PERCENT)

    def _use(self, percent: int) -> None:
        self._used = self._daily_limit * percent // 100

    def inject(self, name: str) -> None:
        if name not in SUPPORTED:
            raise KeyError(name)
        self._faults.active.add(name)
        if name in QUOTA_PERCENT:
            self._use(QUOTA_PERCENT[name])

    def mend(self, name: str) -> None:
        if name not in SUPPORTED:
            raise KeyError(name)
        self._faults.active.discard(name)
        if name in QUOTA_PERCENT:
            self._use(CALM_PERCENT)

    def refusal(self) -> Response | None:
        """What stands before every resource of the org."""
        if "unavailable" not in self._faults:
            return None
        answer = _error(503, "SERVER_UNAVAILABLE", "The server is temporarily unavailable")
        answer.headers["Retry-After"] = "5"
        return answer

    async def versions(self, _request: Request) -> Response:
        """Open to anyone, and not counted."""
        return JSONResponse(
            [
                {
                    "label": f"{_SEASONS[(number - 53) % 3]} '{22 + (number - 53) // 3}",
                    "url": f"/services/data/v{number}.0",
                    "version": f"{number}.0",
                }
                for number in _VERSIONS
            ]
        )

    async def rest(self, request: Request) -> Response:
        """Every counted resource: token, quota, count, answer, in this order."""
        if "html-error" in self._faults:  # the edge says this, not the API: no count, no header
            return HTMLResponse(_MAINTENANCE)
        answer = self._refused(request) or self._counted(request)
        answer.headers["Sforce-Limit-Info"] = f"api-usage={self._used}/{self._daily_limit}"
        return answer

    def _refused(self, request: Request) -> Response | None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        check = self._check_token(token) if scheme.lower() in ("bearer", "oauth") else None
        if check is None or not check.active:
            return _error(401, "INVALID_SESSION_ID", "Session expired or invalid")
        if self._used >= self._daily_limit:
            return _error(403, "REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded.")
        self._used += 1
        self._log.append(
            "request", method=request.method, path=request.url.path, token=fingerprint(token)
        )
        return None

    def _counted(self, request: Request) -> Response:
        version, resource = request.path_params["version"], request.path_params["resource"]
        missing = _error(404, "NOT_FOUND", "The requested resource does not exist")
        if version not in {f"{number}.0" for number in _VERSIONS}:
            return missing
        if resource.rstrip("/") == "limits":
            return self._limits()
        if resource.rstrip("/") == "query":
            return self._query(request.query_params.get("q", ""), version)
        return missing

    def _limits(self) -> Response:
        make = _garbage if "garbage" in self._faults else _limits
        # NaN is not JSON, so Starlette's own encoder would refuse to write it.
        text = json.dumps(make(self._daily_limit, self._used))
        return Response(text, media_type="application/json;charset=UTF-8")

    def _query(self, soql: str, version: str) -> Response:
        found = _SOQL.match(soql)
        if found is None:
            return _error(400, "MALFORMED_QUERY", "unexpected token: " + (soql[:40] or "<EOF>"))
        if found["object"].lower() != "organization":
            message = f"sObject type '{found['object']}' is not supported."
            return _error(400, "INVALID_TYPE", message)
        names = {name.lower(): name for name in _ORGANIZATION}
        record: dict[str, Any] = {
            "attributes": {
                "type": "Organization",
                "url": f"/services/data/v{version}/sobjects/Organization/{ORG_ID}",
            }
        }
        for asked in found["fields"].split(","):
            name = names.get(asked.strip().lower())
            if name is None:
                message = f"No such column '{asked.strip()}' on entity 'Organization'."
                return _error(400, "INVALID_FIELD", message)
            record[name] = _ORGANIZATION[name]
        return JSONResponse({"totalSize": 1, "done": True, "records": [record]})

    async def token(self, request: Request) -> Response:
        """The org's token endpoint, in Salesforce's own shape."""
        form = await form_of(request)
        answer = self._oauth.token(form, request.headers, rotate=self._rotate)
        if answer.cut:
            return respond(answer)
        if answer.status != 200:
            return _oauth_error(answer, form.get("grant_type", ""))
        origin = str(request.base_url).rstrip("/")
        identity = f"{origin}/id/{ORG_ID}/{USER_ID}"
        issued_at = str(int(self._clock() * 1000))
        body = {
            "access_token": answer.body["access_token"],
            "signature": self._signature(identity, issued_at),
            "scope": answer.body["scope"],
            "instance_url": origin,
            "id": identity,
            "token_type": "Bearer",
            "issued_at": issued_at,
        }
        if "refresh_token" in answer.body:
            body["refresh_token"] = answer.body["refresh_token"]
        return JSONResponse(body, headers={"Cache-Control": "no-store", "Pragma": "no-cache"})

    def _signature(self, identity: str, issued_at: str) -> str:
        secret = self._oauth.client.client_secret.encode()
        digest = hmac.new(secret, (identity + issued_at).encode(), hashlib.sha256).digest()
        return base64.b64encode(digest).decode()

    async def revoke(self, request: Request) -> Response:
        """Revocation as the org has it: whoever holds the token may, without a client."""
        form = dict(request.query_params) if request.method == "GET" else await form_of(request)
        if self._oauth.revoke(form.get("token", "")):
            return Response(status_code=200)
        return JSONResponse({"error": "invalid_token", "error_description": "invalid token"}, 400)

    async def introspect(self, request: Request) -> Response:
        answer = self._oauth.endpoint("introspection", await form_of(request), request.headers)
        if answer.status != 200:
            return _oauth_error(answer, "")
        body = answer.body
        if body["active"]:
            kind = {"Bearer": "access_token"}.get(body["token_type"], body["token_type"])
            identity = f"{str(request.base_url).rstrip('/')}/id/{ORG_ID}/{USER_ID}"
            body |= {"sub": identity, "nbf": body["iat"], "token_type": kind}
            del body["iss"]
        return JSONResponse(body)

    async def authorize(self, request: Request) -> Response:
        return await authorize_page(self._oauth, request)

    async def userinfo(self, request: Request) -> Response:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() not in ("bearer", "oauth"):
            return PlainTextResponse("Missing_OAuth_Token", 403)
        check = self._check_token(token)
        if not check.active:
            return PlainTextResponse("Bad_OAuth_Token", 403)
        origin = str(request.base_url).rstrip("/")
        return JSONResponse(
            {
                "sub": f"{origin}/id/{ORG_ID}/{USER_ID}",
                "user_id": USER_ID,
                "organization_id": ORG_ID,
                "preferred_username": check.subject,
                "nickname": "integration",
                "name": "Integration User",
                "email": check.subject,
                "email_verified": True,
                "active": True,
                "user_type": "STANDARD",
                "urls": {"rest": f"{origin}/services/data/v{{version}}/"},
            }
        )

    def routes(self) -> list[Route]:
        """The paths of the org."""
        oauth = "/services/oauth2"
        return [
            Route("/services/data", self.versions),
            Route("/services/data/", self.versions),
            Route("/services/data/v{version}/{resource:path}", self.rest),
            Route(f"{oauth}/token", self.token, methods=["POST"]),
            Route(f"{oauth}/revoke", self.revoke, methods=["GET", "POST"]),
            Route(f"{oauth}/introspect", self.introspect, methods=["POST"]),
            Route(f"{oauth}/authorize", self.authorize, methods=["GET", "POST"]),
            Route(f"{oauth}/userinfo", self.userinfo, methods=["GET", "POST"]),
        ]


def _oauth_error(answer: Answer, grant_type: str) -> Response:
    """Salesforce reports every OAuth error with 400 and in its own words."""
    said = {
        "invalid_client": "invalid client credentials",
        "unsupported_grant_type": "grant type not supported",
    }
    if grant_type == "refresh_token":
        said["invalid_grant"] = "expired access/refresh token"
    error = answer.body.get("error", "")
    description = said.get(error) or answer.body.get("error_description", "")
    return JSONResponse(
        {"error": error, "error_description": description},
        400,
        headers={"Cache-Control": "no-store", "Pragma": "no-cache"},
    )


def salesforce(
    *,
    directory: Path,
    check_token: Callable[[str], TokenCheck],
    oauth: Authority,
    clock: Callable[[], float] = time.time,
    daily_limit: int = 15000,
    rotate_refresh_tokens: bool = False,
) -> StandIn:
    """Build the stand-in of an org whose tokens are those of the lab's authorization server.

    `rotate_refresh_tokens` is the org's setting of that name: off unless an administrator
    switches it on.
    """
    log = EffectLog(directory / "salesforce.effects.jsonl", now=clock)
    org = _Org(
        check_token=check_token,
        oauth=oauth,
        log=log,
        clock=clock,
        daily_limit=daily_limit,
        rotate=rotate_refresh_tokens,
    )
    return StandIn(
        name="salesforce",
        app=Wire(Starlette(routes=org.routes()), now=clock, refuse=org.refusal),
        log=log,
        supported=SUPPORTED,
        inject=org.inject,
        mend=org.mend,
    )
