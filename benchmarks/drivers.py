"""The two engines that are compared, each run over a mix of requests: greenroom and mlx-lm's batch generation.

Greenroom runs through its whole async layer, with a task that reads each stream. `BatchGenerator` is read in a plain
loop, which hands in what is due between two of its steps and notes the time whenever a step returns.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping, Sequence
from typing import Any

import anyio
from records import Record, Request, Stream
from subjects import BatchGenerator, Subject, make_prompt_cache, make_sampler, mx
from subjects import batch_generate as mlx_lm_batch_generate

from greenroom import Chunk, Info, Token
from greenroom.backends.mlx import MlxBackend
from greenroom.runtime import Runtime

__all__ = ["Held", "backend_of", "batch_generate", "batch_generator", "greenroom", "held", "keeps_prefixes"]

OPEN_END = 1000
"""Tokens at most of a request that has no number of its own."""
Held = Mapping[tuple[int, ...], Any]
"""Caches of prompts that have been run but for their last token."""


class Log:
    """When tokens came, and which requests are due, leave or are done."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self.requests = requests
        self.asked = [request.at for request in requests]
        self.times: list[list[float]] = [[] for _ in requests]
        self.ids: list[list[int]] = [[] for _ in requests]
        self.left = {i for i, request in enumerate(requests) if request.tokens is not None}
        self.seconds = 0.0
        self.beat = 0
        self._unbegun = {i for i, request in enumerate(requests) if not request.beat}
        self._began = time.perf_counter()

    def now(self) -> float:
        """Seconds since the run began."""
        return time.perf_counter() - self._began

    def token(self, place: int, now: float, token: int = -1) -> bool:
        """Request number `place` has one more; True when that is a beat."""
        self.times[place].append(now)
        self.ids[place].append(token)
        is_beat = place == 0 and not self._unbegun
        self._unbegun.discard(place)
        self.beat += is_beat
        return is_beat

    def done(self, place: int) -> bool:
        """Note an end; True when all requests with a number have ended."""
        self.left.discard(place)
        if not self.left and not self.seconds:
            self.seconds = self.now()
        return not self.left

    def record(self) -> Record:
        """What was seen. Raises where a request has fewer tokens than it wanted."""
        for request, times in zip(self.requests, self.times, strict=True):
            if request.tokens is not None and len(times) != request.tokens:
                raise RuntimeError(f"{len(times)} tokens instead of {request.tokens}")
        parts = zip(self.asked, self.times, self.ids, strict=True)
        streams = tuple(Stream(asked, tuple(times), tuple(ids)) for asked, times, ids in parts if times)
        return Record(self.seconds, sum(map(len, self.times)), streams)


def keeps_prefixes() -> bool:
    """Whether this greenroom can keep the KV of prompts that are over."""
    has_bound = "prefix_bytes" in inspect.signature(Runtime.__init__).parameters
    return has_bound and "prefix_bytes" in inspect.signature(MlxBackend.from_model).parameters


def backend_of(subject: Subject, *, prefix_bytes: int = 0) -> MlxBackend:
    """A backend that keeps no prompt unless told to: rounds repeat their prompts."""
    options: dict[str, Any] = {"prefix_bytes": prefix_bytes} if keeps_prefixes() else {}
    return MlxBackend.from_model(subject, **options)


class Mix:
    """One run of greenroom."""

    def __init__(self, runtime: Runtime, requests: Sequence[Request], *, is_text: bool) -> None:
        self._runtime = runtime
        self._start = runtime.generate if is_text else runtime.generate_tokens
        self._open: dict[int, Any] = {}
        self._beats = {request.beat: anyio.Event() for request in requests if request.beat}
        self.log = Log(requests)

    async def read(self, place: int) -> None:
        """One request, from when it is due to its end."""
        request, log = self.log.requests[place], self.log
        if request.beat:
            await self._beats[request.beat].wait()
            log.asked[place] = log.now()
        else:
            await anyio.sleep(max(0.0, request.at - log.now()))
        wanted = request.tokens if request.tokens is not None else OPEN_END
        stream = self._start(list(request.ids), max_tokens=wanted, default_stops=False, **request.sampling)
        self._open[place] = stream
        async for event in stream:
            match event:
                case Token(id=token):
                    self._token(place, token)
                case Chunk():
                    self._token(place, -1)
                case Info(generation_tokens=count) if request.tokens not in (None, count):
                    raise RuntimeError(f"{count} tokens instead of {request.tokens}")
        del self._open[place]
        if log.done(place):
            self._leave(None)

    def _token(self, place: int, token: int) -> None:
        if self.log.token(place, self.log.now(), token):
            if event := self._beats.get(self.log.beat):
                event.set()
            self._leave(self.log.beat)

    def _leave(self, beat: int | None) -> None:
        """Cancel those that leave at this beat; None: all that are left."""
        for place, stream in self._open.items():
            if beat is None or self.log.requests[place].until == beat:
                stream.task.cancel()


async def greenroom(runtime: Runtime, requests: Sequence[Request], *, is_text: bool = False) -> Record:
    """A task for each request; with `is_text` tokens become text on the way, and chunks are counted."""
    mix = Mix(runtime, requests, is_text=is_text)
    async with anyio.create_task_group() as group:
        for place in range(len(requests)):
            group.start_soon(mix.read, place)
    return mix.log.record()


class Feeder:
    """One run of `BatchGenerator`."""

    def __init__(self, model: Any, requests: Sequence[Request], rows: int, held: Held) -> None:
        self._generator = BatchGenerator(model, completion_batch_size=rows, prefill_batch_size=min(8, rows))
        self._held = held
        keys = [tuple(sorted(request.sampling.items())) for request in requests]
        samplers = {key: _sampler(dict(key)) for key in keys}  # rows of one sampling share one sampler: one call a step
        self._samplers = [samplers[key] for key in keys]
        self._waiting = sorted(range(len(requests)), key=lambda place: (requests[place].at, requests[place].beat))
        self._open: dict[int, int] = {}
        self.log = Log(requests)

    def run(self) -> Record:
        """Until every request with a number is done."""
        while self.log.left:
            self._insert_due()
            if not self._open:
                upcoming = self.log.requests[self._waiting[0]].at
                time.sleep(max(0.0, upcoming - self.log.now()))
                continue
            _, responses = self._generator.next()
            now = self.log.now()
            for response in responses:
                self._token(response, now)
        self._generator.close()
        return self.log.record()

    def _insert_due(self) -> None:
        log, due = self.log, []
        for place in self._waiting:
            request = log.requests[place]
            if request.beat <= log.beat and request.at <= log.now():
                due.append(place)
                if request.beat:
                    log.asked[place] = log.times[0][-1]
        for place in due:
            self._waiting.remove(place)
            self._insert(place)

    def _insert(self, place: int) -> None:
        request = self.log.requests[place]
        cache = self._held.get(request.ids)
        ids = list(request.ids)
        wanted = request.tokens if request.tokens is not None else OPEN_END
        (uid,) = self._generator.insert(
            [ids[-1:] if cache is not None else ids],
            max_tokens=[wanted],
            caches=None if cache is None else [cache],
            all_tokens=None if cache is None else [ids[:-1]],
            samplers=[self._samplers[place]],
        )
        self._open[uid] = place

    def _token(self, response: Any, now: float) -> None:
        place = self._open.get(response.uid)
        if place is None:  # a step that was under way when the row left
            return
        is_beat = self.log.token(place, now, response.token)
        if response.finish_reason is not None:
            del self._open[response.uid]
            self.log.done(place)
        if is_beat:
            self._remove_leaving()

    def _remove_leaving(self) -> None:
        beat = self.log.beat
        leaving = [uid for uid, place in self._open.items() if self.log.requests[place].until == beat]
        for uid in leaving:
            del self._open[uid]
        if leaving:
            self._generator.remove(leaving)


def batch_generator(model: Any, requests: Sequence[Request], *, rows: int = 16, held: Held | None = None) -> Record:
    """Mlx-lm's `BatchGenerator`, with the caches in `held` for prompts that have been run already."""
    return Feeder(model, requests, rows, held or {}).run()


class NoStops:
    """What `batch_generate` wants of a tokenizer."""

    eos_token_ids = ()

    def decode(self, _ids: Sequence[int]) -> str:
        """No text: the tokens are what is compared."""
        return ""


def batch_generate(model: Any, requests: Sequence[Request], *, rows: int = 16) -> Record:
    """Mlx-lm's `batch_generate`, which tells nothing before it is through."""
    wanted = [request.tokens or OPEN_END for request in requests]
    began = time.perf_counter()
    prompts = [list(request.ids) for request in requests]
    options = {"completion_batch_size": rows, "prefill_batch_size": min(8, rows)}
    mlx_lm_batch_generate(model, NoStops(), prompts, max_tokens=wanted, **options)
    return Record(time.perf_counter() - began, sum(wanted))


def held(model: Any, prompts: Sequence[tuple[int, ...]], *, chunk: int = 512) -> Held:
    """Run prompts but for their last token."""
    found = {}
    for ids in prompts:
        cache = make_prompt_cache(model)
        for start in range(0, len(ids) - 1, chunk):
            model(mx.array([ids[start : min(start + chunk, len(ids) - 1)]]), cache=cache)
            mx.eval([layer.state for layer in cache])
        found[ids] = cache
    return found


def _sampler(sampling: dict[str, Any]) -> Any:
    temperature = sampling.pop("temperature")
    sampling.pop("seed", None)  # mlx-lm draws all rows from one stream of random numbers
    return make_sampler(temp=temperature, **sampling)
