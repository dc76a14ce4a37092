"""What environment variables say: settings, and the targets that they make.

The variables' names are those of the runbooks that this server grew out of. A target that comes
from variables holds references to them (`env:NAME`), so that no secret stands in the settings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mcp_ops.settings_draft import Draft
from mcp_ops.settings_options import absolute
from mcp_ops.settings_telemetry import read_telemetry

# Later ones win.
VARIABLES: dict[str, tuple[str, ...]] = {
    "MCP_TRANSPORT": ("server", "transport"),
    "MCP_OPS_HOST": ("server", "host"),
    "WEBSITES_PORT": ("server", "port"),
    "PORT": ("server", "port"),
    "MCP_OPS_ALLOWED_HOSTS": ("server", "allowed_hosts"),
    "MCP_OPS_URL": ("server", "url"),
    "MCP_OPS_WORKERS": ("server", "workers"),
    "MCP_OPS_SESSIONS": ("server", "sessions"),
    "MCP_RATE_LIMIT_MODE": ("guard", "mode"),
    "CIRCUIT_BREAKER_THRESHOLD": ("guard", "circuit", "threshold"),
    "CIRCUIT_BREAKER_TIMEOUT": ("guard", "circuit", "open_s"),
    "DLQ_RETENTION_DAYS": ("deadletters", "retention_days"),
    "MCP_OPS_STORE_HOT": ("store", "hot"),
    "MCP_OPS_STORE_LEDGER": ("store", "ledger"),
    "MCP_OPS_STORE_KEY": ("store", "key"),
    "MCP_OPS_QUESTION_KEYS": ("store", "question_keys"),
}

# Per target: its kind, and which variable is which option.
TARGET_VARIABLES: dict[str, tuple[str, dict[str, str]]] = {
    "salesforce": (
        "salesforce",
        {
            "SF_INSTANCE_URL": "instance_url",
            "SF_LOGIN_URL": "login_url",
            "SF_REDIRECT_URI": "redirect_uri",
            "SF_ACCESS_TOKEN": "access_token",
            "SF_CLIENT_ID": "client_id",
            "SF_CLIENT_SECRET": "client_secret",
            "SF_REFRESH_TOKEN": "refresh_token",
        },
    ),
    "redis": ("redis", {"REDIS_URL": "url"}),
    "kubernetes": ("kubernetes", {"KUBECONFIG": "kubeconfig"}),
}

KEY_VARIABLE = "MCP_OPS_KEY"
KEY_NAME = "env"
SECRET_TARGET = "local-secrets"  # noqa: S105 - a target's name

# An empty value of these means: no such target, whatever the file says.
_EMPTY_REMOVES = {"REDIS_URL": "redis", "DATABASE_URL": "postgres"}
_LOWERED = frozenset({"MCP_TRANSPORT", "MCP_RATE_LIMIT_MODE"})
_LISTS = frozenset({"allowed_hosts", "question_keys"})
_REFERENCE = re.compile(r"env:([A-Za-z_][A-Za-z0-9_]*)")


def variable(name: str) -> str:
    """How a variable is called in messages."""
    return f"environment variable {name}"


def read_environment(draft: Draft, environ: Mapping[str, str], state_dir: Path) -> None:
    """Put what the environment says over a draft that holds the file."""
    _settings(draft, environ)
    read_telemetry(draft, environ)
    _key(draft, environ)
    _targets(draft, environ)
    secrets = draft.table("targets", "salesforce").get("links", {})
    if isinstance(secrets, dict) and secrets.get("secrets") == SECRET_TARGET:
        _secret_target(draft, state_dir)


def state_directory(draft: Draft, environ: Mapping[str, str], base: Path) -> Path | None:
    """Where state is kept, or None for the default. A path in the file is relative to `base`.

    It is read ahead of the rest, since a target that is built in keeps something there.
    """
    if text := environ.get("MCP_OPS_STATE_DIR", "").strip():
        return absolute(text, Path.cwd())
    found = draft.tree.get("state_dir")
    return absolute(found, base) if isinstance(found, str) and found else None


def _settings(draft: Draft, environ: Mapping[str, str]) -> None:
    for name, key in VARIABLES.items():
        text = environ.get(name, "").strip()
        if not text:
            continue
        value: Any = text.lower() if name in _LOWERED else text
        if key[-1] in _LISTS:
            value = [part.strip() for part in text.split(",") if part.strip()]
        elif key[0] == "store" and text != "sqlite" and not text.startswith(("env:", "file:")):
            value = f"env:{name}"  # a URL with its password stays in the environment
        draft.put(key, value, variable(name))
    ports = {environ.get(name, "").strip() for name in ("PORT", "WEBSITES_PORT")} - {""}
    if len(ports) > 1:
        draft.notices.append("PORT and WEBSITES_PORT differ: the server listens on PORT.")


def _key(draft: Draft, environ: Mapping[str, str]) -> None:
    """Add the key of the environment, in the place of one of the file with its name."""
    if not environ.get(KEY_VARIABLE, "").strip():
        return
    keys = draft.table("server").get("keys", [])
    if not isinstance(keys, list):
        return
    others = [
        each for each in keys if not (isinstance(each, dict) and each.get("name") == KEY_NAME)
    ]
    made = {"name": KEY_NAME, "key": f"env:{KEY_VARIABLE}"}
    server = draft.tree.setdefault("server", {})
    if isinstance(server, dict):
        server["keys"] = [*others, made]
        draft.origins["server", "keys", len(others)] = variable(KEY_VARIABLE)


def _targets(draft: Draft, environ: Mapping[str, str]) -> None:
    taken = set(_referenced(draft.tree.get("targets")))
    for target, (kind, options) in TARGET_VARIABLES.items():
        given = {name: key for name, key in options.items() if environ.get(name, "").strip()}
        # A variable that the file already gives to a target of its own makes no second one.
        if given.keys() - taken:
            _target(draft, target, kind, given)
    for name, target in _EMPTY_REMOVES.items():
        if name in environ and not environ[name].strip():
            draft.table("targets").pop(target, None)
    if environ.get("DATABASE_URL", "").strip() and "DATABASE_URL" not in taken:
        draft.notices.append(
            "DATABASE_URL is set, but targets of the kind postgres come in a later version: "
            "it is ignored."
        )


def _target(draft: Draft, target: str, kind: str, given: Mapping[str, str]) -> None:
    if target not in draft.table("targets"):
        draft.made[target] = "environment"
    for name, option in given.items():
        draft.put(("targets", target, option), f"env:{name}", variable(name))
    table = draft.table("targets", target)
    table.setdefault("kind", kind)
    if target == "salesforce":
        links = table.setdefault("links", {})
        if isinstance(links, dict):
            links.setdefault("secrets", SECRET_TARGET)


def _secret_target(draft: Draft, state_dir: Path) -> None:
    """The place where refreshed Salesforce tokens are kept, unless the file has its own."""
    if SECRET_TARGET not in draft.table("targets"):
        made = {"kind": "file_secrets", "path": str(state_dir / "secrets")}
        draft.made[SECRET_TARGET] = "built in"
        draft.put(("targets", SECRET_TARGET), made, f"built-in target {SECRET_TARGET}")


def _referenced(value: object) -> Iterator[str]:
    """The variables that references in the file name."""
    if isinstance(value, str):
        if match := _REFERENCE.fullmatch(value):
            yield match[1]
    elif isinstance(value, dict):
        for item in value.values():
            yield from _referenced(item)
    elif isinstance(value, list):
        for item in value:
            yield from _referenced(item)
