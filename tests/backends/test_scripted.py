"""The double: what it says, when it says it, how it fails, and what it does not put up with."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import Driver

from greenroom.backends.protocol import (
    Close,
    Feed,
    ForwardPlan,
    Masks,
    Open,
    Rewind,
    RowFailure,
    Sampling,
)
from greenroom.backends.scripted import ByteTokenizer, ProtocolViolation, Reply, Scripted, ScriptFailed
from greenroom.errors import InvalidParameter, NotSupported

END = 256
IM_END = 258
TOKENIZER = ByteTokenizer()
SPECIALS = ["<|end|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>", "<tool_call>", "</tool_call>"]


@pytest.fixture
def backend() -> Iterator[Scripted]:
    """One that says "abc" to everything, loaded."""
    double = Scripted("abc")
    double.load()
    yield double
    double.close()


def ids(text: str) -> tuple[int, ...]:
    """The ids of a text, special tokens spelt out."""
    return tuple(TOKENIZER.encode(text))


def says(backend: Scripted, prompt: tuple[int, ...], count: int, sampling: Sampling | None = None) -> str:
    """What a loaded or fresh double says to `prompt`, special tokens spelt out."""
    backend.close()
    backend.load()
    tokens = Driver(backend).run(0, prompt, count, sampling)
    backend.close()
    return TOKENIZER.decode(tokens, skip_special_tokens=False)


def asked(*messages: str) -> tuple[int, ...]:
    """A conversation of user messages, rendered."""
    return tuple(TOKENIZER.render([{"role": "user", "content": message} for message in messages]))


def allowing(row: int, *tokens: int) -> Masks:
    """A mask that lets `row` draw `tokens` only."""
    bits = np.zeros((1, 10), np.uint32)
    for token in tokens:
        bits[0, token // 32] |= np.uint32(1 << token % 32)
    return Masks((row,), bits)


def test_a_reply_is_found_by_the_whole_text_then_the_last_user_message_then_the_star() -> None:
    """A rendered conversation is found either way."""
    whole = TOKENIZER.decode(asked("one", "two"), skip_special_tokens=False)
    backend = Scripted({"raw": "R", whole: "W", "two": "2", "*": "S"})
    assert says(backend, ids("raw"), 2) == "R<|end|>"
    assert says(backend, asked("one", "two"), 2) == "W<|end|>"
    assert says(backend, asked("two"), 2) == "2<|end|>"
    assert says(backend, asked("three"), 2) == "S<|end|>"


@pytest.mark.parametrize("replies", [None, {}, {"something else": "x"}])
def test_without_a_reply_the_prompt_is_repeated(replies: Mapping[str, str] | None) -> None:
    """The last user message, or the whole text, and then the end for as long as anybody asks."""
    assert says(Scripted(replies), asked("first", "echo"), 6) == "echo<|end|><|end|>"
    assert says(Scripted(replies), ids("echo"), 5) == "echo<|end|>"


def test_a_callable_is_asked_with_the_message_and_the_seed() -> None:
    """So replies can depend on both; they are asked once a row."""
    calls = []

    def reply(said: str, seed: int) -> str:
        calls.append((said, seed))
        return f"{said}{seed}"

    assert says(Scripted(reply), asked("go"), 4, Sampling(seed=7)) == "go7<|end|>"
    assert calls == [("go", 7)]


@pytest.mark.parametrize("reply", [Reply("ab", repeat=True), Reply("ab", end=False)])
def test_a_reply_can_go_on_for_ever(reply: Reply) -> None:
    """It begins again where it would have ended."""
    assert says(Scripted(reply), ids("go"), 7) == "abababa"


def test_special_tokens_and_ids_in_a_reply_are_one_token_each() -> None:
    """Spelt out in the text, or as ids behind it."""
    reply = Reply("<think>x</think>", ids=(104, IM_END))
    assert says(Scripted(reply), ids("go"), 6) == "<think>x</think>h<|im_end|><|end|>"


@pytest.mark.parametrize("wrong", [{"delay": -1}, {"fail_at": 0}, {"repeat": True}, {"end": False}])
def test_a_reply_that_could_never_be_said_is_refused(wrong: dict[str, Any]) -> None:
    """When it is made, not when it is asked for."""
    with pytest.raises(ValueError, match=r"delay|fail_at|repeats"):
        Reply(**wrong)


def test_delays_are_counted_in_steps() -> None:
    """The read that gives the delayed row's first token takes so many steps more; the passes are as many as ever."""
    backend = Scripted({"slow": Reply("abc", delay=5), "*": "xyz"})
    backend.load()
    driver = Driver(backend)
    driver.open(1)
    driver.open(2)
    driver.turn(Feed(2, ids("fast")))
    driver.turn(Feed(1, ids("slow")), Feed(2))
    assert (backend.steps, backend.passes) == (1, 2)
    driver.read()
    assert backend.steps == 2 + 5
    driver.turn(Feed(1), Feed(2))
    driver.read()
    assert (backend.steps, backend.passes) == (3 + 5, 3)
    assert TOKENIZER.decode(driver.tokens(1)) == "ab"


def test_under_a_mask_the_first_legal_scripted_token_is_said(backend: Scripted) -> None:
    """Skipping what is illegal. An id that is the only legal one is said, after which the script goes on."""
    driver = Driver(backend)
    driver.open(1)
    driver.turn(Feed(1, ids("go")), masks=allowing(1, *b"xc"))
    driver.read()
    assert driver.tokens(1) == [ord("c")]
    driver.open(2)
    driver.turn(Feed(2, ids("go")), masks=allowing(2, *b"z"))
    driver.turn(Feed(2))
    driver.turn(Feed(2), masks=allowing(2, ord("x"), END))
    driver.read()
    assert driver.tokens(2) == [ord("z"), ord("a"), END]


def test_a_script_that_does_not_fit_its_mask_fails_its_row_alone(backend: Scripted) -> None:
    """The error has the reply, what was said of it, what may come and what is left."""
    driver = Driver(backend)
    driver.open(1)
    driver.open(2)
    driver.turn(Feed(1, ids("go")), Feed(2, ids("go")))
    driver.turn(Feed(1), Feed(2), masks=allowing(1, *b"xyz"))
    driver.read()
    assert driver.tokens(2) == [*b"ab"]
    (failure,) = driver.results[-1].failures
    assert failure.row == 1
    assert isinstance(failure.error, ScriptFailed)
    for part in ("'abc'", "behind 'a'", "'x', 'y', 'z'", "'bc<|end|>'"):
        assert part in str(failure.error)


def test_what_stands_behind_a_wrong_draft_need_not_fit(backend: Scripted) -> None:
    """Nobody will have said it."""
    driver = Driver(backend)
    driver.open(1)
    driver.turn(Feed(1, ids("go")))
    driver.read()
    bits = np.vstack([allowing(1, *b"bx").bits, allowing(1, *b"yz").bits])
    driver.turn(Feed(1, ids("ax"), drafts=1), masks=Masks((1, 1), bits))
    driver.read()
    assert driver.results[-1].failures == ()
    assert driver.tokens(1)[:2] == [*b"ab"]


def test_a_list_is_said_in_order_and_its_end_is_an_error_that_names_the_request() -> None:
    """Of that row alone; a runtime that is entered again begins the list anew."""
    backend = Scripted(["one", Reply("two")])
    for _ in range(2):
        assert says(backend, ids("go"), 3) == "one"
        backend.load()
        driver = Driver(backend)
        said = [TOKENIZER.decode(driver.run(row, asked(f"ask {row}"), 3)) for row in (1, 2)]
        assert said == ["one", "two"]
        driver.open(3)
        driver.turn(Feed(3, asked("once more")))
        driver.read()
        (failure,) = driver.results[-1].failures
        assert "has 2 replies" in str(failure.error)
        assert "number 3: 'once more'" in str(failure.error)
        backend.close()
        assert [(each.message, each.reply) for each in backend.requests] == [
            ("ask 1", Reply("one")),
            ("ask 2", Reply("two")),
            ("once more", None),
        ]


@pytest.mark.parametrize("num_read", [0, 2])
def test_a_request_that_is_run_again_keeps_its_reply_of_a_list(num_read: int) -> None:
    """Whether something of it was read or not; it counts as one request."""
    backend = Scripted(["first", "second"])
    backend.load()
    driver = Driver(backend)
    driver.open(1, Sampling(seed=5))
    driver.turn(Feed(1, ids("go")))
    for _ in range(num_read):
        driver.turn(Feed(1))
        driver.read()
    generated = driver.tokens(1)[:num_read]
    driver.edit(Close(1))
    driver.open(2, Sampling(seed=5))
    driver.turn(Feed(2, (*ids("go"), *generated)))
    driver.read()
    assert TOKENIZER.decode(generated + driver.tokens(2)) == "first"[: num_read + 1]
    assert TOKENIZER.decode(driver.run(3, ids("go"), 6)) == "second"
    assert [each.text for each in backend.requests] == ["go", "go"]
    backend.close()


def test_a_row_that_begins_behind_its_start_goes_on_with_its_reply_of_a_list() -> None:
    """So does a generator whose row was given up; one that begins anew takes the next reply."""
    backend = Scripted(["first", "second"])
    backend.load()
    driver = Driver(backend)
    for row, said, wanted in ((1, "", "f"), (2, "", "s"), (3, "fi", "r"), (4, "sec", "o")):
        driver.open(row, Sampling(seed=row), start=2)
        driver.turn(Feed(row, ids("go" + said)))
        driver.read()
        assert TOKENIZER.decode(driver.tokens(row)) == wanted
    assert len(backend.requests) == 2
    backend.close()


def test_what_was_asked_is_kept_once_a_request() -> None:
    """Ids, text, message, how to draw, and the reply; still there when the double is closed, gone when it is loaded."""
    backend = Scripted(lambda message, seed: f"{message}{seed}")
    says(backend, asked("one", "two"), 3, Sampling(seed=7, temperature=0.5))
    (request,) = backend.requests
    assert request.ids == asked("one", "two")
    assert request.text == TOKENIZER.decode(request.ids, skip_special_tokens=False)
    assert request.message == "two"
    assert request.sampling.temperature == 0.5
    assert request.reply == Reply("two7")
    backend.load()
    assert backend.requests == ()
    backend.close()


WRONG_REPLIES: list[Any] = [
    5,
    b"text",
    {"a": 5},
    {5: "a"},
    ["a", None],
    [["a"]],
    {"a"},
    iter(["a"]),
    Reply(ids=(320,)),
    ["a", Reply(ids=(-1,))],
    "\ud800",
    {"*": Reply(ids=(4000,))},
]


@pytest.mark.parametrize("replies", WRONG_REPLIES)
def test_replies_of_another_type_are_refused_at_once(replies: Any) -> None:
    """And what is in them, with its place."""
    with pytest.raises(InvalidParameter):
        Scripted(replies)


@pytest.mark.parametrize(
    "wrong",
    [{"text": 5}, {"text": None}, {"ids": "ab"}, {"ids": (1.5,)}, {"delay": "1"}, {"fail_at": 1.0}, {"error": "no"}],
)
def test_a_reply_of_wrong_fields_is_refused(wrong: dict[str, Any]) -> None:
    """With the field and what it was."""
    with pytest.raises(InvalidParameter, match=next(iter(wrong))):
        Reply(**wrong)


@pytest.mark.parametrize("given", [5, None, ["a"], b"a"])
def test_a_callable_that_gives_no_reply_fails_its_row_alone(given: Any) -> None:
    """As one that raises does: the neighbour goes on."""

    def reply(message: str, _: int) -> Any:
        if message == "raise":
            raise KeyError(message)
        return given if message == "bad" else "xyz"

    backend = Scripted(reply)
    backend.load()
    driver = Driver(backend)
    for row in (1, 2, 3):
        driver.open(row)
    driver.turn(Feed(1, ids("bad")), Feed(2, ids("good")), Feed(3, ids("raise")))
    driver.read()
    assert TOKENIZER.decode(driver.tokens(2)) == "x"
    assert {each.row: type(each.error) for each in driver.results[-1].failures} == {1: ScriptFailed, 3: KeyError}
    assert repr(given) in str(driver.results[-1].failures[0].error)
    backend.close()


def test_banned_ids_are_passed_over_like_masked_ones() -> None:
    """A banned end leaves nothing scripted: the lowest id comes, until the end is allowed."""
    sampling = Sampling(banned=(END, ord("b")), banned_until=5)
    assert says(Scripted("abc"), ids("go"), 4, sampling) == "ac\x00<|end|>"


def test_forced_tokens_move_the_script_on(backend: Scripted) -> None:
    """What a grammar feeds without asking counts as said where the script has it, and as nothing where it has not."""
    driver = Driver(backend)
    driver.open(1)
    driver.turn(Feed(1, ids("go")))
    driver.read()
    driver.turn(Feed(1, ids("a?b")))
    driver.read()
    assert driver.tokens(1) == [ord("a"), ord("c")]


@pytest.mark.parametrize("unread", [0, 1, 2])
def test_a_replay_goes_on_where_the_closed_row_stood(unread: int) -> None:
    """Its prompt and what was read of it, fed to a new row, while up to two tokens more were drawn."""
    backend = Scripted({"go": "0123456789"})
    backend.load()
    driver = Driver(backend)
    driver.open(1)
    driver.turn(Feed(1, ids("go")))
    for _ in range(4):
        driver.turn(Feed(1))
    driver.read()
    generated = driver.tokens(1)[: 5 - unread]
    driver.edit(Close(1))
    driver.open(2)
    driver.turn(Feed(2, ids("go"), sample=False))
    driver.turn(Feed(2, tuple(generated)))
    driver.turn(Feed(2))
    driver.read()
    assert TOKENIZER.decode(generated + driver.tokens(2)) == "0123456789"[: 7 - unread]


def test_a_replay_keeps_what_masks_made_of_the_reply(backend: Scripted) -> None:
    """The rest of the prompt need not be what the script begins with."""
    driver = Driver(backend)
    driver.open(1)
    driver.turn(Feed(1, ids("go")), masks=allowing(1, ord("?")))
    driver.turn(Feed(1))
    driver.read()
    driver.edit(Close(1))
    driver.open(2)
    driver.turn(Feed(2, (*ids("go"), *driver.tokens(1))))
    driver.read()
    assert driver.tokens(2) == [ord("b")]


def test_a_prompt_that_looks_like_a_finished_row_is_a_new_one() -> None:
    """An echo of "aa" that was read to its end does not make the prompt "aaaa" a replay; nor where "aaaa" is known."""
    for backend in (Scripted(), Scripted({"aaaa": "new", "*": Reply("a", repeat=True)})):
        backend.load()
        driver = Driver(backend)
        first = driver.run(1, ids("aa"), 3)
        second = driver.run(2, ids("aaaa"), 3)
        assert TOKENIZER.decode(first)[:2] == "aa"
        assert TOKENIZER.decode(second) in {"aaa", "new"}
        assert END not in second
        backend.close()


def test_a_reply_fails_its_row_alone_at_its_token() -> None:
    """The neighbour goes on; the failed row fails again in passes that were under way, until it is closed."""
    error = OSError("no more")
    backend = Scripted({"bad": Reply("abcdef", fail_at=3, error=error), "*": "xyz"})
    backend.load()
    driver = Driver(backend)
    driver.open(1)
    driver.open(2)
    driver.turn(Feed(1, ids("bad")), Feed(2, ids("good")))
    for _ in range(3):
        driver.turn(Feed(1), Feed(2))
    driver.read()
    assert TOKENIZER.decode(driver.tokens(1)) == "ab"
    assert TOKENIZER.decode(driver.tokens(2)) == "xyz"
    assert [result.failures for result in driver.results] == [(), (), *[(RowFailure(1, error),)] * 2]
    driver.edit(Close(1))
    driver.turn(Feed(2))
    driver.read()
    assert driver.tokens(2)[-1] == END


def test_a_failure_without_an_error_names_row_and_token() -> None:
    """So the test that sees it knows where it came from."""
    backend = Scripted(Reply("abc", fail_at=1))
    backend.load()
    driver = Driver(backend)
    driver.open(5)
    driver.turn(Feed(5, ids("go")))
    driver.read()
    assert "row 5 fails at its token 1" in str(driver.results[-1].failures[0].error)


def test_methods_fail_on_demand_and_then_work() -> None:
    """Each raises what waits for it, in order, once; what was under way before can still be read."""
    backend = Scripted("abc")
    methods: dict[Any, Callable[[], object]] = {
        "load": backend.load,
        "edit": lambda: backend.edit([Open(1, Sampling())]),
        "forward": lambda: backend.forward(ForwardPlan((Feed(1, ids("go")),))),
        "sample": backend.sample,
        "read": backend.read,
    }
    for method, call in methods.items():
        if method in {"sample", "read"}:
            continue
        backend.fail_next(method, OSError(method))
        backend.fail_next(method, MemoryError(method))
        with pytest.raises(OSError, match=method):
            call()
        with pytest.raises(MemoryError, match=method):
            call()
        call()
    backend.fail_next("sample", OSError("sample"))
    with pytest.raises(OSError, match="sample"):
        backend.sample()
    backend.edit([Rewind(1, 0)])
    methods["forward"]()
    backend.sample()
    backend.forward(ForwardPlan((Feed(1),)))
    backend.sample()
    backend.fail_next("read", OSError("read"))
    with pytest.raises(OSError, match="read"):
        backend.read()
    assert backend.read().sampled[0].token == ord("b")
    with pytest.raises(ValueError, match="method must be one of"):
        backend.fail_next("close", OSError())  # type: ignore[arg-type]


def test_a_held_double_is_let_go_step_by_step() -> None:
    """The engine's thread stands in `read`; each release lets so many steps by, and `wait_held` waits for the next."""
    backend = Scripted(Reply("a", repeat=True))
    with ThreadPoolExecutor(1) as engine:
        engine.submit(backend.load).result()
        driver = Driver(backend)
        engine.submit(driver.open, 1).result()
        with backend.held():
            done = engine.submit(_turns, driver, 6)
            backend.wait_held()
            assert backend.steps == 0
            backend.release()
            backend.wait_held()
            assert backend.steps == 1
            backend.release(3)
            backend.wait_held()
            assert backend.steps == 4
            assert not done.done()
            assert "held" in repr(backend)
        done.result()
        assert backend.steps == 6
        engine.submit(backend.close).result()


def _turns(driver: Driver, count: int) -> None:
    driver.turn(Feed(1, ids("go")))
    for _ in range(count - 1):
        driver.turn(Feed(1))
    driver.read()


def test_waiting_for_an_engine_that_does_not_come_times_out(backend: Scripted) -> None:
    """Nothing is under way, so nothing will ever stand at the gate; a release without a hold is none later either."""
    backend.release()
    backend.hold()
    with pytest.raises(TimeoutError):
        backend.wait_held(timeout=0.01)
    with pytest.raises(ValueError, match="at least 1"):
        backend.release(0)


def test_closing_waits_for_no_gate(backend: Scripted) -> None:
    """A held double with passes under way closes at once."""
    backend.hold()
    backend.edit([Open(1, Sampling())])
    backend.forward(ForwardPlan((Feed(1, ids("go")),)))
    backend.sample()
    backend.close()
    assert "not loaded" in repr(backend)


def opened(backend: Scripted) -> Scripted:
    """With row 1 open."""
    backend.edit([Open(1, Sampling())])
    return backend


def built(backend: Scripted, *feeds: Feed) -> Scripted:
    """With a pass built, of row 1 where nothing else is said."""
    backend.forward(ForwardPlan(feeds or (Feed(1, ids("go")),)))
    return backend


def sampled(backend: Scripted) -> Scripted:
    """With the pass that was built submitted."""
    backend.sample()
    return backend


def two_under_way(backend: Scripted) -> Scripted:
    """With two passes submitted, and a third built."""
    return built(sampled(built(sampled(built(opened(backend))), Feed(1))), Feed(1))


VIOLATIONS: dict[str, tuple[Callable[[Scripted], object], str]] = {
    "forward twice": (lambda b: built(built(opened(b)), Feed(1, (1,))), "without a sample"),
    "sample first": (lambda b: b.sample(), "without a forward"),
    "sample twice": (lambda b: sampled(built(opened(b))).sample(), "without a forward"),
    "read first": (lambda b: b.read(), "nothing under way"),
    "three under way": (lambda b: two_under_way(b).sample(), "under way"),
    "an unknown row": (built, "no row 1"),
    "closing an unknown row": (lambda b: b.edit([Close(1)]), "no row 1"),
    "rewinding an unknown row": (lambda b: b.edit([Rewind(1, 0)]), "no row 1"),
    "a row twice": (lambda b: built(opened(b), Feed(1, (1,)), Feed(1, (1,))), "twice"),
    "a row again": (lambda b: opened(opened(b)), "opened before"),
    "a row after its end": (lambda b: opened(b).edit([Close(1), Open(1, Sampling())]), "opened before"),
    "nothing to feed": (lambda b: built(opened(b), Feed(1)), "no token pending"),
    "too long": (lambda b: built(opened(b), Feed(1, (1,) * 4097)), "more than 4096"),
    "no such id": (lambda b: built(opened(b), Feed(1, (320,))), "from 0 to 319"),
    "rewound forward": (lambda b: opened(b).edit([Rewind(1, 1)]), "cannot be rewound"),
    "loaded twice": (lambda b: b.load(), "loaded already"),
    "not loaded": (lambda _: Scripted().edit([]), "not loaded"),
    "a mask for another row": (lambda b: built(opened(b)).sample(allowing(2, 1)), "masks name"),
    "a mask too short": (lambda b: built(opened(b)).sample(Masks((1,), np.ones((1, 9), np.uint32))), "masks must be"),
    "a mask of zeros": (lambda b: built(opened(b)).sample(allowing(1)), "no id is legal"),
}


@pytest.mark.parametrize("name", VIOLATIONS)
def test_calls_against_the_protocol_are_refused(backend: Scripted, name: str) -> None:
    """With a message that says what was wrong."""
    call, message = VIOLATIONS[name]
    with pytest.raises(ProtocolViolation, match=message):
        call(backend)


def test_a_plan_that_is_refused_changes_nothing(backend: Scripted) -> None:
    """Neither the rows before the wrong one nor the order of calls."""
    opened(backend)
    with pytest.raises(ProtocolViolation):
        built(backend, Feed(1, ids("go")), Feed(2, (1,)))
    assert backend.edit([]).kv_bytes == 0
    built(backend).sample()
    assert backend.read().sampled[0].token == ord("a")


def test_another_thread_may_not_call(backend: Scripted) -> None:
    """Every method belongs to the thread that loaded."""
    caught: list[BaseException] = []

    def call() -> None:
        for method in (lambda: backend.edit([]), backend.sample, backend.read, backend.close):
            try:
                method()
            except ProtocolViolation as error:
                caught.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert len(caught) == 4
    assert all("another thread" in str(error) for error in caught)


def test_a_vocabulary_that_is_too_small_is_refused() -> None:
    """The tokenizer's ids have to be in it."""
    with pytest.raises(ValueError, match="at least 263"):
        Scripted(vocab_size=262)


TEXT = st.lists(st.text() | st.sampled_from(SPECIALS), max_size=6).map("".join)


@given(TEXT)
def test_text_survives_encoding(text: str) -> None:
    """Every text comes back, special tokens spelt out or left out."""
    tokens = TOKENIZER.encode(text)
    assert TOKENIZER.decode(tokens, skip_special_tokens=False) == text
    assert all(0 <= token < TOKENIZER.vocab_size for token in tokens)
    plain = [token for token in tokens if token < 256]
    assert TOKENIZER.decode(tokens) == TOKENIZER.decode(plain)


@given(st.lists(st.integers(0, 319)), st.integers(0, 20))
def test_pieces_joined_are_the_decoded_text(tokens: list[int], cut: int) -> None:
    """Whatever the bytes, wherever a code point is cut, and on both sides of a fork."""
    stream = TOKENIZER.stream()
    text = "".join([stream.step(token) for token in tokens[:cut]])
    twin = stream.fork()
    for rest in (stream, twin):
        whole = text + "".join([rest.step(token) for token in tokens[cut:]]) + rest.flush()
        assert whole == TOKENIZER.decode(tokens)


def test_a_code_point_comes_with_its_last_byte() -> None:
    """Nothing before it; what is still incomplete at the end is U+FFFD."""
    stream = TOKENIZER.stream()
    assert [stream.step(byte) for byte in "é€".encode()] == ["", "é", "", "", "€"]
    assert stream.step("é".encode()[0]) == ""
    assert stream.step(END) == ""
    assert stream.flush() == "\ufffd"


def test_special_tokens_are_one_id_each() -> None:
    """And text around them is bytes."""
    assert TOKENIZER.encode("".join(SPECIALS)) == list(range(256, 263))
    assert TOKENIZER.encode("a<think>b") == [97, 259, 98]
    assert TOKENIZER.decode([97, 259, 98, 300]) == "ab"


def test_conversations_are_rendered_as_chatml() -> None:
    """Tools come before all messages, calls between their tokens, parts of text joined, the answer's opening last."""
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}]},
        {"role": "tool", "content": "2"},
    ]
    tokens = TOKENIZER.render(messages, tools=[{"name": "f"}], enable_thinking=False)
    assert TOKENIZER.decode(tokens, skip_special_tokens=False) == (
        '<|im_start|>system\n# Tools\n{"name": "f"}<|im_end|>\n'
        "<|im_start|>user\nab<|im_end|>\n"
        '<|im_start|>assistant\n<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call><|im_end|>\n'
        "<|im_start|>tool\n2<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert TOKENIZER.last_user_text(tokens) == "ab"
    closed = TOKENIZER.render(messages[:1], add_generation_prompt=False)
    assert TOKENIZER.decode(closed, skip_special_tokens=False) == "<|im_start|>user\nab<|im_end|>\n"


@pytest.mark.parametrize("content", [7, [{"type": "image"}], ["a"]])
def test_content_that_is_no_text_is_refused(content: object) -> None:
    """As a template's error."""
    with pytest.raises(ValueError, match="must be text"):
        TOKENIZER.render([{"role": "user", "content": content}])


def test_a_double_can_be_without_a_template() -> None:
    """Then conversations are not supported, and it says so."""
    tokenizer = Scripted(chat_template=False).load().tokenizer
    assert not tokenizer.has_chat_template
    with pytest.raises(NotSupported):
        tokenizer.render([{"role": "user", "content": "a"}])
