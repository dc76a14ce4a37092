"""The shape of the package: imports point down, files stay small, exceptions to rules say why."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import mcp_ops

ROOT = Path(mcp_ops.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# What each part may import of the package, besides itself where it is a folder. From the top of
# this table down: a part imports only what stands below it.
_GROUND = {"errors", "redact", "version"}
_LEAVES = _GROUND | {
    "ports",
    "records",
    "questions",
    "failed",
    "clock",
    "params",
    "heard",
    "reach",
    "spans",
}
_CORE = _LEAVES | {"capabilities", "schema", "tool", "call"}
_SETTINGS = {
    "settings",
    "settings_access",
    "settings_base",
    "settings_draft",
    "settings_environ",
    "settings_file",
    "settings_options",
    "settings_policy",
    "settings_problems",
    "settings_telemetry",
    "settings_toml",
    "settings_types",
}
_TRANSPORT = {
    "transport",
    "transport_answer",
    "transport_bus",
    "transport_calls",
    "transport_direct",
    "transport_connection",
    "transport_edge",
    "transport_eras",
    "transport_handing",
    "transport_http",
    "transport_inbox",
    "transport_inline",
    "transport_json",
    "transport_ends",
    "transport_pipes",
    "transport_sessions",
    "transport_socket",
    "transport_sse",
    "transport_refusals",
    "transport_probes",
    "transport_spans",
    "transport_stdio",
    "transport_streams",
}
_PAGE = {"approval_page", "approval_page_html", "approval_page_sessions"}
_EVERYTHING = (
    _CORE
    | _SETTINGS
    | _TRANSPORT
    | _PAGE
    | {"adapter", "adapters", "wire", "stores", "guard", "server", "catalog", "opening", "log"}
    | {"app", "app_http", "app_probes", "app_sealing", "app_targets", "app_telemetry"}
    | {"auth", "commands", "tools", "lab", "telemetry"}
)
ALLOWED: dict[str, set[str]] = {
    "__init__": _LEAVES,
    "__main__": {"cli"},
    "cli": {"commands"},
    "commands": _EVERYTHING,
    "app_sealing": _SETTINGS,
    "app_http": _EVERYTHING - {"commands", "lab"},
    "app_probes": _EVERYTHING - {"app", "commands", "lab"},
    "app_targets": _EVERYTHING - {"app", "commands", "lab"},
    "app_telemetry": _EVERYTHING - {"app", "commands", "lab"},
    "app": _EVERYTHING - {"app", "commands", "lab"},
    "approval_page": _LEAVES | _PAGE | {"auth", "call", "transport_edge"},
    "catalog": _CORE | {"tools", "guard", "server", "settings"},
    "opening": _LEAVES | {"capabilities", "adapter", "guard"},
    "transport": _LEAVES | _SETTINGS | _TRANSPORT | {"auth"},
    "auth": _LEAVES | _SETTINGS | {"wire"},
    "server": _CORE | {"guard", "transport", "transport_bus", "transport_spans"},
    "telemetry": _CORE | {"guard", "log", "settings_telemetry"},
    "guard": _CORE | {"settings"},
    "tools": _LEAVES | {"capabilities", "tool", "redrive", "changes"},
    "changes": _LEAVES | {"capabilities", "tool"},
    "redrive": _LEAVES | {"capabilities", "tool"},
    "call": _LEAVES | {"capabilities", "tool"},
    "tool": _LEAVES | {"capabilities", "schema"},
    "adapters": _LEAVES | {"capabilities", "adapter", "wire"},
    "stores": _LEAVES | {"capabilities"},
    "wire": _LEAVES | {"capabilities"},
    "adapter": _LEAVES | {"capabilities"},
    "settings": _LEAVES | _SETTINGS | {"adapter"},
    "capabilities": _LEAVES,
    "log": _LEAVES,
    "clock": _GROUND | {"ports"},
    "ports": _GROUND,
    "records": _GROUND | {"ports", "questions"},
    "questions": _GROUND,
    "failed": _GROUND,
    "lab": _LEAVES | _SETTINGS | {"capabilities", "adapter", "adapters", "commands"},
    "schema": set(),
    "params": set(),
    "redact": {"redact_formats", "redact_known", "redact_names"},
    "heard": set(),
    "reach": set(),
    "spans": {"errors"},
    "errors": set(),
    "version": set(),
}
# Libraries of the systems that adapters talk to, and of the transports.
CLIENTS = {
    "httpx",
    "httpx2",
    "redis",
    "kubernetes",
    "psycopg",
    "jwt",
    "authlib",
    "aiohttp",
    "azure",
}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> Iterator[str]:
    """The modules that a file imports, anywhere in it; `from a import b` is `a.b`."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def rule(name: str) -> str:
    """Files of one family share a line of the table."""
    for family in ("transport", "settings", "approval_page", "redact"):
        if name.startswith(f"{family}_"):
            return family
    return name


def ids(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_imports_point_down() -> None:
    for path in FILES:
        here = part(path)
        for name in imports(path):
            if not name.startswith("mcp_ops."):
                continue
            there = name.split(".")[1]
            if there == here:
                continue
            assert rule(here) in ALLOWED, f"{here} has no line in ALLOWED"
            assert there in ALLOWED[rule(here)], f"{ids(path)} imports {name}"


def test_siblings_in_adapters_and_tools_do_not_import_each_other() -> None:
    for path in FILES:
        here = path.relative_to(ROOT).parts
        if here[0] not in ("adapters", "tools", "stores") or len(here) < 2:
            continue
        mine = here[1].removesuffix(".py")
        for name in imports(path):
            there = name.split(".")
            if there[:2] == ["mcp_ops", here[0]] and len(there) > 2:
                # What all stores share lies beside their folders; what opens those that the
                # settings name knows them all.
                shared = here[0] == "stores" and (ROOT / "stores" / f"{there[2]}.py").exists()
                opens = here[:2] == ("stores", "opening.py")
                assert there[2] == mine or shared or opens, f"{ids(path)} imports {name}"


def test_only_the_server_and_the_transports_import_the_sdk() -> None:
    for path in FILES:
        if part(path) == "server" or part(path).startswith("transport"):
            continue
        for name in imports(path):
            assert name.split(".")[0] not in ("mcp", "mcp_types"), f"{ids(path)} imports {name}"


def test_tools_guard_and_capabilities_know_no_client_library() -> None:
    for path in FILES:
        if part(path) not in ("tools", "guard", "capabilities", "server", "call", "tool"):
            continue
        for name in imports(path):
            assert name.split(".")[0] not in CLIENTS, f"{ids(path)} imports {name}"


def test_the_environment_is_read_in_the_settings_only() -> None:
    for path in FILES:
        if part(path).startswith("settings"):
            continue
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv"):
                assert not (isinstance(node.value, ast.Name) and node.value.id == "os"), ids(path)


def test_files_stay_under_400_lines() -> None:
    for path in FILES:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def test_a_catch_all_says_why() -> None:
    for path in FILES:
        lines = path.read_text(encoding="utf-8").splitlines()
        for node in ast.walk(tree(path)):
            if not isinstance(node, ast.ExceptHandler):
                continue
            caught = "" if node.type is None else ast.unparse(node.type)
            place = f"{ids(path)}:{node.lineno}"
            if caught == "Exception":
                around = lines[node.lineno - 1 : node.lineno + 2]
                assert any("#" in line for line in around), f"{place} has no reason"
            if caught in ("", "BaseException"):  # a cancellation is never swallowed
                assert any(isinstance(inner, ast.Raise) for inner in ast.walk(node)), place


def test_text_files_are_opened_as_utf_8() -> None:
    for path in FILES:
        for node in ast.walk(tree(path)):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if node.func.attr in ("read_text", "write_text"):
                names = {keyword.arg for keyword in node.keywords}
                assert "encoding" in names, f"{ids(path)}:{node.lineno}"


def test_no_module_has_a_name_that_says_nothing() -> None:
    for path in FILES:
        assert not re.search(r"util|common|helper|manager", path.stem), ids(path)


def test_the_path_of_a_call_fits_on_one_screen() -> None:
    (server,) = [
        node
        for node in ast.walk(tree(ROOT / "server.py"))
        if isinstance(node, ast.AsyncFunctionDef) and node.name == "call_tool"
    ]
    assert server.end_lineno is not None
    assert server.end_lineno - server.lineno + 1 < 40


async def test_importing_the_app_loads_no_library_of_a_system() -> None:
    import anyio

    code = (
        "import sys, mcp_ops.app; "
        f"print([n for n in {sorted(CLIENTS - {'jwt'})!r} if n in sys.modules])"
    )
    with anyio.fail_after(30):
        done = await anyio.run_process([sys.executable, "-c", code], cwd=ROOT.parent)
    loaded = done.stdout.decode().strip()
    # httpx2 is what the SDK itself runs on.
    assert loaded in ("[]", "['httpx2']")


def test_every_part_of_the_package_has_its_line() -> None:
    parts = {rule(part(path)) for path in FILES}
    assert parts - set(ALLOWED) == set()
