"""The bearer token of a target: asked of azure-identity, kept until it ends, never shown.

The library's synchronous credentials run in a worker thread: its asynchronous ones need a second
HTTP client (aiohttp) and twice the memory, and a token is asked for once an hour.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
from pydantic import SecretStr

from mcp_ops.adapters.azure.settings import AzureAppServiceSettings
from mcp_ops.clock import Clock
from mcp_ops.errors import ConfigurationError, Forbidden, OpsError, Unauthenticated, Unreachable
from mcp_ops.redact import Redactor, tame

_EARLY_S: Final = 300.0
_LEAST_LEFT_S: Final = 30.0
_ASK_S: Final = 30.0
_SAID: Final = 300
_CLI_S: Final = 15
_HINT: Final = "Check credential and what belongs to it; docs/targets/azure-app-service.md."
# How long azure-core may try: a call waits for it.
_PATIENCE: Final = {"retry_total": 1, "connection_timeout": 5, "read_timeout": 15}


class Tokens:
    """The token in force. Safe for concurrent use: one question at a time."""

    def __init__(
        self, get: Callable[[bool], tuple[str, float]], *, clock: Clock, redactor: Redactor
    ) -> None:
        self._get = get
        self._clock = clock
        self._redactor = redactor
        self._lock = anyio.Lock()
        self._one_thread = anyio.CapacityLimiter(1)
        self._token = ""
        self._expires = 0.0
        self._refused = False

    async def bearer(self) -> SecretStr:
        """A token with time left. Raises `Unauthenticated` or `Unreachable`; nothing was asked of
        the target then."""
        async with self._lock:
            if self._left() < _EARLY_S:
                await self._renew()
            return SecretStr(self._token)

    def refused(self, token: SecretStr) -> bool:
        """Forget a token that the target does not accept; whether another one may be better."""
        if token.get_secret_value() == self._token:
            self._token, self._expires, self._refused = "", 0.0, True
        return True

    def _left(self) -> float:
        return self._expires - self._clock.now() if self._token else 0.0

    async def _renew(self) -> None:
        try:
            with anyio.fail_after(_ASK_S):
                token, expires = await anyio.to_thread.run_sync(
                    self._get, self._refused, abandon_on_cancel=True, limiter=self._one_thread
                )
        except TimeoutError as exc:
            error: OpsError = Unreachable(
                "No access token for Azure: the credential's source did not answer in time.",
                hint=_HINT,
            )
            self._keep_or_raise(error, exc)
        except Exception as exc:  # of a library that is loaded late; what it is not, goes on
            error_of = _translated(exc, self._redactor)
            if error_of is None:
                raise
            self._keep_or_raise(error_of, exc)
        else:
            self._redactor.add(token)
            self._token, self._expires, self._refused = token, expires, False

    def _keep_or_raise(self, error: OpsError, cause: Exception) -> None:
        """A token that still has time is good for this call."""
        if self._left() < _LEAST_LEFT_S:
            raise error from cause


class FixedToken(Tokens):
    """A token that the operator gave: nothing can renew it."""

    def __init__(self, token: SecretStr, *, clock: Clock, redactor: Redactor) -> None:
        super().__init__(lambda _: ("", 0.0), clock=clock, redactor=redactor)
        self._fixed = token

    async def bearer(self) -> SecretStr:
        return self._fixed

    def refused(self, token: SecretStr) -> bool:
        return False


@asynccontextmanager
async def open_tokens(
    settings: AzureAppServiceSettings, *, clock: Clock, redactor: Redactor
) -> AsyncIterator[Tokens]:
    """The tokens of a target. The library is loaded here, in a worker thread.

    Raises `ConfigurationError` where the credential cannot be made.
    """
    if settings.access_token is not None and settings.credential == "token":
        yield FixedToken(settings.access_token, clock=clock, redactor=redactor)
        return
    source = _Source(settings)
    try:
        await anyio.to_thread.run_sync(source.make)
        yield Tokens(source.get, clock=clock, redactor=redactor)
    finally:
        source.close()


class _Source:
    """The library's credential, which keeps tokens of its own: where one of them was refused,
    only a new credential asks for another."""

    def __init__(self, settings: AzureAppServiceSettings) -> None:
        self._settings = settings
        self._credential: Any = None

    def make(self) -> None:
        """Load the library and make the credential anew; raises `ConfigurationError`."""
        self.close()
        self._credential = make_credential(self._settings)

    def get(self, anew: bool) -> tuple[str, float]:
        """A token and its end; blocks."""
        if anew:
            self.make()
        found = self._credential.get_token(f"{self._settings.audience.rstrip('/')}/.default")
        return found.token, float(found.expires_on)

    def close(self) -> None:
        """Close its connections."""
        if self._credential is not None:
            self._credential.close()


def make_credential(settings: AzureAppServiceSettings) -> Any:
    """The library's credential; raises `ConfigurationError` where something is missing."""
    from azure import identity

    common: dict[str, Any] = {**_PATIENCE, "authority": settings.authority}
    if urlsplit(settings.authority).hostname not in _known_authorities(identity):
        # Another one is asked nobody about: the operator named it.
        common["disable_instance_discovery"] = True
    client: dict[str, Any] = {"client_id": settings.client_id} if settings.client_id else {}
    makers: dict[str, Callable[[], Any]] = {
        "environment": lambda: identity.EnvironmentCredential(**common),
        "managed_identity": lambda: identity.ManagedIdentityCredential(**client, **common),
        "workload_identity": lambda: identity.WorkloadIdentityCredential(**client, **common),
        "cli": lambda: identity.AzureCliCredential(process_timeout=_CLI_S),
        "client_secret": lambda: identity.ClientSecretCredential(
            settings.tenant_id,
            settings.client_id,
            settings.client_secret.get_secret_value() if settings.client_secret else "",
            **common,
        ),
        "default": lambda: _default(identity, settings, common),
    }
    try:
        return makers[settings.credential]()
    except ValueError as exc:  # a missing variable, an authority that is no host
        raise ConfigurationError(
            f"The Azure credential `{settings.credential}` cannot be made: something is missing.",
            hint=_HINT,
        ) from exc


def _known_authorities(identity: Any) -> set[str]:
    hosts = vars(identity.AzureAuthorityHosts)
    return {value for name, value in hosts.items() if name.isupper()}


def _default(identity: Any, settings: AzureAppServiceSettings, common: dict[str, Any]) -> Any:
    """The library's default chain, without what belongs to a developer's desk: environment,
    workload identity, managed identity, Azure CLI."""
    desk = ("developer_cli", "powershell", "visual_studio_code", "shared_token_cache", "broker")
    client = settings.client_id or None
    return identity.DefaultAzureCredential(
        managed_identity_client_id=client,
        workload_identity_client_id=client,
        process_timeout=_CLI_S,
        **{f"exclude_{each}_credential": True for each in desk},
        **common,
    )


def _translated(exc: Exception, redactor: Redactor) -> OpsError | None:
    """One translation of what the library raises, most specific first; None for a defect."""
    from azure.core.exceptions import (
        AzureError,
        ClientAuthenticationError,
        ServiceRequestError,
        ServiceResponseError,
    )

    said = tame(redactor.text(str(exc)[:2_000]), _SAID)
    # The library wraps what its network said in an error of authentication.
    if any(isinstance(each, ServiceRequestError | ServiceResponseError) for each in _causes(exc)):
        return Unreachable(
            "No access token for Azure: Microsoft Entra cannot be reached.", said=said, hint=_HINT
        )
    if isinstance(exc, ClientAuthenticationError):
        return Unauthenticated(
            "No access token for Azure: the credential was not accepted.", said=said, hint=_HINT
        )
    if isinstance(exc, AzureError):
        return Forbidden(
            "No access token for Azure: the credential's source refused it.", said=said, hint=_HINT
        )
    if isinstance(exc, ValueError | OSError):
        return Unauthenticated("No access token for Azure.", said=said, hint=_HINT)
    return None


def _causes(exc: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = exc
    for _ in range(10):
        if seen is None:
            return
        yield seen
        seen = seen.__cause__ or seen.__context__
