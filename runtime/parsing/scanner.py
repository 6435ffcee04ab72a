"""Where a JSON value, or a Python literal, ends in text that comes in pieces. It checks brackets and strings alone."""

from __future__ import annotations

from copy import copy

__all__ = ["Scanner"]

_CLOSES = {"{": "}", "[": "]", "(": ")"}


class Scanner:
    """Walks a value that opens with a bracket. `end` is the number of characters up to its last bracket, once known.

    `quotes` are the characters around strings. Where an apostrophe is one of them they are Python's: three in a row are
    one too. `is_broken` says that no value can come of it, because of brackets that do not match. With `many`, values
    follow each other and none of them is the end; a string that cannot be meant to end where it does breaks them too
    (`is_unended`): in JSON one with no comma or the like behind it, in Python one with a line break.
    """

    __slots__ = (
        "_behind",
        "_escaped",
        "_is_python",
        "_many",
        "_open",
        "_quotes",
        "_run",
        "began",
        "end",
        "in_string",
        "is_broken",
        "is_unended",
        "seen",
    )

    def __init__(self, quotes: str = '"', *, many: bool = False) -> None:
        self._quotes = quotes
        self._is_python = "'" in quotes
        self._many = many
        self._open: list[str] = []
        self._escaped = False
        self._run = 0
        """Quotes in a row, at the end of the text, that may end the string."""
        self._behind = ""
        """The quote that ended the text's last string, until it is clear that it did."""
        self.seen = 0
        """Characters that were walked, until the end or the break."""
        self.began = -1
        """How many characters stand in front of the last string."""
        self.in_string = ""
        """What is to end the string that the text is in."""
        self.end: int | None = None
        self.is_broken = False
        self.is_unended = False

    @property
    def is_unsure(self) -> bool:
        """Whether the last string has no end so far, or one that may be none."""
        return bool(self.in_string) or self.is_unended or (bool(self._behind) and not self._is_python)

    def push(self, text: str) -> None:
        """Take what follows; of no effect once the value has ended or is broken."""
        for character in text:
            if self.is_broken or self.end is not None:
                return
            self.seen += 1
            if self.in_string:
                self._step_in_string(character)
            elif not self._behind or not self._takes_behind(character):
                self._step(character)

    def fork(self) -> Scanner:
        """An independent copy."""
        twin = copy(self)
        twin._open = self._open.copy()  # noqa: SLF001 - its own kind
        return twin

    def _step(self, character: str) -> None:
        if character in self._quotes:
            self.in_string, self.began = character, self.seen - 1
        elif character in _CLOSES:
            self._open.append(_CLOSES[character])
        elif character in "}])":
            if not self._open or self._open.pop() != character:
                self.is_broken = True
            elif not self._open and not self._many:
                self.end = self.seen

    def _takes_behind(self, character: str) -> bool:
        """Whether a character behind a string belongs to it, or to what is between it and the next sign."""
        if self._is_python:
            quote, self._behind = self._behind, ""
            if character != quote or self.seen - self.began != 3:
                return False
            self.in_string = quote * 3
            return True
        if character.isspace():
            return True
        self._behind = ""
        if self._many and character not in ",:}]":
            self._end_badly()
        return self.is_broken

    def _step_in_string(self, character: str) -> None:
        run, self._run = self._run, 0
        if self._escaped:
            self._escaped = False
        elif character == "\\":
            self._escaped = True
        elif character == self.in_string[0]:
            self._run = run + 1
            if self._run == len(self.in_string):
                self._behind = character if len(self.in_string) == 1 else ""
                self.in_string, self._run = "", 0
        elif character == "\n" and self._is_python and self._many and len(self.in_string) == 1:
            self._end_badly()

    def _end_badly(self) -> None:
        self.is_broken = self.is_unended = True
