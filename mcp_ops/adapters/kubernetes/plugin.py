"""The credential plugin (`exec`) of a kubeconfig: run as kubectl runs it, with bounds.

The client library's own runner hands a plugin the server's standard input, waits without end and
logs what it printed; this one does none of it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio
import orjson

from mcp_ops.adapters.kubernetes.fields import mapping, objects, seconds, text
from mcp_ops.redact import tame

if TYPE_CHECKING:
    from anyio.abc import ByteReceiveStream, Process

PLUGIN_S: Final = 20.0
_PRINTED: Final = 1024 * 1024
_COMPLAINT: Final = 16 * 1024
_TOKEN_CHARS: Final = 64 * 1024
_VERSIONS: Final = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")
_EXTENSION: Final = "client.authentication.k8s.io/exec"
_TOLD: Final = ("server", "tls-server-name", "insecure-skip-tls-verify", "proxy-url")


class PluginProblem(Exception):
    """What a plugin did instead of giving a credential: a sentence of ours, and its own words."""

    def __init__(self, what: str, said: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.said = said


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """What a plugin gave: a token, a client certificate with its key (PEM), or both.

    `expires_at` in Unix seconds; None where the plugin did not say.
    """

    token: str = ""
    certificate: str = ""
    key: str = ""
    expires_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """A command as the kubeconfig names it. `cluster` is what it is told of the cluster."""

    arguments: list[str]
    environ: dict[str, str]
    version: str
    cluster: dict[str, Any] | None

    @property
    def name(self) -> str:
        """How people know it: the command without its folder."""
        return tame(Path(self.arguments[0]).name, 60)

    async def run(self, limit_s: float = PLUGIN_S) -> Credential:
        """Run it once, for at most `limit_s` seconds; raises `PluginProblem`."""
        printed = complaint = b""
        status: int | None = None
        with anyio.move_on_after(limit_s):
            process = await self._start()
            try:
                printed, complaint = await _heard(process)
                status = await process.wait()
            finally:
                if status is None:
                    _kill(process)
                with anyio.CancelScope(shield=True):
                    await process.aclose()
        said = tame(complaint.decode("utf-8", "replace"), 300)
        if status is None:
            raise PluginProblem(
                f"The credential plugin {self.name} did not end within {limit_s:g} s.", said
            )
        if status:
            raise PluginProblem(
                f"The credential plugin {self.name} ended with exit code {status}.", said
            )
        return self._read(printed)

    async def _start(self) -> Process:
        info: dict[str, Any] = {"interactive": False}
        if self.cluster is not None:
            info["cluster"] = self.cluster
        told = {"apiVersion": self.version, "kind": "ExecCredential", "spec": info}
        try:
            return await anyio.open_process(
                self.arguments,
                stdin=subprocess.DEVNULL,  # ours may carry the protocol
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**self.environ, "KUBERNETES_EXEC_INFO": orjson.dumps(told).decode()},
                start_new_session=True,
            )
        except (OSError, ValueError) as exc:
            raise PluginProblem(f"The credential plugin {self.name} can't be started.") from exc

    def _read(self, printed: bytes) -> Credential:
        try:
            answer = orjson.loads(printed)
        except orjson.JSONDecodeError as exc:
            raise self._garbage("no JSON") from exc
        if text(answer, "kind") != "ExecCredential" or text(answer, "apiVersion") != self.version:
            raise self._garbage(f"no ExecCredential of {self.version}")
        status = mapping(answer, "status")
        token = text(status, "token").strip()
        certificate, key = text(status, "clientCertificateData"), text(status, "clientKeyData")
        if token and not fits_header(token):
            raise self._garbage("a token that no header can carry")
        if bool(certificate) != bool(key) or not (token or certificate):
            raise self._garbage("neither a token nor a certificate with its key")
        written = text(status, "expirationTimestamp")
        expires_at = seconds(written)
        if written and expires_at is None:
            raise self._garbage("an expiry that is no time")
        return Credential(token=token, certificate=certificate, key=key, expires_at=expires_at)

    def _garbage(self, what: str) -> PluginProblem:
        return PluginProblem(f"The credential plugin {self.name} printed {what}.")


def plugin_of(
    arguments: list[Any], environ: dict[Any, Any], user: Any, cluster: Any, folder: Path
) -> Plugin:
    """The plugin of a kubeconfig's user; raises `PluginProblem` for one that can't be run here.

    A relative command with a folder in it starts at `folder`, where the kubeconfig is.
    """
    settings = mapping(user, "exec")
    if not all(isinstance(one, str) for one in (*arguments, *environ.values())):
        raise PluginProblem("The credential plugin's arguments and variables must be texts.")
    command = str(arguments[0])
    if os.sep in command:
        command = str(folder / command)
    version = text(settings, "apiVersion")
    plugin = Plugin(
        arguments=[command, *map(str, arguments[1:])],
        environ=environ,
        version=version,
        cluster=_told(cluster, folder) if settings.get("provideClusterInfo") is True else None,
    )
    if version not in _VERSIONS:
        raise PluginProblem(f"The credential plugin {plugin.name} must speak {_VERSIONS[0]}.")
    if settings.get("interactiveMode") == "Always":
        raise PluginProblem(f"The credential plugin {plugin.name} asks people at a terminal.")
    return plugin


def fits_header(token: str) -> bool:
    """Whether a token is one that a request's header can carry."""
    return len(token) <= _TOKEN_CHARS and token.isascii() and token.isprintable()


def _told(cluster: Any, folder: Path) -> dict[str, Any]:
    """What `provideClusterInfo` hands over, in the words of ExecCredential's `spec.cluster`."""
    told = {key: cluster[key] for key in _TOLD if mapping(cluster).get(key)}
    if authority := text(cluster, "certificate-authority-data"):
        told["certificate-authority-data"] = authority
    elif file := text(cluster, "certificate-authority"):
        told["certificate-authority-data"] = b64encode((folder / file).read_bytes()).decode()
    for extension in objects(cluster, "extensions"):
        if extension.get("name") == _EXTENSION:
            told["config"] = extension.get("extension")
    return told


async def _heard(process: Process) -> tuple[bytes, bytes]:
    """Both outputs at once, so that neither of them fills up; what is too much is thrown away."""
    printed, complaint = bytearray(), bytearray()

    async def hear(stream: ByteReceiveStream, content: bytearray, limit: int) -> None:
        async for chunk in stream:
            content += chunk[: limit - len(content)]

    async with anyio.create_task_group() as tasks:
        if process.stdout is not None:
            tasks.start_soon(hear, process.stdout, printed, _PRINTED)
        if process.stderr is not None:
            tasks.start_soon(hear, process.stderr, complaint, _COMPLAINT)
    return bytes(printed), bytes(complaint)


def _kill(process: Process) -> None:
    """End the plugin and what it started: they would hold its pipes open."""
    try:
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
