"""The client certificate of the connections: taken into use, and changed while they are open."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mcp_ops.clock import Clock

if TYPE_CHECKING:
    from kubernetes.aio.client.api_client import ApiClient

_OLDEST_REQUEST_S: Final = 120.0


class Certificates:
    """Changes the certificate of a client's new connections; the old ones end with what runs."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._transport: Any = None
        self._used: tuple[str, str] | None = None
        self._wanted: tuple[str, str] | None = None
        self._retired: list[tuple[float, Any]] = []

    def loaded(self, certificate: str, key: str) -> None:
        """The client is built with this one (PEM)."""
        self._used = (certificate, key)

    async def attach(self, client: ApiClient) -> None:
        """The client whose connections these are; raises `OSError` for a bad certificate."""
        self._transport = client.rest_client
        if self._wanted is not None:
            await self.use(*self._wanted)

    async def use(self, certificate: str, key: str) -> bool:
        """New connections show this one (PEM); whether it is another one than before.

        Raises `OSError` (`ssl.SSLError` is one) for what is no certificate with its key.
        """
        if not certificate or (certificate, key) == self._used:
            return False
        if self._transport is None:
            self._wanted = (certificate, key)
            return True
        with tempfile.TemporaryDirectory(prefix="mcp-ops-") as folder:
            # Python's ssl reads certificates from files only; the folder is its owner's alone.
            files = Path(folder) / "certificate", Path(folder) / "key"
            for file, content in zip(files, (certificate, key), strict=True):
                file.write_text(content, encoding="utf-8")
            self._transport.ssl_context.load_cert_chain(files[0], files[1] if key else None)
        self._used = (certificate, key)
        await self._renew_connections()
        return True

    async def _renew_connections(self) -> None:
        """The next request opens a connection; requests that run keep theirs till they end."""
        now = self._clock.monotonic()
        over = [pool for since, pool in self._retired if now - since > _OLDEST_REQUEST_S]
        self._retired = [(since, pool) for since, pool in self._retired if pool not in over]
        if self._transport.pool_manager is not None:
            self._retired.append((now, self._transport.pool_manager))
            self._transport.pool_manager = None
        for pool in over:
            await pool.close()

    async def aclose(self) -> None:
        """Close what was retired; the client closes its own."""
        for _, pool in self._retired:
            await pool.close()
        self._retired.clear()
