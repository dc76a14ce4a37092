"""The table of clients in docs/clients.md: `python -m tests.clients.table` writes it."""

from __future__ import annotations

from collections.abc import Iterator

from tests.clients.field import FIELD, MODERN, QUICK, SESSIONS
from tests.clients.install import locked_version
from tests.clients.live import ROOT

PAGE = ROOT / "docs" / "clients.md"
BEGIN, END = "<!-- clients: begin -->", "<!-- clients: end -->"
_TRANSPORTS = ("stdio", "sse", "http")
_LEGACY = (SESSIONS, "2025-03-26")


def table() -> str:
    """The rows: those of `FIELD`, before them the clients that call every tool."""
    rows = [
        "| client | version | stdio | SSE | Streamable HTTP | asks its user | tested by |",
        "|---|---|---|---|---|---|---|",
        *_official(),
    ]
    for client in FIELD:
        cells = [client.eras.get(transport, "-") for transport in _TRANSPORTS]
        command = "`make test`" if client in QUICK else "`make clients`"
        asks = "yes" if client.asks else "no"
        rows.append(
            f"| `{client.name}` | {client.version} | {' | '.join(cells)} | {asks} | {command} |"
        )
    return "\n".join(rows)


def _official() -> Iterator[str]:
    for name, lock, eras, command in (
        ("mcp", "", (MODERN, *_LEGACY), "`make test`"),
        ("mcp", "clients", (SESSIONS,), "`make test`"),
        ("@modelcontextprotocol/inspector", "inspector", (MODERN, SESSIONS), "`make clients`"),
    ):
        cell = ", ".join(eras)
        asks = "yes" if lock != "inspector" else "no"
        cells = " | ".join([cell] * len(_TRANSPORTS))
        yield f"| `{name}` | {locked_version(name, lock)} | {cells} | {asks} | {command} |"


def on_page() -> str:
    """The table as the page has it."""
    return PAGE.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0].strip()


if __name__ == "__main__":
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n\n{table()}\n\n{END}{rest.split(END)[1]}", encoding="utf-8")
