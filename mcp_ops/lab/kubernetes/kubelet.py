"""The life of a pod on its node: placed, started, ready, crashing, wedged, done, terminated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from mcp_ops.lab.kubernetes.ending import end_for_good
from mcp_ops.lab.kubernetes.kinds import POD, Obj
from mcp_ops.lab.kubernetes.output import WEDGED_LINE
from mcp_ops.lab.kubernetes.podstatus import (
    INIT,
    Shown,
    condition,
    is_over,
    is_ready,
    started_at,
    terminated,
    waiting,
    write_status,
)
from mcp_ops.lab.kubernetes.troubles import (
    NODES,
    RESTARTING,
    Trouble,
    trouble,
    unschedulable,
    variable,
)
from mcp_ops.lab.kubernetes.world import World

LINE_EVERY: Final = 5
LONGEST_BACKOFF: Final = 16
# How many steps a container lives before its memory is full or its probe has failed too often,
# and how long a job's container works.
UP_STEPS: Final = 3
WORK_STEPS: Final = 2
_ENDS: Final = {
    Trouble.CRASH: (1, "Error"),
    Trouble.MEMORY: (137, "OOMKilled"),
    Trouble.LIVENESS: (137, "Error"),
}


@dataclass(slots=True)
class _Run:
    """How a pod that runs is doing, in steps of the controller."""

    steps: int = 0
    crashes: int = 0
    wait: int = 0
    up: int = 0


class Kubelet:
    """Moves every pod one step on; the node agent and the scheduler in one."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._runs: dict[str, _Run] = {}
        self._started = 0
        self._steps = 0

    def step(self) -> None:
        """Move every pod one step."""
        self._steps += 1
        for pod in self._world.store.all(POD):
            if "deletionTimestamp" in pod["metadata"]:
                self._end(pod)
            elif is_over(pod):
                continue
            elif pod["metadata"]["uid"] not in self._runs:
                self._place(pod)
            else:
                self._live(pod)
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

    def _place(self, pod: Obj) -> None:
        """Find a node for a pod, or say why there is none."""
        why = "" if pod["spec"].get("nodeName") else unschedulable(pod)
        if not why:
            self._start(pod)
            return
        now = self._world.store.timestamp()

        def pending(edited: Obj) -> None:
            before = {one["type"]: one for one in edited["status"].get("conditions") or []}
            told = condition(
                before, "PodScheduled", False, now, reason="Unschedulable", message=why
            )
            edited["status"]["conditions"] = [told]

        kept = self._world.edit(POD, pod, pending)
        if kept is not pod or not self._steps % LINE_EVERY:
            source = {"component": "default-scheduler", "type": "Warning"}
            self._world.event(POD, kept, "FailedScheduling", why, **source)

    def _start(self, pod: Obj) -> None:
        uid = pod["metadata"]["uid"]
        self._runs[uid] = _Run()
        self._started += 1
        node = pod["spec"].get("nodeName") or NODES[self._started % len(NODES)]
        ip = f"10.244.{NODES.index(node) if node in NODES else 9}.{self._started % 250 + 2}"
        now = self._world.store.timestamp()

        def bind(edited: Obj) -> None:
            edited["spec"]["nodeName"] = node
            edited["status"].update(startTime=now, podIP=ip, hostIP="10.0.0.7")
            edited["status"].update(podIPs=[{"ip": ip}], hostIPs=[{"ip": "10.0.0.7"}])

        started = self._world.edit(POD, pod, bind)
        named = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
        self._world.event(
            POD,
            started,
            "Scheduled",
            f"Successfully assigned {named} to {node}",
            component="default-scheduler",
        )
        found = self._troubles(started)
        if Trouble.IMAGE in found.values():
            self._pull(started, found, first=True)
        elif self._init_fails(started, found):
            self._restart(started, found)
        else:
            self._up(started, found, self._inits(started, found))

    def _live(self, pod: Obj) -> None:
        """A pod on its node: what it does next is for its containers to say."""
        found = self._troubles(pod)
        run = self._runs[pod["metadata"]["uid"]]
        run.steps += 1
        if Trouble.IMAGE in found.values():
            self._pull(pod, found)
        elif any(one in RESTARTING for one in found.values()):
            self._restart(pod, found)
        elif pod["spec"].get("restartPolicy", "Always") != "Always":
            self._work(pod, found)
        else:
            self._run(pod, found)

    def _troubles(self, pod: Obj) -> dict[str, Trouble]:
        containers = [*(pod["spec"].get(INIT) or []), *pod["spec"]["containers"]]
        return {one["name"]: trouble(self._world.appetite, pod, one) for one in containers}

    def _init_fails(self, pod: Obj, found: dict[str, Trouble]) -> bool:
        return any(found[one["name"]] in RESTARTING for one in pod["spec"].get(INIT) or [])

    def _inits(self, pod: Obj, found: dict[str, Trouble]) -> list[Obj]:
        """The init containers that have their run, with their logs; they are quick here."""
        inits: list[Obj] = pod["spec"].get(INIT) or []
        for container in inits:
            self._announce(pod, container)
        return inits

    def _up(self, pod: Obj, found: dict[str, Trouble], inits: list[Obj]) -> Obj:
        """Start the containers that do not run; they serve with a later step."""
        now, uid = self._world.store.timestamp(), pod["metadata"]["uid"]
        self._runs[uid].up = 0
        shown = {
            one["name"]: Shown(state=terminated(pod, 0, "Completed", now, now), ready=True)
            for one in inits
        }
        shown |= {one["name"]: Shown() for one in pod["spec"]["containers"]}
        running = {
            one["name"]
            for one in pod["status"].get("containerStatuses") or []
            if "running" in one["state"]
        }
        started = self._show(pod, shown, phase="Running")
        for container in pod["spec"]["containers"]:
            if container["name"] not in running:
                self._announce(started, container, quiet=found[container["name"]] is Trouble.CRASH)
        return started

    def _announce(self, pod: Obj, container: Obj, *, quiet: bool = False) -> None:
        name, image = container["name"], container["image"]
        pulled = f'Container image "{image}" already present on machine'
        self._event(pod, container, "Pulled", pulled)
        self._event(pod, container, "Created", f"Created container: {name}")
        self._event(pod, container, "Started", f"Started container {name}")
        if not quiet:
            now = self._world.store.now()
            self._world.output.start(pod["metadata"]["uid"], name, image, now)

    def _run(self, pod: Obj, found: dict[str, Trouble]) -> None:
        uid = pod["metadata"]["uid"]
        run, wedged = self._runs[uid], uid in self._world.wedged
        if not _all_run(pod):
            self._up(pod, found, pod["spec"].get(INIT) or [])
            return
        failing = {n for n, one in found.items() if wedged or one is Trouble.READINESS}
        if is_ready(pod) == bool(failing):
            self._show(pod, self._serving(pod, failing))
        if run.steps % LINE_EVERY:
            return
        for container in pod["spec"]["containers"]:
            now = self._world.store.now()
            if container["name"] not in failing:
                self._world.output.serve(uid, container["name"], now)
                continue
            self._world.output.write(uid, container["name"], WEDGED_LINE, now)
            code = 503 if wedged else 404
            why = f"Readiness probe failed: HTTP probe failed with statuscode: {code}"
            self._event(pod, container, "Unhealthy", why, type="Warning")

    def _serving(self, pod: Obj, failing: set[str]) -> dict[str, Shown]:
        shown = self._ended_inits(pod)
        containers = pod["spec"]["containers"]
        return shown | {one["name"]: Shown(ready=one["name"] not in failing) for one in containers}

    def _ended_inits(self, pod: Obj) -> dict[str, Shown]:
        known = {one["name"]: one for one in pod["status"].get("initContainerStatuses") or []}
        now = self._world.store.timestamp()
        fresh = terminated(pod, 0, "Completed", now, now)
        return {
            one["name"]: Shown(state=_ended(known.get(one["name"]), fresh), ready=True)
            for one in pod["spec"].get(INIT) or []
        }

    def _work(self, pod: Obj, found: dict[str, Trouble]) -> None:
        """A container that shall end by itself: it serves, and is done after a while."""
        run = self._runs[pod["metadata"]["uid"]]
        run.up += 1
        containers = pod["spec"]["containers"]
        if run.up <= WORK_STEPS or any(variable(one, "LAB_RUN") == "forever" for one in containers):
            self._run(pod, found)
            return
        end_for_good(self._world, pod, "Succeeded", code=0, reason="Completed")

    def _pull(self, pod: Obj, found: dict[str, Trouble], *, first: bool = False) -> None:
        """An image that is not there: told as an error, then as a back-off."""
        run = self._runs[pod["metadata"]["uid"]]
        if not first and run.steps != 1 and run.steps % LINE_EVERY:
            return
        shown, inits = self._ended_inits(pod), pod["spec"].get(INIT) or []
        stuck = any(found[one["name"]] is Trouble.IMAGE for one in inits)
        for container in [*inits, *pod["spec"]["containers"]]:
            name = container["name"]
            if found[name] is Trouble.IMAGE and (name in shown) == stuck:
                shown[name] = Shown(state=self._unpulled(pod, container, first))
            elif name not in shown:
                shown[name] = Shown(
                    state=waiting("PodInitializing") if stuck else None, ready=not stuck
                )
        self._show(pod, shown)

    def _unpulled(self, pod: Obj, container: Obj, first: bool) -> Obj:
        image = container["image"]
        where = f"docker.io/{image}"
        why = (
            f'failed to pull and unpack image "{where}": failed to resolve reference "{where}": '
            f"{where}: not found"
        )
        why = f"rpc error: code = NotFound desc = {why}"
        if first:
            self._event(pod, container, "Pulling", f'Pulling image "{image}"')
            failed = f'Failed to pull image "{image}": {why}'
            self._event(pod, container, "Failed", failed, type="Warning")
            self._event(pod, container, "Failed", "Error: ErrImagePull", type="Warning")
            return waiting("ErrImagePull", why)
        back_off = f'Back-off pulling image "{image}"'
        self._event(pod, container, "BackOff", back_off)
        self._event(pod, container, "Failed", "Error: ImagePullBackOff", type="Warning")
        return waiting("ImagePullBackOff", f"{back_off}: ErrImagePull: {why}")

    def _restart(self, pod: Obj, found: dict[str, Trouble]) -> None:
        """A container that can't stay up: it lives for a while, ends, and waits ever longer."""
        run = self._runs[pod["metadata"]["uid"]]
        run.wait -= 1
        if run.wait > 0:
            return
        slow = Trouble.CRASH not in found.values()
        if slow and not _all_run(pod):
            self._up(pod, found, pod["spec"].get(INIT) or [])
            return
        run.up += 1
        if slow and run.up <= UP_STEPS:
            self._run(pod, dict.fromkeys(found, Trouble.NONE))
            return
        self._fall(pod, run, found)

    def _fall(self, pod: Obj, run: _Run, found: dict[str, Trouble]) -> None:
        """End the containers that can't stay up."""
        if pod["spec"].get("restartPolicy") == "Never":
            what = next(one for one in found.values() if one in RESTARTING)
            code, reason = _ENDS[what]
            self._write_crash(pod, found)
            end_for_good(self._world, pod, "Failed", code=code, reason=reason)
            return
        run.crashes += 1
        run.wait = min(2**run.crashes, LONGEST_BACKOFF)
        now, shown = self._world.store.timestamp(), self._ended_inits(pod)
        in_init = self._init_fails(pod, found)
        for container in [*(pod["spec"].get(INIT) or []), *pod["spec"]["containers"]]:
            name = container["name"]
            if found[name] in RESTARTING and (name in shown) == in_init:
                shown[name] = self._fallen(pod, container, found[name], run, now)
            elif name not in shown:
                shown[name] = Shown(
                    state=waiting("PodInitializing") if in_init else None, ready=not in_init
                )
        self._write_crash(pod, found)
        self._show(pod, shown, phase="Pending" if in_init else "Running")

    def _fallen(self, pod: Obj, container: Obj, what: Trouble, run: _Run, now: str) -> Shown:
        code, reason = _ENDS[what]
        meta, name = pod["metadata"], container["name"]
        if what is Trouble.LIVENESS:
            why = "Liveness probe failed: HTTP probe failed with statuscode: 404"
            self._event(pod, container, "Unhealthy", why, type="Warning")
            why = f"Container {name} failed liveness probe, will be restarted"
            self._event(pod, container, "Killing", why)
        named = f"{meta['name']}_{meta['namespace']}({meta['uid']})"
        why = f"Back-off restarting failed container {name} in pod {named}"
        self._event(pod, container, "BackOff", why, type="Warning")
        delay = min(10 * 2 ** (run.crashes - 1), 300)
        why = f"back-off {delay}s restarting failed container={name} pod={named}"
        return Shown(
            state=waiting("CrashLoopBackOff", why),
            last=terminated(pod, code, reason, started_at(pod, name, now), now),
            restarted=True,
        )

    def _write_crash(self, pod: Obj, found: dict[str, Trouble]) -> None:
        uid, now = pod["metadata"]["uid"], self._world.store.now()
        for container in [*(pod["spec"].get(INIT) or []), *pod["spec"]["containers"]]:
            name = container["name"]
            if found[name] is Trouble.CRASH:
                self._world.output.crash(uid, name, container["image"], now)
            elif found[name] in RESTARTING:
                self._world.output.cut_off(uid, name)

    def _show(self, pod: Obj, shown: dict[str, Shown], *, phase: str = "") -> Obj:
        now = self._world.store.timestamp()

        def change(edited: Obj) -> None:
            if phase:
                edited["status"]["phase"] = phase
            write_status(edited, now, shown)

        return self._world.edit(POD, pod, change)

    def _event(self, pod: Obj, container: Obj, reason: str, message: str, **more: str) -> None:
        host = pod["spec"].get("nodeName", "")
        source = {"component": "kubelet", "host": host, "container": container["name"], **more}
        self._world.event(POD, pod, reason, message, **source)


def _all_run(pod: Obj) -> bool:
    told: list[Any] = pod["status"].get("containerStatuses") or []
    return bool(told) and all("running" in one["state"] for one in told)


def _ended(known: Obj | None, fresh: Obj) -> Obj:
    state: Obj = known["state"] if known else {}
    return state if "terminated" in state else fresh
