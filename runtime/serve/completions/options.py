"""What both APIs' fields come to as options of a generation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from greenroom import Choice, Constraint, Gbnf, Lark, Regex
from greenroom.serve.completions.requests import CompletionRequest, StructuredOutputs
from greenroom.serve.faults import FieldNames, invalid
from greenroom.serve.options import (
    given_options,
    object_constraint,
    schema_constraint,
    stop_strings_of,
    user_options,
)
from greenroom.serve.settings import ServeSettings

__all__ = [
    "CHAT_NAMES",
    "TEXT_NAMES",
    "choices_of",
    "common_options",
    "structured_constraint",
]

_NAMES: Mapping[str, str] = {
    "thinking": "reasoning_effort",
    "adapter": "model",
    "template_options": "chat_template_kwargs",
}
_SAME = (
    *("max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "min_tokens", "priority"),
    *("presence_penalty", "frequency_penalty"),
)
_WORDS = 2**64
MOST_BIASED = 10_000
"""Tokens with a bias: each is checked while streams wait."""


def common_options(asked: CompletionRequest, settings: ServeSettings) -> dict[str, Any]:
    """The parameters that both APIs have. What a request leaves out is up to the runtime."""
    options = given_options(asked, _SAME, settings) | user_options(asked.user, asked.safety_identifier)
    if asked.seed is not None:
        options["seed"] = asked.seed % _WORDS  # any integer is a seed there
    if asked.stop is not None:
        options["stop"] = stop_strings_of(asked.stop, settings)
    if asked.logit_bias:
        if len(asked.logit_bias) > MOST_BIASED:
            raise invalid(
                f"logit_bias has at most {MOST_BIASED} tokens here, got {len(asked.logit_bias)}", "logit_bias"
            )
        options["logit_bias"] = {_token_id(token): bias for token, bias in asked.logit_bias.items()}
    return options


def _token_id(token: str) -> int:
    if not (token.isascii() and token.isdecimal() and len(token) < 12):
        raise invalid(f"logit_bias has token ids as its keys, got {token[:80]!r}", "logit_bias")
    return int(token)


def choices_of(asked: CompletionRequest, num_prompts: int, settings: ServeSettings) -> int:
    """How many texts each prompt gets. Raises `RequestRefused` for more than the server allows."""
    wanted = 1 if asked.n is None else asked.n
    most = settings.most_choices
    if wanted < 1 or wanted * num_prompts > most:
        of_prompts = f" for {num_prompts} prompts" if num_prompts > 1 else ""
        raise invalid(f"n must be from 1 to {most // max(1, num_prompts)} here{of_prompts}, got {wanted}", "n")
    return wanted


def structured_constraint(given: StructuredOutputs) -> Constraint | None:
    """The one thing that it says. Raises `RequestRefused` for several, `InvalidConstraint` for what cannot be."""
    made = {name: getattr(given, name) for name in given.__struct_fields__ if getattr(given, name)}
    if len(made) > 1:
        raise invalid(f"structured_outputs has one of its fields, got {', '.join(made)}", "structured_outputs")
    match made:
        case {"json": schema}:
            return schema_constraint(schema, strict=True)
        case {"json_object": True}:
            return object_constraint()
        case {"regex": pattern}:
            return Regex(pattern)
        case {"choice": options}:
            return Choice(*options)
        case {"grammar": text}:
            return Gbnf(text) if "::=" in text else Lark(text)
        case _:
            return None


CHAT_NAMES = FieldNames(parameters={**_NAMES, "logprobs": "top_logprobs"})
TEXT_NAMES = FieldNames(prompt="prompt", constraint="structured_outputs", parameters=_NAMES)
