"""The table of docs/reliability.md: a row per module, of the last run that had it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from tests.mutation.loop import Result

BEGIN, END = "<!-- mutation begins -->", "<!-- mutation ends -->"
_HEAD = (
    "| module | mutants | run | killed | timeout | survived | equivalent | score |\n"
    "|---|---:|---:|---:|---:|---:|---:|---:|\n"
)
_ROW = re.compile(r"^\| `([^`]+)` \|.*\|$", re.MULTILINE)


def write_rows(page: Path, results: Iterable[Result], *, seed: int) -> None:
    """Put the rows in place of older ones of the same modules; the page has both marks."""
    text = page.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    table, after = rest.split(END)
    rows = {found[1]: found[0] for found in _ROW.finditer(table)}
    rows.update({result.module: row(result, seed=seed) for result in results})
    body = "\n".join(rows[module] for module in sorted(rows))
    page.write_text(f"{before}{BEGIN}\n\n{_HEAD}{body}\n\n{END}{after}", encoding="utf-8")


def row(result: Result, *, seed: int) -> str:
    """One module: `run` says whether all its mutants ran or a sample of them."""
    run = "all" if result.run == result.all else f"{result.run} (seed {seed})"
    return (
        f"| `{result.module}` | {result.all} | {run} | {result.killed} | {result.timeout} "
        f"| {len(result.survivors)} | {result.equivalent} | {result.score:.1f} % |"
    )
