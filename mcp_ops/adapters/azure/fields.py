"""What Azure's answers hold: JSON as it may come, and times."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

from mcp_ops.clock import rfc3339
from mcp_ops.wire.answers import Obj, dig, flag, mapping, number, objects, text

__all__ = ["Obj", "dig", "flag", "mapping", "moment", "number", "objects", "seconds", "text"]

# Kudu and Resource Manager write up to seven digits; some times have no zone and are UTC.
_MOMENT: Final = re.compile(
    r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)?"
)


def seconds(written: str) -> float | None:
    """Unix seconds of a time as Azure writes it, or None where it is none."""
    found = _MOMENT.match(written[:40])
    if found is None:
        return None
    date, clock, fraction, zone = found.groups()
    try:
        moment = datetime.fromisoformat(f"{date}T{clock}.{(fraction or '0')[:6]:0<6}{zone or 'Z'}")
        return moment.astimezone(UTC).timestamp()
    except (ValueError, OverflowError):
        return None


def moment(written: str) -> str | None:
    """The same time as the results write it, or None."""
    at = seconds(written)
    return None if at is None else rfc3339(at)
