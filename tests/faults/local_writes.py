"""The writes that rows play at systemd and at plain processes, of which both have three.

`unit-stop-00` is the unit `unit-stop-00.service`, which is stopped; `cmd-stop-00` is a command.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tests.faults.writing import Writing

_TOOLS: Final[Mapping[str, str]] = {
    "restart": "restart_deployment",
    "stop": "stop_deployment",
    "start": "start_deployment",
}
# The run that a unit is in when the rows come to it.
FIRST_RUN: Final = "f1" * 16


def _stopped(body: dict[str, Any], _name: str) -> bool:
    return bool(body["problem"] == "scaled_to_zero")


def _runs(body: dict[str, Any], name: str) -> bool:
    return not _stopped(body, name)


def _again(body: dict[str, Any], _name: str) -> bool:
    """Whether a command runs for more than the first time."""
    return bool(body["revision"] not in (None, "run 1"))


def _another_run(body: dict[str, Any], _name: str) -> bool:
    return bool(body["revision"] != FIRST_RUN)


def _unit(verb: str) -> Writing:
    return Writing(
        part="units",
        tool=_TOOLS[verb],
        more={"name": "{name}.service"},
        look="get_deployment",
        looked=lambda name: {"name": f"{name}.service"},
        found={"restart": _another_run, "stop": _stopped, "start": _runs}[verb],
        method="POST",
        asks=f"/{{name}}/{verb}",
        looks="/{name}/show",
        meanwhile=("GET", "/{name}/show", 2),
    )


def _command(verb: str) -> Writing:
    return Writing(
        part="commands",
        tool=_TOOLS[verb],
        more={},
        look="get_deployment",
        found={"restart": _again, "stop": _stopped, "start": _runs}[verb],
        method="POST",
        asks=f"/{{name}}/{verb}",
        looks="/{name}/state",
        # The request itself is locked to what was looked at.
        meanwhile=("POST", f"/{{name}}/{verb}", 0),
        asks_again=True,
    )


WRITES: Final[Mapping[str, Writing]] = {
    **{f"unit-{verb}": _unit(verb) for verb in _TOOLS},
    **{f"cmd-{verb}": _command(verb) for verb in _TOOLS},
}
