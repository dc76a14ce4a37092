"""The environment of a workload's containers, as the tools name its settings.

A setting of the main container is called by its name, one of another container `CONTAINER:NAME`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mcp_ops.adapters.kubernetes.fields import Obj, mapping, objects, text
from mcp_ops.adapters.kubernetes.references import Keepers, Reference, reference_of
from mcp_ops.adapters.kubernetes.resources import main_container
from mcp_ops.capabilities.deployment_config import ConfigItem
from mcp_ops.errors import InvalidInput
from mcp_ops.redact import tame

_MOST: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One entry of a container's environment; `called` is its name in the tools."""

    called: str
    container: str
    entry: Obj

    @property
    def reference(self) -> Reference | None:
        """Where its value is kept, if in a Secret or a ConfigMap."""
        return reference_of(self.entry)

    @property
    def value(self) -> str:
        """The value that stands in the workload itself."""
        return text(self.entry, "value")


def running_containers(workload: Obj) -> list[Obj]:
    """The containers that go on running, unlike those that only prepare."""
    return objects(workload, "spec", "template", "spec", "containers")


def count_containers(workload: Obj) -> int:
    """How many containers there are, those that prepare included."""
    return len(running_containers(workload)) + len(
        objects(workload, "spec", "template", "spec", "initContainers")
    )


def _main(plain: str, workload: Obj) -> str:
    try:
        return text(main_container(plain, workload), "name")
    except InvalidInput:
        return ""


def prefixed(plain: str, workload: Obj) -> list[tuple[str, Obj]]:
    """All containers, each with what stands before the names of its settings."""
    main = _main(plain, workload)
    found = []
    for one in running_containers(workload):
        name = text(one, "name")
        found.append(("" if name == main else f"{name}:", one))
    for one in objects(workload, "spec", "template", "spec", "initContainers"):
        found.append((f"{text(one, 'name')}:", one))
    return found


def settings_of(plain: str, workload: Obj) -> list[Setting]:
    """The first thousand entries of all environments."""
    found = [
        Setting(
            called=tame(f"{prefix}{text(entry, 'name')}", 200),
            container=text(container, "name"),
            entry=entry,
        )
        for prefix, container in prefixed(plain, workload)
        for entry in objects(container, "env")
    ]
    return found[:_MOST]


def setting_of(plain: str, workload: Obj, container: str, key: str) -> Setting | None:
    """The setting as the container gets it: of one that is there twice, the last."""
    found = [
        one
        for one in settings_of(plain, workload)
        if one.container == container and text(one.entry, "name") == key
    ]
    return found[-1] if found else None


async def taken_over(
    keepers: Keepers, prefix: str, source: Obj, required: set[str]
) -> list[ConfigItem]:
    """What one `envFrom` brings: by key, or as a whole (`*`) where that can't be looked at."""
    secret = mapping(source, "secretRef")
    ref = secret or mapping(source, "configMapRef")
    name = text(ref, "name")[:253]
    if not name:
        return []
    keeper = "secret" if secret else "configmap"
    kept = await keepers.look("secret" if secret else "configmap", name)
    before = f"{prefix}{text(source, 'prefix')}"
    if kept.fingerprints is None:
        none = f"there is no {keeper} of that name"
        problem = none if kept.missing else f"not known: {kept.unknown}"
        if kept.missing and ref.get("optional") is True:
            problem = ""
        return [
            ConfigItem(
                name=tame(f"{before}*", 200),
                source="reference",
                shown=f"{keeper}/{name}",
                problem=problem,
            )
        ]
    return [
        ConfigItem(
            name=tame(f"{before}{key}", 200),
            source="reference",
            shown=f"{keeper}/{name}/{key}",
            fingerprint=fingerprint,
            required=f"{before}{key}" in required,
        )
        for key, fingerprint in kept.fingerprints.items()
    ]
