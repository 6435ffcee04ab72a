"""A deterministic double of a model, for tests of what is built on greenroom: `Runtime(backend=Scripted(...))`.

A byte-level tokenizer, replies by prompt or in order, what was asked, delays counted in steps, steps held and released
one by one, failures on demand, and under a mask the first legal scripted token. It loads nothing and computes in
microseconds.
"""

from __future__ import annotations

from greenroom.backends.scripted.backend import Scripted
from greenroom.backends.scripted.failures import ProtocolViolation, ScriptFailed
from greenroom.backends.scripted.replies import Reply, ScriptedRequest
from greenroom.backends.scripted.tokenizer import ByteTokenizer

__all__ = ["ByteTokenizer", "ProtocolViolation", "Reply", "ScriptFailed", "Scripted", "ScriptedRequest"]
