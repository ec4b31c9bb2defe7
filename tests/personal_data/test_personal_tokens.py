"""A token opens with its key, in its place, and in no other way; so do whole states."""

from dataclasses import replace
from uuid import UUID, uuid4

import pytest

from cqrs_fastapi.personal_data.cipher import WrongKeyError, new_key
from cqrs_fastapi.personal_data.states import open_state, place_of_state, seal_state
from cqrs_fastapi.personal_data.tokens import PREFIX, Place, Token, seal

KEY_ID, KEY = uuid4(), new_key()
PLACE = Place("north", "Customer-1", "customer.registered", 2)
VALUE = {"street": "St James's Square", "lines": [1, 2.5, None, "\u2028\U0001f600"]}


def token(text: str) -> Token:
    found = Token.parse(text)
    assert found is not None
    return found


def sealed(value: object = VALUE) -> str:
    return seal(value, KEY_ID, KEY, PLACE, field="address", placeholder="null")


def test_a_value_comes_back_as_it_was() -> None:
    for value in (VALUE, "text", "", 0, -1, 3.25, [], {}, True, 10**30, PREFIX):
        assert token(sealed(value)).open(KEY, PLACE, "address") == value


def test_a_token_names_its_key_and_its_placeholder_and_nothing_of_the_value() -> None:
    text = sealed()
    assert token(text).key_id == KEY_ID
    assert token(text).forgotten() is None
    assert "James" not in text


def test_one_value_is_never_encrypted_alike_twice() -> None:
    assert len({sealed() for _ in range(1000)}) == 1000


@pytest.mark.parametrize(
    "elsewhere",
    [
        replace(PLACE, tenant="south"),
        replace(PLACE, stream="Customer-2"),
        replace(PLACE, type="customer.renamed"),
        replace(PLACE, version=3),
    ],
    ids=str,
)
def test_a_token_does_not_open_in_another_place(elsewhere: Place) -> None:
    with pytest.raises(WrongKeyError):
        token(sealed()).open(KEY, elsewhere, "address")


def test_a_token_does_not_open_in_another_field() -> None:
    with pytest.raises(WrongKeyError):
        token(sealed()).open(KEY, PLACE, "email")


def test_a_token_does_not_open_with_another_key() -> None:
    with pytest.raises(WrongKeyError):
        token(sealed()).open(new_key(), PLACE, "address")


def test_a_token_whose_key_id_or_placeholder_was_changed_does_not_open() -> None:
    right = token(sealed())
    for wrong in (replace(right, key_id=uuid4()), replace(right, placeholder='"x"')):
        with pytest.raises(WrongKeyError):
            wrong.open(KEY, PLACE, "address")


def test_no_byte_of_a_token_can_be_changed() -> None:
    right = token(sealed())
    for number in range(len(right.sealed)):
        changed = bytearray(right.sealed)
        changed[number] ^= 1
        with pytest.raises(WrongKeyError):
            replace(right, sealed=bytes(changed)).open(KEY, PLACE, "address")


@pytest.mark.parametrize(
    "text",
    ["", PREFIX, "cqrs:personal:2:AAAA:null", f"{PREFIX}AAAA", f"{PREFIX}AAAA:null", f"{PREFIX}!:null", "x" + sealed()],
)
def test_what_is_no_token_is_not_taken_for_one(text: str) -> None:
    assert Token.parse(text) is None


def test_a_token_without_a_readable_placeholder_is_none() -> None:
    assert Token.parse(sealed().removesuffix("null") + "nul") is None


KEYS = {uuid4(): new_key(), uuid4(): new_key()}
STATE = b'{"name":"Ada"}'
AT = Place("", "Account-1", "fingerprint", 7)


def test_a_state_opens_with_all_keys_in_whatever_order() -> None:
    found = seal_state(STATE, KEYS, AT)
    assert b"Ada" not in found
    assert open_state(found, dict(reversed(KEYS.items())), AT) == STATE


def test_a_state_does_not_open_without_one_of_the_keys() -> None:
    found = seal_state(STATE, KEYS, AT)
    less: list[dict[UUID, bytes]] = [{one: KEYS[one]} for one in KEYS]
    for keys in ({}, *less, {**KEYS, uuid4(): new_key()}, {one: new_key() for one in KEYS}):
        with pytest.raises(WrongKeyError):
            open_state(found, keys, AT)


def test_a_state_does_not_open_elsewhere() -> None:
    found = seal_state(STATE, KEYS, AT)
    for place in (
        replace(AT, tenant="x"),
        replace(AT, stream="Account-2"),
        replace(AT, type="other"),
        replace(AT, version=8),
    ):
        with pytest.raises(WrongKeyError):
            open_state(found, KEYS, place)


def test_what_was_not_sealed_is_not_opened() -> None:
    for found in (b"", STATE, seal_state(STATE, KEYS, AT)[:40]):
        with pytest.raises(WrongKeyError):
            open_state(found, KEYS, AT)


def test_a_state_of_nobody_is_not_sealed() -> None:
    with pytest.raises(ValueError, match="there are none"):
        seal_state(STATE, {}, AT)


def test_a_field_of_a_state_and_one_of_an_event_are_different_places() -> None:
    product = uuid4()
    text = seal("x", KEY_ID, KEY, place_of_state("", "Product", product), field="name", placeholder="null")
    with pytest.raises(WrongKeyError):
        token(text).open(KEY, Place("", f"Product-{product}", "ProductCreated", 1), "name")
