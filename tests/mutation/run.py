"""Mutation score of the guard: `make mutants MODULES="mcp_ops/guard/limits.py" SAMPLE=40 SEED=1`.

Without MODULES every module of `MODULES` runs; without SAMPLE all their mutants do (hours).
The figures go into docs/reliability.md, into the rows of the modules that ran.
"""

from __future__ import annotations

import os
import shutil
import sys

import pytest

from tests.mutation.forks import ROOT, STATE
from tests.mutation.loop import Asked, Loop
from tests.mutation.page import write_rows

MODULES = (
    *(
        f"mcp_ops/guard/{path.name}"
        for path in sorted((ROOT / "mcp_ops" / "guard").glob("*.py"))
        if path.stem != "__init__"
    ),
    *(f"mcp_ops/stores/{name}.py" for name in ("rates", "modes", "chain")),
    *(
        f"mcp_ops/stores/sqlite/{name}.py"
        for name in ("circuits", "budgets", "operations", "leases", "approvals")
    ),
)
# The tests that reach those modules inside their own process.
TESTS = (
    "tests/guard",
    "tests/auth",
    "tests/stores",
    "tests/security",
    "tests/tools",
    "tests/test_approval_page.py",
    "tests/test_approval_shown.py",
    "tests/test_approval_sign_in.py",
    "tests/test_call.py",
    "tests/test_cli_approvals.py",
    "tests/test_cli_policy.py",
)
# What tests other backends, or other processes, which a change in this one does not reach.
IGNORED = (
    "tests/stores/redis",
    "tests/guard/test_kill.py",
    "tests/security/test_canaries_live.py",
)


def main() -> int:
    """Run what the environment asks for; 1 if a module is below 90 %."""
    asked = Asked(
        modules=tuple(os.environ.get("MODULES", "").split()) or MODULES,
        sample=int(os.environ["SAMPLE"]) if os.environ.get("SAMPLE") else None,
        seed=int(os.environ.get("SEED") or 1),
        jobs=int(os.environ.get("JOBS") or os.cpu_count() or 1),
    )
    STATE.mkdir(exist_ok=True)
    scratch = STATE / "tmp"
    for old in STATE.glob("answer-*"):
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    page = ROOT / "docs" / "reliability.md"
    loop = Loop(asked, done=lambda result: write_rows(page, [result], seed=asked.seed))
    options = ["-p", "no:cacheprovider", "-p", "no:xdist", "-s", "-k", "not redis"]
    options += ["-o", "tmp_path_retention_policy=none", f"--basetemp={scratch}"]
    options += [f"--ignore={ROOT / path}" for path in IGNORED]
    os.chdir(ROOT)
    code = pytest.main([*options, *TESTS], plugins=[loop])
    shutil.rmtree(scratch, ignore_errors=True)
    if code != pytest.ExitCode.OK:
        return int(code)
    return int(any(result.score < 90 for result in loop.results))


if __name__ == "__main__":
    sys.exit(main())
