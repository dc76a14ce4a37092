"""The tools in words: docs/tools.md whole, and the table in README.md between its markers.

Both are generated from the tools and the kinds of targets, so that they cannot say what is not so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mcp_ops.capabilities.base import WriteResult
from mcp_ops.capabilities.deadletters import DeadLetterQueue
from mcp_ops.tool import Tool, is_port

KindsOf = Callable[[type], list[str]]

PAGE = Path("docs", "tools.md")
README = Path("README.md")
BEGIN = "<!-- tools: written by `mcp-ops schemas` -->"
END = "<!-- end of tools -->"

_INTRODUCTION = """\
# Tools

Written by `mcp-ops schemas`; do not edit. The full schemas are in [tool_schemas/](../tool_schemas).

A tool works on a capability, and is published while a configured target has it. The server adds
`target` to each tool on a target: one of the configured names, with a default where there is only
one. On tools of the server itself `target` is a plain argument.

- Every result has `target`, `observed_at` and up to three `next_steps`. A result has at most
  16 KiB (`guard.limits.result_bytes`); a list is cut with a cursor.
- Every write answers `outcome`: `verified` (the effect was seen), `unconfirmed` (accepted, not yet
  seen), `unknown` (sent, and the answer was lost), `failed`, `in_progress` (ask `get_operation`)
  or `planned` (a dry run), with `evidence` and an `audit_id`.
- Every write takes `reason`, `dry_run` and `idempotency_key` ([guard.md](guard.md#idempotency)).
- `bulk`: its cost grows with its result, so that it is the first to be refused when a quota runs
  out. `recovery`: it repairs a target, and passes what the target's own trouble would refuse.
- Errors are in [errors.md](errors.md).
"""
_TITLES = {
    "GuardControl": "On the server itself",
    "ApiUsageSource": "API usage",
    "TokenIssuer": "OAuth tokens",
    "DeadLetterQueue": "Dead letters",
    "DeploymentPlatform": "Deployments",
    "RevisionedPlatform": "Deployments: versions",
    "ScalablePlatform": "Deployments: instances",
    "AutoscaledPlatform": "Deployments: autoscaling",
    "PausablePlatform": "Deployments: held rollouts",
    "StoppablePlatform": "Deployments: stop and start",
    "SlottedPlatform": "Deployments: slots",
    "InstancePlatform": "Deployments: one instance",
    "SizedPlatform": "Deployments: size",
    "ConfigurablePlatform": "Deployments: settings",
    "JobScheduler": "Jobs",
    "JobControl": "Jobs: hold and stop",
}

# Named in the introduction.
_COMMON = frozenset(WriteResult.model_fields)


def first_sentence(description: str) -> str:
    """What a tool does, on one line."""
    text = " ".join(description.partition("\n\n")[0].split())
    head, end, _ = text.partition(". ")
    return head + end.strip()


def tables(tools: Mapping[str, Tool], kinds_of: KindsOf, root: Path) -> dict[Path, bytes]:
    """What the two files of a repository should hold; empty where there is no repository."""
    readme = root / README
    if not readme.is_file() or not (root / PAGE).parent.is_dir():
        return {}
    found = {root / PAGE: _page(tools, kinds_of)}
    before, begin, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if begin and end:
        found[readme] = f"{before}{BEGIN}\n{_overview(tools, kinds_of)}{END}{after}"
    return {path: text.encode("utf-8") for path, text in found.items()}


def _overview(tools: Mapping[str, Tool], kinds_of: KindsOf) -> str:
    lines = ["| tool | effect | what it does |", "|---|---|---|"]
    for capability, group in _groups(tools):
        lines.append(f"| **{_title(capability)}** | | *{_offered_by(capability, kinds_of)}* |")
        lines += [
            f"| [`{tool.name}`](docs/tools.md#{tool.name}) | {tool.effect_in_words} "
            f"| {first_sentence(tool.description)} |"
            for tool in group
        ]
    return "\n".join(lines) + "\n"


def _page(tools: Mapping[str, Tool], kinds_of: KindsOf) -> str:
    parts = [_INTRODUCTION]
    for capability, group in _groups(tools):
        parts.append(f"## {_title(capability)}\n\n{_about(capability, kinds_of)}\n")
        parts += [_section(tool) for tool in group]
    return "\n".join(parts)


def _groups(tools: Mapping[str, Tool]) -> Iterator[tuple[type, list[Tool]]]:
    capabilities = dict.fromkeys(tool.capability for tool in tools.values())
    for capability in capabilities:
        yield capability, [tool for tool in tools.values() if tool.capability is capability]


def _title(capability: type) -> str:
    return _TITLES.get(capability.__name__, capability.__name__)


def _about(capability: type, kinds_of: KindsOf) -> str:
    if is_port(capability):
        return "These act on the guard and the record; they need no target."
    offered = _offered_by(capability, kinds_of)
    return f"Capability `{capability.__name__}`. Kinds of targets: {offered}."


def _offered_by(capability: type, kinds_of: KindsOf) -> str:
    if is_port(capability):
        return "always there"
    own = ["the server's own failed operations"] if capability is DeadLetterQueue else []
    return ", ".join([*kinds_of(capability), *own])


def _section(tool: Tool) -> str:
    marks = [tool.effect_in_words]
    marks += [word for word in ("bulk", "recovery", "idempotent") if getattr(tool, word)]
    marks.append(f"at most {tool.timeout_s:g} s")
    lines = [f"### {tool.name}", "", f"*{', '.join(marks)}*", "", tool.description, ""]
    schema = tool.input_schema
    if schema["properties"]:
        lines += ["| argument | type | default | |", "|---|---|---|---|"]
        required = schema.get("required", ())
        lines += [
            _argument(name, node, required=name in required)
            for name, node in schema["properties"].items()
        ]
    else:
        lines.append("No arguments.")
    answers = [f"`{name}`" for name in tool.output_schema["properties"] if name not in _COMMON]
    lines += ["", f"Answers {', '.join(answers)}.", ""]
    return "\n".join(lines)


def _argument(name: str, node: Mapping[str, Any], *, required: bool) -> str:
    default = "**required**" if required else f"`{_plain(node.get('default'))}`"
    about = node.get("description", "")
    choices = ", ".join(f"`{_plain(each)}`" for each in node.get("enum", ()))
    words = " ".join(part for part in (about, f"One of {choices}." if choices else "") if part)
    return f"| `{name}` | {_type(node)} | {default} | {words.replace('|', chr(92) + '|')} |"


def _type(node: Mapping[str, Any]) -> str:
    kind = str(node.get("type", ""))
    for low, high, unit in (
        ("minimum", "maximum", ""),
        ("minLength", "maxLength", " characters"),
        ("minItems", "maxItems", " items"),
    ):
        if low in node or high in node:
            least, most = node.get(low), node.get(high)
            span = f"{least} to {most}" if least and most is not None else f"at most {most}"
            if low == "minimum" and least == 0:
                span = f"0 to {most}"
            return f"{kind}, {span}{unit}"
    return kind


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return '""' if value == "" else str(value)
