"""What a searched field may hold: how each kind of value is written as JSON, and what it is compared as.

| kind | as JSON | is compared as |
|---|---|---|
| bool | `true`, `false` | false before true |
| int, float | number | its exact decimal value |
| Decimal | text, as it was given | its exact value: `1.10` equals `1.1` |
| timedelta | number of seconds | the number |
| str, UUID | text | text, by code point |
| datetime | text in UTC of one width: `2024-05-01T07:30:00.000000+00:00` | text, which is time |
| date, time | text of one width: `2024-05-01`, `07:30:00.000000` | text |
| Enum, Literal | their values, all texts or all ints | as these |
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Final
from uuid import UUID

from pydantic import TypeAdapter

from cqrs_fastapi.domain.finding.texts import SearchError, checked_text
from cqrs_fastapi.storage.column_types import utc_text
from cqrs_fastapi.storage.sortable_numbers import number_of

JsonScalar = str | int | float | bool
Comparable = str | Decimal
"""What values of all kinds become before they are compared; truth values become the texts `false` and `true`."""

_MOST_DIGITS = 1_000
_LARGEST_EXPONENT = 999
_LONGEST_DURATION = timedelta(days=36_500)
"""Its seconds are exact as a float, down to the microsecond, and pydantic reads them so."""


class Form(Enum):
    """How a stored value is read. One of another form, as older code may have left it, counts as null."""

    TEXT = "text"
    TRUTH = "truth"
    NUMBER = "number"
    DECIMAL = "decimal"
    """A number, or a text that is one."""


NUMBERS: Final = (Form.NUMBER, Form.DECIMAL)


@dataclass(frozen=True, slots=True)
class Kind:
    """`name` stands in errors; `render` makes JSON of a value, and raises TypeError for one of a wrong type."""

    name: str
    form: Form
    render: Callable[[Any], JsonScalar]
    reads: TypeAdapter[Any] | None = None
    """Reads what pydantic writes as JSON of such a value, where that is not what `render` makes."""


def json_form(kind: Kind, value: object) -> JsonScalar:
    """A value as the state of a root entity holds it. TypeError for a value of another type; SearchError for one that
    cannot be searched: NaN, a moment without a time zone, a text with NUL.
    """
    return kind.render(value)


def comparable(form: Form, value: object) -> Comparable | None:
    """What a JSON value is compared as; None, as of null, if it is not of this form."""
    if isinstance(value, bool):
        return str(value).lower() if form is Form.TRUTH else None
    if isinstance(value, str):
        return value if form is Form.TEXT else number_of(value) if form is Form.DECIMAL else None
    if isinstance(value, int | float) and form in NUMBERS:
        return _number(value)
    return None


def _number(value: float) -> Decimal | None:
    """A float is what it is written as: 0.1 is a tenth."""
    if isinstance(value, int):
        return Decimal(value)
    return Decimal(repr(value)) if math.isfinite(value) else None


def enum_kind(enum: type[Enum]) -> Kind:
    """TypeError unless its values are all texts or all ints."""
    form = _form_of_choices(enum.__name__, [member.value for member in enum])

    def render(value: object) -> JsonScalar:
        return _plain(_required(value, enum, enum.__name__).value)

    return Kind(enum.__name__, form, render)


def literal_kind(choices: tuple[object, ...]) -> Kind:
    """TypeError unless the choices are all texts or all ints."""
    name = f"Literal{list(choices)}"
    form = _form_of_choices(name, list(choices))

    def render(value: object) -> JsonScalar:
        if not isinstance(value, str | int) or value not in choices:
            raise TypeError(f"{value!r} is none of {list(choices)}")
        return _plain(value)

    return Kind(name, form, render)


def _form_of_choices(name: str, values: list[object]) -> Form:
    if values and all(isinstance(value, str) for value in values):
        return Form.TEXT
    if values and all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        return Form.NUMBER
    raise TypeError(f"{name} cannot be compared: its values are neither all texts nor all ints")


def _plain(value: str | int) -> JsonScalar:
    """Of subclasses, such as members of a StrEnum, the text or the number itself."""
    return checked_text(str.__str__(value)) if isinstance(value, str) else _int(value)


def _required(value: object, types: Any, name: str) -> Any:
    if not isinstance(value, types) or (isinstance(value, bool) and types is not bool):
        raise TypeError(f"{value!r} is a {type(value).__name__}, the field holds {name}")
    return value


def _bool(value: object) -> bool:
    return bool(_required(value, bool, "bool"))


def _int(value: object) -> int:
    number = int(_required(value, int, "int"))
    if abs(number) >= 10**_MOST_DIGITS:
        raise SearchError(f"an int has more than {_MOST_DIGITS} digits; numbers so large cannot be searched")
    return number


def _float(value: object) -> float:
    try:
        number = float(_required(value, int | float, "float"))
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise SearchError("NaN and infinities cannot be compared; search for a finite number")
    return number


def _decimal(value: object) -> str:
    number = Decimal(_required(value, Decimal | int, "Decimal"))
    if not number.is_finite():
        raise SearchError("NaN and infinities cannot be compared; search for a finite number")
    if abs(number.adjusted()) > _LARGEST_EXPONENT or len(number.as_tuple().digits) > _MOST_DIGITS:
        raise SearchError(
            f"a Decimal has more than {_MOST_DIGITS} digits; numbers so large or small cannot be searched"
        )
    return str(number)


def _text(value: object) -> str:
    return checked_text(str.__str__(_required(value, str, "str")))


def _uuid(value: object) -> str:
    return str(UUID(int=_required(value, UUID, "UUID").int))


def _moment(value: object) -> str:
    moment: datetime = _required(value, datetime, "datetime")
    if moment.utcoffset() is None:
        raise SearchError(f"{moment!r} has no time zone; write datetime.now(UTC) or value.replace(tzinfo=UTC)")
    try:
        return utc_text(moment)
    except OverflowError:
        raise SearchError(f"{moment.isoformat()} lies in UTC outside of the years 1 to 9999") from None


def _date(value: object) -> str:
    if isinstance(value, datetime):
        raise TypeError(f"{value!r} is a datetime, the field holds date; write value.date()")
    day: date = _required(value, date, "date")
    return day.isoformat()


def _time(value: object) -> str:
    moment: time = _required(value, time, "time")
    if moment.tzinfo is not None:
        raise SearchError("a time of day with a time zone cannot be compared; search for a datetime, or without a zone")
    return moment.isoformat(timespec="microseconds")


def _duration(value: object) -> float:
    duration: timedelta = _required(value, timedelta, "timedelta")
    if abs(duration) > _LONGEST_DURATION:
        raise SearchError(f"a timedelta is longer than {_LONGEST_DURATION.days} days, which cannot be searched exactly")
    return duration.total_seconds()


BOOL = Kind("bool", Form.TRUTH, _bool)
INT = Kind("int", Form.NUMBER, _int)
FLOAT = Kind("float", Form.NUMBER, _float)
DECIMAL = Kind("Decimal", Form.DECIMAL, _decimal)
TEXT = Kind("str", Form.TEXT, _text)
IDENTITY = Kind("UUID", Form.TEXT, _uuid)
MOMENT = Kind("datetime", Form.TEXT, _moment, TypeAdapter(datetime))
DATE = Kind("date", Form.TEXT, _date)
TIME = Kind("time", Form.TEXT, _time, TypeAdapter(time))
DURATION = Kind("timedelta", Form.NUMBER, _duration, TypeAdapter(timedelta))

_BY_TYPE: tuple[tuple[type, Kind], ...] = (
    (bool, BOOL),
    (int, INT),
    (float, FLOAT),
    (str, TEXT),
    (Decimal, DECIMAL),
    (datetime, MOMENT),  # before date, of which it is a subclass
    (date, DATE),
    (time, TIME),
    (timedelta, DURATION),
    (UUID, IDENTITY),
)


def kind_of_class(cls: type) -> Kind | None:
    """The kind of a class of values; None if they cannot be compared."""
    if issubclass(cls, Enum):
        return enum_kind(cls)
    return next((kind for known, kind in _BY_TYPE if issubclass(cls, known)), None)
