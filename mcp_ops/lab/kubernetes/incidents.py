"""The faults: a release that cannot start, wedged workers, throttling, denied writes."""

from __future__ import annotations

from typing import Final

from mcp_ops.lab.kubernetes.kinds import DEPLOYMENT, POD, Obj
from mcp_ops.lab.kubernetes.seed import BAD_TAG, SHOP
from mcp_ops.lab.kubernetes.world import World

BAD_RELEASE: Final = "bad-release"
SUPPORTED: Final = (BAD_RELEASE, "throttle", "forbid")


class Incidents:
    """Applies the faults and takes them back."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._good_image = ""

    def inject(self, fault: str) -> None:
        """Put a fault in force; raises `KeyError` for one this stand-in does not have."""
        if fault not in SUPPORTED:
            raise KeyError(fault)
        if fault in self._world.faults:
            return
        self._world.faults.active.add(fault)
        if fault == BAD_RELEASE:
            self._release_bad()
            self._wedge_workers()

    def mend(self, fault: str) -> None:
        """Take a fault back; raises `KeyError` for one this stand-in does not have."""
        if fault not in SUPPORTED:
            raise KeyError(fault)
        if fault not in self._world.faults:
            return
        self._world.faults.active.discard(fault)
        if fault == BAD_RELEASE:
            self._world.wedged.clear()
            api = self._api()
            if api is not None and api["spec"]["template"]["spec"]["containers"][0][
                "image"
            ].endswith(BAD_TAG):
                self._set_image(api, self._good_image, "fault.mended")

    def _release_bad(self) -> None:
        api = self._api()
        if api is not None:
            self._good_image = api["spec"]["template"]["spec"]["containers"][0]["image"]
            bad = f"{self._good_image.rpartition(':')[0]}:{BAD_TAG}"
            self._set_image(api, bad, "fault.injected")

    def _wedge_workers(self) -> None:
        """The workers run on but do not serve; a new pod is well."""
        for pod in self._world.store.all(POD, SHOP):
            if (pod["metadata"].get("labels") or {}).get("app") == "worker":
                self._world.wedged.add(pod["metadata"]["uid"])
                self._world.effect("fault.wedged", POD, pod, uid=pod["metadata"]["uid"])

    def _api(self) -> Obj | None:
        return self._world.store.get(DEPLOYMENT, SHOP, "api")

    def _set_image(self, deployment: Obj, image: str, effect: str) -> None:
        def change(edited: Obj) -> None:
            edited["spec"]["template"]["spec"]["containers"][0]["image"] = image
            edited["metadata"]["generation"] += 1

        changed = self._world.edit(DEPLOYMENT, deployment, change)
        self._world.effect(effect, DEPLOYMENT, changed, image=image)
