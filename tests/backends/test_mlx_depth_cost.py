"""What a token's depth costs beside its weights: in a mixture of experts, beside those that it is multiplied with."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
from model_files import build
from models import MODELS, mx  # before mlx: behind the BLAS

# isort: split
from mlx import nn
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.models.switch_layers import QuantizedSwitchLinear

from greenroom.backends.mlx import MlxBackend
from greenroom.backends.mlx.depth_cost import context_span, count_experts
from greenroom.backends.mlx.device_profile import CPU, METAL, DeviceProfile
from greenroom.backends.mlx.load import wrap

quantize: Any = nn.quantize  # type: ignore[attr-defined]  # no stub
MIXTURES = ("deepseek_v3", "ernie4_5_moe", "gpt_oss", "granitemoe", "hunyuan", "kimi_linear", "longcat_flash", "llama4")
"""Of each name by which configurations tell how many experts a token goes through."""


def used_experts(model: Any) -> dict[str, float]:
    """What one token uses; the graph is built, nothing runs."""
    with count_experts(model) as used:
        model(mx.array([[0]]), cache=make_prompt_cache(model))
    return used


@pytest.mark.parametrize("name", MIXTURES)
def test_the_experts_of_a_token_are_counted_as_it_runs(name: str) -> None:
    """Two of four, or one; in every layer that has some, quantized or not, and the classes are as they were."""
    model, _ = build(name)
    kinds = [type(part) for part in model.modules()]
    share = 0.25 if name == "llama4" else 0.5
    used = used_experts(model)
    assert set(used.values()) == {share}
    leaves: Any = tree_flatten(model.parameters())
    experts = {path.rpartition(".")[0] for path, _ in leaves if "switch_mlp" in path}
    assert used.keys() >= experts
    assert [type(part) for part in model.modules()] == kinds
    quantize(model, group_size=32, class_predicate=lambda path, _: path in used)
    assert any(isinstance(part, QuantizedSwitchLinear) for part in model.modules())
    assert used_experts(model) == used


def test_the_span_of_a_mixture_is_that_of_the_weights_that_are_used() -> None:
    """A third expert of four is a third more of their weights; one layer of attention as before."""
    model, _ = build("qwen3_moe")
    config = {"num_attention_heads": 4, "head_dim": 16}
    leaves: Any = tree_flatten(model.parameters())
    experts = sum(array.size for path, array in leaves if "switch_mlp" in path)
    rest = sum(array.size for path, array in leaves) - experts
    found = context_span(model, config, used_experts(model), 4, METAL)
    assert found == pytest.approx((rest + experts / 2) / (4 * 4 * 2 * 16))
    assert context_span(model, config, {}, 4, METAL) == pytest.approx((rest + experts) / (4 * 4 * 2 * 16))


def test_thirty_billion_weights_of_which_three_are_used() -> None:
    """The shapes of Qwen3-30B-A3B in 4 bits, of which nothing is made: a tenth of what all its experts would give."""
    module = importlib.import_module("mlx_lm.models.qwen3_moe")
    config: dict[str, Any] = {
        "model_type": "qwen3_moe",
        "hidden_size": 2048,
        "num_hidden_layers": 48,
        "intermediate_size": 6144,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "moe_intermediate_size": 768,
        "rms_norm_eps": 1e-6,
        "vocab_size": 151_936,
        "rope_theta": 1e6,
        "tie_word_embeddings": False,
        "max_position_embeddings": 40_960,
        "norm_topk_prob": True,
    }
    before = mx.get_active_memory()
    model = module.Model(module.ModelArgs.from_dict(config))
    quantize(model, group_size=64)
    span = context_span(model, config, used_experts(model), 48, METAL)
    whole = context_span(model, config, {}, 48, METAL)
    assert mx.get_active_memory() - before < 1 << 24
    assert 8_000 < span < 9_000
    assert 79_000 < whole < 81_000


def test_a_loaded_mixture_says_it_of_itself() -> None:
    """Among the facts of the model."""
    loaded = wrap(*build("qwen3_moe"))
    backend = MlxBackend.from_model(lambda: build("qwen3_moe"), device_profile=CPU)
    info = backend.load()
    backend.close()
    assert info.context_span == context_span(loaded.model, loaded.config, used_experts(loaded.model), 4, CPU)


@pytest.mark.parametrize(
    ("kind", "device", "chunk"),
    [("llama", METAL, 2048), ("gemma3", METAL, 512), ("mamba2", METAL, 512), ("llama", CPU, 512)],
)
def test_prompts_are_cut_as_suits_the_device_and_the_caches(kind: str, device: DeviceProfile, chunk: int) -> None:
    """Caches that cannot be cut are kept as they are after a chunk: chunks stay short, for prompts that begin alike."""
    backend = MlxBackend.from_model(MODELS[kind], device_profile=device)
    assert backend.load().prompt_chunk == chunk
    backend.close()
