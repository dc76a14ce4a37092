"""Secrets that are told by the name they stand under: in JSON, YAML, headers, commands, prose.

Names are found by their last word, which is quick, and only there patterns are tried: before it
for what kind of name it is, after it for the value.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

MASK = "[redacted]"
_BEFORE = 120

_QUOTE = r"\\{0,8}[\"']"
_PLURAL = r"(?:s|[_.-]?(?:value|b64|base64|base)|\d{1,3})?"
_IS = rf"{_PLURAL}(?:{_QUOTE})?\s{{0,4}}(?:=>|:=|==?|:)\s{{0,4}}+(?:b(?=[\"']))?"
_MASKED = rf"(?!(?:{_QUOTE})?(?:[A-Za-z0-9-]{{1,20}} )?\[redacted\])"
# A value in quotes of any kind, which may span lines; else up to what ends a word.
_IN_QUOTES = (
    r"(?P<open>\\{1,8}[\"'])(?:(?!\\{1,8}[\"'])[\s\S]){1,8192}+"
    r"|(?P<double>\")(?:[^\"\\]|\\[\s\S]){1,8192}+|(?P<single>')(?:[^'\\]|\\[\s\S]){1,8192}+"
)
_WORD = r"[^\s\"'\\&,;}<>]"

Sure = Callable[[str, str], bool]  # what leads to a value, and the value


def _prose(keep: str, value: str) -> bool:
    """Prose says “token: expired”; a value is quoted, assigned, or more than letters."""
    if value[0] in "\"'\\" or keep.rstrip().endswith(("=", '"', "'")):
        return True
    return re.fullmatch(r"[A-Za-z]{1,15}[.:!?)\]]?", value) is None


def _always(_keep: str, _value: str) -> bool:
    return True


@dataclass(frozen=True, kw_only=True)
class _Tail:
    """What follows a name when a value does; `lead` must match right before the name's end."""

    source: str
    lead: str = ""
    sure: Sure = _always

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Compiled when it is needed first: most never are."""
        return re.compile(self.source, re.ASCII | re.IGNORECASE)

    @cached_property
    def before(self) -> re.Pattern[str] | None:
        """What stands before the name's end, if it matters."""
        return re.compile(rf"(?:{self.lead})\Z", re.ASCII) if self.lead else None


def _tail(source: str, *, before: str = "", sure: Sure = _always) -> _Tail:
    return _Tail(source=source, lead=before, sure=sure)


_ASSIGNED = rf"(?P<keep>{_IS}{_MASKED})(?P<value>{_IN_QUOTES}|{_WORD}{{3,8192}}+)"
# The next line stands further in, and so do all that are of the value.
_BLOCK = _tail(
    rf"(?P<keep>{_PLURAL}(?:{_QUOTE})?:[ \t]{{0,4}}[|>][+-]?\d?[ \t]{{0,4}}\r?\n)"
    r"(?P<value>(?:[ \t]++[^\r\n]*+(?:\r?\n|\Z))++)"
)
_PLACED = (
    _tail(
        rf"(?P<keep>{_QUOTE}\s{{0,4}},\s{{0,4}}b?{_MASKED})(?P<value>{_IN_QUOTES})(?!{_QUOTE}\s?:)",
        before=rf"[(\[]\s?b?{_QUOTE}[\w.-]{{0,60}}",
    ),
    _tail(
        rf"(?P<keep>{_PLURAL}(?:{_QUOTE})?(?:,\s{{0,20}}|\s{{1,20}})(?:{_QUOTE})?value{_IS}{_MASKED})"
        rf"(?P<value>{_IN_QUOTES}|{_WORD}{{1,8192}}+)",
        before=rf"\b(?:name|key)(?:{_QUOTE})?\s{{0,4}}[:=]\s{{0,4}}(?:{_QUOTE})?[\w.-]{{0,80}}",
    ),
    _tail(
        rf"(?P<keep>(?: [^<>]{{0,200}})?>\s{{0,4}}{_MASKED})(?P<value>[^<>]{{3,8192}}+)",
        before=r"<[\w:.-]{0,40}",
    ),
    _tail(
        rf"(?P<keep>(?:\s{{1,4}}|=)[\"']?){_MASKED}(?!-)(?P<value>[^\s\"']{{3,4096}}+)",
        before=r"(?<![\w-])--?[a-z-]{0,30}",
    ),
)
_STRONG = (_BLOCK, _tail(_ASSIGNED), *_PLACED)
_WEAK = (_BLOCK, _tail(_ASSIGNED, sure=_prose), *_PLACED)
_PASSWORD = (
    *_STRONG,
    _tail(
        r"(?P<keep>\s{1,4}(?:is|was)\s{0,2}[:=]?\s{0,2}[\"']?)"
        r"(?P<value>(?=[^\s]{0,40}[0-9!@#$%^&*])[^\s\"',;]{4,400}+)"
    ),
    _tail(r"(?P<keep> )(?P<value>\S{3,400}+)", before=r"\blogin \S{1,100} password"),
    _tail(r"(?P<keep>\s{1,4}')(?P<value>[^']{1,400}+)"),
)
_HEADER = (
    _tail(
        rf"(?P<keep>{_IS}{_MASKED}(?:{_QUOTE})?"
        r"(?:(?:bearer|basic|digest|token|negotiate|apikey|oauth|aws4-hmac-sha256)\s{1,4})?)"
        r"(?P<value>[^\r\n\"'\\]{3,8192}+)"
    ),
    *_PLACED,
)
_COOKIE = (
    _tail(rf"(?P<keep>2?{_IS}{_MASKED})(?P<value>{_IN_QUOTES}|[^\r\n\"'\\]{{3,8192}}+)"),
    *_PLACED,
)
_AUTH = (
    _tail(
        rf"(?P<keep>{_IS}{_MASKED}(?:{_QUOTE})?)(?P<value>[A-Za-z0-9+/]{{12,4096}}+)", sure=_prose
    ),
    _tail(
        rf"(?P<keep>{_QUOTE},\s?{_QUOTE}(?:\w{{1,60}}{_QUOTE},\s?{_QUOTE})?)(?P<value>[^\s\"',]{{3,400}}+)"
    ),
)
_DATABASE = (*_STRONG, _tail(r"(?P<keep>[\s\"',]{1,4})(?P<value>[^\s\"',;]{3,400}+)"))
_PWD = (
    _tail(rf"(?P<keep>{_IS}{_MASKED})(?P<value>(?![/\\~.])(?:{_IN_QUOTES}|{_WORD}{{3,8192}}+))"),
)
_RANDOM = _tail(
    r"(?P<keep>s?[\s\"'=:,>(\[`]{1,8}"
    r"(?:(?:is|was|of|for|value|id|the|now|got|used)[\s\"'=:`]{1,4}){0,2})"
    r"(?P<value>[A-Za-z0-9+/_.~-]{20,1024}+=*+)",
    sure=lambda _, value: random(value.rstrip(".")),
)

_KEYS = re.compile(
    r"(?:api|access|private|account|signing|encryption|master|license|storage|subscription"
    r"|functions?|host|webhook|auth|client|session|secret)[_.-]?key\Z"
)
_PAGES = re.compile(r"(?:page|continue|continuation|sync|cursor|max|next)[_.-]?token\Z")
_NO_KEYS = re.compile(
    r"(?:idempotency|partition|primary|foreign|cache|public|routing|object|sort|row|shard|s3)"
    r"[_ .-]?key\Z"
)
_ALONE = re.compile(r"(?:\A|[^a-z]_?)(?:auth|dsn|pwd|otp)\Z")
_CONNECTION = re.compile(r"connection[_.-]?string\Z")
_SESSION = re.compile(r"(?<!invalid_)session[_.-]?id\Z")  # not the error code about them
_ASSERTION = re.compile(r"client[_.-]?assertion\Z")
_VERIFIER = re.compile(r"code[_.-]?verifier\Z")
_ACCESS_SIGNATURE = re.compile(r"(?:shared[_.-]?access|x-amz)[_.-]?signature\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stem:
    """The last word of names. What `only` doesn't match or `never` matches is another thing;
    `one`: the plural is none."""

    tails: tuple[_Tail, ...]
    only: re.Pattern[str] | None = None
    never: re.Pattern[str] | None = None
    one: bool = False

    def names(self, lower: str) -> bool:
        """Whether a name that ends with the stem means a secret."""
        if self.never is not None and self.never.search(lower):
            return False
        return self.only is None or self.only.search(lower) is not None


_STEMS: dict[str, _Stem] = {
    **dict.fromkeys(
        ("password", "passwort", "passwd", "passphrase", "passcode"), _Stem(tails=_PASSWORD)
    ),
    "secret": _Stem(tails=_PASSWORD, one=True),
    "key": _Stem(tails=_STRONG, only=_KEYS, one=True),
    "token": _Stem(tails=_WEAK, never=_PAGES, one=True),
    "credential": _Stem(tails=_WEAK),
    "jwt": _Stem(tails=_WEAK),
    "authorization": _Stem(tails=_HEADER),
    "cookie": _Stem(tails=_COOKIE),
    "auth": _Stem(tails=_AUTH, only=_ALONE),
    "dsn": _Stem(tails=_WEAK, only=_ALONE),
    "otp": _Stem(tails=_WEAK, only=_ALONE),
    "pwd": _Stem(tails=_PWD, only=_ALONE),
    "string": _Stem(tails=_STRONG, only=_CONNECTION),
    "id": _Stem(tails=_STRONG, only=_SESSION),
    "assertion": _Stem(tails=_STRONG, only=_ASSERTION),
    "verifier": _Stem(tails=_STRONG, only=_VERIFIER),
    "signature": _Stem(tails=_STRONG, only=_ACCESS_SIGNATURE),
    "requirepass": _Stem(tails=_DATABASE),
    "masterauth": _Stem(tails=_DATABASE),
    "identified by": _Stem(tails=(_tail(r"(?P<keep>\s{1,4}'?)(?P<value>[^\s']{3,400}+)"),)),
}
# Every stem has one of these in it.
LITERALS = ("pass", "secret", "key", "token", "credential", "jwt", "auth", "cookie", "dsn", "otp",
            "pwd", "string", "session", "assertion", "verifier", "signature", "identified", "hmac",
            "bearer")  # fmt: skip
_HINTS = ("key", "token", "secret", "password", "credential", "auth", "signature", "hmac", "bearer")
_ASCII_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}

_NAME_END = re.compile(r"(?:s|[_.-]?(?:value|b64|base64|base)|2|\d{1,3})?\Z", re.ASCII)
_SEVERAL = re.compile(r"(?:secret|token|key)s\Z")  # names of them, or how many
_NUMBERS_TOO = re.compile(r"(?:pass(?:wor[dt]|wd|phrase|code)|secret|pwd|api[_.-]?key|otp)\Z")
_SECRET_ANYWHERE = frozenset({"SECRET", "SECRETS", "PASSWORD", "PASSWD", "PASSPHRASE", "PASSCODE",
                              "CREDENTIAL", "CREDENTIALS", "PRIVATE"})  # fmt: skip
_SECRET_LAST = frozenset({"KEY", "KEYS", "TOKEN", "TOKENS", "PASS", "PWD", "PIN", "OTP", "AUTH",
                          "SALT", "DSN", "CERT", "PEM"})  # fmt: skip
# What a code is of, where it opens nothing.
_HARMLESS = frozenset({"AREA", "COUNTRY", "CURRENCY", "ERROR", "EXIT", "HTTP", "LANG", "LANGUAGE",
                       "POSTAL", "REGION", "STATE", "STATUS", "ZIP"})  # fmt: skip
_NO_WORD = re.compile(r"[^A-Z0-9]+")
_FINGERPRINT = re.compile(r"fingerprint:[0-9a-f]{12,64}\Z|\[redacted\]")
_UUID = re.compile(r"(?i)[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")
_TOKEN = re.compile(r"[A-Za-z0-9+/=_.~-]{20,}+\Z")
_PARTS = re.compile(r"[-_./=]+")
_HEX = frozenset("0123456789abcdefABCDEF")


def names_secret(name: str) -> bool:
    """Whether what stands under this name is a secret, whatever it looks like."""
    lower = name[-_BEFORE:].lower()
    if _SEVERAL.search(lower):
        return False
    ended = _NAME_END.search(lower)
    bases = {lower, lower[: ended.start()]} if ended else {lower}
    return any(
        base.endswith(stem) and kind.names(base) for base in bases for stem, kind in _STEMS.items()
    )


def named_as_secret(key: str) -> bool:
    """Whether the name of a setting says that it may hold a secret. Stricter than what is masked in
    prose: this is about what may pass in the open."""
    words = [word for word in _NO_WORD.split(key.upper()) if word]
    if not _SECRET_ANYWHERE.isdisjoint(words):
        return True
    if words[-2:] == ["PUBLIC", "KEY"]:
        return False
    if words[-1:] == ["CODE"]:
        return _HARMLESS.isdisjoint(words[-2:-1])
    return (bool(words) and words[-1] in _SECRET_LAST) or names_secret(key)


def names_number(name: str) -> bool:
    """Whether a number under this name is a secret, too."""
    return _NUMBERS_TOO.search(name[-_BEFORE:].lower()) is not None


def hints_at(name: str, value: str) -> bool:
    """Whether a value is random and its name says key, token and the like."""
    lower = name[-_BEFORE:].lower().removesuffix("s")
    if len(value) > 4_096 or _NO_KEYS.search(lower) or _PAGES.search(lower):
        return False
    return lower.endswith(_HINTS) and random(value)


def spoken_for(value: str) -> bool:
    """Nothing, a fingerprint of ours, or what is masked already."""
    return not value or _FINGERPRINT.match(value) is not None


def random(token: str) -> bool:
    """Whether a token of at least 20 characters looks drawn, not made of words, nor is a UUID.

    By Shannon entropy of its longest part, in bits a character: 3.0 for hexadecimal digits, else
    3.5, with two of lower case, upper case and digits among at least 16 characters.
    """
    if not _TOKEN.match(token) or _UUID.match(token):
        return False
    part = max(_PARTS.split(token), key=len)
    kinds = any(map(str.islower, part)) + any(map(str.isupper, part)) + any(map(str.isdigit, part))
    if len(part) < 16 or kinds < 2:
        return False
    bits = -sum(n / len(part) * math.log2(n / len(part)) for n in Counter(part).values())
    return bits >= (3.0 if _HEX.issuperset(part) else 3.5)


def masked_by_name(text: str) -> str:
    """The text without what stands under telling names."""
    spans = sorted(_found(text))
    pieces, at = [], 0
    for start, end, instead in spans:
        if start >= at:
            pieces += [text[at:start], instead]
            at = end
    return "".join([*pieces, text[at:]]) if pieces else text


def has_named(text: str) -> bool:
    """Whether something stands under a telling name."""
    return next(_found(text), None) is not None


def has_container(dumped: str) -> bool:
    """Whether a list or an object stands under a telling name in serialized JSON."""
    for opening in ('":[', '":{', '": [', '": {'):
        at = dumped.find(opening)
        while at >= 0:
            if names_secret(dumped[max(0, at - _BEFORE) : at].rpartition('"')[2]):
                return True
            at = dumped.find(opening, at + 1)
    return False


def _found(text: str) -> Iterator[tuple[int, int, str]]:
    lower = text.lower()
    if len(lower) != len(text):  # a few letters are longer in lower case
        lower = text.translate(_ASCII_LOWER)
    for stem, kind in _STEMS.items():
        at = 0
        while (at := lower.find(stem, at)) >= 0:
            end = at + len(stem)
            at = end
            for span in _values(text, lower, end, kind):
                yield span
                at = max(at, span[1])
    for hint in _HINTS:
        at = 0
        while (at := lower.find(hint, at)) >= 0:
            at += len(hint)
            before = lower[max(0, at - 30) : at]
            if not (_NO_KEYS.search(before) or _PAGES.search(before)):
                yield from _value(text, lower, at, _RANDOM)


def _values(text: str, lower: str, end: int, kind: _Stem) -> Iterator[tuple[int, int, str]]:
    following = text[end : end + 1]
    if not following or (following.isalpha() and following not in "svbSVB"):
        return
    if following in "sS" and kind.one:  # names of them, or how many
        return
    if not kind.names(lower[max(0, end - _BEFORE) : end]):
        return
    for tail in kind.tails:
        span = next(_value(text, lower, end, tail), None)
        if span is not None:
            yield span
            return


def _value(text: str, lower: str, end: int, tail: _Tail) -> Iterator[tuple[int, int, str]]:
    match = tail.pattern.match(text, end)
    if match is None or not tail.sure(match["keep"], match["value"]):
        return
    if tail.before is not None and not tail.before.search(lower[max(0, end - _BEFORE) : end]):
        return
    value = match["value"]
    if value.strip("\"'\\ \t\r\n") == MASK:
        return
    groups = match.groupdict()
    opening = next((q for q in ("open", "double", "single") if groups.get(q)), None)
    shown = groups[opening] + MASK if opening else MASK
    ending = "\n" if value.endswith("\n") else ""
    yield match.start("value"), match.end("value"), f"{shown}{ending}"
