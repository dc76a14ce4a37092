"""Files of the server that others must not reach."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from mcp_ops.app import open_app
from mcp_ops.commands.doctor import of_state_directory
from mcp_ops.settings import Settings


async def test_no_file_of_the_state_is_open_to_others(tmp_path: Path) -> None:
    before = os.umask(0)  # the worst that a host can start us with
    try:
        state = tmp_path / "state"
        async with open_app(Settings(state_dir=state), environ={}) as app:
            await app.stores.failed.count()
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in state.rglob("*")}
    finally:
        os.umask(before)
    assert {"state.db", "state.key", "sealing.key"} <= set(modes)
    assert not [name for name, mode in modes.items() if mode & 0o077]
    assert stat.S_IMODE(state.stat().st_mode) == 0o700


@pytest.mark.parametrize(("mode", "state"), [(0o700, "ok"), (0o755, "ok"), (0o777, "warn")])
def test_the_doctor_warns_of_a_state_directory_that_others_can_write(
    tmp_path: Path, mode: int, state: str
) -> None:
    tmp_path.chmod(mode)
    assert of_state_directory(tmp_path).state == state
