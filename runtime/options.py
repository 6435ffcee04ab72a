"""What the generate functions take by name.

A type checker finds a name that is none, and a value of another type, before anything runs. The parameters of a
generation are `ParameterOptions`; what is here says how one request is made of a prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from greenroom.generator.api import Context
from greenroom.inputs.parameters import ParameterOptions
from greenroom.inputs.tools import Tools
from greenroom.request.run import Progress

__all__ = ["GenerateOptions", "RequestOptions", "TokenOptions", "TurnOptions"]


class RequestOptions(ParameterOptions, total=False):
    """Of any generation: see `Runtime.generate`."""

    constrain: object
    template: bool | None
    template_options: Mapping[str, Any] | None
    thinking: bool | None
    context: Context | None
    progress: Progress | None


class GenerateOptions(RequestOptions, total=False):
    """What `Runtime.generate` and its like take by name: the parameters of the generation, and what they ask for."""

    tools: Tools | None
    tool_choice: str
    tool_format: str | None


class TokenOptions(RequestOptions, total=False):
    """What `Runtime.generate_tokens` and its like take by name: text is not looked at, so there are no tools."""

    include_stop_token: bool


class TurnOptions(ParameterOptions, total=False):
    """What a `ChatSession` takes by name for one turn; what all its turns have in common it was made with."""

    constrain: object
    tool_choice: str
    template: bool | None
    thinking: bool | None
    progress: Progress | None
