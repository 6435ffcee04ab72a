"""Text to events: what a model writes, told apart into text, thinking and tool calls.

The parsers here work on text that comes in pieces, and what they find does not depend on the pieces. They do not know
requests, threads or backends; reading a call's own syntax is mlx-lm's work where mlx-lm knows the format.
"""
