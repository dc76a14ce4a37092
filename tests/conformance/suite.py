"""The official suite as a process: one run of a frozen set of scenarios, and what it found."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anyio
import yaml

from tests.clients.install import Installed

REVISIONS = ("2026-07-28", "2025-11-25")
RUN_S = 300
# It gives some answers half a second: on a busy machine it gets a second chance, alone.
HURRIED = "server-stateless"
_FOLDER = re.compile(r"server-(.+?)-\d{4}-\d{2}-\d{2}T.*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """One run. `checks` are those of each scenario that ran, in the suite's own words.

    `required` are the scenarios that the revision requires; the others ran to be seen only.
    """

    revision: str
    required: tuple[str, ...]
    checks: Mapping[str, list[dict[str, Any]]]
    code: int
    output: str
    seconds: float

    def passed(self, scenario: str) -> bool:
        """Whether a scenario ran, and none of its checks failed or warned."""
        found = self.checks.get(scenario, [])
        return bool(found) and not any(each["status"] in ("FAILURE", "WARNING") for each in found)

    def said(self, scenario: str) -> str:
        """What the suite printed about a scenario."""
        return self.output.partition(f"=== Running scenario: {scenario} ===")[2].partition("===")[0]

    @property
    def failed(self) -> dict[str, list[str]]:
        """What is wrong with the required scenarios, warnings included."""
        return {name: self.wrong(name) for name in self.required if not self.passed(name)}

    @property
    def skipped(self) -> dict[str, list[str]]:
        """The checks that the suite left out in required scenarios, as not applicable."""
        return {
            name: ids
            for name in self.required
            if (ids := [e["id"] for e in self.checks.get(name, []) if e["status"] == "SKIPPED"])
        }

    @property
    def counts(self) -> Counter[str]:
        """How many checks of the required scenarios had which status."""
        return Counter(e["status"] for name in self.required for e in self.checks.get(name, []))

    @property
    def beside(self) -> dict[str, bool]:
        """The scenarios that are not required, and whether they passed all the same."""
        return {name: self.passed(name) for name in self.checks if name not in self.required}

    def wrong(self, scenario: str) -> list[str]:
        """Each check of a scenario that failed or warned, with its reason."""
        found = self.checks.get(scenario)
        if not found:
            return [f"it did not end: {self.said(scenario).strip()[:1_000]}"]
        bad = [each for each in found if each["status"] in ("FAILURE", "WARNING")]
        return [f"{e['status']} {e['id']}: {e.get('errorMessage', '')}"[:500] for e in bad]


def required(suite: Path, revision: str) -> tuple[str, ...]:
    """The scenarios that a revision requires of a server."""
    text = (suite / "requirements" / f"{revision}.yaml").read_text(encoding="utf-8")
    return tuple(yaml.safe_load(text)["server"])


async def run_suite(clients: Installed, url: str, revision: str, into: Path) -> Ran:
    """Run the frozen set of a revision against the server at `url`, in full."""
    suite = clients.typescript / "node_modules" / "@modelcontextprotocol" / "conformance"
    command = [str(clients.node), str(suite / "dist" / "index.js"), "server", "--url", f"{url}/mcp"]
    began = time.monotonic()
    code, output, checks = await _once([*command, "--requirements", revision], into)
    ran = Ran(
        revision=revision,
        required=required(suite, revision),
        checks=checks,
        code=code,
        output=output,
        seconds=time.monotonic() - began,
    )
    if set(ran.failed) != {HURRIED}:
        return ran
    one = ["--scenario", HURRIED, "--spec-version", revision]
    code, output, checks = await _once([*command, *one], into.with_name(f"{into.name}-again"))
    return replace(
        ran, code=code, output=f"{ran.output}\n{output}", checks={**ran.checks, **checks}
    )


async def _once(command: list[str], into: Path) -> tuple[int, str, dict[str, list[dict[str, Any]]]]:
    into.mkdir(parents=True)
    with anyio.fail_after(RUN_S):
        done = await anyio.run_process(
            [*command, "--output-dir", str(into)],
            check=False,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            env={"HOME": str(into), "NO_COLOR": "1"},
        )
    checks = {
        match[1]: json.loads(file.read_text(encoding="utf-8"))
        for file in sorted(into.glob("*/checks.json"))
        if (match := _FOLDER.fullmatch(file.parent.name))
    }
    return done.returncode, done.stdout.decode(errors="replace"), checks
