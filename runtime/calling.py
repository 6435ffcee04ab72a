"""What `tools=`, `tool_choice=` and `tool_format=` ask of one request, and the decoder that comes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import msgspec

from greenroom.actors.decoding import Decoder
from greenroom.backends.protocol import ModelInfo
from greenroom.decoders import TextDecoder
from greenroom.errors import InvalidParameter, NotSupported
from greenroom.parameters import GenerateParameters, stop_ids, stop_strings
from greenroom.parsers.dialect import Dialect
from greenroom.tools import Toolbox, Tools

__all__ = ["Calling", "MakeDecoder"]

MakeDecoder = Callable[[GenerateParameters, ModelInfo, Sequence[int], int], Decoder]
"""Parameters, model, the prompt's ids and the seed to the request's decoder."""


class Calling(msgspec.Struct, frozen=True):
    """The tools that a request shows, and whether its calls are looked for."""

    shown: Any = None
    parsed: Any = None
    tool_format: str | None = None

    @classmethod
    def of(cls, tools: Tools | None, tool_choice: str, tool_format: str | None) -> Self:
        """Checked. Raises `InvalidParameter` for what is no tool or no choice, `NotSupported` for a forced call."""
        box = Toolbox(tools) if tools else None
        if tool_choice not in ("auto", "none"):
            names = () if box is None else box.names()
            if tool_choice != "required" and tool_choice not in names:
                raise InvalidParameter("tool_choice", tool_choice, "'auto', 'none', 'required' or the name of a tool")
            raise NotSupported(f"tool_choice={tool_choice!r}")
        return cls(box, box if tool_choice == "auto" else None, tool_format)

    @property
    def schemas(self) -> list[Mapping[str, Any]] | None:
        """What the template is given."""
        return None if self.shown is None else self.shown.schemas

    def decoder(self, options: GenerateParameters, model: ModelInfo, ids: Sequence[int], seed: int) -> Decoder:
        """A `TextDecoder`, with a reader where the model has anything to tell apart. Ids of calls follow the seed."""
        box: Toolbox | None = self.parsed
        dialect = Dialect.of(model, tool_format=self.tool_format, has_tools=box is not None)
        stream, reader = model.tokenizer.stream(), None
        if not dialect.is_plain:
            stream = dialect.pieces(model.tokenizer, has_tools=box is not None)
            tail = dialect.tail(ids, model.tokenizer)
            salt = f"{seed}/{len(ids)}"
            reader = dialect.reader(box, style=options.reasoning, salt=salt, prompt_tail=tail)
        return TextDecoder(
            stream,
            stop_ids=stop_ids(options, model),
            eos=model.stop_tokens,
            stop_strings=stop_strings(options),
            keep_tokens=options.logprobs is not None,
            reader=reader,
        )
