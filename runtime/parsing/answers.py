"""Calls, or an answer that obeys a constraint: what a model may write where it is held to one of them, or to either.

A message is a thought, where the model thinks, and then either calls or the answer, never both and never anything else.
Which of the two it is shows at once: what begins as a call of the format does is one, and no answer may begin so. All
else is the answer, from its first character to its last: markers in it are text.
"""

from __future__ import annotations

from greenroom.constraints.coercion import is_json
from greenroom.constraints.constraint import Constraint
from greenroom.constraints.kinds.all_of import All
from greenroom.constraints.kinds.grammars import Regex
from greenroom.constraints.kinds.lazy import Lazy
from greenroom.constraints.routes.markers import Exactly, Unlike, Until
from greenroom.constraints.routes.routes import Leg, Routes
from greenroom.inputs.tools import Toolbox
from greenroom.parsing.formats import harmony
from greenroom.parsing.formats.format import AnswerMarks, Format
from greenroom.parsing.thinking import Thinking

__all__ = ["answer_routes"]

_BLANK = Regex("\\n{0,2}")
"""Between a thought and what follows it."""


def answer_routes(
    form: Format,
    tools: Toolbox | None,
    calls: Constraint | None,
    answer: Constraint | None,
    *,
    thinking: Thinking | None,
    is_thinking: bool,
    opened: str,
) -> Routes:
    """The `calls` of `tools`, or what `answer` allows, either behind a thought; one of them may be None.

    `is_thinking` says that the prompt has opened the thought: then it comes first, else it may. `opened` is a marker
    that the prompt has written already.
    """
    ways = [] if calls is None else [Leg(calls)]
    if answer is not None:
        ways.append(_answer(form, AnswerMarks.of(form, tools), answer, thinking, opened))
    start, end, between = _thought(form, thinking)
    if not start or (opened and opened == form.begins):
        return Routes(*ways)
    thought = Leg(Until(end), (Leg(between, tuple(ways)),))
    return Routes(thought) if is_thinking else Routes(Leg(Exactly(start), (thought,)), *ways)


def _thought(form: Format, thinking: Thinking | None) -> tuple[str, str, Constraint]:
    """What begins a thought, what ends it, and what stands behind that; nothing begins it where there is none."""
    if form.name == harmony.HARMONY_FORMAT.name:
        return harmony.THOUGHT.start, harmony.THOUGHT.end, Exactly(harmony.NEXT)
    return (*thinking, _BLANK) if thinking is not None else ("", "", _BLANK)


def _answer(form: Format, marks: AnswerMarks, answer: Constraint, thinking: Thinking | None, opened: str) -> Leg:
    """The legs of the answer. Where no marker begins it, it must not begin as something else does."""
    if isinstance(answer, Lazy) and thinking is not None and answer.trigger == thinking.end:
        answer = answer.constraint  # what it waits for has come with the thought
    last = (Leg(Exactly(marks.end)),) if marks.end else ()
    if marks.begin:
        return Leg(Exactly(marks.begin.removeprefix(opened)), (Leg(answer, last),))
    others = (*marks.openings, *([] if thinking is None else [thinking.start]))
    # No JSON begins with a marker.
    may_be_other = bool(others) and (form.is_bare or not is_json(answer))
    return Leg(All(answer, Unlike(others)) if may_be_other else answer, last)
