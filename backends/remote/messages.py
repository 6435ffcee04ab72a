"""What the two ends of a remote backend say: calls there, answers back. Ids and small numbers; masks never.

A call is a method of the protocol, but for two things. `RunPass` is `forward`, and where nothing is masked it is
`sample` too. And a step's result comes without being asked for, where what was called has to read that step before or
behind its own; else `Read` asks for it. Masks, and logits that were asked for, lie in memory that both ends see
(`shared_rows`); their places are told here.
"""

from __future__ import annotations

from typing import Any, get_type_hints

import msgspec

from greenroom.backends.protocol import Edit, EditResult, Feed, ModelInfo

__all__ = [
    "AdapterHeard",
    "Answer",
    "AskAdapter",
    "BackendFactory",
    "Call",
    "Draw",
    "Drawn",
    "Edited",
    "Edits",
    "EndChild",
    "ExportPrefix",
    "Exported",
    "FailedRow",
    "Held",
    "ImportPrefix",
    "Imported",
    "LearnAdapter",
    "Logged",
    "ModelThere",
    "Read",
    "Refused",
    "RemoteFailure",
    "RunPass",
    "Start",
    "pack_info",
    "unpack_info",
]


class BackendFactory(msgspec.Struct, frozen=True, array_like=True):
    """How a backend is made in another process: `make`, as `module:function`, is called with `arguments` by name.

    `crossing`, named likewise, is a `Crossing`: what of its model cannot be told in plain values.
    """

    make: str
    crossing: str
    arguments: dict[str, Any] = {}


class RemoteFailure(msgspec.Struct, frozen=True, array_like=True):
    """An exception as values: see `failures`."""

    module: str
    name: str
    text: str
    state: dict[str, Any] = {}
    place: str = ""
    """Where it was raised."""
    cause: RemoteFailure | None = None


# Calls.


class Start(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """Make a backend and load it: answered by `ModelThere` or `Refused`. Log records from `log_level` up come back."""

    factory: BackendFactory
    log_level: int = 30


class Edits(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """See `Backend.edit`. Always answered by `Edited`; `is_awaited` says that its sender waits for that, errors too."""

    edits: tuple[Edit, ...]
    is_awaited: bool = False


class RunPass(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """See `Backend.forward`. With `is_masked` a `Draw` follows. Tells the step before it, if that was not told yet."""

    feeds: tuple[Feed, ...]
    is_masked: bool = False


class Draw(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """The masks of the pass under way: these rows', from byte `place` of the shared masks on. No rows: no masks."""

    rows: tuple[int, ...] = ()
    place: int = 0


class Read(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Tell the oldest step that was not told. Answered by `Drawn` or `Refused`."""


class ExportPrefix(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """See `PrefixExporter.export_prefix`. Answered by `Exported` or `Refused`."""

    tokens: tuple[int, ...]
    adapter: int = 0


class ImportPrefix(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """See `PrefixExporter.import_prefix`. Answered by `Imported` or `Refused`."""

    data: bytes


class LearnAdapter(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """See `AdapterHost.open_adapter`; `data` is its `Crossing`'s. Answered by `AdapterHeard` or `Refused`."""

    adapter: int
    data: bytes


class AskAdapter(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """See `AdapterHost.is_adapter_ready`. Answered by `AdapterHeard` or `Refused`."""

    adapter: int
    is_idle: bool


class EndChild(msgspec.Struct, frozen=True, array_like=True, tag=9):
    """Close the backend, and end."""


Call = Start | Edits | RunPass | Draw | Read | ExportPrefix | ImportPrefix | LearnAdapter | AskAdapter | EndChild


# Answers.


class Held(msgspec.Struct, frozen=True, array_like=True):
    """The bytes of `StepResult`, and its `pressure`."""

    kv_bytes: int = 0
    allocated_bytes: int = 0
    prefix_bytes: int = 0
    adapter_bytes: int = 0
    pressure: int = 0


class FailedRow(msgspec.Struct, frozen=True, array_like=True):
    """See `RowFailure`."""

    row: int
    error: RemoteFailure
    may_pass: bool = False


class ModelThere(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """The model is there: `info` is what `pack_info` made of it, `described` what its `Crossing` did."""

    info: bytes
    described: bytes


class Edited(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """What is held after edits; with `error`, one of a request that was alone could not be done."""

    result: EditResult
    error: RemoteFailure | None = None


class Drawn(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """A step's result: its draws by row and token, in the plan's order, and what was asked for of some of them.

    `logprobs` is empty or has one for each draw, and `logits` has (number of the draw, place in the shared logits).
    """

    rows: tuple[int, ...]
    tokens: tuple[int, ...]
    held: Held
    logprobs: tuple[tuple[float | None, tuple[tuple[int, float], ...]], ...] = ()
    logits: tuple[tuple[int, int], ...] = ()
    failures: tuple[FailedRow, ...] = ()


class Refused(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """What was called has raised this."""

    error: RemoteFailure


class Exported(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """The KV as bytes; None where nothing is held."""

    data: bytes | None


class Imported(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """Of how many tokens KV is held now."""

    tokens: int


class AdapterHeard(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """The adapter is known, and whether its first pass costs no more than a later one."""

    is_ready: bool


class Logged(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """A record for the log; it comes at any time and answers nothing."""

    level: int
    text: str


Answer = ModelThere | Edited | Drawn | Refused | Exported | Imported | AdapterHeard | Logged


_OWN = ("tokenizer", "tool_parser", "adapters")
"""What of a model each process has for itself."""
_fields = [
    (field.encode_name, get_type_hints(ModelInfo)[field.name])
    for field in msgspec.structs.fields(ModelInfo)
    if field.name not in _OWN
]
_PlainInfo: Any = msgspec.defstruct("_PlainInfo", _fields, frozen=True, kw_only=True)


def pack_info(info: ModelInfo) -> bytes:
    """All of it that is plain."""
    return msgspec.msgpack.encode({name: getattr(info, name) for name, _ in _fields})


def unpack_info(data: bytes, **own: Any) -> ModelInfo:
    """The same with a `tokenizer`, a `tool_parser` and `adapters` of this process."""
    plain = msgspec.msgpack.decode(data, type=_PlainInfo)
    return ModelInfo(**msgspec.structs.asdict(plain), **own)
