"""The bundle for Claude Desktop: valid by the vendor's own program, and started as a host does."""

from __future__ import annotations

import json
import os
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from mcp_ops.settings_environ import TARGET_VARIABLES, VARIABLES
from tests.clients.lines import started
from tests.deploy.tools import NODE_LOCK, ROOT, Mcpb, Tools, install_mcpb, run

SOURCE = ROOT / "deploy" / "claude-desktop"
BUILD = SOURCE / "build.py"
# The revision that the host opens with.
REVISION = "2025-11-25"
SECRETS = {"SF_ACCESS_TOKEN", "SF_CLIENT_SECRET", "SF_REFRESH_TOKEN", "REDIS_URL"}


@pytest.fixture(scope="module")
def mcpb() -> Mcpb:
    return install_mcpb()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("bundle") / "mcp-ops.mcpb"
    run([sys.executable, str(BUILD), str(target)])
    return target


@pytest.fixture(scope="module")
def unpacked(bundle: Path, mcpb: Mcpb) -> Path:
    folder = bundle.parent / "unpacked"
    run(mcpb.command("unpack", str(bundle), str(folder)))
    return folder


@pytest.fixture(scope="module")
def manifest(unpacked: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((unpacked / "manifest.json").read_text(encoding="utf-8"))
    return found


def test_the_vendor_s_program_finds_the_bundle_valid(unpacked: Path, mcpb: Mcpb) -> None:
    said = run(mcpb.command("validate", str(unpacked / "manifest.json")))
    assert "Manifest schema validation passes" in said


def test_the_manifest_is_valid_against_the_schema_of_its_version(
    manifest: dict[str, Any], mcpb: Mcpb
) -> None:
    schemas = mcpb.program.parent.parent
    version = manifest["manifest_version"]
    text = (schemas / f"mcpb-manifest-v{version}.schema.json").read_text(encoding="utf-8")
    jsonschema.validate(manifest, json.loads(text))
    assert (
        manifest["version"]
        == tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
            "version"
        ]
    )


def test_settings_are_ours_and_secrets_are_kept_as_such(manifest: dict[str, Any]) -> None:
    environment = manifest["server"]["mcp_config"]["env"]
    known = {"MCP_OPS_CONFIG", *VARIABLES}
    known |= {name for _, options in TARGET_VARIABLES.values() for name in options}
    assert environment.keys() <= known
    asked = manifest["user_config"]
    fields = {
        name: value.removeprefix("${user_config.")[:-1] for name, value in environment.items()
    }
    assert set(fields.values()) == asked.keys()
    assert {name for name, field in fields.items() if asked[field].get("sensitive")} == SECRETS
    # A host leaves a reference to what is neither set nor has a default as it is.
    assert [name for name, each in asked.items() if "default" not in each] == []
    assert asked["mode"]["default"] == "read_only"


def test_the_same_sources_make_the_same_bundle_without_anything_else(
    bundle: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again.mcpb"
    run([sys.executable, str(BUILD), str(again)])
    assert again.read_bytes() == bundle.read_bytes()
    with zipfile.ZipFile(bundle) as opened:
        names = opened.namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"manifest.json", "pyproject.toml", "README.md", "server"}
    assert [name for name in names if name.endswith((".pyc", ".env", ".db"))] == []


def test_every_dependency_has_one_version(unpacked: Path) -> None:
    project = tomllib.loads((unpacked / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert len(project["dependencies"]) > 40
    assert [each for each in project["dependencies"] if "==" not in each.split(";")[0]] == []


async def test_the_unpacked_bundle_lists_its_tools_in_a_bare_environment(
    unpacked: Path, mcpb: Mcpb, tools: Tools, tmp_path: Path
) -> None:
    library = mcpb.program.parent.parent / "index.js"
    resolve = [str(mcpb.node), str(NODE_LOCK.parent / "resolve.mjs"), str(library), str(unpacked)]
    entry = json.loads(run([*resolve, json.dumps({"mode": "restrictive"})]))
    assert entry["env"]["MCP_RATE_LIMIT_MODE"] == "restrictive"
    assert entry["env"]["REDIS_URL"] == ""
    bare = {
        "HOME": str(tmp_path),
        "PATH": f"{tools.bin}:/usr/bin:/bin",
        "UV_PYTHON": sys.executable,
        "UV_CACHE_DIR": str(tools.bin.parent.parent / "uv-cache"),
        "VIRTUAL_ENV": "",
        **{name: value for name, value in os.environ.items() if name.startswith("SSL_CERT")},
        **entry["env"],
    }
    uv = str(tools.bin / entry["command"])
    # What a host's first start does; it takes as long as the network.
    run(
        [
            "/usr/bin/env",
            "-i",
            *(f"{k}={v}" for k, v in bare.items()),
            uv,
            "sync",
            "--directory",
            str(unpacked),
        ]
    )
    said = tmp_path / "stderr"
    with said.open("wb") as stderr:
        async with started([uv, *entry["args"]], bare, Path("/"), stderr) as server:
            await server.greet(REVISION)
            listed = await server.ask("tools/list")
            called = await server.ask("tools/call", name="get_guard_status", arguments={})
            await server.stdin.aclose()
            assert await server.code() == 0
    assert said.read_text(encoding="utf-8") == ""
    names = {tool["name"] for tool in listed["result"]["tools"]}
    assert {"get_health", "search_audit", "list_deadletters"} <= names
    assert "restrictive" in json.dumps(called["result"]["structuredContent"])
