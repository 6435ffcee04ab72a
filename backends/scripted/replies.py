"""Which reply belongs to which prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from greenroom.backends.scripted.reply import Reply
from greenroom.backends.scripted.script import Script
from greenroom.backends.scripted.tokenizer import ByteTokenizer

__all__ = ["Answers", "Replies"]

Answers = Mapping[str, str | Reply] | Callable[[str, int], str | Reply] | str | Reply | None


class Replies:
    """Looks a prompt up: as the whole text of its ids, as its last user message, as "*"; else it is repeated."""

    def __init__(self, answers: Answers, tokenizer: ByteTokenizer) -> None:
        self._answers = answers
        self._tokenizer = tokenizer

    def __repr__(self) -> str:
        return f"<Replies {self._answers!r}>"

    def knows(self, ids: Sequence[int]) -> bool:
        """Whether there is a reply for exactly this prompt."""
        return isinstance(self._answers, Mapping) and self._whole(ids) in self._answers

    def script(self, ids: Sequence[int], seed: int) -> Script:
        """The reply to a prompt, as ids. A callable's exceptions go to the caller."""
        answers = self._answers
        message = self._tokenizer.last_user_text(ids)
        whole = self._whole(ids)
        last = whole if message is None else message
        if isinstance(answers, str | Reply):
            found: str | Reply = answers
        elif isinstance(answers, Mapping):
            found = next((answers[key] for key in (whole, last, "*") if key in answers), last)
        else:
            found = last if answers is None else answers(last, seed)
        return Script(Reply(found) if isinstance(found, str) else found, self._tokenizer)

    def _whole(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False)
