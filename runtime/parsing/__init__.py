"""Text to events: what a model writes, told apart into text, thinking and tool calls.

The parsers here work on text that comes in pieces, and what they find does not depend on the pieces. They do not know
requests, threads or backends; reading a call's own syntax is mlx-lm's work where mlx-lm knows the format.
"""

from __future__ import annotations

from greenroom.parsing.chat_parser import ChatParser, ReasoningParser, ToolParser

__all__ = ["ChatParser", "ReasoningParser", "ToolParser"]
