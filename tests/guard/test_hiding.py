"""Which tools are not listed: those that no target lets a principal call in the modes of now."""

from __future__ import annotations

from pathlib import Path

from mcp_ops.catalog import ALL_TOOLS
from mcp_ops.guard.hiding import Hiding, Shown
from mcp_ops.ports import PRINCIPAL_SCOPE, Mode
from tests.guard.bench import AGENT, Bench, bench, shelf_target
from tests.guard.shelf import SHELF_TOOLS

WHO = AGENT.principal
INFOS = (shelf_target(), shelf_target("depot"), shelf_target("metered", metered=True))


def shown(**targets: tuple[str, ...]) -> Shown:
    tools = {**ALL_TOOLS, **SHELF_TOOLS}
    return {name: (tools[name], where) for name, where in targets.items()}


BOTH = ("shelf", "depot")
TOOLS = shown(
    look_at_item=BOTH,
    put_item=BOTH,
    drop_item=("shelf",),
    mend_shelf=("shelf",),
    list_items=("metered",),
    set_guard_mode=BOTH,
    get_health=(),
)


async def hidden(b: Bench, principal: str = WHO) -> set[str]:
    return set(await Hiding(b.stores.hot, b.targets).hidden(TOOLS, principal))


async def test_a_tool_is_hidden_when_no_target_of_it_is_left(tmp_path: Path) -> None:
    async with bench(tmp_path, infos=INFOS) as b:
        assert await hidden(b) == set()
        await b.set_mode(Mode.READ_ONLY, scope="shelf")
        assert await hidden(b) == {"drop_item", "mend_shelf"}
        await b.set_mode(Mode.READ_ONLY, scope="depot")
        assert await hidden(b) == {"drop_item", "mend_shelf", "put_item"}
        await b.set_mode(Mode.RESTRICTIVE, scope="metered")
        assert await hidden(b) == {"drop_item", "mend_shelf", "put_item", "list_items"}


async def test_tools_on_the_server_itself_stay_in_every_mode(tmp_path: Path) -> None:
    async with bench(tmp_path, infos=INFOS) as b:
        await b.set_mode(Mode.CRITICAL, scope="*")
        assert await hidden(b) == {"look_at_item", "put_item", "drop_item", "list_items"}
        await b.set_mode(Mode.LOCKDOWN, scope="*")
        assert await hidden(b) == TOOLS.keys() - {"set_guard_mode", "get_health"}


async def test_a_principals_mode_hides_tools_from_it_alone(tmp_path: Path) -> None:
    async with bench(tmp_path, infos=INFOS) as b:
        await b.set_mode(Mode.READ_ONLY, scope=f"{PRINCIPAL_SCOPE}{WHO}")
        assert await hidden(b) == {"put_item", "drop_item", "mend_shelf"}
        assert await hidden(b, "agent:another") == set()


async def test_a_tool_without_a_target_is_hidden(tmp_path: Path) -> None:
    async with bench(tmp_path, infos=INFOS) as b:
        hiding = Hiding(b.stores.hot, b.targets)
        assert await hiding.hidden(shown(put_item=()), WHO) == {"put_item"}


async def test_the_state_changes_with_what_is_hidden_and_with_nothing_else(tmp_path: Path) -> None:
    async with bench(tmp_path, infos=INFOS) as b:
        hiding = Hiding(b.stores.hot, b.targets)
        seen = [await hiding.state()]
        await b.set_mode(Mode.READ_ONLY, scope="shelf")
        seen.append(await hiding.state())
        await b.set_mode(Mode.READ_ONLY, scope="depot")
        seen.append(await hiding.state())
        await b.set_mode(Mode.LOCKDOWN, scope="depot")
        seen.append(await hiding.state())
        assert len(set(seen)) == 4
        b.clock.advance(1)
        await b.set_mode(Mode.LOCKDOWN, scope="depot", expires_at=b.clock.now() + 60)
        assert await hiding.state() == seen[-1]


async def test_nothing_is_hidden_while_nobody_knows_the_modes(tmp_path: Path) -> None:
    async with bench(tmp_path, infos=INFOS) as b:
        await b.set_mode(Mode.LOCKDOWN, scope="*")
        hiding = Hiding(b.stores.hot, b.targets)
    assert await hiding.hidden(TOOLS, WHO) == frozenset()
    assert await hiding.state() is None
