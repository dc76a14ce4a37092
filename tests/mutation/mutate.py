"""Mutants of a module: each is one small change of its syntax tree that a test should notice.

What is left alone: text for people (any string with a space, and what stands in an f-string),
annotations, decorators, lines for the process's log, and `Literal`, which only mypy reads.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

_COMPARE: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}
_OPPOSITE = {"min": "max", "max": "min", "any": "all", "all": "any"}
# What is negated as a whole; comparisons and the like have changes of their own.
_PLAIN = (ast.Name, ast.Attribute, ast.Call, ast.Await, ast.NamedExpr, ast.Subscript)


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One change. `function` is empty for what runs when the module is imported."""

    function: str
    line: int
    last_line: int
    was: str
    becomes: str
    in_body: bool
    apply: Callable[[], None]

    @property
    def shown(self) -> str:
        return f"{self.line} {self.function}: `{self.was}` -> `{self.becomes}`"


@dataclass(frozen=True)
class _Spot:
    """A node, and where it hangs in the tree."""

    parent: ast.AST
    name: str
    index: int | None
    node: ast.AST
    function: str
    in_body: bool

    def put(self, new: ast.AST) -> None:
        if self.index is None:
            setattr(self.parent, self.name, new)
        else:
            getattr(self.parent, self.name)[self.index] = new


def mutants_of(tree: ast.Module) -> list[Mutant]:
    """All mutants of a tree, in its order. Applying one changes the tree for good."""
    return [
        _mutant(spot, new) for spot in _spots(tree, "", in_body=False) for new in _changes(spot)
    ]


def _mutant(spot: _Spot, new: ast.AST) -> Mutant:
    place: Any = spot.node.target if isinstance(spot.node, ast.comprehension) else spot.node
    for each in ast.walk(new):
        if "lineno" in each._attributes and not hasattr(each, "lineno"):
            ast.copy_location(each, place)
    line = int(getattr(place, "lineno", 1))
    return Mutant(
        function=spot.function,
        line=line,
        last_line=int(getattr(place, "end_lineno", line)),
        was=_short(spot.node),
        becomes=_short(new),
        in_body=spot.in_body,
        apply=lambda: spot.put(new),
    )


def _short(node: ast.AST) -> str:
    return " ".join(ast.unparse(node).split())


def _spots(node: ast.AST, function: str, *, in_body: bool) -> Iterator[_Spot]:
    for name, value in ast.iter_fields(node):
        if (type(node), name) in _SKIPPED_FIELDS:
            continue
        inside = in_body or (name == "body" and isinstance(node, _FUNCTIONS))
        children = list(enumerate(value)) if isinstance(value, list) else [(None, value)]
        for index, child in children:
            if not isinstance(child, ast.AST) or _skipped(child):
                continue
            yield _Spot(node, name, index, child, function, inside)
            named = getattr(child, "name", "") if isinstance(child, _NAMED) else ""
            inner = ".".join(part for part in (function, named) if part)
            yield from _spots(child, inner, in_body=inside)


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_NAMED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_SKIPPED_FIELDS = {
    (ast.FunctionDef, "decorator_list"),
    (ast.AsyncFunctionDef, "decorator_list"),
    (ast.ClassDef, "decorator_list"),
    (ast.FunctionDef, "returns"),
    (ast.AsyncFunctionDef, "returns"),
    (ast.arg, "annotation"),
    (ast.AnnAssign, "annotation"),
    (ast.AnnAssign, "target"),
    (ast.Assign, "targets"),
}


# Only mypy, or the process's log, knows these by their names.
_NAMES_ONLY = ("TypeVar(", "logging.getLogger(")


def _skipped(node: ast.AST) -> bool:
    if isinstance(node, ast.JoinedStr | ast.Import | ast.ImportFrom):
        return True
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
        return node.value.id in ("Literal", "Annotated", "Callable")
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return True
    if isinstance(node, ast.Assign) and ast.unparse(node.value).startswith(_NAMES_ONLY):
        return True
    return isinstance(node, ast.Expr) and (
        isinstance(node.value, ast.Constant) or ast.unparse(node).startswith("_log.")
    )


def _changes(spot: _Spot) -> Iterator[ast.AST]:
    node: Any = spot.node
    if isinstance(node, ast.stmt):
        yield from _of_statement(node, spot)
    elif isinstance(node, ast.expr):
        yield from _of_expression(node)
        if spot.name == "test" and isinstance(node, _PLAIN):
            yield ast.UnaryOp(op=ast.Not(), operand=node)
    elif isinstance(node, ast.comprehension):
        for index, test in enumerate(node.ifs):
            yield _with(node, ifs=[*node.ifs[:index], *node.ifs[index + 1 :]])
            if isinstance(test, _PLAIN):
                no = ast.UnaryOp(op=ast.Not(), operand=test)
                yield _with(node, ifs=[*node.ifs[:index], no, *node.ifs[index + 1 :]])


def _of_statement(node: ast.stmt, spot: _Spot) -> Iterator[ast.stmt]:
    none = ast.Constant(value=None)
    match node:
        case ast.Expr(value=ast.Yield()):
            pass
        case ast.Expr() | ast.Raise() | ast.Delete() if spot.in_body:
            yield ast.Pass()
        case ast.Return(value=value) if value is not None and not _is_none(value):
            yield ast.Return(value=none)
        case ast.Assign(value=value) if spot.in_body and not _is_none(value):
            yield _with(node, value=none)
        case ast.AugAssign(op=op) if type(op) in _ARITHMETIC:
            yield _with(node, op=_ARITHMETIC[type(op)]())
            yield ast.Assign(targets=[node.target], value=node.value)
        case ast.Break() | ast.Continue():
            yield ast.Continue() if isinstance(node, ast.Break) else ast.Break()


def _of_expression(node: ast.expr) -> Iterator[ast.expr]:
    match node:
        case ast.Compare(ops=[op, *_]):
            yield _with(node, ops=[_COMPARE[type(op)](), *node.ops[1:]])
        case ast.BoolOp(op=op):
            yield _with(node, op=ast.And() if isinstance(op, ast.Or) else ast.Or())
            yield from (_without(node, index) for index in range(len(node.values)))
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            yield node.operand
        case ast.BinOp(op=op) if type(op) in _ARITHMETIC and not _is_text(node):
            yield _with(node, op=_ARITHMETIC[type(op)]())
        case ast.Constant():
            yield from _of_constant(node)
        case ast.Name(id=name) if name in _OPPOSITE:
            yield ast.Name(id=_OPPOSITE[name], ctx=ast.Load())
        case ast.Lambda(body=body) if not _is_none(body):
            yield _with(node, body=ast.Constant(value=None))


def _of_constant(node: ast.Constant) -> Iterator[ast.Constant]:
    value = node.value
    if isinstance(value, bool):
        yield ast.Constant(value=not value)
    elif isinstance(value, int | float):
        yield ast.Constant(value=value + 1)
    elif isinstance(value, str) and value and " " not in value:
        yield ast.Constant(value=f"XX{value}XX")


def _without(node: ast.BoolOp, index: int) -> ast.expr:
    """`a or b` without one side."""
    rest = [each for at, each in enumerate(node.values) if at != index]
    return rest[0] if len(rest) == 1 else ast.BoolOp(op=node.op, values=rest)


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _is_text(node: ast.BinOp) -> bool:
    sides = (node.left, node.right)
    return any(
        isinstance(side, ast.JoinedStr)
        or (isinstance(side, ast.Constant) and isinstance(side.value, str | bytes))
        for side in sides
    )


def _with(node: Any, **fields: Any) -> Any:
    """The node with other fields; the rest is shared."""
    new = copy.copy(node)
    for name, value in fields.items():
        setattr(new, name, value)
    return new
