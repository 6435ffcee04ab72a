"""What `tools=`, `tool_choice=` and `tool_format=` ask of one request, and the decoder that comes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import msgspec

from greenroom.actors.decoder import Decoder
from greenroom.backends.protocol import ModelInfo
from greenroom.constraints.constraint import Constraint
from greenroom.constraints.kinds.reasoning_budget import ReasoningBudget
from greenroom.errors import InvalidParameter, NotSupported
from greenroom.inputs.parameters import GenerateParameters, stop_ids, stop_strings
from greenroom.inputs.tools import Toolbox, Tools
from greenroom.parsing.answers import answer_routes
from greenroom.parsing.dialect import Dialect
from greenroom.parsing.forced import forced_calls
from greenroom.parsing.formats.registry import find, is_known
from greenroom.request.decoders import TextDecoder
from greenroom.values import text

__all__ = ["NO_TOOLS", "ToolCalling"]


class ToolCalling(msgspec.Struct, frozen=True):
    """The tools that a request shows, whether its calls are looked for, and which of them are forced."""

    shown: Any = None
    parsed: Any = None
    tool_format: str | None = None
    choice: str = "auto"

    @classmethod
    def of(cls, tools: Tools | None, tool_choice: str, tool_format: str | None) -> Self:
        """Checked. Raises `InvalidParameter` for what is no tool or no choice."""
        box = None if tools is None else Toolbox(tools)
        box = box if box is not None and len(box) else None
        names = () if box is None else box.names()
        if tool_format is not None:
            text("tool_format", tool_format, "None or the name of a format of calls")
        known = ("auto", "none", "required", *names) if names else ("auto", "none")
        chosen: object = tool_choice
        if not isinstance(chosen, str) or chosen not in known:
            expected = ", ".join(("'auto', 'none', 'required'", *map(repr, names))) if names else "'auto' without tools"
            raise InvalidParameter("tool_choice", tool_choice, expected)
        return cls(box, None if tool_choice == "none" else box, tool_format, tool_choice)

    @property
    def has_tools(self) -> bool:
        """Whether calls are looked for."""
        return self.parsed is not None

    @property
    def is_forced(self) -> bool:
        """Whether there has to be a call."""
        return self.choice not in ("auto", "none")

    @property
    def needs_import(self) -> bool:
        """Whether the format named is none of ours, so that mlx-lm is imported to look for it."""
        return self.tool_format is not None and not is_known(self.tool_format)

    def check(self, constraint: Constraint | None, model: ModelInfo) -> None:
        """Raise what can be known without the prompt.

        That is `InvalidParameter` for a tool whose name the format cannot carry, `NotSupported` for a tool that the
        format cannot write; `InvalidConstraint` for a schema that cannot be enforced.
        """
        if self.has_tools:
            Dialect.check_names(model, self.tool_format, self.parsed)
        if self.is_forced or (self.has_tools and constraint is not None):
            Dialect.check_writer(model, self.tool_format)
            self.constraint(constraint, model, ())

    def tells_answers(self, constraint: Constraint | None) -> bool:
        """Whether `constraint` is one of the answer: tools are shown beside it, and no call is forced."""
        return constraint is not None and self.shown is not None and not self.is_forced

    def constraint(self, given: Constraint | None, model: ModelInfo, ids: Sequence[int]) -> Constraint | None:
        """What may be written behind the prompt's `ids`: calls that are forced, or calls and what is `given` together.

        None where calls have no say in it.
        """
        if not self.is_forced and (given is None or self.shown is None):
            return None
        dialect = Dialect.of(model, tool_format=self.tool_format)
        opened = dialect.opened_markers(dialect.tail(ids, model.tokenizer))
        thinking = dialect.thinking
        is_thinking = thinking is not None and opened == thinking.start
        opened = "" if is_thinking else opened
        box: Toolbox | None = self.parsed
        answer = None if self.is_forced else given
        name = self.choice if self.is_forced and self.choice != "required" else None
        calls = None if box is None else forced_calls(dialect.name, list(box), name, opened=opened)
        form = find(dialect.name)
        return answer_routes(form, box, calls, answer, thinking=thinking, is_thinking=is_thinking, opened=opened)

    def budget(self, most: int | None, model: ModelInfo, ids: Sequence[int]) -> ReasoningBudget | None:
        """A bound of `most` tokens on each thought behind the prompt's `ids`; None where none is asked for.

        Raises `NotSupported` where the model has no markers of thoughts.
        """
        if most is None:
            return None
        dialect = Dialect.of_thoughts(model, self.tool_format)
        thinking = dialect.thinking
        if thinking is None:
            raise NotSupported("thinking_tokens=", "this model has no markers of thoughts")
        start, end = [
            tuple(model.tokenizer.encode(marker, add_special_tokens=False)) for marker in (thinking.start, thinking.end)
        ]
        is_open = dialect.opened_markers(dialect.tail(ids, model.tokenizer)) == thinking.start
        return ReasoningBudget(start, end, most, is_open)

    @property
    def schemas(self) -> list[Mapping[str, Any]] | None:
        """What the template is given."""
        return None if self.shown is None else self.shown.schemas

    def decoder(
        self, options: GenerateParameters, model: ModelInfo, ids: Sequence[int], seed: int, *, answers: bool
    ) -> Decoder:
        """A `TextDecoder`, with a reader where the model has anything to tell apart. Ids of calls follow the seed.

        `answers`: what is written is calls or an answer, as `constraint` has it.
        """
        box: Toolbox | None = self.parsed
        has_calls = box is not None or answers
        dialect = Dialect.of(model, tool_format=self.tool_format, has_tools=has_calls)
        stream, reader = model.tokenizer.stream(), None
        if not dialect.is_plain:
            stream = dialect.pieces(model.tokenizer, has_tools=has_calls)
            tail = dialect.tail(ids, model.tokenizer)
            salt = f"{seed}/{len(ids)}"
            style = options.reasoning
            reader = dialect.reader(box, style=style, salt=salt, prompt_tail=tail, answers=answers)
        return TextDecoder(
            stream,
            stop_ids=stop_ids(options, model),
            eos=model.stop_tokens,
            stop_strings=stop_strings(options),
            stop_in_thinking=options.stop_in_thinking,
            keep_tokens=options.logprobs is not None,
            reader=reader,
        )


NO_TOOLS = ToolCalling()
