"""Action budgets: one row for each use, counted in its window, deleted after it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from mcp_ops.records import Budget, BudgetState


def look(
    connection: sqlite3.Connection, budgets: Iterable[Budget], now: float
) -> tuple[BudgetState, ...]:
    """What each budget says now."""
    return tuple(_look(connection, budget, now) for budget in budgets)


def take(
    connection: sqlite3.Connection, budgets: Iterable[Budget], call_id: str, now: float
) -> None:
    """Use each budget once, within a write transaction; uses that no window holds any more go."""
    windows: dict[str, float] = {}
    for budget in budgets:
        windows[budget.key] = max(windows.get(budget.key, 0.0), budget.window_s)
    connection.execute("DELETE FROM budget_events WHERE expires_at <= ?", (now,))
    connection.executemany(
        "INSERT INTO budget_events (key, at, expires_at, call_id) VALUES (?, ?, ?, ?)",
        [(key, now, now + window_s, call_id) for key, window_s in windows.items()],
    )


def give_back(connection: sqlite3.Connection, call_id: str) -> None:
    """Undo a call's uses."""
    connection.execute("DELETE FROM budget_events WHERE call_id = ?", (call_id,))


def _look(connection: sqlite3.Connection, budget: Budget, now: float) -> BudgetState:
    used, oldest = connection.execute(
        "SELECT count(*), min(at) FROM budget_events WHERE key = ? AND at > ?",
        (budget.key, now - budget.window_s),
    ).fetchone()
    return BudgetState(
        name=budget.name,
        limit=budget.limit,
        used=used,
        frees_at=None if oldest is None else oldest + budget.window_s,
    )
