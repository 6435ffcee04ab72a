"""What the double says to one prompt, as text and as ids, where in it a row stands, and which reply a prompt gets."""

from __future__ import annotations

import reprlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from greenroom.backends.protocol import Sampling
from greenroom.backends.scripted.failures import ScriptFailed
from greenroom.backends.scripted.tokenizer import END, ByteTokenizer
from greenroom.errors import InvalidParameter, shown
from greenroom.values import boolean

__all__ = ["Answers", "Replies", "Reply", "Script", "ScriptedRequest"]

_MOST = 1024


class Reply(msgspec.Struct, frozen=True):
    """`text`, then `ids`, then the end of the turn; nothing but the end if both are empty.

    In `text`, special tokens may be spelt out ("<think>", "<tool_call>"). With `repeat`, or without `end`, it begins
    again for ever. With `delay`, the row's first token takes that many steps more: the read that gives it lets them
    pass, so every row of that pass waits, as it would for a long prompt. At its `fail_at`-th token (the first is 1) the
    row fails alone, with `error`. With `bends` it fits every constraint: where that takes nothing of the reply, the
    lowest legal id is said in its place.
    """

    text: str = ""
    ids: tuple[int, ...] = ()
    end: bool = True
    delay: int = 0
    repeat: bool = False
    fail_at: int | None = None
    error: Exception | None = None
    bends: bool = False

    def __post_init__(self) -> None:
        """Raises `InvalidParameter` for a field of another type, or for what could never be said."""
        _check_text("the text of a reply", self.text)
        ids: object = self.ids
        for name, value in (("delay", self.delay), ("fail_at", self.fail_at)):
            if not _is_int(value) and not (name == "fail_at" and value is None):
                raise InvalidParameter(f"the {name} of a reply", value, "an integer")
        for name, value in (("end", self.end), ("repeat", self.repeat), ("bends", self.bends)):
            boolean(f"the {name} of a reply", value)
        if not isinstance(ids, list | tuple) or not all(map(_is_int, ids)):
            raise InvalidParameter("the ids of a reply", self.ids, "integers, in a tuple")
        if not isinstance(self.error, Exception | None):
            raise InvalidParameter("the error of a reply", self.error, "an exception, or None")
        if self.delay < 0:
            raise InvalidParameter("the delay of a reply", self.delay, "at least 0")
        if self.fail_at is not None and self.fail_at < 1:
            raise InvalidParameter("the fail_at of a reply", self.fail_at, "at least 1")
        if self.is_endless and not (self.text or self.ids):
            raise InvalidParameter("the text of a reply that repeats", self.text, "not empty, where there are no ids")

    @property
    def is_endless(self) -> bool:
        """Whether it begins again instead of ending."""
        return self.repeat or not self.end


class ScriptedRequest(msgspec.Struct, frozen=True):
    """What the double was asked, once: a prompt that was run, and how tokens were to be drawn behind it.

    A request that is run again, because its KV was lost, is the same one; each continuation of a context is one more.
    """

    ids: tuple[int, ...]
    text: str
    """All of the prompt, special tokens spelt out: what the chat template made of a conversation."""
    message: str
    """The last user message; of what is no conversation, `text`."""
    sampling: Sampling
    """Seed, temperature and all else that a backend is told of a request's draws."""
    reply: Reply | None
    """What was said to it; None where there was nothing left to say."""


class Script:
    """The ids that a row prefers, in order. A place in it follows from the row's tokens alone.

    A row goes on behind the first scripted id, from its place on, that equals its newest token; a token that the script
    does not have leaves it where it stands. The end, where there is one, is said for ever.
    """

    __slots__ = ("ids", "reply")

    def __init__(self, reply: Reply, tokenizer: ByteTokenizer) -> None:
        self.reply = reply
        ids = (*tokenizer.encode(reply.text), *reply.ids)
        self.ids = ids if reply.is_endless else (*ids, END)

    def __repr__(self) -> str:
        return f"<Script ids={len(self.ids)} endless={self.reply.is_endless}>"

    def choices(self, place: int) -> Iterator[tuple[int, int]]:
        """(id, the place behind it) from `place` on; of an endless reply, one round."""
        count = len(self.ids)
        if self.reply.is_endless:
            for at in range(place, place + count):
                yield self.ids[at % count], at + 1
        else:
            for at in range(min(place, count - 1), count):
                yield self.ids[at], min(at + 1, count - 1)

    def advance(self, place: int, tokens: Sequence[int]) -> int:
        """The place of a row that was at `place`, after `tokens`."""
        for token in tokens:
            place = next((following for choice, following in self.choices(place) if choice == token), place)
        return place


Answer = str | Reply
Answers = Mapping[str, Answer] | Sequence[Answer] | Callable[[str, int], Answer] | Answer | None


class _Taken(NamedTuple):
    """A reply of a list, and the prompt that it went to."""

    ids: tuple[int, ...]
    seed: int
    script: Script


class Replies:
    """Looks a prompt up: as the whole text of its ids, as its last user message, as "*"; else it is repeated.

    Of a list the next reply is taken. Raises `InvalidParameter` for replies of another type.
    """

    def __init__(self, answers: Answers, tokenizer: ByteTokenizer, vocab_size: int) -> None:
        self._answers = _checked(answers)
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        for reply in _known(self._answers):
            self._script(reply)
        self.reset()

    def __repr__(self) -> str:
        return f"<Replies {reprlib.repr(self._answers)}>"

    def reset(self) -> None:
        """Begin a list anew, and forget who asked."""
        self._num_taken = 0
        self._taken: deque[_Taken] = deque(maxlen=_MOST)
        self._unread: deque[_Taken] = deque(maxlen=_MOST)
        self.requests: deque[ScriptedRequest] = deque(maxlen=_MOST)
        """Who asked, the newest last; of many the newest."""

    def knows(self, ids: Sequence[int]) -> bool:
        """Whether there is a reply for exactly this prompt."""
        return isinstance(self._answers, Mapping) and self._whole(ids) in self._answers

    def script(self, ids: Sequence[int], sampling: Sampling, said: Sequence[int] = ()) -> Script:
        """The reply to a prompt behind which `said` was said before, as ids.

        A callable's exceptions go to the caller. Raises `ScriptFailed` where a list is at its end, and where a callable
        gave no reply.
        """
        whole = self._whole(ids)
        found = self._tokenizer.last_user_text(ids)
        message = whole if found is None else found
        is_again = bool(said)
        script: Script | None = None
        try:
            if isinstance(self._answers, tuple) and not said:
                script = self._given_back(tuple(ids), sampling.seed)
                is_again = script is not None
            script = script or self._find(tuple(ids), sampling.seed, said, whole, message)
        finally:
            if not is_again:
                reply = None if script is None else script.reply
                self.requests.append(ScriptedRequest(tuple(ids), whole, message, sampling, reply))
        return script

    def give_back(self, ids: Sequence[int], seed: int, script: Script) -> None:
        """Nobody read a token of `script`: the next request of the same prompt and seed gets it."""
        self._unread.append(_Taken(tuple(ids), seed, script))

    def _find(self, ids: tuple[int, ...], seed: int, said: Sequence[int], whole: str, message: str) -> Script:
        answers = self._answers
        if isinstance(answers, str | Reply):
            return self._script(answers)
        if isinstance(answers, Mapping):
            return self._script(next((answers[key] for key in (whole, message, "*") if key in answers), message))
        if isinstance(answers, Sequence):
            return self._continued(ids, seed, said) or self._next(answers, ids, seed, message)
        return self._script(message if answers is None else answers(message, seed))

    def _next(self, answers: Sequence[Answer], ids: tuple[int, ...], seed: int, message: str) -> Script:
        number = self._num_taken
        if number == len(answers):
            raise ScriptFailed(
                f"the script has {number} replies, and a request came that needs number {number + 1}: {shown(message)}"
            )
        self._num_taken += 1
        taken = _Taken(ids, seed, self._script(answers[number]))
        self._taken.append(taken)
        return taken.script

    def _continued(self, ids: tuple[int, ...], seed: int, said: Sequence[int]) -> Script | None:
        """What was begun behind the same prompt: with the same words and seed rather than with others."""
        if not said:
            return None
        found = [taken for taken in self._taken if taken.ids == ids]
        begin = tuple(said)
        best = max(
            enumerate(found),
            key=lambda at: (at[1].script.ids[: len(begin)] == begin, at[1].seed == seed, at[0]),
            default=None,
        )
        return None if best is None else best[1].script

    def _given_back(self, ids: tuple[int, ...], seed: int) -> Script | None:
        for taken in self._unread:
            if (taken.ids, taken.seed) == (ids, seed):
                self._unread.remove(taken)
                return taken.script
        return None

    def _script(self, answer: object) -> Script:
        if not isinstance(answer, str | Reply):
            raise ScriptFailed(f"a reply is text or a Reply, the callable gave {shown(answer)}")
        script = Script(Reply(answer) if isinstance(answer, str) else answer, self._tokenizer)
        if not all(0 <= token < self._vocab_size for token in script.ids):
            raise InvalidParameter("the ids of a reply", script.reply.ids, f"from 0 to {self._vocab_size - 1}")
        return script

    def _whole(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False)


def _checked(answers: Answers) -> Answers:
    """`answers` as they are now, of the right type all through."""
    if isinstance(answers, Mapping):
        given: list[tuple[object, object]] = [*answers.items()]
        for key, value in given:
            if not isinstance(key, str) or not isinstance(value, str | Reply):
                raise InvalidParameter("a reply by its prompt", {key: value}, "text or a Reply, by text")
        return dict(answers)
    if isinstance(answers, Sequence) and not isinstance(answers, str | bytes | bytearray | memoryview):
        for number, value in enumerate(answers):
            if not isinstance(value, str | Reply):
                raise InvalidParameter(f"item {number} of the replies", value, "text or a Reply")
        return tuple(answers)
    if answers is not None and not isinstance(answers, str | Reply) and not callable(answers):
        raise InvalidParameter("replies", answers, "text, a Reply, several in a list or by prompt, a callable, or None")
    return answers


def _known(answers: Answers) -> list[Answer]:
    """The replies that are known before anybody asks."""
    if isinstance(answers, str | Reply):
        return [answers]
    if isinstance(answers, Mapping):
        return list(answers.values())
    return list(answers) if isinstance(answers, Sequence) else []


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_text(what: str, text: object) -> None:
    if not isinstance(text, str):
        raise InvalidParameter(what, text, "a str")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidParameter(what, text, "Unicode text") from None
