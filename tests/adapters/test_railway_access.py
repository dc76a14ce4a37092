"""Which tokens a Railway target takes, and what is done before it is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from mcp_ops.adapters.railway.adapter import RailwayAdapter
from mcp_ops.errors import ConfigurationError, Forbidden, Unauthenticated
from mcp_ops.lab.railway.world import ENVIRONMENT, OTHER_ENVIRONMENT, OTHER_PROJECT, PROJECT
from tests.kubernetes_lab import answering, wiring
from tests.railway_lab import ACCOUNT, BACKEND, FOREIGN, TOKEN, WORKSPACE, Lab, lab, settings

IDS = {"project_id": PROJECT, "environment_id": ENVIRONMENT}


async def test_a_project_token_says_itself_where_it_is_good(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        await place.platform.ping()
        assert (await place.platform.list_workloads(limit=20, cursor="")).items
        assert place.between.seen == ["Whose", "Overview"]
        assert all("authorization" not in each for each in place.between.headers)
        assert {each["project-access-token"] for each in place.between.headers} == {TOKEN}


@pytest.mark.parametrize(
    ("token", "said"),
    [(ACCOUNT, "one of an account"), (WORKSPACE, "one of a workspace")],
)
async def test_a_token_that_reaches_further_is_refused_before_anything_else(
    tmp_path: Path, token: str, said: str
) -> None:
    async with lab(tmp_path, token=SecretStr(token), **IDS) as place:
        for ask in (place.platform.ping(), place.platform.describe(BACKEND)):
            with pytest.raises(Forbidden, match=said) as raised:
                await ask
            assert "allow_broad_token" in raised.value.hint
        assert set(place.between.seen) <= {"Whose", "Account", "Workspaces"}
        assert place.effects() == []


@pytest.mark.parametrize("token", [ACCOUNT, WORKSPACE])
async def test_the_operator_can_allow_a_broad_token_for_one_place(
    tmp_path: Path, token: str
) -> None:
    more = {"token": SecretStr(token), "allow_broad_token": True}
    async with lab(tmp_path, **more, **IDS) as place:
        await place.platform.ping()
        assert (await place.platform.describe(BACKEND)).problem == "none"
        last = place.between.headers[-1]
        assert last["authorization"] == f"Bearer {token}"
        assert "project-access-token" not in last
    async with lab(tmp_path, **more) as place:
        with pytest.raises(ConfigurationError, match="needs project_id and environment_id"):
            await place.platform.ping()


async def test_a_broad_token_acts_on_nothing_outside_the_environment(tmp_path: Path) -> None:
    more = {"token": SecretStr(ACCOUNT), "allow_broad_token": True}
    elsewhere = {"project_id": OTHER_PROJECT, "environment_id": OTHER_ENVIRONMENT}
    async with lab(tmp_path, **more, **elsewhere) as place:
        assert (await place.platform.list_workloads(limit=20, cursor="")).items == []
    async with lab(tmp_path, **more, **IDS) as place:
        other = place.world.by_name("sync-worker").deployments[0].id
        with pytest.raises(Exception, match="no such deployment"):
            await place.platform.plan_rollback(BACKEND, other)


@pytest.mark.parametrize(
    "ids", [{"project_id": OTHER_PROJECT}, {"environment_id": OTHER_ENVIRONMENT}, IDS]
)
async def test_a_project_token_of_another_place_is_refused(
    tmp_path: Path, ids: dict[str, str]
) -> None:
    token = FOREIGN if ids is IDS else TOKEN
    async with lab(tmp_path, token=SecretStr(token), **ids) as place:
        with pytest.raises(Forbidden, match="another project or environment"):
            await place.platform.ping()
        assert place.between.seen == ["Whose"]


async def test_an_unknown_token_is_told_from_a_broad_one(tmp_path: Path) -> None:
    async with lab(tmp_path, token=SecretStr("who-is-this-0123456789"), **IDS) as place:
        with pytest.raises(Unauthenticated, match="does not know the token"):
            await place.platform.ping()


async def test_a_service_is_told_by_both_of_its_names(tmp_path: Path) -> None:
    async with lab(tmp_path, **IDS) as place:
        plan = await place.platform.plan_restart(BACKEND)
        assert plan.reaches == [f"{BACKEND}.{plan.values['service'].lower()}"]


async def test_a_token_that_became_another_one_changes_nothing_more(tmp_path: Path) -> None:
    """What the token is, is asked again right before every change."""
    moved = {
        "data": {"projectToken": {"projectId": OTHER_PROJECT, "environmentId": OTHER_ENVIRONMENT}}
    }
    async with lab(tmp_path, **IDS) as place:
        plan = await place.platform.plan_restart(BACKEND)
        place.between.inject("Whose", answering(200, moved))
        with pytest.raises(Forbidden):
            await place.platform.begin(plan, reason="now", call_id="c")
        place.between.inject("Whose", answering(200, moved))
        with pytest.raises(Forbidden):
            await place.platform.describe(BACKEND)
        assert place.effects() == []


@pytest.mark.parametrize("token", ["", "two words", "line\nbreak", "ümlaut"])
async def test_what_can_be_no_token_is_never_sent(tmp_path: Path, token: str) -> None:
    async with lab(tmp_path, token=SecretStr(token)) as place:
        with pytest.raises(Unauthenticated):
            await place.platform.ping()
        assert place.between.seen == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "http://railway.example/graphql/v2"},
        {"project_id": "../x"},
        {"environment_id": "a b"},
        {"max_replicas": 0},
        {"required_variables": {"api": ["a b"]}},
        {"document": "mutation {}"},
    ],
)
def test_settings_that_are_not_safe_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        settings("https://railway.example", **wrong)


async def test_the_token_is_never_told(tmp_path: Path) -> None:
    async def told(place: Lab) -> str:
        echo = {"errors": [{"message": f"what is {TOKEN}?", "extensions": {"code": "X"}}]}
        place.between.inject("Whose", answering(200, echo))
        with pytest.raises(Exception, match="Railway") as raised:
            await place.platform.ping()
        return f"{raised.value!r} {getattr(raised.value, 'said', '')}"

    async with lab(tmp_path) as place:
        assert TOKEN not in await told(place)
        options = settings(place.url)
        assert TOKEN not in repr(options)
        async with RailwayAdapter.open(options, wiring(tmp_path)):
            pass
