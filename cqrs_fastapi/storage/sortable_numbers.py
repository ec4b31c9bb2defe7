"""Numbers that are compared alike everywhere: exactly, by their decimal value, whatever their size or notation.

PostgreSQL and Python compare them as they are. SQLite would round what does not fit 64 bits, so that there each number
becomes a text whose order is that of the numbers.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

FUNCTION = "cqrs_number"
"""What SQLite's connections know `sortable_json` as."""

LONGEST = 2_000
"""Characters of a number; what is longer is none."""
NUMBER = r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?"
"""The notations of JSON and of Decimal, with an exponent that each database can take; Python and PostgreSQL read it."""

_NUMBER = re.compile(NUMBER, re.ASCII)
_NINES_COMPLEMENT = str.maketrans("0123456789", "9876543210")
_EXPONENT_OF_ZERO = 5_000
_AFTER_ALL_DIGITS = "~"


def number_of(text: str) -> Decimal | None:
    """The number that a text is, or None."""
    return Decimal(text) if len(text) <= LONGEST and _NUMBER.fullmatch(text) else None


def sortable(number: Decimal) -> str:
    """A text: one number is less than another exactly if its text is, by code points; equal numbers have one text."""
    if not number:
        return "1"
    digits = "".join(map(str, number.as_tuple().digits)).rstrip("0")
    magnitude = f"{number.adjusted() + _EXPONENT_OF_ZERO:04d}{digits}"
    if number > 0:
        return f"2{magnitude}"
    return f"0{magnitude.translate(_NINES_COMPLEMENT)}{_AFTER_ALL_DIGITS}"


def sortable_json(value: Any) -> str | None:
    """The sortable text of a JSON number, or of a JSON string that is one; None of all else."""
    number = number_of(value.strip('"')) if isinstance(value, str) else None
    return None if number is None else sortable(number)
