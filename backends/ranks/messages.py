"""What rank 0 tells the others: each call of its backend, in order, without what only rank 0 needs.

A step is a `RankForward` and two calls without content. What a call gave rank 0 goes with the next message, where it
says whether ranks are in step: one that got something else says so, and the group ends. Samplers, masks and seeds are
in none of them.
"""

from __future__ import annotations

import msgspec

from greenroom.backends.protocol import Close, Edit, Feed, LimitPrefixes, Open, Pack, Rewind, Sampling
from greenroom.errors import NotSupported

__all__ = [
    "MAGIC",
    "RankBegin",
    "RankClose",
    "RankEdits",
    "RankEnd",
    "RankFailed",
    "RankFeed",
    "RankForward",
    "RankGreeting",
    "RankHello",
    "RankLimit",
    "RankMessage",
    "RankNumber",
    "RankNumbers",
    "RankOpen",
    "RankPack",
    "RankPulse",
    "RankRead",
    "RankRewind",
    "RankSample",
    "RankWelcome",
    "edit_for_rank",
    "feed_for_rank",
]

MAGIC = "greenroom ranks 1"
"""With which a connection begins; another number is another form of the messages."""


class RankGreeting(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """From rank 0, first on each connection: for whom, in what group, and whether only pulses go over it."""

    magic: str
    rank: int
    size: int
    is_pulse: bool


class RankHello(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """From rank 0: what a rank has to be like, how the model is divided and run, and what its load is to be told."""

    versions: dict[str, str]
    fingerprint: str
    split: str
    profile: dict[str, str | int | bool]
    """Of rank 0's device, by which all lay out their passes."""
    loading: dict[str, int]


class RankWelcome(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """The answer."""

    versions: dict[str, str]
    fingerprint: str


class RankBegin(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """All ranks are alike: load."""


class RankNumber(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """To rank 0, while the model is loaded: one of those that all bring at once."""

    value: int


class RankNumbers(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """From rank 0: every rank's."""

    values: tuple[int, ...]


class RankOpen(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """An `Open`."""

    row: int
    expects: int
    prompt: tuple[int, ...]
    start: int | None

    def edit(self) -> Edit:
        """As the backend is told."""
        return Open(self.row, Sampling(), self.expects, None, self.prompt, self.start)


class RankClose(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """A `Close`."""

    row: int

    def edit(self) -> Edit:
        """As the backend is told."""
        return Close(self.row)


class RankRewind(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """A `Rewind`."""

    row: int
    length: int
    start: int | None

    def edit(self) -> Edit:
        """As the backend is told."""
        return Rewind(self.row, self.length, None, self.start)


class RankPack(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """A `Pack`."""

    tight: bool

    def edit(self) -> Edit:
        """As the backend is told."""
        return Pack(self.tight)


class RankLimit(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """A `LimitPrefixes`."""

    most: int

    def edit(self) -> Edit:
        """As the backend is told."""
        return LimitPrefixes(self.most)


RankEdit = RankOpen | RankClose | RankRewind | RankPack | RankLimit


class RankEdits(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """`edit`."""

    edits: tuple[RankEdit, ...]


class RankFeed(msgspec.Struct, frozen=True, array_like=True):
    """A `Feed`; nobody but rank 0 is asked for logits."""

    row: int
    ids: tuple[int, ...]
    sample: bool
    drafts: int

    def feed(self) -> Feed:
        """As the backend is told."""
        return Feed(self.row, self.ids, self.sample, self.drafts)


class RankForward(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """`forward`; and what rows that were opened since the last one began with, as (row, tokens).

    `num_refused` counts the edits that have raised.
    """

    feeds: tuple[RankFeed, ...]
    reused: tuple[tuple[int, int], ...]
    num_refused: int


class RankSample(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """`sample`; and how many tokens rank 0 has run in all, with this pass."""

    num_run: int


class RankRead(msgspec.Struct, frozen=True, array_like=True, tag=9):
    """`read`."""


class RankEnd(msgspec.Struct, frozen=True, array_like=True, tag=10):
    """`close`: the group ends as it should."""


class RankPulse(msgspec.Struct, frozen=True, array_like=True, tag=11):
    """Both ways, now and then: still here."""


class RankFailed(msgspec.Struct, frozen=True, array_like=True, tag=12):
    """To rank 0: why this rank ends."""

    why: str


RankMessage = (
    RankGreeting
    | RankHello
    | RankWelcome
    | RankBegin
    | RankNumber
    | RankNumbers
    | RankEdits
    | RankForward
    | RankSample
    | RankRead
    | RankEnd
    | RankPulse
    | RankFailed
)


def edit_for_rank(edit: Edit) -> RankEdit:
    """An edit as the others need it: nothing of how its row draws. Raises `NotSupported` for what ranks do not do."""
    match edit:
        case Open(row=row, expects=expects, kv=None, prompt=prompt, start=start, adapter=0):
            return RankOpen(row, expects, prompt, start)
        case Close(row=row):
            return RankClose(row)
        case Rewind(row=row, length=length, start=start):
            return RankRewind(row, length, start)
        case Pack(tight=tight):
            return RankPack(tight)
        case LimitPrefixes(most=most):
            return RankLimit(most)
        case _:
            raise NotSupported(type(edit).__name__, "models over several processes have no adapters and options of KV")


def feed_for_rank(feed: Feed) -> RankFeed:
    """A feed as the others need it."""
    return RankFeed(feed.row, feed.ids, feed.sample, feed.drafts)
