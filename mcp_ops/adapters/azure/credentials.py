"""The bearer token of a target: asked of azure-identity, kept until it ends, never shown.

The library's synchronous credentials run in a worker thread: its asynchronous ones need a second
HTTP client (aiohttp) and twice the memory, and a token is asked for once an hour.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Any, Final

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
_HINT: Final = "Check credential and what belongs to it; docs/targets/azure-app-service.md."
# How long azure-core may try: a call waits for it.
_PATIENCE: Final = {"retry_total": 1, "connection_timeout": 5, "read_timeout": 15}


class Tokens:
    """The token in force. Safe for concurrent use: one question at a time."""

    def __init__(
        self, get: Callable[[], tuple[str, float]], *, clock: Clock, redactor: Redactor
    ) -> None:
        self._get = get
        self._clock = clock
        self._redactor = redactor
        self._lock = anyio.Lock()
        self._one_thread = anyio.CapacityLimiter(1)
        self._token = ""
        self._expires = 0.0

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
            self._token, self._expires = "", 0.0
        return True

    def _left(self) -> float:
        return self._expires - self._clock.now() if self._token else 0.0

    async def _renew(self) -> None:
        try:
            with anyio.fail_after(_ASK_S):
                token, expires = await anyio.to_thread.run_sync(
                    self._get, abandon_on_cancel=True, limiter=self._one_thread
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
            self._token, self._expires = token, expires

    def _keep_or_raise(self, error: OpsError, cause: Exception) -> None:
        """A token that still has time is good for this call."""
        if self._left() < _LEAST_LEFT_S:
            raise error from cause


class FixedToken(Tokens):
    """A token that the operator gave: nothing can renew it."""

    def __init__(self, token: SecretStr, *, clock: Clock, redactor: Redactor) -> None:
        super().__init__(lambda: ("", 0.0), clock=clock, redactor=redactor)
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
    async with AsyncExitStack() as stack:
        credential = await anyio.to_thread.run_sync(partial(make_credential, settings))
        stack.callback(credential.close)
        scope = f"{settings.audience.rstrip('/')}/.default"

        def get() -> tuple[str, float]:
            found = credential.get_token(scope)
            return found.token, float(found.expires_on)

        yield Tokens(get, clock=clock, redactor=redactor)


def make_credential(settings: AzureAppServiceSettings, **more: Any) -> Any:
    """The library's credential; `more` goes to its HTTP client (tests give a certificate)."""
    from azure import identity

    common: dict[str, Any] = {**_PATIENCE, "authority": settings.authority, **more}
    client: dict[str, Any] = {"client_id": settings.client_id} if settings.client_id else {}
    makers: dict[str, Callable[[], Any]] = {
        "environment": lambda: identity.EnvironmentCredential(**common),
        "managed_identity": lambda: identity.ManagedIdentityCredential(**client, **common),
        "workload_identity": lambda: identity.WorkloadIdentityCredential(**client, **common),
        "cli": lambda: identity.AzureCliCredential(process_timeout=15),
        "client_secret": lambda: identity.ClientSecretCredential(
            settings.tenant_id,
            settings.client_id,
            settings.client_secret.get_secret_value() if settings.client_secret else "",
            **common,
        ),
        "default": lambda: _chain(identity, client, common),
    }
    try:
        return makers[settings.credential]()
    except ValueError as exc:  # a missing variable, an authority that is no host
        raise ConfigurationError(
            f"The Azure credential `{settings.credential}` cannot be made: something is missing.",
            hint=_HINT,
        ) from exc


def _chain(identity: Any, client: dict[str, Any], common: dict[str, Any]) -> Any:
    """The four that servers have, in this order, those that are not configured left out.

    Not the library's default chain: it also tries what belongs to a developer's desk.
    """
    links: list[Any] = [identity.EnvironmentCredential(**common)]
    with suppress(ValueError):  # its variables are not set
        links.append(identity.WorkloadIdentityCredential(**client, **common))
    links.append(identity.ManagedIdentityCredential(**client, **common))
    links.append(identity.AzureCliCredential(process_timeout=15))
    return identity.ChainedTokenCredential(*links)


def _translated(exc: Exception, redactor: Redactor) -> OpsError | None:
    """One translation of what the library raises, most specific first; None for a defect."""
    from azure.core.exceptions import (
        AzureError,
        ClientAuthenticationError,
        ServiceRequestError,
        ServiceResponseError,
    )

    said = tame(redactor.text(str(exc)[:2_000]), _SAID)
    if isinstance(exc, ServiceRequestError | ServiceResponseError):
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
