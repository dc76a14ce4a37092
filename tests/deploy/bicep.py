"""What a Bicep file declares and mentions, as text. This is no compiler, and checks no types.

The grammar is checked by a parser of others (pycep, in `.deploy`); here is what that one leaves
out: whether each name that an expression begins with is declared, and what is never used.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.deploy.tools import Tools, run

PARSE = "import json, pathlib, sys; from pycep import BicepParser"
PARSE += "; text = pathlib.Path(sys.argv[1]).read_text(encoding='utf-8')"
PARSE += "; print(json.dumps(BicepParser().parse(text=text), default=str))"
DECLARED = re.compile(r"^(param|var|resource|module|output) (\w+)", re.MULTILINE)
KEYWORDS = {"param", "var", "resource", "module", "output", "targetScope", "existing", "if"}
KEYWORDS |= {"string", "int", "bool", "object", "array", "true", "false", "null", "for", "in"}
FUNCTIONS = {
    "cidrSubnet",
    "empty",
    "guid",
    "items",
    "join",
    "resourceGroup",
    "startsWith",
    "subscription",
    "subscriptionResourceId",
    "take",
    "toObject",
    "union",
    "uniqueString",
    "uriComponent",
}


def parsed(path: Path, tools: Tools) -> dict[str, Any]:
    """The file as the parser sees it; raises on what is not Bicep."""
    tree: dict[str, Any] = json.loads(run([str(tools.bin / "python"), "-c", PARSE, str(path)]))
    return tree


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """The names of a file."""

    declared: dict[str, str]
    mentioned: set[str]

    @property
    def unknown(self) -> set[str]:
        """What is mentioned and nowhere declared."""
        return self.mentioned - self.declared.keys() - FUNCTIONS

    @property
    def unused(self) -> set[str]:
        """Parameters and variables that nothing mentions."""
        kept = {name for name, kind in self.declared.items() if kind in ("param", "var")}
        return kept - self.mentioned


def names(path: Path) -> Names:
    """Read the names of a file."""
    text = re.sub(r"(?:^|(?<=\s))//.*", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    text = re.sub(r"^@\w+\(.*?\)$|^@\w+\(\)$", "", text, flags=re.MULTILINE)
    text = re.sub(r"^@allowed\(\[.*?\]\)$", "", text, flags=re.MULTILINE | re.DOTALL)
    declared = {name: kind for kind, name in DECLARED.findall(text)}
    # Outputs may be called like something else, and are never mentioned.
    declared |= {name: kind for kind, name in DECLARED.findall(text) if kind != "output"}
    lambdas = set(re.findall(r"(\w+) =>", text))
    heads = set()
    for part in _expressions(DECLARED.sub(r"\1", text)):
        heads |= set(re.findall(r"(?<![.\w'])([A-Za-z_]\w*)(?!\w|\s*:[^:]|\s*=>)", part))
    ternary = {name for part in _expressions(text) for name in re.findall(r"\? (\w+)", part)}
    return Names(declared=declared, mentioned=(heads | ternary) - KEYWORDS - lambdas)


def _expressions(text: str) -> list[str]:
    """The text without its literals, and the expressions that stand in those."""
    literal = r"'((?:\\'|\$\{(?:[^{}]|\{[^{}]*\})*\}|[^'])*)'"
    found = [re.sub(literal, "''", text)]
    for body in re.findall(literal, text):
        for inner in re.findall(r"\$\{((?:[^{}]|\{[^{}]*\})*)\}", body):
            found += _expressions(inner)
    return found
