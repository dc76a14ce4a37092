"""Makes the bundle for Claude Desktop: `make bundle` writes `dist/mcp-ops.mcpb`.

A bundle is a zip file with a manifest. Ours holds the package and, in a `pyproject.toml`, each of
its dependencies in the locked version: the host's uv installs them for the machine it is on. The
same sources make the same bytes.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mcp_ops.catalog import ALL_TOOLS, CORE

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
LOCK = ROOT / "requirements-image.lock"
# The earliest time that a zip file can say.
EPOCH = (1980, 1, 1, 0, 0, 0)


def manifest() -> dict[str, Any]:
    """The manifest of the folder, with the version and the tools of the package."""
    found: dict[str, Any] = json.loads((HERE / "manifest.json").read_text(encoding="utf-8"))
    found["version"] = version()
    found["tools"] = [
        {"name": name, "description": ALL_TOOLS[name].description.split("\n")[0]}
        for name in ALL_TOOLS
        if name in CORE
    ]
    return found


def version() -> str:
    """The version of the package."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(project["version"])


def requirements() -> list[str]:
    """What the lock says, without its hashes: name, version, and on which systems."""
    lines = LOCK.read_text(encoding="utf-8").splitlines()
    return [line.removesuffix("\\").strip() for line in lines if re.match(r"[a-z0-9]", line)]


def project() -> str:
    """The file by which uv knows what to install, and that there is nothing to build."""
    listed = "".join(f"  {json.dumps(each)},\n" for each in requirements())
    return (
        f'[project]\nname = "mcp-ops-bundle"\nversion = "{version()}"\n'
        f'requires-python = ">=3.11"\ndependencies = [\n{listed}]\n\n[tool.uv]\npackage = false\n'
    )


def files() -> Iterator[tuple[str, bytes]]:
    """Every file of the bundle, by its name in there."""
    yield "manifest.json", json.dumps(manifest(), indent=2).encode()
    yield "pyproject.toml", project().encode()
    yield "README.md", (ROOT / "docs" / "deploy" / "claude-desktop.md").read_bytes()
    yield "server/main.py", (HERE / "server" / "main.py").read_bytes()
    package = ROOT / "mcp_ops"
    for path in sorted(package.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield f"server/mcp_ops/{path.relative_to(package).as_posix()}", path.read_bytes()


def build(target: Path) -> None:
    """Write the bundle."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, content in files():
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            bundle.writestr(entry, content)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
