"""All changes of workloads and jobs: who makes each, by the action of its plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mcp_ops.adapters.kubernetes import (
    autoscaling,
    config,
    instances,
    jobcontrol,
    jobruns,
    pausing,
    resources,
    restart,
    revisions,
    scaling,
)
from mcp_ops.adapters.kubernetes.site import Handler

HANDLERS: Final[Mapping[str, Handler]] = {
    **restart.HANDLERS,
    **revisions.HANDLERS,
    **scaling.HANDLERS,
    **autoscaling.HANDLERS,
    **pausing.HANDLERS,
    **instances.HANDLERS,
    **resources.HANDLERS,
    **config.HANDLERS,
    **jobruns.HANDLERS,
    **jobcontrol.HANDLERS,
}
