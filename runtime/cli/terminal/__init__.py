"""A conversation on a screen: the line that is typed, what is shown of a turn, the commands, the tools that are named.

This package does not know how tokens are made: it uses sessions and runtimes as any app does.
"""
