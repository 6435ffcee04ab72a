"""From GBNF to Lark."""

from __future__ import annotations

from greenroom.constraints.bounds.chains import MOST_LEVELS
from greenroom.constraints.bounds.rule_bounds import check_chain
from greenroom.constraints.gbnf.joining import joined_rules, rule_names
from greenroom.constraints.gbnf.lark import lark_of
from greenroom.constraints.gbnf.pieces import in_pieces, split_where_read_too_far
from greenroom.constraints.gbnf.reading import Tokens, read_gbnf

__all__ = ["gbnf_to_lark"]


def gbnf_to_lark(text: str, tokens: Tokens) -> str:
    """The same grammar in llguidance's Lark.

    Raises `InvalidConstraint` where it cannot be read, has no text, or asks for a token and a text at one place.
    """
    bodies = {name: rule.body for name, rule in read_gbnf(text, tokens).items()}
    check_chain([(name, rule_names(body)) for name, body in bodies.items()], MOST_LEVELS)
    return lark_of(split_where_read_too_far(in_pieces(joined_rules(bodies))))
