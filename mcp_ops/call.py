"""One tool call as a frozen record, and who makes it."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson
from pydantic import ValidationError

from mcp_ops.capabilities.base import Effect
from mcp_ops.errors import InvalidInput
from mcp_ops.reach import Reaches
from mcp_ops.redact import Redactor, named_as_secret
from mcp_ops.tool import ArgumentModel, Tool

Channel = Literal["stdio", "http", "cli"]
Answer = Literal["accept", "decline", "cancel"]

SCOPE_OF = {Effect.READ: "ops:read", Effect.WRITE: "ops:write", Effect.DESTROY: "ops:destroy"}
FINGERPRINT = "fingerprint:"
_NOT_IN_DIGEST = frozenset({"reason", "idempotency_key", "dry_run"})
_MOST_PROBLEMS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a person is asked before a write. `digest` binds the answer to exactly this call."""

    id: str
    kind: Literal["confirm", "approve"]
    message: str
    digest: str


Ask = Callable[[Question], Awaitable[Answer | None]]


class NeedsAnswer(Exception):
    """The call ends here with a question; the client calls again with the answer."""

    expected = True  # no error in a trace

    def __init__(self, question: Question) -> None:
        super().__init__(question.id)
        self.question = question


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who calls, over what, and how they can be asked.

    `ask` asks within the call (elicitation of the session-based revisions, or a terminal);
    `asks_by_result` means that `NeedsAnswer` reaches the client as an `InputRequiredResult`;
    `answered` is the question id and the answer that came with this call, out of sealed state.
    `progress` reports how far a long call is; it never raises. `break_glass` is set by the
    command line alone, for an operator who has shown that credential: what would refuse the call
    is passed by, and recorded. `reach` is where the scopes hold, everywhere where it is empty.
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
    break_glass: bool = False
    reach: Reaches = ()


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
        return Effect.READ if self.dry_run else self.wanted

    @property
    def wanted(self) -> Effect:
        """The effect that the call would have if it were no dry run."""
        tool = self.tool
        return tool.effect_of(dict(self.arguments)) if tool.destroys_when else tool.effect

    @property
    def breaks_glass(self) -> bool:
        """Whether an operator at the command line has shown the credential for emergencies."""
        return self.caller.break_glass and self.caller.channel == "cli"

    @property
    def binding(self) -> str:
        """What a person's answer is for: a yes to a plan is none to the write itself."""
        return f"plan:{self.digest}" if self.dry_run else self.digest

    @property
    def operation_key(self) -> str:
        """Under which key the write runs at most once. Keys of ours, for the calls that a call
        makes, are apart from those that a caller may choose."""
        if self.idempotency_key:
            kind = "retry" if self.parent else "key"
            return f"{self.caller.principal}|{kind}|{self.idempotency_key}"
        return f"{self.caller.principal}|digest|{self.digest}"


def parse(
    tool: Tool,
    raw: dict[str, Any],
    *,
    caller: Caller,
    call_id: str,
    targets: tuple[str, ...],
    parent: str = "",
    approved_by: str = "",
) -> Call:
    """Typed values out of what a client sent; raises `InvalidInput` that names field and rule.

    `targets` are those that the tool may be called with: for a tool on the server itself the ones
    that its `target` argument may name, otherwise those that have the capability.
    """
    fields = dict(raw)
    target = "" if tool.own else choose_target(fields.pop("target", ""), targets)
    try:
        arguments = tool.arguments.model_validate(_without_most_unknown(fields, tool))
    except ValidationError as error:
        raise invalid_arguments(error, tool) from None
    values = vars(arguments)
    _no_secret(tool, values)
    about = str(values.get("target", "")) if tool.own else ""
    if about and about not in targets:
        # "all" is a word only of tools that take it by default.
        every = ("all",) if tool.default_of("target") == "all" else ()
        if about not in every:
            raise _no_target((*targets, *every))
    return Call(
        id=call_id,
        tool=tool,
        target=target,
        arguments=arguments,
        caller=caller,
        digest=digest_of(
            tool.name, target, {k: v for k, v in values.items() if k not in tool.manner}
        ),
        about="" if about == "all" else about,
        object=tool.object_of(arguments),
        reason=str(values.get("reason", "")),
        dry_run=values.get("dry_run") is True,
        idempotency_key=str(values.get("idempotency_key", "")),
        parent=parent,
        approved_by=approved_by,
    )


def _no_secret(tool: Tool, values: dict[str, Any]) -> None:
    """Refuse what is named as a secret where none may pass: before anything of it is kept."""
    for name, by in tool.named_by.items():
        if values[name] and named_as_secret(str(values[by])):
            rule = f"must not be a secret, and {by} is named as one"
            raise InvalidInput(
                f"{name}: {rule}.",
                hint="Keep it where the target keeps its secrets, and pass a reference to it.",
                details={"fields": [{"field": name, "rule": rule}]},
            )


def _without_most_unknown(fields: dict[str, Any], tool: Tool) -> dict[str, Any]:
    """The arguments with at most ten unknown ones: each that is found wrong takes time, in which
    everybody waits, and no more than ten are named."""
    known = tool.fields
    if len(fields) <= len(known):
        return fields
    more = set(list(fields.keys() - known.keys())[_MOST_PROBLEMS:])
    return {name: value for name, value in fields.items() if name not in more}


def choose_target(asked: Any, targets: tuple[str, ...]) -> str:
    if asked == "" and len(targets) == 1:
        return targets[0]
    if asked == "" and targets:
        raise _no_target(targets, "is required: several targets have this tool")
    if not isinstance(asked, str) or asked not in targets:
        raise _no_target(targets)
    return asked


def _no_target(
    targets: tuple[str, ...], rule: str = "must be one of the configured targets"
) -> InvalidInput:
    return InvalidInput(
        f"target: {rule}.",
        hint=f"One of: {', '.join(targets[:20])}.",
        details={"fields": [{"field": "target", "rule": rule}]},
    )


_RULES = {
    "missing": "is required",
    "extra_forbidden": "is not an argument of this tool",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "list_type": "must be a list",
    "finite_number": "must be a finite number",
    "string_unicode": "must be valid Unicode text",
}


def invalid_arguments(error: ValidationError, tool: Tool) -> InvalidInput:
    """What is wrong with the arguments, by field and rule; never the value."""
    known = set(tool.fields)
    problems: list[dict[str, str]] = []
    for item in error.errors(include_url=False, include_input=False, include_context=True)[
        :_MOST_PROBLEMS
    ]:
        path = [str(part) for part in item["loc"]]
        # An unknown argument's name is the caller's text: it may be a value in the wrong place.
        name = ".".join(path) if path and path[0] in known else "an unknown argument"
        problems.append({"field": name[:100], "rule": _rule(item["type"], item.get("ctx") or {})})
    words = "; ".join(f"{p['field']}: {p['rule']}" for p in problems)
    return InvalidInput(
        f"{words}.",
        hint=f"Arguments of {tool.name}: {', '.join(sorted(known))}.",
        details={"fields": problems},
    )


def _rule(kind: str, context: dict[str, Any]) -> str:
    if kind in _RULES:
        return _RULES[kind]
    bounds = {
        "greater_than_equal": "must be at least {ge}",
        "less_than_equal": "must be at most {le}",
        "string_too_short": "must have at least {min_length} characters",
        "string_too_long": "must have at most {max_length} characters",
        "string_pattern_mismatch": "must match {pattern}",
        "too_long": "must have at most {max_length} items",
        "too_short": "must have at least {min_length} items",
        "literal_error": "must be one of {expected}",
    }
    template = bounds.get(kind)
    return template.format(**context) if template else "is not valid"


# Made in advance: each look at the system's randomness gives the interpreter's lock to another
# thread. No child process may have the same.
_ID_DIGITS, _IDS_AT_ONCE = 16, 256
_ids: list[str] = []
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_ids.clear)


def new_id() -> str:
    """An id for a call, an approval or an operation: short enough to say aloud, never reused."""
    try:
        return _ids.pop()
    except IndexError:
        many = secrets.token_hex(_ID_DIGITS * _IDS_AT_ONCE // 2)
        made = [many[at : at + _ID_DIGITS] for at in range(0, len(many), _ID_DIGITS)]
        _ids.extend(made[1:])
        return made[0]


def digest_of(tool: str, target: str, arguments: dict[str, Any]) -> str:
    """What identifies a call: tool, target and effective arguments; not reason, key or dry run."""
    effective = {k: v for k, v in arguments.items() if k not in _NOT_IN_DIGEST}
    body = orjson.dumps([tool, target, effective], option=orjson.OPT_SORT_KEYS, default=str)
    return hashlib.sha256(body).hexdigest()


def shown_digest(call: Call, redactor: Redactor) -> str:
    """The digest as it may be exported. One of sensitive values is keyed: beside all the other
    arguments it would tell whoever tries likely values that they found the right one."""
    return redactor.fingerprint(call.digest) if call.tool.sensitive else call.digest


def shown_arguments(call: Call, redactor: Redactor) -> dict[str, Any]:
    """The arguments as people and the ledger may see them: sensitive ones by keyed fingerprint."""
    return {
        name: FINGERPRINT + redactor.fingerprint(str(value), of=name)
        if name in call.tool.sensitive
        else value
        for name, value in call.arguments.model_dump().items()
        if value not in ("", []) or name in ("reason",)
    }
