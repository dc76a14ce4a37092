"""Runs the official suite in all set-ups: `python -m tests.conformance.run [--setup NAME]`.

`--write` puts the table of a run of all set-ups into docs/conformance.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import anyio

from tests.clients.install import Installed, install, locked_version
from tests.clients.live import ROOT, LiveLab, live_lab
from tests.conformance.setups import SETUPS
from tests.conformance.suite import REVISIONS, Ran, run_suite

PAGE = ROOT / "docs" / "conformance.md"
BEGIN, END = "<!-- conformance: begin -->", "<!-- conformance: end -->"
SUITE = "@modelcontextprotocol/conformance"

Results = Mapping[tuple[str, str], Ran]


def main(arguments: list[str]) -> int:
    """Run; 0 when every required scenario passed in each set-up."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--setup", choices=SETUPS, action="append", default=[])
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args(arguments)
    if asked.write and asked.setup:
        print("--write needs all set-ups: the page shows one run of them all.")
        return 2
    clients = install()
    results: dict[tuple[str, str], Ran] = {}
    with tempfile.TemporaryDirectory(prefix="conformance-") as folder:
        directory = Path(folder)
        with live_lab(directory / "lab", shared=True) as lab:
            for setup in asked.setup or SETUPS:
                for revision in REVISIONS:
                    ran = anyio.run(_run, setup, revision, lab, clients, directory)
                    results[setup, revision] = ran
                    print(_line(setup, ran), flush=True)
    if asked.write:
        write(results)
    return int(any(ran.failed or ran.code for ran in results.values()))


async def _run(setup: str, revision: str, lab: LiveLab, clients: Installed, directory: Path) -> Ran:
    place = directory / f"{setup}-{revision}"
    async with SETUPS[setup](lab, place, revision) as reached:
        return await run_suite(clients, reached.url, revision, place / "results")


def _line(setup: str, ran: Ran) -> str:
    passed = len(ran.required) - len(ran.failed)
    lines = [f"{setup} {ran.revision}: {passed} of {len(ran.required)} in {ran.seconds:.1f} s"]
    lines += [f"  {name}: {'; '.join(wrong)}" for name, wrong in ran.failed.items()]
    return "\n".join(lines)


def write(results: Results) -> None:
    """Put the results into the page."""
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n\n{table(results)}\n{END}{after}", encoding="utf-8")


def table(results: Results) -> str:
    """What the page shows of a run."""
    rows = [
        "| set-up | revision | scenarios passed | checks passed, failed, warned, left out |",
        "|---|---|---|---|",
    ]
    for (setup, revision), ran in results.items():
        passed, counts = len(ran.required) - len(ran.failed), ran.counts
        checks = ", ".join(
            str(counts[status]) for status in ("SUCCESS", "FAILURE", "WARNING", "SKIPPED")
        )
        rows.append(f"| {setup} | {revision} | {passed} of {len(ran.required)} | {checks} |")
    version = locked_version(SUITE, "typescript")
    lines = [f"Of `{SUITE}` {version}:", "", *rows, ""]
    lines += _named("Checks that the suite left out", _everywhere(results, "skipped"))
    lines += _named("Not required, and run to be seen", _beside(results))
    return "\n".join(lines)


def _everywhere(results: Results, what: str) -> list[str]:
    found: dict[str, set[str]] = {}
    for (_, revision), ran in results.items():
        for scenario, ids in getattr(ran, what).items():
            found.setdefault(f"{revision} `{scenario}`", set()).update(ids)
    return [f"{where}: {', '.join(sorted(ids))}" for where, ids in found.items()]


def _beside(results: Results) -> list[str]:
    found: dict[str, dict[str, bool]] = {}
    for (_, revision), ran in results.items():
        for scenario, passed in ran.beside.items():
            known = found.setdefault(revision, {})
            known[scenario] = known.get(scenario, True) and passed
    lines = []
    for revision, scenarios in found.items():
        for verdict in (True, False):
            names = [f"`{name}`" for name, passed in scenarios.items() if passed is verdict]
            if names:
                said = "pass" if verdict else "do not pass"
                lines.append(f"{revision}: {', '.join(names)} {said}")
    return lines


def _named(heading: str, lines: list[str]) -> list[str]:
    return [f"{heading}:", "", *(f"- {line}" for line in lines), ""] if lines else []


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
