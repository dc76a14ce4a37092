"""The records of the hot store as the scripts know them, and back.

Times are text in the scripts' JSON, so that nothing of them is rounded on the way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

import orjson

from mcp_ops.ports import (
    CircuitPhase,
    CircuitPolicy,
    CircuitState,
    Grant,
    Mode,
    ModeEntry,
    Partition,
    Rate,
    RateState,
)

TIMES = ("since", "expires_at", "opened_at", "retry_at")
Item = dict[str, Any]
_SKEW_S = 1.0


def dump(value: Any) -> bytes:
    """JSON; text that is no valid Unicode is made so."""
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:
        return orjson.dumps(_clean_all(value))


def clean(text: str) -> str:
    """Text as valid Unicode."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _clean_all(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, Mapping):
        return {key: _clean_all(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_clean_all(each) for each in value]
    return value


def item(record: ModeEntry | CircuitState | Grant | Partition, *, ahead: float, fact: str) -> Item:
    """A record with its times moved `ahead` seconds, and the name of its fact."""
    made: Item = {"fact": fact} if fact else {}
    for field in fields(record):
        value = getattr(record, field.name)
        if value is None:
            continue
        made[field.name] = repr(float(value) + ahead) if field.name in TIMES else value
    return made


class Reader:
    """Turns an answer's items into records, with their times in this process's clock.

    `at` is when the server answered, in this process's clock as well where the two are apart by
    more than a second: people and guard compare these times with their own.
    """

    def __init__(self, at_us: str, now: float) -> None:
        self._at = int(at_us) / 1e6
        ahead = self._at - now
        self.ahead = ahead if abs(ahead) > _SKEW_S else 0.0
        self.at = self._at - self.ahead

    def mode(self, raw: Item) -> ModeEntry:
        """An entry."""
        return ModeEntry(**{**self._known(raw, ModeEntry), "mode": Mode(raw["mode"])})

    def modes(self, raws: Iterable[Item]) -> tuple[ModeEntry, ...]:
        """Entries, by scope and source."""
        entries = (self.mode(raw) for raw in raws)
        return tuple(sorted(entries, key=lambda entry: (entry.scope, entry.source)))

    def circuit(self, raw: Item) -> CircuitState:
        """A circuit as it is to be understood now: a lost probe does not probe any more."""
        until = raw.get("probe_until")
        return CircuitState(
            **{
                **self._known(raw, CircuitState),
                "phase": CircuitPhase(raw["phase"]),
                "probing": until is not None and float(until) > self._at,
            }
        )

    def grant(self, raw: Item) -> Grant:
        """An elevation."""
        return Grant(**self._known(raw, Grant))

    def partition(self, raw: Item) -> Partition:
        """A partition's size."""
        return Partition(**self._known(raw, Partition))

    def _known(self, raw: Item, kind: type) -> Item:
        names = {field.name for field in fields(kind)}
        return {
            name: float(value) - self.ahead if name in TIMES else value
            for name, value in raw.items()
            if name in names
        }


def rates(requests: Iterable[Rate]) -> list[Item]:
    """Limits as the scripts charge them."""
    return [
        {
            "cost": rate.cost,
            "burst": rate.burst,
            "per_minute": rate.per_minute,
            "scaled": rate.scaled,
        }
        for rate in requests
    ]


def rate_states(requests: Iterable[Rate], found: Iterable[list[Any]]) -> tuple[RateState, ...]:
    """What the scripts say about each limit."""
    return tuple(
        RateState(
            name=rate.name,
            allowed=allowed,
            remaining=remaining,
            limit_per_minute=float(per_minute),
            retry_after_s=float(after),
        )
        for rate, (allowed, remaining, per_minute, after) in zip(requests, found, strict=True)
    )


def policy(of: CircuitPolicy) -> Item:
    """When a circuit opens."""
    return {field.name: getattr(of, field.name) for field in fields(of)}
