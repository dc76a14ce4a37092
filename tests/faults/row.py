"""A row of the matrix: its number, what is broken, how often, and the run that a row is given."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import anyio

from mcp_ops.adapters.azure.arm import request_id
from mcp_ops.clock import Clock
from mcp_ops.lab.postgres import Postgres
from mcp_ops.records import Entry
from tests.faults import books
from tests.faults.agents import HttpAgent, http_agent
from tests.faults.checker import LETTERS, Effect, Evidence, Letter, Verdict, check
from tests.faults.history import History
from tests.faults.servers import Server, server
from tests.faults.stage import CANARIES, STORE_KEY, Stage

Size = Literal["short", "long"]
# What a row of a long run begins no further round after: about 30 minutes for all rows.
BUDGET_S = 70.0
_LEASE_S = 30.0
# Files that hold the secrets on purpose: the configuration's references, the targets' own.
_SECRET_FILES = (
    "kubeconfig",
    "queue-url",
    "cluster",
    "queue/",
    "coordinator",
    "postgres/",
    "history",
)


class Looking(Protocol):
    """A client that can look at the target."""

    async def look(self, name: str) -> bool:
        """Whether the effect of this intent is there."""
        ...


@dataclass(kw_only=True)
class Run:
    """One run of a row: a seed, a directory, and what was found so far."""

    row: str
    seed: int
    directory: Path
    size: Size = "short"
    say: Callable[[str], None] = lambda text: None
    verdicts: list[Verdict] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    random: random.Random = field(init=False)
    budget_s: float = BUDGET_S
    begun: float = field(default_factory=time.monotonic)
    _runs: int = 0
    _histories: list[History] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(f"{self.row}:{self.seed}")

    def rounds(self, *, short: int, most: int) -> Iterator[int]:
        """Numbers of the rounds of a row: `short` of them; in a long run up to `most`, and none
        that begins after the time of the row is over."""
        for number in range(short if self.size == "short" else most):
            if number >= short and time.monotonic() - self.begun > self.budget_s:
                return
            yield number

    def place(self) -> Path:
        """A fresh directory for one more run of the fault."""
        self._runs += 1
        path = self.directory / f"{self._runs:04d}"
        path.mkdir(parents=True)
        return path

    def history(self, place: Path) -> History:
        """The history of a run in its directory."""
        made = History(place / "history.jsonl")
        self._histories.append(made)
        return made

    def close(self) -> None:
        """Close what an accident left open."""
        for history in self._histories:
            history.close()

    async def judge(
        self,
        history: History,
        place: Path,
        *,
        effects: list[Effect],
        states: tuple[str, ...] = ("state/state.db",),
        items: Mapping[str, int] | None = None,
        least_calls: int = 1,
        least_effects: int = 1,
        clock: Clock | None = None,
        shared: Postgres | None = None,
    ) -> Verdict:
        """Join the books of a run whose servers have ended, and remember what is wrong.

        The ledger is that of the files in `states`, or of the server in `shared`.
        """
        entries, operations, chain = [], {}, ""
        for state in states:
            found, problem = await books.ledger(place / state, clock)
            entries += found
            operations.update(books.operations(place / state))
            chain = chain or problem
        if shared is not None:
            entries, operations, chain = await books.shared(shared, STORE_KEY, place / "books")
        history.close()
        verdict = check(
            Evidence(
                history=history.lines,
                entries=entries,
                operations=operations,
                effects=_told(effects, entries),
                chain_problem=chain,
                items=items or {},
                texts=[
                    ("the ledger", repr(entries).encode()),
                    *books.texts(place, secret=_SECRET_FILES),
                ],
                canaries=CANARIES,
            )
        )
        self.verdicts.append(verdict)
        self.problems += verdict.problems(
            least_calls=least_calls,
            least_effects=least_effects,
            most_recovery_s=_RECOVERY_S[self.size],
        )
        return verdict

    def expect(self, holds: bool, what: str) -> None:
        """What a row asks beyond the zeros."""
        if not holds:
            self.problems.append(what)

    async def resolve(self, agent: Looking, history: History) -> None:
        """Look at the target for every intent whose outcome a client was told is unknown."""
        calls = {line["number"]: line for line in history.lines if line["kind"] == "call"}
        unknown = {
            calls[line["number"]]["intent"]
            for line in history.lines
            if line["kind"] == "answer" and line["body"].get("outcome") == "unknown"
        }
        async with anyio.create_task_group() as tasks:
            for intent in sorted(unknown - {""}):
                tasks.start_soon(agent.look, intent)

    async def settle(self, place: Path, state: str = "state/state.db") -> None:
        """Wait until no operation runs."""
        await books.settled(place / state, within_s=_LEASE_S)

    @asynccontextmanager
    async def served(
        self, stage: Stage, history: History, name: str = "s1", **options: Any
    ) -> AsyncIterator[tuple[Server, HttpAgent]]:
        """A server over HTTP and a client on it."""
        async with (
            server(stage, history, name, **options) as running,
            http_agent(running, history) as agent,
        ):
            yield running, agent


def _told(effects: list[Effect], entries: list[Entry]) -> list[Effect]:
    """The effects with the ids of calls: Azure is told a request's id that is made of one."""
    calls = {request_id(entry.call_id): entry.call_id for entry in entries}
    return [replace(each, call=calls.get(each.call, each.call)) for each in effects]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row of the matrix as code."""

    number: str
    fault: str
    run: Callable[[Run, Size], Awaitable[None]]
    # What it says is about time: it needs the machine for itself, and is left out of `make test`.
    alone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a row, as the table shows it."""

    row: str
    fault: str
    runs: int
    calls: int
    effects: int
    counts: Mapping[Letter, int]
    recovery_s: float
    recoveries: int
    seed: int
    seconds: float
    problems: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Zeros everywhere, and what the row asks beyond."""
        return not self.problems and not any(self.counts.values())


async def play(
    row: Row,
    *,
    size: Size,
    seed: int,
    directory: Path,
    say: Callable[[str], None],
    budget_s: float = BUDGET_S,
) -> Outcome:
    """Run a row; everything that it finds wrong is in the outcome, an accident is raised."""
    run = Run(row=row.number, seed=seed, directory=directory, size=size, say=say)
    run.budget_s = budget_s
    begun = time.monotonic()
    try:
        with anyio.fail_after(_LONGEST_S[size]):
            await row.run(run, size)
    finally:
        run.close()
    return Outcome(
        row=row.number,
        fault=row.fault,
        runs=len(run.verdicts),
        calls=sum(each.calls for each in run.verdicts),
        effects=sum(each.effects for each in run.verdicts),
        counts={letter: sum(v.count(letter) for v in run.verdicts) for letter in LETTERS},
        recovery_s=max((each.recovery_s for each in run.verdicts), default=0.0),
        recoveries=sum(each.recoveries for each in run.verdicts),
        seed=seed,
        seconds=time.monotonic() - begun,
        problems=tuple(run.problems),
    )


_LONGEST_S: Mapping[Size, float] = {"short": 240.0, "long": 3_600.0}
# A short run shares the machine with all other tests: only the long one says how fast it is.
_RECOVERY_S: Mapping[Size, float] = {"short": 120.0, "long": 10.0}
