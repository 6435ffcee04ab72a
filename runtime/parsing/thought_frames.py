"""Calls inside of a thought that may never end: from where on its text is kept until that is known."""

from __future__ import annotations

from collections.abc import Collection
from copy import copy

from greenroom.parsing.call_frames import CallFrame
from greenroom.parsing.formats.format import Format
from greenroom.parsing.markers import Markers

__all__ = ["ThoughtFrames"]


class ThoughtFrames:
    """Looks for the first frame in the text of a thought that is not told yet.

    Only markers that count anywhere open one here: thoughts are full of brackets.
    """

    def __init__(self, form: Format | None, names: Collection[str]) -> None:
        self._form = form
        self._names = names
        opens = () if form is None else tuple(marker for marker in form.opens if marker.where == "anywhere")
        self._markers = Markers(opens)
        self._place: int | None = None
        self._frame: CallFrame | None = None
        self._pushed = 0
        self._looked = 0
        self._is_found = False

    def find(self, text: str) -> int:
        """Up to where `text` holds no frame and no beginning of one. `text` goes on with that of the call before."""
        while not self._is_found:
            if self._place is None and not self._open(text):
                break
            if self._frame is None or self._place is None:
                break
            state = self._frame.push(text[self._pushed :])
            self._pushed = len(text)
            if state == "open":
                break
            if state == "text":
                self._looked, self._place = self._place + 1, None
            else:
                self._is_found = True
        return len(text) if self._form is None else self._looked if self._place is None else self._place

    @property
    def has_frame(self) -> bool:
        """Whether there a frame begins, as far as its text goes."""
        return self._place is not None

    def drop(self, count: int) -> None:
        """The first `count` characters were told."""
        self._looked = max(0, self._looked - count)
        self._pushed = max(0, self._pushed - count)
        if self._place is not None:
            self._place -= count

    def reset(self) -> None:
        """The thought is over."""
        self._place, self._frame, self._is_found = None, None, False
        self._pushed = self._looked = 0

    def fork(self) -> ThoughtFrames:
        """An independent copy."""
        twin = copy(self)
        twin._frame = self._frame and self._frame.fork()  # noqa: SLF001 - its own kind
        return twin

    def _open(self, text: str) -> bool:
        found = self._markers.find(text[self._looked :], before="", final=False)
        if found.marker is None or self._form is None:
            self._looked += found.free
            return False
        self._place = self._looked + found.free
        self._frame = self._form.frame(found.marker.text, self._names)
        self._pushed = self._place
        return True
