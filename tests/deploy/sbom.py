"""Writes what the image holds, as CycloneDX: `make sbom`.

From the lock, with the hash of every file that may be installed; nothing is asked anywhere.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.deploy.tools import ROOT, install, run


def write(target: Path) -> None:
    """Write the list, which is the same for the same lock."""
    target.parent.mkdir(parents=True, exist_ok=True)
    program = [str(install().bin / "python"), "-W", "ignore", "-m", "cyclonedx_py", "requirements"]
    form = ["--output-reproducible", "--short-PURLs", "--spec-version", "1.6"]
    names = ["--pyproject", str(ROOT / "pyproject.toml"), "--output-file", str(target)]
    run([*program, *form, *names, str(ROOT / "requirements-image.lock")])


if __name__ == "__main__":
    write(Path(sys.argv[1]))
