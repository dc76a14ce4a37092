"""What is said of a call that nobody made."""

from __future__ import annotations

from mcp_ops.guard.explain import NothingSet, required, supposed
from mcp_ops.guard.policy import Policy
from mcp_ops.settings import PolicyRule
from tests.guard.bench import AGENT, WHY, shelf_target
from tests.guard.shelf import SHELF_TOOLS


def test_a_confirm_of_a_destroy_is_said_to_need_an_approval() -> None:
    policy = Policy((PolicyRule(require="confirm"),), "solo")
    said = {}
    for name in ("put_item", "drop_item"):
        call = supposed(SHELF_TOOLS[name], {"name": "a", "reason": WHY}, AGENT, ["shelf"])
        said[name] = required(call, policy.decide(call, shelf_target()))
    assert said == {"put_item": "confirm", "drop_item": "approve"}


async def test_by_configuration_alone_nobody_has_set_anything() -> None:
    nothing = NothingSet()
    assert (await nothing.modes(), await nothing.partitions(), await nothing.grants()) == (
        (),
        (),
        (),
    )
