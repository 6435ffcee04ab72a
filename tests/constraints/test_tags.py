"""Free text with constrained calls in it."""

from __future__ import annotations

import pytest
from annotations import Differing
from vocabularies import BYTES, allowed

from greenroom.constraints import (
    Choice,
    ConstraintCompiler,
    ConstraintState,
    Gbnf,
    JsonSchema,
    Lark,
    Regex,
    StructTag,
    Tag,
)
from greenroom.errors import InvalidConstraint

TOOL = BYTES.special_tokens["<tool>"]
CALL = Tag('<tool>{"name":"f","arguments":', JsonSchema({"type": "object", "required": ["a"]}, whitespace=False), "}")


def after(tags: StructTag, text: str) -> ConstraintState:
    """The state after `text`, whose special tokens are such."""
    state = ConstraintCompiler(BYTES).compile(tags).start()
    state.consume(BYTES.tokenize(text.encode()))
    return state


def test_text_without_a_call_is_free_and_complete_anywhere() -> None:
    """Special tokens that no tag begins with are legal in it."""
    state = after(StructTag(Tag("[[", Regex("[0-9]+"), "]]")), "hi <tool> [not one")
    assert state.is_accepting
    assert {ord("x"), ord("["), TOOL, 256} <= allowed(state)


def test_a_call_once_begun_is_followed_to_its_end() -> None:
    """What is the same in all of them is forced; in the middle nothing is complete."""
    state = after(StructTag(CALL), "I will. <tool>")
    assert bytes(state.forced_tokens()) == b'{"name":"f","arguments":{"a":'
    assert not state.is_accepting
    state.consume(b'{"name":"f","arguments":{"a":1}} and so on')
    assert state.error is None
    assert state.is_accepting


def test_tags_that_share_a_trigger_differ_after_it() -> None:
    """After "<f" only what one of them goes on with."""
    tags = StructTag(Tag("<fn=", Regex("[0-9]+"), "</fn>", "<f"), Tag("<fx=", Choice("é", "😀"), "</fx>", "<f"))
    state = after(tags, "a <f")
    assert allowed(state) == set(b"nx")
    for text in ("<fn=12</fn>", "<fx=é</fx>", "<fx=😀</fx> <fn=1</fn>"):
        assert after(tags, text).is_accepting


def test_special_tokens_in_begin_and_end_are_meant_as_such() -> None:
    """A model writes them as one token, and so must the tag."""
    state = after(StructTag(Tag("<tool>", Regex("x"), "<tool>")), "<tool>x")
    assert allowed(state) == {TOOL}


def test_a_required_call_must_come() -> None:
    """Free text before it, but no end."""
    tags = StructTag(Tag("[", Regex("[0-9]"), "]"), required=True)
    assert not after(tags, "some text").is_accepting
    assert after(tags, "some [1] text").is_accepting


@pytest.mark.parametrize(
    "content", [Lark('start: "a" b\nb: "b"'), Gbnf('root ::= "a" "b"'), Regex("ab"), Choice("ab"), JsonSchema(bool)]
)
def test_every_kind_of_grammar_can_be_a_content(content: Lark | Gbnf | Regex | Choice | JsonSchema) -> None:
    """Its rules do not meet those of the tags."""
    inner = "true" if isinstance(content, JsonSchema) else "ab"
    state = after(StructTag(Tag("<<", content, ">>")), f"<<{inner}>> and <<{inner}>>")
    assert state.error is None
    assert state.is_accepting


def test_contents_are_checked_afterwards() -> None:
    """Each call's JSON, the first that fails is told."""
    compiled = ConstraintCompiler(BYTES).compile(
        StructTag(Tag("<tool>", JsonSchema(Differing), ";"), Tag("[", Regex("1")))
    )
    assert compiled.check(BYTES.tokenize(b"[1] <tool>[1,2]; and <tool>[3];")) is None
    assert "must differ" in str(compiled.check(BYTES.tokenize(b"[1] <tool>[1,2]; and <tool>[3,3];")))


def test_tags_that_cannot_be_are_refused() -> None:
    """No tags, a begin without its trigger, tags inside tags."""
    with pytest.raises(InvalidConstraint, match="needs Tags"):
        StructTag()
    with pytest.raises(InvalidConstraint, match="starts with its trigger"):
        Tag("<f", Regex("a"), trigger="x")
    with pytest.raises(InvalidConstraint, match="content is a grammar"):
        Tag("<f", StructTag(CALL))
