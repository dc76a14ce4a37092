"""Values that must never leave, in every writing: plain, escaped, wrapped, base64, hexadecimal.

How they are found without reading the text once for each of them: eight bytes that begin in the
first eight bytes of a writing stand in an index. A text that holds at least fifteen bytes of it,
wherever, has one of those at a multiple of eight: it is looked at in steps of eight bytes. Shorter
writings are found by four bytes in steps of four. So a thousand values cost what one costs.
"""

from __future__ import annotations

import base64
import re
import sys
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

from mcp_ops.redact_names import MASK, names_secret

MAX_VALUES = 2_000
SHORTEST = 4
WORD = 8  # a shorter value counts only where it stands as a word of its own
CUT = 8  # so many characters of a value at either end of a text are a value that was cut
_LONG = 15
_ENCODED_UP_TO = 8_192
_LINE = 16

# What stands for a character, or parts a value without being of it: escapes of JSON and of URLs,
# line breaks with what indents the next line. Eight backslashes: JSON in JSON in JSON.
_FOLD = re.compile(
    r"\\{1,8}(?:u(?P<high>[dD][89abAB][0-9a-fA-F]{2})\\{1,8}u(?P<low>[dD][c-fC-F][0-9a-fA-F]{2})"
    r"|u(?P<u>[0-9a-fA-F]{4})|(?P<c>[\"'/tbf])|(?P<gap>r\\{1,8}n|[nr])[ \t]{0,80})"
    r"|(?P<slash>\\{2,8})|%(?P<hex>[0-9A-Fa-f]{2})|(?P<wrap>\\?[\r\n]{1,4}[ \t]{0,80})"
)
_FOLDS = re.compile(r"[\\%\n\r]")
_USERINFO = re.compile(r"[A-Za-z0-9]://([^\s/?#\"']{0,200}?):([^\s\"']{1,400})@")
_PAIR = re.compile(r"([A-Za-z][\w .-]{0,40}?)\s?[=:]\s?[\"']?([^;&,\s\"']{8,8192})")
_BASE64 = re.compile(r"[A-Za-z0-9+/_=-]*")
_HEX = re.compile(r"[0-9a-fA-F]*")
_NO_CUT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{1,20}://|-----|[{\[]")  # they begin like much else

Span = tuple[int, int]


@dataclass(slots=True, kw_only=True, eq=False)
class Form:
    """One writing of a value. `around` is what an encoded one is a part of: all of it goes."""

    text: str
    around: re.Pattern[str] | None = None
    word: bool = False
    cut: bool = False
    bytes_: bytes = field(default=b"")

    def spans(self, text: str) -> Iterator[Span]:
        """Where it stands in a text, whole or cut by the text's end."""
        at = text.find(self.text)
        while at >= 0:
            end = at + len(self.text)
            if self.around is not None:
                yield self._all_around(text, at, end)
            elif not self.word or _is_word(text, at, end):
                yield at, end
            at = text.find(self.text, end)
        if self.cut:
            yield from self._cuts(text)

    def _all_around(self, text: str, at: int, end: int) -> Span:
        around = self.around or _HEX
        back = around.match(text[max(0, at - _ENCODED_UP_TO) : at][::-1])
        ahead = around.match(text, end)
        return at - (len(back[0]) if back else 0), ahead.end() if ahead else end

    def _cuts(self, text: str) -> Iterator[Span]:
        longest = min(len(self.text) - 1, len(text))
        for size in range(longest, CUT - 1, -1):
            if text.endswith(self.text[:size]):
                yield len(text) - size, len(text)
                break
        for size in range(longest, CUT - 1, -1):
            if text.startswith(self.text[-size:]):
                yield 0, size
                break


def _is_word(text: str, at: int, end: int) -> bool:
    before, after = text[at - 1 : at], text[end : end + 1]
    return not (before.isalnum() or before == "_" or after.isalnum() or after == "_")


class Known:
    """The values, the newest `MAX_VALUES` of them, and an index of their writings."""

    def __init__(self) -> None:
        self._values: OrderedDict[str, list[Form]] = OrderedDict()
        self._eights: dict[int, list[Form]] = {}
        self._fours: dict[int, list[Form]] = {}
        self._words: list[Form] = []

    def add(self, secret: str) -> None:
        """Know a value and what it is made of: the password in a URL, the lines of a key.

        Values of fewer than four characters are not matched.
        """
        for value in {secret, *_parts(secret)}:
            if len(value) < SHORTEST:
                continue
            if value in self._values:
                self._values.move_to_end(value)
                continue
            self._values[value] = forms = list(_forms(value))
            for form in forms:
                self._enter(form)
        while len(self._values) > MAX_VALUES:
            _, forms = self._values.popitem(last=False)
            for form in forms:
                self._leave(form)

    def suspects(self, dumped: bytes) -> bool:
        """Whether serialized JSON may hold one of the values, or an end of a string a part."""
        if not self._values:
            return False
        if self._in(dumped):
            return True
        if self._eights and not self._eights.keys().isdisjoint(_ends(dumped)):
            return True
        if b"\\" not in dumped and b"%" not in dumped:
            return False
        return self._in(fold(dumped.decode("utf-8", "replace")).text.encode("utf-8", "replace"))

    def masked(self, text: str) -> str:
        """The text without them."""
        if not self._values:
            return text
        text = self._without(text, text, lambda span: span)
        if _FOLDS.search(text):
            folded = fold(text)
            text = self._without(text, folded.text, folded.original)
        return text

    def _without(self, text: str, view: str, original: Callable[[Span], Span]) -> str:
        forms = self._candidates(view.encode("utf-8", "replace"))
        spans = sorted(original(span) for form in forms for span in form.spans(view))
        if not spans:
            return text
        pieces, at = [], 0
        for start, end in spans:
            if start >= at:
                pieces += [text[at:start], MASK]
            at = max(at, end)
        return "".join([*pieces, text[at:]])

    def _in(self, data: bytes) -> bool:
        found = self._candidates(data)
        return bool(found) and any(form.bytes_ in data for form in found)

    def _candidates(self, data: bytes) -> Collection[Form]:
        """The writings that may stand in the data: few, in texts without secrets mostly none."""
        found = {id(form): form for form in self._words if form.bytes_ in data}
        for index, size in ((self._eights, 8), (self._fours, 4)):
            if not index or len(data) < size:
                continue
            steps = memoryview(data)[: len(data) // size * size].cast("Q" if size == 8 else "I")
            if index.keys().isdisjoint(steps):
                continue
            for gram in index.keys() & set(steps):
                found.update((id(form), form) for form in index[gram])
        if self._eights and len(data) >= CUT:
            for gram in (_gram(data[-CUT:]), _gram(data[:CUT])):
                for form in self._eights.get(gram, ()):
                    found[id(form)] = form
        return found.values()

    def _enter(self, form: Form) -> None:
        if form.word:
            self._words.append(form)
        for index, gram in self._places(form):
            index.setdefault(gram, []).append(form)

    def _leave(self, form: Form) -> None:
        if form.word:
            self._words.remove(form)
        for index, gram in self._places(form):
            index[gram].remove(form)
            if not index[gram]:
                del index[gram]

    def _places(self, form: Form) -> Iterator[tuple[dict[int, list[Form]], int]]:
        data = form.bytes_
        if form.word:
            return
        starts = set(range(min(8, len(data) - 7))) if len(data) >= _LONG or form.cut else set()
        if form.cut:
            starts |= set(range(max(0, len(data) - _LONG), len(data) - 7))
        for gram in {_gram(data[at : at + 8]) for at in starts}:
            yield self._eights, gram
        if len(data) < _LONG:
            for gram in {_gram(data[at : at + 4]) for at in range(4)}:
                yield self._fours, gram


def _gram(data: bytes) -> int:
    return int.from_bytes(data, _ORDER)


_ORDER = sys.byteorder


def _ends(dumped: bytes) -> memoryview[int]:
    pieces = [each for each in set(dumped.split(b'"')) if len(each) >= CUT]
    return memoryview(b"".join([each[-CUT:] + each[:CUT] for each in pieces])).cast("Q")


def _forms(value: str) -> Iterator[Form]:
    """The writings of one value, each once."""
    raw = value.encode("utf-8")
    word = len(value) < WORD
    plain = {value, fold(value).text, value.replace(" ", "+")}
    if not value.isascii():
        plain |= {quote(value, safe=""), fold(quote(value, safe="")).text}
    for text in plain:
        if len(text) >= SHORTEST:
            cut = len(text) > CUT and not _NO_CUT.match(text)
            yield _form(text, word=len(text) < WORD, cut=cut)
    if word:
        whole = base64.b64encode(raw).decode("ascii")
        for text in {whole, whole.rstrip("="), raw.hex(), raw.hex().upper()} - plain:
            yield _form(text, word=True)
    elif len(raw) <= _ENCODED_UP_TO:
        yield from _encoded(raw)


def _encoded(raw: bytes) -> Iterator[Form]:
    inner = set(_inside_base64(raw))
    for text in inner | {text.translate(_URL_SAFE) for text in inner}:
        yield _form(text, around=_BASE64)
    for text in {raw.hex(), raw.hex().upper()}:
        yield _form(text, around=_HEX)


_URL_SAFE = str.maketrans("+/", "-_")


def _form(
    text: str, *, around: re.Pattern[str] | None = None, word: bool = False, cut: bool = False
) -> Form:
    return Form(text=text, around=around, word=word, cut=cut, bytes_=text.encode("utf-8"))


def _inside_base64(raw: bytes) -> Iterator[str]:
    """What the bytes look like inside of base64, wherever they begin in a group of three."""
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + raw).decode("ascii")
        yield encoded[-(-before * 8 // 6) : (before + len(raw)) * 8 // 6]


def _parts(secret: str) -> Iterator[str]:
    """Secrets within a secret: the password of a URL, values of a connection string, lines."""
    for match in _USERINFO.finditer(secret[:_ENCODED_UP_TO]):
        user, password = match[1], match[2]
        yield from (password, unquote(password))
        yield f"{user}:{password}"
    for name, value in _PAIR.findall(secret[:_ENCODED_UP_TO]):
        if names_secret(name):
            yield value
    if "\n" in secret or "\\n" in secret:
        lines = secret.replace("\\n", "\n").split("\n")
        yield from (
            line.strip() for line in lines if len(line.strip()) >= _LINE and "--" not in line
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Folded:
    """A text as it reads without escapes and wraps, and the way back to where things stood."""

    text: str
    new: list[int]
    old: list[int]

    def original(self, span: Span) -> Span:
        """Where a span of the folded text stands in the original."""
        return self._place(span[0]), self._place(span[1])

    def _place(self, at: int) -> int:
        last = bisect_right(self.new, at) - 1
        return self.old[last] + at - self.new[last]


def fold(text: str) -> Folded:
    """Undo escapes of JSON and URLs, and line breaks that part one word."""
    pieces: list[str] = []
    new, old, at, size = [0], [0], 0, 0
    for match in _FOLD.finditer(text):
        meant = _meant(match)
        pieces += [text[at : match.start()], meant]
        size += match.start() - at + len(meant)
        at = match.end()
        new.append(size)
        old.append(at)
    return Folded(text="".join([*pieces, text[at:]]), new=new, old=old)


def _meant(match: re.Match[str]) -> str:
    if match["high"]:
        return chr(
            0x10000 + (int(match["high"], 16) - 0xD800) * 0x400 + int(match["low"], 16) - 0xDC00
        )
    if code := match["u"] or match["hex"]:
        return chr(int(code, 16))
    if match["slash"]:
        return "\\"
    return match["c"] if match["c"] in ('"', "'", "/") else ("\t" if match["c"] == "t" else "")
