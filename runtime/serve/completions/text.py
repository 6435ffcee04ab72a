"""`POST /v1/completions`: text behind raw prompts, of which there may be several: no template, tools or thoughts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import cast

import msgspec

from greenroom import Chunk, Event, Info, Runtime, Token
from greenroom.inputs.prompts import Prompt
from greenroom.serve.completions.answers import CompletionUsage, FinishReason, usage_of
from greenroom.serve.completions.options import TEXT_NAMES, choices_of, common_options, structured_constraint
from greenroom.serve.completions.requests import IGNORED, TextRequest
from greenroom.serve.envelopes import OpenAIEnvelope
from greenroom.serve.exchange import HttpExchange
from greenroom.serve.faults import Fault, invalid
from greenroom.serve.generations import GenerationRequest
from greenroom.serve.models import ServedModel
from greenroom.serve.sse import DONE, sse_frame
from greenroom.serve.tokens import logprob_in_json, spell

__all__ = ["TextAnswer", "text_completions"]

DEFAULT_MAX_TOKENS = 16
"""As OpenAI's API has it: clients that leave it out count on a short text."""
_ENVELOPE = OpenAIEnvelope()


class TextLogprobs(msgspec.Struct, frozen=True):
    """Of a text's tokens, in four lists; an offset counts characters of the text that is sent."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class TextChoice(msgspec.Struct, frozen=True):
    """One text, or a piece of it."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: FinishReason | None


class TextCompletion(msgspec.Struct, frozen=True, omit_defaults=True):
    """The whole answer, or a chunk of it: they look alike."""

    id: str
    object: str
    created: int
    model: str
    choices: Sequence[TextChoice]
    usage: CompletionUsage | None = None


async def text_completions(exchange: HttpExchange) -> None:
    """Complete texts."""
    exchange.names = TEXT_NAMES
    exchange.record.operation = "text_completion"
    asked = await exchange.read(TextRequest, IGNORED)
    model = exchange.models.find(asked.model)
    _check(asked)
    prompts = _prompts(asked.prompt)
    choices = choices_of(asked, len(prompts), exchange.settings)
    options = {"max_tokens": DEFAULT_MAX_TOKENS, "reasoning": "text", "stop_in_thinking": True}
    options |= common_options(asked, exchange.settings)
    if any(isinstance(prompt, str) for prompt in prompts):
        options["template"] = False
    if asked.logprobs is not None:
        options["logprobs"] = asked.logprobs
    constraint = None if asked.structured_outputs is None else structured_constraint(asked.structured_outputs)
    if constraint is not None:
        options["constrain"] = constraint
    request = GenerationRequest(model=model, prompts=prompts, options=options, choices=choices)
    echoed = [_text_of(prompt, model.runtime) for prompt in prompts] if asked.echo else [""] * len(prompts)
    has_usage = asked.stream_options is not None and asked.stream_options.include_usage
    answer = TextAnswer(f"cmpl-{exchange.id}", model, echoed, choices, has_usage=has_usage)
    await exchange.generate(request, answer, streams=bool(asked.stream))


def _check(asked: TextRequest) -> None:
    if asked.suffix:
        raise invalid("a text between two others cannot be asked for: leave suffix out", "suffix", code="unsupported")
    if asked.best_of not in (None, asked.n or 1):
        raise invalid("best_of is left out, or n: texts are not ranked", "best_of", code="unsupported")
    if asked.echo and asked.logprobs is not None:
        raise invalid("log-probabilities of an echoed prompt are not given: ask for one of both", "logprobs")


def _prompts(given: str | list[str | int | list[int]]) -> list[Prompt]:
    """A text, several, the ids of one, or those of several."""
    if isinstance(given, str):
        return [given]
    kinds = {type(each) for each in given}
    if len(kinds) != 1:
        raise invalid("prompt is a text, texts, token ids, or lists of them: not empty, and of one kind", "prompt")
    return [cast("list[int]", given)] if kinds == {int} else cast("list[Prompt]", given)


def _text_of(prompt: Prompt, runtime: Runtime) -> str:
    if isinstance(prompt, str):
        return prompt
    ids = cast("list[int]", prompt)
    width = runtime.model.vocab_size
    return runtime.tokenizer.decode([token for token in ids if 0 <= token < width], skip_special_tokens=False)


class TextAnswer:
    """An answer with texts: see `Answer`."""

    def __init__(
        self, identity: str, model: ServedModel, echoed: Sequence[str], choices: int, *, has_usage: bool
    ) -> None:
        """`echoed` is what stands in front of the texts of each prompt."""
        self._id = identity
        self._model = model
        self._created = int(time.time())
        self._echoed = [text for text in echoed for _ in range(choices)]
        self._choices = choices
        self._has_usage = has_usage
        self._offsets = [len(text) for text in self._echoed]
        self._infos: dict[int, Info] = {}

    def __repr__(self) -> str:
        return f"<TextAnswer {self._id}>"

    def begin(self) -> bytes:
        """The prompts, where they were asked for."""
        return b"".join([self._frame(TextChoice(n, text, None, None)) for n, text in enumerate(self._echoed) if text])

    def write(self, number: int, event: Event) -> bytes:
        """One chunk an event."""
        match event:
            case Chunk():
                return self._frame(TextChoice(number, event.text, self._logprobs(number, [event]), None))
            case Info():
                self._infos[number] = event
                return self._frame(TextChoice(number, "", None, _reason(event)))
            case _:
                return b""

    def finish(self) -> bytes:
        """The usage, where it was asked for, and the end."""
        if not self._has_usage:
            return DONE
        chunk = self._completion((), usage_of(self._infos, self._choices))
        return sse_frame(msgspec.json.encode(chunk)) + DONE

    def fail(self, fault: Fault) -> bytes:
        """The error as the last data."""
        return sse_frame(_ENVELOPE.body(fault))

    def whole(self, texts: Sequence[Sequence[Event]]) -> bytes:
        """All texts."""
        choices = []
        for number, events in enumerate(texts):
            info = self._infos[number] = cast("Info", events[-1])
            chunks = [event for event in events if isinstance(event, Chunk)]
            text = self._echoed[number] + "".join([chunk.text for chunk in chunks])
            choices.append(TextChoice(number, text, self._logprobs(number, chunks), _reason(info)))
        return msgspec.json.encode(self._completion(choices, usage_of(self._infos, self._choices)))

    def _frame(self, choice: TextChoice) -> bytes:
        return sse_frame(msgspec.json.encode(self._completion((choice,), None)))

    def _completion(self, choices: Sequence[TextChoice], usage: CompletionUsage | None) -> TextCompletion:
        return TextCompletion(self._id, "text_completion", self._created, self._model.name, choices, usage)

    def _logprobs(self, number: int, chunks: Sequence[Chunk]) -> TextLogprobs | None:
        tokens = [token for chunk in chunks for token in chunk.tokens if token.logprob is not None]
        if not tokens:
            return None
        texts = [self._spelt(token.id) for token in tokens]
        offsets = []
        for text in texts:
            offsets.append(self._offsets[number])
            self._offsets[number] += len(text)
        logprobs = [logprob_in_json(token.logprob or 0.0) for token in tokens]
        return TextLogprobs(texts, logprobs, [self._top(token) for token in tokens], offsets)

    def _top(self, token: Token) -> dict[str, float]:
        return {self._spelt(each.id): logprob_in_json(each.logprob) for each in token.top_logprobs}

    def _spelt(self, token: int) -> str:
        return spell(self._model.runtime, token).decode(errors="replace")


def _reason(info: Info) -> FinishReason:
    return "length" if info.stop_reason == "length" else "stop"
