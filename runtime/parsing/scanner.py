"""Where a JSON value, or a Python literal, ends in text that comes in pieces. It checks brackets and strings alone."""

from __future__ import annotations

from copy import copy

__all__ = ["Scanner"]

_CLOSES = {"{": "}", "[": "]", "(": ")"}


class Scanner:
    """Walks a value that opens with a bracket. `end` is the number of characters up to its last bracket, once known.

    `is_broken` says that no value can come of it: brackets that do not match or, where they are not `loose`, a string
    with a line break. With `many`, values follow each other and none of them is the end. `seen` characters were walked
    until then.
    """

    __slots__ = ("_escaped", "_loose", "_many", "_open", "_quotes", "end", "in_string", "is_broken", "seen")

    def __init__(self, quotes: str = '"', *, loose: bool = True, many: bool = False) -> None:
        self._quotes = quotes
        self._loose = loose
        self._many = many
        self._open: list[str] = []
        self._escaped = False
        self.seen = 0
        self.in_string = ""
        self.end: int | None = None
        self.is_broken = False

    def push(self, text: str) -> None:
        """Take what follows; of no effect once the value has ended or is broken."""
        for character in text:
            if self.is_broken or self.end is not None:
                return
            self.seen += 1
            self._step(character)

    def fork(self) -> Scanner:
        """An independent copy."""
        twin = copy(self)
        twin._open = self._open.copy()  # noqa: SLF001 - its own kind
        return twin

    def _step(self, character: str) -> None:
        if self.in_string:
            self._step_in_string(character)
        elif character in self._quotes:
            self.in_string = character
        elif character in _CLOSES:
            self._open.append(_CLOSES[character])
        elif character in "}])":
            if not self._open or self._open.pop() != character:
                self.is_broken = True
            elif not self._open and not self._many:
                self.end = self.seen

    def _step_in_string(self, character: str) -> None:
        if self._escaped:
            self._escaped = False
        elif character == "\\":
            self._escaped = True
        elif character == self.in_string:
            self.in_string = ""
        elif character == "\n":
            self.is_broken = not self._loose
