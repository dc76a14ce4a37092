"""How a job is asked for, started and judged, as the configuration describes it."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator

from mcp_ops.adapter import AdapterSettings
from mcp_ops.adapters.http_jobs.expressions import (
    MAX_CHARS,
    Expression,
    Pointer,
    read_expression,
    read_pointer,
)
from mcp_ops.wire.http import check_url, checked_parts

_JOB = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9._]{0,100}[A-Za-z0-9])?")
_MODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")
_MAX_BODY = 8_192


def _plain_url(url: str) -> str:
    checked_parts(url)
    return url.rstrip("/")


def _expression(text: str) -> str:
    if text:
        read_expression(text)
    return text


def _pointer(text: str) -> str:
    if text:
        read_pointer(text)
    return text


def _body(value: dict[str, Any]) -> dict[str, Any]:
    try:
        size = len(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as exc:
        raise ValueError("must be what JSON can hold") from exc
    if size > _MAX_BODY:
        raise ValueError(f"must be at most {_MAX_BODY} bytes of JSON")
    return value


Path = Annotated[
    str,
    Field(pattern=r"^/[A-Za-z0-9._~/%-]*(\?[A-Za-z0-9._~/%=&+,:-]*)?$", max_length=500),
]
ExpressionText = Annotated[str, Field(max_length=MAX_CHARS), AfterValidator(_expression)]
PointerText = Annotated[str, Field(max_length=MAX_CHARS), AfterValidator(_pointer)]
Body = Annotated[dict[str, Any], AfterValidator(_body)]
Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class StatusSettings(_Part):
    """Where a job's state is read, and what in the answer tells it."""

    path: Path
    method: Literal["GET", "POST"] = "GET"
    running: ExpressionText = Field(min_length=1, description="Whether it runs now.")
    succeeded: ExpressionText = Field("", description="Whether its last run ended well.")
    failed: ExpressionText = Field("", description="Whether its last run ended badly.")
    suspended: ExpressionText = Field("", description="Whether its schedule is held.")
    stale: ExpressionText = Field("", description="Whether its result is too old.")
    run_id: PointerText = Field("", description="What names the newest run.")
    last_start: PointerText = Field("", description="When the newest run began.")
    last_success: PointerText = Field("", description="When a run last ended well.")
    problem: PointerText = Field("", description="What the job says of its failure.")

    @model_validator(mode="after")
    def _runs_differ(self) -> Self:
        if not (self.run_id or self.last_start or self.last_success):
            raise ValueError(
                "needs run_id, last_start or last_success: without any a new run cannot be told"
                " from the one before"
            )
        return self


class CallSettings(_Part):
    """A request that changes something, and what in its answer says that it was accepted."""

    path: Path
    method: Literal["POST", "PUT", "PATCH", "DELETE"] = "POST"
    body: Body | None = None
    accepted: ExpressionText = Field("", description="Of the answer; default: any 2xx.")


class TriggerSettings(CallSettings):
    """How a run is started."""

    modes: dict[str, Body] = Field(
        {}, max_length=20, description="For each mode what it adds to the body."
    )
    default_mode: str = Field("", description="The mode when none is asked for.")
    run_id: PointerText = Field("", description="What names the run, in the answer.")
    idempotency_header: str = Field(
        "",
        pattern=r"^([A-Za-z][A-Za-z0-9-]{0,60})?$",
        description="Only if the service starts one run per value of this header.",
    )

    @model_validator(mode="after")
    def _modes_make_sense(self) -> Self:
        if any(not _MODE.fullmatch(name) for name in self.modes):
            raise ValueError("names of modes are letters, digits, dots, dashes; at most 40")
        if self.default_mode and self.default_mode not in self.modes:
            raise ValueError("default_mode is not one of modes")
        return self


class JobSettings(_Part):
    """One job."""

    status: StatusSettings
    trigger: TriggerSettings | None = None
    cancel: CallSettings | None = Field(None, description="Ends the run.")
    suspend: CallSettings | None = Field(None, description="Holds the schedule.")
    resume: CallSettings | None = Field(None, description="Lets the schedule go on.")
    too_long_s: float = Field(
        3_600.0, gt=0, le=604_800, description="A run longer than this hangs."
    )
    schedule: str = Field("", max_length=100, description="Shown to people only.")
    parallel: bool = Field(False, description="Whether it may be started while it runs.")


class HttpJobsSettings(AdapterSettings):
    """Where the endpoints are, and the jobs behind them."""

    url: Annotated[str, AfterValidator(_plain_url)]
    jobs: dict[str, JobSettings] = Field(min_length=1, max_length=100)
    health_path: Path = "/health"
    token: SecretStr | None = Field(None, description="Bearer token; needs https.")
    headers: dict[str, SecretStr] = Field({}, description="Further headers; need https.")
    request_timeout_s: float = Field(
        25.0, gt=0, le=60, description="Longest wait for one answer, seconds."
    )

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.token or self.headers:
            check_url(self.url)
        if any(not _JOB.fullmatch(name) for name in self.jobs):
            raise ValueError(
                "names of jobs are letters, digits, dots and dashes inside; at most 102"
            )
        return self


def expression(text: str) -> Expression | None:
    """An expression that was checked before; None for none."""
    return read_expression(text) if text else None


def pointer(text: str) -> Pointer | None:
    """A path that was checked before; None for none."""
    return read_pointer(text) if text else None
