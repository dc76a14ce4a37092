"""Lists: selected, cut into pages that show one moment, and in the form the client asked for."""

from __future__ import annotations

import base64
import binascii
import json
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, Final

from mcp_ops.lab.kubernetes.call import Call
from mcp_ops.lab.kubernetes.kinds import Obj
from mcp_ops.lab.kubernetes.selectors import Matches, field_selector, label_selector
from mcp_ops.lab.kubernetes.status import bad_request, expired, not_acceptable
from mcp_ops.lab.kubernetes.store import Store
from mcp_ops.lab.kubernetes.tables import partial, table

KEPT_SNAPSHOTS: Final = 64
LARGEST: Final = 2**62


def selected(call: Call) -> Matches:
    """What tells the objects that a list, a watch or a collection's deletion is about."""
    by_label = label_selector(call.params.get("labelSelector", ""))
    by_field = field_selector(call.address.kind, call.params.get("fieldSelector", ""))
    return lambda obj: by_label(obj) and by_field(obj)


def whole_number(call: Call, name: str) -> int | None:
    """A query parameter that is a number of something, when it is given."""
    text = call.params.get(name)
    if not text:
        return None
    try:
        value = int(text)
    except ValueError as exc:
        raise bad_request(f'strconv.ParseInt: parsing "{text}": invalid syntax') from exc
    if abs(value) > LARGEST:
        raise bad_request(f'strconv.ParseInt: parsing "{text}": value out of range')
    return value


@dataclass(slots=True)
class Lists:
    """Lists collections; keeps the snapshots that pages still to be fetched refer to."""

    store: Store
    _snapshots: OrderedDict[str, list[Obj]] = field(default_factory=OrderedDict)

    def answer(self, call: Call) -> Obj:
        """One page."""
        objects, version, start = self._source(call)
        limit = whole_number(call, "limit") or 0
        if limit < 0:
            raise bad_request("limit must be non-negative")
        meta: dict[str, Any] = {"resourceVersion": version}
        page, rest = (objects, []) if not limit else (objects[:limit], objects[limit:])
        if rest:
            token = self._keep(call, version, start + limit, start, objects)
            meta["continue"] = token
            # Behind a selector the server does not know how many would match.
            if not call.params.get("labelSelector") and not call.params.get("fieldSelector"):
                meta["remainingItemCount"] = len(rest)
        return self._shaped(call, page, meta)

    def _source(self, call: Call) -> tuple[list[Obj], str, int]:
        token = call.params.get("continue", "")
        if token:
            try:
                where = json.loads(base64.urlsafe_b64decode(token.encode() + b"=="))
                key, start = str(where["rv"]), int(where["start"])
            except (ValueError, KeyError, TypeError, binascii.Error) as exc:
                raise bad_request(f"continue key is not valid: {exc}") from exc
            snapshot = self._snapshots.get(_snapshot_key(call, key))
            if snapshot is None:
                raise expired(
                    "The provided continue parameter is too old to display a consistent list "
                    "result. You can start a new list without the continue parameter."
                )
            return snapshot[start:], key, start
        matches = selected(call)
        found = self.store.all(call.address.kind, call.address.namespace)
        return [obj for obj in found if matches(obj)], str(self.store.version), 0

    def _keep(self, call: Call, version: str, next_at: int, start: int, objects: list[Obj]) -> str:
        if start == 0:
            self._snapshots[_snapshot_key(call, version)] = objects
            while len(self._snapshots) > KEPT_SNAPSHOTS:
                self._snapshots.popitem(last=False)
        where = {"v": "meta.k8s.io/v1", "rv": version, "start": next_at}
        return base64.urlsafe_b64encode(json.dumps(where).encode()).decode().rstrip("=")

    def _shaped(self, call: Call, page: list[Obj], meta: dict[str, Any]) -> Obj:
        kind, form = call.address.kind, form_of(call)
        if form == "Table":
            return table(kind, page, meta, self.store.now())
        if form in ("PartialObjectMetadataList", "PartialObjectMetadata"):
            return {
                "kind": "PartialObjectMetadataList",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": meta,
                "items": [partial(obj) for obj in page],
            }
        return {
            "kind": f"{kind.name}List",
            "apiVersion": kind.api_version,
            "metadata": meta,
            # The items of a typed list do not repeat their kind.
            "items": [
                {k: v for k, v in obj.items() if k not in ("kind", "apiVersion")} for obj in page
            ],
        }


def _snapshot_key(call: Call, version: str) -> str:
    address, params = call.address, call.params
    selectors = params.get("labelSelector", ""), params.get("fieldSelector", "")
    return json.dumps([address.kind.plural, address.namespace, version, *selectors])


def form_of(call: Call) -> str:
    """The form the client prefers among those that are written here; empty is the object."""
    accept = call.headers.get("accept", "") or "*/*"
    for part in accept.split(","):
        media, *options = [piece.strip() for piece in part.split(";")]
        if media not in ("application/json", "application/*", "*/*"):
            continue
        given = dict(option.partition("=")[::2] for option in options)
        if given.get("as", "") in ("", *_FORMS):
            return given.get("as", "")
    raise not_acceptable()


_FORMS: Final = ("Table", "PartialObjectMetadataList", "PartialObjectMetadata")
