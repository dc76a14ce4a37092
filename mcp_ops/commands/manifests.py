"""The rights in a Kubernetes cluster as files: manifests for kubectl, and the rules of the chart.

Both are generated from what the adapter's tools need, so that they grant no more and no less.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Final

FOLDER: Final = Path("deploy", "kubernetes")
CHART: Final = FOLDER / "chart" / "templates" / "_rules.tpl"

_TITLES: Final[Mapping[str, str]] = {
    "read": "What the tools that only read need in one namespace.",
    "write": "What the tools that write need there besides rbac-read.yaml.",
    "destroy": "What the tools that destroy need there besides the other two.",
    "references": "Lets list_config and set_config say whether what a setting refers to is there.\n"
    "# Kubernetes knows no right to look at names alone: this one reads Secrets.",
}


def manifests(root: Path) -> dict[Path, bytes]:
    """What each file has to say."""
    rules_of = import_module("mcp_ops.adapters.kubernetes.permissions").rules
    found = {part: _rules(rules_of(part)) for part in _TITLES}
    files = {root / FOLDER / f"rbac-{part}.yaml": _file(part, found[part]) for part in found}
    chart = ["{{- /* Written by `mcp-ops schemas`; do not edit. */ -}}"]
    for part, lines in found.items():
        chart += ["", f'{{{{- define "mcp-ops.rules.{part}" -}}}}', *lines, "{{- end -}}"]
    files[root / CHART] = _bytes(chart)
    return files


def _rules(rules: Sequence[Mapping[str, Sequence[str]]]) -> list[str]:
    lines: list[str] = []
    for rule in rules:
        for mark, key in zip("-  ", ("apiGroups", "resources", "verbs"), strict=True):
            values = ", ".join(value or '""' for value in rule[key])
            lines.append(f"{mark} {key}: [{values}]")
    return lines


def _file(part: str, rules: Sequence[str]) -> bytes:
    name = f"mcp-ops-{part}"
    return _bytes(
        [
            f"# {_TITLES[part]}",
            "# Written by `mcp-ops schemas`. Put your account and its namespace below, then:",
            f"# kubectl apply --namespace shop --filename rbac-{part}.yaml",
            "apiVersion: rbac.authorization.k8s.io/v1",
            "kind: Role",
            "metadata:",
            f"  name: {name}",
            "rules:",
            *(f"  {line}" for line in rules),
            "---",
            "apiVersion: rbac.authorization.k8s.io/v1",
            "kind: RoleBinding",
            "metadata:",
            f"  name: {name}",
            "roleRef:",
            "  apiGroup: rbac.authorization.k8s.io",
            "  kind: Role",
            f"  name: {name}",
            "subjects:",
            "  - kind: ServiceAccount",
            "    name: mcp-ops",
            "    namespace: mcp-ops",
        ]
    )


def _bytes(lines: Sequence[str]) -> bytes:
    # Bytes, so that a file made on Windows is the same.
    return ("\n".join(lines) + "\n").encode("utf-8")
