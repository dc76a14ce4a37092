"""Cursors: where a list goes on, stable while items come and go, opaque to who carries them."""

from __future__ import annotations

import base64
import binascii
import re

import orjson

from mcp_ops.adapters.redis.items import Parsed
from mcp_ops.errors import InvalidInput

Place = tuple[str, str, str]
START: Place = ("", "", "")

_MEMBER = re.compile(r"m[0-9a-f]{40}|i[A-Za-z0-9_.:@-]{1,64}")
_NUMBER = re.compile(r"-?\d{1,20}(?:\.\d{1,20})?(?:e[+-]?\d{1,4})?|-?inf")
_INDEX = re.compile(r"\d{0,20}")
_ENTRY = re.compile(r"\d{1,20}-\d{1,20}")
_FIRST = {"zset": _NUMBER, "list": _INDEX, "hash": _INDEX, "stream": _ENTRY}


def after(parsed: Parsed) -> Place:
    """The place of a member, for reading on behind it: by its id, which a retry does not change."""
    member = parsed.member
    own = f"m{member.mark}" if parsed.data is None else f"i{parsed.item.id}"
    return member.place[0], member.place[1], own


def make_cursor(direction: str, kind: str, place: Place) -> str:
    """A place as a string for the caller."""
    return base64.urlsafe_b64encode(orjson.dumps([direction, kind, *place])).decode("ascii")


def read_cursor(cursor: str, direction: str, kind: str) -> Place:
    """A place again; raises `InvalidInput` for anything that this list did not give out."""
    if not cursor:
        return START
    try:
        made_for, made_of, first, second, last = orjson.loads(base64.urlsafe_b64decode(cursor))
        sound = (
            (made_for, made_of) == (direction, kind)
            and _FIRST[kind].fullmatch(first)
            and _INDEX.fullmatch(second)
            and _MEMBER.fullmatch(last)
        )
    except (ValueError, TypeError, binascii.Error):
        sound = None
    if not sound:
        raise InvalidInput("cursor: not a next_cursor or checkpoint of this list.")
    return first, second, last
