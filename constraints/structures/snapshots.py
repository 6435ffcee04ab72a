"""Typed snapshots: a growing object of the user's type, correct at every moment.

Only what is on the way to the place where the text stands is open. A snapshot copies those containers, one level each,
and shares everything that is whole with the snapshots before it: so its cost does not grow with the document, but for
the containers that are open themselves.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from copy import copy
from functools import lru_cache
from typing import Any, Generic, Literal, Self, TypeVar

from greenroom.constraints.structures.changes import Change, Key, Path, Place, path_of
from greenroom.constraints.structures.frames import Frame, HiddenFrame, OneOfFrame, RootFrame, frame_of
from greenroom.constraints.structures.parser import MAX_DEPTH, MAX_SIZE, MISSING, JsonParser
from greenroom.constraints.structures.schemas import shape_of_schema
from greenroom.constraints.structures.shapes import Missing, Shape
from greenroom.constraints.structures.types import shape_of
from greenroom.constraints.structures.validators import reason
from greenroom.errors import InvalidStructure, StructureFailed, TruncatedJson
from greenroom.values import boolean, choice, integer

__all__ = ["Done", "Find", "Snapshots", "Validate"]

T = TypeVar("T")
Validate = Literal["closed", "final", "never"]
Find = Literal["json"] | None


class Done(Mapping[Path, bool]):
    """Which paths were whole at one moment. Made of the document's own keys; looked up on demand, and then kept."""

    def __init__(self, places: list[tuple[Place, Key | None]], count: int) -> None:
        self._places = places
        self._count = count
        self._paths: frozenset[Path] | None = None

    def __repr__(self) -> str:
        return f"<Done {sorted(map(str, self.paths))}>"

    @property
    def paths(self) -> frozenset[Path]:
        """All paths that were whole."""
        if self._paths is None:
            places = self._places[: self._count]
            self._paths = frozenset([() if key is None else (*path_of(place), key) for place, key in places])
        return self._paths

    def __getitem__(self, path: Path) -> bool:
        return path in self.paths

    def __iter__(self) -> Iterator[Path]:
        return iter(self.paths)

    def __len__(self) -> int:
        return len(self.paths)


class Snapshots(Generic[T]):
    """Feed text; whenever `feed` says that something changed, `snapshot()` is the object as far as it has come.

    `missing`: what stands for fields that have not come. "default": the field's default, else what an empty one looks
    like ("" for str, [], {}, an object of which nothing has come), else None. "unset": `msgspec.UNSET`. "omit": the
    attribute or the key is not there. `partial_strings`: whether a str is shown as it grows, or once it is whole.
    Numbers, literals, Literal, Enum, dates and other converted values are shown once they are whole.

    `validate`: "closed" validates every object of a class when it ends and the whole at the end, "final" the whole at
    the end, "never" nothing: there what cannot be converted stays as JSON has it, elsewhere it is not shown.

    `find`: with "json" the first object or list that may be of the kind is looked for; what stands around it is
    skipped: a thought, prose, a fence, a byte order mark.
    """

    def __init__(
        self,
        kind: Any,
        *,
        missing: Missing = "default",
        partial_strings: bool = True,
        validate: Validate = "closed",
        max_depth: int = MAX_DEPTH,
        max_size: int = MAX_SIZE,
        find: Find = None,
    ) -> None:
        choice("missing", missing, ("default", "unset", "omit"))
        choice("validate", validate, ("closed", "final", "never"))
        boolean("partial_strings", partial_strings)
        integer("max_depth", max_depth, 0, None, "an integer of at least 0")
        integer("max_size", max_size, 0, None, "an integer of at least 0")
        if find is not None:
            choice("find", find, ("json",))
        self._shape = _shape(kind, validated=validate != "never")
        self._missing: Missing = missing
        self._partial_strings = partial_strings
        self._validate = validate
        self._keeps_text = validate != "never"
        self._parser = JsonParser(max_depth=max_depth, max_size=max_size, opens=_opens(self._shape) if find else "")
        self._root = RootFrame(self._shape)
        self._frames: list[Frame] = [self._root]
        self._hidden = 0
        """How many open containers show nothing."""
        self._growing: Any = MISSING
        """The key of the string that is shown as it grows."""
        self._is_changed = False
        self._is_replaying = False
        self.is_complete = False
        """Whether the whole has come, and fits its type if it is to be validated."""
        self._done: list[tuple[Place, Key | None]] = []
        self._text: list[str] = []
        self._starts = [0]
        """Where the chunks of `_text` start, as far as that was needed."""

    def __repr__(self) -> str:
        return f"<Snapshots {self._parser!r}>"

    @property
    def position(self) -> int:
        """Characters read."""
        return self._parser.position

    @property
    def done(self) -> Done:
        """The paths that are whole by now."""
        return Done(self._done, len(self._done))

    def feed(self, chunk: str | bytes) -> bool:
        """Read on. Whether `snapshot()` is another than when it was last taken.

        Costs the chunk's length, and that of what became whole. Raises `MalformedJson`, `JsonTooLarge` and
        `InvalidStructure`; what came before the fault can still be had.
        """
        self._is_changed = False
        parser = self._parser
        try:
            changes = parser.feed(chunk)
        except StructureFailed:
            self._text.append(parser.chunk)
            self._apply(parser.changes)
            raise
        if self._keeps_text:
            self._text.append(parser.chunk)
        if len(changes) == 1 and changes[0].operation == "partial" and changes[0].payload[1]:
            return self._growing is not MISSING  # most chunks are a piece of a string and nothing else
        self._apply(changes)
        return self._is_changed

    def finish(self) -> bool:
        """Nothing more comes: as `feed`. Raises `TruncatedJson`, with what there was as its `partial`."""
        self._is_changed = False
        try:
            changes = self._parser.finish()
        except TruncatedJson as error:
            error.partial = self.snapshot()
            raise
        self._apply(changes)
        return self._is_changed

    def snapshot(self) -> Any:
        """The object as far as it has come, a value of its own; `MISSING` while nothing can be shown."""
        key = self._growing
        value = MISSING if key is MISSING else self._parser.text
        for frame in self._frames[::-1]:
            value = frame.make() if value is MISSING else frame.grown(key, value)
            key = frame.key
        return value

    def fork(self) -> Self:
        """An independent copy: the two go on with texts of their own."""
        twin = copy(self)
        twin._detach()  # noqa: SLF001 - its own kind
        return twin

    def _detach(self) -> None:
        self._parser = self._parser.fork()
        self._frames = [frame.fork() for frame in self._frames]
        self._root = self._frames[0]  # type: ignore[assignment]  # the first is the root's
        self._done = self._done.copy()
        self._text = self._text.copy()
        self._starts = self._starts.copy()

    # Changes.

    def _apply(self, changes: list[Change]) -> None:
        for change in changes:
            operation = change.operation
            if operation == "partial":
                self._grow(change)
            elif operation == "done":
                self._scalar(change)
            elif operation == "open":
                self._open(change)
            else:
                self._close(change)

    def _grow(self, change: Change) -> None:
        if change.payload[1]:  # not its first piece: what this string is was found out then
            if self._growing is not MISSING:
                self._is_changed = True
            return
        shape = self._child(change.key)
        leaf = shape.for_scalar() if shape is not None else None
        if leaf is None or not leaf.grows or self._hidden or not self._partial_strings:
            return
        self._growing = change.key
        self._note_change(self._frames[-1].slot(change.key), self._parser.text)

    def _scalar(self, change: Change) -> None:
        self._growing = MISSING
        shape = self._child(change.key)
        if not self._is_replaying:
            self._done.append((change.place, change.key))
        self._put(change.key, self._convert(shape.for_scalar() if shape else None, change.payload))
        frame = self._frames[-1]
        if type(frame) is OneOfFrame:
            frame.whole[str(change.key)] = change.payload
            self._resolve(frame)
        if frame is self._root:
            self._end(change)

    def _open(self, change: Change) -> None:
        shape = self._child(change.key)
        if shape is not None:
            shape = shape.for_object() if type(change.payload) is dict else shape.for_array()
        frame = frame_of(shape, change.key, change.position, self._missing)
        if frame.is_hidden:
            self._hidden += 1
        elif not self._hidden:
            self._note_change(self._frames[-1].slot(change.key), frame.make())
        self._frames.append(frame)

    def _close(self, change: Change) -> None:
        frame, above = self._frames[-1], self._frames[-2]
        is_seen = self._hidden == frame.is_hidden
        if above is self._root and self._validate != "never":
            whole = frame.make()  # validated below, with all of the text
        else:
            whole = self._whole(frame, change) if is_seen else MISSING
        self._frames.pop()  # only now: an object that does not fit its type stays as it was
        self._hidden -= frame.is_hidden
        if not self._is_replaying:
            self._done.append((change.place, change.key))
        self._put(change.key, whole)
        if type(above) is OneOfFrame:
            above.whole[str(change.key)] = change.payload
            self._resolve(above)
        if above is self._root:
            self._end(change)

    def _child(self, key: Key | None) -> Shape | None:
        """The shape at a key of what is open. A choice may be resolved by the key."""
        frame = self._frames[-1]
        if type(frame) is OneOfFrame and key not in frame.keys:
            frame.keys.add(str(key))
            self._resolve(frame)
            frame = self._frames[-1]
        return frame.child(key)

    def _resolve(self, frame: OneOfFrame) -> None:
        """Where it is clear which record this becomes, put its frame in place and give it what is whole already."""
        found = frame.shape.resolve(frame.keys, frame.whole)
        if found is None:
            return
        self._frames[-1] = frame_of(found, frame.key, frame.start, self._missing)
        self._hidden -= 1
        was_replaying, self._is_replaying = self._is_replaying, True
        for key, value in frame.whole.items():
            self._apply(list(_walk(key, value)))
        self._is_replaying = was_replaying
        self._is_changed |= not self._hidden

    def _put(self, key: Key | None, value: Any) -> None:
        if value is MISSING:
            return
        frame = self._frames[-1]
        if not self._hidden:
            self._note_change(frame.slot(key), value)
        frame.put(key, value)

    def _note_change(self, before: Any, after: Any) -> None:
        """Whether something new is to be seen. Compared where it changed, so the cost is that of what came."""
        if self._is_changed:
            return
        try:
            self._is_changed = type(before) is not type(after) or bool(before != after)
        except Exception:  # noqa: BLE001 - a class's own comparison may raise anything, on a growing object too
            self._is_changed = True

    # Whole values.

    def _convert(self, shape: Shape | None, value: Any) -> Any:
        if shape is None:
            return MISSING
        try:
            return shape.convert(value)
        except Exception:  # noqa: BLE001 - as above; what holds it will be validated, and says where
            return value if self._validate == "never" else MISSING

    def _whole(self, frame: Frame, change: Change) -> Any:
        if isinstance(frame, HiddenFrame):
            return self._convert(frame.shape, change.payload)
        check = frame.shape.check if frame.shape is not None else None
        if self._validate != "closed" or check is None or self._is_replaying:
            return frame.make()
        return self._check(check, change, self._slice(frame.start, change.position))

    def _check(self, check: Any, change: Change, value: Any) -> Any:
        try:
            return check(value)
        except Exception as error:
            raise InvalidStructure(change.path, reason(error), change.position) from error

    def _end(self, change: Change) -> None:
        """Validate the whole and put it in place of what had grown."""
        self._is_changed = True
        check = self._shape.check
        if self._validate != "never" and check is None:
            self._root.value = self._check(self._shape.convert, change, self._parser.value)
        elif self._validate != "never":
            self._root.value = self._check(check, change, self._slice(self._parser.start, change.position))
        self.is_complete = True

    # The text, for what validates text.

    def _slice(self, start: int, end: int) -> str:
        for chunk in self._text[len(self._starts) - 1 : -1]:
            self._starts.append(self._starts[-1] + len(chunk))
        first = bisect_right(self._starts, start) - 1
        text = "".join(self._text[first:])
        offset = self._starts[first]
        return text[start - offset : end - offset]


def _opens(shape: Shape) -> str:
    """What a document of that shape begins with."""
    opens = "{" if shape.for_object() is not None else ""
    opens += "[" if shape.for_array() is not None else ""
    return opens or "{["


def _walk(key: Key, value: Any) -> Iterator[Change]:
    """The changes of a whole value."""
    pending: list[tuple[Any, Any, bool]] = [(key, value, False)]
    while pending:
        key, value, is_end = pending.pop()
        if is_end:
            yield Change("close", 0, None, key, value)
        elif not isinstance(value, (list, dict)):
            yield Change("done", 0, None, key, value)
        else:
            yield Change("open", 0, None, key, value)
            pending.append((key, value, True))
            inner = value.items() if isinstance(value, dict) else enumerate(value)
            pending.extend((name, part, False) for name, part in reversed(list(inner)))


def _shape(kind: Any, *, validated: bool) -> Shape:
    if isinstance(kind, Mapping):
        return shape_of_schema(kind, validated=validated)
    try:
        hash(kind)
    except TypeError:
        return shape_of(kind)
    return _cached_shape(kind)


@lru_cache(maxsize=256)
def _cached_shape(kind: Any) -> Shape:
    return shape_of(kind)
