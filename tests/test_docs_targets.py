"""The index of targets names every kind, and says of each platform what it can do."""

from __future__ import annotations

import re
from pathlib import Path

from mcp_ops.capabilities.deployment_config import ConfigurablePlatform
from mcp_ops.capabilities.deployments import (
    AutoscaledPlatform,
    DeploymentPlatform,
    InstancePlatform,
    PausablePlatform,
    RevisionedPlatform,
    ScalablePlatform,
    SizedPlatform,
    SlottedPlatform,
    StoppablePlatform,
)
from mcp_ops.capabilities.jobs import JobControl, JobScheduler
from mcp_ops.opening import KINDS, adapter_class, implements

PAGE = (Path(__file__).parent.parent / "docs" / "targets" / "README.md").read_text(encoding="utf-8")
# The rows of the second table, in their order.
ROWS: list[tuple[type, ...]] = [
    (DeploymentPlatform,),
    (StoppablePlatform,),
    (RevisionedPlatform,),
    (ScalablePlatform,),
    (AutoscaledPlatform, PausablePlatform),
    (SlottedPlatform,),
    (InstancePlatform,),
    (SizedPlatform,),
    (ConfigurablePlatform,),
    (JobScheduler, JobControl),
]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def test_the_index_has_every_kind_with_its_extra() -> None:
    rows = re.findall(r"^\| \[`(\w+)`\]\(([\w-]+)\.md\) \|.*\| `?(\w*)`? ?\|$", PAGE, re.MULTILINE)
    expected = [(kind, kind.replace("_", "-"), adapter_class(kind).extra) for kind in sorted(KINDS)]
    assert rows == expected


def test_the_index_says_what_each_platform_can_do() -> None:
    lines = PAGE.split("## Which platform can do what")[1].strip().splitlines()
    kinds = [cell.strip("`") for cell in cells(lines[0])[1:]]
    able = {
        kind
        for kind in KINDS
        for row in ROWS
        for each in row
        if implements(adapter_class(kind), each)
    }
    assert set(kinds) == able
    for line, row in zip(lines[2:], ROWS, strict=False):
        title, *said = cells(line)
        for kind, cell in zip(kinds, said, strict=True):
            real = {implements(adapter_class(kind), each) for each in row}
            assert real == {bool(cell)}, (title, kind)
