"""What the lab writes into its directory for the server: configuration, credentials, tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from mcp_ops.adapter import Wiring
from mcp_ops.adapters.file_secrets import FileSecretsAdapter
from mcp_ops.capabilities.token_fields import to_fields
from mcp_ops.capabilities.tokens import SecretStore, TokenSet
from mcp_ops.clock import SystemClock
from mcp_ops.lab.azure.seed import GROUP, SUBSCRIPTION
from mcp_ops.lab.kubernetes.api import kubeconfig
from mcp_ops.lab.kubernetes.seed import SHOP
from mcp_ops.lab.oauth.server import SCOPE, Authority
from mcp_ops.lab.place import Place, write_private
from mcp_ops.lab.railway.api import PATH as RAILWAY_PATH
from mcp_ops.lab.railway.world import ENVIRONMENT, PROJECT
from mcp_ops.lab.salesforce import ORG_ID
from mcp_ops.lab.sync import jobs_toml
from mcp_ops.redact import Redactor
from mcp_ops.settings_environ import KEY_VARIABLE, TARGET_VARIABLES
from mcp_ops.settings_file import CONFIG_VARIABLE

CONFIG: Final = "mcp-ops.toml"
SUBJECT: Final = "integration@lab.example"
# The target that each component is behind.
TARGETS: Final[Mapping[str, str]] = {
    "salesforce": "crm",
    "oauth": "sso",
    "kubernetes": "shop",
    "redis": "orders",
    "coordinator": "coordinator",
    "sync": "syncs",
}
# Those that a lab has with `platforms` alone: a second platform makes agents name the target.
PLATFORMS: Final[Mapping[str, str]] = {"azure": "web", "railway": "store"}
_APART: Final = frozenset({"redis", "postgres", *PLATFORMS})
_TOKEN_TARGETS: Final = ("crm", "sso")
# Tokens with less left are renewed at the start.
_LEFT_S: Final = 900.0

_TEXT: Final = """\
# Written by mcp-ops lab at every start: changes here are lost.
# This is a lab: nothing in it is real.

state_dir = "state"

[tools]
profile = "full"

# A Salesforce org.
[targets.crm]
kind = "salesforce"
environment = "dev"
instance_url = "{salesforce}"
login_url = "{salesforce}"
client_id = "{client_id}"
client_secret = "file:secrets/client-secret"
redirect_uri = "{redirect_uri}"
scopes = {scopes}
expected_subject = "{subject}"
expected_organisation = "{organisation}"
[targets.crm.links]
secrets = "vault"

# An OAuth 2.1 authorization server.
[targets.sso]
kind = "oauth"
environment = "dev"
issuer = "{oauth}"
client_id = "{client_id}"
client_secret = "file:secrets/client-secret"
redirect_uri = "{redirect_uri}"
scopes = {scopes}
expected_subject = "{subject}"
[targets.sso.links]
secrets = "vault"

# Where their tokens are kept.
[targets.vault]
kind = "file_secrets"
environment = "dev"
path = "vault"

# A namespace of a Kubernetes cluster.
[targets.shop]
kind = "kubernetes"
environment = "dev"
kubeconfig = {kubeconfig}
context = "lab"
namespace = "{namespace}"
[targets.shop.required_config]
worker = ["LOG_LEVEL", "REGION"]

# The dead letters of the OCI coordinator, in a Valkey server.
[targets.orders]
kind = "redis"
environment = "dev"
url = "file:secrets/redis-url"
[targets.orders.links]
endpoint = "coordinator"

# The coordinator, which executes them again.
[targets.coordinator]
kind = "http"
environment = "dev"
url = "{coordinator}"
allow_operations = ["oci_*", "llm.*"]

# The sync endpoints of a backend, described as jobs.
[targets.syncs]
kind = "http_jobs"
environment = "dev"
url = "{sync}"
headers = {{ X-Admin-Key = "file:secrets/sync-key" }}
"""

_AZURE = """
# A resource group of App Service.
[targets.web]
kind = "azure_app_service"
environment = "dev"
subscription_id = "{subscription}"
resource_group = "{group}"
credential = "token"
access_token = "file:secrets/azure-token"
arm_url = "{url}"
scm_url = "{url}/scm/{{site}}"
tiers = ["P1v3", "P2v3"]
required_settings = ["DATABASE_URL", "PAYMENTS_URL"]
"""

_RAILWAY = """
# An environment of a project at Railway.
[targets.store]
kind = "railway"
environment = "dev"
token = "file:secrets/railway-token"
project_id = "{project}"
environment_id = "{environment}"
url = "{url}{path}"
"""

_SHARED = """
# What replicas share: hot state in the Valkey, the ledger in a PostgreSQL.
[store]
hot = "file:secrets/redis-url"
ledger = "file:secrets/postgres-url"
key = "file:secrets/store-key"
"""


def write_configuration(
    place: Place, *, urls: Mapping[str, str], authority: Authority, redirect_uri: str, token: str
) -> Path:
    """Write the configuration and what it refers to; its path.

    `urls` are those of the components, `token` is the one that the Kubernetes API accepts. With a
    `postgres` among them the server keeps its own state there and in the Valkey; each of
    `PLATFORMS` is a target of its own, whose token is a secret of the place.
    """
    directory, client = place.directory, authority.client
    write_private(directory / "secrets" / "client-secret", client.client_secret)
    write_private(directory / "secrets" / "redis-url", urls["redis"])
    write_private(directory / "kubeconfig", kubeconfig(urls["kubernetes"], token, SHOP))
    text = _TEXT.format(
        **{name: url for name, url in urls.items() if name not in _APART},
        client_id=client.client_id,
        redirect_uri=redirect_uri,
        scopes="[" + ", ".join(f'"{scope}"' for scope in SCOPE.split()) + "]",
        subject=SUBJECT,
        organisation=ORG_ID,
        kubeconfig=json.dumps(str(directory / "kubeconfig")),
        namespace=SHOP,
    )
    text += jobs_toml()
    if urls.get("azure"):
        text += _AZURE.format(url=urls["azure"], subscription=SUBSCRIPTION, group=GROUP)
    if urls.get("railway"):
        text += _RAILWAY.format(
            url=urls["railway"], path=RAILWAY_PATH, project=PROJECT, environment=ENVIRONMENT
        )
    if urls.get("postgres"):
        write_private(directory / "secrets" / "postgres-url", urls["postgres"])
        place.secret("store-key")
        text += _SHARED
    write_private(directory / CONFIG, text)
    return directory / CONFIG


async def renew_tokens(place: Place, authority: Authority, *, all_of_them: bool = False) -> None:
    """Put fresh tokens into the vault for each target whose stored one is not good (any more).

    `all_of_them` is for tokens that name another issuer: the port has changed.
    """
    wiring = Wiring(
        target="vault",
        clock=SystemClock(),
        redactor=Redactor(),
        report_usage=lambda name, percent: None,
        directory=place.directory,
    )
    settings = FileSecretsAdapter.Settings(path=place.directory / "vault")
    async with FileSecretsAdapter.open(settings, wiring) as vault:
        for target in _TOKEN_TARGETS:
            name = f"{target}-tokens"
            async with vault.lock(name, 5.0):
                if all_of_them or not await _good(vault, name, authority, wiring.clock.now()):
                    await vault.write(name, _fresh(authority, wiring.clock.now()))


async def _good(vault: SecretStore, name: str, authority: Authority, now: float) -> bool:
    fields = await vault.read(name) or {}
    check = authority.check(fields.get("access_token", ""))
    pending = "pending_at" in fields
    return check.active and check.expires_at > now + _LEFT_S and not pending


def _fresh(authority: Authority, now: float) -> dict[str, str]:
    pair = authority.issue(SUBJECT)
    tokens = TokenSet(
        access_token=SecretStr(pair.access_token),
        refresh_token=SecretStr(pair.refresh_token),
        expires_at=now + pair.expires_in,
        issued_at=now,
        scopes=tuple(SCOPE.split()),
    )
    # No seed: the configuration has no tokens, so those of the vault are in force.
    return to_fields(tokens, seed="")


def lab_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment without the variables that would add the operator's real systems."""
    theirs = {name for _, options in TARGET_VARIABLES.values() for name in options}
    ours = {KEY_VARIABLE, CONFIG_VARIABLE, "DATABASE_URL", "MCP_OPS_STATE_DIR", "MCP_OPS_HOST"}
    stores = {name for name in environ if name.startswith("MCP_OPS_STORE_")}
    hidden = theirs | ours | stores
    return {name: value for name, value in environ.items() if name not in hidden}
