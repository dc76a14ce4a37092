"""The template for Azure: its grammar, its names, and what must never be in it.

No compiler of Bicep is to be had offline; a parser reads the files, and `az deployment group
what-if` is what tells the rest (docs/deploy/azure-app-service.md).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from mcp_ops.ports import Mode
from mcp_ops.settings_environ import KEY_VARIABLE, TARGET_VARIABLES, VARIABLES
from mcp_ops.settings_file import CONFIG_VARIABLE, load_settings
from tests.deploy.bicep import Names, names, parsed
from tests.deploy.tools import ROOT, Tools

AZURE = ROOT / "deploy" / "azure"
MAIN = AZURE / "main.bicep"
FILES = sorted(AZURE.rglob("*.bicep"))
# Each was found in the vendor's reference or in a client library that is generated from it.
API_VERSIONS = {
    "Microsoft.Authorization/roleAssignments": "2022-04-01",
    "Microsoft.Cache/redisEnterprise": "2025-07-01",
    "Microsoft.Cache/redisEnterprise/databases": "2025-07-01",
    "Microsoft.ContainerRegistry/registries": "2023-07-01",
    "Microsoft.DBforPostgreSQL/flexibleServers": "2025-08-01",
    "Microsoft.DBforPostgreSQL/flexibleServers/databases": "2025-08-01",
    "Microsoft.DBforPostgreSQL/flexibleServers/firewallRules": "2025-08-01",
    "Microsoft.Insights/components": "2020-02-02",
    "Microsoft.Insights/diagnosticSettings": "2021-05-01-preview",
    "Microsoft.KeyVault/vaults": "2023-07-01",
    "Microsoft.KeyVault/vaults/secrets": "2023-07-01",
    "Microsoft.ManagedIdentity/userAssignedIdentities": "2023-01-31",
    "Microsoft.Network/privateDnsZones": "2024-06-01",
    "Microsoft.Network/privateDnsZones/virtualNetworkLinks": "2024-06-01",
    "Microsoft.Network/privateEndpoints": "2024-05-01",
    "Microsoft.Network/privateEndpoints/privateDnsZoneGroups": "2024-05-01",
    "Microsoft.Network/virtualNetworks": "2024-05-01",
    "Microsoft.OperationalInsights/workspaces": "2023-09-01",
    "Microsoft.Web/serverfarms": "2025-05-01",
    "Microsoft.Web/sites": "2025-05-01",
    "Microsoft.Web/sites/basicPublishingCredentialsPolicies": "2025-05-01",
    "Microsoft.Web/sites/config": "2025-05-01",
}
SECRET = re.compile(r"password|key|secret|token", re.IGNORECASE)
REFERENCE = re.compile(
    r"@Microsoft\.KeyVault\(VaultName=\$\{vault\.name\};SecretName=\$\{\w+\.name\}\)"
)


def named(path: Path) -> str:
    return path.relative_to(AZURE).as_posix()


@pytest.fixture(scope="module")
def trees(tools: Tools) -> dict[str, dict[str, Any]]:
    return {named(path): parsed(path, tools) for path in FILES}


@pytest.fixture(scope="module")
def resources(trees: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    found = {}
    for name, resource in trees["main.bicep"]["resources"].items():
        config = resource["config"]
        found[name] = config.get("config", config) if "condition" in config else config
    return found


def test_every_resource_has_an_api_version_that_was_looked_up(
    trees: dict[str, dict[str, Any]],
) -> None:
    found = {
        resource["type"]: resource["api_version"]
        for tree in trees.values()
        for resource in tree["resources"].values()
    }
    assert found == API_VERSIONS


@pytest.mark.parametrize("path", FILES, ids=named)
def test_every_name_is_declared_and_every_parameter_is_used(path: Path) -> None:
    found = names(path)
    assert found.unknown == set()
    assert found.unused == set()


def test_the_check_of_names_finds_what_is_wrong(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.bicep"
    wrong.write_text(
        "param here string\nparam idle string\nvar text = '${here}-${gone.name}'\n"
        "output answer string = empty(text) ? nowhere : here\n",
        encoding="utf-8",
    )
    assert names(wrong) == Names(
        declared={"here": "param", "idle": "param", "text": "var", "answer": "output"},
        mentioned={"here", "gone", "text", "empty", "nowhere"},
    )
    assert names(wrong).unknown == {"gone", "nowhere"}
    assert names(wrong).unused == {"idle"}


def test_modules_get_the_parameters_that_they_have(trees: dict[str, dict[str, Any]]) -> None:
    for module in trees["main.bicep"]["modules"].values():
        config = module["config"]
        given = config.get("config", config)["params"].keys()
        taken = trees[module["detail"]["path"]]["parameters"]
        needed = {name for name, each in taken.items() if each["default"] is None}
        assert needed <= given <= taken.keys()


def test_the_example_of_parameters_fits_the_template(trees: dict[str, dict[str, Any]]) -> None:
    text = (AZURE / "main.bicepparam").read_text(encoding="utf-8")
    given = dict(re.findall(r"^param (\w+) = (.+)$", text, re.MULTILINE))
    taken = trees["main.bicep"]["parameters"]
    assert "using './main.bicep'" in text
    assert {name for name, each in taken.items() if each["default"] is None} <= given.keys()
    assert given.keys() <= taken.keys()
    secure = {name for name, each in taken.items() if _secure(each)}
    assert {name for name, value in given.items() if "readEnvironmentVariable" in value} == secure


def test_secrets_are_secure_parameters_without_defaults_and_leave_by_no_output(
    trees: dict[str, dict[str, Any]],
) -> None:
    tree = trees["main.bicep"]
    secret = {
        name
        for name in tree["parameters"]
        if SECRET.search(name) and name not in ("vaultSettings", "registryName")
    }
    assert secret == {"accessKey", "storeKey", "databasePassword"}
    for name in secret:
        assert _secure(tree["parameters"][name])
        assert tree["parameters"][name]["default"] is None
    told = re.findall(r"^output .*$", MAIN.read_text(encoding="utf-8"), re.MULTILINE)
    assert [line for line in told if any(name in line for name in (*secret, "listKeys"))] == []


def _secure(parameter: dict[str, Any]) -> bool:
    return {"type": "secure"} in parameter["decorators"]


def test_settings_of_the_site_are_ours_and_secret_ones_are_references(
    resources: dict[str, dict[str, Any]],
) -> None:
    union = resources["siteSettings"]["properties"]["function"]["parameters"]
    settings = union["arg_3"]
    ours = {name for name in settings if name.startswith(("MCP_", "SF_"))}
    known = {KEY_VARIABLE, CONFIG_VARIABLE, "MCP_OPS_STATE_DIR", *VARIABLES}
    known |= {name for _, options in TARGET_VARIABLES.values() for name in options}
    assert ours <= known
    holds_secret = {"MCP_OPS_KEY", "MCP_OPS_STORE_KEY", "MCP_OPS_STORE_HOT", "MCP_OPS_STORE_LEDGER"}
    holds_secret |= {"APPLICATIONINSIGHTS_CONNECTION_STRING"}
    assert {name for name, value in settings.items() if _reference(value)} == holds_secret


def test_a_site_starts_with_the_settings_that_it_gets(
    resources: dict[str, dict[str, Any]],
) -> None:
    settings = resources["siteSettings"]["properties"]["function"]["parameters"]["arg_3"]
    environ = {name: value for name, value in settings.items() if isinstance(value, str)}
    environ |= {
        "MCP_OPS_CONFIG": "",
        "MCP_RATE_LIMIT_MODE": "read_only",
        "MCP_OPS_ALLOWED_HOSTS": "mcpops-1.azurewebsites.net,ops.example.com",
        "MCP_OPS_URL": "https://ops.example.com",
        "MCP_OPS_KEY": "x" * 32,
        "MCP_OPS_STORE_KEY": "x" * 32,
        "MCP_OPS_STORE_HOT": "rediss://:p%2F%3D@redis.example.com:10000/0",
        "MCP_OPS_STORE_LEDGER": "postgresql://mcpops:p%2F@db.example.com:5432/mcp_ops",
        "APPLICATIONINSIGHTS_CONNECTION_STRING": f"InstrumentationKey={uuid4()}",
        "PORT": "8000",  # the platform's own
    }
    found = load_settings(None, environ, {}, default_file=AZURE / "none.toml")
    assert (found.server.transport, found.server.host, found.server.port) == (
        "http",
        "0.0.0.0",
        8000,
    )
    assert "ops.example.com" in found.server.allowed_hosts
    assert found.guard.mode == Mode.READ_ONLY
    assert found.store.hot.get_secret_value().startswith("rediss://")
    assert found.targets == ()
    assert [each for each in found.notices if "PORT" in each] == []


def _reference(value: object) -> bool:
    return isinstance(value, str) and REFERENCE.fullmatch(value) is not None


def test_the_site_is_reached_by_tls_alone_and_never_sleeps(
    resources: dict[str, dict[str, Any]],
) -> None:
    site = resources["site"]["properties"]
    assert site["httpsOnly"] is True
    config = site["siteConfig"]
    wanted: dict[str, object] = {
        "minTlsVersion": "1.2",
        "scmMinTlsVersion": "1.2",
        "ftpsState": "Disabled",
    }
    wanted |= {"alwaysOn": True, "healthCheckPath": "/health/ready", "http20Enabled": True}
    assert {name: config[name] for name in wanted} == wanted
    for policy in ("noFtp", "noScm"):
        assert resources[policy]["properties"]["allow"] is False


def test_stores_speak_tls_and_forget_nothing(resources: dict[str, dict[str, Any]]) -> None:
    hot = resources["hotDatabase"]["properties"]
    assert (hot["clientProtocol"], hot["evictionPolicy"]) == ("Encrypted", "NoEviction")
    assert "'rediss://" in MAIN.read_text(encoding="utf-8")
    assert "?sslmode=verify-full&" in MAIN.read_text(encoding="utf-8")


def test_the_vault_is_read_by_role_alone(resources: dict[str, dict[str, Any]]) -> None:
    vault = resources["vault"]["properties"]
    assert vault["enableRbacAuthorization"] is True
    assert "accessPolicies" not in vault
    assert resources["readsSecrets"]["scope"] == "vault"
