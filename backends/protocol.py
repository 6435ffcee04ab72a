"""The contract between the scheduler and whatever computes.

A backend knows rows, token ids and numbers. It does not know requests, text, tasks or grammars. Every method is called
on one thread, the engine thread, in this order, once a turn::

    edit(edits)            rows open, close, rewind             (takes effect behind every submitted pass)
    forward(plan)          builds one pass; the rows' newest tokens may still be unread
    read()                 the oldest sampled step that was not read yet (at most two are under way)
    sample(masks)          samples the rows of the last forward that ask for it, and submits the pass; where masks have
                           to be filled first, the pass is under way while they are
    close()                once, at the end; the backend may be loaded again afterwards

`forward` is always followed by `sample` before the next `forward`. A turn without work to submit skips `forward` and
`sample`; a turn with nothing under way skips `read`. A backend may submit its pass in `forward` already.

Where `ModelInfo.pipelines`, `sample` comes before `read`, so that the device has its next pass when it is done with the
last one. A function that fills masks may then call `read` itself, once: it needs what the last pass drew.

Ids, numbers and numpy rows cross this boundary; arrays of the backend's own never do. So a backend may well be in
another process: what is not plain here (`array_like` structs are plain) is made again on the other side.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import msgspec
import numpy as np
import numpy.typing as npt

__all__ = [
    "AdapterHost",
    "AdapterReader",
    "AdapterWeights",
    "Backend",
    "Close",
    "DropAdapter",
    "Edit",
    "EditResult",
    "Feed",
    "FillMasks",
    "ForwardPlan",
    "KvOptions",
    "LimitPrefixes",
    "Masks",
    "ModelInfo",
    "Open",
    "Pack",
    "PrefixExporter",
    "Rewind",
    "RowFailure",
    "Sampled",
    "Sampling",
    "StepResult",
    "TextStream",
    "Tokenizer",
]


class TextStream(Protocol):
    """Turns one row's ids into text, piece by piece; the pieces joined equal the decode of all ids."""

    def step(self, token: int) -> str:
        """The text that `token` completes; empty while a code point is incomplete."""

    def flush(self) -> str:
        """The text still held back (an incomplete code point becomes U+FFFD). What is stepped afterwards is new."""

    def fork(self) -> TextStream:
        """An independent copy in the same state."""


class Tokenizer(Protocol):
    """Text to ids and back. Methods are called from any thread, from several at once; `TextStream`s from one."""

    @property
    def vocab_size(self) -> int:
        """The number of ids that the tokenizer knows; at most `ModelInfo.vocab_size`."""

    @property
    def has_chat_template(self) -> bool:
        """Whether `render` can be used."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Ids of `text`; with the model's leading special tokens unless told otherwise."""

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of `ids`."""

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **options: object,
    ) -> list[int]:
        """Ids of a conversation through the model's chat template; `options` are the template's own variables."""

    def stream(self) -> TextStream:
        """A fresh detokenizer; special tokens give no text."""

    def vocabulary(self) -> str | tuple[Sequence[bytes], Collection[int]]:
        """What a grammar must know of the ids: a fast tokenizer's JSON, or each id's bytes and the special ids.

        An id without bytes stands for nothing. Raises `NotSupported` where the tokenizer tells neither.
        """


class AdapterWeights(Protocol):
    """An adapter off the device, as its backend's reader made it. Nobody writes into it; any thread may hold it."""

    @property
    def fingerprint(self) -> str:
        """Tells what it adds to the model from what others add."""

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays, as they are on the device."""

    def perturbed(self, seed: int, sigma: float, fingerprint: str) -> AdapterWeights:
        """Under `sigma` times the noise of `seed`, a negative one's is its mirror; told by `fingerprint`.

        The noise is the same on any machine. Raises `NotSupported`.
        """

    def moved(self, steps: Mapping[int, float]) -> AdapterWeights:
        """With so much of the noise of each seed, which are above 0, added in their order. Raises `NotSupported`."""

    def save(self, folder: Path) -> None:
        """Write it as mlx-lm has adapters. Raises `NotSupported`, `UnusablePath`, `OSError`."""


class AdapterReader(Protocol):
    """Reads adapters for one model. Called off the engine thread, on several threads at once."""

    def read(self, folder: str | Path) -> AdapterWeights:
        """The adapter in a folder, or of a name on the hub, checked against the model.

        Raises `InvalidAdapter`, which lists all that does not fit, `ModelNotFound` where there is no such folder.
        """

    @property
    def max_rank(self) -> int:
        """The largest rank of a module."""

    def create(self, keys: Sequence[str], rank: int, seed: int) -> AdapterWeights:
        """One that adds nothing yet, for modules by their names, or by what these end with. Raises `InvalidAdapter`."""


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a loaded model is, in plain values. `tokenizer` and `tool_parser` are in-process only.

    `vocab_size` is the width of the logits, `context_length` the most tokens a row may hold (None: nobody knows a
    bound, and KV's budget is the only one), `stop_tokens` the ids that end a turn (EOS and the template's end markers).
    `kv_bytes_per_token` and `kv_bytes_per_row` (state that does not grow) estimate what a row costs, in places that
    grow by `kv_step` tokens; `kv_numbers_per_token` are the numbers of a token that can be quantized, in groups of one
    of `kv_group_sizes` (none: they cannot be). With `context_span` tokens before it, a token costs twice what the first
    one does. `prompt_chunk` is how many tokens of a prompt it is worth to run at once, where nobody waits for the pass.
    `can_rotate` says whether a row's length can be bounded by
    `KvOptions.max_size`, `reuses_prefixes` whether an opened row may begin with the KV of a prompt that another row has
    run or runs. `dispatch_blocks` says that `sample` waits for most of the pass it submits (MLX on CPU), so results are
    delivered before it; `pipelines` that a pass is to be submitted before the last one is read. What the caches allow
    say `can_rewind`, `can_fork` and `can_draft`.
    """

    name: str
    vocab_size: int
    context_length: int | None
    stop_tokens: frozenset[int]
    kv_bytes_per_token: int
    kv_bytes_per_row: int
    kv_numbers_per_token: int = 0
    kv_step: int = 1
    context_span: float = math.inf
    prompt_chunk: int = 2048
    kv_group_sizes: tuple[int, ...] = ()
    can_rotate: bool = False
    reuses_prefixes: bool = False
    dispatch_blocks: bool
    pipelines: bool = False
    can_rewind: bool
    can_fork: bool
    can_draft: bool = False
    store: str = ""
    """How rows are held, where the backend has several ways: `packed`, `padded`, `batch` or `sequential`."""
    store_reason: str = ""
    """Why in this way and in no faster one."""
    fingerprint: str = ""
    """Tells these weights from others; empty where nothing was looked at."""
    device: str
    memory_bytes: int
    """Memory that KV may use by default, derived from the device after the weights are loaded."""
    tokenizer: Tokenizer
    tool_parser: Any = None
    """mlx-lm's parser of tool calls, with its `name` and markers; None where mlx-lm knows none for this model."""
    chat_template: str | None = None
    """The template's text, from which formats that mlx-lm does not know are told."""
    thinking: tuple[str, str] | None = None
    """The markers around the model's thinking, where the backend knows them."""
    adapters: AdapterReader | None = None
    """Reads adapters for this model, in-process only; None where the backend takes none."""
    max_adapters: int = 0
    """How many adapters open rows may have among them."""
    suggested_sampling: tuple[tuple[str, object], ...] = ()
    """Names of parameters of a generation with the values that the model's authors give them, unchecked."""

    def kv_bytes(self, num_tokens: int, kv: KvOptions | None = None) -> int:
        """What a row of so many tokens holds."""
        if kv is not None and kv.max_size is not None:
            num_tokens = min(num_tokens, kv.max_size)
        is_quantized = kv is not None and kv.bits is not None and num_tokens >= kv.start
        per_token = self._quantized_bytes(kv) if is_quantized and kv is not None else self.kv_bytes_per_token
        return num_tokens * per_token + self.kv_bytes_per_row

    def kv_tokens(self, nbytes: int, kv: KvOptions | None = None) -> int:
        """The most tokens that a row holds in so many bytes, at most `context_length`."""
        longest = sys.maxsize if self.context_length is None else self.context_length
        room, plain = max(0, nbytes - self.kv_bytes_per_row), max(1, self.kv_bytes_per_token)
        most = room // plain
        if kv is not None and kv.max_size is not None and kv.max_size <= most:
            most = longest
        elif kv is not None and kv.bits is not None and kv.start <= most:  # until then it is held as it is
            most = room // self._quantized_bytes(kv)
        return min(most, longest)

    def _quantized_bytes(self, kv: KvOptions) -> int:
        """Of a token: its numbers in so many bits, and a scale and a bias for each group of them, of the plain type."""
        if kv.bits is None or not self.kv_numbers_per_token:
            return max(1, self.kv_bytes_per_token)
        return self.kv_numbers_per_token * kv.bits // 8 + 2 * self.kv_bytes_per_token // kv.group_size


class Sampling(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """How one row's tokens are drawn; checked by the caller, so a backend may trust every field.

    Order: penalties and bias, then mask, temperature, `top_k`, `top_p`, `min_p`, draw. `temperature` 0 is argmax. A
    penalty looks at the last `*_context` tokens of prompt and output. While the row holds fewer than `banned_until`
    tokens, `banned` ids cannot be drawn. The draw at a position depends on (`seed`, position), never on the batch.
    `logprobs` asks for the drawn token's log-probability and for that many of the likeliest (0: the drawn one only).
    """

    seed: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float | None = None
    repetition_context: int = 20
    presence_penalty: float | None = None
    presence_context: int = 20
    frequency_penalty: float | None = None
    frequency_context: int = 20
    logit_bias: tuple[tuple[int, float], ...] = ()
    banned: tuple[int, ...] = ()
    banned_until: int = 0
    logprobs: int | None = None

    @property
    def is_penalised(self) -> bool:
        """Whether a draw depends on the tokens before it, other than through the model."""
        return bool(self.repetition_penalty or self.presence_penalty or self.frequency_penalty)


class KvOptions(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """How a row holds its keys and values, where not as the model's own caches do.

    `max_size` keeps the last so many tokens (and the first four); `bits` quantizes in groups of `group_size` once the
    row holds `start` tokens. Both take effect between the steps in which mlx-lm runs a prompt, however passes cut it.
    """

    max_size: int | None = None
    bits: int | None = None
    group_size: int = 64
    start: int = 0


class Open(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """A new, empty row. Ids of rows are never used twice in the life of a backend.

    `expects` is a hint: so many tokens the row will soon hold, as far as is known. `kv` only as `ModelInfo` allows it.
    `prompt` is what the row will be fed first: where the backend holds KV of a prefix of it, the row begins with that
    prefix instead of empty, and `EditResult.reused` says so; the last token of `prompt` is always left to be fed.
    `start` says where in it the output begins, where that is not its end: what stands behind was generated before.
    A row with `kv` needs to know. `adapter` is the number of one that was opened, 0 for none; open rows have at most
    `ModelInfo.max_adapters` of them. A row never begins with KV that another adapter has made.
    """

    row: int
    sampling: Sampling
    expects: int = 0
    kv: KvOptions | None = None
    prompt: tuple[int, ...] = ()
    start: int | None = None
    adapter: int = 0


class Close(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """The row is gone; passes that hold it and were submitted finish, their tokens for it are not reported."""

    row: int


class Rewind(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """The row keeps its first `length` tokens; a pending token is dropped, and with `sampling` it draws so from now on.

    To fewer tokens than it has run only where `can_rewind`. `start` as in `Open`: the output begins there from now on.
    """

    row: int
    length: int
    sampling: Sampling | None = None
    start: int | None = None


class Pack(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Whether somebody waits for memory.

    `tight`: rows are held in at most 1.35 times what they need, and the step in which places grow, now and from now on;
    what they leave is given back. Else they are held as they are fastest to run, until told otherwise.
    """

    tight: bool


class LimitPrefixes(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Kept prefixes of prompts that are over take at most `most` bytes, now and until told otherwise.

    That is beside the bound of the backend's own: the lower one holds. The least recently used go first.
    """

    most: int


class DropAdapter(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """Nobody will ask for the adapter any more, and no open row has it: its memory is given back."""

    adapter: int


Edit = Open | Close | Rewind | Pack | LimitPrefixes | DropAdapter


class Feed(msgspec.Struct, frozen=True, array_like=True):
    """One row's part of a pass.

    `ids` are the tokens to run, in place of a pending one; empty means that one, read or not. With `sample` the logits
    after the last of them are sampled, and the token drawn becomes the row's pending one. The last `drafts` of `ids`
    are guesses: the logits after the token before them, and after each of them, are sampled too, only where
    `can_draft`. `logits` asks for copies of the raw logits of some of these draws, by their number from 0 on.
    """

    row: int
    ids: tuple[int, ...] = ()
    sample: bool = True
    drafts: int = 0
    logits: tuple[int, ...] = ()


class EditResult(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What is held after edits: bytes of open rows' KV and of kept prefixes, and what rows began with.

    `kv_bytes` is what the tokens of open rows take, `allocated_bytes` what is held for them: with room for tokens to
    come, and for rows. 0 where the backend holds no more than that. `adapter_bytes` are those of adapters on the
    device.

    `reused` has (row, tokens) for each row that was opened with a prefix of its prompt. `shared` has (row, tokens) for
    every open row whose first tokens are held together with those of others, `shared_bytes` what these take, once; they
    are part of `kv_bytes`.
    """

    kv_bytes: int
    allocated_bytes: int = 0
    prefix_bytes: int = 0
    adapter_bytes: int = 0
    reused: tuple[tuple[int, int], ...] = ()
    shared: tuple[tuple[int, int], ...] = ()
    shared_bytes: int = 0


class ForwardPlan(msgspec.Struct, frozen=True):
    """One pass: each row at most once. Open rows that are not in it keep their state.

    Without `is_masked` its `sample` brings no masks, so that a backend need not wait for it.
    """

    feeds: tuple[Feed, ...]
    is_masked: bool = True


class Masks:
    """Which ids each constrained row may draw: `bits[i]` belongs to `rows[i]`.

    `bits` is uint32 `[len(rows), ceil(vocab_size / 32)]`, bit j of word w allowing id 32*w + j. Rows of the pass that
    are not named are free. A row with drafts is named once for each of its draws, in order, or not at all. A mask of
    zeros is the caller's error to find.
    """

    __slots__ = ("bits", "rows")

    def __init__(self, rows: tuple[int, ...], bits: npt.NDArray[np.uint32]) -> None:
        self.rows = rows
        self.bits = bits


FillMasks = Callable[[], Masks | None]
"""Fills the masks of a pass, which takes a while."""


class Sampled(msgspec.Struct, frozen=True):
    """A row's token of one step, and what was asked for beside it.

    That is for `Sampling.logprobs` natural logarithms, of the model's raw logits, and for `Feed.logits` these logits:
    float32 `[vocab_size]`, the receiver's own.
    """

    row: int
    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    logits: Any = None


class RowFailure(msgspec.Struct, frozen=True):
    """A row whose part of a step failed while the others' succeeded. The caller closes it.

    With `may_pass` the same tokens may well succeed in another row, once more: the device is at fault rather than the
    model. What the row drew in front of the failure, in the same step, is told beside it.
    """

    row: int
    error: BaseException
    may_pass: bool = False


class StepResult(msgspec.Struct, frozen=True):
    """What one pass gave: a `Sampled` for each draw of rows that are still open, in the plan's order.

    A pass in which nothing was sampled has a result too, with no tokens. The bytes are those of `EditResult`, now.

    `pressure` counts in how many looks in a row the device or the system was found short of memory although the backend
    had given back what it keeps for later; 0 where the last look found none.
    """

    sampled: tuple[Sampled, ...]
    failures: tuple[RowFailure, ...] = ()
    kv_bytes: int = 0
    allocated_bytes: int = 0
    prefix_bytes: int = 0
    adapter_bytes: int = 0
    pressure: int = 0


class Backend(Protocol):
    """Computes. Six methods, called on the engine thread alone, in the order that this module's docstring gives."""

    def load(self) -> ModelInfo:
        """Bring the model in. Raises `ModelNotFound`, `ModelLoadFailed` or `MissingExtra`; then nothing is held."""

    def edit(self, edits: Sequence[Edit]) -> EditResult:
        """Apply `edits` in order and return what is held then (empty `edits` just asks).

        A closed row's bytes are gone from the sum at once, though a pass that holds it may still run.
        An `Open` or a `Rewind` comes alone, and where it raises, its request fails: the row is not there, or as it was.
        """

    def forward(self, plan: ForwardPlan) -> None:
        """Build the pass. An exception fails every row of `plan`; earlier steps can still be read, other rows live."""

    def sample(self, masks: Masks | FillMasks | None = None) -> None:
        """Sample the rows of the last `forward` and submit the pass. An exception fails every row of that plan.

        Masks may come as a function that fills them, to be called once: a backend that can does so while the pass runs.
        That function may call `read`, for the step before this one.
        """

    def read(self) -> StepResult:
        """Wait for the oldest step that was not read and return it.

        An exception fails every row of that step's plan and of the steps submitted behind it that hold the same rows.
        """

    def close(self) -> None:
        """Wait for submitted passes, then give weights, KV and device limits back. Idempotent."""


@runtime_checkable
class PrefixExporter(Protocol):
    """What a backend can that holds the KV of prompts that are over. Two more methods, on the engine thread too."""

    def export_prefix(self, tokens: Sequence[int], adapter: int = 0) -> bytes | None:
        """The KV of the longest prefix of `tokens` that is held, as bytes for a file; None where nothing is.

        That which the adapter of this number has made, or with 0 the model by itself.
        """

    def import_prefix(self, data: bytes) -> int:
        """Hold what `export_prefix` gave, for prompts to come; how many tokens that is, 0 where there is no room.

        Raises `InvalidSnapshot` for bytes that are no such thing, or not all of it, `SnapshotMismatch` for the KV of
        other weights; then nothing has changed.
        """


@runtime_checkable
class AdapterHost(Protocol):
    """What a backend can whose rows may have adapters. Two more methods, on the engine thread too."""

    def open_adapter(self, adapter: int, weights: AdapterWeights) -> None:
        """Know `weights`, which `ModelInfo.adapters` has read, by a number above 0 that was never used before.

        An exception fails it alone: then the number stands for nothing.
        """

    def is_adapter_ready(self, adapter: int, *, is_idle: bool) -> bool:
        """Whether the first pass of a row with it costs no more than a later one. Rows may begin before that.

        The next passes make it ready, each a part; with `is_idle` there are none, and it is made ready here. True for
        a number that stands for nothing any more. An exception as in `open_adapter`.
        """
