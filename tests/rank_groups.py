"""Groups of ranks on this machine: a hostfile of free ports, small models in folders, workers that end with a test."""

from __future__ import annotations

import json
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from models import build, mx, tree_flatten

from greenroom.backends import understudy

__all__ = ["SMALL", "worker", "write_hostfile", "write_model"]

_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
_COMMON = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": 2048,
    "rope_theta": 10000.0,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
    "eos_token_id": 2,
}
SMALL: dict[str, dict[str, Any]] = {
    "llama": _COMMON,
    "qwen2": _COMMON,
    "qwen3": {**_COMMON, "head_dim": 16},
    "gpt_oss": {
        **_COMMON,
        "head_dim": 16,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": 16,
        "rope_scaling": {"rope_type": "default"},
        "num_hidden_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "gemma2": {**_COMMON, "head_dim": 16, "query_pre_attn_scalar": 16},
}
"""Configurations of models with random weights and the understudy's tokenizer, by their kind."""


def write_model(folder: Path, kind: str, **changes: Any) -> Path:
    """A folder that holds such a model."""
    config = {"model_type": kind, **SMALL[kind], **changes}
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    model, _ = build(kind, **{name: value for name, value in config.items() if name != "model_type"})
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())))
    for name in _TOKENIZER:
        shutil.copyfile(understudy.path() / name, folder / name)
    return folder


def write_hostfile(folder: Path, size: int = 2) -> Path:
    """A list of so many ranks, each at free ports of the loopback."""
    path = folder / "hosts.json"
    path.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in _free_ports(size)]))
    return path


def _free_ports(count: int) -> list[int]:
    """Ports that are free, and with each the one for plans."""
    found: list[int] = []
    while len(found) < count:
        port = secrets.choice(range(10_000, 30_000))  # below those that the system gives to others meanwhile
        with (
            suppress(OSError),
            socket.create_server(("127.0.0.1", port)),
            socket.create_server(("127.0.0.1", port + 100)),
        ):
            found += [] if {port - 100, port, port + 100}.intersection(found) else [port]
    return found


@contextmanager
def worker(model: Path, hostfile: Path, rank: int = 1) -> Iterator[subprocess.Popen[str]]:
    """A worker, which is killed at the end where it has not ended."""
    command = [sys.executable, "-m", "greenroom.worker", str(model), "--hostfile", str(hostfile), "--rank", str(rank)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()
