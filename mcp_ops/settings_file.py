"""Loading of the settings: command line over environment over file over default.

This is the one place where `os.environ` is read. Loading changes nothing on disk.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mcp_ops.errors import ConfigurationError
from mcp_ops.ports import OWN_TARGET
from mcp_ops.settings import GuardSettings, ServerSettings, Settings, StoreSettings
from mcp_ops.settings_draft import Draft
from mcp_ops.settings_environ import read_environment, state_directory
from mcp_ops.settings_options import References
from mcp_ops.settings_policy import read_policy_file
from mcp_ops.settings_problems import Key, Problems, add_validation, did_you_mean, dotted
from mcp_ops.settings_telemetry import TelemetrySettings
from mcp_ops.settings_toml import read_toml

CONFIG_VARIABLE = "MCP_OPS_CONFIG"

_RESERVED = frozenset({OWN_TARGET, "all"})
# Not for the file: what loading itself fills in.
_INTERNAL = frozenset({"source", "notices", "rule_places"})


def process_environment() -> dict[str, str]:
    """A copy of the environment of this process."""
    return dict(os.environ)


def quieten(defaults: Mapping[str, str]) -> None:
    """Set variables of this process that are not set: some libraries take options only so."""
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def user_file() -> Path:
    """The configuration file in the user's configuration directory; it need not exist."""
    from platformdirs import user_config_path

    return user_config_path("mcp-ops", appauthor=False) / "config.toml"


def user_state() -> Path:
    """Where state is kept by default."""
    from platformdirs import user_state_path

    return user_state_path("mcp-ops", appauthor=False)


def load_settings(
    config: Path | None,
    environ: Mapping[str, str],
    overrides: Mapping[str, Any],
    *,
    default_file: Path | None = None,
) -> Settings:
    """Load and check everything; raises `ConfigurationError` that names every problem at once.

    `config` is `--config`; without it the file of `MCP_OPS_CONFIG` or the user's own is read, if
    there is one (`default_file` stands in for the latter). `overrides` are options of the command
    line under dotted keys, such as `server.port`; None means that an option was not given.
    """
    path = _find(config, environ, default_file)
    base = path.parent if path is not None else Path.cwd()
    draft = Draft(file=str(path) if path is not None else "")
    problems = Problems()
    if path is not None:
        draft.tree, draft.text = read_toml(path)
    for name in _INTERNAL & draft.tree.keys():
        problems.add(draft.where((name,)), "there is no such key.")
        del draft.tree[name]
    read_policy_file(draft, base, problems)
    state = state_directory(draft, environ, base) or user_state()
    read_environment(draft, environ, state)
    for name, value in overrides.items():
        if value is not None:
            draft.put(tuple(name.split(".")), value, f"option --{name.rsplit('.', 1)[-1]}")
    if isinstance(draft.tree.get("state_dir", ""), str):
        draft.tree["state_dir"] = state
    return _check(draft, environ, base, problems)


def _find(config: Path | None, environ: Mapping[str, str], default: Path | None) -> Path | None:
    named = config
    how = "--config"
    if named is None and (text := environ.get(CONFIG_VARIABLE, "").strip()):
        named, how = Path(text), CONFIG_VARIABLE
    if named is None:
        named = default or user_file()
        return named.absolute() if named.is_file() else None
    if not named.is_file():
        raise ConfigurationError(
            f"{named.absolute()}: there is no such file (from {how}).",
            hint="mcp-ops init writes a configuration to start from.",
        )
    return named.absolute()


def _check(draft: Draft, environ: Mapping[str, str], base: Path, problems: Problems) -> Settings:
    raw = draft.model_input()
    references = References(
        environ=environ, base=base, problems=problems, prefix=_prefix(draft.file)
    )
    for name, model in (("server", ServerSettings), ("telemetry", TelemetrySettings)):
        if isinstance(table := raw.get(name), dict):
            raw[name] = references.model(model, table, (name,))
    if isinstance(store := raw.get("store"), dict):
        # "sqlite" is no secret, and the only value that may stand there as it is.
        plain = {name: value for name, value in store.items() if value == "sqlite"}
        others = {name: value for name, value in store.items() if name not in plain}
        raw["store"] = {**references.model(StoreSettings, others, ("store",)), **plain}
    if isinstance(guard := raw.get("guard"), dict) and "break_glass" in guard:
        raw["guard"] = references.model(GuardSettings, guard, ("guard",))
    _check_names(draft, problems)
    settings: Settings | None = None
    try:
        settings = Settings.model_validate(
            {
                **raw,
                "source": draft.file,
                "notices": tuple(draft.notices),
                "rule_places": _rule_places(draft),
            }
        )
    except ValidationError as exc:

        def where(key: Key) -> str:
            return draft.where(draft.key_in_file(key))

        add_validation(
            problems,
            exc,
            Settings,
            where=where,
            hidden=False,
            known_bad=frozenset(references.bad) | _bad_names(draft),
        )
    if settings is not None:
        _check_server(settings, draft, problems)
        _check_addresses(settings, draft, problems)
    _check_links(draft, problems)
    problems.raise_if_any()
    assert settings is not None  # noqa: S101 - a failed validation has left problems
    return settings.model_copy(update={"notices": (*settings.notices, *_idle_globs(settings))})


def _rule_places(draft: Draft) -> tuple[str, ...]:
    rules = draft.tree.get("policy")
    count = len(rules) if isinstance(rules, list) else 0
    return tuple(draft.where(("policy", number)) for number in range(count))


def _prefix(file: str) -> str:
    return f"{file}: " if file else ""


def _good_name(name: str) -> bool:
    return (
        0 < len(name) <= 63
        and name[0].isascii()
        and name[0].islower()
        and all(c.isascii() and (c.islower() or c.isdigit() or c == "-") for c in name)
    )


def _bad_names(draft: Draft) -> frozenset[Key]:
    names = list(draft.table("targets"))
    return frozenset(("targets", i, "name") for i, n in enumerate(names) if not _good_name(n))


def _check_names(draft: Draft, problems: Problems) -> None:
    for name, table in draft.table("targets").items():
        where = draft.where(("targets", name))
        if not _good_name(name):
            problems.add(
                where,
                "a target's name is at most 63 lower-case letters, digits and hyphens, "
                "the first of them a letter.",
            )
        elif name in _RESERVED:
            problems.add(where, "this name is taken by the server itself; choose another one.")
        if isinstance(table, dict) and "name" in table:
            problems.add(f"{where}.name", "there is no such key: the table's name is the name.")


def _check_server(settings: Settings, draft: Draft, problems: Problems) -> None:
    server = settings.server
    tls = server.mutual_tls
    named = {
        "keys": [key.name for key in server.keys],
        "issuers": [issuer.name for issuer in server.issuers],
        "mutual_tls": [each.name for each in tls.certificates] if tls is not None else [],
    }
    for table, names in named.items():
        for name in sorted({name for name in names if names.count(name) > 1}):
            problems.add(draft.where(("server", table)), f'two {table} are called "{name}".')
    if server.transport == "stdio" or server.asks or _is_loopback(server.host):
        return
    problems.add(
        draft.where(("server", "host")),
        "this host can be reached from other machines, and no key is configured. Set MCP_OPS_KEY "
        "or [[server.keys]] or [[server.issuers]], or server.require_key for keys of "
        "mcp-ops keys create, or listen on 127.0.0.1.",
    )


def _check_addresses(settings: Settings, draft: Draft, problems: Problems) -> None:
    """Globs over principals that miss an address for its spelling: who is meant would pass by."""
    issuers = [each.name for each in settings.server.issuers if each.subject_claim == "email"]
    meant = tuple(f"{kind}:{name}/" for kind in ("user", "app") for name in issuers)
    globs: list[tuple[Key, str]] = [
        (("server", "grants", i), grant.principal) for i, grant in enumerate(settings.server.grants)
    ]
    for i, rule in enumerate(settings.policy):
        globs += [(("policy", i), glob) for glob in (rule.principal, *rule.approvers)]
    for key, glob in globs:
        start = re.split(r"[*?\[]", glob, maxsplit=1)[0]
        if glob != glob.lower() and any(
            start.startswith(prefix) or prefix.startswith(start) for prefix in meant
        ):
            problems.add(
                draft.where(key),
                "principals named by an address (subject_claim email) are in lower case, and this "
                "has a capital letter. Write it in lower case.",
            )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_links(draft: Draft, problems: Problems) -> None:
    targets = draft.table("targets")
    for name in targets:
        for link, other in draft.table("targets", name, "links").items():
            if isinstance(other, str) and other not in targets:
                problems.add(
                    draft.where(("targets", name, "links", link)),
                    "it has to name a configured target, and there is none with this name."
                    f"{did_you_mean(other, targets)}",
                )


def _idle_globs(settings: Settings) -> list[str]:
    """Rules that match no target: a typing mistake there would leave something unprotected."""
    names = [target.name for target in settings.targets]
    globs: list[tuple[Key, str]] = [
        (("guard", "protected", i), rule.target) for i, rule in enumerate(settings.guard.protected)
    ]
    globs += [(("policy", i), rule.target) for i, rule in enumerate(settings.policy)]
    for i, grant in enumerate(settings.server.grants):
        globs += [(("server", "grants", i), glob) for glob in grant.targets]
    for i, window in enumerate(settings.guard.freeze):
        globs += [(("guard", "freeze", i), glob) for glob in window.targets]
    return [
        f"{dotted(key)} matches none of the configured targets."
        for key, glob in globs
        if not any(fnmatchcase(name, glob) for name in [*names, OWN_TARGET])
    ]
