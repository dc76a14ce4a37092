"""Builds and runs the image of the Dockerfile without a container engine: `make imagecheck`.

Linux, as root. Everything happens in a mount namespace of its own, on file systems in memory: the
system of this machine stands for the base image, read-only and without its home directories, with
this Python in /usr/local under an overlay. The RUN lines run as they are written, in a changed
root. Then the server runs as the image says, as its user, on a root that can't be written to.

What this can't show: the base image itself, its layers, and what an engine makes of them.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from tests.deploy.dockerfile import Stage, Step, read

ROOT = Path(__file__).parent.parent.parent
KEY = "a-key-of-the-imagecheck-and-of-nothing-else"  # a test's own
PASSED_ON = ("PIP_", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
# The program is not where the image's PATH points.
CHROOT = shutil.which("chroot") or "/usr/sbin/chroot"
MODULE = "tests.deploy.image"
INSIDE = "in-a-namespace-of-its-own"
# In the base image the loader looks there by itself.
LOADER = {"LD_LIBRARY_PATH": "/usr/local/lib"}
START_S = 60
STOP_S = 30


def possible() -> bool:
    """Whether this machine lets it: Linux, root, and a mount namespace of one's own."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return False
    probe = "mount -t tmpfs none /mnt && mkdir /mnt/l /mnt/u /mnt/w /mnt/o && "
    probe += "mount -t overlay none -o lowerdir=/mnt/l,upperdir=/mnt/u,workdir=/mnt/w /mnt/o"
    command = ["unshare", "--mount", "sh", "-c", probe]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def check() -> dict[str, Any]:
    """Build and run in a namespace of its own; answers what was seen."""
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", sys.executable, "-m", MODULE, INSIDE],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"the image could not be built or run:\n{done.stdout[-6_000:]}")
    seen: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return seen


def allowed_in_context() -> set[str]:
    """What .dockerignore lets through: it refuses everything and names exceptions."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert next(line for line in lines if line and not line.startswith("#")) == "*"
    return {line.removeprefix("!") for line in lines if line.startswith("!")}


class Builder:
    """The stages as folders below `where`, which is a file system in memory."""

    def __init__(self, where: Path) -> None:
        self._where = where
        self.roots: dict[str, Path] = {}

    def build(self, stage: Stage) -> Path:
        """Carry out the instructions of one stage."""
        root = self.roots[stage.name] = _system(self._where / (stage.name or "final"))
        environ = LOADER | {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/tmp"}
        environ |= {k: v for k, v in os.environ.items() if k.startswith(PASSED_ON)}
        folder = "/"
        for step in stage.steps:
            if step.word == "ENV":
                environ |= stage.environment()
            elif step.word == "WORKDIR":
                folder = step.text
                (root / folder.lstrip("/")).mkdir(parents=True, exist_ok=True)
            elif step.word == "COPY":
                self._copy(step, root, root / folder.lstrip("/"))
            elif step.word == "RUN":
                _in_root(root, ["sh", "-euc", f"cd {folder}; {step.text}"], environ)
        return root

    def _copy(self, step: Step, root: Path, folder: Path) -> None:
        *sources, target = step.words()
        there = root / target.lstrip("/") if target.startswith("/") else folder / target
        origin = self.roots.get(step.flags.get("from", ""), ROOT)
        for name in sources:
            if origin == ROOT:
                assert name in allowed_in_context(), f"{name} is not in the context"
            source = origin / name.lstrip("/")
            if source.is_dir():
                ignored = shutil.ignore_patterns("__pycache__") if origin == ROOT else None
                shutil.copytree(source, there, symlinks=True, ignore=ignored, dirs_exist_ok=True)
            else:
                shutil.copy(source, there)
        if owner := step.flags.get("chown"):
            subprocess.run(["chown", "-R", owner, str(there)], check=True)


def _system(root: Path) -> Path:
    root.mkdir()
    _mount("--bind", root, root)
    for name in ("usr", "etc", "dev", "proc", "tmp", "var/lib", "opt", "root"):
        (root / name).mkdir(parents=True)
    for name in ("usr", "etc"):
        _mount("--bind", Path("/") / name, root / name)
        _mount("-o", "remount,bind,ro", root / name)
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    for name in ("dev", "proc"):
        _mount("--rbind", Path("/") / name, root / name)
    changes = root.with_name(f"{root.name}-python")
    for name in ("upper", "work"):
        (changes / name).mkdir(parents=True)
    layers = f"lowerdir={sys.base_prefix},upperdir={changes}/upper,workdir={changes}/work"
    _mount("-t", "overlay", "none", "-o", layers, root / "usr" / "local")
    _mount("-t", "tmpfs", "-o", "mode=1777", "none", root / "tmp")
    return root


def _mount(*words: str | Path) -> None:
    subprocess.run(["mount", *map(str, words)], check=True)


def _in_root(root: Path, command: list[str], environ: dict[str, str]) -> None:
    subprocess.run([CHROOT, str(root), *command], env=environ, stdout=sys.stderr, check=True)


class Running:
    """The last stage as an engine with a read-only root would run it."""

    def __init__(self, stage: Stage, root: Path) -> None:
        self._stage, self._root = stage, root
        (state,) = stage.last("VOLUME").words()
        volume = root.with_name("volume")
        shutil.copytree(root / state.lstrip("/"), volume)
        subprocess.run(["chown", stage.last("USER").text, str(volume)], check=True)
        _mount("--bind", volume, root / state.lstrip("/"))
        _mount("-o", "remount,bind,ro", root)
        _mount("-o", "remount,bind,ro", root / "usr" / "local")
        self.port = _free_port()
        self.environ = LOADER | stage.environment() | {"PORT": str(self.port)}

    def command(self, *words: str) -> list[str]:
        """A command line as the image's user, in its folder."""
        user = f"--userspec={self._stage.last('USER').text}"
        folder = f"--chdir={self._stage.last('WORKDIR').text}"
        return [CHROOT, user, str(self._root), "env", folder, *words]

    def start(self, **more: str) -> subprocess.Popen[bytes]:
        """Start what ENTRYPOINT and CMD say."""
        words = [*self._stage.last("ENTRYPOINT").words(), *self._stage.last("CMD").words()]
        return subprocess.Popen(
            self.command(*words), env=self.environ | more, stdout=sys.stderr, stderr=sys.stderr
        )

    def said(self, *words: str) -> str:
        """What a command says in there."""
        done = subprocess.run(
            self.command(*words), env=self.environ, capture_output=True, text=True, check=False
        )
        return f"{done.returncode} {done.stdout.strip()}"

    def get(self, path: str, **headers: str) -> int:
        """The status of a request."""
        url = f"http://127.0.0.1:{self.port}{path}"
        try:
            with urllib.request.urlopen(
                urllib.request.Request(url, headers=headers), timeout=5
            ) as r:
                return int(r.status)
        except urllib.error.HTTPError as exc:
            return exc.code
        except OSError:
            return 0


def _free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
    return port


def observe(running: Running, stage: Stage) -> dict[str, Any]:
    """Start, ask, stop; and try what must not work."""
    without_key = running.start()
    seen: dict[str, Any] = {"exit_without_a_key": without_key.wait(timeout=START_S)}
    process = running.start(MCP_OPS_KEY=KEY)
    try:
        _until_up(running, process)
        seen["health"] = running.get("/health")
        seen["tools_without_key"] = running.get("/mcp")
        seen["healthcheck"] = running.said(*stage.last("HEALTHCHECK").words())
        # chroot and env replace themselves: the process that was started is the server.
        seen["uid"] = Path(f"/proc/{process.pid}").stat().st_uid
        seen["may_write_to_root"] = running.said("sh", "-c", "touch /opt/mcp-ops/x 2>&1")
        seen["programs"] = running.said("sh", "-c", "ls /opt/mcp-ops/bin /build /src 2>&1")
        seen["pip"] = running.said("sh", "-c", "python -m pip --version 2>&1")
        asked = time.monotonic()
        process.send_signal(signal.SIGTERM)
        seen["exit"] = process.wait(timeout=STOP_S)
        seen["stopped_after_s"] = round(time.monotonic() - asked, 1)
    finally:
        process.kill()
    return seen


def _until_up(running: Running, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while running.get("/health") == 0:
        assert process.poll() is None, "the server ended"
        assert time.monotonic() < deadline, "the server does not answer"
        time.sleep(0.1)


def main() -> None:
    """Build all stages and run the last one."""
    _, stages = read(ROOT / "Dockerfile")
    where = Path(tempfile.mkdtemp(prefix="mcp-ops-image-"))
    _mount("-t", "tmpfs", "-o", "mode=0755", "none", where)
    try:
        builder = Builder(where)
        root = Path()
        for stage in stages:
            root = builder.build(stage)
        seen = observe(Running(stages[-1], root), stages[-1])
    finally:
        # Lazily, since mounts are nested; the namespace ends with this process anyway.
        subprocess.run(["umount", "--lazy", str(where)], check=False)
        where.rmdir()
    print(json.dumps(seen))


if __name__ == "__main__":
    if sys.argv[1:] == [INSIDE]:
        main()
    elif possible():
        print(json.dumps(check(), indent=2))
    else:
        raise SystemExit("This needs Linux, root, and the right to make mount namespaces.")
