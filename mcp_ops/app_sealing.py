"""The keys that seal what clients carry back: of all replicas, or of this machine."""

from __future__ import annotations

import hashlib
import os
import secrets

from pydantic import SecretStr

from mcp_ops.settings import Settings


def question_keys(settings: Settings) -> list[bytes]:
    """The keys that seal questions to clients: the first seals, all open. Deployments that roll
    from one key to the next have both for a while."""
    chosen = settings.store.question_keys
    return [_for_questions(key) for key in chosen] or [installation_key(settings)]


def installation_key(settings: Settings) -> bytes:
    """The key of all replicas, else one a state directory, so that a restart and the processes
    beside this one have the same."""
    if settings.store.key is not None:
        return _for_questions(settings.store.key)
    path = settings.state_dir / "sealing.key"
    try:
        key = path.read_bytes()
    except FileNotFoundError:
        key = b""
    if len(key) == 32:
        return key
    fresh = secrets.token_bytes(32)
    draft = path.with_name(f"sealing.{secrets.token_hex(4)}.tmp")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(fresh)
    try:
        # Whoever links first wins; the others read what is there.
        draft.replace(path) if key else os.link(draft, path)
    except FileExistsError:
        fresh = path.read_bytes()
    finally:
        draft.unlink(missing_ok=True)
    return fresh


def _for_questions(key: SecretStr) -> bytes:
    return hashlib.sha256(b"questions" + key.get_secret_value().encode()).digest()
