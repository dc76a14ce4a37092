"""The life of a pod on its node: started, ready, crashing, wedged, terminated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from mcp_ops.lab.kubernetes.kinds import POD, Obj
from mcp_ops.lab.kubernetes.output import WEDGED_LINE
from mcp_ops.lab.kubernetes.world import World

NODES: Final = ("node-a", "node-b")
LINE_EVERY: Final = 5
LONGEST_BACKOFF: Final = 16


@dataclass(slots=True)
class _Run:
    """How a pod that runs is doing, in steps of the controller."""

    steps: int = 0
    crashes: int = 0
    wait: int = 0


class Kubelet:
    """Moves every pod one step on; the node agent and the scheduler in one."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._runs: dict[str, _Run] = {}
        self._started = 0

    def step(self) -> None:
        """Move every pod one step."""
        for pod in self._world.store.all(POD):
            if "deletionTimestamp" in pod["metadata"]:
                self._end(pod)
            elif pod["metadata"]["uid"] not in self._runs:
                self._start(pod)
            elif any(broken(container) for container in pod["spec"]["containers"]):
                self._crash(pod)
            else:
                self._run(pod)
        alive = {pod["metadata"]["uid"] for pod in self._world.store.all(POD)}
        for uid in self._runs.keys() - alive:
            del self._runs[uid]
            self._world.output.forget(uid)
            self._world.wedged.discard(uid)

    def _end(self, pod: Obj) -> None:
        if pod["metadata"].get("finalizers"):
            return
        self._world.store.remove(POD, pod)
        self._world.effect("controller.pod_ended", POD, pod, uid=pod["metadata"]["uid"])

    def _start(self, pod: Obj) -> None:
        uid = pod["metadata"]["uid"]
        self._runs[uid] = _Run()
        self._started += 1
        node = pod["spec"].get("nodeName") or NODES[self._started % len(NODES)]
        ip = f"10.244.{NODES.index(node) if node in NODES else 9}.{self._started % 250 + 2}"
        now = self._world.store.timestamp()

        def bind(edited: Obj) -> None:
            edited["spec"]["nodeName"] = node
            edited["status"].update(phase="Running", startTime=now, podIP=ip, hostIP="10.0.0.7")
            edited["status"]["podIPs"] = [{"ip": ip}]
            self._set_status(edited, ready=False)

        started = self._world.edit(POD, pod, bind)
        named = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
        self._world.event(
            POD,
            started,
            "Scheduled",
            f"Successfully assigned {named} to {node}",
            component="default-scheduler",
        )
        for container in pod["spec"]["containers"]:
            name, image = container["name"], container["image"]
            pulled = f'Container image "{image}" already present on machine'
            self._event(started, container, "Pulled", pulled)
            self._event(started, container, "Created", f"Created container: {name}")
            self._event(started, container, "Started", f"Started container {name}")
            if not broken(container):
                self._world.output.start(uid, name, image, self._world.store.now())

    def _run(self, pod: Obj) -> None:
        uid = pod["metadata"]["uid"]
        run, wedged = self._runs[uid], uid in self._world.wedged
        run.steps += 1
        if is_ready(pod) == wedged:
            self._world.edit(POD, pod, lambda edited: self._set_status(edited, ready=not wedged))
        if run.steps % LINE_EVERY:
            return
        for container in pod["spec"]["containers"]:
            if not wedged:
                self._world.output.serve(uid, container["name"], self._world.store.now())
                continue
            self._world.output.write(uid, container["name"], WEDGED_LINE, self._world.store.now())
            why = "Readiness probe failed: HTTP probe failed with statuscode: 503"
            self._event(pod, container, "Unhealthy", why, type="Warning")

    def _crash(self, pod: Obj) -> None:
        uid = pod["metadata"]["uid"]
        run = self._runs[uid]
        run.wait -= 1
        if run.wait > 0:
            return
        run.crashes += 1
        run.wait = min(2**run.crashes, LONGEST_BACKOFF)
        for container in filter(broken, pod["spec"]["containers"]):
            self._world.output.crash(
                uid, container["name"], container["image"], self._world.store.now()
            )
            named = f"{pod['metadata']['name']}_{pod['metadata']['namespace']}({uid})"
            why = f"Back-off restarting failed container {container['name']} in pod {named}"
            self._event(pod, container, "BackOff", why, type="Warning")
        self._world.edit(
            POD, pod, lambda edited: self._set_status(edited, ready=False, crashes=run.crashes)
        )

    def _event(self, pod: Obj, container: Obj, reason: str, message: str, **more: str) -> None:
        host = pod["spec"].get("nodeName", "")
        source = {"component": "kubelet", "host": host, "container": container["name"], **more}
        self._world.event(POD, pod, reason, message, **source)

    def _set_status(self, pod: Obj, *, ready: bool, crashes: int = 0) -> None:
        now = self._world.store.timestamp()
        status = pod["status"]
        before = {one["type"]: one for one in status.get("conditions") or []}
        why = {} if ready else _not_ready(pod)
        status["conditions"] = [
            _condition(before, "PodScheduled", True, now),
            _condition(before, "Initialized", True, now),
            _condition(before, "ContainersReady", ready, now, **why),
            _condition(before, "Ready", ready, now, **why),
        ]
        earlier = {one["name"]: one for one in status.get("containerStatuses") or []}
        status["containerStatuses"] = [
            _container_status(pod, container, earlier.get(container["name"]), now, ready, crashes)
            for container in pod["spec"]["containers"]
        ]


def _not_ready(pod: Obj) -> dict[str, str]:
    names = " ".join(container["name"] for container in pod["spec"]["containers"])
    return {
        "reason": "ContainersNotReady",
        "message": f"containers with unready status: [{names}]",
    }


def _condition(before: dict[str, Obj], kind: str, holds: bool, now: str, **why: str) -> Obj:
    status = "True" if holds else "False"
    same = before.get(kind, {}).get("status") == status
    since = before[kind]["lastTransitionTime"] if same else now
    return {
        "type": kind,
        "status": status,
        "lastProbeTime": None,
        "lastTransitionTime": since,
        **why,
    }


def _container_status(
    pod: Obj, container: Obj, earlier: Obj | None, now: str, ready: bool, crashes: int
) -> Obj:
    state: Obj = {"running": {"startedAt": now}}
    if earlier is not None and "running" in earlier["state"]:
        state = earlier["state"]
    last: Obj = {}
    crashed = bool(crashes) and broken(container)
    if crashed:
        named = f"{pod['metadata']['name']}_{pod['metadata']['namespace']}"
        why = f"back-off {min(10 * 2 ** (crashes - 1), 300)}s restarting failed container="
        why += f"{container['name']} pod={named}({pod['metadata']['uid']})"
        state = {"waiting": {"reason": "CrashLoopBackOff", "message": why}}
        last = {
            "terminated": {
                "exitCode": 1,
                "reason": "Error",
                "startedAt": now,
                "finishedAt": now,
                "containerID": f"containerd://{pod['metadata']['uid']}",
            }
        }
    return {
        "name": container["name"],
        "image": container["image"],
        "imageID": "",
        "containerID": f"containerd://{pod['metadata']['uid']}",
        "ready": ready,
        "started": not crashed,
        "restartCount": crashes if broken(container) else 0,
        "state": state,
        "lastState": last,
    }


def broken(container: Obj) -> bool:
    """Whether a container can't stay up: its tag says so, or its `LAB_BROKEN` variable does."""
    tag = str(container.get("image", "")).rpartition("/")[2].partition(":")[2]
    env = container.get("env")
    variables: list[Any] = env if isinstance(env, list) else []
    return "broken" in tag or any(
        isinstance(one, dict) and one.get("name") == "LAB_BROKEN" and one.get("value") == "true"
        for one in variables
    )


def is_ready(pod: Obj) -> bool:
    """Whether a pod gets traffic."""
    conditions = pod.get("status", {}).get("conditions") or []
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def begin_termination(world: World, pod: Obj, *, grace_s: int = 30) -> Obj:
    """Mark a pod as terminating; its node ends it with the next step."""

    def mark(edited: Obj) -> None:
        edited["metadata"].setdefault("deletionTimestamp", world.store.timestamp(grace_s))
        edited["metadata"].setdefault("deletionGracePeriodSeconds", grace_s)

    marked = world.edit(POD, pod, mark)
    if marked is not pod:
        for container in pod["spec"]["containers"]:
            world.event(
                POD,
                marked,
                "Killing",
                f"Stopping container {container['name']}",
                component="kubelet",
                host=pod["spec"].get("nodeName", ""),
                container=container["name"],
            )
    return marked
