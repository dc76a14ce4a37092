"""Whom the target's kubeconfig names, and the credential that goes with each request.

The client library reads the file; nothing is ever written back to it. A credential that the server
no longer accepts, whose end has come or whose file is a minute old is read anew before the next
request. The context and its server stay those of the start: `kubectl config use-context` in
another window must not turn a target into another cluster.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio

from mcp_ops.adapters.kubernetes.certificates import Certificates
from mcp_ops.adapters.kubernetes.kubeconfig import Found, read_account, read_file
from mcp_ops.adapters.kubernetes.plugin import PluginProblem
from mcp_ops.adapters.kubernetes.settings import SERVICE_ACCOUNT
from mcp_ops.clock import Clock
from mcp_ops.errors import ConfigurationError, Unauthenticated
from mcp_ops.redact import Redactor

if TYPE_CHECKING:
    from kubernetes.aio.client.api_client import ApiClient
    from kubernetes.aio.client.configuration import Configuration

FILE_S: Final = 60.0
PLUGIN_KEPT_S: Final = 300.0
_EARLY_S: Final = 30.0
_PAUSE_S: Final = 10.0
_HINT: Final = "An operator must look at the kubeconfig and its credential plugin."


class Access:
    """The configuration of one context, and how its credential stays fresh.

    `generation` counts the credentials: a request that one of them was refused for may be sent
    again with the next.
    """

    def __init__(
        self,
        *,
        kubeconfig: str,
        context: str,
        in_cluster: bool,
        clock: Clock,
        redactor: Redactor,
        account: Path = SERVICE_ACCOUNT,
    ) -> None:
        self.configuration: Configuration
        self.context_namespace = ""
        self.generation = 0
        self._kubeconfig = kubeconfig or str(Path.home() / ".kube" / "config")
        self._context = context
        self._in_cluster = in_cluster
        self._account = account
        self._clock = clock
        self._redactor = redactor
        self._certificates = Certificates(clock)
        self._lock = anyio.Lock()
        self._authorization = ""
        self._stale = False
        self._due_at: float | None = None
        self._ends_at: float | None = None
        self._failure: PluginProblem | None = None
        self._failed_at = 0.0
        self._refused_at: float | None = None
        self._source = "fixed"

    async def load(self) -> None:
        """Read the configuration; raises `ConfigurationError` that names no host or secret."""
        try:
            found = await self._read()
        except PluginProblem as problem:
            raise ConfigurationError(
                problem.what, hint="Run it by hand: kubectl with the same context shows what it is."
            ) from problem
        self.configuration = found.configuration
        self.context_namespace = found.namespace
        self._context = found.context
        self._certificates.loaded(*found.files)
        if found.given:
            await self._certificates.use(*found.given)  # once there is a client
        self._take(found)

    async def attach(self, client: ApiClient) -> None:
        """The client that was built with the configuration; raises `OSError` for a bad
        certificate."""
        await self._certificates.attach(client)

    async def header(self) -> dict[str, str]:
        """The request header that carries the credential; empty for client certificates.

        Raises `Unauthenticated` when there is none any more.
        """
        if self._due():
            await self._renew()
        return {"Authorization": self._authorization} if self._authorization else {}

    async def renewed(self, refused: int) -> bool:
        """The server did not accept the credential of that generation: is there another one?

        Raises `Unauthenticated` when there is none any more.
        """
        if self.generation == refused:
            self._stale = True
            await self._renew()
        return self.generation != refused

    def refused(self) -> None:
        """The server did not accept the credential: read it anew before the next request."""
        self._stale = True

    async def aclose(self) -> None:
        """Close the connections that an earlier certificate opened."""
        await self._certificates.aclose()

    def _due(self) -> bool:
        return self._stale or (self._due_at is not None and self._clock.monotonic() >= self._due_at)

    async def _renew(self) -> None:
        async with self._lock:
            if not self._due():
                return
            # Cleared first: a refusal that comes in while the file is read must count again.
            refused, self._stale = self._stale, False
            if refused and self._failure is None and not self._worth_a_run():
                return
            try:
                await self._read_again()
            except (PluginProblem, ConfigurationError) as problem:
                self._stale = refused or self._ended()
                self._due_at = self._clock.monotonic() + _PAUSE_S
                if self._stale:
                    raise self._gone(problem) from problem

    def _worth_a_run(self) -> bool:
        """Not of a plugin whose last credential was refused a moment ago: it gives no other."""
        now, last = self._clock.monotonic(), self._refused_at
        if self._source != "plugin" or last is None or now - last >= _PAUSE_S:
            self._refused_at = now
            return True
        return False

    async def _read_again(self) -> None:
        now = self._clock.monotonic()
        if self._failure is not None and now - self._failed_at < _PAUSE_S:
            raise self._failure  # not run again by each of many callers
        try:
            found = await self._read()
            if found.configuration.host != self.configuration.host:
                raise ConfigurationError(
                    "The target's kubeconfig names another server than at the start.",
                    hint="Restart the server if that is meant.",
                )
            changed = found.authorization != self._authorization
            changed |= await self._certificates.use(*(found.given or found.files))
        except PluginProblem as problem:
            self._failure, self._failed_at = problem, self._clock.monotonic()
            raise
        except OSError as exc:
            raise ConfigurationError("The target's client certificate can't be used.") from exc
        if changed:
            self.generation += 1
        self._take(found)

    async def _read(self) -> Found:
        if self._in_cluster:
            return read_account(self._account)
        return await read_file(self._kubeconfig, self._context)

    def _take(self, found: Found) -> None:
        self._failure = None
        self._source = found.source
        self._authorization = found.authorization
        self._redactor.add(found.authorization.partition(" ")[2])
        if found.password:
            self._redactor.add(found.password)
        kept = {"file": FILE_S, "plugin": PLUGIN_KEPT_S}.get(found.source)
        self._ends_at = None
        if found.expires_at is not None:
            left = max(found.expires_at - self._clock.now(), 0.0)
            self._ends_at = self._clock.monotonic() + left
            # Not for each call where clocks differ, or credentials end at once.
            kept = max(left - min(_EARLY_S, left / 10), _PAUSE_S)
        self._due_at = None if kept is None else self._clock.monotonic() + kept

    def _ended(self) -> bool:
        return self._ends_at is not None and self._clock.monotonic() >= self._ends_at

    def _gone(self, problem: PluginProblem | ConfigurationError) -> Unauthenticated:
        if isinstance(problem, PluginProblem):
            said = self._redactor.text(problem.said)
            return Unauthenticated(problem.what, said=said, hint=_HINT)
        if "another server" in problem.message:
            return Unauthenticated(problem.message, hint=problem.hint)
        return Unauthenticated("The target's kubeconfig gives no credential any more.", hint=_HINT)
