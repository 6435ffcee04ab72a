"""Tokens as APIs tell them, with their log-probabilities."""

from __future__ import annotations

import msgspec

from greenroom import Runtime, Token

__all__ = ["TokenLogprob", "TopTokenLogprob", "logprob_in_json", "spell", "token_logprob"]

_LEAST_LOGPROB = -9999.0
"""In place of minus infinity, which JSON cannot say."""


class TopTokenLogprob(msgspec.Struct, frozen=True):
    """One of the likeliest tokens; `bytes` are its own, since `token` may be a part of a character."""

    token: str
    bytes: list[int]
    logprob: float


class TokenLogprob(TopTokenLogprob, frozen=True, kw_only=True):
    """The token that was drawn, beside the likeliest."""

    top_logprobs: list[TopTokenLogprob]


def spell(runtime: Runtime, token: int) -> bytes:
    """What `token` adds to a text."""
    known = runtime.vocabulary.bytes
    return known[token] if token < len(known) else b""


def logprob_in_json(logprob: float) -> float:
    """`logprob`, as far as JSON can say it."""
    return max(logprob, _LEAST_LOGPROB)


def token_logprob(runtime: Runtime, token: Token) -> TokenLogprob:
    """As OpenAI has one."""
    top = [TopTokenLogprob(*_spelt(runtime, each.id, each.logprob)) for each in token.top_logprobs]
    text, own, logprob = _spelt(runtime, token.id, token.logprob or 0.0)
    return TokenLogprob(token=text, bytes=own, logprob=logprob, top_logprobs=top)


def _spelt(runtime: Runtime, token: int, logprob: float) -> tuple[str, list[int], float]:
    own = spell(runtime, token)
    return own.decode(errors="replace"), list(own), logprob_in_json(logprob)
