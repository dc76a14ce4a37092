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
from collections import OrderedDict
from typing import Any

import orjson

MASK = "[redacted]"
_MIN_SECRET = 6
_MAX_SECRETS = 2_000
_MAX_DEPTH = 40

_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f"
    "\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e0fff]"
)

# Most specific first. Group "keep" (where there is one) stays readable.
_PATTERNS: tuple[re.Pattern[str], ...] = (
    re.compile(
        r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\Z)",
        re.DOTALL,
    ),
    re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{4,}(?:\.[A-Za-z0-9_-]*){1,3}"),
    re.compile(r"\b00D[A-Za-z0-9]{12,15}![A-Za-z0-9._]{10,}"),
    re.compile(r"(?P<keep>\b[a-z][a-z0-9+.-]{1,30}://[^\s:/@\"']{0,200}:)[^\s/@\"']{1,200}(?=@)"),
    re.compile(r"\b(?:AKIA|ASIA|AGPA|AIDA|AROA)[A-Z0-9]{16}\b"),
    re.compile(r"\bgh[pousr]_[A-Za-z0-9]{20,}\b|\bgithub_pat_[A-Za-z0-9_]{20,}\b"),
    re.compile(r"\bsk-(?:ant-|proj-)?[A-Za-z0-9_-]{16,}\b"),
    re.compile(r"\bxox[abeoprs]-[A-Za-z0-9-]{8,}\b|\bxapp-[A-Za-z0-9-]{8,}\b"),
    re.compile(r"\bAIza[A-Za-z0-9_-]{30,}\b|\bya29\.[A-Za-z0-9._-]{16,}"),
    re.compile(r"(?P<keep>\b(?:AccountKey|SharedAccessKey|SharedAccessSignature)=)[^;\s\"']{8,}"),
    re.compile(r"(?P<keep>(?i:\b(?:bearer|basic|token)\s+))[A-Za-z0-9._~+/=-]{12,}"),
    re.compile(r"(?P<keep>(?i:\b(?:set-)?cookie\s*:\s*))[^\r\n]{4,}"),
    re.compile(
        r"(?P<keep>(?i:[\w-]{0,40}(?:password|passwd|secret|api[_-]?key|access[_-]?token"
        r"|refresh[_-]?token|id[_-]?token|auth[_-]?token|client[_-]?secret|private[_-]?key"
        r"|credential))[\"']?\s*[=:]\s*[\"']?)[^\s\"'&,;}]{4,}"
    ),
    # Not the error code INVALID_SESSION_ID, after which a sentence stands.
    re.compile(r"(?P<keep>(?<!INVALID_)(?i:session[_-]?id)[\"']?\s*[=:]\s*[\"']?)[^\s\"'&,;}]{4,}"),
)
_SECRET_NAME = re.compile(
    r"(?i)(?:^|[_-])(?:password|passwd|secret|api_?key|access_?token|refresh_?token|id_?token"
    r"|auth_?token|client_?secret|private_?key|authorization|cookie|credentials?|code_verifier)$"
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


# Every match of a pattern has one of these in it: what has none is not searched (a hot path).
_TRIGGERS = (
    b"private key", b"eyj", b"00d", b"://", b"akia", b"asia", b"agpa", b"aida", b"aroa", b"gh",
    b"sk-", b"xox", b"xapp-", b"aiza", b"ya29.", b"accountkey", b"sharedaccess", b"bearer",
    b"basic", b"token", b"cookie", b"passw", b"secret", b"key", b"session", b"credential",
    b"authorization", b"code_verifier",
)  # fmt: skip


class Redactor:
    """Replaces secrets in text and JSON-like values. Knows formats, names and configured values.

    Values are added as they become known (configuration, refreshed tokens); the oldest go when
    there are more than two thousand. Values shorter than six characters are not matched.
    """

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._values: OrderedDict[str, None] = OrderedDict()
        self._known: re.Pattern[str] | None = None
        self._dumped: tuple[bytes, ...] = ()

    def use_key(self, key: bytes) -> None:
        """Make fingerprints that this installation's other processes make too. Until then they are
        this process's own."""
        self._key = hmac.digest(key, b"mcp-ops/fingerprint", "sha256")

    def fingerprint(self, value: str) -> str:
        """Sixteen hexadecimal digits that tell two values apart here and mean nothing elsewhere:
        without the key nobody can try a list of likely values against them."""
        return hmac.digest(self._key, value.encode("utf-8", "replace"), "sha256").hex()[:16]

    def add(self, *secrets: str) -> None:
        """Never let these values out again, whatever surrounds them."""
        printable = [secret.encode("utf-8", "replace").decode() for secret in secrets]
        fresh = [s for s in printable if len(s) >= _MIN_SECRET and s not in self._values]
        if not fresh:
            return
        for secret in fresh:
            self._values[secret] = None
        while len(self._values) > _MAX_SECRETS:
            self._values.popitem(last=False)
        longest_first = sorted(self._values, key=len, reverse=True)
        self._known = re.compile("|".join(re.escape(value) for value in longest_first))
        # As they stand inside JSON, and in lower case like the text they are looked for in.
        self._dumped = tuple(orjson.dumps(value)[1:-1].lower() for value in longest_first)

    def suspects(self, dumped: bytes) -> bool:
        """Whether serialized JSON may hold a secret; false is certain, true means: clean it."""
        lower = dumped.lower()
        return any(trigger in lower for trigger in _TRIGGERS) or any(
            value in lower for value in self._dumped
        )

    def text(self, text: str) -> str:
        """The text without secrets, also those that colours or invisible characters cut in two:
        who reads the text later may not see, or have taken out, what parts them."""
        if _UNSAFE.search(text):
            bare = _bare(text)
            if (masked := self._masked(bare)) != bare:
                return masked
        return self._masked(text)

    def _masked(self, text: str) -> str:
        if self._known is not None:
            text = self._known.sub(MASK, text)
        for pattern in _PATTERNS:
            text = pattern.sub(_mask, text)
        return text

    def value(self, value: Any, *, depth: int = 0) -> Any:
        """The same JSON-like value without secrets: by content, and by the name of their key."""
        if isinstance(value, str):
            return self.text(value)
        if depth > _MAX_DEPTH:
            return MASK
        if isinstance(value, dict):
            return {
                self.text(str(key)): MASK
                if isinstance(item, str) and item and _SECRET_NAME.search(str(key))
                else self.value(item, depth=depth + 1)
                for key, item in value.items()
            }
        if isinstance(value, list | tuple):
            return [self.value(item, depth=depth + 1) for item in value]
        return value


def _mask(match: re.Match[str]) -> str:
    keep = match.groupdict().get("keep")
    return f"{keep}{MASK}" if keep else MASK
