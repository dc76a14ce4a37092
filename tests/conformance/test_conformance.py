"""The official suite, both frozen sets in full, against the shipping application."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients.install import Installed
from tests.clients.live import LiveLab
from tests.conformance.setups import SETUPS
from tests.conformance.suite import REVISIONS, run_suite

# How many scenarios each frozen set has: a suite that runs fewer proves less.
SCENARIOS = {"2026-07-28": 37, "2025-11-25": 30}
# Those that are not required, and hold all the same.
BESIDE = {
    "2026-07-28": {
        "http-custom-header-server-validation",
        "http-header-validation",
        "json-schema-2020-12",
    },
    "2025-11-25": {"json-schema-2020-12", "server-session-lifecycle"},
}


@pytest.mark.parametrize("revision", REVISIONS)
@pytest.mark.parametrize("setup", SETUPS)
async def test_the_server_conforms_in_every_required_scenario(
    setup: str, revision: str, suite_lab: LiveLab, clients: Installed, tmp_path: Path
) -> None:
    async with SETUPS[setup](suite_lab, tmp_path, revision) as reached:
        ran = await run_suite(clients, reached.url, revision, tmp_path / "results")
    assert ran.failed == {}, ran.output[-1_000:]
    assert ran.code == 0
    assert len(ran.required) == SCENARIOS[revision]
    assert {name for name in BESIDE[revision] if not ran.passed(name)} == set()
    if setup == "replicas":
        assert reached.proxy is not None
        # Both took part; with sessions, whoever gave one out.
        assert min(reached.proxy.served.values()) > SCENARIOS[revision]
        assert bool(reached.proxy.pinned) == (revision < "2026")
