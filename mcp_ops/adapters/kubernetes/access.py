"""Whom the target's kubeconfig names, and the credential that goes with each request.

The client library reads the file and speaks to credential plugins; nothing is ever written back
to the file. A credential that the server no longer accepts, or that a plugin said would expire,
is read anew before the next request.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio

from mcp_ops.clock import Clock
from mcp_ops.errors import ConfigurationError, Unauthenticated
from mcp_ops.redact import Redactor

if TYPE_CHECKING:
    from kubernetes.aio.client.configuration import Configuration

_POD_NAMESPACE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_KEPT_S: Final = 300.0
_PLUGIN_S: Final = 20.0


class Access:
    """The configuration of one context, and how its credential stays fresh."""

    def __init__(
        self, *, kubeconfig: str, context: str, in_cluster: bool, clock: Clock, redactor: Redactor
    ) -> None:
        from kubernetes.aio.client.configuration import Configuration

        self.configuration: Configuration = Configuration()
        self.context_namespace = ""
        self._kubeconfig = kubeconfig or str(Path.home() / ".kube" / "config")
        self._context = context or None
        self._in_cluster = in_cluster
        self._clock = clock
        self._redactor = redactor
        self._lock = anyio.Lock()
        self._stale = False
        self._read_at = 0.0
        self._rereads = False

    async def load(self) -> None:
        """Read the configuration; raises `ConfigurationError` that names no host or secret."""
        with _bad_kubeconfig("in the pod" if self._in_cluster else "the kubeconfig"):
            if self._in_cluster:
                self._load_in_cluster()
            else:
                await self._load_file()
        self._note_secrets()

    async def header(self) -> dict[str, str]:
        """The request header that carries the credential; empty for client certificates.

        Raises `Unauthenticated` when the kubeconfig's plugin gives none.
        """
        if self._due():
            await self._renew()
        value = await self.configuration.get_api_key_with_prefix("BearerToken")
        if value is None:
            return {}
        self._redactor.add(value.partition(" ")[2])
        return {"Authorization": value}

    def refused(self) -> None:
        """The server did not accept the credential: read it anew before the next request."""
        self._stale = True

    def _due(self) -> bool:
        old = self._clock.monotonic() - self._read_at > _KEPT_S
        return self._stale or (self._rereads and old)

    async def _renew(self) -> None:
        async with self._lock:
            if not self._due():
                return
            # Cleared first: a refusal that comes in while the file is read must count again.
            self._stale = False
            try:
                await self.load()
            except ConfigurationError as exc:
                self._stale = True
                raise Unauthenticated(
                    "The target's kubeconfig gives no credential any more.",
                    hint="An operator must look at the kubeconfig and its credential plugin.",
                ) from exc

    async def _load_file(self) -> None:
        from kubernetes.aio.config import kube_config
        from kubernetes.aio.config.config_exception import ConfigException

        if not _any_file(self._kubeconfig):
            raise ConfigException("no such file")
        library: Any = kube_config  # its functions carry no types
        loader = library.KubeConfigLoader(
            config_dict=library.KubeConfigMerger(self._kubeconfig).config,
            active_context=self._context,
        )
        if loader.provider is not None:
            # It would burn a rotating refresh token that can't be written back.
            raise ConfigException("auth-provider is not supported")
        with anyio.fail_after(_PLUGIN_S):
            await loader.load_and_set(self.configuration)
        context: dict[str, Any] = loader.current_context.get("context", {})
        self.context_namespace = str(context.get("namespace") or "")
        user: Any = getattr(loader, "_user", None)
        # Plugins and token files hand out credentials that end; the rest never changes by itself.
        self._rereads = user is not None and any(key in user for key in ("exec", "tokenFile"))
        self._read_at = self._clock.monotonic()
        if user is not None and "exec" in user and not self._has_credential():
            raise ConfigException("the credential plugin gave nothing")

    def _has_credential(self) -> bool:
        return bool(self.configuration.api_key or self.configuration.cert_file)

    def _load_in_cluster(self) -> None:
        from kubernetes.aio.config import incluster_config

        library: Any = incluster_config  # its functions carry no types
        library.load_incluster_config(client_configuration=self.configuration)
        if _POD_NAMESPACE.is_file():
            self.context_namespace = _POD_NAMESPACE.read_text(encoding="utf-8").strip()

    def _note_secrets(self) -> None:
        for value in self.configuration.api_key.values():
            self._redactor.add(value.partition(" ")[2])


def _any_file(paths: str) -> bool:
    """Whether one of several paths, as KUBECONFIG joins them, is a file."""
    return any(Path(part).expanduser().is_file() for part in paths.split(os.pathsep) if part)


@contextmanager
def _bad_kubeconfig(where: str) -> Iterator[None]:
    """What a file of any shape makes the library raise; its text may quote the file."""
    from kubernetes.aio.config import kube_config
    from kubernetes.aio.config.config_exception import ConfigException

    library: Any = kube_config  # its functions carry no types
    try:
        yield
    except (
        ConfigException,
        library.yaml.YAMLError,
        OSError,
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
    ) as exc:
        raise ConfigurationError(
            f"No Kubernetes access could be read from {where}.",
            hint=(
                "Check the target's kubeconfig and context with `kubectl config view`; "
                "in_cluster works only inside a pod with a service account; users with an "
                "auth-provider need a credential plugin (exec) instead."
            ),
        ) from exc
