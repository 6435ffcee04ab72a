"""The tokenizer: byte-level BPE whose tokens never cross from a word into what stands around it.

Runs of letters, single digits, and runs of everything else are cut apart before merging. So a name has the same tokens
after a space, after a quotation mark and at the start of a line, which is what makes copying it easy for a small model;
`": "` and `", "` are still one token each. Encoding is lossless for any text.
"""

import json
from pathlib import Path
from typing import Any, Final

import corpus
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

__all__ = ["CHAT_TEMPLATE", "SPECIAL_TOKENS", "VOCABULARY_SIZE", "save", "train"]

VOCABULARY_SIZE: Final = 2048
SPECIAL_TOKENS: Final = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>", "<tool_call>", "</tool_call>",
)  # fmt: skip
_TRAINING_POOLS: Final = range(20, 32)
_WORDS: Final = r"\p{N}|\p{Lu}?[\p{Ll}\p{M}]+|[\p{L}\p{M}]+|[^\p{L}\p{M}\p{N}]+"

# The model has seen exactly the text that corpus.render writes; a test compares the two.
CHAT_TEMPLATE: Final = r"""
{%- set ns = namespace(system='') %}
{%- if messages and messages[0].role == 'system' %}
{%- set ns.system = messages[0].content or '' %}
{%- set messages = messages[1:] %}
{%- endif %}
{%- if tools %}
{%- set ns.system = ns.system + ('\n\n' if ns.system else '') + '<tools>\n' %}
{%- for tool in tools %}
{%- set ns.system = ns.system + (tool | tojson) + '\n' %}
{%- endfor %}
{%- set ns.system = ns.system + '</tools>' %}
{%- endif %}
{%- if ns.system %}
{{- '<|im_start|>system\n' + ns.system + '<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
{%- if message.role == 'tool' %}
{{- '<|im_start|>user\n<tool_response>\n' + (message.content or '') + '\n</tool_response><|im_end|>\n' }}
{%- elif message.role == 'assistant' %}
{{- '<|im_start|>assistant\n' + (message.content or '').split('</think>')[-1].lstrip('\n') }}
{%- for tool_call in message.tool_calls or [] %}
{%- if tool_call.function %}{%- set tool_call = tool_call.function %}{%- endif %}
{{- '\n' if message.content or not loop.first else '' }}
{{- '<tool_call>\n{"name": "' + tool_call.name + '", "arguments": ' }}
{{- tool_call.arguments if tool_call.arguments is string else tool_call.arguments | tojson }}
{{- '}\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\n' }}
{%- else %}
{{- '<|im_start|>' + message.role + '\n' + (message.content or '') + '<|im_end|>\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\n' + ('<think>\n' if enable_thinking else '') }}
{%- endif %}
""".strip()


def train(seed: int) -> Tokenizer:
    """A tokenizer learnt from a few pools of the corpus."""
    tokenizer = Tokenizer(models.BPE())
    bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(_WORDS), "isolated"), bytes_of])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (text for number in _TRAINING_POOLS for d in corpus.pool(seed, number) for text, _ in corpus.spans(d))
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Write the files that transformers and mlx-lm read."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 4096,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
