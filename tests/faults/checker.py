"""The checker: joins history, ledger and effect logs, and counts what must never happen.

L  lost          reported done and no effect; unknown and never resolved; an item in no place
D  duplicate     more than one effect for one intent, one operation, one approval or one item
U  unauthorised  an effect without a recorded intent, or of a call that was refused
A  audit gap     a call without its one terminal record, an operation without an end, a bad chain
H  hung          no answer by the deadline though client, server and connection lived
X  leaked        a canary secret in an answer, a log line, the ledger or a file of the state

It knows nothing of the guard: it reads three books that were kept apart and says where they
disagree. A run that saw too little fails as well: zeros out of nothing prove nothing.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mcp_ops.records import Entry
from mcp_ops.stores.floods import closes

Letter = Literal["L", "D", "U", "A", "H", "X"]
LETTERS: tuple[Letter, ...] = ("L", "D", "U", "A", "H", "X")
DONE = frozenset({"verified", "unconfirmed"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """One effect, by a stand-in's log. `call` is the operation that the target was told of, where
    it is told one; `intent` what the client wanted, by the object that was touched."""

    intent: str
    call: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that must not have happened."""

    letter: Letter
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The books of one run.

    `operations` are the states of all operations by id. `items` says for each item of a queue in
    how many places it was found at the end (its queue, done, or set aside): one is right.
    `texts` are all bytes that left the server or lie in its state, by where they were found.
    """

    history: list[dict[str, Any]]
    entries: list[Entry] = field(default_factory=list)
    operations: Mapping[str, str] = field(default_factory=dict)
    effects: list[Effect] = field(default_factory=list)
    chain_problem: str = ""
    items: Mapping[str, int] = field(default_factory=dict)
    texts: Iterable[tuple[str, bytes]] = ()
    canaries: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the checker says about a run."""

    calls: int
    effects: int
    findings: tuple[Finding, ...]
    recovery_s: float
    recoveries: int

    def count(self, letter: Letter) -> int:
        """How many findings there are of a kind."""
        return sum(finding.letter == letter for finding in self.findings)

    def problems(
        self, *, least_calls: int, least_effects: int, most_recovery_s: float
    ) -> list[str]:
        """Why the run is no proof; empty when it is one."""
        found = [f"{each.letter}: {each.what}" for each in self.findings]
        if self.calls < least_calls:
            found.append(f"too little: {self.calls} calls of at least {least_calls}")
        if self.effects < least_effects:
            found.append(f"too little: {self.effects} effects of at least {least_effects}")
        if self.recovery_s > most_recovery_s:
            found.append(f"recovery took {self.recovery_s:.1f} s")
        return found


def check(evidence: Evidence) -> Verdict:
    """Count everything that went wrong in a run."""
    books = _Books(evidence)
    findings = [
        *books.lost(),
        *books.missing(),
        *books.duplicates(),
        *books.unauthorised(),
        *books.gaps(),
        *books.hung(),
        *books.leaked(),
    ]
    recovered = [line["seconds"] for line in evidence.history if line["kind"] == "recovered"]
    return Verdict(
        calls=len(books.calls) + sum(line["kind"] == "hostile" for line in evidence.history),
        effects=len(evidence.effects),
        findings=tuple(findings),
        recovery_s=max(recovered, default=0.0),
        recoveries=len(recovered),
    )


class _Books:
    """The three books, joined."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self.calls = {each["number"]: each for each in self._lines("call")}
        self.answers = {each["number"]: each for each in self._lines("answer")}
        self.by_intent = Counter(each.intent for each in evidence.effects)
        self.by_call = Counter(each.call for each in evidence.effects if each.call)
        self.began = [entry for entry in evidence.entries if entry.kind == "began"]
        self.ended: dict[str, list[Entry]] = defaultdict(list)
        for entry in evidence.entries:
            if entry.kind == "ended":
                for call_id in closes(entry):  # a flood of refusals shares lines
                    self.ended[call_id].append(entry)

    def _lines(self, kind: str) -> list[dict[str, Any]]:
        return [line for line in self.evidence.history if line["kind"] == kind]

    def lost(self) -> Iterable[Finding]:
        """Done and not done; unknown for good."""
        looks = {line["intent"]: line for line in self._lines("look")}
        for number, answer in self.answers.items():
            intent, body = self.calls[number]["intent"], answer["body"]
            if not intent or answer["error"]:
                continue
            outcome, there = body.get("outcome"), self.by_intent[intent] > 0
            if outcome in DONE and not there:
                yield Finding(letter="L", what=f"call {number} ({intent}) {outcome}, no effect")
            if outcome == "unknown" and intent not in looks:
                yield Finding(letter="L", what=f"call {number} ({intent}) unknown, never resolved")
        for intent, look in looks.items():
            if look["found"] != (self.by_intent[intent] > 0):
                yield Finding(letter="L", what=f"a look for {intent} said {look['found']}")

    def missing(self) -> Iterable[Finding]:
        """Items of a queue that are in no place."""
        for item, places in self.evidence.items.items():
            if places == 0:
                yield Finding(letter="L", what=f"item {item} is nowhere")

    def duplicates(self) -> Iterable[Finding]:
        """One thing twice."""
        for name, counted in (("intent", self.by_intent), ("operation", self.by_call)):
            for key, count in counted.items():
                if count > 1:
                    yield Finding(letter="D", what=f"{name} {key} has {count} effects")
        used = Counter(_approval_of(one) for one in self.began)
        for approval, count in used.items():
            if approval and count > 1:
                yield Finding(letter="D", what=f"approval {approval} was used {count} times")
        for item, places in self.evidence.items.items():
            if places > 1:
                yield Finding(letter="D", what=f"item {item} is in {places} places")

    def unauthorised(self) -> Iterable[Finding]:
        """Effects that nobody wrote down the intent of, or that were refused."""
        intents = {one.call_id for one in self.began if not one.dry_run}
        wanted = {call["intent"] for call in self.calls.values()} | set(self.evidence.items)
        for effect in self.evidence.effects:
            if effect.call and effect.call not in intents:
                yield Finding(letter="U", what=f"{effect.intent}: no intent for {effect.call}")
            if effect.intent not in wanted:
                yield Finding(letter="U", what=f"{effect.intent}: nobody asked for it")
        refused = self._refused()
        for intent in refused:
            if self.by_intent[intent]:
                yield Finding(letter="U", what=f"{intent} was refused each time, and done")

    def _refused(self) -> set[str]:
        """Intents of which each call was answered, and each answer was that nothing ran."""
        said: dict[str, list[bool]] = defaultdict(list)
        for number, call in self.calls.items():
            answer = self.answers.get(number)
            no = answer is not None and answer["error"]
            no = no and answer is not None and answer["body"].get("executed") == "no"
            if call["intent"]:
                said[call["intent"]].append(no)
        return {intent for intent, noes in said.items() if all(noes)}

    def gaps(self) -> Iterable[Finding]:
        """What the ledger does not tell."""
        for one in self.began:
            if len(self.ended[one.call_id]) != 1:
                many = len(self.ended[one.call_id])
                yield Finding(letter="A", what=f"{one.tool} {one.call_id} ended {many} times")
        for call_id, ends in self.ended.items():
            if len(ends) > 1 and all(one.call_id != call_id for one in self.began):
                yield Finding(letter="A", what=f"call {call_id} has {len(ends)} terminal records")
        for operation, state in self.evidence.operations.items():
            if state not in ("done", "unknown"):
                yield Finding(letter="A", what=f"operation {operation} is {state} for good")
        yield from self._unrecorded()
        if self.evidence.chain_problem:
            yield Finding(letter="A", what=f"the chain: {self.evidence.chain_problem}")

    def _unrecorded(self) -> Iterable[Finding]:
        """Answers whose call is not in the ledger. A read or a refusal is written within a second:
        where the server was killed the last second's may be missing, a write's never."""
        killed = {line["server"] for line in self._lines("killed")}
        for number, answer in self.answers.items():
            audit = answer["body"].get("audit_id", "")
            excused = answer["error"] and self.calls[number]["server"] in killed
            if audit and not excused and not self.ended[audit]:
                if self.evidence.operations.get(audit, "") == "running":
                    continue  # counted as an operation without an end
                yield Finding(letter="A", what=f"call {number} is not in the ledger as {audit}")
        if not killed:
            closed = sum(len(ends) for ends in self.ended.values())
            if closed < len(self.answers):
                what = f"{len(self.answers)} answers, {closed} terminal records"
                yield Finding(letter="A", what=what)

    def hung(self) -> Iterable[Finding]:
        """Calls that waited in vain."""
        for line in self._lines("hung"):
            call = self.calls[line["number"]]
            yield Finding(letter="H", what=f"call {line['number']} of {call['tool']} hung")

    def leaked(self) -> Iterable[Finding]:
        """Canaries outside their cage."""
        told = json.dumps([each["body"] for each in self.answers.values()], default=str)
        texts = [("an answer", told.encode()), *self.evidence.texts]
        for canary in self.evidence.canaries:
            for where, text in texts:
                if canary.encode() in text:
                    yield Finding(letter="X", what=f"{canary[:4]}… is in {where}")


def _approval_of(entry: Entry) -> str:
    """The question of a person that the write used up, or nothing."""
    how, _, rest = entry.approval.partition(" ")
    return rest.partition(" ")[0] if how in ("approve", "confirm") else ""
