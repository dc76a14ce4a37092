"""The stand-in itself: an API server over one world, with the controllers in its lifespan."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import anyio
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from mcp_ops.lab.kubernetes.access import Access
from mcp_ops.lab.kubernetes.apply import is_apply, patch_or_apply
from mcp_ops.lab.kubernetes.call import Call, parse, parse_path, verb_of
from mcp_ops.lab.kubernetes.controller import Controller
from mcp_ops.lab.kubernetes.discovery import document
from mcp_ops.lab.kubernetes.fleet import FLEET, Fleet
from mcp_ops.lab.kubernetes.fleetlists import FleetLists
from mcp_ops.lab.kubernetes.incidents import SUPPORTED, Incidents
from mcp_ops.lab.kubernetes.kinds import POD, POD_METRICS, Obj
from mcp_ops.lab.kubernetes.metrics import answer_metrics
from mcp_ops.lab.kubernetes.output import PodOutput
from mcp_ops.lab.kubernetes.podlog import pod_log
from mcp_ops.lab.kubernetes.protobuf import PROTOBUF, parse_protobuf
from mcp_ops.lab.kubernetes.reading import Lists, form_of, selected
from mcp_ops.lab.kubernetes.roles import Role
from mcp_ops.lab.kubernetes.seed import add_namespace, seed
from mcp_ops.lab.kubernetes.status import (
    StatusError,
    bad_request,
    conflict,
    too_large,
    too_many_requests,
)
from mcp_ops.lab.kubernetes.store import Store
from mcp_ops.lab.kubernetes.tables import partial, table
from mcp_ops.lab.kubernetes.watching import watch
from mcp_ops.lab.kubernetes.wirefaults import Awkward, WireFaults
from mcp_ops.lab.kubernetes.world import World
from mcp_ops.lab.kubernetes.writing import (
    create,
    delete,
    delete_all,
    scale_of,
    stored_at,
    update,
    warning_of,
)
from mcp_ops.lab.standin import EffectLog, Faults, StandIn

BODY_LIMIT: Final = 3 * 1024 * 1024
RETRY_AFTER_S: Final = 1
METHODS: Final = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
HEALTH: Final = ("/healthz", "/livez", "/readyz")
REVIEWS: Final = "/apis/authorization.k8s.io/v1/"


def kubernetes(
    *,
    directory: Path,
    clock: Callable[[], float] = time.time,
    token: str | None = None,
    settle_s: float = 0.4,
    roles: Mapping[str, Role] | None = None,
    metrics: bool = True,
    wire: WireFaults | None = None,
    fleet: int = 0,
) -> StandIn:
    """A Kubernetes API server with a sample workload, ready to be served.

    `token` is the bearer token of one who may do everything, `roles` are further tokens and what
    each may do; without any, it accepts requests that carry none. `metrics` is whether it has a
    metrics server. `wire` are awkward answers, which whoever holds them can arm at any time.
    `fleet` is how many pods the large world in the namespace `fleet` has, which is there to be
    read.
    `settle_s` is how long one step of a pod's or a rollout's life takes.
    """
    log = EffectLog(directory / "effects.jsonl", now=clock)
    faults = Faults()
    world = World(
        store=Store(now=clock), log=log, faults=faults, output=PodOutput(), metrics=metrics
    )
    controller = Controller(world)
    seed(world, controller)
    if fleet:
        add_namespace(world, FLEET)
    incidents = Incidents(world)
    server = _Server(
        world,
        Access(token=token, faults=faults, roles=roles),
        FleetLists(Fleet(pods=fleet, now=clock), world) if fleet else None,
    )

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(controller.run, settle_s)
            yield
            tasks.cancel_scope.cancel()

    app = Starlette(
        routes=[Route("/{path:path}", server.handle, methods=METHODS)],
        middleware=[Middleware(Awkward, faults=wire or WireFaults())],
        lifespan=lifespan,
    )
    return StandIn(
        name="kubernetes",
        app=app,
        log=log,
        supported=SUPPORTED,
        inject=incidents.inject,
        mend=incidents.mend,
    )


def kubeconfig(url: str, token: str | None, namespace: str = "shop") -> str:
    """A kubeconfig in YAML by which a client reaches the stand-in at `url`."""
    user = f"{{token: {json.dumps(token)}}}" if token else "{}"
    return f"""\
apiVersion: v1
kind: Config
clusters:
- name: lab
  cluster: {{server: {json.dumps(url)}}}
users:
- name: operator
  user: {user}
contexts:
- name: lab
  context: {{cluster: lab, user: operator, namespace: {json.dumps(namespace)}}}
current-context: lab
"""


class _Server:
    """Answers every request: who is it, may they, and then what they ask for."""

    def __init__(self, world: World, access: Access, fleet: FleetLists | None) -> None:
        self._world = world
        self._access = access
        self._fleet = fleet
        self._lists = Lists(world.store)

    async def handle(self, request: Request) -> Response:
        """One request, in the order in which an API server looks at it."""
        try:
            role = self._access.authenticate(request.headers.get("authorization"))
            if "throttle" in self._world.faults:
                raise too_many_requests(RETRY_AFTER_S)
            return await self._answer(request, role)
        except StatusError as error:
            return error.response()

    async def _answer(self, request: Request, role: Role) -> Response:
        path = request.url.path.rstrip("/")
        if path in HEALTH:
            return PlainTextResponse("ok")
        known = document(path, measured=self._world.measured)
        if known is not None and request.method in ("GET", "HEAD"):
            return JSONResponse(known)
        if path.startswith(REVIEWS) and request.method == "POST":
            body, kind = await _body(request), request.headers.get("content-type", "")
            review = parse_protobuf(body) if kind == PROTOBUF else parse(body)
            return self._review(role, path.removeprefix(REVIEWS), review)
        address = parse_path(request.url.path)
        if address is None or (address.kind is POD_METRICS and not self._world.measured):
            return PlainTextResponse("404 page not found\n", status_code=404)
        verb = verb_of(request.method, address, request.query_params)
        call = Call(
            address=address,
            verb=verb,
            params=request.query_params,
            headers=request.headers,
            body=await _body(request),
        )
        self._access.authorize(
            role,
            address.kind,
            verb,
            namespace=address.namespace,
            name=address.name,
            sub=address.sub,
        )
        return self._do(call)

    def _do(self, call: Call) -> Response:
        form_of(call)
        if self._fleet is not None and self._fleet.has(call):
            return self._fleet.answer(call)
        if call.address.kind is POD_METRICS:
            return JSONResponse(answer_metrics(self._world, call))
        if call.verb == "watch":
            selected(call)
            stream = watch(self._world.store, call)
            return StreamingResponse(stream, media_type="application/json")
        if call.address.sub == "log":
            return _log_answer(pod_log(self._world, call))
        if call.address.sub == "eviction":
            return self._evict(call)
        made = call.verb == "create" or (is_apply(call) and not self._is_there(call))
        status = 201 if made else 200
        result = self._result(call)
        return JSONResponse(result, status_code=status, headers=warning_of(call))

    def _is_there(self, call: Call) -> bool:
        address = call.address
        return self._world.store.get(address.kind, address.namespace, address.name) is not None

    def _result(self, call: Call) -> Obj:
        handlers: dict[str, Callable[[World, Call], Obj]] = {
            "create": create,
            "update": update,
            "patch": patch_or_apply,
            "delete": delete,
        }
        if call.verb in handlers:
            return handlers[call.verb](self._world, call)
        if call.verb == "list":
            return self._lists.answer(call)
        if call.verb == "deletecollection":
            answer = self._lists.answer(call)
            if not call.dry_run:
                matches = selected(call)
                found = self._world.store.all(call.address.kind, call.address.namespace)
                delete_all(self._world, call.address.kind, [o for o in found if matches(o)])
            return answer
        return self._get(call)

    def _get(self, call: Call) -> Obj:
        obj = stored_at(self._world, call.address)
        if call.address.sub == "scale":
            return scale_of(call.address.kind, obj)
        form = form_of(call)
        if form == "Table":
            version = obj["metadata"]["resourceVersion"]
            now = self._world.store.now()
            return table(call.address.kind, [obj], {"resourceVersion": version}, now)
        return partial(obj) if form.startswith("Partial") else obj

    def _evict(self, call: Call) -> Response:
        pod = stored_at(self._world, call.address)
        eviction = call.document()
        if not isinstance(eviction, dict) or eviction.get("kind", "Eviction") != "Eviction":
            raise bad_request("the body is not an Eviction")
        options = eviction.get("deleteOptions") or {}
        wanted = (options.get("preconditions") or {}).get("uid", pod["metadata"]["uid"])
        if wanted != pod["metadata"]["uid"]:
            why = f"Precondition failed: UID in precondition: {wanted}, of another pod"
            raise conflict(POD, pod["metadata"]["name"], why)
        if not call.dry_run and options.get("dryRun") != ["All"]:
            delete_all(self._world, POD, [pod])
        answer = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
        return JSONResponse({**answer, "code": 201}, status_code=201)

    def _review(self, role: Role, plural: str, review: Any) -> Response:
        if not isinstance(review, dict):
            raise bad_request("the body is not a review")
        spec = review.get("spec") or {}
        if plural == "selfsubjectaccessreviews":
            kind, status = "SelfSubjectAccessReview", self._access.review(role, spec)
        elif plural == "selfsubjectrulesreviews":
            namespace = spec.get("namespace", "") if isinstance(spec, dict) else ""
            kind, status = "SelfSubjectRulesReview", self._access.rules(role, str(namespace))
        else:
            return PlainTextResponse("404 page not found\n", status_code=404)
        answer = {
            "kind": kind,
            "apiVersion": "authorization.k8s.io/v1",
            "metadata": {"creationTimestamp": None},
            "spec": spec,
            "status": status,
        }
        return JSONResponse(answer, status_code=201)


def _log_answer(log: bytes | AsyncIterator[bytes]) -> Response:
    if isinstance(log, bytes):
        return PlainTextResponse(log)
    return StreamingResponse(log, media_type="text/plain")


async def _body(request: Request) -> bytes:
    """The body, up to the limit of the API server."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_LIMIT:
            raise too_large(BODY_LIMIT)
    return body
