"""Options of a target made ready for its adapter: references resolved, paths absolute, checked.

`env:NAME` may stand for any text. A secret has to be a reference, `env:NAME` or `file:PATH`: a
configuration file is copied, shown and committed too easily to hold one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, SecretBytes, SecretStr, ValidationError

from mcp_ops.adapter import AdapterSettings
from mcp_ops.settings import TargetSettings
from mcp_ops.settings_draft import TARGET_KEYS
from mcp_ops.settings_problems import (
    Key,
    Problems,
    add_validation,
    describe,
    dotted,
    model_in,
    parts_of,
)

S = TypeVar("S", bound=AdapterSettings)

_ENV_REFERENCE = re.compile(r"env:([A-Za-z_][A-Za-z0-9_]*)")
_LARGEST_SECRET = 65_536


@dataclass(slots=True, kw_only=True)
class References:
    """Resolves references against an environment and a folder, and collects what is wrong.

    `bad` are the keys that have their problem already.
    """

    environ: Mapping[str, str]
    base: Path
    problems: Problems
    prefix: str
    bad: set[Key] = field(default_factory=set)

    def model(self, model: type[BaseModel], raw: Mapping[str, Any], key: Key) -> dict[str, Any]:
        """The raw table of a model with everything resolved that a field of the model holds."""
        return {
            name: self.value(model.model_fields[name].annotation, value, (*key, name))
            if name in model.model_fields
            else value
            for name, value in raw.items()
        }

    def value(self, annotation: Any, value: Any, key: Key) -> Any:
        """One value resolved, as deep as it is nested."""
        if isinstance(value, str):
            return self._text(annotation, value, key)
        if isinstance(value, list | tuple):
            return [self.value(annotation, item, (*key, i)) for i, item in enumerate(value)]
        if isinstance(value, Mapping):
            if (inner := model_in(annotation)) is not None:
                return self.model(inner, value, key)
            item = (get_args(annotation) or (None,))[-1]
            return {name: self.value(item, each, (*key, name)) for name, each in value.items()}
        if _is_secret(annotation) and value is not None:
            self._literal(value, key)
        return value

    def _text(self, annotation: Any, text: str, key: Key) -> Any:
        if match := _ENV_REFERENCE.fullmatch(text):
            return self._from_environment(match[1], key)
        if _is_secret(annotation):
            if text.startswith("file:"):
                return self._from_file(text.removeprefix("file:"), key)
            return self._literal(text, key)
        if Path in parts_of(annotation):
            return absolute(text, self.base)
        return text

    def _from_environment(self, name: str, key: Key) -> str:
        value = self.environ.get(name, "").strip()
        if not value:
            state = "is empty" if name in self.environ else "is not set"
            self._bad(key, f"it refers to the environment variable {name}, which {state}.")
        return value

    def _from_file(self, text: str, key: Key) -> str:
        path = absolute(text, self.base)
        try:
            raw = path.read_bytes()[: _LARGEST_SECRET + 1]
            secret = raw.decode("utf-8-sig").strip("\r\n")
        except UnicodeDecodeError:
            return self._bad(key, f"the secret in the file {path} is not UTF-8 text.")
        except OSError as exc:
            return self._bad(key, f"the file {path} cannot be read ({exc.strerror or 'error'}).")
        if not secret or len(raw) > _LARGEST_SECRET:
            size = "is larger than 64 KiB" if secret else "is empty"
            return self._bad(key, f"the file {path} {size}.")
        return secret

    def _literal(self, value: object, key: Key) -> str:
        return self._bad(
            key,
            f"found {describe(value, hidden=True)}, expected a reference, env:NAME or file:PATH: "
            "secrets do not stand in the configuration itself.",
        )

    def _bad(self, key: Key, what: str) -> str:
        self.bad.add(key)
        self.problems.add(f"{self.prefix}{dotted(key)}", what)
        return ""


def resolve_options(
    target: TargetSettings,
    settings_class: type[S],
    environ: Mapping[str, str],
    base: Path,
    source: str,
) -> S:
    """The settings of a target's adapter, or `ConfigurationError` with every problem.

    `base` is where relative paths start (`Settings.base`), `source` the file (`Settings.source`).
    """
    problems = Problems()
    prefix = f"{source or target.origin}: targets.{target.name}."
    references = References(environ=environ, base=base, problems=problems, prefix=prefix)
    resolved = references.model(settings_class, target.options, ())
    try:
        made = settings_class.model_validate(resolved)
    except ValidationError as exc:
        add_validation(
            problems,
            exc,
            settings_class,
            where=lambda key: f"{prefix}{dotted(key)}{_variable(target.options, key)}".rstrip("."),
            hidden=True,
            extra_keys=TARGET_KEYS,
            known_bad=frozenset(references.bad),
        )
    problems.raise_if_any()
    return made


def secrets_in(model: BaseModel) -> Iterator[str]:
    """Every secret value in a model: for the redactor, which must never let one out."""
    for name in type(model).model_fields:
        yield from _secrets_of(getattr(model, name))


def secret_files(value: object, base: Path) -> Iterator[Path]:
    """The files that `file:` references in raw options name: for checks of their permissions."""
    if isinstance(value, str) and value.startswith("file:") and not value.startswith("file://"):
        yield absolute(value.removeprefix("file:"), base)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from secret_files(item, base)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from secret_files(item, base)


def absolute(text: str, base: Path) -> Path:
    """A path as the configuration means it: `~` is the home folder, relative to `base`."""
    path = Path(text)
    if text.startswith("~"):
        try:
            path = path.expanduser()
        except RuntimeError:
            # A bare environment can lack a home folder; the path then stays as it was written.
            return base / path
    return base / path


def _is_secret(annotation: Any) -> bool:
    return any(part in (SecretStr, SecretBytes) for part in parts_of(annotation))


def _secrets_of(value: object) -> Iterator[str]:
    if isinstance(value, SecretStr):
        yield value.get_secret_value()
    elif isinstance(value, SecretBytes):
        yield value.get_secret_value().decode("utf-8", "replace")
    elif isinstance(value, BaseModel):
        yield from secrets_in(value)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _secrets_of(item)
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from _secrets_of(item)


def _variable(options: Mapping[str, Any], key: Key) -> str:
    raw = options.get(str(key[0])) if key else None
    match = _ENV_REFERENCE.fullmatch(raw) if isinstance(raw, str) else None
    return f" (from the environment variable {match[1]})" if match else ""
