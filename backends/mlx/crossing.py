"""What a process needs of an MLX model that another one has loaded: its tokenizer, its parser, its adapters' reader.

They come from the model's folder, as there, without its weights. Adapters are read, made and moved on this side, and
cross as their numbers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from greenroom.backends.mlx import imports

imports.prepare()

from greenroom.backends.mlx.adapters.factors import Factors  # noqa: E402 - once what MLX's import does is arranged
from greenroom.backends.mlx.adapters.reader import FolderReader  # noqa: E402
from greenroom.backends.mlx.adapters.targets import Target  # noqa: E402
from greenroom.backends.mlx.adapters.weights import LoraWeights, Precision  # noqa: E402
from greenroom.backends.mlx.load import Loaded, find_folder, load_tokenizer, tool_parser  # noqa: E402
from greenroom.backends.protocol import AdapterWeights, ModelInfo  # noqa: E402

__all__ = ["MlxCrossing"]

_Array = tuple[tuple[int, ...], bytes]


class _Adapter(msgspec.Struct, frozen=True, array_like=True):
    """A `LoraWeights`; of each module its path and two arrays or three, float32."""

    name: str
    precision: Precision
    fingerprint: str
    modules: tuple[tuple[str, tuple[_Array, ...]], ...]


_adapters = msgspec.msgpack.Decoder(_Adapter)
_targets = msgspec.msgpack.Decoder(dict[str, tuple[Any, int, int, int]] | None)


class MlxCrossing:
    """See `Crossing`; for `MlxBackend`, by the arguments of which it is made."""

    def __init__(
        self, model: str | Path, *, revision: str | None = None, trust_remote_code: bool = False, **_: Any
    ) -> None:
        self._model = model
        self._revision = revision
        self._trust_remote_code = trust_remote_code
        self._loaded: Loaded | None = None

    def __repr__(self) -> str:
        return f"<MlxCrossing {self._model!r} {'ready' if self._loaded else 'to be prepared'}>"

    def describe(self, info: ModelInfo) -> bytes:
        """See `Crossing.describe`: the modules that adapters may have."""
        reader = info.adapters
        return msgspec.msgpack.encode(reader.targets if isinstance(reader, FolderReader) else None)

    def prepare(self) -> None:
        """See `Crossing.prepare`. Raises what loading raises for a folder or a name that is none."""
        if self._loaded is None:
            folder = find_folder(self._model, revision=self._revision)
            self._loaded = load_tokenizer(folder, trust_remote_code=self._trust_remote_code)

    def own(self, described: bytes) -> dict[str, Any]:
        """See `Crossing.own`."""
        self.prepare()
        if self._loaded is None:
            raise RuntimeError(f"{self!r} has no tokenizer")
        targets = _targets.decode(described)
        reader = None if targets is None else FolderReader({path: Target(*each) for path, each in targets.items()})
        return {"tokenizer": self._loaded.tokenizer, "tool_parser": tool_parser(self._loaded), "adapters": reader}

    def pack_adapter(self, weights: AdapterWeights) -> bytes:
        """See `Crossing.pack_adapter`."""
        if not isinstance(weights, LoraWeights):
            raise TypeError(f"{weights!r} was not read for this backend")
        modules = [
            (path, tuple([_packed(each) for each in factors if each is not None]))
            for path, factors in weights.factors.items()
        ]
        return msgspec.msgpack.encode(_Adapter(weights.name, weights.precision, weights.fingerprint, tuple(modules)))

    def unpack_adapter(self, data: bytes) -> LoraWeights:
        """See `Crossing.unpack_adapter`."""
        found = _adapters.decode(data)
        factors = {path: Factors(*[_unpacked(each) for each in arrays]) for path, arrays in found.modules}
        return LoraWeights(found.name, factors, found.precision, found.fingerprint)


def _packed(array: Any) -> _Array:
    return array.shape, np.ascontiguousarray(array, np.float32).tobytes()


def _unpacked(packed: _Array) -> Any:
    shape, data = packed
    return np.frombuffer(data, np.float32).reshape(shape)
