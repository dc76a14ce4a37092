"""Keep secrets in and hostile text tame: one engine for results, errors, logs, spans and audit.

Two jobs that everything leaving the process goes through. `Redactor` replaces what is or looks
like a secret. `tame` makes text from a system harmless to print: no control, ANSI, bidirectional
or invisible characters, no lone surrogates, bounded length.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Iterable
from typing import Any

import orjson

from mcp_ops.redact_formats import (
    LONG_WORD,
    MARKED,
    STARTS,
    WORDS,
    any_in,
    begins_over_lines,
    is_key_line,
    key_lines,
    kubernetes_secrets,
    possible,
    private_keys,
)
from mcp_ops.redact_known import Known
from mcp_ops.redact_names import (
    LITERALS,
    MASK,
    has_container,
    has_named,
    hints_at,
    masked_by_name,
    named_as_secret,
    names_number,
    names_secret,
    spoken_for,
)

__all__ = ["MASK", "Redactor", "fingerprint", "named_as_secret", "quoted", "tame", "visible"]

_MAX_DEPTH = 40
_MAX_PARTS = 200_000
_MAX_JSON = 4 * 1024 * 1024
_SHORT = 64
_MOST_SEEN = 1_000

_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f"
    "\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e0fff]"
)


def fingerprint(secret: str) -> str:
    """Twelve hexadecimal digits that tell two secrets apart and give neither away."""
    return hashlib.sha256(b"mcp-ops/fingerprint/" + secret.encode("utf-8", "replace")).hexdigest()[
        :12
    ]


def tame(text: str, limit: int = 2_000) -> str:
    """Text from a system made safe to show: stripped of control and invisible characters, cut.

    `limit` is in characters; a cut is visible as an ellipsis with the number of characters lost.
    """
    head = text[: limit * 2 + 64]
    clean = _bare(head)
    if len(clean) <= limit and len(head) == len(text):
        return clean
    return f"{clean[:limit]}…[{len(text) - min(limit, len(clean))} characters cut]"


def _bare(text: str) -> str:
    return _UNSAFE.sub("", _ANSI.sub("", text))


def quoted(value: Any, limit: int) -> str:
    """A value as one line of JSON, for a sentence of ours that somebody else fills in.

    It can begin no line of its own, and what is invisible stands there as its escape: a person
    who decides sees what would run. `limit` is in characters; a cut is visible.
    """
    line = visible(json.dumps(value, ensure_ascii=False, default=str))
    return line if len(line) <= limit else f"{line[:limit]}…[{len(line) - limit} characters cut]"


def visible(text: str) -> str:
    """JSON text in which control, bidirectional and invisible characters are escapes."""
    return _UNSAFE.sub(lambda found: json.dumps(found[0])[1:-1], text)


# All but what words are made of is a space; a text's different words are few.
_WORD_BYTES = bytes(
    each if (each < 128 and chr(each).isalnum()) or chr(each) in "_.~+/-" else 32
    for each in range(256)
)


_DIGITS = "0123456789abcdef-"
# Strings of JSON with an escape in them, which are looked at as they read; and one without.
_ESCAPED = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)++"')
_PLAIN = '"xxxx"'


class Redactor:
    """Replaces secrets in text and JSON-like values. Knows formats, names and configured values.

    Values are added as they become known (configuration, refreshed tokens); the old ones stay
    known, the newest two thousand of all. Time is linear in the text, and hardly grows with the
    number of values.
    """

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._known = Known()
        self._seen: dict[str, str] = {}  # names of clients and tools come with every call

    def use_key(self, key: bytes) -> None:
        """Make fingerprints that this installation's other processes make too. Until then they are
        this process's own."""
        self._key = hmac.digest(key, b"mcp-ops/fingerprint", "sha256")

    def fingerprint(self, value: str, *, of: str = "") -> str:
        """Sixteen hexadecimal digits that tell two values apart here and mean nothing elsewhere:
        without the key nobody can try a list of likely values against them.

        `of` is the name of what has the value, and is part of it: whoever may set a setting of
        another name can't try there which value this one has."""
        named = f"{of}\0{value}" if of else value
        return hmac.digest(self._key, named.encode("utf-8", "replace"), "sha256").hex()[:16]

    def add(self, *secrets: str) -> None:
        """Never let these values out again, however they are written and whatever surrounds them.

        Shorter than eight characters they count as whole words only, shorter than four not at all.
        """
        for secret in secrets:
            self._known.add(secret.encode("utf-8", "replace").decode())
        # Not emptied: another thread may be about to put in what it found before.
        self._seen = {}

    def suspects(self, dumped: bytes) -> bool:
        """Whether serialized JSON may hold a secret; false is certain, true means: clean it."""
        if self._known.suspects(dumped):
            return True
        words = set(dumped.translate(_WORD_BYTES).decode("ascii").split())
        # Of digests and UUIDs, which are most long words, nothing is left.
        if _holds_token([each for each in words if len(each) >= 16 and each.strip(_DIGITS)]):
            return True
        lower = " ".join(words).lower()
        text = dumped.decode("utf-8", "replace")
        marked = possible(MARKED, text, lower)
        named = any_in(LITERALS, lower)
        if "\\" in text:
            if any(self._holds_escaped(each) for each in _ESCAPED.findall(text)):
                return True
            text = _ESCAPED.sub(_PLAIN, text)
        return (
            any(each.found(text) for each in marked)
            or (named and (has_named(text) or has_container(text)))
            or ("Secret" in text and kubernetes_secrets(text) != text)
            or ("PRIVATE KEY" in text and private_keys(text) != text)
            or begins_over_lines(text)
        )

    def _holds_escaped(self, string: str) -> bool:
        try:
            held: str = orjson.loads(string)
        except orjson.JSONDecodeError:
            return True
        return self.text(held) != held

    def text(self, text: str) -> str:
        """The text without secrets, also those that colours or invisible characters cut in two:
        who reads the text later may not see, or have taken out, what parts them."""
        seen = self._seen
        if len(text) > _SHORT:
            return self._text(text)
        if (found := seen.get(text)) is None:
            if len(seen) >= _MOST_SEEN:
                seen.clear()
            found = seen[text] = self._text(text)
        return found

    def _text(self, text: str) -> str:
        if not (text.isascii() and text.isprintable()) and _UNSAFE.search(text):
            bare = _bare(text)
            if (masked := self._masked(bare)) != bare:
                return masked
        return self._masked(text)

    def _masked(self, text: str) -> str:
        text = self._plain(text)
        if "\\n" in text:
            # The lines of a text that was printed as a value; what is no secret keeps its form.
            opened = text.replace("\\n", "\n")
            masked = self._plain(opened)
            if masked != opened:
                text = masked if "\n" in text else masked.replace("\n", "\\n")
        return self._inside(text)

    def _plain(self, text: str) -> str:
        text = private_keys(self._known.masked(text))
        lower = text.lower()
        formats = (*MARKED, *WORDS) if LONG_WORD.search(text) else MARKED
        for each in formats:
            if each.possible(text, lower):
                text = each.masked(text)
        if any_in(LITERALS, lower):
            text = masked_by_name(text)
        return kubernetes_secrets(key_lines(text))

    def _inside(self, text: str) -> str:
        """JSON that is text: its strings have escapes that hide how their lines begin and end."""
        if text[:1] not in ("{", "[") or "\\" not in text or len(text) > _MAX_JSON:
            return text
        try:
            held = orjson.loads(text)
        except orjson.JSONDecodeError:
            return text
        cleaned = self.value(held)
        return text if cleaned == held else orjson.dumps(cleaned).decode()

    def value(self, value: Any) -> Any:
        """The same JSON-like value without secrets: by content, and by the name of their key.

        Numbers stay, except under names such as password. What is nested too deep, contains
        itself, or comes after the first 200,000 parts is masked whole.
        """
        return _Walk(self).value(value, 0)


def _holds_token(words: list[str]) -> bool:
    if not words:
        return False
    text = " ".join(words)
    lower = text.lower()
    if any_in(STARTS, lower) and any(each.found(text) for each in WORDS):
        return True
    return any(map(is_key_line, words))


class _Walk:
    """One value gone through, with what bounds it."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._left = _MAX_PARTS
        self._path: set[int] = set()
        self._seen: dict[str, str] = {}  # keys and short values come again and again

    def value(self, value: Any, depth: int) -> Any:
        if isinstance(value, str):
            return self._clean(value)
        if isinstance(value, bytes | bytearray):
            return self._bytes(bytes(value))
        if not isinstance(value, dict | list | tuple):
            return value
        self._left -= 1 + len(value)
        if depth > _MAX_DEPTH or self._left < 0 or id(value) in self._path:
            return MASK
        self._path.add(id(value))
        try:
            if isinstance(value, dict):
                return self._dict(value, depth + 1)
            return self._lines([self.value(item, depth + 1) for item in value], value)
        finally:
            self._path.discard(id(value))

    def _lines(self, cleaned: list[Any], value: Iterable[Any]) -> list[Any]:
        """Items of which each is a line: what is a secret over several lines goes in each."""
        if len(cleaned) < 2:
            return cleaned
        before = [_line_of(item) for item in value]
        whole = "\n".join(line for line in before if line is not None)
        if self._redactor.text(whole) == whole:
            return cleaned
        left = set(self._redactor.text(whole).split("\n"))
        for at, item in enumerate(cleaned):
            line = _line_of(item)
            if (
                line is not None
                and before[at] not in left
                and not left.issuperset(line.split("\n"))
            ):
                cleaned[at] = {**item, "text": MASK} if isinstance(item, dict) else MASK
        return cleaned

    def _dict(self, value: dict[Any, Any], depth: int) -> dict[Any, Any]:
        # An entry of a list of variables, a setting of something that has a name of its own, and
        # the platform's own object for secrets.
        named = [value.get("name"), value.get("key")]
        secret = set()
        if any(isinstance(each, str) and names_secret(each) for each in named):
            secret = {"value"}
        elif value.get("kind") == "Secret":
            secret = {"data", "stringData"}
        return {
            self._clean(name) if isinstance(name, str) else str(name): (
                self._hidden(item, name=str(name), depth=depth)
                if name in secret or names_secret(str(name))
                else self._under(str(name), item, depth)
            )
            for name, item in value.items()
        }

    def _under(self, name: str, item: Any, depth: int) -> Any:
        if isinstance(item, str) and hints_at(name, item):
            return MASK
        return self.value(item, depth)

    def _hidden(self, value: Any, *, name: str, depth: int) -> Any:
        """What stands under a telling name: every text in it, and numbers where names say so."""
        if isinstance(value, str):
            return value if spoken_for(value) else MASK
        if isinstance(value, bool) or value is None:
            return value
        if isinstance(value, int | float):
            return MASK if names_number(name) else value
        if isinstance(value, dict) and depth <= _MAX_DEPTH:
            return {
                self._clean(str(key)): self._hidden(item, name=name, depth=depth + 1)
                for key, item in value.items()
            }
        if isinstance(value, list | tuple) and depth <= _MAX_DEPTH:
            return [self._hidden(item, name=name, depth=depth + 1) for item in value]
        return MASK

    def _clean(self, text: str) -> str:
        if len(text) > 64:
            return self._redactor.text(text)
        if text not in self._seen:
            self._seen[text] = self._redactor.text(text)
        return self._seen[text]

    def _bytes(self, data: bytes) -> bytes:
        try:
            return self._redactor.text(data.decode("utf-8")).encode("utf-8")
        except UnicodeDecodeError:
            return self._redactor.text(data.decode("latin-1")).encode("latin-1", "replace")


def _line_of(item: Any) -> str | None:
    text = item.get("text") if isinstance(item, dict) else item
    return text if isinstance(text, str) else None
