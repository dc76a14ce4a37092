"""Every format is masked wherever it stands; what operators read stays readable."""

from __future__ import annotations

import re
from collections.abc import Iterator
from re import _parser  # type: ignore[attr-defined]  # what the standard library compiles with
from typing import Any

import orjson
import pytest

from mcp_ops import redact_formats, redact_known, redact_names
from mcp_ops.redact import MASK, Redactor, tame
from tests.operational_text import LINES
from tests.secrets_of_each_kind import Sample, samples

SAMPLES = samples()


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda each: each.name)
def test_a_secret_of_each_format_is_masked_in_text_and_in_values(sample: Sample) -> None:
    redactor = Redactor()
    for text in (sample.text, f"first\n{sample.text}\nlast", f"{sample.text} {sample.text}"):
        shown = redactor.text(text)
        assert sample.secret not in shown, shown
        assert MASK in shown
        value = {"items": [{"text": text}], "n": 5}
        assert redactor.suspects(orjson.dumps(value)), text
        cleaned = orjson.dumps(redactor.value(value)).decode()
        assert sample.secret not in cleaned
        assert not redactor.suspects(cleaned.encode()), cleaned


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda each: each.name)
def test_a_masked_text_stays_as_it_is(sample: Sample) -> None:
    redactor = Redactor()
    once = redactor.text(sample.text)
    assert redactor.text(once) == once


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda each: each.name)
def test_a_secret_is_masked_in_json_that_is_text_in_json(sample: Sample) -> None:
    redactor = Redactor()
    nested = orjson.dumps({"body": orjson.dumps({"text": sample.text}).decode()}).decode()
    assert sample.secret not in redactor.text(nested)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda each: each.name)
def test_a_secret_is_masked_between_colours_and_invisible_characters(sample: Sample) -> None:
    half = len(sample.secret) // 2
    for parting in ("\x1b[31m", "\u200b", "\x00"):
        text = sample.text.replace(
            sample.secret, f"{sample.secret[:half]}{parting}{sample.secret[half:]}"
        )
        assert sample.secret not in tame(Redactor().text(text))


@pytest.mark.parametrize(
    ("key", "secret"),
    [
        ("DB_PASS", True),
        ("admin.pin", True),
        ("SECRET_THING", True),
        ("STRIPE_KEY", True),
        ("AUTH_CODE", True),
        ("PIN_CODE", True),
        ("UNLOCK_CODE", True),
        ("CODE", True),
        ("PRIVATE_PUBLIC_KEY", True),
        ("apiToken", True),
        ("STRIPE_PUBLIC_KEY", False),
        ("COUNTRY_CODE", False),
        ("LOG_LEVEL", False),
        ("KEY_COUNT", False),
        ("__", False),
    ],
)
def test_the_name_of_a_setting_says_whether_it_may_pass_in_the_open(key: str, secret: bool) -> None:
    assert redact_names.named_as_secret(key) is secret


def test_what_operators_read_stays_readable() -> None:
    redactor = Redactor()
    changed = [(line, shown) for line in LINES if (shown := redactor.text(line)) != line]
    assert changed == []
    suspected = [line for line in LINES if redactor.suspects(orjson.dumps({"text": line}))]
    assert suspected == []


def test_every_false_alarm_that_is_accepted_is_known() -> None:
    """They say a secret's name and give it a value; nobody but the reader knows that it is none."""
    redactor = Redactor()
    for line in ("password: must be longer", "the secret=value pair", "Basic QXV0aGVudGljYXRpb24x"):
        assert MASK in redactor.text(line)


def patterns() -> Iterator[tuple[str, re.Pattern[str]]]:
    """Every pattern of the engine, wherever it stands."""
    for each in (*redact_formats.MARKED, *redact_formats.WORDS):
        yield each.name, each.pattern
    for stem, kind in redact_names._STEMS.items():
        for tail in kind.tails:
            yield stem, tail.pattern
            if tail.before is not None:
                yield f"before {stem}", tail.before
    for module in (redact_formats, redact_known, redact_names):
        for name, value in vars(module).items():
            if isinstance(value, re.Pattern):
                yield f"{module.__name__}.{name}", value


@pytest.mark.parametrize(("name", "pattern"), [*patterns()])
def test_no_pattern_repeats_what_repeats(name: str, pattern: re.Pattern[str]) -> None:
    """What backtracks exponentially is a repetition in a repetition, of which neither is
    possessive and both may repeat often."""
    for outer, inner in nested(_parser.parse(pattern.pattern, pattern.flags), above=None):
        assert min(outer, inner) <= 8, f"{name}: {pattern.pattern}"


def nested(parsed: Any, above: int | None) -> Iterator[tuple[int, int]]:
    """The bounds of repetitions that stand in one another and may both give back."""
    for code, argument in parsed:
        if code in (_parser.MAX_REPEAT, _parser.MIN_REPEAT):
            low, high, body = argument
            varies = int(high) if high != low else 1
            if above is not None and above > 1 and varies > 1:
                yield above, varies
            yield from nested(body, varies if varies > 1 else above)
        elif code == _parser.POSSESSIVE_REPEAT:
            yield from nested(argument[2], None)
        else:
            for body in bodies(argument):
                yield from nested(body, above)


def bodies(argument: Any) -> Iterator[Any]:
    """The sub-patterns of an operation of a parsed pattern."""
    if isinstance(argument, _parser.SubPattern):
        yield argument
    elif isinstance(argument, list | tuple):
        for each in argument:
            yield from bodies(each)


@pytest.mark.parametrize(("name", "pattern"), [*patterns()])
def test_no_pattern_scans_on_from_every_place(name: str, pattern: re.Pattern[str]) -> None:
    """An unbounded run that something must follow is looked at once: nothing of its kind may
    stand before it, or it gives nothing back and is the end."""
    for code, argument, rest in runs(_parser.parse(pattern.pattern, pattern.flags)):
        unbounded = argument[1] == _parser.MAXREPEAT
        if unbounded and rest:
            assert code == _parser.POSSESSIVE_REPEAT or guarded(pattern), f"{name}"


def runs(parsed: Any) -> Iterator[tuple[Any, Any, bool]]:
    """The repetitions of a pattern, and whether something must follow."""
    operations = list(parsed)
    for at, (code, argument) in enumerate(operations):
        if code in (_parser.MAX_REPEAT, _parser.MIN_REPEAT, _parser.POSSESSIVE_REPEAT):
            yield code, argument, at + 1 < len(operations)
        for body in bodies(argument):
            yield from runs(body)


def guarded(pattern: re.Pattern[str]) -> bool:
    """Whether it starts where nothing of its kind stands before, or runs to the end of a text."""
    return pattern.pattern.startswith(("(?P<keep>(?<![A-Za-z0-9_-])", "-{4,5}")) or (
        pattern.pattern.endswith(r"\s*")
    )
