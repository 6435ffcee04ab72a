"""Harmony, the format of gpt-oss: what marks its channels, and how a call is written in one. `channels` reads them."""

from __future__ import annotations

from greenroom.constraints.calls.json_writer import JsonWriter
from greenroom.parsing.call_bodies import Written
from greenroom.parsing.call_frames import Between
from greenroom.parsing.formats.format import Format
from greenroom.parsing.thinking import Thinking

__all__ = ["HARMONY_FORMAT", "MARKS", "NEXT", "THOUGHT"]

MARKS = ("<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>", "<|return|>", "<|call|>")

THOUGHT = Thinking("<|channel|>analysis<|message|>", "<|end|>")
NEXT = "<|start|>assistant"
"""Between two messages of one turn."""

HARMONY_FORMAT = Format(
    name="harmony",
    aliases=("gpt_oss",),
    told_by=(("<|channel|>", "<|message|>"),),
    opens=(),
    around_answer=("<|channel|>final<|message|>", ""),
    frame=lambda opening, _: Between(opening, "<|call|>"),
    read=lambda raw, _: [Written(raw, None, "a message of a channel is no frame")],
    writer=JsonWriter(
        "<|channel|>commentary to=",
        "<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>",
        "<|call|>",
    ),
)
"""Messages have no frame: `channels` reads them."""
