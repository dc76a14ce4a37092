"""The jobs of a namespace as the capabilities name them."""

from __future__ import annotations

from mcp_ops.adapters.kubernetes.site import Site
from mcp_ops.capabilities.changes import Plan
from mcp_ops.capabilities.jobs import JobControl, JobPage, JobScheduler


class JobPlatform(JobScheduler, JobControl):
    """CronJobs and Jobs."""

    _site: Site

    async def list_jobs(self, *, limit: int, cursor: str) -> JobPage:
        """CronJobs, then Jobs that no CronJob owns."""
        from mcp_ops.adapters.kubernetes import jobs

        return await jobs.list_jobs(self._site, limit=limit, cursor=cursor)

    async def plan_run(self, name: str, mode: str) -> Plan:
        """A Job from the CronJob's template; there are no modes."""
        from mcp_ops.adapters.kubernetes import jobruns

        return await jobruns.plan_run(self._site, name, mode)

    async def plan_suspend(self, name: str) -> Plan:
        """Of a CronJob."""
        from mcp_ops.adapters.kubernetes import jobcontrol

        return await jobcontrol.plan_suspend(self._site, name)

    async def plan_unsuspend(self, name: str) -> Plan:
        """Of a CronJob, or of one Job that is held."""
        from mcp_ops.adapters.kubernetes import jobcontrol

        return await jobcontrol.plan_unsuspend(self._site, name)

    async def plan_job_stop(self, name: str) -> Plan:
        """Deletes Jobs, each by its uid."""
        from mcp_ops.adapters.kubernetes import jobcontrol

        return await jobcontrol.plan_job_stop(self._site, name)
