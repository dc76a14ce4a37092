"""The settings of a target at Kubernetes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, field_validator

from mcp_ops.adapter import AdapterSettings
from mcp_ops.adapters.kubernetes.quantities import positive

REQUEST_S: Final = 15.0
SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class KubernetesSettings(AdapterSettings):
    """How to reach one namespace."""

    kubeconfig: str | None = Field(
        None, description="Path of the kubeconfig, or several; default: ~/.kube/config."
    )
    context: str = Field("", max_length=500, description="Context; default: the current one.")
    namespace: str = Field(
        "",
        pattern=r"^([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)?$",
        description="Namespace; default: the context's, else `default`.",
    )
    in_cluster: bool = Field(False, description="Use the service account of the server's own pod.")
    service_account: str = Field(
        str(SERVICE_ACCOUNT),
        description="Folder of its token, ca.crt and namespace, where they are mounted elsewhere.",
    )
    request_timeout_s: float = Field(
        REQUEST_S, gt=0, le=60, description="Longest wait for one answer, seconds."
    )
    max_replicas: int = Field(
        50, ge=1, le=1_000, description="Most instances that a workload may be scaled to."
    )
    max_memory: str = Field("8Gi", max_length=20, description="Most memory of one instance.")
    max_cpu: str = Field("4", max_length=20, description="Most processor of one instance, cores.")
    required_config: dict[str, tuple[str, ...]] = Field(
        {}, description="Settings that must be there, by the name of the workload."
    )
    job_too_long_minutes: dict[str, Annotated[int, Field(ge=1, le=100_000)]] = Field(
        {},
        description="Minutes after which a run is too long, by job, `*` for all others; default: "
        "the schedule's period.",
    )

    @field_validator("max_memory", "max_cpu")
    @classmethod
    def _quantity(cls, written: str) -> str:
        positive(written)
        return written
