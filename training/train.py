"""Train the understudy: `python training/train.py --run FOLDER`.

A run folder holds the tokenizer, checkpoints and a log; started again on the same folder, training continues where the
last checkpoint stands. `--export` writes the float16 weights as an mlx-lm folder, `--plot` draws the loss curve.
"""

import argparse
import contextlib
import ctypes
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, Final, NamedTuple, cast

# On Linux mlx links a slow reference BLAS; loading OpenBLAS first takes its place. On macOS there is none to load.
with contextlib.suppress(OSError):
    ctypes.CDLL("libopenblas.so.0", mode=ctypes.RTLD_GLOBAL)

import copying
import corpus
import mlx.core as mx
import mlx.optimizers as optim
import network
import numpy as np
import tokenizer
from mlx.nn.utils import value_and_grad
from mlx.utils import tree_flatten, tree_map, tree_unflatten
from mlx_lm.models.llama import Model, ModelArgs
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tokenizers import Tokenizer

from greenroom.backends import understudy

__all__ = ["CONFIG", "POOLS", "main"]

CONFIG: Final[dict[str, Any]] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 192,
    "num_hidden_layers": 5,
    "intermediate_size": 448,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 100000.0,
    "max_position_embeddings": 4096,
    "vocab_size": tokenizer.VOCABULARY_SIZE,
    "tie_word_embeddings": True,
    "torch_dtype": "float16",
}
POOLS: Final = 230
"""Pools in a full run: the corpus that the bundled weights have seen."""
_BATCH_TOKENS: Final = 1536
_CYCLES: Final = ((0, 2.5e-3), (72, 1e-3), (118, 1.2e-3), (178, 1e-3))
"""The pools at which the learning rate starts anew, and its peak from there on."""
_WARMUP_POOLS: Final = 3
_CHECKPOINT_POOLS: Final = 4


class _Batch(NamedTuple):
    """Padded documents, where in them a learnt token is predicted, and which token it is."""

    tokens: np.ndarray[Any, Any]
    positions: np.ndarray[Any, Any]
    targets: np.ndarray[Any, Any]


def main() -> None:
    """Parse the command line and train, export or plot."""
    parser = argparse.ArgumentParser(description="Train the understudy.")
    parser.add_argument("--run", type=Path, default=Path("understudy-run"), help="folder for checkpoints and log")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pools", type=int, default=POOLS, help=f"length in pools of {corpus.POOL_SIZE} documents")
    parser.add_argument("--export", type=Path, nargs="?", const=understudy.path(), help="write the weights and stop")
    parser.add_argument("--plot", type=Path, help="draw the loss curve and stop")
    arguments = parser.parse_args()
    if arguments.plot or arguments.export:
        if arguments.plot:
            _plot(arguments.run, arguments.plot)
        if arguments.export:
            _export(arguments.run, arguments.export)
        return
    _train(arguments.run, arguments.seed, arguments.pools)


def _train(run: Path, seed: int, pools: int) -> None:
    run.mkdir(parents=True, exist_ok=True)
    if not (run / "tokenizer.json").exists():
        tokenizer.save(tokenizer.train(seed), run)
    encoder = Tokenizer.from_file(str(run / "tokenizer.json"))
    mx.random.seed(seed)
    model = Model(ModelArgs.from_dict(CONFIG))
    copying.prepare(model, mx.random.key(seed))
    optimizer = optim.AdamW(_CYCLES[0][1], betas=[0.9, 0.98], weight_decay=0.05)
    optimizer.init(model.trainable_parameters())
    first = _resume(run, model, optimizer)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress, (run / "log.jsonl").open("a") as log:
        task = progress.add_task("pools", total=pools, completed=first)
        for number in range(first, pools):
            row = _learn_pool(model, optimizer, list(_batches(encoder, seed, number)), number, pools)
            log.write(json.dumps(row) + "\n")
            log.flush()
            progress.update(task, advance=1, description=f"loss {row['loss']:.3f}")
            if (number + 1) % _CHECKPOINT_POOLS == 0 or number + 1 == pools:
                _save(run, model, optimizer, number + 1)


def _learn_pool(model: Any, optimizer: Any, batches: list[_Batch], number: int, pools: int) -> dict[str, Any]:
    """One pass over a pool; returns its row of the log."""
    compute = value_and_grad(model, network.loss)
    started, losses, count = time.perf_counter(), [], 0
    for index, batch in enumerate(batches):
        optimizer.learning_rate = _rate(number + index / len(batches), pools)
        value, gradients = compute(model, *(mx.array(part) for part in batch))
        gradients, _ = optim.clip_grad_norm(gradients, 1.0)
        optimizer.update(model, gradients)
        mx.eval(model.parameters(), optimizer.state, value)
        losses.append(value.item())
        count += batch.tokens.size
    seconds = round(time.perf_counter() - started, 2)
    mean = sum(losses) / len(losses)
    return {"pool": number, "steps": len(batches), "tokens": count, "loss": mean, "seconds": seconds}


def _batches(encoder: Tokenizer, seed: int, number: int) -> Iterator[_Batch]:
    """The pool cut into batches of documents of like length, in random order."""
    documents = [_encode(encoder, corpus.spans(dialogue)) for dialogue in corpus.pool(seed, number)]
    documents.sort(key=lambda document: len(document[0]))
    groups: list[list[tuple[list[int], list[bool]]]] = [[]]
    for document in documents:
        if groups[-1] and (len(groups[-1]) + 1) * len(document[0]) > _BATCH_TOKENS:
            groups.append([])
        groups[-1].append(document)
    Random(f"order {seed}:{number}").shuffle(groups)  # noqa: S311
    return map(_pad, groups)


def _encode(encoder: Tokenizer, spans: list[corpus.Span]) -> tuple[list[int], list[bool]]:
    """Token ids, and for each whether it is learnt; spans meet at special tokens, so they encode apart as together."""
    ids: list[int] = []
    learnt: list[bool] = []
    for text, learn in spans:
        piece = encoder.encode(text).ids
        ids += piece
        learnt += [learn] * len(piece)
    return ids, learnt


def _pad(documents: list[tuple[list[int], list[bool]]]) -> _Batch:
    width = max(len(ids) for ids, _ in documents)
    tokens = np.zeros((len(documents), width), np.int32)
    learn = np.zeros((len(documents), width), np.bool_)
    for row, (ids, learnt) in enumerate(documents):
        tokens[row, : len(ids)] = ids
        learn[row, : len(ids)] = learnt
    positions = np.flatnonzero(np.pad(learn[:, 1:], ((0, 0), (0, 1)))).astype(np.int32)
    return _Batch(tokens, positions, tokens.reshape(-1)[positions + 1])


def _rate(position: float, pools: int) -> float:
    """Warm-up, a level stretch, a cosine down to 2 % of the peak; then a cosine from each later, lower peak."""
    starts = [start for start, _ in _CYCLES if start < pools] + [pools]
    cycle = max(index for index, start in enumerate(starts[:-1]) if start <= position)
    first, last, peak = starts[cycle], starts[cycle + 1], _CYCLES[cycle][1]
    if position < _WARMUP_POOLS:
        return peak * (position + 0.1) / (_WARMUP_POOLS + 0.1)
    share = (position - first) / (last - first)
    return peak * _cosine(share if cycle else max(0.0, 2 * share - 1))


def _cosine(share: float) -> float:
    """From 1 at the start down to 0.02 at the end."""
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share))


def _save(run: Path, model: Any, optimizer: Any, pools: int) -> None:
    """Write weights and optimizer state as one file, in one step."""
    state = tree_flatten(model.parameters(), ".model", destination={})
    state = cast("dict[str, mx.array]", tree_flatten(optimizer.state, ".optimizer", destination=state))
    temporary = run / "writing.safetensors"
    mx.save_safetensors(str(temporary), state, {"pools": str(pools)})
    temporary.replace(run / "checkpoint.safetensors")


def _load(run: Path) -> tuple[dict[str, Any], int]:
    loaded: Any = mx.load(str(run / "checkpoint.safetensors"), return_metadata=True)
    state, metadata = loaded
    return state, int(metadata["pools"])


def _part(state: dict[str, Any], prefix: str) -> list[tuple[str, Any]]:
    return [(key.removeprefix(prefix), value) for key, value in state.items() if key.startswith(prefix)]


def _resume(run: Path, model: Any, optimizer: Any) -> int:
    """Load the last checkpoint, if any; returns the pool to continue with."""
    if not (run / "checkpoint.safetensors").exists():
        return 0
    state, pools = _load(run)
    model.load_weights(_part(state, "model."))
    optimizer.state = tree_unflatten(_part(state, "optimizer."))
    return pools


def _export(run: Path, folder: Path) -> None:
    """Write an mlx-lm folder with float16 weights; each file appears in one step."""
    folder.mkdir(parents=True, exist_ok=True)
    state, _ = _load(run)
    weights = tree_map(lambda value: value.astype(mx.float16), dict(_part(state, "model.")))
    temporary = folder / "writing.safetensors"
    mx.save_safetensors(str(temporary), weights, {"format": "mlx"})
    temporary.replace(folder / "model.safetensors")
    tokenizer.save(Tokenizer.from_file(str(run / "tokenizer.json")), folder)
    end, pad = tokenizer.SPECIAL_TOKENS.index("<|im_end|>"), tokenizer.SPECIAL_TOKENS.index("<|endoftext|>")
    config = {**CONFIG, "eos_token_id": end, "pad_token_id": pad}
    generation = {"eos_token_id": [end, pad], "pad_token_id": pad, "do_sample": True, "temperature": 0.6}
    for name, content in (("config.json", config), ("generation_config.json", generation)):
        (folder / f"{name}.writing").write_text(json.dumps(content, indent=2) + "\n")
        (folder / f"{name}.writing").replace(folder / name)


def _plot(run: Path, image: Path) -> None:
    """Draw the loss per pool over the tokens seen."""
    from matplotlib.figure import Figure  # drawing is no part of training

    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    by_pool = {row["pool"]: row for row in rows}
    tokens = np.cumsum([row["tokens"] for row in by_pool.values()]) / 1e6
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(tokens, [row["loss"] for row in by_pool.values()], color="#2b6cb0")
    axes.set(xlabel="million tokens read", ylabel="loss (nats per learnt token)", yscale="log")
    axes.grid(alpha=0.3)
    image.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(image, dpi=120)


if __name__ == "__main__":
    main()
