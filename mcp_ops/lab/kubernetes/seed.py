"""The sample workload: a small shop that has run for a while, and a namespace off limits."""

from __future__ import annotations

from typing import Final

from mcp_ops.lab.kubernetes.access import RESTRICTED
from mcp_ops.lab.kubernetes.controller import Controller, settled
from mcp_ops.lab.kubernetes.defaults import apply_defaults
from mcp_ops.lab.kubernetes.kinds import (
    DEPLOYMENT,
    EVENT,
    NAMESPACE,
    POD,
    STATEFUL_SET,
    Kind,
    Obj,
)
from mcp_ops.lab.kubernetes.managed import with_manager
from mcp_ops.lab.kubernetes.store import new_uid
from mcp_ops.lab.kubernetes.world import World

SHOP: Final = "shop"
BAD_TAG: Final = "2.8.0-broken"
AGE_S: Final = 3 * 86_400
LOG_LINES: Final = 60
LOG_EVERY_S: Final = 20
MOST_STEPS: Final = 50

_DEPLOYMENTS: Final = (
    ("api", "lab/shop-api:2.7.1", 3, 30),
    ("worker", "lab/shop-worker:1.4.0", 2, 30),
    ("web", "lab/shop-web:5.0.2", 2, 600),
)


def seed(world: World, controller: Controller) -> None:
    """Fill the world, and let it run until everything is ready; none of it is logged."""
    present = world.store.now
    world.silent = True
    world.store.now = lambda: present() - AGE_S
    for name in ("default", SHOP, RESTRICTED):
        _add(world, NAMESPACE, "", name, {})
    for name, image, replicas, deadline in _DEPLOYMENTS:
        spec = {"replicas": replicas, "progressDeadlineSeconds": deadline}
        _add(world, DEPLOYMENT, SHOP, name, {**spec, **_template(name, image)})
    database = {"replicas": 1, "serviceName": "postgres"}
    _add(
        world,
        STATEFUL_SET,
        SHOP,
        "postgres",
        {**database, **_template("postgres", "lab/postgres:18.1")},
    )
    _add(
        world, DEPLOYMENT, RESTRICTED, "vault", {"replicas": 1, **_template("vault", "lab/vault:3")}
    )
    steps = 0
    while steps < 8 or not settled(world):
        controller.step()
        steps += 1
        if steps > MOST_STEPS:
            raise RuntimeError("the sample workload does not settle")
    world.store.now = present
    for event in world.store.all(EVENT):
        world.store.remove(EVENT, event)
    _write_logs(world)
    world.store.forget_changes()
    world.silent = False


def _template(name: str, image: str) -> Obj:
    container = {
        "name": name,
        "image": image,
        "ports": [{"containerPort": 8080, "protocol": "TCP"}],
        "env": [{"name": "LOG_LEVEL", "value": "info"}],
    }
    return {
        "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [container]}},
    }


def _add(world: World, kind: Kind, namespace: str, name: str, spec: Obj) -> None:
    now = world.store.timestamp()
    obj: Obj = {
        "apiVersion": kind.api_version,
        "kind": kind.name,
        "metadata": {
            "name": name,
            "uid": new_uid(),
            "creationTimestamp": now,
            "labels": {"app": name} if spec else {},
        },
    }
    if spec:
        obj["metadata"].update(namespace=namespace, generation=1)
        obj.update(spec=spec, status={})
    apply_defaults(kind, obj)
    obj["metadata"]["managedFields"] = with_manager(None, obj, "delivery", "", now)
    world.store.put(kind, obj)


def _write_logs(world: World) -> None:
    """Let every pod look back on some minutes of work."""
    now = world.store.now()
    for pod in world.store.all(POD):
        for back in range(LOG_LINES, 0, -1):
            for container in pod["spec"]["containers"]:
                at = now - back * LOG_EVERY_S
                world.output.serve(pod["metadata"]["uid"], container["name"], at)
