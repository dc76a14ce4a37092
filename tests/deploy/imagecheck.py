"""Builds the image's steps and runs the server as the image says: `make imagecheck`.

Half a minute of processor time, and so not among the tests of every change.
"""

from __future__ import annotations

import pytest

from mcp_ops.commands.exits import Exit
from mcp_ops.transport import DRAIN_S
from tests.deploy.dockerfile import read
from tests.deploy.image import ROOT, check, possible


@pytest.mark.skipif(not possible(), reason="needs Linux, root, and mount namespaces")
def test_the_image_builds_and_runs_as_it_says() -> None:
    final = read(ROOT / "Dockerfile")[1][-1]
    seen = check()
    assert seen["exit_without_a_key"] == Exit.CONFIGURATION
    assert (seen["health"], seen["tools_without_key"]) == (200, 401)
    assert seen["healthcheck"].startswith("0")
    assert seen["uid"] == int(final.last("USER").text.split(":")[0])
    assert "Read-only file system" in seen["may_write_to_root"]
    assert "No module named pip" in seen["pip"]
    assert "hatchling" not in seen["programs"]
    assert seen["exit"] == 0
    assert seen["stopped_after_s"] < DRAIN_S
