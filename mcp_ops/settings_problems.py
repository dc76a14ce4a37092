"""What is wrong with a configuration, in words: where, what was found, what is expected.

Values are never repeated: a text is described by its length, because the key that someone mistyped
may be the one that held a secret. All problems are reported together.
"""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from mcp_ops.errors import ConfigurationError

Key = tuple[str | int, ...]

_SECRET_KEY = re.compile(r"(?i)(?:key|pass|secret|token|credential|dsn|url)")

_EXPECTED: dict[str, str] = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": "a table",
    "finite_number": "a finite number",
    "float_parsing": "a number",
    "float_type": "a number",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "literal_error": "{expected}",
    "enum": "{expected}",
    "list_type": "a list",
    "tuple_type": "a list",
    "model_type": "a table",
    "path_type": "a path",
    "string_pattern_mismatch": "text that matches {pattern}",
    "string_too_long": "at most {max_length} characters",
    "string_too_short": "at least {min_length} characters",
    "string_type": "text",
    "too_long": "at most {max_length} items",
    "too_short": "at least {min_length} items",
    "value_error": "{error}",
}


@dataclass(slots=True)
class Problems:
    """Collects problems; `raise_if_any` makes one error of all of them."""

    lines: list[str] = field(default_factory=list)

    def add(self, where: str, what: str) -> None:
        """One problem: `where` names file and key, variable or option."""
        line = f"{where}: {what}"
        if line not in self.lines:
            self.lines.append(line)

    def raise_if_any(self) -> None:
        """Raise `ConfigurationError` with everything that was collected."""
        if not self.lines:
            return
        if len(self.lines) == 1:
            message = f"The configuration is wrong: {self.lines[0]}"
        else:
            message = "\n- ".join(
                [f"The configuration is wrong in {len(self.lines)} places:", *self.lines]
            )
        raise ConfigurationError(message, hint="docs/configuration.md lists every setting.")


def dotted(key: Key) -> str:
    """A key as people write it: `server.keys #2.name` is the name of the second key."""
    text = ""
    for part in key:
        text += f" #{part + 1}" if isinstance(part, int) else f"{'.' if text else ''}{part}"
    return text


def did_you_mean(found: object, known: Iterable[str]) -> str:
    """A suggestion to append, or nothing."""
    close = difflib.get_close_matches(str(found).lower(), list(known), n=1, cutoff=0.6)
    return f' Did you mean "{close[0]}"?' if close else ""


def describe(value: object, *, hidden: bool) -> str:
    """What a value is, without giving it away: numbers are shown unless `hidden`."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return "a number" if hidden else f"{value}"
    if isinstance(value, str):
        return f"text of {len(value)} characters" if value else "empty text"
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)} items"
    return type(value).__name__


def add_validation(
    problems: Problems,
    error: ValidationError,
    model: type[BaseModel],
    *,
    where: Callable[[Key], str],
    hidden: bool,
    extra_keys: Iterable[str] = (),
    known_bad: frozenset[Key] = frozenset(),
) -> None:
    """Say each error of a validation in our words.

    `where` turns a location in the model into file and key. `hidden` keeps numbers back as well.
    `extra_keys` are names that are right at the top level although the model lacks them.
    `known_bad` are locations that have their problem already.
    """
    for item in error.errors(include_url=False):
        key = tuple(item["loc"])
        if any(key[: len(bad)] == bad for bad in known_bad):
            continue
        problems.add(where(key), _sentence(item, model, hidden=hidden, extra_keys=extra_keys))


def _sentence(
    item: ErrorDetails, model: type[BaseModel], *, hidden: bool, extra_keys: Iterable[str]
) -> str:
    key = tuple(item["loc"])
    if item["type"] == "extra_forbidden":
        known = [*_fields_at(model, key[:-1]), *(extra_keys if len(key) == 1 else ())]
        return f"there is no such key.{did_you_mean(key[-1], known)}"
    if item["type"] == "missing":
        return "it is missing."
    found = item.get("input")
    secret = hidden or any(isinstance(part, str) and _SECRET_KEY.search(part) for part in key[-1:])
    expected = _expected(item)
    if item["type"] == "value_error" and isinstance(found, Mapping | BaseModel):
        return f"expected {expected}."
    choices = (
        re.findall(r"'([^']*)'", expected) if item["type"] in ("literal_error", "enum") else ()
    )
    suggestion = "" if secret else did_you_mean(found, choices)
    return f"found {describe(found, hidden=secret)}, expected {expected}.{suggestion}"


def _expected(item: ErrorDetails) -> str:
    pattern = _EXPECTED.get(item["type"])
    if pattern is None:
        return item["msg"].removeprefix("Input should be ")
    return pattern.format(**item.get("ctx", {}))


def _fields_at(model: type[BaseModel], key: Key) -> list[str]:
    current: type[BaseModel] | None = model
    for part in key:
        if isinstance(part, int) or current is None:
            continue
        info = current.model_fields.get(part)
        current = model_in(info.annotation) if info is not None else None
    if current is None:
        return []
    return [info.alias or name for name, info in current.model_fields.items()]


def parts_of(annotation: Any) -> list[Any]:
    """An annotation and everything inside it: of `tuple[A | None, ...]` also `A`."""
    found = [annotation]
    for inner in typing.get_args(annotation):
        found.extend(parts_of(inner))
    return found


def model_in(annotation: Any) -> type[BaseModel] | None:
    """The model that an annotation holds, directly or as an item, or None."""
    for part in parts_of(annotation):
        if isinstance(part, type) and issubclass(part, BaseModel):
            return part
    return None
