"""The documents say what is so: commands parse, links lead somewhere, codes and texts are those."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from mcp_ops import errors
from mcp_ops.catalog import ALL_TOOLS
from mcp_ops.cli import main
from mcp_ops.commands import root
from mcp_ops.commands.arguments import read_arguments
from mcp_ops.commands.exits import Exit
from mcp_ops.errors import OpsError, RefusalCode, Refused
from mcp_ops.opening import KINDS, adapter_class
from mcp_ops.ports import Mode
from mcp_ops.settings_file import load_settings
from mcp_ops.settings_options import resolve_options

REPOSITORY = Path(__file__).parent.parent
PAGES = sorted(
    [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md"), *REPOSITORY.glob("docs/*/*.md")]
)
COMMAND = typer.main.get_command(root.app)
# Where a reader puts a value of their own.
PLACEHOLDERS = {
    "TOOL",
    "PRINCIPAL",
    "ID",
    "NAME",
    "MODE",
    "FILE",
    "CODE",
    "STATE",
    "key=value",
    "…",
}
# What can be typed without a lab, and changes nothing.
HARMLESS = {
    "mcp-ops doctor",
    "mcp-ops call get_health",
    "mcp-ops call list_hot_tools",
    "mcp-ops approvals list",
    "mcp-ops audit tail",
    "mcp-ops audit tail --lines 40",
    "mcp-ops audit verify",
}


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def named(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def blocks(page: Path, *languages: str) -> Iterator[str]:
    fence = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
    for _, language, body in fence.findall(text_of(page)):
        if language in languages:
            yield body


def commands() -> list[tuple[str, str]]:
    """Every command of ours that a page tells its reader to type."""
    found: list[tuple[str, str]] = []
    for page in PAGES:
        for block in blocks(page, "console", "bash", ""):
            lines = [line.strip().removeprefix("$ ") for line in block.splitlines()]
            found += [(named(page), line) for line in lines if re.match(r"(mcp-ops|make)\b", line)]
        inline = re.findall(r"`((?:mcp-ops|make) [^`\n]+)`", text_of(page))
        found += [(named(page), line) for line in inline if not line.endswith("…")]
    return sorted(set(found))


def slug(heading: str) -> str:
    plain = re.sub(r"[^\w\- ]", "", heading.replace("`", "").strip().lower())
    return plain.replace(" ", "-")


def anchors(page: Path) -> set[str]:
    return {slug(line) for line in re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_link_to_a_file_leads_to_it(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize(("page", "line"), commands())
def test_every_command_in_the_documents_is_one(page: str, line: str) -> None:
    program, *arguments = shlex.split(line, comments=True)
    if program == "make":
        targets = re.findall(r"^([a-z]+):", text_of(REPOSITORY / "Makefile"), re.MULTILINE)
        assert [word for word in arguments if "=" not in word and word not in targets] == []
        return
    placeholders = [word for word in arguments if word in PLACEHOLDERS]
    command: Any = COMMAND
    path: list[str] = []
    while hasattr(command, "commands") and arguments and arguments[0] in command.commands:
        path.append(arguments.pop(0))
        command = command.commands[path[-1]]
    if path == ["elevate"] and arguments:  # what is no command there is the principal
        command = command.commands["grant"]
    mentioned = bool(path) and not arguments  # a sentence that speaks of the command
    if not path or hasattr(command, "commands") or placeholders or mentioned:
        known = {option for parameter in command.params for option in parameter.opts}
        assert [word for word in arguments if word.startswith("-") and word not in known] == []
        return
    command.make_context(" ".join(path), list(arguments))
    if path == ["call"]:
        tool = ALL_TOOLS[arguments[0]]
        pairs = [word for word in arguments[1:] if "=" in word and not word.startswith("target=")]
        fields = read_arguments(tool, pairs, "")
        assert set(fields) <= set(tool.arguments.model_fields)


def test_harmless_commands_of_the_documents_work(tmp_path: Path) -> None:
    told = {line for _, line in commands()}
    assert told >= HARMLESS, "the documents do not mention these any more"
    lines = json.dumps([shlex.split(line)[1:] for line in sorted(HARMLESS)])
    code = "import json, sys; from mcp_ops.cli import main"
    code += "; print([int(main(line)) for line in json.loads(sys.argv[1])], file=sys.stderr)"
    kept = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT") if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-c", code, lines],
        cwd=REPOSITORY,
        env={**kept, "HOME": str(tmp_path), "MCP_OPS_STATE_DIR": str(tmp_path / "state")},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert done.stderr.strip().endswith(str([0] * len(HARMLESS))), done.stderr


def test_the_readme_names_how_to_run_and_to_test() -> None:
    typed = {line for page, line in commands() if page == "README.md"}
    assert {"make run", "make test"} <= typed


def test_the_tables_of_the_tools_are_fresh() -> None:
    assert "| [`get_health`]" in text_of(REPOSITORY / "README.md")
    assert main(["schemas", "--check", "--dir", str(REPOSITORY / "tool_schemas")]) == Exit.OK


def classes(base: type[OpsError] = OpsError) -> Iterator[type[OpsError]]:
    for each in base.__subclasses__():
        if each.__module__ == errors.__name__:
            yield each
            yield from classes(each)


def expected_errors() -> dict[str, tuple[str, str]]:
    """What each code says of itself: whether it may have run, and whether to try again."""
    words = {True: "yes", False: "no"}
    found: dict[str, tuple[str, str]] = {}
    for code in RefusalCode:
        refusal = Refused(code, "", hint="")
        found[code.value] = (refusal.executed, words[refusal.retryable])
    for each in classes():
        if each is not Refused and each not in (errors.Upstream, errors.Answered, errors.Failed):
            found[each.code] = (each.executed, words[each.retryable])
    return found


def test_every_error_code_is_documented_as_it_is_and_none_is_stale() -> None:
    page = text_of(REPOSITORY / "docs" / "errors.md")
    rows = re.findall(r"^\| `(\w+)` \| (no|unknown) \| (yes|no) \| \S", page, re.MULTILINE)
    assert {code: (executed, retry) for code, executed, retry in rows} == expected_errors()
    assert len(rows) == len({code for code, _, _ in rows})


def test_every_refusal_has_its_place_in_the_guide_to_the_guard() -> None:
    page = text_of(REPOSITORY / "docs" / "guard.md")
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \|", page, re.MULTILINE)
    assert rows == [(str(n), code.value) for n, code in enumerate(RefusalCode, start=1)]


def template(node: ast.expr) -> str:
    """A message with an ellipsis where something is filled in; empty for what is no text."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    parts: list[Any] = node.values if isinstance(node, ast.JoinedStr) else []
    return "".join(template(part) if isinstance(part, ast.Constant) else "…" for part in parts)


def test_the_texts_of_all_refusals_stand_in_the_guide_to_the_guard() -> None:
    page = " ".join(text_of(REPOSITORY / "docs" / "guard.md").split())
    texts = [
        template(node.args[1])
        for path in sorted((REPOSITORY / "mcp_ops" / "guard").glob("*.py"))
        for node in ast.walk(ast.parse(text_of(path)))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "Refused"
    ]
    assert len(texts) > 15
    assert [text for text in texts if f"“{text}”" not in page] == []


def test_every_mode_has_its_line_in_the_guide_to_the_guard() -> None:
    page = text_of(REPOSITORY / "docs" / "guard.md")
    assert [mode for mode in Mode if f"\n| `{mode}` |" not in page] == []


@pytest.mark.parametrize("kind", KINDS)
def test_every_option_of_a_kind_of_target_is_documented(kind: str) -> None:
    page = text_of(REPOSITORY / "docs" / "targets" / f"{kind.replace('_', '-')}.md")
    options = adapter_class(kind).Settings.model_fields
    assert [name for name in options if f"`{name}`" not in page] == []


@pytest.mark.parametrize(
    ("page", "body"), [(named(page), body) for page in PAGES for body in blocks(page, "toml")]
)
def test_every_example_of_a_configuration_loads(page: str, body: str, tmp_path: Path) -> None:
    body = body.replace('"file:/', f'"file:{tmp_path.as_posix()}/')
    for name in re.findall(r'"file:([^"]+)"', body):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x" * 32, encoding="utf-8")
    config = tmp_path / "config.toml"
    config.write_text(body, encoding="utf-8")
    environ = dict.fromkeys(re.findall(r"env:(\w+)", body), "x" * 32)
    environ |= {name: "redis://cache.test/0" for name in environ if name.endswith("_URL")}
    settings = load_settings(config, environ, {})
    assert settings.source == str(config)
    for target in settings.targets:
        adapter = adapter_class(target.kind)
        assert resolve_options(target, adapter.Settings, environ, tmp_path, settings.source)


def test_examples_in_json_and_python_can_be_read() -> None:
    for page in PAGES:
        for body in blocks(page, "json"):
            json.loads(body)
        for body in blocks(page, "python"):
            indent = len(body) - len(body.lstrip(" "))
            ast.parse("\n".join(line[indent:] for line in body.splitlines()))


def test_every_decision_is_in_their_list() -> None:
    folder = REPOSITORY / "docs" / "decisions"
    page = text_of(folder / "README.md")
    notes = sorted(path.name for path in folder.glob("0*.md"))
    assert re.findall(r"\((0[\w-]+\.md)\)", page) == notes
    for number, name in enumerate(notes, start=1):
        text = text_of(folder / name)
        assert name.startswith(f"{number:04}-")
        assert text.startswith(f"# {number}. ")
        missing = [w for w in ("Context", "Decision", "Consequence") if f"**{w}.**" not in text]
        assert missing == [], name


# Written in halves, so that this file does not hold what it looks for.
FOREIGN = re.compile(
    "|".join(
        first + second
        for first, second in (
            (r"pypi", r"\.org"),
            (r"pythonhosted", r"\.org"),
            (r"npmjs", r"\.(?:com|org)"),
            (r"deb(?:ian)?\.debian", r"\.org"),
            (r"proxy\.golang", r"\.org"),
            (r"(?<![\w.])/wo", r"rk/"),
            (r"(?<![\w.])/ro", r"ot/"),
            (r"/tmp/", r"(?:wt|v|bash_jobs)\b"),
        )
    )
)


def test_no_file_names_a_package_registry_or_a_path_of_the_machine_it_was_made_on() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, check=True, timeout=60
    )
    found = []
    for name in listed.stdout.decode("utf-8").split("\0"):
        path = REPOSITORY / name
        if not name or not path.is_file():
            continue
        match = FOREIGN.search(path.read_bytes().decode("utf-8", "replace"))
        if match is not None:
            found.append(f"{name}: {match[0]}")
    assert found == []
