"""Text that comes in pieces, broken between words where a line is full.

A terminal breaks a line wherever its edge is. So the word that is being written is held back until it is complete, and
begins a new line where it does not fit: nothing that is on the screen has to be moved.
"""

from __future__ import annotations

from rich.cells import cell_len

__all__ = ["WordWrapper"]

_TAB = 4


class WordWrapper:
    """Where the cursor is, and the word that is held back. Widths are in cells; a wide character is a word."""

    def __init__(self) -> None:
        self.column = 0
        """Cells of the line that are written."""
        self._blanks = 0
        """Before the word."""
        self._word = ""
        self._size = 0

    def __repr__(self) -> str:
        return f"<WordWrapper column={self.column} held={self._word!r}>"

    def feed(self, text: str, width: int) -> str:
        """What can be written now that `text` has come, on lines of `width` cells."""
        out: list[str] = []
        for character in text:
            if character == "\n":
                out += [self._put_word(width), "\n"]
                self.column = self._blanks = 0
            elif character in " \t":
                out.append(self._put_word(width))
                self._blanks += _TAB - (self.column + self._blanks) % _TAB if character == "\t" else 1
            else:
                out.append(self._hold(character, width))
        return "".join(out)

    def flush(self, width: int) -> str:
        """What is held back; the text has ended, or stands still."""
        return self._put_word(width)

    def _hold(self, character: str, width: int) -> str:
        """Add it to the word, and give what is complete by that: what is wider than a line is cut at its edge."""
        cells = cell_len(character)
        before = self._put_word(width) if cells > 1 or self._size + cells > width else ""
        self._word += character
        self._size += cells
        return before + (self._put_word(width) if cells > 1 else "")

    def _put_word(self, width: int) -> str:
        """The word with the blanks before it, or on a line of its own. Blanks at a line's end are left out."""
        if not self._word:
            return ""
        fits = self.column + self._blanks + self._size <= width
        lead = " " * self._blanks if fits else "\n" if self.column else ""
        self.column = self.column + self._blanks + self._size if fits else self._size
        word, self._word, self._size, self._blanks = self._word, "", 0, 0
        return lead + word
