"""The writes that rows play at systemd: `unit-stop-lost.service` is a unit that is stopped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tests.faults.writing import Writing


def _stopped(body: dict[str, Any], _name: str) -> bool:
    return bool(body["problem"] == "scaled_to_zero")


VERBS: Final[Mapping[str, str]] = {
    "restart": "restart_deployment",
    "stop": "stop_deployment",
    "start": "start_deployment",
}
WRITES: Final[Mapping[str, Writing]] = {
    f"unit-{verb}": Writing(
        part="units",
        tool=tool,
        more={},
        look="get_deployment",
        found=lambda body, name, verb=verb: _stopped(body, name) is (verb == "stop"),  # type: ignore[misc]
    )
    for verb, tool in VERBS.items()
}
