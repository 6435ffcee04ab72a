"""Every model file of mlx-lm, as a small model with random weights.

A file is a module of `mlx_lm.models` that defines `Model` and `ModelArgs`. Most of their arguments go by the same
names, so one table of small sizes fills them; `OWN` has what a file needs beside it. The sizes are such that windows
turn over, chunks end, experts differ and hybrid layers alternate within some twenty tokens.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from typing import Any

from models import ByteTokenizer, mx  # before mlx: behind the BLAS

# isort: split
from mlx.utils import tree_map_with_path

__all__ = ["VOCAB", "build", "model_files"]

VOCAB = 160
LAYERS = 4
HIDDEN = 64
HEADS = 4
KV_HEADS = 2
HEAD = 16
WINDOW = 12
"""Of attention that looks back on the last tokens only."""

_SLIDING = ["sliding_attention", "full_attention"] * (LAYERS // 2)
_ROPE = {"rope_theta": 10000.0, "rope_type": "default", "type": "default"}

_YARN = {
    "type": "yarn",
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 64,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}

SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "num_vocab": VOCAB,
    "vocab_size_per_layer_input": VOCAB,
    # widths
    **dict.fromkeys(("hidden_size", "hidden_dim", "model_dim", "d_model", "n_embd", "block_dim"), HIDDEN),
    **dict.fromkeys(
        ("intermediate_size", "ffn_hidden_size", "ff_intermediate_size", "n_inner", "dense_intermediate_size"), 128
    ),
    **dict.fromkeys(
        (
            "moe_intermediate_size",
            "expert_ffn_hidden_size",
            "shared_expert_intermediate_size",
            "shared_intermediate_size",
            "moe_shared_expert_intermediate_size",
            "share_expert_dim",
            "moe_hidden_size",
        ),
        32,
    ),
    "intermediate_size_mlp": 128,
    "hidden_size_per_layer_input": 16,
    # depth
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer", "n_layers", "num_transformer_layers"), LAYERS),
    "num_nextn_predict_layers": 0,
    # heads
    **dict.fromkeys(("num_attention_heads", "num_heads", "n_head", "n_heads", "swa_num_attention_heads"), HEADS),
    **dict.fromkeys(
        ("num_key_value_heads", "num_kv_heads", "n_kv_heads", "swa_num_key_value_heads", "num_attention_groups"),
        KV_HEADS,
    ),
    "num_swa_attention_heads": HEADS,
    "num_swa_key_value_heads": KV_HEADS,
    **dict.fromkeys(("head_dim", "v_head_dim", "swa_head_dim", "swa_v_head_dim", "global_head_dim"), HEAD),
    "hidden_size_per_head": HEAD,
    "kv_channels": HEAD,
    "query_pre_attn_scalar": HEAD,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "rotary_dim": 8,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    # windows
    **dict.fromkeys(
        ("sliding_window", "sliding_window_size", "window_size", "attention_window_size", "loop_window_size"), WINDOW
    ),
    "layer_types": _SLIDING,
    # positions
    "rope_theta": 10000.0,
    "swa_rope_theta": 10000.0,
    "rotary_emb_base": 10000,
    "rotary_pct": 0.5,
    "partial_rotary_factor": 0.5,
    "rope_parameters": {**_ROPE, "full_attention": _ROPE, "sliding_attention": _ROPE},
    **dict.fromkeys(
        ("max_position_embeddings", "n_positions", "n_ctx", "block_size", "model_max_length", "max_sequence_length"),
        256,
    ),
    # norms
    **dict.fromkeys(("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps", "layernorm_epsilon"), 1e-5),
    # experts
    **dict.fromkeys(
        ("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts", "num_experts_per_layer"), 4
    ),
    **dict.fromkeys(
        ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "moe_top_k", "top_k_experts"), 2
    ),
    **dict.fromkeys(("n_shared_experts", "num_shared_experts", "num_shared_expert", "moe_num_shared_experts"), 1),
    **dict.fromkeys(("n_group", "topk_group", "num_expert_group"), 1),
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.0,
    "first_k_dense_replace": 1,
    "num_dense_layers": 1,
    "moe_layer_freq": 1,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "zero_expert_num": 1,
    "zero_expert_type": "identity",
    # recurrent layers
    **dict.fromkeys(("conv_kernel", "mamba_d_conv", "linear_conv_kernel_dim", "short_conv_kernel_size"), 4),
    **dict.fromkeys(("conv_L_cache", "conv1d_width"), 3),
    **dict.fromkeys(("state_size", "ssm_state_size", "mamba_d_state"), 16),
    **dict.fromkeys(("mamba_num_heads", "mamba_n_heads"), 4),
    **dict.fromkeys(("mamba_head_dim", "mamba_d_head"), 32),
    **dict.fromkeys(("n_groups", "mamba_n_groups"), 1),
    "mamba_expand": 2,
    "mamba_d_ssm": 128,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "full_attention_interval": 2,
    "layer_group_size": 2,
    "group_norm_size": 2,
    "time_step_limit": (0.001, 0.1),
    "time_step_rank": 4,
    # switches and multipliers
    **dict.fromkeys(
        (
            "attention_bias",
            "mlp_bias",
            "use_bias",
            "conv_bias",
            "use_qkv_bias",
            "mamba_proj_bias",
            "use_cla",
            "use_mixed_mlp_moe",
            "router_bias",
        ),
        False,
    ),
    **dict.fromkeys(
        ("use_conv_bias", "mamba_conv_bias", "use_qk_norm", "qk_norm", "post_norm", "use_expert_bias"), True
    ),
    "tie_word_embeddings": False,
    "logits_scaling": 1.0,
    "attention_multiplier": 0.25,
    "embedding_multiplier": 1.0,
    "residual_multiplier": 1.0,
}

_LLAMA4_ROPE = {**_ROPE, "llama_4_scaling_beta": 0.1, "original_max_position_embeddings": 8}
_KDA = {"num_heads": 4, "head_dim": 16, "kda_layers": [1, 3], "short_conv_kernel_size": 4}
_LFM2 = {
    "layer_types": ["conv", "full_attention"] * 2,
    "block_multiple_of": 8,
    "block_ffn_dim_multiplier": 1.0,
    "block_auto_adjust_ff_dim": False,
}
_LLAMA4 = {
    "attention_chunk_size": WINDOW,
    "interleave_moe_layer_step": 2,
    "rope_scaling": None,
    "num_experts_per_tok": 1,
}
_SWITCHED = {"mla_scale_q_lora": True, "mla_scale_kv_lora": True}
_MINICPM = {"dim_model_base": 32, "scale_depth": 1.4, "scale_emb": 1.0}
_INDEX = {"index_head_dim": 16, "index_n_heads": 2, "index_topk": 8, "num_key_value_heads": HEADS}

OWN: dict[str, dict[str, Any]] = {
    "afm7": {"num_kv_reuse_layers": 2, "hidden_dim_scale_factor": 2.0},
    "baichuan_m1": {"sliding_window_layers": [0, 2], "conv_window": 2},
    "cohere2": {"sliding_window_pattern": 2},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8, "rope_theta": 10000.0},
        "ffn_config": {"ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "deepseek_v2": {"rope_scaling": _YARN},
    "deepseek_v32": _INDEX,
    "deepseek_v41": {
        "compress_ratios": (0, 2, 2, 4),
        "kv_source_layer_ids": (1, 3),
        "index_source_layer_ids": (1, 3),
        "index_n_heads": 2,
        "index_head_dim": 32,
        "index_topk": 4,
        "head_dim": 32,
        "o_groups": 2,
        "o_lora_rank": 16,
        "hc_mult": 2,
        "hc_sinkhorn_iters": 4,
        "rope_scaling": _YARN,
    },
    "exaone4": {"rope_scaling": None, "sliding_window_pattern": "LG"},
    "exaone_moe": {"is_moe_layer": [False, True, True, True]},
    "gemma3": {"sliding_window_pattern": 2},
    "gemma3_text": {"sliding_window_pattern": 2},
    "gemma3n": {
        "num_kv_shared_layers": 2,
        "rope_local_base_freq": 10000.0,
        "final_logit_softcapping": 30.0,
        "activation_sparsity_pattern": [0.5] * LAYERS,
        "altup_num_inputs": 2,
        "altup_coef_clip": 1.0,
        "altup_correct_scale": True,
        "altup_active_idx": 0,
        "laurel_rank": 8,
    },
    "gemma4": {"num_kv_shared_layers": 2},
    "gemma4_text": {"num_kv_shared_layers": 2},
    "glm4_moe": {"rope_scaling": None},
    "glm_moe_dsa": _INDEX,
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 2},
    "hunyuan": {
        "cla_share_factor": 2,
        "use_cla": True,
        "rope_scaling": {"type": "dynamic", "factor": 1.0, "alpha": 1.0},
    },
    "jamba": {"attn_layer_offset": 1, "attn_layer_period": 2, "expert_layer_offset": 1, "expert_layer_period": 2},
    "kimi_k3": {"linear_attn_config": _KDA, "attn_res_block_size": 2},
    "kimi_linear": {"linear_attn_config": _KDA},
    "lfm2": _LFM2,
    "lfm2-vl": _LFM2,
    "lfm2_moe": _LFM2,
    "llama": {"layer_types": ["full_attention"] * LAYERS},
    "llama4": _LLAMA4,
    "llama4_text": {"no_rope_layers": [1, 0, 1, 0]},
    "longcat_flash": {"attention_method": "MLA", **_SWITCHED},
    "longcat_flash_ngram": {**_SWITCHED, "emb_neighbor_num": 3, "emb_split_num": 2, "ngram_vocab_size_ratio": 3},
    "mimo_v2_flash": {
        "hybrid_layer_pattern": [0, 1, 0, 1],
        "moe_layer_freq": [0, 1, 0, 1],
        "add_swa_attention_sink_bias": True,
        "add_full_attention_sink_bias": False,
    },
    "minicpm": _MINICPM,
    "minicpm3": {**_MINICPM, "rope_scaling": {"original_max_position_embeddings": 64, "long_factor": [1.0] * 4}},
    "minimax_m3_vl": {
        "moe_layer_freq": [0, 1, 0, 1],
        "index_n_heads": 2,
        "index_head_dim": 16,
        "index_block_size": 4,
        "index_topk_blocks": 2,
    },
    "ministral3": {"rope_parameters": _LLAMA4_ROPE},
    "mistral3": {"rope_parameters": _LLAMA4_ROPE},
    "mistral4": {"rope_parameters": _LLAMA4_ROPE},
    "muse_spark": {
        "post_norm_eps": 1e-5,
        "layer_rope_theta": [10000.0, 0.0] * 2,
        "final_logit_softcapping": 20.0,
        "output_multiplier": 0.2,
        "num_shared_experts": 0,
    },
    "nemotron": {"hidden_act": "relu2"},
    "nemotron-nas": {
        "block_configs": [
            {"attention": {"n_heads_in_group": 2}, "ffn": {"ffn_mult": 1.0}},
            {"attention": {"no_op": True}, "ffn": {"ffn_mult": 1.0}},
            {"attention": {"n_heads_in_group": 4}, "ffn": {"no_op": True}},
            {"attention": {"replace_with_linear": True}, "ffn": {"replace_with_linear": True}},
        ],
    },
    "nemotron_h": {"layer_types": ["linear_attention", "full_attention", "moe", "mlp"]},
    "olmo_hybrid": {"linear_allow_neg_eigval": True, "layer_types": ["linear_attention", "full_attention"] * 2},
    "openelm": {
        "num_query_heads": [4, 4, 8, 8],
        "num_kv_heads": [2, 2, 4, 4],
        "ffn_multipliers": [1.0, 1.0, 2.0, 2.0],
        "ffn_dim_divisor": 8,
    },
    # It writes to the logits of ids up to 100351.
    "phi3small": {"dense_attention_every_n_layers": 2, "gegelu_limit": 20.0, "vocab_size": 100352},
    "plamo": {"n_shared_head": 2},
    "plamo3": {"sliding_window_pattern": 2},
    "recurrent_gemma": {"logits_soft_cap": 30.0, "block_types": ["recurrent", "attention"] * 2},
    "prism_hadamard_qwen35": {
        "schema_version": 1,
        "tensor_namespace": "mlx-lm-text",
        "quantization": {"bits": 2, "group_size": 128, "mode": "affine"},
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_experts": 0,
        "modules": [
            {"path": "lm_head", "embedding": False, "dtype": "float16", "block": 0},
            {"path": "model.layers.0.mlp.down_proj", "embedding": False, "dtype": "float16", "block": 512},
        ],
    },
    "rwkv7": {"a_low_rank_dim": 8, "v_low_rank_dim": 8, "gate_low_rank_dim": 8, "decay_low_rank_dim": 8},
}
"""What a file needs that `SIZES` does not say, or says otherwise."""


def model_files() -> dict[str, str | None]:
    """Every model file by name, with what importing it raised where it cannot be imported."""
    package = importlib.import_module("mlx_lm.models")
    found: dict[str, str | None] = {}
    for entry in pkgutil.iter_modules(package.__path__):
        try:
            module = importlib.import_module(f"{package.__name__}.{entry.name}")
        except (Exception, SystemExit) as error:  # noqa: BLE001 - one file even exits
            found[entry.name] = repr(error)
        else:
            if hasattr(module, "Model") and hasattr(module, "ModelArgs"):
                found[entry.name] = None
    return found


def build(name: str, vocab_size: int = VOCAB) -> tuple[Any, ByteTokenizer]:
    """A small model of that file, always with the same weights."""
    module = importlib.import_module(f"mlx_lm.models.{name}")
    sizes = {argument: vocab_size if size == VOCAB else size for argument, size in SIZES.items()}
    arguments = {**sizes, **OWN.get(name, {}), "model_type": name}
    if "text_config" in {field.name for field in dataclasses.fields(module.ModelArgs)}:
        arguments["text_config"] = dict(arguments)
    mx.random.seed(7)
    model = module.Model(module.ModelArgs.from_dict(arguments))
    model.set_dtype(mx.float32)
    model.update(tree_map_with_path(_scattered, model.parameters()))
    model.eval()
    mx.eval(model.parameters())
    return model, ByteTokenizer()


def _scattered(path: str, weight: mx.array) -> mx.array:
    """Matrices such that greedy output wanders, and something where a new model has nothing; the rest as it is."""
    if weight.dtype == mx.uint32:  # quantized: every number that fits
        return mx.random.randint(0, 2**31 - 1, weight.shape).astype(mx.uint32)
    if not mx.issubdtype(weight.dtype, mx.floating):
        return weight
    if not weight.any():
        return 0.3 * mx.random.normal(weight.shape)
    if weight.ndim < 2 or "conv" in path:
        return weight
    spread = 0.1 if "embed" in path else 1.6 / weight.shape[-1] ** 0.5
    return mx.random.normal(weight.shape) * spread
