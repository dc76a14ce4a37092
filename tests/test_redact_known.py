"""Configured values stay in, however they are written and wherever a text was cut."""

from __future__ import annotations

import base64
import json
import random
import string
import textwrap
from collections.abc import Iterator
from urllib.parse import quote, quote_plus

import orjson
import pytest

from mcp_ops.redact import MASK, Redactor
from mcp_ops.redact_known import MAX_VALUES, Known, fold

SECRETS = {
    "letters and digits": "kFq83mZt01LwXv55Qn",
    "punctuation": 'p@ss/w0rd+"quoted"\\back&=?',
    "spaces": "correct horse battery staple",
    "beyond ASCII": "pässwörd-🔑-geheim",
    "fourteen characters": "hunter2-hunter",
    "eight characters": "hunter2x",
    "long": "".join(random.Random(1).choices(string.ascii_letters + string.digits, k=700)),
}


def writings(secret: str) -> Iterator[tuple[str, str]]:
    """A secret in texts, and by which writing."""
    raw = secret.encode()
    yield "plain", f"was {secret} before"
    yield "URL-encoded", f"q={quote(secret, safe='')}&x=1"
    yield "URL-encoded in lower case", f"q={quote(secret, safe='').replace('%2F', '%2f')}"
    yield "form-encoded", f"q={quote_plus(secret)}&x=1"
    yield "JSON", json.dumps({"m": f"was {secret}"})
    yield "JSON in JSON", json.dumps({"m": json.dumps({"m": f"was {secret}"})})
    for before in range(3):
        whole = base64.b64encode(b"u" * before + raw + b":tail").decode()
        yield f"base64 from byte {before}", f"is {whole} it"
        yield f"base64 for URLs from byte {before}", whole.translate(str.maketrans("+/", "-_"))
        yield f"wrapped base64 from byte {before}", "\n".join(textwrap.wrap(whole, 16))
        yield f"indented base64 from byte {before}", "\r\n    ".join(textwrap.wrap(whole, 16))
    yield "padded base64", f"k: {base64.b64encode(raw).decode()}"
    yield "hexadecimal", f"0x{raw.hex()}"
    yield "hexadecimal in upper case", raw.hex().upper()
    yield "wrapped", "\n".join(secret[at : at + 5] for at in range(0, len(secret), 5))
    yield "wrapped in JSON", json.dumps(f"{secret[:6]}\n{secret[6:]}")


@pytest.mark.parametrize(
    ("name", "writing", "text"),
    [
        (name, writing, text)
        for name, secret in SECRETS.items()
        for writing, text in writings(secret)
    ],
    ids=lambda value: None,
)
def test_a_value_is_found_in_every_writing(name: str, writing: str, text: str) -> None:
    redactor = Redactor()
    redactor.add(SECRETS[name])
    shown = redactor.text(text)
    assert MASK in shown, (name, writing, text)
    assert redactor.suspects(orjson.dumps({"text": text})), (name, writing)
    # Nothing is left of it in any writing: what is left of the text has no run of it.
    left = fold(shown).text
    assert all(SECRETS[name][at : at + 5] not in left for at in range(len(SECRETS[name]) - 4))


def test_all_of_a_base64_text_goes_when_a_value_is_in_it() -> None:
    redactor = Redactor()
    redactor.add("kFq83mZt01LwXv55Qn")
    whole = base64.b64encode(b"user:kFq83mZt01LwXv55Qn:more").decode()
    assert redactor.text(f"auth is {whole}, yes") == f"auth is {MASK}, yes"


@pytest.mark.parametrize("kept", range(8, 18))
def test_a_value_that_a_cut_parts_is_masked_from_eight_characters_on(kept: int) -> None:
    secret = SECRETS["letters and digits"]
    redactor = Redactor()
    redactor.add(secret)
    for text in (f"line one\nthe token {secret[:kept]}", f"{secret[-kept:]} and more"):
        shown = redactor.text(text)
        assert secret[:kept] not in shown
        assert secret[-kept:] not in shown
        assert redactor.suspects(orjson.dumps({"text": text}))


def test_no_cut_of_a_stream_lets_more_than_seven_characters_out() -> None:
    secret = SECRETS["letters and digits"]
    redactor = Redactor()
    redactor.add(secret)
    stream = f"start {secret} end"
    for at in range(len(stream)):
        shown = [redactor.text(part) for part in (stream[:at], stream[at:])]
        for part in shown:
            assert all(secret[i : i + 8] not in part for i in range(len(secret) - 7))


def test_the_beginnings_of_addresses_and_keys_are_no_parts_of_a_secret() -> None:
    redactor = Redactor()
    redactor.add("postgres://app:9fK2-long-enough@db/shop", "-----BEGIN PRIVATE KEY-----\nx\n")
    for text in ("runs postgres", "at postgres://", "saw -----BEGIN"):
        assert redactor.text(text) == text


def test_short_values_count_as_words_only() -> None:
    redactor = Redactor()
    redactor.add("hun2er", "abc")
    text = "hun2er, hun2ers, thehun2er, (hun2er) hun2er_x abc"
    assert redactor.text(text) == f"{MASK}, hun2ers, thehun2er, ({MASK}) hun2er_x abc"
    assert redactor.text(base64.b64encode(b"hun2er").decode()) == MASK


def test_parts_of_a_secret_are_secrets() -> None:
    redactor = Redactor()
    redactor.add(
        "redis://:cache-pass-1@cache:6379/0",
        "amqp://app:p%40ss-word@mq/",
        "Endpoint=sb://x/;SharedAccessKeyName=root;SharedAccessKey=qwertzuiopasdf=",
        "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0B\nAQEFAASCBKcwggSjAgEAAoIB\n"
        "-----END PRIVATE KEY-----\n",
    )
    for part in (
        "cache-pass-1",
        "p%40ss-word",
        "p@ss-word",
        "qwertzuiopasdf=",
        "MIIEvQIBADANBgkqhkiG9w0B",
        "AQEFAASCBKcwggSjAgEAAoIB",
    ):
        assert redactor.text(f"saw {part} there") == f"saw {MASK} there"
    assert redactor.text("cache:6379 root") == "cache:6379 root"


def test_a_rotated_value_is_known_beside_the_new_one() -> None:
    redactor = Redactor()
    redactor.add("first-token-of-the-day")
    redactor.add("second-token-of-the-day")
    text = "first-token-of-the-day second-token-of-the-day"
    assert redactor.text(text) == f"{MASK} {MASK}"


def test_the_index_forgets_what_is_forgotten() -> None:
    known = Known()
    known.add("the-oldest-of-all-values")
    known.add("old")
    for number in range(MAX_VALUES):
        known.add(f"value-number-{number:06d}")
    assert known.masked("the-oldest-of-all-values") == "the-oldest-of-all-values"
    assert not known.suspects(b'"the-oldest-of-all-values"')
    assert known.masked("value-number-000000 value-number-001999") == f"{MASK} {MASK}"
    known.add("value-number-000000")  # used again, so the newest
    known.add("one-more-value-that-is-new")
    assert known.masked("value-number-000000 value-number-000001") == (
        f"{MASK} value-number-000001"
    )


def test_the_number_of_values_does_not_change_how_many_are_looked_for() -> None:
    """What is read of a text is an index, whatever is in it: no value is searched one by one."""
    draw = random.Random(7)
    text = b'{"id":"018f3c1e-7a55-7c3a-9d8e-2b1f0c9a7e11","at":"2026-10-10T10:10:10Z"}' * 50
    known = Known()
    for _ in range(MAX_VALUES // 8):
        known.add("".join(draw.choices(string.ascii_letters + string.digits, k=40)))
    assert list(known._candidates(text)) == []


def test_what_is_not_suspected_does_not_change() -> None:
    """`suspects` decides whether anything is looked at again: it may err on one side only."""
    draw = random.Random(3)
    redactor = Redactor()
    redactor.add(*SECRETS.values())
    pieces = [
        *(text for secret in SECRETS.values() for _, text in writings(secret)),
        "token", "password", ": ", "=", '"', "\\", "\n", " ", "key", "a" * 20, "0", "%", "é", "🙂",
        "://u:p@h/", "kind: Secret\ndata:\n", "eyJ", "-", "-----BEGIN PRIVATE KEY-----", "ghp_",
    ]  # fmt: skip
    for _ in range(400):
        text = "".join(draw.choice(pieces) for _ in range(draw.randint(1, 6)))
        value = {"items": [{"text": text}], "note": text[:7]}
        if not redactor.suspects(orjson.dumps(value)):
            assert redactor.value(value) == value
