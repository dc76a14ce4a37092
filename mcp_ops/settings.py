"""Typed, frozen settings. Defaults are the safe ones; unknown keys are start-up errors."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, model_validator

from mcp_ops.ports import Mode
from mcp_ops.settings_access import GrantSettings, IssuerSettings, MutualTlsSettings, Url
from mcp_ops.settings_base import Frozen
from mcp_ops.settings_telemetry import TelemetrySettings
from mcp_ops.settings_types import (
    AGENT_SCOPES,
    Environment,
    LongSecret,
    Name,
    Scope,
)

Requirement = Literal["none", "confirm", "approve", "deny"]
Profile = Literal["solo", "team", "strict"]

Link = Literal["secrets", "endpoint"]


def _moment(text: str) -> str:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ValueError("a time in RFC 3339 with an offset, such as 2026-12-24T18:00:00+01:00")
    return text


def _local_time(text: str) -> str:
    if not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d|24:00", text):
        raise ValueError("a local time such as 17:00, at most 24:00")
    return text


def _zone(text: str) -> str:
    from zoneinfo import ZoneInfo  # read at start only where a window needs it

    try:
        ZoneInfo(text)
    except (KeyError, ValueError, OSError):
        raise ValueError("a time zone by its name, such as Europe/Berlin or UTC") from None
    return text


def _calendar_file(text: str) -> str:
    if not text.startswith("file:") or len(text) == len("file:"):
        raise ValueError("a file with a calendar, such as file:freeze.ics")
    return text


def _scheme(*schemes: str) -> AfterValidator:
    def check(store: SecretStr) -> SecretStr:
        text = store.get_secret_value()
        if text != "sqlite" and not text.startswith(tuple(f"{each}://" for each in schemes)):
            raise ValueError(f'"sqlite", or a reference to a URL that starts with {schemes[0]}://')
        return store

    return AfterValidator(check)


HotUrl = Annotated[SecretStr, _scheme("redis", "rediss", "unix")]
LedgerUrl = Annotated[SecretStr, _scheme("postgresql", "postgres")]
Rfc3339 = Annotated[str, AfterValidator(_moment)]
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
LocalTime = Annotated[str, AfterValidator(_local_time)]
Zone = Annotated[str, AfterValidator(_zone)]
CalendarFile = Annotated[str, AfterValidator(_calendar_file)]


class CircuitSettings(Frozen):
    """When a target's circuit opens, and for how long."""

    threshold: int = Field(3, ge=1, le=100, description="Failures in a row that open it.")
    ratio: float = Field(0.5, gt=0, le=1, description="Share of failed calls that opens it.")
    minimum_calls: int = Field(10, ge=1, le=1000, description="Calls before the share counts.")
    window_s: float = Field(60, gt=0, le=3600, description="Window of the share, seconds.")
    open_s: float = Field(60, gt=0, le=3600, description="Seconds until one probe is let through.")


class LimitSettings(Frozen):
    """Rates, budgets and concurrency."""

    principal_per_minute: float = Field(60, gt=0, description="Calls a minute a principal.")
    metered_per_minute: float = Field(30, gt=0, description="Calls a minute a metered target.")
    writes_per_object: int = Field(3, ge=1, description="Writes on one object in 30 minutes.")
    writes_per_hour: int = Field(20, ge=1, description="Writes an hour a principal.")
    destroys_per_hour: int = Field(5, ge=1, description="Destroys an hour a principal.")
    runaway_refusals: int = Field(
        20, ge=3, le=1000, description="Refusals of one change in 10 minutes that stop its agent."
    )
    concurrent_per_target: int = Field(10, ge=1, le=1000, description="Calls at once a target.")
    bulkhead_wait_s: float = Field(2, ge=0, le=30, description="Wait for a free slot, seconds.")
    bulkhead_queue: int = Field(50, ge=0, le=1000, description="Calls in line for a slot.")
    read_timeout_s: float = Field(30, gt=0, le=60, description="Deadline of a read, seconds.")
    bulk_timeout_s: float = Field(60, gt=0, le=60, description="Deadline of a bulk read, seconds.")
    write_wait_s: float = Field(
        55, gt=0, le=55, description="Wait for a write before it answers a handle, seconds."
    )
    result_bytes: int = Field(16_384, ge=4_096, le=1_048_576, description="Size of a result.")
    read_attempts: int = Field(3, ge=1, le=5, description="Tries of a read that fails.")


class CacheSettings(Frozen):
    """Answers of reads that are given again, to the same principal."""

    tools: dict[str, Annotated[float, Field(gt=0, le=3600)]] = Field(
        default={}, description="Seconds, by the name of the tool."
    )


class UsageSettings(Frozen):
    """Thresholds in percent at which usage changes a target's mode."""

    restrict: float = Field(80, gt=0, le=100, description="Restrictive from here.")
    critical: float = Field(90, gt=0, le=100, description="Critical from here.")
    normal: float = Field(70, gt=0, le=100, description="Normal again below this.")
    poll_s: float = Field(60, ge=1, le=3600, description="Read usage so often while restricted.")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.normal < self.restrict <= self.critical:
            raise ValueError("normal below restrict, and restrict not above critical")
        return self


class FreezeWindow(Frozen):
    """Times in which writes are refused: once, on days of the week, or by a calendar.

    Once is `start` and `end`, RFC 3339 with offset. On days of the week is `days`, `from` and
    `to` in `timezone`; a `to` that is not later than `from` is on the next day. A `calendar` is an
    iCalendar file; `timezone` is then that of events which name none (UTC).
    """

    start: Rfc3339 | None = None
    end: Rfc3339 | None = None
    days: tuple[Day, ...] = ()
    begins: LocalTime | None = Field(None, alias="from")
    to: LocalTime | None = None
    timezone: Zone | None = None
    calendar: CalendarFile | None = None
    targets: tuple[str, ...] = Field(("*",), min_length=1, description="Globs over targets.")
    reason: str = Field("", description="Needed, except for a calendar, whose events have theirs.")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        once, weekly = (self.start, self.end), (self.days, self.begins, self.to)
        kinds = [any(once), any(weekly), self.calendar is not None]
        whole = all(once) if kinds[0] else all((*weekly, self.timezone)) or kinds[2]
        if sum(kinds) != 1 or not whole or (kinds[0] and self.timezone is not None):
            raise ValueError(
                "one of the three: start and end; days, from, to and timezone; or calendar"
            )
        if not self.reason and not kinds[2]:
            raise ValueError("a reason, which agents are told")
        return self

    @model_validator(mode="after")
    def _ends_after_start(self) -> Self:
        pair = self.start and self.end and (self.start, self.end)
        if pair and datetime.fromisoformat(pair[1]) <= datetime.fromisoformat(pair[0]):
            raise ValueError("an end that is later than the start")
        if self.begins == "24:00":
            raise ValueError("a from before 24:00")
        return self


class ProtectedObject(Frozen):
    """Objects that no agent changes: globs over target and object."""

    target: str = "*"
    object: str = "*"
    effects: tuple[Literal["write", "destroy"], ...] = ("write", "destroy")
    reason: str = "it is on the list of protected objects"


class PolicyRule(Frozen):
    """One rule; the first that matches wins. Empty fields match everything; globs are allowed."""

    tool: str = "*"
    effect: Literal["", "read", "write", "destroy"] = ""
    target: str = "*"
    environment: Literal["", "dev", "staging", "prod"] = ""
    principal: str = "*"
    require: Requirement
    expires_s: float = Field(900, gt=0, le=86_400, description="How long a question stays open.")
    execute_s: float = Field(900, gt=0, le=86_400, description="How long a yes can be used.")
    approvers: tuple[str, ...] = Field((), description="Globs over who may approve.")
    approvals: int = Field(1, ge=1, le=5, description="How many different people have to.")


class BreakGlassSettings(Frozen):
    """The operator's way past the guard in an emergency; without a key there is none."""

    key: LongSecret | None = Field(None, description="A reference: env:NAME or file:PATH.")


class GuardSettings(Frozen):
    """How the guard decides."""

    mode: Mode = Field(Mode.NORMAL, description="A floor that no agent can lower.")
    profile: Literal["", "solo", "team", "strict"] = Field(
        "", description="Built-in policy; empty: solo on stdio, team on HTTP."
    )
    enforcement: Literal["enforce", "shadow"] = Field(
        "enforce", description="shadow records what would have been refused and lets it pass."
    )
    confirm_fallback: Literal["client", "approve"] = Field(
        "client", description="On stdio, for clients that cannot ask."
    )
    hide_disabled_tools: bool = Field(
        False, description="List no tools that the modes in force refuse, and tell of changes."
    )
    limits: LimitSettings = LimitSettings()
    circuit: CircuitSettings = CircuitSettings()
    cache: CacheSettings = CacheSettings()
    usage: UsageSettings = UsageSettings()
    freeze: tuple[FreezeWindow, ...] = ()
    protected: tuple[ProtectedObject, ...] = ()
    break_glass: BreakGlassSettings = BreakGlassSettings()


class KeySettings(Frozen):
    """A static bearer key for HTTP."""

    name: Name
    key: LongSecret = Field(description="A reference: env:NAME or file:PATH.")
    scopes: tuple[Scope, ...] = AGENT_SCOPES
    host_confirms: bool = Field(
        False, description="The host asks its user before each call (Azure AI Foundry does)."
    )


class ServerSettings(Frozen):
    """How the server is reached."""

    transport: Literal["stdio", "sse", "http"] = "stdio"
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65_535)
    url: Url = Field("", description="The public address, such as https://ops.example.com.")
    allowed_hosts: tuple[str, ...] = Field(
        (), description="Further Host names, for a public name behind a proxy."
    )
    allowed_origins: tuple[str, ...] = Field((), description="Further browser origins.")
    workers: int = Field(1, ge=1, le=64, description="Processes that serve HTTP on one port.")
    sessions: bool = Field(
        True, description="Sessions of revisions before 2026-07-28; they live in one process."
    )
    require_key: bool = Field(
        False, description="Nobody gets in without a credential, also on loopback."
    )
    keys: tuple[KeySettings, ...] = ()
    issuers: tuple[IssuerSettings, ...] = ()
    mutual_tls: MutualTlsSettings | None = None
    grants: tuple[GrantSettings, ...] = ()

    @property
    def asks(self) -> bool:
        """Whether the configuration lets in nobody without a credential."""
        others = bool(self.keys or self.issuers)
        return self.require_key or others or self.mutual_tls is not None

    @model_validator(mode="after")
    def _addressed(self) -> Self:
        if self.issuers and not self.url:
            raise ValueError("a server.url where there are issuers: tokens are for that address")
        if self.url and urlsplit(self.url).path not in ("", "/"):
            raise ValueError("a server.url without a path")
        if len({each.iss for each in self.issuers}) < len(self.issuers):
            raise ValueError("one of server.issuers for each issuer")
        return self

    @model_validator(mode="after")
    def _several_workers(self) -> Self:
        if self.workers > 1 and self.transport == "stdio":
            raise ValueError(
                'for several workers transport = "http" or "sse": stdio has one client'
            )
        return self


class StoreSettings(Frozen):
    """Where the guard's state lives: a file of this machine, or stores that replicas share.

    A URL is a reference (env:NAME or file:PATH), since it holds a password.
    """

    hot: HotUrl = Field(
        SecretStr("sqlite"), description="Limits, modes, circuits: sqlite, or a Redis URL."
    )
    ledger: LedgerUrl = Field(
        SecretStr("sqlite"),
        description="Audit, approvals, operations: sqlite, or PostgreSQL's URL.",
    )
    key: LongSecret | None = Field(
        None, description="Seals a shared ledger and questions; one for all replicas, a reference."
    )
    question_keys: tuple[LongSecret, ...] = Field(
        (),
        description="Seal what clients carry back: the first seals, all open; references. "
        "Without any store.key does, or a key of the state directory.",
    )
    ledger_days: float = Field(
        90, ge=1, le=3_650, description="Lines of the ledger are kept so long."
    )
    ledger_mb: int = Field(
        1_024, ge=16, le=1_048_576, description="The oldest lines go when it is larger, MiB."
    )

    @property
    def bounds(self) -> dict[str, float]:
        """What the ledger keeps, in seconds and bytes."""
        size = self.ledger_mb * 1_048_576
        return {"ledger_s": self.ledger_days * 86_400, "ledger_bytes": size}

    @model_validator(mode="after")
    def _sealed(self) -> Self:
        if self.ledger.get_secret_value() != "sqlite" and self.key is None:
            raise ValueError("a store.key where store.ledger is shared: one for all replicas")
        return self


class ToolSettings(Frozen):
    """Which tools are published."""

    profile: Literal["core", "full"] = "core"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


class DeadLetterSettings(Frozen):
    """The embedded queue of this server's own failed operations."""

    retention_days: float = Field(7, gt=0, le=365)
    max_items: int = Field(10_000, ge=10, le=1_000_000)


class TargetSettings(Frozen):
    """One target: what every kind has, and the rest for the kind's own settings.

    `options` is validated by the adapter's `Settings` (`settings_options.resolve_options`).
    `links` are names of other targets. `origin` says where the target came from, for messages.
    """

    name: Name
    kind: str
    environment: Environment = "prod"
    metered: bool | None = None
    per_minute: float | None = Field(None, gt=0)
    concurrent: int | None = Field(None, ge=1, le=1000)
    partition: Name | None = None
    links: dict[Link, str] = {}
    options: dict[str, Any] = {}
    origin: str = ""


class Settings(Frozen):
    """Everything. `source` names the file it came from, for error messages; `notices` is what the
    operator should hear at start although it is no error; `rule_places` says of each policy rule
    in which file and line it stands."""

    source: str = ""
    notices: tuple[str, ...] = ()
    rule_places: tuple[str, ...] = ()
    state_dir: Path
    server: ServerSettings = ServerSettings()
    guard: GuardSettings = GuardSettings()
    policy: tuple[PolicyRule, ...] = ()
    policy_file: str = Field("", description="Rules, freeze windows, protections in their own.")
    store: StoreSettings = StoreSettings()
    tools: ToolSettings = ToolSettings()
    deadletters: DeadLetterSettings = DeadLetterSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    targets: tuple[TargetSettings, ...] = ()

    @property
    def base(self) -> Path:
        """The folder that relative paths of the configuration start from."""
        return Path(self.source).parent if self.source else Path.cwd()
