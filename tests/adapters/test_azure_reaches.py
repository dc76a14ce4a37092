"""What a change of App Service reaches besides its app."""

from __future__ import annotations

from pathlib import Path

from tests.adapters.azure_writes import ROWS
from tests.azure_lab import lab
from tests.kubernetes_lab import answering

BY_NAME = {row.name: row for row in ROWS}
STAGING = "shop-api/slots/staging"


async def test_what_else_a_change_reaches_is_told(tmp_path: Path) -> None:
    async with lab(tmp_path, restart_workers=True, tiers=("P2v3",)) as place:
        platform = place.platform
        assert (await platform.plan_swap("shop-api", "staging")).reaches == [STAGING]
        sharing = (await platform.plan_scale("shop-api", 3)).reaches or []
        assert {STAGING, "shop-web"} <= set(sharing)
        assert "shop-api" not in sharing
        size = await platform.plan_resources("shop-api", memory="", cpu="", tier="P2v3")
        assert (size.reaches or []) == sharing
        worker = await BY_NAME["worker"].plan(place)
        assert "shop-api" in (worker.reaches or [])
        place.stand_in.world.farms["shop-plan"].extra = {"numberOfSites": 101}
        assert (await platform.plan_scale("shop-api", 3)).reaches is None
        assert (await BY_NAME["worker"].plan(place)).reaches is None
        place.stand_in.world.farms["shop-plan"].extra = {}
        denied = answering(403, {"error": {"code": "AuthorizationFailed", "message": "no"}})
        place.between.inject("GET", "/serverfarms/shop-plan/sites", denied)
        assert (await platform.plan_scale("shop-api", 3)).reaches is None
