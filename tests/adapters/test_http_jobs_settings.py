"""What a configuration of jobs may say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mcp_ops.adapters.http_jobs.settings import HttpJobsSettings
from mcp_ops.errors import Conflict
from tests.adapters.http_jobs_stage import jobs, stage


@pytest.mark.parametrize(
    "change",
    [
        {"status": {"path": "/s", "running": "$.a =", "run_id": "$.id"}},
        {"status": {"path": "/s", "running": "$.a"}},
        {"status": {"path": "/s", "running": "", "run_id": "$.id"}},
        {"status": {"path": "s", "running": "$.a", "run_id": "$.id"}},
        {"status": {"path": "/s", "running": "$.a", "run_id": "id"}},
        {"trigger": {"path": "/t", "modes": {"a b": {}}}},
        {"trigger": {"path": "/t", "default_mode": "full"}},
        {"trigger": {"path": "/t", "body": {"a": "x" * 9_000}}},
        {"trigger": {"path": "/t", "idempotency_header": "a: b"}},
        {"too_long_s": 0},
    ],
)
def test_wrong_configuration_is_refused_at_the_start(change: dict[str, Any]) -> None:
    described = {**jobs()["sales"], **change}
    with pytest.raises(ValidationError):
        HttpJobsSettings(url="https://x.example", jobs={"sales": described})


async def test_job_that_may_run_in_parallel_is_left_to_the_service(tmp_path: Path) -> None:
    described = {**jobs(), "sales": {**jobs()["sales"], "parallel": True}}
    async with stage(tmp_path, jobs=described) as place:
        for call_id in ("call-1", "call-2"):
            plan = await place.scheduler.plan_run("sales", "full")
            if call_id == "call-1":
                await place.scheduler.begin(plan, reason="r", call_id=call_id)
        with pytest.raises(Conflict) as raised:
            await place.scheduler.begin(plan, reason="r", call_id="call-2")
        assert "lock is held" in raised.value.said
        assert place.effects() == ["sync-started"]


def test_secrets_need_tls_and_jobs_need_names() -> None:
    with pytest.raises(ValidationError):
        HttpJobsSettings(url="http://x.example", jobs=jobs(), token="t" * 20)
    with pytest.raises(ValidationError):
        HttpJobsSettings(url="https://x.example", jobs={"run/x": jobs()["sales"]})
    with pytest.raises(ValidationError):
        HttpJobsSettings(url="https://x.example", jobs={})
