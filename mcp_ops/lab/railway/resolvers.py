"""What the stand-in answers and does: the resolvers of the schema's two root types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from mcp_ops.lab.railway.shapes import Caller, Node, connection, failure, stamp
from mcp_ops.lab.railway.world import (
    ENVIRONMENT,
    OTHER_ENVIRONMENT,
    OTHER_PROJECT,
    PROJECT,
    Deployment,
    Line,
    Service,
    World,
)
from mcp_ops.lab.standin import EffectLog, Faults

_MOST_LINES: Final = 5_000


@dataclass(slots=True)
class Resolvers:
    """One method for each field of the root types."""

    world: World
    log: EffectLog
    faults: Faults

    def root(self, caller: Caller) -> Any:
        """The root value of one request."""
        return _Bound(self, caller)

    # Who asks

    def project_token(self, caller: Caller) -> Node:
        if caller.kind != "project":
            raise failure("Project Token not found")
        return {
            "projectId": caller.project,
            "environmentId": caller.environment,
            "project": {"id": caller.project, "name": "ecommerce"},
            "environment": {"id": caller.environment, "name": "production"},
        }

    def me(self, caller: Caller) -> Node:
        if caller.kind != "account":
            raise failure("Not Authorized")
        return {"id": "user-1", "email": "ops@lab.example"}

    def api_token(self, caller: Caller) -> Node:
        if caller.kind not in ("account", "workspace"):
            raise failure("Not Authorized")
        workspaces = [{"id": "ws-1", "name": "shop"}, {"id": "ws-2", "name": "private"}]
        return {"workspaces": workspaces[: 1 if caller.kind == "workspace" else 2]}

    # What there is

    def environment(self, caller: Caller, id: str, projectId: str | None = None) -> Node:  # noqa: A002, N803
        project = projectId or (OTHER_PROJECT if id == OTHER_ENVIRONMENT else PROJECT)
        self._allowed(caller, project, id)
        services = list(self.world.services.values()) if id == ENVIRONMENT else []
        return {
            "id": id,
            "name": "production",
            "projectId": project,
            "serviceInstances": lambda _info, **page: connection(
                services, page, self._instance, key=lambda each: each.id
            ),
            "variables": lambda _info, **page: connection(
                [(each, name) for each in services for name in sorted(_names(each))],
                page,
                lambda each: {
                    "name": each[1],
                    "serviceId": each[0].id,
                    "isSealed": each[1] in each[0].sealed,
                },
                key=lambda each: f"{each[0].id}/{each[1]}",
            ),
        }

    def service_instance(self, caller: Caller, environmentId: str, serviceId: str) -> Node:  # noqa: N803
        return self._instance(self._service(caller, environmentId, serviceId))

    def deployments(self, caller: Caller, input: Node, **page: Any) -> Node:  # noqa: A002
        service = self._service(caller, input.get("environmentId") or "", input["serviceId"])
        found = list(reversed(service.deployments))
        return connection(found, page, self._deployment, key=lambda one: one.id)

    def deployment(self, caller: Caller, id: str) -> Node:  # noqa: A002
        return self._deployment(self._one(caller, id))

    def deployment_events(self, caller: Caller, id: str, **page: Any) -> Node:  # noqa: A002
        one = self._one(caller, id)
        steps = [("BUILD_IMAGE", "exit code 1" if one.outcome == "build-fails" else None)]
        if one.outcome == "crashes":
            steps.append(("HEALTHCHECK", "1/1 replicas never became healthy"))
        return connection(
            steps,
            page,
            lambda step: {
                "step": step[0],
                "createdAt": stamp(one.born),
                "completedAt": stamp(one.born + 1),
                "payload": {"error": step[1], "reason": None},
            },
            key=lambda step: step[0],
        )

    def deployment_logs(self, caller: Caller, deploymentId: str, **wanted: Any) -> list[Node]:  # noqa: N803
        return self._lines(self._one(caller, deploymentId).lines, wanted)

    def build_logs(self, caller: Caller, deploymentId: str, **wanted: Any) -> list[Node]:  # noqa: N803
        return self._lines(self._one(caller, deploymentId).build_lines, wanted)

    def variables(
        self,
        caller: Caller,
        projectId: str,  # noqa: N803
        environmentId: str,  # noqa: N803
        serviceId: str | None = None,  # noqa: N803
        unrendered: bool = False,
    ) -> Node:
        self._allowed(caller, projectId, environmentId)
        if serviceId is None:
            return {"ADMIN_KEY": "lab-admin-key-0987654321"}
        found = dict(self._service(caller, environmentId, serviceId).variables)
        return found if unrendered else {name: f"rendered {name}" for name in found}

    # What can be done

    def restart(self, caller: Caller, id: str) -> bool:  # noqa: A002
        one = self._one(caller, id)
        self._able(one, "restartable")
        self._did("deploymentRestart", caller, service=one.service.name, deployment=id)
        self.world.restart(one)
        return True

    def stop(self, caller: Caller, id: str) -> bool:  # noqa: A002
        one = self._one(caller, id)
        self._able(one, "stoppable")
        self._did("deploymentStop", caller, service=one.service.name, deployment=id)
        self.world.stop(one)
        return True

    def rollback(self, caller: Caller, id: str) -> bool:  # noqa: A002
        one = self._one(caller, id)
        if not self.world.restorable(one):
            raise failure("Deployment cannot be rolled back", "BAD_USER_INPUT")
        one.service.variables = dict(one.variables)
        made = self.world.again(one, reason="rollback")
        of = one.service.name
        self._did("deploymentRollback", caller, service=of, deployment=id, made=made.id)
        return True

    def redeploy(self, caller: Caller, id: str, **_more: Any) -> Node:  # noqa: A002
        one = self._one(caller, id)
        made = self.world.again(one, reason="redeploy")
        of = one.service.name
        self._did("deploymentRedeploy", caller, service=of, deployment=id, made=made.id)
        return self._deployment(made)

    def update(
        self,
        caller: Caller,
        serviceId: str,  # noqa: N803
        input: Node,  # noqa: A002
        environmentId: str | None = None,  # noqa: N803
    ) -> bool:
        service = self._service(caller, environmentId or "", serviceId)
        if "numReplicas" in input:
            if not input["numReplicas"] or input["numReplicas"] < 1:
                raise failure("Error in numReplicas - Invalid input", "BAD_USER_INPUT")
            service.regions = {next(iter(service.regions)): input["numReplicas"]}
        for region, wanted in (input.get("multiRegionConfig") or {}).items():
            service.regions.pop(region, None)
            if wanted:
                service.regions[region] = wanted["numReplicas"]
        self._did("serviceInstanceUpdate", caller, service=service.name, input=dict(input))
        return True

    def deploy(
        self,
        caller: Caller,
        environmentId: str,  # noqa: N803
        serviceId: str,  # noqa: N803
        commitSha: str | None = None,  # noqa: N803
    ) -> str:
        service = self._service(caller, environmentId, serviceId)
        # Without a commit the newest one of the repository is deployed, wanted or not.
        commit = commitSha or service.head
        made = self.world.deploy(
            service, reason="deploy", commit=commit if service.repo else "", image=service.image
        )
        self._did("serviceInstanceDeployV2", caller, service=service.name, made=made.id)
        return made.id

    def set_variable(self, caller: Caller, input: Node) -> bool:  # noqa: A002
        self._allowed(caller, input["projectId"], input["environmentId"])
        if input.get("serviceId") is None:
            raise failure("Not Authorized")
        service = self._service(caller, input["environmentId"], input["serviceId"])
        service.variables[input["name"]] = input["value"]
        made = None
        if service.deployments and not input.get("skipDeploys"):
            made = self.world.again(service.deployments[-1], reason="redeploy").id
        self._did("variableUpsert", caller, service=service.name, name=input["name"], made=made)
        return True

    def destroy(self, field_name: str, caller: Caller, **what: Any) -> bool:
        """What the adapter never sends; the log would show it."""
        self._did(field_name, caller, what={key: str(value) for key, value in what.items()})
        return True

    # Inside

    def _did(self, effect: str, caller: Caller, **more: Any) -> None:
        self.log.append(effect, token=caller.kind, **more)

    def _allowed(self, caller: Caller, project: str, environment: str) -> None:
        if not caller.reaches(project, environment):
            raise failure("Not Authorized")

    def _service(self, caller: Caller, environment: str, service: str) -> Service:
        self._allowed(caller, PROJECT, environment)
        if environment != ENVIRONMENT or service not in self.world.services:
            raise failure("ServiceInstance not found")
        return self.world.services[service]

    def _one(self, caller: Caller, wanted: str) -> Deployment:
        found = next((one for one in self.world.deployments() if one.id == wanted), None)
        if found is None:
            raise failure("Deployment not found")
        self._allowed(caller, PROJECT, ENVIRONMENT)
        return found

    def _able(self, one: Deployment, what: str) -> None:
        if one.phase(self.world.now(), self.world.step) == "SLEEPING":
            raise failure(f"Deployment is not {what}", "BAD_USER_INPUT")

    def _instance(self, service: Service) -> Node:
        now, step = self.world.now(), self.world.step
        active = [
            one
            for one in service.deployments
            if one.phase(now, step) in ("SUCCESS", "CRASHED", "SLEEPING", "REMOVING")
        ]
        return {
            "serviceId": service.id,
            "serviceName": service.name,
            "numReplicas": sum(service.regions.values()),
            "region": next(iter(service.regions)),
            "cronSchedule": service.cron,
            "source": {"repo": service.repo or None, "image": service.image or None},
            "latestDeployment": (
                self._deployment(service.deployments[-1]) if service.deployments else None
            ),
            "activeDeployments": [self._deployment(one) for one in reversed(active)],
        }

    def _deployment(self, one: Deployment) -> Node:
        now, step = self.world.now(), self.world.step
        status = one.phase(now, step)
        state = one.instance_state(now, step)
        meta: Node = {
            "reason": one.reason,
            "serviceManifest": {
                "deploy": {
                    "multiRegionConfig": {
                        name: {"numReplicas": n} for name, n in one.regions.items()
                    }
                }
            },
        }
        if one.commit:
            repo = {"commitHash": one.commit, "commitMessage": one.message}
            meta |= {**repo, "repo": one.service.repo}
        if one.image:
            meta["image"] = one.image
        return {
            "id": one.id,
            "serviceId": one.service.id,
            "environmentId": ENVIRONMENT,
            "status": status,
            "createdAt": stamp(one.born),
            "statusUpdatedAt": stamp(one.since(now, step)),
            # A starting and a sleeping deployment say so, too.
            "deploymentStopped": one.stopped(now, step) or status != "SUCCESS",
            "canRedeploy": status in ("SUCCESS", "CRASHED", "FAILED", "REMOVED"),
            "canRollback": status == "REMOVED" and self.world.restorable(one),
            "meta": meta,
            "instances": [{"id": each, "status": state} for each in one.instances],
        }

    def _lines(self, lines: Sequence[Line], wanted: Node) -> list[Node]:
        now = self.world.now()
        since = wanted.get("startDate")
        after = datetime.fromisoformat(since).timestamp() if since else 0.0
        phrase = (wanted.get("filter") or "").strip('"')
        found = [
            line
            for line in lines
            if after <= line.at <= now and phrase.lower() in line.text.lower()
        ]
        most = min(wanted.get("limit") or 500, _MOST_LINES)
        return [
            {
                "timestamp": stamp(line.at),
                "message": line.text,
                "severity": line.severity,
                "tags": {"deploymentInstanceId": line.instance or None},
            }
            for line in found[-most:]
        ]


def _names(service: Service) -> set[str]:
    return {*service.variables, *service.sealed}


_FIELDS: Final = {
    "projectToken": "project_token",
    "me": "me",
    "apiToken": "api_token",
    "environment": "environment",
    "serviceInstance": "service_instance",
    "deployments": "deployments",
    "deployment": "deployment",
    "deploymentEvents": "deployment_events",
    "deploymentLogs": "deployment_logs",
    "buildLogs": "build_logs",
    "variables": "variables",
    "deploymentRestart": "restart",
    "deploymentStop": "stop",
    "deploymentRollback": "rollback",
    "deploymentRedeploy": "redeploy",
    "serviceInstanceUpdate": "update",
    "serviceInstanceDeployV2": "deploy",
    "variableUpsert": "set_variable",
}


class _Bound:
    """The root value: a field of the schema is a method of the resolvers, with the caller."""

    def __init__(self, resolvers: Resolvers, caller: Caller) -> None:
        self._resolvers = resolvers
        self._caller = caller

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name in _FIELDS:
            method = getattr(self._resolvers, _FIELDS[name])
            return lambda _info, **given: method(self._caller, **given)
        return lambda _info, **given: self._resolvers.destroy(name, self._caller, **given)
