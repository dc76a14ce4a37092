"""The settings of a target of kind `azure_app_service`."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, SecretStr, model_validator

from mcp_ops.adapter import AdapterSettings
from mcp_ops.wire.http import SecureUrl, check_url

Credential = Literal[
    "default",
    "environment",
    "managed_identity",
    "workload_identity",
    "cli",
    "client_secret",
    "token",
]
SITE: Final = "{site}"
_GUID: Final = r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"
_SKU: Final = re.compile(r"[A-Z]{1,3}[0-9]{1,2}m?(v[2-9])?", re.IGNORECASE)


def _template(url: str) -> str:
    if url and url.count(SITE) != 1:
        raise ValueError("must have {site} once, where the name of the app or slot goes")
    if url:
        check_url(url.replace(SITE, "x"))
    return url.rstrip("/")


def _tier(name: str) -> str:
    if not _SKU.fullmatch(name):
        raise ValueError("must be sizes as App Service names them: B1, S1, P1v3")
    return name


Tier = Annotated[str, AfterValidator(_tier)]
AppName = Annotated[str, Field(pattern=r"^([A-Za-z0-9][-A-Za-z0-9]{0,59})?$")]


class AzureAppServiceSettings(AdapterSettings):
    """One resource group of a subscription, and what the operator allows in it."""

    subscription_id: str = Field(pattern=_GUID, description="Id of the subscription.")
    resource_group: str = Field(
        pattern=r"^[-\w.()]{0,89}[-\w()]$", description="Resource group of the apps."
    )
    site: AppName = Field("", description="The one app that the target is; default: all.")
    credential: Credential = Field("default", description="Where the credential comes from.")
    tenant_id: str = Field("", max_length=100, description="Directory, for client_secret.")
    client_id: str = Field(
        "", max_length=100, description="Application, or a user-assigned identity."
    )
    client_secret: SecretStr | None = None
    access_token: SecretStr | None = Field(None, description="For `token`; it is not renewed.")
    authority: SecureUrl = Field(
        "https://login.microsoftonline.com", description="Microsoft Entra; other clouds differ."
    )
    arm_url: SecureUrl = Field(
        "https://management.azure.com", description="Azure Resource Manager."
    )
    audience: str = Field(
        "https://management.azure.com", max_length=300, description="What tokens are for."
    )
    scm_url: Annotated[str, AfterValidator(_template)] = Field(
        "", max_length=300, description="Kudu with {site}; default: as each app names it."
    )
    scm_domains: tuple[str, ...] = Field(
        ("azurewebsites.net", "appserviceenvironment.net"),
        description="Where an app's own address of Kudu may be.",
    )
    soft_restart: bool = Field(False, description="Restart only what has to be restarted.")
    restart_workers: bool = Field(
        False, description="Allow to reboot a worker where a process can't be ended."
    )
    min_instances: int = Field(1, ge=1, le=100)
    max_instances: int = Field(5, ge=1, le=100, description="Most that a plan is scaled to.")
    tiers: tuple[Tier, ...] = Field((), description="Sizes that a plan may be given.")
    required_settings: tuple[str, ...] = Field((), description="Settings an app can't miss.")
    log_stream_s: float = Field(
        5.0, ge=0, le=20, description="How long the log stream is heard where files say nothing."
    )
    request_timeout_s: float = Field(25.0, gt=0, le=120)

    @model_validator(mode="after")
    def _complete(self) -> AzureAppServiceSettings:
        """What a credential needs has to be there at the start, and not in an incident."""
        if self.credential == "token" and self.access_token is None:
            raise ValueError("credential = token needs access_token")
        if self.credential == "client_secret" and not (
            self.tenant_id and self.client_id and self.client_secret
        ):
            raise ValueError(
                "credential = client_secret needs tenant_id, client_id and client_secret"
            )
        if self.min_instances > self.max_instances:
            raise ValueError("min_instances must not be above max_instances")
        return self
