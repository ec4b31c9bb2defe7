"""Root entities with personal fields: their events, their rows, and what searches may name."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

import pytest
from customers import rows_of
from members import Expel, Find, Guest, Home, Invite, Move, Tell, WriteTo, build, everything, opened
from sqlalchemy import update

from cqrs_fastapi import (
    CQRS,
    Entity,
    EntitySet,
    Personal,
    PersonalData,
    RootEntity,
    Tracked,
    ValueObject,
    ValueObjectSet,
    is_forgotten,
    tracked,
)
from cqrs_fastapi.errors import MessageError
from cqrs_fastapi.personal_data.key_ring import SubjectForgottenError

pytestmark = pytest.mark.anyio

SECRETS = ("ada@example.org", "Crescent", "1804289383")


async def invite(cqrs: CQRS, city: str = "London", email: str = SECRETS[0], street: str | None = "Crescent") -> UUID:
    return await cqrs.mediator.send(Invite(city=city, email=email, street=street))


async def find(cqrs: CQRS, city: str) -> list[str]:
    return await cqrs.mediator.send(Find(city=city))


async def history(cqrs: CQRS, guest: UUID) -> list[Any]:
    return await cqrs.mediator.send(Tell(stream=f"Guest-{guest}"))


async def drop_rows(cqrs: CQRS) -> None:
    """Then a guest is folded from its events."""
    rows = cqrs.database.tables.root_states
    await cqrs.database.write(lambda connection: connection.execute(rows.delete()).rowcount)


async def test_personal_fields_are_encrypted_in_events_and_rows(database_url: str) -> None:
    async with opened(database_url) as cqrs:
        guest = await invite(cqrs)
        await cqrs.mediator.send(WriteTo(id=guest, email="lovelace@example.org"))
        stored = await everything(cqrs)
        assert not [one for one in (*SECRETS, "lovelace@example.org") if one in stored]
        assert "London" in stored
        created, changed = await history(cqrs, guest)
        assert (created.fields.city, created.fields.email, created.fields.height) == ("London", SECRETS[0], 1804289383)
        assert created.fields.home == Home(street="Crescent")
        assert changed.value == "lovelace@example.org"
        assert not is_forgotten(created, "email")


async def test_personal_fields_come_back_by_every_way_to_a_root(database_url: str) -> None:
    async with opened(database_url) as cqrs:
        emails = sorted(f"{number}@example.org" for number in range(3))
        for email in emails:
            await invite(cqrs, email=email)
        # Nobody can fold them any more: the rows alone tell.
        broken = update(cqrs.database.tables.events).values(data="{}")
        await cqrs.database.write(lambda connection: connection.execute(broken).rowcount)
        assert sorted(await find(cqrs, "London")) == emails
    async with build(database_url).running(workers=()) as again:  # it has unwrapped no key yet
        assert sorted(await find(again, "London")) == emails


async def test_a_root_is_the_same_whether_it_is_read_or_folded(database_url: str) -> None:
    async with opened(database_url) as cqrs:
        guest = await invite(cqrs)
        await cqrs.mediator.send(WriteTo(id=guest, email="lovelace@example.org"))
        await drop_rows(cqrs)
        await cqrs.mediator.send(Move(id=guest, city="Paris"))
        assert await find(cqrs, "Paris") == ["lovelace@example.org"]


async def test_a_forgotten_root_goes_on_with_placeholders(database_url: str) -> None:
    async with opened(database_url) as cqrs:
        ada, byron = await invite(cqrs), await invite(cqrs, email="byron@example.org")
        await cqrs.personal_data.forget(ada)
        assert sorted(await find(cqrs, "London")) == ["(forgotten)", "byron@example.org"]
        for one in (ada, byron):
            await cqrs.mediator.send(Move(id=one, city="Paris"))
        assert sorted(await find(cqrs, "Paris")) == ["(forgotten)", "byron@example.org"]
        created, _ = await history(cqrs, ada)
        assert (created.fields.city, created.fields.email, created.fields.height) == ("London", "(forgotten)", -1)
        assert created.fields.home is None
        assert is_forgotten(created, "email")
        with pytest.raises(SubjectForgottenError):
            await cqrs.mediator.send(WriteTo(id=ada, email="ada@example.org"))
        await drop_rows(cqrs)
        await cqrs.mediator.send(Move(id=ada, city="Rome"))
        assert await find(cqrs, "Rome") == ["(forgotten)"]
        await cqrs.mediator.send(Expel(id=ada))
        assert await find(cqrs, "Rome") == []
        assert (await history(cqrs, ada))[-1].id == ada


@pytest.mark.parametrize("where", ["here", "in another process"])
async def test_what_was_loaded_before_a_forgetting_is_in_no_row_after_it(database_url: str, where: str) -> None:
    async with opened(database_url) as cqrs:
        ada = await invite(cqrs)
        async with build(database_url).running(workers=()) as other:
            forgets = cqrs if where == "here" else other

            async def forget() -> None:
                await forgets.personal_data.forget(ada)

            await cqrs.mediator.send(Move(id=ada, city="Paris", meanwhile=forget))
        assert not [one for one in SECRETS if one in await everything(cqrs)]
    async with build(database_url).running(workers=()) as again:
        assert await find(again, "Paris") == ["(forgotten)"]


async def test_a_value_that_was_moved_to_another_row_cannot_be_read(database_url: str) -> None:
    async with opened(database_url) as cqrs:
        rows = cqrs.database.tables.root_states
        ada, byron = await invite(cqrs), await invite(cqrs, email="byron@example.org")
        states = {row["id"]: row["state"] for row in await rows_of(cqrs, rows)}
        moved = {**states[byron], "email": states[ada]["email"]}
        statement = update(rows).where(rows.c.id == byron).values(state=moved)
        await cqrs.database.write(lambda connection: connection.execute(statement).rowcount)
        with pytest.raises(MessageError, match="holds an encrypted value of another place"):
            await find(cqrs, "London")


@pytest.mark.parametrize(
    "search",
    [
        lambda: Guest.email == SECRETS[0],
        lambda: Guest.email.like("ada%"),
        lambda: Guest.email.is_in([SECRETS[0]]),
        lambda: Guest.height > 1,
        Guest.email.ascending,
        Guest.email.descending,
        lambda: Guest.home.street == "Crescent",
        Guest.home.rooms.ascending,
        lambda: Guest.home == None,  # noqa: E711  # it is a search
    ],
)
def test_a_search_that_names_a_personal_field_is_an_error_when_it_is_made(search: Any) -> None:
    with pytest.raises(TypeError, match="cannot be searched: it is personal"):
        search()


class Contact(Entity):
    email: Personal[str]


class Tag(ValueObject):
    text: str


def _wrong_set() -> None:
    class Wrong(RootEntity):
        contacts: Tracked[EntitySet[Contact]]


def _wrong_whole_set() -> None:
    class Wrong(RootEntity):
        tags: Tracked[Personal[ValueObjectSet[Tag]]]


def _wrong_inside() -> None:
    class Wrong(RootEntity):
        contact: Tracked[Contact]


def _wrong_list() -> None:
    class Wrong(RootEntity):
        contacts: Tracked[list[Contact]]


def _wrong_subject() -> None:
    class Wrong(RootEntity):
        guardian: Tracked[UUID]
        email: Tracked[Annotated[str, PersonalData(subject="guardian")]]


def _wrong_placeholder() -> None:
    class Wrong(RootEntity):
        height: Tracked[Personal[int]] = tracked(default=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_wrong_set, r"Wrong.contacts is a set with personal data.*write contacts: Tracked\[Annotated\[list"),
        (_wrong_whole_set, "Wrong.tags is a set with personal data"),
        (_wrong_inside, r"Wrong.contact is not personal as a whole.*mark the whole field"),
        (_wrong_list, "Wrong.contacts is not personal as a whole"),
        (_wrong_subject, "Wrong.email has the subject 'guardian'; what is personal in a Wrong is about the one"),
        (_wrong_placeholder, "Wrong.height has nothing to read as once its subject is forgotten"),
    ],
)
def test_what_would_be_stored_in_clear_is_refused_with_the_class(make: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        make()
