"""Secrets stay in, hostile text is tamed."""

from __future__ import annotations

import orjson
import pytest

from mcp_ops.redact import MASK, Redactor, fingerprint, tame

SECRETS = [
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl",
    "00D5g000004XyzA!AQEAQFaketokenfaketokenfaketoken",
    "AKIAIOSFODNN7EXAMPLE",
    "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
    "github_pat_11ABCDEFG0123456789_abcdefghij",
    "sk-" + "proj-" + "a1b2" * 6,
    "xoxb-123456789012-abcdefghijkl",
    "AIzaSyA-1234567890abcdefghijklmnopqrstuv",
    "ya29.a0AfH6SMBabcdefghijklmnop",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\n-----END RSA PRIVATE KEY-----",
]


@pytest.mark.parametrize("secret", SECRETS)
def test_secrets_are_known_by_their_format_wherever_they_stand(secret: str) -> None:
    redactor = Redactor()
    for text in (secret, f"before {secret} after", f'{{"x":"{secret}"}}'):
        found = redactor.text(text)
        assert secret not in found
        assert MASK in found
    assert redactor.suspects(orjson.dumps({"x": secret}))
    assert redactor.value({"list": [secret, {"deep": secret}]}) == {"list": [MASK, {"deep": MASK}]}


@pytest.mark.parametrize(
    ("text", "kept", "secret"),
    [
        ("postgres://app:hunter2hunter@db:5432/x", "postgres://app:", "hunter2hunter"),
        ("Authorization: Bearer abcdefghijklmnop", "Authorization: Bearer ", "abcdefghijklmnop"),
        ("AccountKey=abcdefgh12345678==;x", "AccountKey=", "abcdefgh12345678"),
        ("Set-Cookie: sid=abc; Path=/", "Set-Cookie: ", "sid=abc"),
        ("client_secret=s3cr3t-value&x=1", "client_secret=", "s3cr3t-value"),
        ('"refresh_token": "abcdefgh"', '"refresh_token": "', "abcdefgh"),
    ],
)
def test_what_leads_to_a_secret_stays_readable(text: str, kept: str, secret: str) -> None:
    found = Redactor().text(text)
    assert secret not in found
    assert kept in found


def test_a_configured_value_is_hidden_wherever_it_stands_and_however_it_is_written() -> None:
    redactor = Redactor()
    redactor.add("plain-value-1", 'quo"ted\\value', "short")
    text = redactor.text('a plain-value-1 b quo"ted\\value c short shorter')
    assert text == f"a {MASK} b {MASK} c {MASK} shorter"
    assert redactor.suspects(orjson.dumps({"x": 'quo"ted\\value'}))
    assert not redactor.suspects(orjson.dumps({"x": "nothing here"}))


def test_the_longest_of_nested_values_is_hidden_whole() -> None:
    redactor = Redactor()
    redactor.add("secret-part", "secret-part-and-more")
    assert redactor.text("x secret-part-and-more y") == f"x {MASK} y"


def test_secrets_are_known_by_the_name_of_their_key() -> None:
    found = Redactor().value(
        {"password": "p", "api_key": "k", "apikey_name": "fine", "authorization": "", "n": 5}
    )
    assert found == {
        "password": MASK,
        "api_key": MASK,
        "apikey_name": "fine",
        "authorization": "",
        "n": 5,
    }


def test_only_so_many_values_are_kept_and_the_oldest_go() -> None:
    redactor = Redactor()
    redactor.add(*(f"value-{number:05d}" for number in range(2_001)))
    redactor.add("value-02000")  # known already
    assert redactor.text("value-00000 value-00001 value-02000") == f"value-00000 {MASK} {MASK}"


def test_depth_is_bounded() -> None:
    deep: object = "bottom"
    for _ in range(60):
        deep = [deep]
    assert MASK in orjson.dumps(Redactor().value(deep)).decode()
    assert Redactor().value((1, None, True)) == [1, None, True]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain\ttext\nwith lines", "plain\ttext\nwith lines"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07after", "after"),
        ("nul\x00bell\x07", "nulbell"),
        ("abc\u202edef\u2066", "abcdef"),
        ("in\u200bvis\ufeffi\u00adble\U000e0041", "invisible"),
        ("lone\ud800surrogate", "lonesurrogate"),
        ("häßlich 日本 🙂", "häßlich 日本 🙂"),
    ],
)
def test_text_of_a_system_is_tamed(text: str, expected: str) -> None:
    assert tame(text) == expected


def test_a_cut_is_visible_and_says_how_much_is_gone() -> None:
    assert tame("x" * 50, 10) == "x" * 10 + "…[40 characters cut]"
    assert tame("x" * 10, 10) == "x" * 10
    assert tame("\x00" * 1_000_000 + "end", 10).endswith("characters cut]")


def test_a_fingerprint_tells_secrets_apart_and_gives_none_away() -> None:
    first, second = fingerprint("secret-a"), fingerprint("secret-b")
    assert first == fingerprint("secret-a") != second
    assert len(first) == 12
    assert fingerprint("\ud800")


def test_session_ids_are_masked_and_the_error_code_about_them_stays_readable() -> None:
    redactor = Redactor()
    for text in ("session_id=abcd", "my_session_id: letters", 'sessionId="short"'):
        assert redactor.text(text).count(MASK) == 1, text
    said = "INVALID_SESSION_ID: Session expired or invalid"
    assert redactor.text(said) == said


def test_a_setting_of_something_that_has_a_name_is_masked_by_the_settings_own_name() -> None:
    """The arguments of set_config: they stand in the record and in questions."""
    asked = {"name": "api", "key": "DB_PASSWORD", "value": "hunter2xyz"}
    redactor = Redactor()
    assert redactor.value(asked) == {**asked, "value": MASK}
    assert redactor.suspects(orjson.dumps(asked))
    plain = {"name": "api", "key": "LOG_LEVEL", "value": "debug"}
    assert redactor.value(plain) == plain
