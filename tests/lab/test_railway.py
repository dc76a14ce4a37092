"""The lab's Railway, over its socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from mcp_ops.lab.railway.api import PATH, RailwayApi, railway_with_world
from mcp_ops.lab.railway.world import ENVIRONMENT, OTHER_PROJECT, PROJECT
from mcp_ops.lab.standin import StandIn
from tests.lab.serving import Clock, serve

TOKEN, ACCOUNT, WORKSPACE = "project-token", "account-token", "workspace-token"
BACKEND = "ecommerce-backend"
LATEST = """
query Latest($e: String!, $s: String!) {
  serviceInstance(environmentId: $e, serviceId: $s) {
    latestDeployment { id status deploymentStopped meta instances { status } }
    activeDeployments { id status }
  }
}
"""


@dataclass(kw_only=True)
class Place:
    """A running stand-in and a client; a step takes one second of its clock."""

    stand_in: StandIn
    api: RailwayApi
    client: httpx2.AsyncClient
    clock: Clock

    async def post(self, query: str, token: str = TOKEN, **variables: Any) -> httpx2.Response:
        kind = token == TOKEN
        headers = {"project-access-token": token} if kind else {"authorization": f"Bearer {token}"}
        body = {"query": query, "variables": variables}
        return await self.client.post(PATH, json=body, headers=headers)

    async def data(self, query: str, **variables: Any) -> Any:
        answer = (await self.post(query, **variables)).json()
        assert "errors" not in answer, answer
        return answer["data"]

    async def error(self, query: str, token: str = TOKEN, **variables: Any) -> str:
        answer = await self.post(query, token, **variables)
        return str(answer.json()["errors"][0]["message"])

    async def latest(self, name: str = BACKEND) -> Any:
        service = self.api.world.by_name(name).id
        return (await self.data(LATEST, e=ENVIRONMENT, s=service))["serviceInstance"]

    async def states(self, steps: int) -> list[str]:
        found = []
        for _ in range(steps):
            found.append((await self.latest())["latestDeployment"]["status"])
            self.clock.now += 1
        return found


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    clock = Clock(1_800_000_000.0)
    stand_in, api = railway_with_world(
        directory=tmp_path,
        token=TOKEN,
        account_token=ACCOUNT,
        workspace_token=WORKSPACE,
        settle_s=1.0,
        clock=clock,
    )
    async with serve(stand_in) as client:
        yield Place(stand_in=stand_in, api=api, client=client, clock=clock)


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("query { me { id password } }", "GRAPHQL_VALIDATION_FAILED"),
        ("query { deployment { id } }", "GRAPHQL_VALIDATION_FAILED"),
        ("mutation { deploymentRollback(id: 1) { id } }", "GRAPHQL_VALIDATION_FAILED"),
        ("query {", "GRAPHQL_PARSE_FAILED"),
    ],
)
async def test_what_the_schema_does_not_have_is_a_validation_error(
    place: Place, query: str, code: str
) -> None:
    answer = await place.post(query)
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["extensions"]["code"] == code


async def test_a_body_that_is_none_is_refused(place: Place) -> None:
    assert (await place.client.post(PATH, content=b"{")).status_code == 400
    assert (await place.client.get(PATH)).status_code == 405


async def test_tokens_are_good_in_their_own_header_and_place_only(place: Place) -> None:
    whose = "query { projectToken { projectId environmentId } }"
    found = await place.data(whose)
    assert found["projectToken"] == {"projectId": PROJECT, "environmentId": ENVIRONMENT}
    assert await place.error(whose, ACCOUNT) == "Project Token not found"
    bearer = {"authorization": f"Bearer {TOKEN}"}
    answer = await place.client.post(PATH, json={"query": whose}, headers=bearer)
    assert answer.status_code == 200
    assert answer.json()["errors"][0]["message"] == "Project Token not found"
    me = "query { me { id } }"
    assert (await place.post(me, ACCOUNT)).json()["data"]["me"] == {"id": "user-1"}
    for token in (TOKEN, WORKSPACE, "unknown"):
        assert await place.error(me, token) == "Not Authorized"
    mine = "query { apiToken { workspaces { id } } }"
    assert len((await place.post(mine, WORKSPACE)).json()["data"]["apiToken"]["workspaces"]) == 1
    there = "query($p: String!) { environment(id: $p, projectId: $p) { id } }"
    assert await place.error(there, p=OTHER_PROJECT) == "Not Authorized"


async def test_a_push_builds_starts_and_replaces_what_ran(place: Place) -> None:
    before = (await place.latest())["latestDeployment"]["id"]
    place.api.world.deploy(
        place.api.world.by_name(BACKEND), reason="deploy", commit="9" * 40, builds=True
    )
    assert await place.states(6) == [
        "INITIALIZING",
        "BUILDING",
        "DEPLOYING",
        "DEPLOYING",
        "SUCCESS",
        "SUCCESS",
    ]
    found = await place.latest()
    assert [one["status"] for one in found["activeDeployments"]] == ["SUCCESS"]
    old = await place.data("query($d: String!) { deployment(id: $d) { status } }", d=before)
    assert old["deployment"]["status"] == "REMOVED"


async def test_a_starting_deployment_says_that_it_is_stopped(place: Place) -> None:
    place.api.world.again(place.api.world.by_name(BACKEND).deployments[-1], reason="redeploy")
    place.clock.now += 1
    found = (await place.latest())["latestDeployment"]
    assert (found["status"], found["deploymentStopped"]) == ("DEPLOYING", True)


async def test_stop_and_restart_change_neither_deployment_nor_instances(place: Place) -> None:
    before = (await place.latest())["latestDeployment"]
    await place.data("mutation($d: String!) { deploymentStop(id: $d) }", d=before["id"])
    assert not (await place.latest())["latestDeployment"]["deploymentStopped"]
    place.clock.now += 1
    stopped = (await place.latest())["latestDeployment"]
    assert (stopped["status"], stopped["deploymentStopped"]) == ("SUCCESS", True)
    assert stopped["instances"][0]["status"] == "EXITED"
    await place.data("mutation($d: String!) { deploymentRestart(id: $d) }", d=before["id"])
    place.clock.now += 1
    after = (await place.latest())["latestDeployment"]
    assert after == before
    ask = (
        "query($d: String!, $f: String)"
        " { deploymentLogs(deploymentId: $d, filter: $f) { message } }"
    )
    logs = await place.data(ask, d=before["id"], f='"Container"')
    assert [line["message"] for line in logs["deploymentLogs"]] == [
        "Starting Container",
        "Stopping Container",
        "Starting Container",
    ]
    lines = [(line["effect"], line["service"]) for line in place.stand_in.log.read()]
    name = "ecommerce-backend"
    assert lines == [("deploymentStop", name), ("deploymentRestart", name)]


async def test_a_deploy_without_a_commit_takes_the_newest_one(place: Place) -> None:
    service = place.api.world.by_name(BACKEND)
    service.head = "8" * 40
    deploy = (
        "mutation($e: String!, $s: String!, $c: String)"
        " { serviceInstanceDeployV2(environmentId: $e, serviceId: $s, commitSha: $c) }"
    )
    await place.data(deploy, e=ENVIRONMENT, s=service.id)
    assert (await place.latest())["latestDeployment"]["meta"]["commitHash"] == "8" * 40
    await place.data(deploy, e=ENVIRONMENT, s=service.id, c="7" * 40)
    assert (await place.latest())["latestDeployment"]["meta"]["commitHash"] == "7" * 40


async def test_no_instances_are_refused_as_railway_does(place: Place) -> None:
    update = (
        "mutation($e: String!, $s: String!) { serviceInstanceUpdate(environmentId: $e,"
        " serviceId: $s, input: {numReplicas: 0}) }"
    )
    answer = await place.post(update, e=ENVIRONMENT, s=place.api.world.by_name(BACKEND).id)
    assert answer.status_code == 200
    assert answer.json()["errors"][0]["extensions"]["code"] == "BAD_USER_INPUT"
    assert place.stand_in.log.read() == []


async def test_what_would_lose_something_leaves_its_line_in_the_log(place: Place) -> None:
    await place.post("mutation { serviceDelete(id: 1) }".replace("1", '"s"'))
    assert [line["effect"] for line in place.stand_in.log.read()] == ["serviceDelete"]


@pytest.mark.parametrize(
    ("fault", "statuses"),
    [
        (
            "bad-release",
            ["INITIALIZING", "BUILDING", *["DEPLOYING"] * 2, *["SUCCESS"] * 2, "CRASHED"],
        ),
        ("build-fails", ["INITIALIZING", "BUILDING", "FAILED", "FAILED"]),
    ],
)
async def test_a_bad_release_is_followed_by_a_good_one_when_it_is_mended(
    place: Place, fault: str, statuses: list[str]
) -> None:
    place.stand_in.inject(fault)
    assert await place.states(len(statuses)) == statuses
    place.stand_in.mend(fault)
    assert (await place.states(5))[-1] == "SUCCESS"


async def test_throttling_and_lost_answers(place: Place) -> None:
    place.stand_in.inject("throttle")
    answer = await place.post("query { me { id } }")
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    place.stand_in.mend("throttle")
    stop = "mutation($d: String!) { deploymentStop(id: $d) }"
    one = (await place.latest())["latestDeployment"]["id"]
    place.stand_in.inject("problem")
    assert await place.error(stop, d=one) == "Problem processing request"
    place.stand_in.mend("problem")
    assert place.stand_in.log.read() == []
    place.stand_in.inject("lost-answer")
    with pytest.raises(httpx2.RemoteProtocolError):
        await place.post(stop, d=one)
    assert [line["effect"] for line in place.stand_in.log.read()] == ["deploymentStop"]


async def test_faults_that_there_are_not_are_refused(place: Place) -> None:
    for act in (place.stand_in.inject, place.stand_in.mend):
        with pytest.raises(KeyError):
            act("quota")
