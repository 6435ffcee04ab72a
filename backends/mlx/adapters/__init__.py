"""Adapters: read and checked off the engine thread, many of them in one pass. Knows no rows, and no requests."""
