"""The unit for systemd: read by systemd's own checker where there is one, and by eye elsewhere."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from mcp_ops.commands.exits import Exit
from mcp_ops.transport import DRAIN_S
from tests.deploy.tools import ROOT

UNIT = ROOT / "deploy" / "systemd" / "mcp-ops.service"
ANALYZE = shutil.which("systemd-analyze")
# Of 10; what is left are the network, which it serves, and the sight of the file system.
MOST_EXPOSED = 2.0


def unit() -> dict[str, list[str]]:
    """Every key of the service, with each of its values."""
    lines = UNIT.read_text(encoding="utf-8").partition("[Service]")[2].partition("[Install]")[0]
    found: dict[str, list[str]] = {}
    for key, value in re.findall(r"^(\w+)=(.*)$", lines, re.MULTILINE):
        found.setdefault(key, []).append(value)
    return found


def test_a_stop_leaves_the_time_that_the_drain_takes() -> None:
    assert int(unit()["TimeoutStopSec"][0]) > DRAIN_S + 5


def test_a_wrong_configuration_is_not_started_again_and_again() -> None:
    assert unit()["RestartPreventExitStatus"] == [str(int(Exit.CONFIGURATION))]


def test_it_is_nobody_and_may_do_nothing_but_serve() -> None:
    found = unit()
    assert found["DynamicUser"] == ["yes"]
    assert found["CapabilityBoundingSet"] == [""]
    assert found["ProtectSystem"] == ["strict"]
    assert found["SystemCallFilter"] == ["@system-service", "~@privileged @resources"]


if ANALYZE is not None:  # it comes with systemd, which has no package of its own for it
    PROGRAM = ANALYZE

    def test_systemd_finds_nothing_wrong_with_it(tmp_path: Path) -> None:
        here = tmp_path / UNIT.name
        text = UNIT.read_text(encoding="utf-8")
        here.write_text(text.replace("/opt/mcp-ops/bin/mcp-ops", "/bin/true"), encoding="utf-8")
        assert _said("verify", str(here)) == ""
        exposure = _said("security", "--offline=true", "--no-pager", str(here))
        (level,) = re.findall(r"Overall exposure level for mcp-ops.service: ([\d.]+)", exposure)
        assert float(level) <= MOST_EXPOSED

    def _said(*words: str) -> str:
        done = subprocess.run(
            [PROGRAM, *words], capture_output=True, text=True, encoding="utf-8", check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr
