"""Answers in which anything may stand: tools say what they can, and raise errors of ours only."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from mcp_ops.adapters.kubernetes.adapter import KubernetesAdapter
from mcp_ops.adapters.kubernetes.workloads import parse_name
from mcp_ops.errors import InvalidInput, OpsError
from tests.kubernetes_lab import Lab, changed, lab

ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    2**63,
    1.5,
    "",
    "\x1b[31m\u202e",
    "9999-12-31T23:59:59Z",
    "0001-01-01T00:00:00Z",
    "a@b c@d",
    [],
    [[]],
    ["x", 1, None],
    {},
    {"a": {"b": [1]}},
)
ROUNDS = 12
Reading = Callable[[KubernetesAdapter], Awaitable[Any]]
READS: tuple[Reading, ...] = (
    lambda at: at.list_jobs(limit=20, cursor=""),
    lambda at: at.list_revisions("worker", limit=20, cursor=""),
    lambda at: at.list_revisions("statefulset/postgres", limit=20, cursor=""),
    lambda at: at.list_config("daemonset/agent", limit=20, cursor=""),
    lambda at: at.plan_rollback("worker", "1"),
    lambda at: at.plan_scale("worker", 3),
    lambda at: at.plan_autoscaling("api", 1, 2),
    lambda at: at.plan_resume("worker"),
    lambda at: at.plan_stop("worker"),
    lambda at: at.plan_start("worker"),
    lambda at: at.plan_resources("worker", memory="300Mi", cpu="", tier=""),
    lambda at: at.plan_config("worker", "A", value="b", value_ref="", overwrite=True),
    lambda at: at.plan_config("worker", "A", value="", value_ref="secret/a/b", overwrite=True),
    lambda at: at.plan_run("nightly-sync", ""),
    lambda at: at.plan_suspend("nightly-sync"),
    lambda at: at.plan_job_stop("reindex"),
)


def spoiled(dice: random.Random) -> Callable[[Any], None]:
    """Put something odd in a few places of an answer."""

    def spoil(answer: Any) -> None:
        for _ in range(dice.randint(1, 4)):
            place = answer
            while isinstance(place, dict | list) and place:
                keys = list(place) if isinstance(place, dict) else range(len(place))
                key = dice.choice(list(keys))
                inner = place[key]
                if not isinstance(inner, dict | list) or not inner or dice.random() < 0.15:
                    place[key] = dice.choice(ODD)
                    break
                place = inner

    return spoil


async def _read(place: Lab, dice: random.Random, read: Reading) -> None:
    faults = [changed(spoiled(dice)) for _ in range(6)]
    place.between.inject("GET", "/namespaces/", *faults)
    try:
        with anyio.fail_after(10):
            found = await read(place.platform)
        found.model_dump_json()
    except OpsError:
        return


async def test_odd_answers_are_never_an_accident(tmp_path: Path) -> None:
    dice = random.Random(7)
    async with lab(tmp_path) as place:
        for _ in range(ROUNDS):
            for read in READS:
                await _read(place, dice, read)
        place.between.inject("GET", "/namespaces/")
        assert (await place.platform.list_jobs(limit=20, cursor="")).items
        assert place.patches() == []


@pytest.mark.parametrize("name", ["a@b", "statefulset/a:b", "api/slots/x", "/api", "cronjob/x", ""])
def test_name_that_none_can_have_is_the_callers_mistake_and_none_of_the_server(name: str) -> None:
    """Counted as a failure of the server, a few of them would close the target for everybody."""
    with pytest.raises(InvalidInput):
        parse_name(name)
