"""`mcp-ops init`: a configuration to start from, and the lines that a client needs."""

from __future__ import annotations

import json
import os
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from mcp_ops.commands.exits import Exit
from mcp_ops.commands.output import fail, say, show_json
from mcp_ops.commands.session import JsonOption
from mcp_ops.errors import ConfigurationError
from mcp_ops.settings_file import user_file

SERVER_NAME = "mcp-ops"

TEMPLATE = """\
# Configuration of mcp-ops. Everything is optional; docs/configuration.md lists all settings.
# Secrets do not stand here: write env:NAME (an environment variable) or file:PATH instead.

[server]
# transport = "stdio"          # stdio, sse or http
# host = "127.0.0.1"           # another host needs a key
# port = 8000

# [[server.keys]]              # who may call over sse and http
# name = "foundry"
# key = "env:FOUNDRY_KEY"
# scopes = ["ops:read", "ops:write"]

[guard]
# mode = "normal"              # a floor: normal, restrictive, critical, read_only, lockdown
# profile = "solo"             # who has to agree to what: solo, team, strict

# [[guard.protected]]          # what no agent changes
# target = "*"
# object = "payments*"
# reason = "the payments team changes this itself"

# [[guard.freeze]]
# start = "2026-12-23T18:00:00+01:00"
# end = "2027-01-02T08:00:00+01:00"
# reason = "end-of-year freeze"

# [[policy]]                   # the first rule that matches wins
# tool = "restart_*"
# environment = "prod"
# require = "approve"          # none, confirm, approve, deny

# Systems. The name is yours; it is what the agent sees.
#
# [targets.crm]
# kind = "salesforce"
# environment = "prod"
# instance_url = "https://example.my.salesforce.com"
# client_id = "env:SF_CLIENT_ID"
# client_secret = "env:SF_CLIENT_SECRET"
# refresh_token = "env:SF_REFRESH_TOKEN"
# [targets.crm.links]
# secrets = "vault"            # where refreshed tokens are kept
#
# [targets.vault]
# kind = "file_secrets"
# path = "secrets"             # relative to this file
#
# [targets.cache]
# kind = "redis"
# url = "env:REDIS_URL"
#
# [targets.shop]
# kind = "kubernetes"
# kubeconfig = "~/.kube/config"
"""


def init(
    config: Annotated[
        Path | None,
        typer.Option("--config", help="Where to write; else the user's configuration directory."),
    ] = None,
    client: Annotated[
        Path | None,
        typer.Option(
            "--client",
            help="Add the server to this client configuration, such as claude_desktop_config.json.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite what is there.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a configuration file, and print or write what a client needs to start the server."""
    path = (config or user_file()).absolute()
    # Resolved: replacing a link would cut off whoever keeps the real file elsewhere.
    client = client.resolve() if client is not None else None
    try:
        # The client's file first: it is the one that can turn out to be unusable.
        text = _client_text(client, path, force=force) if client is not None else ""
        write_private(path, TEMPLATE, force=force)
        if client is not None:
            write_private(client, text, force=True)
    except ConfigurationError as exc:
        raise typer.Exit(fail(exc, as_json=as_json)) from exc
    _tell(path, client, as_json=as_json)
    raise typer.Exit(Exit.OK)


def server_entry(config: Path) -> dict[str, Any]:
    """The entry of a client's `mcpServers`: absolute paths, since clients start servers with a
    bare environment and no certain folder."""
    command = own_command()
    return {
        "command": command[0],
        "args": [*command[1:], "serve", "--transport", "stdio", "--config", str(config)],
    }


def own_command() -> list[str]:
    """How to start this installation: its script, or its interpreter with `-m`."""
    name = "mcp-ops.exe" if sys.platform == "win32" else "mcp-ops"
    for folder in (Path(sys.executable).parent, Path(sysconfig.get_path("scripts"))):
        if (folder / name).is_file():
            return [str((folder / name).absolute())]
    # Not resolved: in a virtual environment the link is what leads to its packages.
    return [str(Path(sys.executable).absolute()), "-m", "mcp_ops"]


def write_private(path: Path, text: str, *, force: bool) -> None:
    """Write a file that only its owner can read, completely or not at all.

    Raises `ConfigurationError` when it exists and `force` is false, or when it can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A temporary file is made with mode 0600 and keeps it when it takes the other's place.
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".mcp-ops-")
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
                file.write(text)
            _put(Path(temporary), path, force=force)
        finally:
            Path(temporary).unlink(missing_ok=True)
    except FileExistsError as exc:
        raise ConfigurationError(
            f"{path} exists already and was left as it is.", hint="--force overwrites it."
        ) from exc
    except OSError as exc:
        raise ConfigurationError(f"{path} cannot be written ({exc.strerror or 'error'}).") from exc


def _put(temporary: Path, path: Path, *, force: bool) -> None:
    if force:
        temporary.replace(path)
        return
    # Claims the name, so that of two at once one is told that the file exists.
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    temporary.replace(path)


def _client_text(client: Path, config: Path, *, force: bool) -> str:
    """A client's configuration with our server in it and everything else as it was."""
    whole: Any = {}
    if client.exists():
        try:
            whole = json.loads(client.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError) as exc:
            raise ConfigurationError(
                f"{client} cannot be read as JSON; nothing was written."
            ) from exc
    servers = whole.setdefault("mcpServers", {}) if isinstance(whole, dict) else None
    if not isinstance(servers, dict):
        raise ConfigurationError(
            f"{client} has no object mcpServers; nothing was written.",
            hint="mcp-ops init without --client prints the entry to add by hand.",
        )
    if SERVER_NAME in servers and not force:
        raise ConfigurationError(
            f"{client} has a server {SERVER_NAME} already; nothing was written.",
            hint="--force replaces it.",
        )
    servers[SERVER_NAME] = server_entry(config)
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def _tell(path: Path, client: Path | None, *, as_json: bool) -> None:
    entry = {"mcpServers": {SERVER_NAME: server_entry(path)}}
    if as_json:
        show_json({"config": str(path), "client": str(client) if client else "", **entry})
        return
    say(f"Wrote {path}")
    if client is not None:
        say(f"Wrote {client}: restart the client.")
    else:
        say("For a client such as Claude Desktop (claude_desktop_config.json):")
        say(json.dumps(entry, indent=2, ensure_ascii=False))
    say("Next: mcp-ops doctor")
