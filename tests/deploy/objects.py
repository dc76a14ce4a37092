"""Whether an object is one that Kubernetes knows: by the models of its own Python client.

Those are generated from the API's OpenAPI description: each has the fields and their types, refuses
others, and misses what is required.
"""

from __future__ import annotations

from typing import Any

from kubernetes.client import models
from pydantic import ValidationError

# Kinds that are not part of Kubernetes itself, with the fields that ours uses.
FOREIGN = {"HTTPRoute": {"parentRefs", "hostnames", "rules"}}


def problems(found: dict[str, Any]) -> list[str]:
    """What is wrong with a whole object, each with its place."""
    kind = found["kind"]
    if kind in FOREIGN:
        return [f"{kind}.spec.{name}: unknown" for name in found["spec"].keys() - FOREIGN[kind]]
    version = found["apiVersion"].rpartition("/")[2]
    model = getattr(models, f"{version[0].upper()}{version[1:]}{kind}")
    try:
        model.model_validate(found)
    except ValidationError as exc:
        return [
            f"{kind}.{'.'.join(map(str, each['loc']))}: {each['type']}" for each in exc.errors()
        ]
    return []
