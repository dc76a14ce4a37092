"""What the logs of the cluster and of the coordinator say, as the checker reads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from tests.faults.checker import Effect

CALL_ID: Final = "mcp-ops.io/call-id"
_PATCHED = ("Deployment", "HorizontalPodAutoscaler", "CronJob")
_EFFECTS = frozenset({("client.create", "Job"), *(("client.patch", kind) for kind in _PATCHED)})
# What is gone has no mark of a call: only its name says whose effect it is.
_GONE = frozenset({("client.delete", "Pod"), ("client.delete", "Job")})


def _of_cluster(line: Mapping[str, Any]) -> list[Effect]:
    what = (line["effect"], line.get("kind"))
    if what in _GONE:
        name = str(line["name"])
        if "-ops-" in name:  # a run that we started, and somebody else ended
            return []
        return [Effect(intent=name.removesuffix("-0") if what[1] == "Pod" else name)]
    if what not in _EFFECTS:
        return []
    marks = {path: call for path, call in line["changed"].items() if path.endswith(CALL_ID)}
    # A rollback may bring back a template with the mark of an earlier restart: the object's own
    # mark, which stands before the template's, is the one of this change.
    call = next((marks[path] for path in sorted(marks) if marks[path]), "")
    if not call:  # by somebody else
        return []
    return [Effect(intent=line["name"].rpartition("-ops-")[0] or line["name"], call=call)]


def _of_coordinator(line: Mapping[str, Any]) -> list[Effect]:
    # The key is the item's id and attempt: an item is one intent, whatever the attempt.
    return [Effect(intent=str(line["operation"]).rpartition("-")[0])]


READ: Final[Mapping[str, Callable[[Mapping[str, Any]], list[Effect]]]] = {
    "cluster": _of_cluster,
    "coordinator": _of_coordinator,
}
