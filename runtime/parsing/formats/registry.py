"""Every format by its name or alias, and the one that a model's files tell of."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from greenroom.backends.protocol import ModelInfo
from greenroom.errors import InvalidParameter, NotSupported
from greenroom.inputs.tools import Toolbox
from greenroom.parsing.formats.attributes import DEEPSEEK_V3_2, MINICPM5, MINIMAX_M2, MUSE_SPARK
from greenroom.parsing.formats.format import Format
from greenroom.parsing.formats.gemma import FUNCTION_GEMMA, GEMMA4
from greenroom.parsing.formats.harmony import HARMONY_FORMAT
from greenroom.parsing.formats.headed import DEEPSEEK_V3, FUNCTIONARY_V3_1, FUNCTIONARY_V3_2, MISTRAL
from greenroom.parsing.formats.json_calls import (
    COMMAND_R,
    COMMAND_R7B,
    FIREFUNCTION_V2,
    GRANITE,
    JSON_TOOLS,
    LLAMA3_JSON,
    NEMOTRON,
)
from greenroom.parsing.formats.kimi import KIMI_K2, KIMI_K3
from greenroom.parsing.formats.library import library_format
from greenroom.parsing.formats.pairs import GLM47, LAGUNA, LONGCAT
from greenroom.parsing.formats.python import LLAMA4_PYTHONIC, PYTHONIC
from greenroom.parsing.formats.tags import QWEN3_CODER, SEED_OSS

__all__ = ["ALIASES", "DEFAULT", "HARMONY", "check_names", "find", "infer_format", "names", "writing_format"]

_FORMATS = (
    HARMONY_FORMAT,
    DEEPSEEK_V3_2,
    DEEPSEEK_V3,
    COMMAND_R7B,
    COMMAND_R,
    SEED_OSS,
    NEMOTRON,
    FUNCTIONARY_V3_2,
    FUNCTIONARY_V3_1,
    FIREFUNCTION_V2,
    GRANITE,
    LLAMA4_PYTHONIC,
    KIMI_K2,
    JSON_TOOLS,
    LLAMA3_JSON,
    MISTRAL,
    KIMI_K3,
    QWEN3_CODER,
    GLM47,
    LAGUNA,
    LONGCAT,
    MINIMAX_M2,
    MINICPM5,
    MUSE_SPARK,
    GEMMA4,
    FUNCTION_GEMMA,
    PYTHONIC,
)
"""In the order in which a model's template is asked for them."""
_BY_NAME = {form.name: form for form in _FORMATS}
ALIASES: Mapping[str, str] = {alias: form.name for form in _FORMATS for alias in form.aliases}
HARMONY = HARMONY_FORMAT.name
"""Not a frame in a text but messages in channels, which have a reader of their own."""
DEFAULT = JSON_TOOLS.name
"""The most common one (Hermes, Qwen); for models whose template says nothing."""


def names() -> tuple[str, ...]:
    """Every format's name, without the aliases."""
    from greenroom.backends.mlx import parsers

    return tuple(sorted({*_BY_NAME, *parsers.names()}))


@cache
def find(name: str) -> Format:
    """The format of that name or alias. Raises `InvalidParameter` where there is none."""
    real = ALIASES.get(name, name)
    if real in _BY_NAME:
        return _BY_NAME[real]
    try:
        return library_format(real)
    except LookupError:
        raise InvalidParameter("the tool format", name, f"one of {', '.join(names())}") from None


def is_known(name: str) -> bool:
    """Whether `find` has that format without an import, which no event loop waits for."""
    return ALIASES.get(name, name) in {*_BY_NAME, HARMONY}


def check_names(name: str, tools: Toolbox) -> None:
    """Raise `InvalidParameter` for a tool whose name the format `name` cannot carry. Of other formats nothing is known.

    Nothing is imported: it is asked on the event loop.
    """
    form = _BY_NAME.get(ALIASES.get(name, name))
    if form is not None:
        form.check_names(tools)


def writing_format(name: str) -> Format:
    """The format of that name, where calls can be written in it. Raises `NotSupported` where they cannot."""
    form = _BY_NAME.get(ALIASES.get(name, name))
    if form is None or form.writer is None:
        raise NotSupported(f"a forced call in the format {name!r}", "there is nothing that writes it")
    return form


def infer_format(model: ModelInfo) -> str | None:
    """The format's name, by the template's text, else by mlx-lm's own guess; None where nothing tells."""
    template = model.chat_template or ""
    for form in _FORMATS:
        if _stands_in(form.told_by, template):
            return form.name
    if model.tool_parser is not None:
        return str(model.tool_parser.name)
    return next((form.name for form in _FORMATS if _stands_in(form.guessed_by, template)), None)


def _stands_in(ways: tuple[tuple[str, ...], ...], template: str) -> bool:
    return any(all(mark in template for mark in marks) for marks in ways)
