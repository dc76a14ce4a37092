"""What a tool is: one typed function that a model may call, and its public contract.

`@tool(effect=…)` reads the function's signature. The first parameter is a capability (the server
injects the adapter of the chosen target) or a port of the server itself; `Linked[…]` parameters
are further targets that the configuration links; a `Write` parameter is the frame of a write;
the rest are the arguments that the model fills in. Everything else is computed from that.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, get_args, get_origin

import anyio
import orjson
from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.fields import FieldInfo

from mcp_ops.capabilities.base import Effect, Result, WriteResult
from mcp_ops.params import Manner, NamedBy, ObjectName, Sensitive
from mcp_ops.ports import Port
from mcp_ops.schema import ToolSchemas, input_schema, output_schema, shipped_schemas

C_co = TypeVar("C_co", covariant=True)
T = TypeVar("T")
Mark = TypeVar("Mark")

_BULK_TIMEOUT_S = 60.0
_READ_TIMEOUT_S = 30.0
_WRITE_TIMEOUT_S = 300.0


class Linked(Protocol[C_co]):
    """Another target that this one needs; each use passes the guard as a sub-call."""

    @property
    def name(self) -> str:
        """The linked target's name."""
        ...

    async def use(
        self, action: Callable[[C_co], Awaitable[T]], *, effect: Effect = Effect.READ
    ) -> T:
        """Run one action on the linked target, under its own limits and circuit."""
        ...


class Interrupted(Exception):
    """A write of many steps stops between two of them, and another process goes on with it."""


class Steps(Protocol):
    """How a write of many steps survives its process: what it works on, and where it is."""

    @property
    def before(self) -> str:
        """The last `at` of the process that worked on it before; empty on the first run."""
        ...

    @property
    def age_s(self) -> float:
        """Seconds since the write began, where another process goes on with it; else 0."""
        ...

    async def pin(self, text: str) -> str:
        """Durably keep what the write works on; on a later run the text of the first one."""
        ...

    async def at(self, where: str) -> None:
        """Durably say where the write is, before its next step. Raises `Interrupted` when the
        step belongs to another process now."""
        ...

    async def lease(self, name: str) -> int:
        """Be the only one that works on something; answers the fencing token that its target must
        hold against an older one. Raises `Conflict` while another write holds it."""
        ...


class OneRun:
    """The steps of a write that is not resumed, and of a plan."""

    before = ""
    age_s = 0.0

    async def pin(self, text: str) -> str:
        """The text."""
        return text

    async def at(self, where: str) -> None:
        """Nothing to keep."""

    async def lease(self, name: str) -> int:
        """No token."""
        return 0


def _unseen(_state: Mapping[str, Any], _items: tuple[str, ...] | None) -> None:
    """Nobody is asked: what a plan saw is for nobody."""


def _as_approved(_state: Mapping[str, Any]) -> bool:
    """Nobody had to approve it."""
    return True


def _unguarded(_others: Sequence[str] | None) -> None:
    """Nothing is protected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """The frame of a write, for the tool: why, plan or act, and how to say how far it is.

    `cancelled` is asked between items; a cancelled write stops there. `pause` waits that many
    seconds for an effect to show: a tool waits through it alone and counts what it waited.
    `steps` is for tools that are `resumable`.

    A plan tells through `saw` what a person has to know of the target: its state without times and
    ages (a change of it asks anew) and the items that a selection means. `pinned` are those of
    them that a person approved: the write touches no others. `approved` tells whether a state is
    the one that a person approved, or nobody had to: what was planned anew may be another one.
    `reaches` is told which other objects a planned change would change, too (None: it can't be
    seen), and raises `Refused` where one of them is protected.
    """

    reason: str
    dry_run: bool
    call_id: str
    principal: str
    progress: Callable[[int, int, str], None]
    cancelled: Callable[[], bool]
    pause: Callable[[float], Awaitable[None]] = anyio.sleep
    steps: Steps = field(default_factory=OneRun)
    saw: Callable[[Mapping[str, Any], tuple[str, ...] | None], None] = _unseen
    pinned: tuple[str, ...] | None = None
    approved: Callable[[Mapping[str, Any]], bool] = _as_approved
    reaches: Callable[[Sequence[str] | None], None] = _unguarded


class ArgumentModel(BaseModel):
    """Base of the generated argument models: strict, closed, frozen, finite numbers only."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        defer_build=True,
        protected_namespaces=(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A tool's definition and policy: what `tool_schemas/` holds a snapshot of."""

    name: str
    title: str
    description: str
    effect: Effect
    bulk: bool
    recovery: bool
    idempotent: bool
    resumable: bool
    cost: int
    timeout_s: float
    function: Callable[..., Awaitable[Result]]
    capability: type
    injected: str
    links: Mapping[str, type]
    ports: Mapping[str, type]
    write_parameter: str
    arguments: type[ArgumentModel]
    result: type[Result]
    object_field: str
    sensitive: frozenset[str]
    named_by: Mapping[str, str]
    manner: frozenset[str] = frozenset()
    destroys_when: Mapping[str, Any] = field(default_factory=dict)

    def effect_of(self, arguments: Mapping[str, Any]) -> Effect:
        """The effect with these arguments: some values make a write destroy something."""
        if any(arguments.get(name) == value for name, value in self.destroys_when.items()):
            return Effect.DESTROY
        return self.effect

    @property
    def effect_in_words(self) -> str:
        """The effect, and with which arguments it is a worse one."""
        worse = [
            f"{self.effect_of({name: value})} with {name}={orjson.dumps(value).decode()}"
            for name, value in self.destroys_when.items()
        ]
        return ", ".join([self.effect.value, *worse])

    @property
    def input_schema(self) -> Mapping[str, Any]:
        """The schema of the arguments, without `target`."""
        return input_schema(self.arguments)

    @property
    def output_schema(self) -> Mapping[str, Any]:
        """The schema of the result."""
        return output_schema(self.result)

    @property
    def fields(self) -> Mapping[str, FieldInfo]:
        """The arguments by name."""
        return self.arguments.__pydantic_fields__  # pydantic's property takes a microsecond

    @property
    def own(self) -> bool:
        """Whether the tool acts on the server itself: it has no `target` of its own."""
        return is_port(self.capability)

    def object_of(self, arguments: ArgumentModel) -> str:
        """The name of the object that a call acts on; empty for the target as a whole."""
        return str(getattr(arguments, self.object_field)) if self.object_field else ""

    def default_of(self, argument: str) -> Any:
        """The default of an argument; None for one that is required or that there is not."""
        field = self.fields.get(argument)
        return field.get_default() if field is not None and not field.is_required() else None

    def annotations(self) -> dict[str, bool]:
        """The four hints of the protocol, computed from the effect."""
        return {
            "readOnlyHint": self.effect is Effect.READ,
            "destructiveHint": self.effect is Effect.DESTROY or bool(self.destroys_when),
            "idempotentHint": self.effect is Effect.READ or self.idempotent,
            "openWorldHint": not self.own,
        }


def schemas_of(tool: Tool) -> ToolSchemas:
    """A tool's schemas: those that the package ships, else computed."""
    shipped = shipped_schemas().get(tool.name)
    return shipped or ToolSchemas(input=dict(tool.input_schema), output=dict(tool.output_schema))


WRITE_FIELDS: dict[str, Any] = {
    "reason": (str, Field(description="Why.", min_length=3, max_length=500)),
    "dry_run": (bool, Field(default=False, description="Only plan.")),
    "idempotency_key": (
        str,
        Field(default="", description="New to repeat.", max_length=128),
    ),
}


def tool(
    *,
    effect: Effect,
    bulk: bool = False,
    recovery: bool = False,
    idempotent: bool = False,
    resumable: bool = False,
    cost: int = 1,
    timeout: float = 0.0,
    destroys_when: Mapping[str, Any] | None = None,
) -> Callable[[Callable[..., Awaitable[Result]]], Tool]:
    """Make a tool of a function; see the module's first lines for how it is read.

    `timeout` is in seconds; 0 means the default of the effect. A `resumable` write works in steps
    (`Write.steps`) and goes on in another process when its own is lost. A write is a destroying one
    where an argument has the value that `destroys_when` names for it. Raises `TypeError` for a
    signature or a docstring that breaks the contract: at import, so it cannot ship.
    """

    def build(function: Callable[..., Awaitable[Result]]) -> Tool:
        hints = typing.get_type_hints(function, include_extras=True)
        result = hints.pop("return")
        parts = _read_signature(function, hints)
        if not issubclass(result, WriteResult if effect is not Effect.READ else Result):
            raise TypeError(f"{function.__name__}: a {effect} must return a WriteResult")
        if (effect is Effect.READ) == bool(parts.write):
            raise TypeError(f"{function.__name__}: a write takes a Write, a read takes none")
        extra = WRITE_FIELDS if effect is not Effect.READ else {}
        arguments = create_model(
            _camel(function.__name__),
            __base__=ArgumentModel,
            **parts.fields,
            **extra,
        )
        return Tool(
            name=function.__name__,
            title=function.__name__.replace("_", " ").capitalize(),
            description=inspect.cleandoc(function.__doc__ or ""),
            effect=effect,
            bulk=bulk,
            recovery=recovery,
            idempotent=idempotent,
            resumable=resumable,
            cost=cost,
            timeout_s=timeout or _default_timeout(effect, bulk=bulk),
            function=function,
            capability=parts.capability,
            injected=parts.injected,
            links=parts.links,
            ports=parts.ports,
            write_parameter=parts.write,
            arguments=arguments,
            result=result,
            object_field=_marked(parts.fields, ObjectName),
            sensitive=frozenset(_all_marked(parts.fields, Sensitive)),
            named_by={name: by.argument for name, by in _marks(parts.fields, NamedBy)},
            manner=frozenset(_all_marked(parts.fields, Manner)),
            destroys_when=destroys_when or {},
        )

    return build


@dataclass(slots=True)
class _Signature:
    injected: str
    capability: type
    links: dict[str, type]
    ports: dict[str, type]
    write: str
    fields: dict[str, Any]


def _read_signature(function: Callable[..., Any], hints: dict[str, Any]) -> _Signature:
    names = list(inspect.signature(function).parameters.values())
    first, rest = names[0], names[1:]
    found = _Signature(first.name, hints[first.name], {}, {}, "", {})
    for parameter in rest:
        hint = hints[parameter.name]
        if hint is Write:
            found.write = parameter.name
        elif (linked := _linked(hint)) is not None:
            found.links[parameter.name] = linked
        elif is_port(hint):
            found.ports[parameter.name] = hint
        else:
            default = ... if parameter.default is parameter.empty else parameter.default
            found.fields[parameter.name] = (hint, default)
    return found


def is_port(hint: Any) -> bool:
    """Whether a parameter's type is something that the server itself offers."""
    return isinstance(hint, type) and Port in hint.__mro__


def _linked(hint: Any) -> type | None:
    for option in (hint, *get_args(hint)):
        if get_origin(option) is Linked:
            return typing.cast("type", get_args(option)[0])
    return None


def _marks(fields: Mapping[str, Any], marker: type[Mark]) -> list[tuple[str, Mark]]:
    return [
        (name, extra)
        for name, (hint, _) in fields.items()
        for extra in getattr(hint, "__metadata__", ())
        if isinstance(extra, marker)
    ]


def _all_marked(fields: Mapping[str, Any], marker: type) -> list[str]:
    return [name for name, _ in _marks(fields, marker)]


def _marked(fields: Mapping[str, Any], marker: type) -> str:
    names = _all_marked(fields, marker)
    return names[0] if names else ""


def _default_timeout(effect: Effect, *, bulk: bool) -> float:
    if effect is not Effect.READ:
        return _WRITE_TIMEOUT_S
    return _BULK_TIMEOUT_S if bulk else _READ_TIMEOUT_S


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))
