"""Quantities as Kubernetes writes them: `512Mi`, `1.5Gi`, `250m`, `2`, `1e3`."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

_QUANTITY: Final = re.compile(
    r"([+-]?)([0-9]{1,20}(?:\.[0-9]{0,9})?|\.[0-9]{1,9})"
    r"(?:([numkMGTPE]|[KMGTPE]i)|[eE]([+-]?[0-9]{1,2}))?"
)
_DECIMAL: Final = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY: Final = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}


def parse_quantity(written: str) -> Decimal | None:
    """The number that a quantity means (bytes, cores), or None where it is none."""
    found = _QUANTITY.fullmatch(written)
    if not found:
        return None
    sign, digits, suffix, exponent = found.groups()
    number = Decimal(digits) * (-1 if sign == "-" else 1)
    if suffix in _BINARY:
        return number * Decimal(1024) ** _BINARY[suffix]
    power = int(exponent) if exponent else _DECIMAL.get(suffix or "", 0)
    return number.scaleb(power)


def positive(written: str) -> Decimal:
    """The same for the operator's bounds; raises `ValueError` where it is not above zero."""
    found = parse_quantity(written)
    if found is None or found <= 0:
        raise ValueError("must be a quantity such as 512Mi, 8Gi, 500m or 4")
    return found
