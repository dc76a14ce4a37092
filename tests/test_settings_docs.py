"""docs/configuration.md names every setting and every variable, and its example loads."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import BaseModel

from mcp_ops.settings import Settings
from mcp_ops.settings_environ import KEY_VARIABLE, TARGET_VARIABLES, VARIABLES
from mcp_ops.settings_file import CONFIG_VARIABLE, load_settings
from mcp_ops.settings_problems import model_in
from mcp_ops.settings_telemetry import DISABLED
from mcp_ops.settings_telemetry import VARIABLES as TELEMETRY

PAGE = (Path(__file__).parent.parent / "docs" / "configuration.md").read_text(encoding="utf-8")
# Filled in by loading, or written in another way in the file.
NOT_IN_THE_FILE = {"source", "notices", "rule_places", "origin", "options"}


def fields(model: type[BaseModel]) -> set[str]:
    found: set[str] = set()
    for name, info in model.model_fields.items():
        found.add(name)
        if (inner := model_in(info.annotation)) is not None:
            found |= fields(inner)
    return found - NOT_IN_THE_FILE


def test_every_setting_is_documented() -> None:
    words = set(re.findall(r"[a-z_]+", PAGE))
    assert fields(Settings) - words == set()


def test_every_variable_is_documented() -> None:
    variables = {CONFIG_VARIABLE, KEY_VARIABLE, "MCP_OPS_STATE_DIR", "DATABASE_URL", *VARIABLES}
    variables |= {DISABLED, *TELEMETRY}
    for _, options in TARGET_VARIABLES.values():
        variables |= options.keys()
    assert {name for name in variables if f"`{name}`" not in PAGE} == set()


def test_the_example_loads(tmp_path: Path) -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    config = tmp_path / "config.toml"
    config.write_text(example, encoding="utf-8")
    assert [target.name for target in load_settings(config, {}, {}).targets] == ["crm", "vault"]
