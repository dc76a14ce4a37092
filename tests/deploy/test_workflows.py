"""The workflows of GitHub Actions, and the files that editors and agents start from."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from mcp_ops.settings_environ import TARGET_VARIABLES, VARIABLES
from tests.deploy.tools import ROOT, Tools, run

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
MAKEFILE = ROOT / "Makefile"


def jobs(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]
    return found


def test_an_auditor_of_workflows_finds_nothing(tools: Tools) -> None:
    # It parses them as GitHub does, and fails on findings.
    audit = [str(tools.bin / "zizmor"), "--offline", "--no-progress", "--persona", "pedantic"]
    run([*audit, "--min-severity", "low", *map(str, WORKFLOWS)])


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_by_commit_and_jobs_may_no_more_than_they_need(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    uses = re.findall(r"uses: (\S+)(.*)$", text, re.MULTILINE)
    assert uses
    for action, comment in uses:
        assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", action), action
        assert re.fullmatch(r" # v\d+\.\d+\.\d+", comment), action
    assert yaml.safe_load(text)["permissions"] == {}
    for job in jobs(path).values():
        assert {"permissions", "timeout-minutes"} <= job.keys()
        assert job["permissions"].get("contents") == (
            "write" if path.stem == "release" and "needs" not in job else "read"
        )


def test_workflows_call_what_is_there() -> None:
    targets = set(re.findall(r"^([a-z]+):", MAKEFILE.read_text(encoding="utf-8"), re.MULTILINE))
    for path in WORKFLOWS:
        for job in jobs(path).values():
            for step in job["steps"]:
                for words in re.findall(r"^make (.+)$", step.get("run", ""), re.MULTILINE):
                    assert set(words.split()) <= targets
    assert (ROOT / ".ci" / "run").is_file()


def test_the_example_for_vs_code_asks_for_secrets_and_keeps_none() -> None:
    example = json.loads((ROOT / ".vscode" / "mcp.json").read_text(encoding="utf-8"))
    asked = {each["id"]: each for each in example["inputs"]}
    assert all(each["password"] is True for each in asked.values())
    used = set(re.findall(r"\$\{input:([\w-]+)\}", json.dumps(example["servers"])))
    assert used == asked.keys()
    known = {name for _, options in TARGET_VARIABLES.values() for name in options} | {*VARIABLES}
    for server in example["servers"].values():
        assert server.get("env", {}).keys() <= known
        secret = json.dumps([server.get("headers", {}), server.get("env", {}).get("REDIS_URL", "")])
        assert "Bearer" not in secret or "${input:" in secret


def test_the_example_of_an_agent_asks_before_every_call() -> None:
    # Its packages are not installed here; docs/deploy/azure-app-service.md says how it was checked.
    tree = ast.parse((ROOT / "examples" / "azure_agent.py").read_text(encoding="utf-8"))
    (made,) = (
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "MCPTool"
    )
    given = {word.arg: ast.unparse(word.value) for word in made.keywords}
    assert given["require_approval"] == "'always'"
    assert "headers" not in given
    assert "authorization" not in given
