import json
import math
import string
import time
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any, Literal
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, field_validator

from cqrs_fastapi.errors import MalformedMessageError
from cqrs_fastapi.messages.events import Event
from cqrs_fastapi.messages.forms import event
from cqrs_fastapi.messages.json_codec import MAX_DEPTH, JsonCodec, codec_for, parse_json, render_json


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Line(BaseModel):
    text: str
    price: Decimal
    weight: float = 0.0


class ModelEvent(Event):
    id: UUID
    text: str
    amount: Decimal
    at: datetime
    day: date
    lines: tuple[Line, ...] = ()
    counts: dict[str, int] = Field(default_factory=dict)
    ratio: float = 0.0
    colour: Colour = Colour.RED
    extra: Any = None


@event()
@dataclass(frozen=True)
class DataclassEvent:
    id: UUID
    text: str
    amount: Decimal
    at: datetime
    day: date
    counts: dict[str, int]
    ratio: float = 0.0


@event()
class StructEvent(msgspec.Struct, frozen=True):
    id: UUID
    text: str
    amount: Decimal
    at: datetime
    day: date
    counts: dict[str, int]
    ratio: float = 0.0
    colour: Colour = Colour.RED


FORMS: list[type] = [ModelEvent, DataclassEvent, StructEvent]
CODECS: dict[type, JsonCodec] = {form: codec_for(form) for form in FORMS}

WHOLE: dict[str, Any] = {
    "id": UUID(int=1),
    "text": "",
    "amount": Decimal(1),
    "at": datetime(2026, 1, 2, tzinfo=UTC),
    "day": date(2026, 1, 2),
    "counts": {},
}

each_form = pytest.mark.parametrize("form", FORMS)
zones = st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
EARLIEST, LATEST = datetime.fromisoformat("0001-01-03"), datetime.fromisoformat("9999-12-29")
fields = st.fixed_dictionaries(
    {
        "id": st.uuids(),
        "text": st.text(st.characters(codec="utf-8")),
        "amount": st.decimals(allow_nan=False, allow_infinity=False, places=4),
        "at": st.datetimes(EARLIEST, LATEST, timezones=zones | st.just(UTC)),
        "day": st.dates(),
        "counts": st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=5), st.integers(-(2**63), 2**63 - 1)),
        "ratio": st.floats(allow_nan=False, allow_infinity=False),
    }
)
lines = st.lists(
    st.builds(Line, text=st.text(string.printable), price=st.decimals(allow_nan=False, allow_infinity=False, places=2)),
    max_size=3,
)


def body(**changes: Any) -> bytes:
    values = {
        "id": "0190163d-8694-739b-aea5-966c26f8ad91",
        "text": "t",
        "amount": "1.5",
        "at": "2026-01-02T03:04:05Z",
        "day": "2026-01-02",
        "counts": {},
        **changes,
    }
    return json.dumps(values).encode()


@given(fields, lines)
def test_a_model_comes_back_as_it_went(values: dict[str, Any], nested: list[Line]) -> None:
    message = ModelEvent(**values, lines=tuple(nested), extra=[{"deep": ["ü", None, True]}])
    back = CODECS[ModelEvent].decode(CODECS[ModelEvent].encode(message))
    assert back == message
    assert back.at.utcoffset() == message.at.utcoffset()


@given(fields)
def test_a_dataclass_comes_back_as_it_went(values: dict[str, Any]) -> None:
    message = DataclassEvent(**values)
    assert CODECS[DataclassEvent].decode(CODECS[DataclassEvent].encode(message)) == message


@given(fields)
def test_a_struct_comes_back_as_it_went(values: dict[str, Any]) -> None:
    message = StructEvent(**values)
    assert CODECS[StructEvent].decode(CODECS[StructEvent].encode(message)) == message


@given(st.binary(max_size=200) | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_no_bytes_bring_another_error_than_malformed(data: bytes) -> None:
    for form in FORMS:
        with pytest.raises(MalformedMessageError):
            CODECS[form].decode(data)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_no_json_brings_another_error_than_malformed(value: Any) -> None:
    data = json.dumps({"text": value, "at": value, "id": value, "amount": value, "counts": value}).encode()
    for form in FORMS:
        with pytest.raises(MalformedMessageError):
            CODECS[form].decode(data)


@each_form
@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("field", ["amount", "counts", "extra", "unknown", "ratio"])
def test_nan_and_infinity_are_no_json_in_any_field(form: type, constant: str, field: str) -> None:
    data = body(**{field: "@"}).replace(b'"@"', constant.encode())
    with pytest.raises(MalformedMessageError):
        CODECS[form].decode(data)


@each_form
@pytest.mark.parametrize("constant", ["NaN", "Infinity"])
def test_the_words_nan_and_infinity_are_ordinary_text(form: type, constant: str) -> None:
    assert CODECS[form].decode(body(text=f'"{constant}" \\')).text == f'"{constant}" \\'


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_float_of_an_event_that_is_not_finite_is_stored_as_text_and_read_again(value: float) -> None:
    codec, message = CODECS[ModelEvent], ModelEvent(**WHOLE, ratio=value)
    data = codec.encode(message)
    json.loads(data, parse_constant=pytest.fail)
    assert codec.decode(data).ratio == pytest.approx(value, nan_ok=True)


def test_what_could_not_be_read_again_is_never_written() -> None:
    unreadable = [
        StructEvent(**WHOLE, ratio=math.nan),
        DataclassEvent(**WHOLE, ratio=math.inf),
        StructEvent(**{**WHOLE, "text": 1}),
        DataclassEvent(**{**WHOLE, "amount": "much"}),
        DataclassEvent(**{**WHOLE, "text": "\ud800"}),
        StructEvent(**{**WHOLE, "text": "\ud800"}),
        ModelEvent(**WHOLE, lines=(Line(text="", price=Decimal(1), weight=math.nan),)),
        ModelEvent(**WHOLE, extra="\ud800"),
        ModelEvent(**WHOLE, extra=nested(MAX_DEPTH)),
    ]
    for message in unreadable:
        with pytest.raises(MalformedMessageError):
            CODECS[type(message)].encode(message)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@each_form
@pytest.mark.parametrize("text", [b'"\\ud800"', b'"\\udfff\\ud800"', b'"\xed\xa0\x80"', b'"\xff"'])
def test_text_that_is_no_unicode_is_malformed(form: type, text: bytes) -> None:
    with pytest.raises(MalformedMessageError):
        CODECS[form].decode(body(text="@").replace(b'"@"', text))


@each_form
@pytest.mark.parametrize("bracket", [b"[", b'{"a":'])
@pytest.mark.parametrize("prefix", [b"", b'{"text":', b'{"unknown":', b'{"text":"\\"[[{{\\\\","counts":'])
def test_a_bomb_of_brackets_is_malformed(form: type, bracket: bytes, prefix: bytes) -> None:
    with pytest.raises(MalformedMessageError, match="nested deeper than 64"):
        CODECS[form].decode(prefix + bracket * 100_000)


@each_form
def test_brackets_inside_of_text_nest_nothing(form: type) -> None:
    text = '[{"' * 1000 + "\\" + '"' + "[" * 1000
    assert CODECS[form].decode(body(text=text)).text == text


def test_nesting_up_to_the_limit_is_read() -> None:
    data = body(extra="@").replace(b'"@"', b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1))
    assert CODECS[ModelEvent].decode(data).extra is not None
    with pytest.raises(MalformedMessageError):
        CODECS[ModelEvent].decode(data.replace(b"[]", b"[[]]"))


@each_form
@pytest.mark.parametrize("unit", [b'\\"', b'"', b"\\", b'"\\"['])
def test_hostile_quotes_take_time_in_proportion_to_their_number(form: type, unit: bytes) -> None:
    data = b"[" * 70 + b'"' + unit * 200_000
    started = time.process_time()
    with pytest.raises(MalformedMessageError):
        CODECS[form].decode(data)
    assert time.process_time() - started < 20  # a scan that goes back takes hours


@each_form
@pytest.mark.parametrize(
    "number", [b"9" * 5000, b"-" + b"9" * 5000, b"1e400", b"1e999999999", b"0x10", b"01", b"1_000"]
)
def test_absurd_numbers_are_malformed_where_a_whole_number_is_wanted(form: type, number: bytes) -> None:
    with pytest.raises(MalformedMessageError):
        CODECS[form].decode(body(counts={"a": "@"}).replace(b'"@"', number))


@each_form
def test_of_a_key_that_comes_twice_the_last_one_counts(form: type) -> None:
    assert CODECS[form].decode(body()[:-1] + b',"text":"second"}').text == "second"
    with pytest.raises(MalformedMessageError):
        CODECS[form].decode(body()[:-1] + b',"text":2}')


class Card(Event):
    number: str = Field(max_length=4)
    kind: Literal["visa"] = "visa"
    owner: UUID | None = None
    limits: dict[str, int] = Field(default_factory=dict)
    pin: int = 0

    @field_validator("pin")
    @classmethod
    def short(cls, pin: int) -> int:
        if pin > 9999:
            raise ValueError(f"{pin} is too long")
        return pin


@pytest.mark.parametrize(
    "change",
    [
        {"number": "4111-secret"},
        {"kind": "secret"},
        {"owner": "secret"},
        {"limits": {"secret": "secret"}},
        {"pin": 4111_1111},
        {"pin": "secret"},
    ],
)
def test_an_error_never_repeats_what_was_in_the_message(change: dict[str, Any]) -> None:
    codec = codec_for(Card)
    with pytest.raises(MalformedMessageError) as caught:
        codec.decode(json.dumps({"number": "1", **change}).encode())
    told = str(caught.value)
    assert next(iter(change)) in told
    assert "secret" not in told
    assert "4111" not in told
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("change", [{"colour": "secret"}, {"amount": "secret"}, {"counts": {"secret": "secret"}}])
def test_an_error_about_a_struct_does_not_repeat_it_either(change: dict[str, Any]) -> None:
    with pytest.raises(MalformedMessageError) as caught:
        CODECS[StructEvent].decode(body(**change))
    assert next(iter(change)) in str(caught.value)
    assert "secret" not in str(caught.value)


def test_at_most_three_faults_are_told() -> None:
    with pytest.raises(MalformedMessageError) as caught:
        CODECS[ModelEvent].decode(b"{}")
    assert str(caught.value) == "ModelEvent: id: Field required; text: Field required; amount: Field required"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.text(st.characters(codec="utf-8")), st.lists
    )
)
def test_plain_json_comes_back_as_it_went(value: Any) -> None:
    assert parse_json(render_json(value)) == value


@pytest.mark.parametrize("text", ["NaN", "[" * 100_000, '"\\ud800"', "\ud800", b"\xff", "", b"9" * 5000])
def test_bad_plain_json_is_malformed(text: str | bytes) -> None:
    with pytest.raises(MalformedMessageError, match="not JSON"):
        parse_json(text)
