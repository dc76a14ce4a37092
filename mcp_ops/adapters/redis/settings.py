"""Settings of a target of kind `redis`."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from mcp_ops.adapter import AdapterSettings

Format = Literal["zset", "list", "stream", "hash"]
Key = Annotated[str, Field(min_length=1, max_length=500)]
_SCHEMES = frozenset({"redis", "rediss", "unix"})


class RedisSettings(AdapterSettings):
    """Where the queue is and how its items leave it. Times in seconds, sizes in bytes."""

    url: SecretStr = Field(description="redis://, rediss:// (TLS) or unix:// URL.")
    protocol: Literal[2, 3] = Field(2, description="RESP version.")
    connect_timeout_s: float = Field(5.0, gt=0, le=60, description="For a connection.")
    timeout_s: float = Field(10.0, gt=0, le=60, description="For one answer.")
    max_connections: int = Field(10, ge=1, le=100, description="At once.")
    format: Format = Field("zset", description="What the key holds.")
    key: Key = Field("oci:deadletter:queue", description="The queue.")
    stats_key: str = Field("oci:deadletter:stats", description="Its counters; empty: none.")
    newest: Literal["left", "right"] = Field(
        "left", description="At which end of a list producers push."
    )
    stream_field: Key = Field("data", description="The field of a stream entry with the item.")
    retry: Literal["endpoint", "requeue"] = Field(
        "endpoint", description="Call the linked endpoint, or move the item to requeue_key."
    )
    requeue_key: str = Field("", max_length=500, description="Where retried items go.")
    requeue_format: Format = Field("list", description="What requeue_key holds.")
    export_prefix: Key = Field(
        "mcp-ops:deadletter:export:", description="Keys of what was discarded."
    )
    retention_days: float = Field(7, gt=0, le=365, description="How long discarded items stay.")
    max_attempts: int = Field(10, ge=1, le=1000, description="Retries an item, then refused.")
    hold_s: float = Field(120, gt=0, le=3600, description="Longest retry of one item.")
    scan_items: int = Field(2_000, ge=10, le=20_000, description="Members read by one page.")
    find_items: int = Field(200_000, ge=100, description="Members looked through for an id.")
    item_bytes: int = Field(65_536, ge=1_024, le=1_048_576, description="Larger ones are not read.")

    @field_validator("url")
    @classmethod
    def _known_scheme(cls, url: SecretStr) -> SecretStr:
        if urlsplit(url.get_secret_value()).scheme not in _SCHEMES:
            raise ValueError("must begin with redis://, rediss:// or unix://")
        return url

    @model_validator(mode="after")
    def _requeue_elsewhere(self) -> RedisSettings:
        if self.retry == "requeue" and self.requeue_key in ("", self.key):
            raise ValueError("retry = requeue needs a requeue_key other than key")
        return self
