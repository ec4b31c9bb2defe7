"""What is found is the same on SQLite, on PostgreSQL and in memory, whatever is looked for."""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import time, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

import pytest
from catalogue import (
    ALPHABET,
    CATEGORY,
    CONDITIONS,
    NOW,
    ROWS,
    TENANT,
    ZONES,
    Address,
    Product,
    field,
    ids,
    opened,
    orderings,
    rendered,
)
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, MetaData, event
from sqlalchemy.engine.interfaces import CacheStats

from cqrs_fastapi.domain.finding.conditions import MOST_COMPARISONS, Condition
from cqrs_fastapi.domain.finding.places import RootState
from cqrs_fastapi.domain.finding.search import Search, find_in, find_states, merge, next_cursor, statement
from cqrs_fastapi.domain.finding.spelling import spelling_of
from cqrs_fastapi.domain.finding.states import mark_deleted, read_states, write_states
from cqrs_fastapi.errors import ConfigurationError
from cqrs_fastapi.storage.database import Database
from cqrs_fastapi.storage.tables import build_tables

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
LATER = NOW + timedelta(days=1)
few = settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=60)
fewer = settings(few, max_examples=40)


async def write(
    database: Database, states: Sequence[RootState], tenant: str = TENANT, category: str = CATEGORY
) -> None:
    await database.write(partial(write_states, tables=database.tables, tenant=tenant, category=category, states=states))


async def found(database: Database, search: Search) -> list[RootState]:
    return await database.read(partial(find_states, tables=database.tables, search=search))


async def read(database: Database, *wanted: UUID) -> dict[UUID, RootState]:
    work = partial(read_states, tables=database.tables, tenant=TENANT, category=CATEGORY, ids=wanted)
    return await database.read(work)


@dataclass(frozen=True, slots=True)
class Shop:
    """The same rows in both databases, and in memory."""

    run: Callable[[Coroutine[Any, Any, T]], T]
    databases: tuple[Database, ...]
    rows: dict[UUID, RootState]

    def found(self, search: Search) -> list[list[UUID]]:
        return [ids(self.run(found(database, search))) for database in self.databases]


@functools.lru_cache(maxsize=1)
def random_rows() -> dict[UUID, RootState]:
    rows: list[RootState] = []

    @settings(
        max_examples=6,
        database=None,
        derandomize=True,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(st.lists(ROWS, min_size=40, max_size=60))
    def collect(some: list[RootState]) -> None:
        rows.extend(some)

    collect()
    return {row.id: row for row in rows}


@pytest.fixture
def shop(sqlite_url: str, postgres_url: str) -> Iterator[Shop]:
    with asyncio.Runner() as runner:
        databases = tuple(runner.run(opened(url)) for url in (sqlite_url, postgres_url))
        rows = random_rows()
        for database in databases:
            runner.run(write(database, list(rows.values())))
        yield Shop(runner.run, databases, rows)
        for database in databases:
            runner.run(database.close())


def test_whatever_is_looked_for_is_the_same_everywhere(shop: Shop) -> None:
    assert len(shop.rows) > 150

    @few
    @given(CONDITIONS, orderings(), st.none() | st.integers(1, 30))
    def check(condition: Condition, ordering: Any, limit: int | None) -> None:
        search = Search(TENANT, CATEGORY, condition, ordering, limit)
        expected = ids(find_in(search, shop.rows.values()))
        assert shop.found(search) == [expected, expected]

    check()


def test_the_pages_together_are_the_whole(shop: Shop) -> None:
    @fewer
    @given(CONDITIONS, orderings(), st.integers(20, 90))
    def check(condition: Condition, ordering: Any, limit: int) -> None:
        first = Search(TENANT, CATEGORY, condition, ordering, limit)
        whole = ids(find_in(replace(first, limit=None), shop.rows.values()))
        for database in shop.databases:
            pages: list[UUID] = []
            search: Search | None = first
            while search is not None:
                page = shop.run(found(database, search))
                pages += ids(page)
                cursor = next_cursor(search, page)
                search = None if cursor is None else replace(search, after=cursor)
            assert pages == whole

    check()


def test_what_the_unit_of_work_holds_takes_the_place_of_what_is_stored(shop: Shop) -> None:
    @fewer
    @given(CONDITIONS, orderings(), st.none() | st.integers(1, 30), st.data())
    def check(condition: Condition, ordering: Any, limit: int | None, data: st.DataObject) -> None:
        known = data.draw(st.lists(st.sampled_from(sorted(shop.rows)), unique=True, max_size=6))
        others = data.draw(st.lists(ROWS, max_size=4, unique_by=lambda row: row.id))
        changed = [row._replace(id=one) for one, row in zip(known, others, strict=False)]
        created = others[len(known) :]
        deleted = [shop.rows[one]._replace(deleted_at=NOW) for one in known[len(others) :]]
        own = [*changed, *created, *deleted]
        now = {**shop.rows, **{state.id: state for state in own}}
        last = data.draw(st.none() | st.sampled_from(sorted(shop.rows)))
        search = Search(TENANT, CATEGORY, condition, ordering, limit, but=frozenset(state.id for state in own))
        if last is not None:
            search = replace(search, after=next_cursor(replace(search, limit=1), [shop.rows[last]]))
        expected = ids(find_in(search, now.values()))
        for database in shop.databases:
            assert ids(merge(search, shop.run(found(database, search)), own)) == expected

    check()


def exactly(value: Any) -> Any:
    """Numbers by their values: `jsonb` gives 1e22 back as an int."""
    if isinstance(value, dict):
        return {name: exactly(inner) for name, inner in value.items()}
    return Decimal(repr(value)) if isinstance(value, int | float) and not isinstance(value, bool) else value


def test_states_come_back_as_they_were_written(shop: Shop) -> None:
    for database in shop.databases:
        for state in shop.run(found(database, Search(TENANT, CATEGORY))):
            assert state._replace(state=exactly(state.state)) == shop.rows[state.id]._replace(
                state=exactly(shop.rows[state.id].state)
            )


pytestmark = pytest.mark.anyio


def product(number: int, **values: Any) -> RootState:
    return RootState(UUID(int=number), 1, rendered(values), NOW, NOW)


NEIGHBOURS: dict[str, list[Any]] = {
    "größe": [
        -(10**40),
        -(2**63) - 1,
        -(2**63),
        -1,
        0,
        2**53,
        2**53 + 1,
        2**63 - 1,
        2**63,
        2**63 + 1,
        10**40,
        10**40 + 1,
    ],
    "weight": [
        -1.7976931348623157e308,
        -1e-7,
        -5e-324,
        0.0,
        5e-324,
        0.3,
        0.1 + 0.2,
        2.0**53,
        1e22,
        1.0000000000000002e22,
    ],
    "price": [
        Decimal(text) for text in ("-1E+900", "-1.55", "-1.5", "0E-9", "1E-900", "1.1", "1.11", "9", "10", "1E+900")
    ],
    "name": ["", "\x01", " ", "B", "Z", "_", "a", "aB", "aa", "ab", "\u00e9", "\uffff", "\U0001f600", "\U0010ffff"],
    "active": [False, True],
    "at": [
        NOW,
        (NOW + timedelta(microseconds=1)).astimezone(ZONES[1]),
        (NOW + timedelta(seconds=1)).astimezone(ZONES[2]),
    ],
    "hour": [time(0), time(7, 30), time(7, 30, 0, 1), time(7, 31)],
    "lasts": [
        timedelta(days=-1),
        timedelta(microseconds=-1),
        timedelta(0),
        timedelta(microseconds=1),
        timedelta(days=36_500),
    ],
}


@pytest.mark.parametrize("path", NEIGHBOURS)
async def test_values_that_lie_close_together_are_told_apart(database: Database, path: str) -> None:
    one, values = field(path), NEIGHBOURS[path]
    await write(database, [product(place, **{path: value}) for place, value in enumerate([*values, None])])

    async def places(condition: Condition) -> list[int]:
        return [state.id.int for state in await found(database, Search(TENANT, CATEGORY, condition, one.ascending()))]

    everything, null = list(range(len(values) + 1)), len(values)
    assert await places(Condition.TRUE) == everything
    for place, value in enumerate(values):
        assert await places(one < value) == everything[:place]
        assert await places(one <= value) == everything[: place + 1]
        assert await places(one == value) == [place]
        assert await places(one.is_in([value, None])) == [place, null]
        assert await places(one > value) == everything[place + 1 : null]
        assert await places(one >= value) == everything[place:null]
        assert await places(one != value) == [other for other in everything[:null] if other != place]
        assert await places(~(one == value)) == [other for other in everything if other != place]
        assert await places(~(one < value)) == everything[place:]


NAMES = ["Tea", "tea", "t%a", "t_a", "t\\a", "[tea]", "t*a", "t?a", "t\u00e9a", "t\U0001f600a", "t\na", "ta", ""]


PATTERNS = ["tea", "t_a", "t%a", "%", "_", "", "T%", "t\\%a", "t\\_a", "t\\\\a", "[tea]", "t*a", "t?a"]


async def test_like_tells_case_and_takes_only_its_own_wildcards(database: Database) -> None:
    rows = [product(place, name=name) for place, name in enumerate(NAMES)]
    await write(database, rows)
    for pattern in PATTERNS:
        search = Search(TENANT, CATEGORY, Product.name.like(pattern))
        names = [state.state["name"] for state in await found(database, search)]
        assert names == [state.state["name"] for state in find_in(search, rows)], pattern
        if not set(pattern) & set("%_\\"):
            assert names == [name for name in NAMES if name == pattern]


async def test_ten_thousand_values_are_one_comparison(database: Database) -> None:
    await write(database, [product(number, name=f"n{number}", price=Decimal(number)) for number in range(20)])
    names = [f"n{number}" for number in range(10, 10_010)]
    prices = [Decimal(number) for number in range(15, 10_015)]
    wanted = [UUID(int=number) for number in range(10_000)]
    condition = Product.name.is_in(names) & Product.price.is_in(prices) & Product.id.is_in(wanted)
    assert ids(await found(database, Search(TENANT, CATEGORY, condition))) == wanted[15:20]
    opposite = await found(database, Search(TENANT, CATEGORY, ~condition))
    assert ids(opposite) == wanted[:15]
    assert await found(database, Search(TENANT, CATEGORY, but=frozenset(wanted))) == []
    assert len(await read(database, *wanted)) == 20


async def test_the_largest_conditions_are_answered(database: Database) -> None:
    await write(database, [product(1, name="a"), product(2, name="b")])
    leaves = [
        ~Product.address.null.is_in([number, None]) | (Product.name == "a") for number in range(MOST_COMPARISONS // 2)
    ]
    for condition in (Condition.all_of(*leaves), Condition.any_of(*(~leaf for leaf in leaves))):
        either = (
            await found(database, Search(TENANT, CATEGORY, condition)),
            await found(database, Search(TENANT, CATEGORY, ~condition)),
        )
        assert sorted(len(states) for states in either) == [1, 1]
    nested: Condition = Product.name == "a"
    for number in range(31):
        nested = (nested | (Product.count == number)) if number % 2 else (nested & ~(Product.count == number))
    assert ids(await found(database, Search(TENANT, CATEGORY, nested))) == [UUID(int=1)]


HOSTILE = [
    "' OR '1'='1",
    "'; DROP TABLE cqrs_root_states; --",
    '"; DROP TABLE cqrs_root_states; --',
    "$1",
    ":name",
    "%(name)s",
    "%s",
    "?",
    "\\'",
    "{}",
    "a'||'b",
    "\x1a",
    "\u202e",
    ALPHABET,
]


async def test_a_value_is_only_ever_a_value(database: Database) -> None:
    for hostile in HOSTILE:
        await write(database, [product(1, name=hostile, address=Address(city=hostile)), product(2, name="harmless")])
        escaped = "".join(f"\\{char}" if char in "%_\\" else char for char in hostile)
        for condition in (
            Product.name == hostile,
            Product.name.is_in([hostile]),
            Product.name.like(escaped),
            Product.name.like(f"%{escaped}%"),
            Product.address.city == hostile,
            ~(Product.name != hostile) & (Product.name >= hostile) & (Product.name <= hostile),
        ):
            search = Search(TENANT, CATEGORY, condition, Product.name.descending(), limit=1)
            page = await found(database, search)
            assert ids(page) == [UUID(int=1)]
            assert await found(database, replace(search, after=next_cursor(search, page))) == []
        for tenant, category in ((hostile, CATEGORY), (TENANT, hostile)):
            assert await found(database, Search(tenant, category)) == []


async def test_tenants_and_categories_are_apart(database: Database) -> None:
    await write(database, [product(1)])
    await write(database, [product(2)], tenant="other")
    await write(database, [product(3)], category="Customer")
    assert ids(await found(database, Search(TENANT, CATEGORY))) == [UUID(int=1)]
    assert list(await read(database, *(UUID(int=number) for number in (1, 2, 3)))) == [UUID(int=1)]


async def test_a_state_is_written_over_and_an_older_one_is_not(database: Database) -> None:
    first = product(1, name="first")
    await write(database, [first._replace(version=2)])
    await write(database, [first._replace(version=1, state={"name": "older"})])
    assert (await read(database, first.id))[first.id].state["name"] == "first"
    again = first._replace(version=2, state={"name": "again"}, updated_at=LATER)
    await write(database, [again, product(2)])
    assert (await read(database, first.id)) == {first.id: again}


async def test_a_deleted_entity_keeps_its_row_without_its_state_and_is_not_found(database: Database) -> None:
    kept, gone = product(1, name="kept"), product(2, name="gone")
    await write(database, [kept, gone])

    def delete(connection: Connection) -> None:
        for one in (gone.id, UUID(int=3)):
            mark_deleted(connection, database.tables, TENANT, CATEGORY, one, version=2, at=LATER)

    await database.write(delete)
    await write(database, [gone])
    assert await found(database, Search(TENANT, CATEGORY)) == [kept]
    deleted = RootState(gone.id, 2, {}, NOW, LATER, deleted_at=LATER)
    never_stored = RootState(UUID(int=3), 2, {}, LATER, LATER, deleted_at=LATER)
    assert await read(database, gone.id, UUID(int=3)) == {gone.id: deleted, UUID(int=3): never_stored}


async def test_a_search_of_the_same_shape_is_compiled_once(database: Database) -> None:
    hits: list[CacheStats] = []

    def search(number: int) -> Search:
        condition = (
            (Product.price < number)
            & ~Product.name.like(f"{number}%")
            & Product.count.is_in(range(number + 1))
            & Product.name.is_in([None, "a"])
        )
        but = frozenset(uuid4() for _ in range(number + 1))
        return Search(TENANT, CATEGORY, condition, Product.price.descending(), limit=number + 1, but=but)

    def work(connection: Connection) -> None:
        @event.listens_for(connection, "before_cursor_execute")
        def count(_: Any, __: Any, statement: str, ___: Any, context: Any, ____: Any) -> None:
            if "root_states" in statement:
                hits.append(context.cache_hit)

        for number in range(4):
            find_states(connection, database.tables, search(number))
        event.remove(connection, "before_cursor_execute", count)

    await database.read(work)
    assert hits[1:] == [CacheStats.CACHE_HIT] * 3


def test_a_sqlite_that_is_too_old_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sqlite3.sqlite_version_info", (3, 37, 2))
    with pytest.raises(ConfigurationError, match=r"searched on SQLite 3\.38 or newer"):
        spelling_of("sqlite", build_tables(MetaData()))


INDEXED = [
    ("name", Product.name == "n7"),
    ("price", Product.price < Decimal(3)),
    ("weight", field("weight") > 1997.5),
    ("active", field("active") == False),  # noqa: E712  # how it is written
    ("address.city", Product.address.city.is_in(["c7", "c8"])),
]


async def test_an_index_as_the_reference_writes_it_serves_a_search(postgres_url: str) -> None:
    database = await opened(postgres_url)
    rows = [
        product(
            number,
            name=f"n{number}",
            price=Decimal(number),
            weight=float(number),
            active=number != 1,
            address=Address(city=f"c{number}"),
        )
        for number in range(2_000)
    ]
    await write(database, rows)
    try:
        for path, condition in INDEXED:
            await indexed(database, path)
            assert f"{path.replace('.', '_')}_ix" in await plan(database, Search(TENANT, CATEGORY, condition)), path
        begins = Search(TENANT, CATEGORY, Product.address.city.like("c7%"))
        assert "address_city_ix" in await plan(database, begins, mode="force_custom_plan")
        ordered = await plan(database, Search(TENANT, CATEGORY, ordering=Product.price.ascending(), limit=5))
        assert "price_ix" in ordered
        assert "Seq Scan" not in ordered
    finally:
        await database.close()


async def indexed(database: Database, path: str) -> None:
    """By the expression that stands in the reference for values of this kind."""
    form = (field(path) == None).place.form  # type: ignore[attr-defined]  # noqa: E711  # a comparison
    page = (ROOT / "docs" / "reference" / "conditions.md").read_text()
    (expression,) = re.findall(rf"<!-- {form.value} -->\n+```sql\n(.*?)```", page, re.DOTALL)
    names = ",".join(f'"{name}"' for name in path.split("."))
    index = expression.replace('"sku"', names).replace("product_sku_ix", f"{path.replace('.', '_')}_ix")

    def work(connection: Connection) -> None:
        connection.exec_driver_sql(index)
        connection.exec_driver_sql("ANALYZE cqrs_root_states")

    await database.write(work)


async def plan(database: Database, search: Search, mode: str = "force_generic_plan") -> str:
    """Of a prepared statement; by default planned without its values, as PostgreSQL may for one that is run often."""

    def work(connection: Connection) -> str:
        compiled = statement("postgresql", database.tables, search).compile(connection)  # type: ignore[attr-defined]
        values = map(quoted, (compiled.params[name] for name in compiled.positiontup))
        connection.exec_driver_sql(f"SET LOCAL plan_cache_mode = {mode}")
        connection.exec_driver_sql(f"PREPARE searching AS {compiled}")
        explain = f"EXPLAIN EXECUTE searching({', '.join(values)})"
        lines = connection.exec_driver_sql(explain).scalars().all()
        connection.exec_driver_sql("DEALLOCATE searching")
        return "\n".join(lines)

    return await database.write(work)


def quoted(value: object) -> str:
    """A constant of this test, for EXECUTE, which takes no parameters."""
    return f"'{{{','.join(value)}}}'" if isinstance(value, list) else f"'{value}'"
