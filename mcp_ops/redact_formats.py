"""What secrets look like by themselves: keys, tokens of services, credentials in URLs.

Every pattern is linear in the text: what repeats without a bound is possessive or last, and starts
where nothing of its kind stands before. `tests/test_redact_formats.py` holds them to it. Where
the facts come from is in docs/redaction.md.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from mcp_ops.redact_names import MASK


@dataclass(frozen=True, kw_only=True)
class Format:
    """One way to write a secret.

    All of `gates` (they are no words) and one of `literals` (lower case) stand in every match of
    `pattern`, as far as there are any. The group `keep` stays readable; `sure` looks again.
    """

    name: str
    gates: tuple[str, ...]
    literals: tuple[str, ...]
    source: str
    sure: Callable[[re.Match[str]], bool] | None = None

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """What it looks like; compiled when it is needed first: most never are."""
        return re.compile(self.source, re.ASCII)

    def possible(self, text: str, lower: str) -> bool:
        """Whether the text may hold one; quick."""
        # Loops, not generators: this is asked twenty times for every call.
        for gate in self.gates:
            if gate not in text:
                return False
        return self.possible_in(lower)

    def possible_in(self, lower: str) -> bool:
        """The same by what `lower`, the words of a text, has in it."""
        return not self.literals or any_in(self.literals, lower)

    def masked(self, text: str) -> str:
        """The text without secrets of this format."""
        return self.pattern.sub(self._mask, text)

    def found(self, text: str) -> bool:
        """Whether there is one."""
        return any(self._mask(match) != match[0] for match in self.pattern.finditer(text))

    def _mask(self, match: re.Match[str]) -> str:
        if self.sure is not None and not self.sure(match):
            return match[0]
        return f"{match.groupdict().get('keep') or ''}{MASK}"  # what is masked stays as it is


def possible(formats: tuple[Format, ...], text: str, lower: str) -> list[Format]:
    """Those of which the text may hold a secret."""
    found = []
    for each in formats:  # loops, not generators or calls: this is asked twice for every call
        for gate in each.gates:
            if gate not in text:
                break
        else:
            if not each.literals:
                found.append(each)
                continue
            for literal in each.literals:
                if literal in lower:
                    found.append(each)
                    break
    return found


def any_in(literals: tuple[str, ...], text: str) -> bool:
    """Whether one of them stands in the text."""
    for literal in literals:  # noqa: SIM110 - a generator takes three times as long
        if literal in text:
            return True
    return False


def _format(
    name: str,
    literals: str,
    pattern: str,
    *,
    gates: str = "",
    sure: Callable[[re.Match[str]], bool] | None = None,
) -> Format:
    return Format(
        name=name,
        gates=tuple(gates.split()),
        literals=tuple(literals.split()),
        source=pattern,
        sure=sure,
    )


def _no_word(match: re.Match[str]) -> bool:
    """Prose says “bearer authentication”."""
    return re.fullmatch(r"[a-z_]{1,20}[.:]?", match["value"]) is None


def _mixed(match: re.Match[str]) -> bool:
    """Neither a digest in hexadecimal nor words with slashes."""
    kinds = (str.islower, str.isupper, str.isdigit)
    return all(any(map(kind, match["value"])) for kind in kinds)


_KEY = r"[A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)? ?-{4,5}"
_START = r"(?<![A-Za-z0-9_-])"  # each run of such characters is looked at once

# Formats that need a character that few texts have, or a telling word.
MARKED: tuple[Format, ...] = (
    _format(
        "private key of PuTTY",
        "private-lines",
        r"(?P<keep>Private-Lines: \d{1,4}\s)(?:[\w+/=]++\s?)++",
    ),
    _format("Salesforce session", "00d", r"\b00D[A-Za-z0-9]{12,15}![\w.]{10,}+", gates="!"),
    _format(
        "password in a URL",
        "",
        r"(?P<keep>(?<=[A-Za-z0-9])://[^\s:/@\"'<>]{0,200}:)"
        r"(?:[^\s/\"'<>]{1,400}(?=@)|[^\s@\"'<>]{1,400}(?=@[\w.-]{1,253}[:/?\s\"']))",
        gates=":// @",
    ),
    _format(
        "token as the user of a URL",
        "",
        r"(?P<keep>(?<=[A-Za-z0-9])://)(?=[^\s/@]{0,40}\d)[\w.~%-]{16,400}+(?=@)",
        gates=":// @",
    ),
    _format(
        "signature or code in a URL",
        "sig signature credential code assertion samlresponse ticket",
        r"(?P<keep>(?i:[?&;](?:amp;)?(?:sig|[\w-]{0,20}signature|x-(?:amz|goog)-credential|code"
        r"|client_assertion|assertion|SAMLResponse|ticket)=))(?!\[redacted)"
        r"[^\s&\"'<>#]{8,4096}+",
        gates="=",
    ),
    _format(
        "user and password of a command",
        "-u --user",
        r"(?P<keep>(?<![\w-])(?:-u|--user)[ =][\"']?[^\s:\"']{1,100}:)[^\s\"']{3,400}+",
        gates=":",
    ),
    _format(
        "Azure connection string",
        "accountkey sharedaccess",
        r"(?P<keep>(?i:\b(?:AccountKey|SharedAccess(?:Key|Signature))\s?=))[^;\s\"']{8,4096}+",
        gates="=",
    ),
    _format(
        "password hash",
        "",
        r"\$(?:2[abxy]|[156y]|argon2(?:id|i|d)|scrypt|pbkdf2[\w-]{0,16})\$[./\w$=,+-]{20,}+",
        gates="$",
    ),
    _format(
        "scheme of a header",
        "bearer basic oauth apikey",
        r"(?P<keep>(?i:\b(?:bearer|basic|oauth|apikey)\s{1,4}))(?P<value>[\w.~+/!-]{12,}+={0,2})",
        sure=_no_word,
    ),
)

# Tokens that are one word of at least sixteen letters, digits and _ - . ~ + / characters.
WORDS: tuple[Format, ...] = (
    _format(
        "JWT",
        "eyj",
        rf"(?P<keep>{_START}(?>[\w-]*?(?=eyJ)))eyJ[\w-]{{8,}}+\.[\w-]{{4,}}+(?:\.[\w-]*+){{0,4}}",
    ),
    _format(
        "AWS", "akia asia abia acca a3t", r"\b(?:AKIA|ASIA|ABIA|ACCA|A3T[A-Z0-9])[A-Z0-9]{16}\b"
    ),
    _format(
        "GitHub",
        "ghp_ gho_ ghu_ ghs_ ghr_ github_pat_",
        r"\bgh[pousr]_[A-Za-z0-9_.-]{20,}+|\bgithub_pat_\w{20,}+",
    ),
    _format(
        "GitLab",
        "glpat gldt glrt glcbt glptt glft glimt glagent glsoat glffct gloas glwt gr1348941",
        r"\bgl(?:pat|dt|rtr?|cbt|ptt|ft|imt|agent|soat|ffct|oas|wt)-[\w.=-]{16,}+"
        r"|\bGR1348941[\w-]{16,}+",
    ),
    _format("OpenAI, Anthropic", "sk-", r"\bsk-[\w-]{16,}+"),
    _format(
        "Stripe",
        "k_live_ k_test_ whsec_",
        r"\b[rs]k_(?:live|test)_\w{10,}+|\bwhsec_[\w+/=]{16,}+",
    ),
    _format(
        "Slack",
        "xox xapp- xwfp- services/t",
        r"\bxox[a-z](?:\.xox[a-z])?-[\w-]{8,}+|\bx(?:app|wfp)-[\w-]{8,}+"
        r"|(?P<keep>/services/)T\w{6,20}/B\w{6,20}/\w{16,40}+",
    ),
    _format(
        "Google",
        "aiza ya29. gocspx- 1//0",
        r"\bAIza[\w-]{30,}+|\bya29\.[\w.-]{16,}+|\bGOCSPX-[\w-]{16,}+|(?<![\w/])1//0[\w-]{20,}+",
    ),
    _format("Azure client secret", "q~", r"(?<![\w.~-])[\w.~-]{3}\dQ~[\w.~-]{31,40}+"),
    _format(
        "Azure key",
        "acdb apim +amc +aba +ast jqqj",
        r"(?<![A-Za-z0-9+/])[A-Za-z0-9+/]{76}(?:APIM|ACDb|\+(?:ABa|AMC|ASt))[A-Za-z0-9+/]{5}[AQgw]"
        r"|(?<![A-Za-z0-9])[A-Za-z0-9]{52}JQQJ9[9DH][A-Za-z0-9]{20,40}+",
    ),
    _format("Salesforce refresh token", "5aep", r"\b5Aep[\w.]{30,}+"),
    _format("Twilio", "sk", rf"{_START}SK[0-9a-f]{{32}}\b"),
    _format("npm, PyPI", "npm_ pypi-", r"\bnpm_[A-Za-z0-9]{30,}+|\bpypi-[\w-]{30,}+"),
    _format("mcp-ops", "mcpops_", r"\bmcpops_[\w-]{20,}+"),
    _format("age", "age-secret-key-1", r"\bAGE-SECRET-KEY-1[A-Z0-9]{20,100}+"),
    _format(
        "further services",
        "hvs. hvb. hvr. sg. glsa_ glc_ hf_ _v1_ shpat_ shpca_ shppa_ shpss_ dapi nrak- lin_api_"
        " sbp_ dckr_pat_",
        r"\bhv[sbr]\.[\w-]{20,}+|\bSG\.[\w-]{16,64}\.[\w-]{16,}+|\bgl(?:sa|c)_[\w+/=]{20,}+"
        r"|\bhf_[A-Za-z0-9]{30,}+|\bdo[opr]_v1_[a-f0-9]{40,}+|\bshp(?:at|ca|pa|ss)_[A-Fa-f0-9]{30,}+"
        r"|\bdapi[a-f0-9]{32}\b|\bNRAK-[A-Z0-9]{20,}+|\blin_api_\w{20,}+|\bsbp_[a-f0-9]{30,}+"
        r"|\bdckr_pat_[\w-]{20,}+",
    ),
)
# Which of them begin how, for a quick look at many words at once.
STARTS = tuple({literal for each in WORDS for literal in each.literals})
LONG_WORD = re.compile(r"[\w.~+/-]{16}", re.ASCII)

_WRAPPED_AT = (64, 70, 76)
_KEY_TEXT = _format(
    "line of a key",
    "",
    r"(?<![^\s\"])(?P<value>(?:[A-Za-z0-9+/]{64}|[A-Za-z0-9+/]{70}|[A-Za-z0-9+/]{76}))(?![^\s\"\\])",
    sure=_mixed,
)
_KEY_BEGINS = re.compile(rf"-{{4,5}} ?BEGIN {_KEY}")
_KEY_ENDS = re.compile(rf"-{{4,5}} ?END {_KEY}")
_LARGEST_KEY = 32_768
# What a key goes on with when its end was cut off: lines of one word, and headers.
_KEY_BODY = re.compile(
    r"(?:(?:\s|\\[nr])++(?:[A-Za-z0-9+/=]{1,200}+(?=[\s\\\"'-]|\Z)"
    r"|(?:Proc-Type|DEK-Info|Comment|Version)[^\r\n\\]{0,200}))*+"
)


def private_keys(text: str) -> str:
    """The text without private keys, also those that a cut left without an end."""
    if "PRIVATE KEY" not in text:
        return text
    ends = [match.end() for match in _KEY_ENDS.finditer(text)]
    pieces, at = [], 0
    for begins in _KEY_BEGINS.finditer(text):
        if begins.start() < at:
            continue
        following = bisect_right(ends, begins.end())
        end = ends[following] if following < len(ends) else len(text) + _LARGEST_KEY
        if end - begins.start() > _LARGEST_KEY:
            body = _KEY_BODY.match(text, begins.end())
            end = body.end() if body else begins.end()
        pieces += [text[at : begins.start()], MASK]
        at = end
    return "".join([*pieces, text[at:]])


_WRAPPED_AT = (64, 70, 76)
_KEY_TEXT = _format(
    "line of a key",
    "",
    r"(?<![^\s\"])(?P<value>(?:[A-Za-z0-9+/]{64}|[A-Za-z0-9+/]{70}|[A-Za-z0-9+/]{76}))(?![^\s\"\\])",
    sure=_mixed,
)


def key_lines(text: str) -> str:
    """The text without lines of keys whose beginning was cut off."""
    return _KEY_TEXT.masked(text) if len(text) >= _WRAPPED_AT[0] else text


def is_key_line(word: str) -> bool:
    """Whether a word is as long as the lines of a key, and mixed as they are."""
    return len(word) in _WRAPPED_AT and not word.islower() and _KEY_TEXT.found(word)


# Items of a list that are lines of one text: what only the lines together tell.
_OVER_LINES = re.compile(r": ?[|>][+-]?\d?\"|\"\s{0,20}value\s?[:=]|\"\s{0,20}kind:\s?Secret\"")

_OVER_LINES_MARKS = ("|", ">", "value", "kind")  # one of them stands in every match


def begins_over_lines(dumped: str) -> bool:
    """Whether strings of serialized JSON may be lines of YAML that hold a secret together."""
    return any_in(_OVER_LINES_MARKS, dumped) and _OVER_LINES.search(dumped) is not None


_SECRET_KIND = re.compile(r"\bkind(?:\\{0,8}\")?\s{0,4}:\s{0,4}(?:\\{0,8}\")?Secret\b")
_DATA_JSON = re.compile(
    r"(?P<keep>\"(?:data|stringData)\\{0,8}\"\s{0,4}:\s{0,4}\{)[^{}]{1,1048576}"
)
_DATA_YAML = re.compile(
    r"^(?P<keep>(?P<in>[ \t]{0,40})(?:data|stringData):[ \t]*+\r?\n)"
    r"(?:(?P=in)[ \t]++[^\r\n]*+(?:\r?\n|\Z))++",
    re.MULTILINE,
)


def kubernetes_secrets(text: str) -> str:
    """The text without the values of Secrets of Kubernetes: their base64 hides nothing."""
    if "Secret" not in text or not _SECRET_KIND.search(text):
        return text
    text = _DATA_JSON.sub(rf"\g<keep>{MASK}", text)
    return _DATA_YAML.sub(lambda found: f"{found['keep']}{found['in']}  {MASK}\n", text)
