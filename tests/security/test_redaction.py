"""Secrets that something invisible cuts in two."""

from __future__ import annotations

import pytest

from mcp_ops.redact import Redactor, tame

SECRET = "hunter2-hunter2"


@pytest.mark.parametrize(
    "text",
    [
        f"\x1b[36mpassword\x1b[0m=\x1b[35m{SECRET}\x1b[0m",  # how a console logger colours
        f"password\u200b={SECRET}",
        f"Bearer \u202a{SECRET}\u202c",
        f"sk-ant-\u200b{SECRET}{SECRET}",
    ],
)
def test_a_secret_is_masked_before_what_is_invisible_goes(text: str) -> None:
    shown = tame(Redactor().text(text))
    assert SECRET not in shown
    assert "[redacted]" in shown


def test_a_known_secret_is_found_through_colours() -> None:
    redactor = Redactor()
    redactor.add("correct horse battery")
    assert "battery" not in tame(redactor.text("correct \x1b[1mhorse\x1b[0m battery"))
