"""Objects that grow while their JSON streams: the parser, and typed snapshots over it.

This package does not know tasks, streams or models: text goes in, changes and values come out.
"""

from __future__ import annotations

from greenroom.constraints.structures.changes import Change, Key, Operation, Path
from greenroom.constraints.structures.parser import MAX_DEPTH, MAX_SIZE, MISSING, JsonParser
from greenroom.constraints.structures.shapes import Missing
from greenroom.constraints.structures.snapshots import Done, Find, Snapshots, Validate

__all__ = [
    "MAX_DEPTH",
    "MAX_SIZE",
    "MISSING",
    "Change",
    "Done",
    "Find",
    "JsonParser",
    "Key",
    "Missing",
    "Operation",
    "Path",
    "Snapshots",
    "Validate",
]
