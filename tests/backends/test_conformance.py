"""What the protocol promises, shown by every backend: the double behaves as MLX does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest
import remote_doubles
from models import Driver, llama

from greenroom.backends.mlx import MlxBackend
from greenroom.backends.protocol import (
    Backend,
    Close,
    Feed,
    ForwardPlan,
    Masks,
    ModelInfo,
    Open,
    Rewind,
    Sampling,
)
from greenroom.backends.remote.backend import RemoteBackend
from greenroom.backends.scripted import Reply, Scripted

FIRST = (84, 101, 108, 108, 32, 109, 101)
SECOND = (65, 110, 100, 63)
THIRD = (87, 104, 111, 32, 105, 115, 32, 105, 116, 32, 110, 111, 119, 63)
COUNT = 8


class Loaded(NamedTuple):
    """A backend in use."""

    backend: Backend
    info: ModelInfo
    driver: Driver


def scripted(*, pipelines: bool = False) -> Backend:
    """The double, saying something else to each prompt, for ever."""
    return Scripted(_said_who, kv_bytes_per_row=3, pipelines=pipelines)


def _said_who(said: str, _: int) -> Reply:
    return Reply(f"{said} said who? ", repeat=True)


def mlx(profile: str = "cpu") -> Backend:
    """MLX over a small llama with random weights."""
    return MlxBackend.from_model(llama, name="llama", device_profile=profile)


def remote(**options: Any) -> Backend:
    """The double in another process; the other order has tests of its own, since a process costs half a second."""
    return RemoteBackend(remote_doubles.factory(kv_bytes_per_row=3, **options))


FACTORIES: dict[str, Callable[[], Backend]] = {
    "scripted": scripted,
    "scripted-pipeline": partial(scripted, pipelines=True),
    "mlx": mlx,
    "mlx-pipeline": partial(mlx, "metal"),
    "remote-pipeline": partial(remote, pipelines=True),
}
"""Each as itself, and as one whose passes are submitted before the last is read."""


@pytest.fixture(params=FACTORIES)
def loaded(request: pytest.FixtureRequest) -> Iterator[Loaded]:
    """Each backend, loaded, and closed at the end; driven in its own order."""
    backend = FACTORIES[request.param]()
    info = backend.load()
    assert info.pipelines == request.param.endswith("pipeline")
    yield Loaded(backend, info, Driver(backend, pipelines=info.pipelines))
    backend.close()


def alone(loaded: Loaded, row: int, prompt: tuple[int, ...], count: int = COUNT) -> list[int]:
    """What the backend says to `prompt` in a row by itself, greedily."""
    return loaded.driver.run(row, prompt, count)


def allowing(loaded: Loaded, row: int, *tokens: int) -> Masks:
    """A mask that lets `row` draw `tokens` only."""
    bits = np.zeros((1, -(-loaded.info.vocab_size // 32)), np.uint32)
    for token in tokens:
        bits[0, token // 32] |= np.uint32(1 << token % 32)
    return Masks((row,), bits)


def test_the_model_says_what_it_is(loaded: Loaded) -> None:
    """Sizes are positive, the stop tokens lie in the vocabulary, and nothing is held."""
    info = loaded.info
    assert 0 < info.tokenizer.vocab_size <= info.vocab_size
    assert info.stop_tokens
    assert all(0 <= token < info.vocab_size for token in info.stop_tokens)
    assert info.context_length is not None
    assert info.context_length > 0
    assert info.kv_bytes_per_token > 0
    assert info.kv_bytes_per_row >= 0
    assert info.memory_bytes > 0
    assert info.can_rewind
    assert info.can_fork
    assert info.name
    assert info.device
    assert loaded.backend.edit([]).kv_bytes == 0


def test_results_follow_the_plan(loaded: Loaded) -> None:
    """One token for each row that is sampled, in the plan's order, whatever the rows' numbers."""
    driver = loaded.driver
    for row in (1, 2, 3, 4):
        driver.open(row)
    driver.turn(Feed(3, FIRST), Feed(1, SECOND), Feed(4, THIRD), Feed(2, THIRD, sample=False))
    driver.read()
    assert [sampled.row for sampled in driver.results[-1].sampled] == [3, 1, 4]
    driver.turn(Feed(4), Feed(2, SECOND), Feed(3))
    driver.read()
    assert [sampled.row for sampled in driver.results[-1].sampled] == [4, 2, 3]
    assert not driver.results[-1].failures
    assert not driver.results[-1].sampled[0].top
    assert driver.results[-1].sampled[0].logprob is None


def test_a_row_says_the_same_alone_and_in_company(loaded: Loaded) -> None:
    """Greedy tokens do not depend on the batch."""
    driver = loaded.driver
    prompts = {1: FIRST, 2: SECOND, 3: THIRD}
    expected = {row: alone(loaded, row + 10, prompt) for row, prompt in prompts.items()}
    for row in prompts:
        driver.open(row)
    driver.turn(*[Feed(row, prompt) for row, prompt in prompts.items()])
    for _ in range(COUNT - 1):
        driver.turn(*[Feed(row) for row in prompts])
    driver.read()
    assert {row: driver.tokens(row) for row in prompts} == expected


def test_a_row_that_is_closed_gives_its_bytes_back_and_changes_no_other(loaded: Loaded) -> None:
    """The sum falls by what the row cost, at once; the others say what they say alone; at the end nothing is held."""
    driver = loaded.driver
    expected = alone(loaded, 10, FIRST)
    driver.open(1)
    driver.turn(Feed(1, FIRST))
    driver.read()
    before = driver.edit()
    driver.open(2)
    driver.turn(Feed(2, THIRD))
    driver.read()
    both = driver.edit()
    assert both > before
    assert driver.edit(Close(2)) == before
    for _ in range(COUNT - 1):
        driver.turn(Feed(1))
    driver.read()
    assert driver.tokens(1) == expected
    assert driver.results[-1].kv_bytes == driver.edit() > before
    assert driver.edit(Close(1)) == 0


def test_bytes_grow_with_the_tokens_that_were_run(loaded: Loaded) -> None:
    """The estimates of `ModelInfo` are what rows cost; a pending token costs nothing yet."""
    driver = loaded.driver
    driver.open(1)
    driver.turn(Feed(1, FIRST))
    driver.read()
    assert driver.edit() == len(FIRST) * loaded.info.kv_bytes_per_token + loaded.info.kv_bytes_per_row
    driver.turn(Feed(1))
    driver.read()
    assert driver.edit() == (len(FIRST) + 1) * loaded.info.kv_bytes_per_token + loaded.info.kv_bytes_per_row


def test_feeding_nothing_feeds_the_pending_token(loaded: Loaded) -> None:
    """The token that was read, fed explicitly, gives the same as an empty feed."""
    driver = loaded.driver
    expected = alone(loaded, 10, FIRST)
    driver.open(1)
    driver.turn(Feed(1, FIRST))
    for _ in range(COUNT - 1):
        driver.read()
        driver.turn(Feed(1, (driver.tokens(1)[-1],)))
    driver.read()
    assert driver.tokens(1) == expected


@pytest.mark.parametrize("size", [1, 3, len(THIRD) - 1])
def test_a_prompt_in_chunks_is_the_prompt(loaded: Loaded, size: int) -> None:
    """Only the last chunk is sampled, and what follows is as if the prompt had been run whole."""
    driver = loaded.driver
    expected = alone(loaded, 10, THIRD)
    driver.open(1)
    for start in range(0, len(THIRD), size):
        driver.turn(Feed(1, THIRD[start : start + size], sample=start + size >= len(THIRD)))
    for _ in range(COUNT - 1):
        driver.turn(Feed(1))
    driver.read()
    assert driver.tokens(1) == expected


def test_a_fork_goes_on_as_its_source_and_by_itself(loaded: Loaded) -> None:
    """Behind an unread token both say the same; forced tokens in the one and its end are nothing to the other."""
    driver = loaded.driver
    expected = alone(loaded, 10, FIRST)
    driver.open(1)
    driver.turn(Feed(1, FIRST))
    driver.turn(Feed(1))
    left = driver.branch(2, (*FIRST, *driver.tokens(1)), start=len(FIRST))
    driver.turn(Feed(2, left))
    driver.read()
    assert driver.tokens(2) == driver.tokens(1)[1:] == expected[1:2]
    driver.sampled[2] = []
    for _ in range(3):
        driver.turn(Feed(1), Feed(2))
    driver.read()
    assert driver.tokens(1) == expected[:5]
    assert driver.tokens(2) == expected[2:5]
    driver.turn(Feed(1, SECOND))
    driver.read()
    driver.edit(Close(1))
    for _ in range(3):
        driver.turn(Feed(2))
    driver.read()
    assert driver.tokens(2) == expected[2:]


@pytest.mark.parametrize("kept", [len(FIRST) + 3, len(FIRST), 3])
def test_a_row_that_is_rewound_and_fed_again_goes_on_as_before(loaded: Loaded, kept: int) -> None:
    """Into its output, to the end of its prompt, or into its prompt."""
    driver = loaded.driver
    expected = alone(loaded, 10, FIRST)
    driver.open(1)
    driver.turn(Feed(1, FIRST))
    for _ in range(5):
        driver.turn(Feed(1))
    driver.read()
    driver.edit(Rewind(1, kept))
    driver.turn(Feed(1, (*FIRST, *expected[:5])[kept:]))
    for _ in range(COUNT - 6):
        driver.turn(Feed(1))
    driver.read()
    assert driver.tokens(1) == expected[:6] + expected[5:]
    held = driver.edit()
    cut = driver.edit(Rewind(1, 2))
    assert held - cut == (len(FIRST) + COUNT - 3) * loaded.info.kv_bytes_per_token


def test_a_rewind_drops_the_pending_token(loaded: Loaded) -> None:
    """To the row's whole length too: the next feed has to bring ids."""
    driver = loaded.driver
    driver.open(1)
    driver.turn(Feed(1, FIRST))
    driver.read()
    held = driver.edit()
    assert driver.edit(Rewind(1, len(FIRST))) == held
    assert driver.edit(Rewind(1, len(FIRST) - 1)) == held - loaded.info.kv_bytes_per_token
    driver.turn(Feed(1, FIRST[-1:]))
    driver.read()
    assert driver.tokens(1)[0] == driver.tokens(1)[1]


def test_a_mask_with_one_id_gives_that_id(loaded: Loaded) -> None:
    """The masked row draws it, the free one what it would have."""
    driver = loaded.driver
    expected = alone(loaded, 10, SECOND, 2)
    driver.open(1)
    driver.open(2)
    driver.turn(Feed(1, FIRST), Feed(2, SECOND), masks=allowing(loaded, 1, 77))
    driver.turn(Feed(2), Feed(1), masks=allowing(loaded, 1, loaded.info.vocab_size - 1))
    driver.read()
    assert driver.tokens(1) == [77, loaded.info.vocab_size - 1]
    assert driver.tokens(2) == expected


def test_masks_that_are_filled_on_the_way_are_masks(loaded: Loaded) -> None:
    """The backend asks for them once a pass; None of them leaves all rows free."""
    driver = loaded.driver
    expected = alone(loaded, 10, FIRST, 2)
    asked: list[Masks | None] = [allowing(loaded, 2, 77), None]
    driver.open(1)
    driver.open(2)
    driver.turn(Feed(1, FIRST), Feed(2, SECOND), masks=lambda: asked.pop(0))
    driver.turn(Feed(1), Feed(2), masks=lambda: asked.pop(0))
    driver.read()
    assert not asked
    assert driver.tokens(1) == expected
    assert driver.tokens(2)[0] == 77


def test_a_function_that_fills_masks_may_read_the_step_before(loaded: Loaded) -> None:
    """So that the mask of a draw can follow from the draw before it, though the pass was submitted before that."""
    driver, backend = loaded.driver, loaded.backend
    expected = alone(loaded, 10, FIRST, 2)
    driver.edit(Open(1, Sampling()), Open(2, Sampling()))
    backend.forward(ForwardPlan((Feed(1, FIRST), Feed(2, SECOND))))
    backend.sample()

    def fill() -> Masks:
        drawn = {sampled.row: sampled.token for sampled in backend.read().sampled}
        assert drawn[1] == expected[0]
        return allowing(loaded, 2, drawn[1] + 1)

    backend.forward(ForwardPlan((Feed(1), Feed(2))))
    backend.sample(fill)
    assert [sampled.token for sampled in backend.read().sampled] == [expected[1], expected[0] + 1]


def test_banned_ids_are_drawn_only_once_the_row_is_long_enough(loaded: Loaded) -> None:
    """While the row holds fewer than `banned_until` tokens the id cannot come, then it may."""
    driver = loaded.driver
    token = alone(loaded, 10, FIRST, 1)[0]
    for row, until in ((1, len(FIRST)), (2, len(FIRST) + 1)):
        driver.open(row, Sampling(banned=(token,), banned_until=until))
        driver.turn(Feed(row, FIRST))
    driver.read()
    assert driver.tokens(1) == [token]
    assert driver.tokens(2) != [token]


def test_a_row_that_is_closed_under_way_is_not_reported(loaded: Loaded) -> None:
    """Its bytes are gone at once, the others' tokens come."""
    driver, backend = loaded.driver, loaded.backend
    expected = alone(loaded, 10, SECOND, 1)
    driver.edit(Open(1, Sampling()), Open(2, Sampling()))
    backend.forward(ForwardPlan((Feed(1, FIRST), Feed(2, SECOND))))
    backend.sample()
    held = driver.edit(Close(1))
    assert held == len(SECOND) * loaded.info.kv_bytes_per_token + loaded.info.kv_bytes_per_row
    result = backend.read()
    assert [(sampled.row, sampled.token) for sampled in result.sampled] == [(2, expected[0])]
    assert not result.failures
    assert result.kv_bytes == held


def test_two_passes_may_be_under_way(loaded: Loaded) -> None:
    """The second runs the token of the first before anybody has read it; results come oldest first."""
    driver, backend = loaded.driver, loaded.backend
    expected = alone(loaded, 10, FIRST, 3)
    driver.edit(Open(1, Sampling()))
    backend.forward(ForwardPlan((Feed(1, FIRST),)))
    backend.sample()
    tokens = []
    for _ in range(2):
        backend.forward(ForwardPlan((Feed(1),)))
        backend.sample()
        tokens.append(backend.read().sampled[0].token)
    tokens.append(backend.read().sampled[0].token)
    assert tokens == expected


def test_a_pass_in_which_nothing_is_sampled_has_a_result(loaded: Loaded) -> None:
    """Without tokens or failures, and with the bytes held."""
    driver = loaded.driver
    driver.open(1)
    driver.turn(Feed(1, FIRST, sample=False))
    driver.read()
    result = driver.results[-1]
    assert result.sampled == ()
    assert result.failures == ()
    assert result.kv_bytes == driver.edit() > 0


def test_a_row_that_is_left_out_keeps_its_state(loaded: Loaded) -> None:
    """Passes without it, more rows and fewer, change nothing for it; its pending token waits."""
    driver = loaded.driver
    expected = alone(loaded, 10, FIRST)
    driver.open(1)
    driver.open(2)
    driver.turn(Feed(1, FIRST), Feed(2, SECOND))
    driver.turn(Feed(1), Feed(2))
    driver.turn(Feed(2))
    driver.open(3)
    driver.turn(Feed(3, THIRD), Feed(2))
    driver.turn(Feed(3))
    driver.read()
    driver.edit(Close(2))
    for _ in range(COUNT - 2):
        driver.turn(Feed(3), Feed(1))
    driver.read()
    assert driver.tokens(1) == expected


def test_only_the_row_that_asks_has_log_probabilities(loaded: Loaded) -> None:
    """The drawn token's, and as many of the likeliest as asked for, best first; 0 asks for the drawn one's only."""
    driver = loaded.driver
    driver.open(1, Sampling(logprobs=3))
    driver.open(2)
    driver.open(3, Sampling(logprobs=0))
    driver.turn(Feed(1, FIRST), Feed(2, SECOND), Feed(3, THIRD))
    driver.read()
    first, second, third = driver.results[-1].sampled
    values = [value for _, value in first.top]
    assert first.top[0][0] == first.token
    assert values[0] == pytest.approx(first.logprob)
    assert values == sorted(values, reverse=True)
    assert len({token for token, _ in first.top}) == 3
    assert max(values) < 0
    assert second.logprob is None
    assert third.logprob is not None
    assert second.top == third.top == ()


def test_a_backend_can_be_closed_twice_and_loaded_again(loaded: Loaded) -> None:
    """With passes under way too; the second life begins with nothing and says the same."""
    backend = loaded.backend
    expected = alone(loaded, 10, FIRST)
    backend.edit([Open(1, Sampling())])
    backend.forward(ForwardPlan((Feed(1, FIRST),)))
    backend.sample()
    backend.close()
    backend.close()
    info = backend.load()
    assert info.vocab_size == loaded.info.vocab_size
    assert backend.edit([]).kv_bytes == 0
    assert Driver(backend).run(1, FIRST, COUNT) == expected
