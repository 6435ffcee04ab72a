"""GBNF means what llama.cpp means by it: every text of a grammar, and no other."""

from __future__ import annotations

import random

import numpy as np
import pytest
from gbnf_grammars import LETTERS, Grammar, random_grammar
from vocabularies import BYTES, allowed, ids

from greenroom.constraints import Constraint, ConstraintCompiler, ConstraintState, Gbnf, Vocabulary
from greenroom.constraints.gbnf.conversion import gbnf_to_lark
from greenroom.errors import InvalidConstraint

TOOL = 258

WORDS = [b"a", b"b", b"c", b"ab", b"bc", b"cc", b"abc", b"ba", b"aab", b"</s>"]
END = WORDS.index(b"</s>")
LETTER_WORDS = Vocabulary.from_tokens(WORDS, special=(), n_vocab=32, eos=[END])

TABLE: list[tuple[str, list[str], list[str]]] = [
    # rules in a row that share characters
    ("root ::= a a\na ::= [bc]+", ["bc", "bcbc", "bbb"], ["b", "", "bab"]),
    ("root ::= d d\nd ::= [0-9]{1,2}", ["12", "123", "1234"], ["1", "12345"]),
    ('root ::= "x" ws ws "y"\nws ::= [ ]*', ["xy", "x y", "x   y"], ["x", "y"]),
    ('root ::= list\nlist ::= "(" list word word list ")" | word\nword ::= [ab]+', ["ab", "(aabab)"], ["(aab)", "()"]),
    ('root ::= name "(" root ")" | name name\nname ::= [a-z]+', ["ab", "f(ab)", "abc(def)"], ["a", "f(a)"]),
    ('root ::= key v | v\nkey ::= "if"\nv ::= [a-z]+ ("(" v ")")?', ["if", "iff", "ifx(if)", "ix"], ["if(", "("]),
    ('root ::= (text | "<" root ">")+\ntext ::= [^<>]+', ["ab", "a<b>c", "<a<b>>"], ["a<", "<>"]),
    # loops and what may be empty
    ("root ::= ( [x]* )*", ["", "x", "xx"], ["y", "xy"]),
    ("root ::= (((((([^x]*){0,99}){0,99}){0,99}){0,99}){0,99}){0,99}", ["", "abc"], ["x"]),
    ('root ::= ("0x" [A-F0-9]{2} " "?){3,5}', ["0xFF 0x12 0xAB", "0xFF0x120xAB"], ["0xFF", "0xFF 0x1 0xAB"]),
    ('root ::= "a"{2} "a"{0,1} "a"*', ["aa", "aaa", "a" * 9], ["", "a"]),
    (
        "root ::= c+ v* c? (v c)*\nv ::= [aeiouy]\nc ::= [^aeiou]",
        ["yes", "noyes", "crwth", "bryyyy"],
        ["yess", "forty"],
    ),
    ('root ::= [] [^] "a"', ["a"], ["", "b"]),
    # recursion at either end, and in the middle
    ('root ::= item root | item\nitem ::= [ab] ","', ["a,", "a,b,a,"], ["", "a"]),
    ('root ::= root "+" n | n\nn ::= [0-9]+', ["1", "12+3+45"], ["+", "1+"]),
    ('root ::= "[" (root ("," root)*)? "]"', ["[]", "[[],[[]]]"], ["[", "[,]"]),
    ('root ::= x "a" | "b"\nx ::= x "c"', ["b"], ["a", "ca"]),
    # characters
    (r'root ::= "\u00e9\U0001f600" [\x41-\x43] [\-+] [\]\[] "\t"', ["é😀B-]\t", "é😀A+[\t"], ["é😀D-]\t"]),
    ('root ::= ... "abc" ...', ["abcabcabc", "🔵🟠✅abc\n🟠🔵"], ["🔵🟠abc🟠🔵", "aaaabccc"]),
    ("root ::= [^a-z\\n]+", ["É", " 1"], ["a", "\n", ""]),
    ("root ::= [a-] [-a] [+--]", ["--,", "aa+"], ["b-+"]),
    ('root ::= [/\\\\"] "/*\\\\\\""', ['//*\\"', '"/*\\"', '\\/*\\"'], ['x/*\\"']),
    # the page
    ('# a grammar\r\nroot ::=\r\n  "a" | # or\r\n  (\n "b"\n | "c" )  # the end\r\n\r\n', ["a", "b", "c"], ["d"]),
    ('root ::= a_b-1\na_b-1 ::= "x"\na_b-1 ::= "y"', ["y"], ["x"]),
]


def takes(constraint: Constraint, text: str) -> bool:
    """Whether `text` is complete, byte by byte."""
    state = ConstraintCompiler(BYTES).compile(constraint).start()
    data = list(text.encode())
    if state.validate(data) < len(data):
        return False
    state.consume(data)
    assert state.error is None
    return state.is_accepting


def test_texts_are_those_of_llama_cpp() -> None:
    """A table: grammar, what it takes, what it does not."""
    for grammar, right, wrong in TABLE:
        for text in right:
            assert takes(Gbnf(grammar), text), (grammar, text)
        for text in wrong:
            assert not takes(Gbnf(grammar), text), (grammar, text)


def texts(state: ConstraintState, longest: int, before: str = "") -> set[str]:
    """All that `state` takes, by single letters; on the way every token's bit in the mask is compared with those."""
    assert state.error is None
    row = np.zeros(1, np.uint32)
    state.fill_mask(row)
    legal = ids(row)
    assert (END in legal) == state.is_accepting
    found = {before} if state.is_accepting else set()
    for token, word in enumerate(WORDS[:END]):
        next_ = state.fork()
        next_.consume([WORDS.index(bytes((byte,))) for byte in word])
        assert (next_.error is None) == (token in legal), (before, word)
        if len(word) == 1 and longest and next_.error is None:
            found |= texts(next_, longest - 1, before + word.decode())
    return found


def test_random_grammars_have_the_texts_of_their_definition() -> None:
    """All texts of up to four letters, for tokens of several. A grammar without any text is refused."""
    compiler = ConstraintCompiler(LETTER_WORDS)
    for seed in range(40):
        grammar = random_grammar(random.Random(seed))  # noqa: S311 - a reproducible test
        expected = grammar.texts(4)
        try:
            found = texts(compiler.compile(Gbnf(grammar.text)).start(), 4)
        except InvalidConstraint:
            found = set()
        assert found == expected, (seed, grammar.text)


def test_the_matcher_beside_is_the_definition() -> None:
    """What the random grammars are compared with."""
    grammar = Grammar({"root": ("series", [("rule", "x"), ("rule", "x")]), "x": ("repeat", ("set", "ab", False), 1, 2)})
    assert grammar.text == "root ::= x x\nx ::= ([ab]){1,2}"
    assert grammar.texts(4) == {text for text in _texts("ab", 4) if len(text) >= 2}
    assert LETTERS == "abc"


def _texts(letters: str, longest: int) -> list[str]:
    found = [""]
    for text in found:
        if len(text) < longest:
            found += [text + letter for letter in letters]
    return found


def consumed(grammar: str, tokens: list[int]) -> ConstraintState:
    """The state after `tokens`, each of which its mask must have told."""
    state = ConstraintCompiler(BYTES).compile(Gbnf(grammar)).start()
    for token in tokens:
        legal = allowed(state)
        state.consume([token])
        assert (state.error is None) == (token in legal)
    return state


def test_tokens_are_named_by_name_or_id_or_by_what_they_are_not() -> None:
    """As llama.cpp has them: a special token is no text, and `!` is any other token."""
    hidden = 'root ::= <tool> thought <[258]> "ok"\nthought ::= (!<tool>)*'
    assert consumed(hidden, [TOOL, *b"as <tool>", TOOL, *b"ok"]).is_accepting
    assert consumed(hidden, [TOOL, TOOL, *b"ok"]).is_accepting
    assert consumed(hidden, [TOOL, *b"ok"]).error is None
    assert not consumed(hidden, [TOOL, *b"ok"]).is_accepting
    assert consumed(hidden, [*b"ok"]).error is not None
    assert consumed("root ::= [a-z]+ <tool>", [*b"ab", TOOL]).is_accepting
    assert consumed("root ::= (!<[97]>)* <[98]> <[99]>", [*b"xbcbc"]).is_accepting
    assert consumed("root ::= !<[97]> <[97]> | !<[98]> <[99]>", [*b"xc"]).is_accepting
    with pytest.raises(InvalidConstraint, match=r"any token but 258 where it also allows text"):
        consumed('root ::= [a-z]+ !<tool> "q"', [])


@pytest.mark.parametrize(
    ("grammar", "message"),
    [
        ('root ::= a\n\nb ::= "x"', "line 1, column 10: there is no rule 'a': root ::= ⟨here⟩a"),
        ('root ::= "a"\nb ::= "abc\nd', 'line 2, column 7: the text that begins here has no end: b ::= ⟨here⟩"abc'),
        ("root ::= [ab", "the set of characters that begins here has no end"),
        ('root ::= ("a"\nb ::= "c"', "line 1, column 10: the group that begins here is not closed"),
        ('root ::= "a" )', "column 14: the rule cannot go on like this"),
        ('root ::= "\\q"', r"column 11: \q is no escape; there are \t"),
        ('root ::= "\\u12"', r"\u is followed by 4 hexadecimal digits"),
        ('root ::= "\\', "is no escape"),
        ('root ::= "a"{3,2}', "3 repetitions at least and 2 at most"),
        ('root ::= "a"{,3}', "how often is written `{2}`"),
        ('root ::= "a"{99999}', "rule 'root' of the GBNF repeats a part up to 99999 times"),
        ("root ::= *", "there is nothing to repeat before `*`"),
        ("root ::= <nope>", "<nope> is not one token of the model's vocabulary"),
        ("root ::= !<[999]>", "<[999]> is not one token"),
        ("root ::= <no", "a token is written by name"),
        ("root ::= ]", "column 10: a text, a set of characters"),
        ('root = "a"', "column 6: `::=` is expected after 'root'"),
        ('root ::= "a"\n  | "b"', "a rule goes on in the next line behind `|`"),
        ('rot ::= "a"', "no rule 'root'"),
        ('root ::= root "a"', "the GBNF has no text"),
        ("root ::= [z-a]", "the GBNF has no text"),
        ("root ::= " + "(" * 60 + '"a"' + ")" * 60, "groups are more than 50 levels deep"),
        ("root ::= " + '"a" ' * 50_001, "at most 200000 are possible"),
    ],
)
def test_what_cannot_be_read_is_shown_in_the_users_own_text(grammar: str, message: str) -> None:
    """Line, column and the place in that line."""
    with pytest.raises(InvalidConstraint) as caught:
        ConstraintCompiler(BYTES).compile(Gbnf(grammar))
    assert message in str(caught.value)


def test_a_text_that_is_long_beyond_reason_is_refused() -> None:
    """Each rule is twice the one before: 2**50 letters."""
    rules = "".join(f"r{number} ::= r{number - 1} r{number - 1}\n" for number in range(1, 51))
    with pytest.raises(InvalidConstraint, match="the shortest text of the GBNF has 1125899906842624 characters"):
        gbnf_to_lark(f'root ::= r50\nr0 ::= "x"\n{rules}', BYTES)
    with pytest.raises(InvalidConstraint, match="repeats a part up to 1125899906842624 times"):
        gbnf_to_lark(f'root ::= r50\nr0 ::= "x"?\n{rules}', BYTES)


def test_what_is_regular_is_one_lexeme_and_text_beside_tags_is_not_cut() -> None:
    """Masks over a large vocabulary cost less by lexemes than by single characters, as an ambiguous grammar needs."""
    assert gbnf_to_lark("root ::= a a\na ::= [bc]+", BYTES) == "start: /[bc]{2,}/\n"
    assert "[^<>]+" in gbnf_to_lark('root ::= (text | "<" root ">")+\ntext ::= [^<>]+', BYTES)
    assert "+" not in gbnf_to_lark('root ::= "a" root "c" | "b"', BYTES)
