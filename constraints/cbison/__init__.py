"""CBISON: any grammar engine by its address, and our tokenizer and llguidance as addresses.

CBISON is a C structure of function pointers. A `CbisonFactory` takes an engine's structure as an integer and makes
constraints of it; a `CbisonTokenizerProvider` is the structure that engines read our vocabulary from; and
`llguidance_cbison_factory` is our own engine, as an integer for somebody else's runtime. Pure ctypes.

It knows no requests and no batches. A foreign engine that answers what cannot be makes a request fail; what it does to
memory that is not its own is beyond anyone's checks.
"""

from __future__ import annotations

from greenroom.constraints.cbison.constraint import Cbison
from greenroom.constraints.cbison.export import CbisonExport, llguidance_cbison_factory
from greenroom.constraints.cbison.factory import CbisonFactory, Diagnostics
from greenroom.constraints.cbison.matcher import CbisonMatcher
from greenroom.constraints.cbison.provider import CbisonTokenizerProvider
from greenroom.constraints.cbison.tokenizer import CbisonTokenizer
from greenroom.constraints.cbison.tokens import TokenList, TokenSource

__all__ = [
    "Cbison",
    "CbisonExport",
    "CbisonFactory",
    "CbisonMatcher",
    "CbisonTokenizer",
    "CbisonTokenizerProvider",
    "Diagnostics",
    "TokenList",
    "TokenSource",
    "llguidance_cbison_factory",
]
