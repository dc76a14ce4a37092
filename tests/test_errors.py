"""The error tree: codes are unique, and each class says what is true of it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from mcp_ops import errors
from mcp_ops.errors import Health, OpsError, RefusalCode, Refused, Upstream
from mcp_ops.guard.record import verdict_of


def tree(cls: type[OpsError]) -> Iterator[type[OpsError]]:
    yield cls
    for each in cls.__subclasses__():
        yield from tree(each)


EVERY = [cls for cls in tree(OpsError) if cls is not OpsError]


def made(cls: type[OpsError]) -> OpsError:
    if cls is Refused:
        return Refused(RefusalCode.FROZEN, "No.", hint="Wait.")
    return cls("What went wrong.")


@pytest.mark.parametrize("cls", EVERY)
def test_every_error_has_a_code_a_meaning_and_a_sentence(cls: type[OpsError]) -> None:
    error = made(cls)
    assert re.fullmatch(r"[a-z_]{3,40}", error.code)
    assert error.executed in ("no", "unknown")
    assert cls.__doc__
    assert str(error) == error.message
    assert error.details == {}
    assert error.retry_after_s is None


def test_the_codes_of_the_leaves_are_unique() -> None:
    shared = {"upstream_error", "rejected"}  # a base class and its most general leaf
    codes = [cls.code for cls in EVERY if cls is not Refused and cls not in (Upstream,)]
    codes = [code for code in codes if code not in shared]
    assert len(codes) == len(set(codes))
    # `timeout` is said before anything ran (a refusal) and after; executed tells them apart.
    assert {code.value for code in RefusalCode} & set(codes) == {"timeout", "store_unavailable"}


@pytest.mark.parametrize("cls", list(tree(errors.Answered)))
def test_an_answer_is_no_failure_and_executed_nothing(cls: type[OpsError]) -> None:
    assert cls.health is Health.ANSWERED
    assert cls.executed == "no"


@pytest.mark.parametrize("cls", list(tree(errors.Failed)))
def test_a_failure_counts_against_the_target(cls: type[OpsError]) -> None:
    assert cls.health is Health.FAILED


def test_only_what_surely_was_not_executed_says_so() -> None:
    surely = {cls.__name__ for cls in tree(errors.Failed) if cls.executed == "no"}
    assert surely == {"Unreachable", "UpstreamUnavailable"}


@pytest.mark.parametrize("code", list(RefusalCode))
def test_a_refusal_touched_nothing(code: RefusalCode) -> None:
    refusal = Refused(code, "No.", hint="Do this.", retry_after_s=3, details={"a": 1})
    assert refusal.code == code.value
    assert refusal.executed == "no"
    assert refusal.health is Health.UNTOUCHED
    final = {
        RefusalCode.PERMISSION_DENIED,
        RefusalCode.PROTECTED,
        RefusalCode.LOCKED_DOWN,
        RefusalCode.READ_ONLY,
        RefusalCode.APPROVAL_DENIED,
        RefusalCode.IDEMPOTENCY_CONFLICT,
    }
    assert refusal.retryable is (code not in final)
    assert Refused.code == "internal_error"  # the class itself is left as it is


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (Refused(RefusalCode.FROZEN, "", hint=""), "refused"),
        (errors.InvalidInput(""), "invalid"),
        (errors.UnknownTool(""), "invalid"),
        (errors.Internal(""), "error"),
        (errors.NotFound(""), "failed"),
        (errors.StoreUnavailable(""), "failed"),
    ],
)
def test_each_error_has_its_verdict_in_the_ledger(error: OpsError, verdict: str) -> None:
    assert verdict_of(error) == verdict
