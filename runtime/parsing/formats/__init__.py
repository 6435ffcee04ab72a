"""The formats in which models write tool calls: one record a format, one file a family of them.

A family's file holds how its calls are framed, who reads them, how forced ones are written, and by what the format is
recognised. Formats do not know requests, threads, or the reader that tells them apart from text.
"""

from greenroom.parsing.formats.format import Format
from greenroom.parsing.formats.registry import ALIASES, HARMONY, find, names

__all__ = ["ALIASES", "HARMONY", "Format", "find", "names"]
