"""What constrained runs write: orders, and lists of orders that never end. A type is its schema and its check."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta

__all__ = ["BRIEF", "ORDER", "Document", "Order"]


class Address(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where an order goes."""

    street: Annotated[str, Meta(max_length=24)]
    city: Annotated[str, Meta(max_length=16)]
    country: Literal["AT", "CH", "DE", "FR", "GB", "US"]


class Brief(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The least that a shop must know."""

    city: Annotated[str, Meta(max_length=4)]
    country: Literal["AT", "CH"]


class Item(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line of an order."""

    sku: Annotated[str, Meta(pattern="^[A-Z]{3}-[0-9]{4}$")]
    description: Annotated[str, Meta(max_length=32)]
    quantity: Annotated[int, Meta(ge=1, le=99)]
    unit_price_cents: Annotated[int, Meta(ge=0, le=99_999)]


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An order as a shop takes it down from a mail."""

    order_id: Annotated[str, Meta(pattern="^[0-9]{6}$")]
    customer: Annotated[str, Meta(max_length=24)]
    priority: Literal["standard", "express", "overnight"]
    shipping_address: Address
    items: Annotated[list[Item], Meta(min_length=1, max_length=2)]
    gift_wrapping: bool
    customer_notes: Annotated[str, Meta(max_length=40)]


class Document(NamedTuple):
    """What is written: its schema, and the type that decodes it."""

    kind: type[msgspec.Struct]

    @property
    def schema(self) -> dict[str, Any]:
        """As JSON schema."""
        return msgspec.json.schema(self.kind)

    @property
    def endless(self) -> dict[str, Any]:
        """A list of more such than anybody writes."""
        return msgspec.json.schema(Annotated[list[self.kind], Meta(min_length=10_000)])  # type: ignore[name-defined]

    def check(self, text: str) -> None:
        """Raise `msgspec.ValidationError` unless `text` is one."""
        msgspec.json.decode(text, type=self.kind)


ORDER = Document(Order)
"""About a hundred tokens of Qwen3's."""
BRIEF = Document(Brief)
"""A small one, for smoke runs."""
