"""A TOML file read whole, with messages that say what is wrong with it and where."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from mcp_ops.errors import ConfigurationError

_LARGEST_FILE = 1_048_576


def read_toml(path: Path) -> tuple[dict[str, Any], str]:
    """What a file holds, and its text. Raises `ConfigurationError` that names the line."""
    try:
        raw = path.read_bytes()
        if len(raw) > _LARGEST_FILE:
            raise ConfigurationError(f"{path}: the file is larger than 1 MiB.")
        # Editors on Windows put a byte-order mark in front, which TOML does not know.
        text = raw.decode("utf-8-sig")
        return tomllib.loads(text), text
    except UnicodeDecodeError as exc:
        raise ConfigurationError(f"{path}: the file is not UTF-8 text.") from exc
    except tomllib.TOMLDecodeError as exc:
        raise ConfigurationError(f"{path}: this is not TOML: {exc}.") from exc
    except OSError as exc:
        raise ConfigurationError(
            f"{path}: the file cannot be read ({exc.strerror or 'error'})."
        ) from exc
