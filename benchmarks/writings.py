"""What rows write that choose nothing themselves: prose, orders in JSON, calls of a tool, records that repeat.

Each is a function of a seed, and as long as it is told in characters. Standard library alone.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

__all__ = ["TOOL", "calls", "orders", "prose", "records"]

_WORDS = """
    the a of and to in that it is was for on as with at by from this which but they we you she he his her their one two
    some many first last other new old long small great good house water time people year way day work part place hand
    light night side world life words number sound sentence form letter read write begin show follow find move live turn
    near between under never might while along something thought together often until again always
""".split()  # noqa: SIM905 - words
_CITIES = ("Graz", "Basel", "Lyon", "Leeds", "Bremen", "Boston", "Zürich", "Nantes")
_GOODS = ("lamp with a brass foot", "wool blanket", "garden chair", "tin of tea", "set of six plates", "oak shelf")
_NAMES = ("Anna Berger", "Jean Martin", "Ruth Ellis", "Karl Weber", "Maya Singh", "Tom Baker")
TOOL = {
    "type": "function",
    "function": {
        "name": "find_orders",
        "description": "Orders of a customer.",
        "parameters": {
            "type": "object",
            "properties": {"customer": {"type": "string"}, "city": {"type": "string"}, "most": {"type": "integer"}},
            "required": ["customer"],
        },
    },
}
"""What `calls` calls."""


def prose(seed: int, length: int) -> str:
    """Sentences of common words."""
    return _joined(_sentences(random.Random(seed)), length)  # noqa: S311 - a workload is no secret


def orders(seed: int, length: int) -> str:
    """A list of orders (see `orders.ORDER`) in compact JSON, without its end."""
    rng = random.Random(seed)  # noqa: S311 - likewise
    return "[" + _joined((_compact(_order(rng)) + "," for _ in iter(int, 1)), length)


def calls(seed: int, length: int) -> str:
    """Prose, and a call of `TOOL` behind every second sentence, as Hermes and Qwen write them."""
    rng = random.Random(seed)  # noqa: S311 - likewise
    return _joined(_with_calls(rng), length)


def records(seed: int, length: int) -> str:
    """Lines of one form with the same words in them; a few differ."""
    rng = random.Random(seed)  # noqa: S311 - likewise
    name, city, goods = rng.choice(_NAMES), rng.choice(_CITIES), rng.choice(_GOODS)
    lines = (f"{name} from {city} has ordered a {goods}, {rng.choice((1, 1, 1, 2))} of it.\n" for _ in iter(int, 1))
    return _joined(lines, length)


def _joined(parts: Iterator[str], length: int) -> str:
    found: list[str] = []
    while sum(map(len, found)) < length:
        found.append(next(parts))
    return "".join(found)


def _sentences(rng: random.Random) -> Iterator[str]:
    while True:
        words = [rng.choice(_WORDS) for _ in range(rng.randint(6, 18))]
        yield " ".join([words[0].capitalize(), *words[1:]]) + rng.choice((". ", ". ", "? ", ".\n"))


def _with_calls(rng: random.Random) -> Iterator[str]:
    for sentence in _sentences(rng):
        yield sentence
        if rng.random() < 0.5:
            arguments = {"customer": rng.choice(_NAMES), "city": rng.choice(_CITIES), "most": rng.randint(1, 50)}
            call = json.dumps({"name": "find_orders", "arguments": arguments}, ensure_ascii=False)
            yield f"<tool_call>\n{call}\n</tool_call>\n"


def _order(rng: random.Random) -> dict[str, object]:
    items = [
        {
            "sku": "".join(rng.choices("ABCDEFGHIJ", k=3)) + f"-{rng.randrange(10_000):04}",
            "description": rng.choice(_GOODS),
            "quantity": rng.randint(1, 99),
            "unit_price_cents": rng.randrange(100_000),
        }
        for _ in range(rng.randint(1, 2))
    ]
    return {
        "order_id": f"{rng.randrange(10**6):06}",
        "customer": rng.choice(_NAMES),
        "priority": rng.choice(("standard", "express", "overnight")),
        "shipping_address": {
            "street": f"{rng.choice(_WORDS).capitalize()} Street {rng.randint(1, 90)}",
            "city": rng.choice(_CITIES),
            "country": rng.choice(("AT", "CH", "DE", "FR", "GB", "US")),
        },
        "items": items,
        "gift_wrapping": rng.random() < 0.5,
        "customer_notes": " ".join(rng.choices(_WORDS, k=5)),
    }


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
