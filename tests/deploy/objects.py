"""Whether an object is one that Kubernetes knows: by the models of its own Python client.

Those are generated from the API's OpenAPI description: each has the fields, their types, and
refuses to be made without a required one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from kubernetes.client import models

# Kinds that are not part of Kubernetes itself, with the fields that ours uses.
FOREIGN = {"HTTPRoute": {"parentRefs", "hostnames", "rules"}}
CONTAINER = re.compile(r"(?:list\[|dict\(str, |dict\[str, )(.+)[\])]", re.IGNORECASE)
PLAIN: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "bool": (bool,),
    "float": (int, float),
    "object": (object,),
    "datetime": (str,),
    # A number or a text: ports, and percentages of replicas.
    "IntOrString": (int, str),
}


def problems(found: dict[str, Any]) -> list[str]:
    """What is wrong with a whole object, each with its place."""
    kind = found["kind"]
    if kind in FOREIGN:
        return [f"{kind}.spec.{name}" for name in found["spec"].keys() - FOREIGN[kind]]
    version = found["apiVersion"].rpartition("/")[2]
    return list(_wrong(found, f"{version[0].upper()}{version[1:]}{kind}", kind))


def _wrong(value: Any, expected: str, place: str) -> list[str]:
    if match := CONTAINER.fullmatch(expected):
        mapping = expected.lower().startswith("dict")
        if not isinstance(value, dict if mapping else list):
            return [f"{place}: not {expected}"]
        pairs: Iterable[tuple[Any, Any]] = (
            value.items() if isinstance(value, dict) else enumerate(value)
        )
        return [each for key, item in pairs for each in _wrong(item, match[1], f"{place}.{key}")]
    if expected in PLAIN:
        fits = isinstance(value, PLAIN[expected])
        mixed = isinstance(value, bool) and expected in ("int", "str")
        return [] if fits and not mixed else [f"{place}: not {expected}"]
    return _wrong_model(value, getattr(models, expected), place)


def _wrong_model(value: Any, model: Any, place: str) -> list[str]:
    if not isinstance(value, dict):
        return [f"{place}: not {model.__name__}"]
    fields = {name: attribute for attribute, name in model.attribute_map.items()}
    found = [f"{place}.{name}: unknown" for name in value.keys() - fields.keys()]
    for name in value.keys() & fields.keys():
        expected = model.openapi_types[fields[name]]
        # The description calls these objects, and the API takes a number or a text.
        if expected == "object" and name in ("port", "targetPort", "maxUnavailable", "maxSurge"):
            expected = "IntOrString"
        found += _wrong(value[name], expected, f"{place}.{name}")
    try:
        model(**{fields[name]: item for name, item in value.items() if name in fields})
    except ValueError as exc:
        found.append(f"{place}: {exc}")
    return found
