"""What a kubeconfig, or the service account of a pod, says of a cluster and of the caller."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from mcp_ops.adapters.kubernetes.plugin import Credential, PluginProblem, fits_header, plugin_of
from mcp_ops.errors import ConfigurationError

if TYPE_CHECKING:
    from kubernetes.aio.client.configuration import Configuration

_TOKEN_BYTES: Final = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One reading. `source` says what can change: nothing, files, or what a plugin gives.

    `files` are certificate and key (PEM) that the configuration names, `given` those that a plugin
    gave, which it does not name.
    """

    configuration: Configuration
    context: str
    namespace: str
    authorization: str
    source: Literal["fixed", "file", "plugin"]
    password: str = ""
    expires_at: float | None = None
    files: tuple[str, str] = ("", "")
    given: tuple[str, str] | None = None


def read_account(folder: Path) -> Found:
    """The service account that is mounted there; raises `ConfigurationError`."""
    from kubernetes.aio.client.configuration import Configuration
    from kubernetes.aio.config import incluster_config
    from kubernetes.aio.config.config_exception import ConfigException

    library: Any = incluster_config  # its functions carry no types
    configuration = Configuration()
    with _told("the pod"):
        loader = library.InClusterConfigLoader(
            token_filename=str(folder / "token"),
            cert_filename=str(folder / "ca.crt"),
            try_refresh_token=False,  # by our clock, and when the server refuses it
        )
        loader.load_and_set(configuration)
        token = _token_in(folder / "token")
        if not token:
            raise ConfigException("empty token")
        namespace = folder / "namespace"
        known = namespace.read_text(encoding="utf-8").strip() if namespace.is_file() else ""
    return Found(
        configuration=configuration,
        context="",
        namespace=known,
        authorization=f"Bearer {token}",
        source="file",
    )


async def read_file(paths: str, context: str) -> Found:
    """A kubeconfig, or several as KUBECONFIG joins them; its plugin is run.

    Raises `ConfigurationError` for what is none, `PluginProblem` for a plugin that gives nothing.
    """
    from kubernetes.aio.client.configuration import Configuration
    from kubernetes.aio.config import kube_config
    from kubernetes.aio.config.config_exception import ConfigException

    library: Any = kube_config  # its functions carry no types
    configuration = Configuration()
    with _told("the kubeconfig"):
        if not _any_file(paths):
            raise ConfigException("no such file")
        loader = library.KubeConfigLoader(
            config_dict=library.KubeConfigMerger(paths).config,
            active_context=context or None,
            config_base_path=None,  # relative paths start at the file that names them
        )
        if loader.provider is not None:
            # It would burn a rotating refresh token that can't be written back.
            raise ConfigException("auth-provider is not supported")
        user = getattr(loader, "_user", None)
        settings: dict[str, Any] = user.value if user is not None else {}
        given: list[Credential] = []
        loader.load_from_exec_plugin = partial(_plugin, loader, given)
        loader._load_user_token = partial(_user_token, loader)
        await loader.load_and_set(configuration)
        entry: dict[str, Any] = loader.current_context
        return Found(
            configuration=configuration,
            context=str(entry["name"]),
            namespace=str(entry["context"].get("namespace") or ""),
            authorization=configuration.api_key.get("BearerToken", ""),
            source=_source(settings),
            password=str(settings.get("password") or ""),
            expires_at=given[0].expires_at if given else None,
            files=(_pem(configuration.cert_file), _pem(configuration.key_file)),
            given=_certificate(given),
        )


def _source(user: dict[str, Any]) -> Literal["fixed", "file", "plugin"]:
    if "exec" in user:
        return "plugin"
    return "file" if "tokenFile" in user or "client-certificate" in user else "fixed"


def _certificate(given: list[Credential]) -> tuple[str, str] | None:
    if not given or not given[0].certificate:
        return None
    return given[0].certificate, given[0].key


async def _plugin(loader: Any, given: list[Credential]) -> bool:
    """In the place of the library's own runner of plugins."""
    from kubernetes.aio.config.exec_provider import ExecProvider

    library: Any = ExecProvider
    asked = library(loader._user["exec"])
    plugin = plugin_of(
        asked.args,
        asked.env,
        user=loader._user.value,
        cluster=loader._cluster.value,
        folder=_folder_of(loader._user.path),
    )
    credential = await plugin.run()
    given.append(credential)
    if credential.token:
        loader.token = f"Bearer {credential.token}"
    if credential.certificate:
        # Taken into use by us: the library would leave the key in a file until the process ends.
        loader.cert_file = loader.key_file = None
    return True


def _folder_of(file: str | None) -> Path:
    return Path(file or "x").absolute().parent


def _pem(file: str | None) -> str:
    return Path(file).read_text(encoding="utf-8") if file else ""


def _user_token(loader: Any) -> bool:
    """In the place of the library's own: of a token and a token file the file is the fresher."""
    user = loader._user
    token = str(user.value.get("token") or "").strip()
    if file := user.value.get("tokenFile"):
        try:
            token = _token_in(Path(loader._get_base_path(user.path)) / str(file)) or token
        except OSError:
            if not token:
                raise
    if token and not fits_header(token):
        raise ValueError("a token that no header can carry")
    if token:
        loader.token = f"Bearer {token}"
    return bool(token)


def _token_in(file: Path) -> str:
    with file.open(encoding="utf-8") as opened:
        token = opened.read(_TOKEN_BYTES).strip()
    if not fits_header(token):
        raise ValueError("a token that no header can carry")
    return token


def _any_file(paths: str) -> bool:
    """Whether one of several paths, as KUBECONFIG joins them, is a file."""
    return any(Path(part).expanduser().is_file() for part in paths.split(os.pathsep) if part)


@contextmanager
def _told(where: str) -> Iterator[None]:
    """What a file of any shape makes the library raise; its text may quote the file."""
    from kubernetes.aio.config import kube_config
    from kubernetes.aio.config.config_exception import ConfigException

    library: Any = kube_config  # its functions carry no types
    try:
        yield
    except PluginProblem:
        raise
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
