"""The `Backend` of MLX: one pass at a time over mlx-lm's own model classes.

The KV of rows is held by a store, which builds the pass over them: `PackedStore` where the model's attention can be
regrouped by row, so that every token of a pass goes through one forward; else one of `PaddedStore`, `BatchCacheStore`
and `SequentialStore`, where a prompt's chunk is a forward of its own and then all rows decode as one batch.

Numbers stay on the device between passes: the tokens drawn by one pass are the input of the next, read or not. A pass
is dispatched in `sample`, where masks have to be filled up to its logits before they are. The slots are written in
place only if the pass before it has been computed by then, which reading before sampling sees to.

Everything here happens on the engine thread. This module does not know what a request is, nor what its tokens mean.
"""

from __future__ import annotations

import gc
import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from greenroom.backends.mlx import imports

imports.prepare()

import mlx.core as mx  # noqa: E402 - once what its import does is arranged
import numpy as np  # noqa: E402

from greenroom.backends.mlx.adapters.library import MAX_ADAPTERS, AdapterLibrary, Slot  # noqa: E402
from greenroom.backends.mlx.adapters.weights import LoraWeights  # noqa: E402
from greenroom.backends.mlx.device import DeviceLimits, ThreadStreams  # noqa: E402
from greenroom.backends.mlx.device_profile import DeviceProfile, choose_profile  # noqa: E402
from greenroom.backends.mlx.distributed.ranks import Ranks  # noqa: E402
from greenroom.backends.mlx.inspection import ModelProfile, inspect  # noqa: E402
from greenroom.backends.mlx.kv.passes import Pass  # noqa: E402
from greenroom.backends.mlx.kv.stores import Store, Stores  # noqa: E402
from greenroom.backends.mlx.load import Loaded, load_folder, wrap  # noqa: E402
from greenroom.backends.mlx.lost_device import require_device  # noqa: E402
from greenroom.backends.mlx.memory_plan import check_room, device_memory, plan_memory  # noqa: E402
from greenroom.backends.mlx.memory_pressure import MemoryPressure, most_to_hold  # noqa: E402
from greenroom.backends.mlx.prefix_cache.export import export_prefix, import_prefix  # noqa: E402
from greenroom.backends.mlx.prefix_cache.files import PREFIX_FILE_BYTES, PrefixFiles  # noqa: E402
from greenroom.backends.mlx.prefix_cache.store import PrefixNamespace, PrefixStore  # noqa: E402
from greenroom.backends.mlx.process import require_own_process  # noqa: E402
from greenroom.backends.mlx.rows import Row, RowWork, SubmittedPass, TokenRef  # noqa: E402
from greenroom.backends.mlx.sampling.masks import kernel_works  # noqa: E402
from greenroom.backends.mlx.sampling.sampler import BatchSampler  # noqa: E402
from greenroom.backends.mlx.soundness import range_of  # noqa: E402
from greenroom.backends.protocol import (  # noqa: E402
    AdapterWeights,
    Close,
    DropAdapter,
    Edit,
    EditResult,
    Feed,
    FillMasks,
    ForwardPlan,
    LimitPrefixes,
    Masks,
    ModelInfo,
    Open,
    Pack,
    Rewind,
    RowFailure,
    Sampled,
    StepResult,
)
from greenroom.errors import InvalidParameter  # noqa: E402
from greenroom.values import boolean, function, integer, path_of, text  # noqa: E402

__all__ = ["MlxBackend"]

_log = logging.getLogger("greenroom")

Factory = Callable[[], tuple[Any, Any]]

_LEAST_ROOM = 512
"""Tokens: where not even so many fit beside the weights, every request would be told that its prompt is too long."""

_TRIM_EVERY = 256
"""Passes after which freed buffers are given back, as in mlx-lm's own loop: many are of sizes that do not return."""


class MlxBackend:
    """Runs the model in a local folder, or by its name (and `revision`) on the hub, on the default device.

    Code that a model brings is run with `trust_remote_code` alone. `context_length` takes the place of what its files
    say.

    `memory_bytes` overrides what KV may use by default, `prefix_bytes` what is kept of prompts that are over, for those
    that begin alike: by default an eighth of the former, 0 keeps nothing. What falls out of that, and what is held at
    the end, goes to files in `prefix_folder` if there is one, up to `prefix_file_bytes`. `device_profile`, one or its
    name, takes the place of the device's own: see `DeviceProfile`. Open rows have at most `max_adapters` adapters among
    them. Nothing is loaded before `load`.

    With `ranks` it is one of several backends, in as many processes, that hold the model together. All are given the
    same calls in the same order; but for rank 0 no sampling, no masks and no questions for logits. What fails on one
    alone has them out of step, so none of it is mended: it is raised.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        memory_bytes: int | None = None,
        prefix_bytes: int | None = None,
        prefix_folder: str | Path | None = None,
        prefix_file_bytes: int = PREFIX_FILE_BYTES,
        revision: str | None = None,
        trust_remote_code: bool = False,
        context_length: int | None = None,
        max_adapters: int = MAX_ADAPTERS,
        device_profile: DeviceProfile | str | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        path_of("model", model)
        _check_sizes(context_length, memory_bytes, prefix_bytes, prefix_file_bytes)
        if prefix_folder is not None:
            path_of("prefix_folder", prefix_folder)
        if revision is not None:
            text("revision", revision, "None, or the name of a branch, a tag or a commit")
        boolean("trust_remote_code", trust_remote_code)
        integer("max_adapters", max_adapters, 0, None, "an integer of at least 0")
        self._max_adapters = max_adapters
        self._prefix_bytes = prefix_bytes
        self._files = PrefixFiles(prefix_folder, prefix_file_bytes) if prefix_folder is not None else None
        self._name = str(model)
        self._load: Callable[[], Loaded] = lambda: load_folder(
            model, self._device, revision=revision, trust_remote_code=trust_remote_code, ranks=ranks
        )
        self._context_length = context_length
        self._memory_bytes = memory_bytes
        self._device = choose_profile(device_profile)
        self._ranks = ranks
        self._reset()

    @classmethod
    def from_model(
        cls,
        factory: Factory,
        *,
        name: str = "model",
        memory_bytes: int | None = None,
        prefix_bytes: int | None = None,
        prefix_folder: str | Path | None = None,
        prefix_file_bytes: int = PREFIX_FILE_BYTES,
        context_length: int | None = None,
        max_adapters: int = MAX_ADAPTERS,
        device_profile: DeviceProfile | str | None = None,
    ) -> MlxBackend:
        """A backend for what `factory` builds: an mlx-lm model and a tokenizer, called in `load`, on the engine thread.

        The tokenizer may be mlx-lm's wrapper, a transformers one, or anything with the methods of our `Tokenizer`.
        """
        if factory is None:
            raise InvalidParameter("factory", factory, "a function that gives a model and a tokenizer")
        function("factory", factory)
        backend = cls(
            name,
            memory_bytes=memory_bytes,
            prefix_bytes=prefix_bytes,
            prefix_folder=prefix_folder,
            prefix_file_bytes=prefix_file_bytes,
            context_length=context_length,
            max_adapters=max_adapters,
            device_profile=device_profile,
        )
        backend._load = lambda: wrap(*factory())
        return backend

    def _reset(self) -> None:
        self._model: Any = None
        self._profile: ModelProfile | None = None
        self._limits: DeviceLimits | None = None
        self._streams: ThreadStreams | None = None
        self._rows: dict[int, Row] = {}
        self._adapters: dict[int, Slot] = {}
        """By row, of those that have one."""
        self._steps: deque[SubmittedPass] = deque()
        self._pass: Pass | None = None
        self._sampler: tuple[tuple[int, ...], BatchSampler] | None = None
        self._vocab_size = 0
        self._pressure = MemoryPressure(None)
        self._num_read = 0
        self.num_run = 0
        """Tokens in the passes that were built, less rows that could not: the same on all ranks that are in step."""

    def __repr__(self) -> str:
        stores = self._profile.stores if self._profile is not None else None
        return f"<MlxBackend {self._name!r} rows={len(self._rows)} under_way={len(self._steps)} {stores!r}>"

    @property
    def store(self) -> Store | None:
        """Where decoding rows are, for tests and statistics; None while nothing is loaded."""
        return self._profile.stores.main if self._profile is not None else None

    @property
    def model(self) -> Any:
        """mlx-lm's, for who runs it by mlx-lm too, between passes; None while nothing is loaded."""
        return self._model

    @property
    def device(self) -> DeviceProfile:
        """The profile that was asked for, or found, and what the load has changed of it."""
        return self._device

    @property
    def prefixes(self) -> PrefixStore | None:
        """What is kept of prompts that are over, for tests and statistics; None while nothing is."""
        return self._kept.store if self._kept is not None else None

    @property
    def _kept(self) -> PrefixNamespace | None:
        return self._profile.stores.kept if self._profile is not None else None

    def load(self) -> ModelInfo:
        """See `Backend.load`. Raises `UnusablePath` for a `prefix_folder` that cannot be written.

        Loading twice is an error of the caller's. Raises `ForkedProcess` where MLX was used before a fork.
        """
        require_own_process()
        if self._model is not None:
            raise RuntimeError(f"{self!r} is loaded already")
        if self._files is not None:
            self._files.prepare()
        try:
            self._streams = ThreadStreams()
            loaded = self._load()
            self._model = loaded.model
            mx.clear_cache()
            device, weights = device_memory(), mx.get_active_memory()
            plan = plan_memory(device, weights)
            memory = self._memory_bytes if self._memory_bytes is not None else plan.kv
            if self._ranks is not None:
                memory = self._ranks.least(memory)
            self._limits, self._pressure = DeviceLimits(plan.cache), MemoryPressure(most_to_hold(device))
            if self._device.mask == "kernel" and not kernel_works():
                self._device = replace(self._device, mask="bools")
            self._profile = inspect(
                loaded,
                self._name,
                self._device,
                memory,
                prefix_bytes=self._prefix_bytes,
                context_length=self._context_length,
                files=self._files,
                max_adapters=self._max_adapters,
                ranks=self._ranks,
            )
            if self._memory_bytes is None:
                info = self._profile.info
                check_room(self._name, device, weights, _LEAST_ROOM * info.kv_bytes_per_token + info.kv_bytes_per_row)
        except BaseException:
            self.close()
            raise
        self._vocab_size = self._profile.info.vocab_size
        return self._profile.info

    def edit(self, edits: Sequence[Edit]) -> EditResult:
        """See `Backend.edit`."""
        reused: list[tuple[int, int]] = []
        for edit in edits:
            match edit:
                case Open():
                    tokens = self._open(edit)
                    if tokens:
                        reused.append((edit.row, tokens))
                case Close(row=row):
                    self._close_row(row)
                case Rewind(row=row, length=length, sampling=sampling):
                    self._rewind(self._rows[row], length)
                    if sampling is not None:
                        self._rows[row].sampling = sampling
                        self._sampler = None
                case Pack(tight=tight):
                    self._pack(tight=tight)
                case LimitPrefixes(most=most):
                    self._require_stores().limit_prefixes(most)
                case DropAdapter(adapter=adapter):
                    self._library.drop(adapter)
        stores = self._require_stores()
        return EditResult(
            kv_bytes=self._kv_bytes(),
            allocated_bytes=stores.allocated_bytes(self._rows.values()),
            prefix_bytes=stores.prefix_bytes,
            adapter_bytes=self._library.nbytes,
            reused=tuple(reused),
            shared=tuple([(row.id, row.shared_length) for row in self._rows.values() if row.shared_length]),
            shared_bytes=stores.shared_bytes(self._rows.values()),
        )

    def _open(self, edit: Open) -> int:
        """A new row; how many tokens of its prompt it begins with."""
        if not self._rows and self._limits is not None:
            self._limits.keep_freed(keeps=True)
        start = edit.start if edit.start is not None else len(edit.prompt)
        slot = self._library.hold(edit.adapter)
        row = Row(edit.row, edit.sampling, edit.expects, edit.kv, start)
        if slot is not None:
            self._adapters[edit.row] = slot
            row.adapter, row.adapter_key = slot.place, slot.key
        self._rows[edit.row] = row
        stores = self._require_stores()
        try:
            return stores.open(row, edit.prompt)
        except Exception:  # noqa: BLE001 - no room for a copy of what is held: all of the prompt is run
            stores.abandon([row])
            row.begin_with(())
            return 0

    def forward(self, plan: ForwardPlan) -> None:
        """See `Backend.forward`. Builds the graph; `sample` dispatches it."""
        self._pass = None
        if self._ranks is not None and self._ranks.order.is_kept and self._steps:
            self._steps[-1].numbers()  # forwards run as they are built, and write in place behind the last pass alone
        with suppress(Exception):  # rows that it has cost their KV say so, and are run again below
            self._require_stores().tidy()
        try:
            self._library.settle()
            self._pass = self._run(plan.feeds)
        except Exception as error:
            require_device(error)
            if _is_allocation(error):
                self._give_back()
            innocent, failures = self._find_failing(plan.feeds)
            if not innocent:
                raise
            self._pass = self._run(innocent)
            self._pass.failures += failures
        self.num_run -= len(self._pass.failures)
        self._pass.wanted = {feed.row: feed.logits for feed in plan.feeds if feed.logits}
        self._pass.drafts = {feed.row: feed.ids[-feed.drafts :] for feed in plan.feeds if feed.drafts}

    def _run(self, feeds: Sequence[Feed]) -> Pass:
        """Build a pass. Where that fails, the rows are as before, or have lost their KV and say so."""
        before = self._note(feeds)
        try:
            return self._require_stores().run([self._work(feed) for feed in feeds])
        except Exception:
            self._undo(before)
            raise

    def _note(self, feeds: Sequence[Feed]) -> list[tuple[Row, int, bool]]:
        rows = [self._rows[feed.row] for feed in feeds]
        return [(row, row.length, row.kv_lost) for row in rows]

    def _undo(self, before: list[tuple[Row, int, bool]]) -> None:
        for row, length, was_lost in before:
            row.length, row.kv_lost = length, was_lost or (row.kv_lost and length > 0)
        self._require_stores().abandon([row for row, _, _ in before])

    def _work(self, feed: Feed) -> RowWork:
        row = self._rows[feed.row]
        ids = feed.ids
        if row.kv_lost:
            tokens = tuple(row.numbers(0, len(row.tokens)))
            ids = tokens[: row.length] + (ids or tokens[row.length :])
            row.rewind(0)
            row.kv_lost = False
        self.num_run += len(ids) or 1
        if ids:
            row.extend(ids)
        elif row.pending is None:
            raise RuntimeError(f"{row!r} has no token to run")
        return RowWork(row, ids, feed.sample, feed.drafts, feed.logits)

    def _find_failing(self, feeds: Sequence[Feed]) -> tuple[list[Feed], list[RowFailure]]:
        """After a pass could not be built: which rows with several tokens are to blame, tried one by one."""
        innocent: list[Feed] = []
        failures: list[RowFailure] = []
        for feed in feeds:
            before = self._note([feed])
            try:
                if len(feed.ids) > 1 or self._rows[feed.row].kv_lost:
                    self._run([feed])
                    self._undo(before)
            except Exception as error:  # noqa: BLE001 - the edge where a row's failure is told from the others'
                failures.append(RowFailure(feed.row, error))
            else:
                innocent.append(feed)
        return innocent, failures

    def sample(self, masks: Masks | FillMasks | None = None) -> None:
        """See `Backend.sample`. Dispatches the pass."""
        current, self._pass = self._pass, None
        if current is None:
            raise RuntimeError("sample() without a forward()")
        try:
            # 1. While rows that left are still copied from their buffers, none is written in place.
            if self._kept is not None:
                self._kept.store.settle()
            # 2. Where masks have to be filled first, let the pass run meanwhile.
            if callable(masks):
                if current.logits is not None:
                    self._dispatch([current.logits, *current.state])
                masks = masks()
            # 3. Draw, and dispatch all of it.
            step = self._submit(current, masks)
            step.failures, step.done = tuple(current.failures), current.done
        except Exception as error:
            require_device(error)  # what waits for its buffers would wait for ever
            self._recover()  # some methods to draw wait for the pass, which may have failed
            raise
        # 4. What each row drew last, of several draws, is its pending token.
        last = dict(step.report)
        for number, place in last.items():
            self._rows[number].push(TokenRef(step, place))
        self._steps.append(step)

    def _submit(self, current: Pass, masks: Masks | None) -> SubmittedPass:
        """Draw and dispatch; without the kernel of masks, from now on, where that raises."""
        if masks is None or self._device.mask != "kernel" or current.logits is None or self._ranks is not None:
            return self._draw_and_dispatch(current, masks)
        untouched = current.logits[:]  # the array of the same numbers: what is drawn from is written over
        try:
            return self._draw_and_dispatch(current, masks)
        except Exception as error:  # noqa: BLE001 - MLX and Metal's compiler may say anything; what else fails, fails again
            require_device(error)
            _log.warning("masks are laid by an array of bools from now on, since their kernel failed: %s", error)
            self._device, self._sampler = replace(self._device, mask="bools"), None
            current.logits = untouched
            return self._draw_and_dispatch(current, masks)

    def _draw_and_dispatch(self, current: Pass, masks: Masks | None) -> SubmittedPass:
        step = self._draw(current, masks) if current.sampled else SubmittedPass()
        self._dispatch([*current.asked, *step.arrays()])
        return step

    def _dispatch(self, arrays: list[mx.array]) -> None:
        """Hand what `arrays` need to the device."""
        mx.async_eval(arrays)

    def _draw(self, current: Pass, masks: Masks | None) -> SubmittedPass:
        # 1. Where each row's draws are among the logits.
        sites, logits, fed = current.select()
        positions = np.array([site.position for site in sites], dtype=np.uint64)
        places: dict[int, list[int]] = {}
        for place, site in enumerate(sites):
            places.setdefault(site.row.id, []).append(place)
        report = tuple([(row, place) for row in current.sampled for place in places[row]])
        wanted = tuple([places[row][n] for row, numbers in current.wanted.items() if row in places for n in numbers])
        # 2. Draw for all of them, and look at what they draw from, before that is written over.
        found = range_of(logits)
        if self._ranks is not None and not self._ranks.is_leader:
            tokens, found = self._ranks.share(logits, None, found)
            marked = found.mark(tokens, is_fused=self._device.fuses_sampling)
            return SubmittedPass(report, tokens, range=found, marked=marked, drafts=current.drafts)
        sampler = self._sampler_for([site.row for site in sites])
        drawn = sampler.draw(logits, fed, masks, positions, keeps=bool(wanted))
        if self._ranks is not None:
            tokens, found = self._ranks.share(logits, drawn.tokens, found)
            drawn = drawn._replace(tokens=tokens)
        # 3. Copy the logits that were asked for.
        kept = (wanted, logits[mx.array(wanted)].astype(mx.float32)) if wanted else None
        marked = found.mark(drawn.tokens, is_fused=self._device.fuses_sampling)
        return SubmittedPass(report, drawn.tokens, drawn.logprobs, kept, found, marked, current.drafts)

    def _sampler_for(self, rows: list[Row]) -> BatchSampler:
        key = tuple([row.id for row in rows])
        if self._sampler is None or self._sampler[0] != key:
            self._sampler = (key, BatchSampler(rows, self._vocab_size, self._device))
        return self._sampler[1]

    def read(self) -> StepResult:
        """See `Backend.read`."""
        # 1. Wait for the step.
        step = self._steps.popleft()
        try:
            values = step.numbers()
            if step.logprobs is not None:
                mx.eval(step.logprobs.arrays())
        except Exception as error:
            require_device(error)
            self._recover()
            raise
        # 2. Report what rows drew that are still open, up to what could not be drawn.
        rows = self._rows
        report, failures = self._sound_draws(step)
        if step.logprobs is None and step.logits is None:
            sampled = [Sampled(row, values[i]) for row, i in report if row in rows]
        else:
            extras = step.logprobs.by_place() if step.logprobs is not None else {}
            logits = step.logits_by_place()
            sampled = []
            for row, i in report:
                if row in rows:
                    logprob, top = extras.get(i, (None, ()))
                    sampled.append(Sampled(row, values[i], logprob, top, logits.get(i)))
        self._trim()
        stores = self._require_stores()
        return StepResult(
            tuple(sampled),
            tuple([failure for failure in (*step.failures, *failures) if failure.row in rows]),
            kv_bytes=self._kv_bytes(),
            allocated_bytes=stores.allocated_bytes(rows.values()),
            prefix_bytes=stores.prefix_bytes,
            adapter_bytes=self._library.nbytes,
            pressure=self._pressure.count,
        )

    def _sound_draws(self, step: SubmittedPass) -> tuple[Sequence[tuple[int, int]], list[RowFailure]]:
        """The draws of a step that was read, but for those of rows whose logits were none; and these rows' failures.

        Nobody begins with the KV of such a row, nor is it kept.
        """
        faults = step.faults()
        if not faults:
            return step.report, []
        failures: list[RowFailure] = []
        report: list[tuple[int, int]] = []
        for number, (_, error) in faults.items():
            failures.append(RowFailure(number, error, error.is_doubtful))
            if (row := self._rows.get(number)) is not None:
                row.kv_lost = True
                if self._kept is not None:
                    self._kept.store.forget(self._kept.name_of(row.adapter_key), row.known_tokens())
        for number, drawn in groupby(step.report, itemgetter(0)):
            fault = faults.get(number)
            kept = None if fault is None else 0 if fault[1].is_doubtful else fault[0]
            report += [*drawn][:kept]
        return report, failures

    def _trim(self) -> None:
        """Give back what is only kept for later: freed buffers now and then, prefixes too where memory is short."""
        self._num_read += 1
        if self._pressure.look():
            self._give_back()
        elif self._num_read % _TRIM_EVERY == 0:
            mx.clear_cache()

    def _recover(self) -> None:
        """After a failed pass. What waits for other ranks may wait for ever: there nothing is looked at again."""
        if self._ranks is None:
            self._require_stores().recover()

    def _give_back(self) -> None:
        if self._kept is not None and self._ranks is None:  # ranks keep the same, until their scheduler says otherwise
            self._kept.store.release()
        mx.clear_cache()

    def export_prefix(self, tokens: Sequence[int], adapter: int = 0) -> bytes | None:
        """See `PrefixExporter.export_prefix`."""
        kept = self._kept
        return export_prefix(kept.of(self._library.key(adapter)), tokens) if kept is not None else None

    def import_prefix(self, data: bytes) -> int:
        """See `PrefixExporter.import_prefix`."""
        return import_prefix(self._kept, data) if self._kept is not None else 0

    def open_adapter(self, adapter: int, weights: AdapterWeights) -> None:
        """See `AdapterHost.open_adapter`."""
        if not isinstance(weights, LoraWeights):
            raise TypeError(f"{weights!r} was not read for this backend")
        self._library.add(adapter, weights)

    def is_adapter_ready(self, adapter: int, *, is_idle: bool) -> bool:
        """See `AdapterHost.is_adapter_ready`."""
        return self._library.is_ready(adapter, is_idle=is_idle)

    def close(self) -> None:
        """See `Backend.close`."""
        limits, streams = self._limits, self._streams
        if streams is None:  # nothing was loaded, perhaps because MLX must not be touched here
            return
        if self._model is not None:
            mx.synchronize()
        if self._profile is not None:
            self._profile.stores.close()
        self._reset()
        if limits is not None:
            limits.restore()
        gc.collect()
        mx.clear_cache()
        streams.release()

    def _close_row(self, number: int) -> None:
        row = self._rows.pop(number)
        try:
            self._require_stores().of(row).leave(row)
        except Exception:  # noqa: BLE001 - no room to take it out of a batch
            self._require_stores().abandon([row])
        row.cache = None
        self._sampler = None
        self._library.release(self._adapters.pop(number, None))
        if not self._rows:
            self._require_stores().clear()
            if self._limits is not None:
                self._limits.keep_freed(keeps=False)

    def _pack(self, *, tight: bool) -> None:
        stores = self._require_stores()
        try:
            stores.pack(tight=tight)
        except Exception:  # noqa: BLE001 - no room to move rows: those that have lost their KV say so
            stores.abandon(())

    def _rewind(self, row: Row, length: int) -> None:
        if not 0 <= length <= row.length:
            raise ValueError(f"{row!r} cannot be rewound to {length}")
        if length < row.length:
            try:
                self._require_stores().of(row).rewind(row, length)
            except Exception:  # noqa: BLE001 - what cannot be cut is run again
                self._require_stores().abandon([row])
        row.rewind(length)

    def _kv_bytes(self) -> int:
        return self._require_stores().kv_bytes(self._rows.values())

    @property
    def _library(self) -> AdapterLibrary:
        if self._profile is None:
            raise RuntimeError(f"{self!r} is not loaded")
        return self._profile.adapters

    def _require_stores(self) -> Stores:
        if self._profile is None:
            raise RuntimeError(f"{self!r} is not loaded")
        return self._profile.stores


def _check_sizes(context_length: object, memory_bytes: object, prefix_bytes: object, prefix_file_bytes: object) -> None:
    for name, size in {"context_length": context_length, "memory_bytes": memory_bytes}.items():
        if size is not None:
            integer(name, size, 1, None, "None or an integer of at least 1")
    if prefix_bytes is not None:
        integer("prefix_bytes", prefix_bytes, 0, None, "None or an integer of at least 0")
    integer("prefix_file_bytes", prefix_file_bytes, 0, None, "an integer of at least 0")


def _is_allocation(error: Exception) -> bool:
    """Whether a device, or MLX, had no memory to give: they raise no type of their own."""
    text = str(error).lower()
    return "alloc" in text or "memory" in text
