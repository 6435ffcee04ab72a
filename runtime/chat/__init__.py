"""Conversations: a transcript that is rendered anew for each turn, the turn with its rounds of tools, the session.

This package does not know ids, KV or threads: what a session reuses of the turn before is the backend's, which keeps
the KV of prompts that are over for prompts that begin alike.
"""
