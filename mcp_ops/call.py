"""One tool call as a frozen record, and who makes it."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from mcp_ops.capabilities.base import Effect
from mcp_ops.redact import fingerprint
from mcp_ops.tool import ArgumentModel, Tool

Channel = Literal["stdio", "http", "cli"]
Answer = Literal["accept", "decline", "cancel"]

SCOPE_OF = {Effect.READ: "ops:read", Effect.WRITE: "ops:write", Effect.DESTROY: "ops:destroy"}
_NOT_IN_DIGEST = frozenset({"reason", "idempotency_key", "dry_run"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a person is asked before a write. `digest` binds the answer to exactly this call."""

    id: str
    message: str
    digest: str


Ask = Callable[[Question], Awaitable[Answer]]


class NeedsAnswer(Exception):
    """The call ends here with a question; the client calls again with the answer."""

    def __init__(self, question: Question) -> None:
        super().__init__(question.id)
        self.question = question


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who calls, over what, and how they can be asked.

    `ask` asks within the call (elicitation of the session-based revisions, or a terminal);
    `asks_by_result` means that `NeedsAnswer` reaches the client as an `InputRequiredResult`;
    `answered` is the question id and the answer that came with this call, out of sealed state.
    `progress` reports how far a long call is; it never raises.
    """

    principal: str
    scopes: frozenset[str]
    channel: Channel
    client: str = ""
    era: str = ""
    ask: Ask | None = None
    asks_by_result: bool = False
    answered: tuple[str, Answer] | None = None
    client_confirms: bool = False
    trace_id: str = ""
    progress: Callable[[float, float, str], Awaitable[None]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A parsed call. `target` is empty for tools on the server itself; `about` is the target
    that such a tool speaks of. `parent` is the id of the call that made this one."""

    id: str
    tool: Tool
    target: str
    arguments: ArgumentModel
    caller: Caller
    digest: str
    about: str = ""
    object: str = ""
    reason: str = ""
    dry_run: bool = False
    idempotency_key: str = ""
    parent: str = ""
    approved_by: str = field(default="")

    @property
    def effect(self) -> Effect:
        """The effect of this call: a dry run counts as a read."""
        return Effect.READ if self.dry_run else self.tool.effect

    @property
    def operation_key(self) -> str:
        """Under which key the write runs at most once."""
        if self.idempotency_key:
            return f"{self.caller.principal}|key|{self.idempotency_key}"
        return f"{self.caller.principal}|digest|{self.digest}"


def new_id() -> str:
    """An id for a call, an approval or an operation: short enough to say aloud, never reused."""
    return secrets.token_hex(8)


def digest_of(tool: str, target: str, arguments: dict[str, Any]) -> str:
    """What identifies a call: tool, target and effective arguments; not reason, key or dry run."""
    effective = {k: v for k, v in arguments.items() if k not in _NOT_IN_DIGEST}
    body = orjson.dumps([tool, target, effective], option=orjson.OPT_SORT_KEYS, default=str)
    return hashlib.sha256(body).hexdigest()


def shown_arguments(call: Call) -> dict[str, Any]:
    """The arguments as people and the ledger may see them: secrets by fingerprint only."""
    return {
        name: f"fingerprint:{fingerprint(value)}" if name in call.tool.sensitive else value
        for name, value in call.arguments.model_dump().items()
        if value not in ("", []) or name in ("reason",)
    }
