"""Opening the stores that the settings name, and those of this machine where a person may."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from mcp_ops.clock import ManualClock, SystemClock
from mcp_ops.errors import StoreUnavailable
from mcp_ops.lab.redis import valkey
from mcp_ops.ports import Mode
from mcp_ops.records import AuditQuery
from mcp_ops.stores.degraded import SteadyHotStore
from mcp_ops.stores.opening import ALONE, Place, _merge_alone, open_stores
from mcp_ops.stores.sqlite import embedded
from tests.adapters.redis_lab import free_port
from tests.stores import records

CLOCK = SystemClock()


async def test_one_file_of_this_machine_is_the_default(tmp_path: Path, clock: ManualClock) -> None:
    floor = (records.mode(clock, mode=Mode.READ_ONLY, source="environment"),)
    async with open_stores(Place(directory=tmp_path), clock, floor=floor) as stores:
        await stores.ledger.change(records.entry(clock))
        assert [entry.mode for entry in await stores.hot.modes()] == [Mode.READ_ONLY]
        assert await stores.approvals.recent(5) == []
        assert await stores.failed.count() == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert {"state.db", "state.key"} <= names
    assert ALONE not in names


async def test_times_and_numbers_of_what_is_kept_reach_the_store(
    tmp_path: Path, clock: ManualClock
) -> None:
    place = Place(directory=tmp_path, keeping={"failed_items": 1})
    async with open_stores(place, clock) as stores:
        await stores.failed.add(records.failed(clock, "1"))
        await stores.failed.add(records.failed(clock, "2"))
        assert await stores.failed.count() == 1


async def test_a_shared_hot_store_keeps_its_facts_in_the_ledger(tmp_path: Path) -> None:
    (tmp_path / "redis").mkdir()
    async with valkey(tmp_path / "redis", free_port()) as server:
        place = Place(directory=tmp_path / "state", hot=server.url)
        async with open_stores(place, CLOCK) as stores:
            assert isinstance(stores.hot, SteadyHotStore)
            await stores.hot.set_mode(records.mode(CLOCK, mode=Mode.LOCKDOWN))
            assert any("mode" in name for name in await stores.ledger.facts())
            async with server.client() as eyes:
                await eyes.flushall()
            refused = await stores.hot.admit(records.request())
            assert not refused.granted
            assert not refused.degraded


async def test_a_start_without_the_shared_store_ends_with_what_to_do(tmp_path: Path) -> None:
    place = Place(directory=tmp_path, hot=f"redis://127.0.0.1:{free_port()}/0")
    with anyio.fail_after(5), pytest.raises(StoreUnavailable) as caught:
        async with open_stores(place, CLOCK):
            pass
    assert caught.value.hint
    assert "127.0.0.1" not in caught.value.message


async def test_an_operator_with_break_glass_works_on_a_file_of_this_machine(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = Place(directory=tmp_path, hot=f"redis://127.0.0.1:{free_port()}/0", alone=True)
    with anyio.fail_after(5):
        async with open_stores(place, CLOCK) as stores:
            assert (await stores.hot.admit(records.request(fresh=True))).granted
    assert (tmp_path / ALONE).exists()
    assert "nothing stops the same write elsewhere" in caplog.text
    assert "127.0.0.1" not in caplog.text


async def test_what_was_done_alone_is_merged_into_the_shared_ledger_once(
    tmp_path: Path, clock: ManualClock
) -> None:
    file = tmp_path / ALONE
    async with embedded.open_stores(tmp_path / "shared.db", clock) as shared:
        await _merge_alone(file, clock, shared.ledger)  # nobody was alone
        assert not file.exists()
        async with embedded.open_stores(file, clock) as alone:
            for number in range(450):  # more than two batches
                await alone.ledger.change(records.entry(clock, f"c{number}", evidence={"x": 1}))
        await _merge_alone(file, clock, shared.ledger)
        await _merge_alone(file, clock, shared.ledger)
        async with embedded.open_stores(file, clock) as alone:
            await alone.ledger.change(records.entry(clock, "later"))
        await _merge_alone(file, clock, shared.ledger)
        lines = (await shared.ledger.search(AuditQuery(limit=1_000)))[::-1]
        assert [line.call_id for line in lines] == [*(f"c{n}" for n in range(450)), "later"]
        assert lines[0].evidence == {"x": 1, "merged_from": ALONE}
        assert len({line.writer for line in lines}) == 1
        assert (await shared.ledger.verify()).ok


@pytest.mark.parametrize(
    ("library", "place", "extra"),
    [
        ("redis", 'hot="redis://x/0"', "redis"),
        ("psycopg", 'ledger="postgresql://x/x", key="k"', "postgres"),
    ],
)
def test_a_library_that_is_not_installed_is_named_with_its_extra(
    tmp_path: Path, library: str, place: str, extra: str
) -> None:
    """In a process of its own, which finds no such library."""
    program = f"""
import sys, anyio, pathlib
from mcp_ops.clock import SystemClock
from mcp_ops.errors import ConfigurationError
from mcp_ops.stores.opening import Place, open_stores
sys.modules["{library}"] = None
async def main():
    async with open_stores(Place(directory=pathlib.Path("{tmp_path}"), {place}), SystemClock()):
        pass
try:
    anyio.run(main)
except ConfigurationError as error:
    print(error.message, error.hint)
"""
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30
    )
    setting = "store.hot" if library == "redis" else "store.ledger"
    assert ran.stdout.strip() == (
        f"{setting} needs the library {library}, which is not installed. "
        f"Install it: pip install 'mcp-ops[{extra}]'."
    )
