"""What is going to be ordered: it follows from the seed alone, whatever order the answers come in."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

Fate = Literal["paid", "cancelled", "left"]

_KINDS = ("Mug", "Kettle", "Teapot", "Bowl", "Plate", "Pan", "Knife", "Spoon", "Board", "Jar")
_MATERIALS = ("steel", "oak", "glass", "stoneware", "copper")
_SIZES = ("small", "medium", "large", "family")
_CITIES = (("Hamburg", "DE"), ("Lyon", "FR"), ("Graz", "AT"), ("Turin", "IT"), ("Utrecht", "NL"), ("Porto", "PT"))
_NAMES = ("Ada", "Björn", "Chloé", "Dmitri", "Élise", "Farid", "Grace", "Hana", "Ivo", "Jana", "Kofi", "Lena")
_SURNAMES = ("Albers", "Bianchi", "Costa", "Dubois", "Eriksen", "Fischer", "Gruber", "de Haan", "Ito", "Jensen")
_FATES: tuple[Fate, ...] = ("paid", "cancelled", "left")
_FATE_WEIGHTS = (80, 12, 8)
_PIECES, _PIECE_WEIGHTS = (1, 2, 3, 6), (70, 20, 7, 3)
_LINES, _LINE_WEIGHTS = (1, 2, 3, 4), (55, 25, 13, 7)
_RESERVE = 25
CUSTOMERS = 100


@dataclass(frozen=True, slots=True)
class PlannedProduct:
    """A product, and how much of it must be in stock for all orders of the plan."""

    sku: str
    title: str
    cents: int
    stock: int


@dataclass(frozen=True, slots=True)
class PlannedCustomer:
    name: str
    email: str
    street: str
    city: str
    country: str


@dataclass(frozen=True, slots=True)
class PlannedOrder:
    """`items` are SKUs with their quantities; `customer` is an index."""

    customer: int
    items: tuple[tuple[str, int], ...]
    fate: Fate


@dataclass(frozen=True, slots=True)
class Plan:
    products: Sequence[PlannedProduct]
    customers: Sequence[PlannedCustomer]
    orders: Sequence[PlannedOrder]


def make_plan(seed: int, orders: int) -> Plan:
    """200 products, of which the popular ones sell as Zipf's law says, 100 customers, and the orders."""
    chance = random.Random(seed)  # noqa: S311  # repeatable, not secret
    titles = [f"{kind}, {material}, {size}" for kind in _KINDS for material in _MATERIALS for size in _SIZES]
    chance.shuffle(titles)
    skus = [f"SHOP-{seed}-{number:03}" for number in range(1, len(titles) + 1)]
    popularity = list(accumulate(1 / rank for rank in range(1, len(skus) + 1)))
    planned = [_order(chance, skus, popularity) for _ in range(orders)]
    wanted = Counter[str]()
    for order in planned:
        wanted.update(dict(order.items))
    products = [
        PlannedProduct(sku, title, chance.randrange(290, 14_990, 10), wanted[sku] + _RESERVE)
        for sku, title in zip(skus, titles, strict=True)
    ]
    return Plan(products, [_customer(chance, number) for number in range(CUSTOMERS)], planned)


def _order(chance: random.Random, skus: Sequence[str], popularity: Sequence[float]) -> PlannedOrder:
    (lines,) = chance.choices(_LINES, _LINE_WEIGHTS)
    chosen = dict.fromkeys(chance.choices(skus, cum_weights=popularity, k=lines))
    items = tuple((sku, chance.choices(_PIECES, _PIECE_WEIGHTS)[0]) for sku in chosen)
    return PlannedOrder(chance.randrange(CUSTOMERS), items, chance.choices(_FATES, _FATE_WEIGHTS)[0])


def _customer(chance: random.Random, number: int) -> PlannedCustomer:
    name = f"{chance.choice(_NAMES)} {chance.choice(_SURNAMES)}"
    city, country = chance.choice(_CITIES)
    return PlannedCustomer(name, f"customer{number}@example.com", f"Long Street {number + 1}", city, country)
