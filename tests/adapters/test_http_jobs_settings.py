"""What a configuration of jobs may say."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from mcp_ops.adapters.http_jobs.settings import HttpJobsSettings
from tests.adapters.http_jobs_stage import jobs


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


def test_secrets_need_tls_and_jobs_need_names() -> None:
    with pytest.raises(ValidationError):
        HttpJobsSettings(url="http://x.example", jobs=jobs(), token="t" * 20)
    with pytest.raises(ValidationError):
        HttpJobsSettings(url="https://x.example", jobs={"run/x": jobs()["sales"]})
    with pytest.raises(ValidationError):
        HttpJobsSettings(url="https://x.example", jobs={})
