"""Sampling against a reference in numpy, and against mlx-lm where it defines the meaning."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from models import VOCAB, driven, llama, mx

from greenroom.backends.mlx.rows import Row, ints
from greenroom.backends.mlx.sampling import cpu
from greenroom.backends.mlx.sampling import masks as bitmasks
from greenroom.backends.mlx.sampling.sampler import BatchSampler
from greenroom.backends.mlx.sampling.topk import largest
from greenroom.backends.mlx.sampling.uniforms import mixed_seeds, uniforms
from greenroom.backends.protocol import Close, Feed, Masks, Sampling

Floats = npt.NDArray[np.float32]


def row(number: int, sampling: Sampling, tokens: list[int] | None = None) -> Row:
    """A row that holds `tokens`."""
    made = Row(number, sampling)
    made.tokens = list(tokens or [0])
    made.length = len(made.tokens)
    return made


def draw(logits: Floats, *samplings: Sampling, at: int = 1, masks: Masks | None = None) -> list[int]:
    """One draw per sampling, all of the same logits."""
    rows = [row(i, sampling, [0] * at) for i, sampling in enumerate(samplings)]
    sampler = BatchSampler(rows, len(logits))
    many = mx.array(np.repeat(logits[None], len(rows), axis=0))
    return ints(sampler.draw(many, None, masks, np.full(len(rows), at, np.uint64)).tokens)


def kept(logits: Floats, sampling: Sampling) -> list[int]:
    """Ids that the definition keeps, best first: the reference."""
    x = logits.astype(np.float64) / sampling.temperature
    order = np.lexsort((np.arange(len(x)), -x))
    p = np.exp(x - x.max())[order]
    if sampling.top_k:
        p[sampling.top_k :] = 0
    if sampling.top_p < 1:
        before = np.concatenate([[0], np.cumsum(p)[:-1]])
        p[before >= sampling.top_p * p.sum()] = 0
    p[p < sampling.min_p * p[0]] = 0
    return [int(i) for i in order[p > 0]]


def some_logits(seed: int, size: int, spread: float = 3.0) -> Floats:
    """Normally distributed, all different."""
    return np.random.default_rng(seed).normal(size=size).astype(np.float32) * np.float32(spread)


WAYS = [
    Sampling(temperature=0.7, top_k=5),
    Sampling(temperature=1.3, top_k=40, top_p=0.8),
    Sampling(temperature=1.0, top_k=64, top_p=0.95, min_p=0.02),
    Sampling(temperature=1.0, top_p=0.9),
    Sampling(temperature=2.5, top_p=0.97),
    Sampling(temperature=4.0, top_p=0.999, min_p=0.01),
    Sampling(temperature=0.8, min_p=0.1),
    Sampling(temperature=1.0, top_k=700),
    Sampling(temperature=3.0, top_k=700, top_p=0.9),
    Sampling(temperature=1.0),
]


def _name(sampling: Sampling) -> str:
    return f"t{sampling.temperature}-k{sampling.top_k}-p{sampling.top_p}-m{sampling.min_p}"


@pytest.mark.parametrize("size", [50, 1000, 5003])
@pytest.mark.parametrize("sampling", WAYS, ids=_name)
def test_nothing_outside_the_defined_set_is_drawn_and_all_that_is_likely_in_it(sampling: Sampling, size: int) -> None:
    """Three hundred draws against the set as the reference keeps it."""
    if sampling.top_k > size:
        pytest.skip("top_k is over the vocabulary")
    logits = some_logits(size, size)
    wanted = kept(logits, sampling)
    many = [Sampling(**{**_fields(sampling), "seed": seed}) for seed in range(300)]
    drawn = draw(logits, *many)
    assert set(drawn) <= set(wanted)
    p = np.exp((logits[wanted] - logits.max()).astype(np.float64) / sampling.temperature)
    assert {token for token, share in zip(wanted, p / p.sum(), strict=True) if share > 0.05} <= set(drawn)


@pytest.mark.parametrize("sampling", [WAYS[0], WAYS[3], WAYS[6], WAYS[9]], ids=_name)
def test_draws_follow_the_distribution(sampling: Sampling) -> None:
    """Frequencies of 20,000 draws against the renormalised probabilities: no token off by five standard deviations."""
    logits = some_logits(3, 40)
    wanted = kept(logits, sampling)
    x = logits.astype(np.float64)[wanted] / sampling.temperature
    p = np.exp(x - x.max())
    p /= p.sum()
    count = 20_000
    drawn = draw(logits, *[Sampling(**{**_fields(sampling), "seed": seed}) for seed in range(count)])
    found = np.bincount(drawn, minlength=40)[wanted]
    assert np.all(np.abs(found - count * p) <= 5 * np.sqrt(count * p * (1 - p)) + 1)


@given(
    values=st.lists(st.integers(-6, 6), min_size=1, max_size=400),
    top_k=st.integers(1, 40),
    top_p=st.floats(0.05, 1.0),
    wide=st.booleans(),
)
@example(values=[0] * 300, top_k=7, top_p=0.5, wide=True)
@settings(max_examples=60)
def test_ties_are_kept_by_the_lowest_id(values: list[int], top_k: int, top_p: float, wide: bool) -> None:
    """Equal logits are many here; both ways through the sampler keep the same, smallest, set."""
    from greenroom.backends.mlx.sampling import methods as module

    logits = np.array(values, dtype=np.float32)
    sampling = Sampling(temperature=1.0, top_k=min(top_k, len(values)), top_p=top_p)
    wanted = kept(logits, sampling)
    group = module.Group([0], [sampling], len(values))
    way = module._filtered if wide else module._candidates
    x = mx.array(logits)[None]
    (first,) = ints(way(x, group, np.array([[0.0]], np.float32)))
    (last,) = ints(way(x, group, np.array([[1 - 2.0**-23]], np.float32)))
    # In id order the open way starts at the lowest id kept and ends at the highest; the candidates' at best and worst.
    ends = (min(wanted), max(wanted)) if wide else (wanted[0], wanted[-1])
    p = np.exp(logits.astype(np.float64))
    total = p[wanted].sum()
    boundary = np.abs(np.cumsum(np.sort(p)[::-1]) / p.sum() - top_p).min()
    if boundary > 1e-5 and p[ends[1]] / total > 1e-6 and p[ends[0]] / total > 1e-6:
        assert {first, last} <= set(wanted)
        assert (first, last) == ends or not _exact(logits, sampling)


def _exact(logits: Floats, sampling: Sampling) -> bool:
    """Whether float32 cannot decide the edge of the nucleus otherwise than the reference."""
    order = np.lexsort((np.arange(len(logits)), -logits))
    p = np.exp(logits.astype(np.float64))[order][: sampling.top_k]
    shares = np.cumsum(p) / p.sum()
    return bool(np.abs(shares - sampling.top_p).min() > 1e-5)


@given(
    size=st.integers(1, 700),
    k=st.integers(1, 100),
    seed=st.integers(0, 2**16),
    levels=st.sampled_from([2, 5, 10_000]),
)
@settings(max_examples=60)
def test_the_k_largest_are_exact_and_ordered(size: int, k: int, seed: int, levels: int) -> None:
    """Against a stable sort, with many equal values, minus infinity and both zeros among them."""
    k = min(k, size)
    rng = np.random.default_rng(seed)
    x = (rng.integers(0, levels, size=(3, size)) / 4 - 1).astype(np.float32)
    x[rng.random(x.shape) < 0.1] = -np.inf
    x[rng.random(x.shape) < 0.1] = -0.0
    values, ids = largest(mx.array(x), k)
    for i in range(3):
        wanted = np.lexsort((np.arange(size), -x[i]))[:k]
        assert np.array(ids)[i].tolist() == wanted.tolist()
        assert np.array_equal(np.array(values)[i], x[i][wanted])


def test_a_greedy_row_among_drawn_ones_is_plain_argmax() -> None:
    """Also where its two best logits are equal: the lower id."""
    logits = some_logits(1, 500)
    logits[[77, 300]] = logits.max() + 1
    drawn = draw(logits, *WAYS[:4], Sampling(), *WAYS[4:])
    assert drawn[4] == 77


@pytest.mark.parametrize("company", [[], WAYS, [Sampling()] * 3 + WAYS[:2], [Sampling(temperature=1.0, top_k=256)]])
def test_a_draw_depends_on_seed_and_position_alone(company: list[Sampling]) -> None:
    """The same logits give a row the same token alone, and in any company, at each of fifty positions."""
    logits = some_logits(9, 3000)
    for sampling in WAYS:
        row_ = Sampling(**{**_fields(sampling), "seed": 4})
        alone = [draw(logits, row_, at=at)[0] for at in range(1, 11)]
        beside = [draw(logits, *company, row_, *company, at=at)[len(company)] for at in range(1, 11)]
        assert alone == beside
    others = [draw(logits, Sampling(temperature=1.0, seed=seed), at=1)[0] for seed in range(20)]
    assert len(set(others)) > 10


def test_uniform_numbers_are_spread_and_below_one() -> None:
    """Neighbouring seeds and positions give unrelated numbers; none rounds up to one."""
    seeds = mixed_seeds(range(300))
    grid = np.array([uniforms(seeds, np.full(300, at, dtype=np.uint64)) for at in range(300)])
    assert grid.min() >= 0
    assert grid.max() < 1
    counts, _ = np.histogram(grid, bins=100, range=(0, 1))
    assert np.all(np.abs(counts - 900) < 5 * 30)
    assert abs(np.corrcoef(grid[:-1].ravel(), grid[1:].ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(grid[:, :-1].ravel(), grid[:, 1:].ravel())[0, 1]) < 0.02


PENALTIES: list[dict[str, Any]] = [
    {"repetition_penalty": 1.3},
    {"presence_penalty": 0.7, "presence_context": 6},
    {"frequency_penalty": 0.4, "frequency_context": 9},
    {"repetition_penalty": 1.1, "repetition_context": 3, "presence_penalty": -0.5, "frequency_penalty": 0.2},
    {"repetition_penalty": 1.2, "repetition_context": 100, "frequency_penalty": 0.3, "frequency_context": 90},
    {"frequency_penalty": 0.3, "logit_bias": ((3, 2.0), (9, -8.0))},
]


@pytest.mark.parametrize("count", [1, 4, 30, 120])
def test_penalties_and_bias_are_those_of_mlx_lm(count: int) -> None:
    """Adjusted logits of all rows together against mlx-lm's processors, one row at a time."""
    from mlx_lm.sample_utils import make_logits_processors

    rng = np.random.default_rng(count)
    logits = some_logits(count, 60)
    rows, wanted = [], []
    for i, asked in enumerate([*PENALTIES, {}]):
        tokens = rng.integers(0, 25, size=count).tolist()
        rows.append(row(i, Sampling(**asked), tokens))
        theirs = {key.replace("context", "context_size"): value for key, value in asked.items()}
        if "logit_bias" in theirs:
            theirs["logit_bias"] = dict(theirs["logit_bias"])
        x = mx.array(logits)[None]
        for process in make_logits_processors(**theirs):
            x = process(mx.array(tokens), x)
        wanted.append(np.array(x)[0])
    sampler = BatchSampler(rows, 60)
    x = mx.array(np.repeat(logits[None], len(rows), axis=0))
    assert sampler._bias is not None
    assert sampler._penalties is not None
    found = np.array(sampler._penalties.apply(sampler._bias.apply(x), None))
    assert np.allclose(found, np.stack(wanted), atol=1e-5)


@pytest.mark.parametrize("company", [0, 2])
def test_penalties_follow_tokens_that_nobody_has_read(company: int) -> None:
    """Thirty steps with unread tokens under way, rows joining halfway, against mlx-lm's own loop."""
    from mlx_lm.sample_utils import make_logits_processors
    from models import sequential

    asked: dict[str, Any] = {"repetition_penalty": 1.4, "presence_penalty": 0.3, "frequency_penalty": 0.2}
    prompt = (5, 6, 7, 8)
    with driven(llama) as (driver, backend):
        driver.open(0, Sampling(**asked))
        driver.turn(Feed(0, prompt))
        for turn in range(29):
            feeds = [Feed(0)]
            if turn == 9:
                for other in range(1, company + 1):
                    driver.open(other, Sampling(repetition_penalty=1.1))
                    feeds.append(Feed(other, (9, other)))
            elif turn > 9:
                feeds += [Feed(other) for other in range(1, company + 1)]
            driver.turn(*feeds)
        driver.read()
        wanted, _ = sequential(backend._model, prompt, 30, logits_processors=make_logits_processors(**asked))
        assert driver.tokens(0) == wanted


def test_banned_ids_come_back_when_the_row_is_long_enough() -> None:
    """Ids banned until 8 tokens are held: never drawn before, free afterwards; another row's are not touched."""
    everything_but = tuple(i for i in range(VOCAB) if i != 7)
    with driven(llama) as (driver, _):
        driver.open(0, Sampling(banned=everything_but, banned_until=8))
        driver.open(1)
        driver.turn(Feed(0, (1, 2, 3)), Feed(1, (1, 2, 3)))
        for _ in range(9):
            driver.turn(Feed(0), Feed(1))
        driver.read()
        assert driver.tokens(0)[:5] == [7] * 5
        assert driver.tokens(0)[5] != 7
        assert driver.tokens(1)[:5] != [7] * 5


@given(st.integers(1, 200), st.integers(1, 4), st.integers(0, 2**16))
@settings(max_examples=30)
def test_bits_become_the_ids_they_stand_for(vocab_size: int, rows: int, seed: int) -> None:
    """Bit j of word w is id 32 w + j; bits beyond the vocabulary mean nothing."""
    words = -(-vocab_size // 32)
    bits = np.random.default_rng(seed).integers(0, 2**32, size=(rows, words), dtype=np.uint32)
    found = np.array(bitmasks.expand(bits, vocab_size))
    for i in range(rows):
        wanted = [bool(bits[i, j // 32] >> np.uint32(j % 32) & 1) for j in range(vocab_size)]
        assert found[i].tolist() == wanted


def test_masks_bind_their_rows_alone() -> None:
    """Of five rows two are constrained, to one id and to two; drawn and greedy rows alike."""
    logits = some_logits(2, 100)
    words = np.zeros((2, 4), dtype=np.uint32)
    words[0, 40 // 32] |= np.uint32(1 << (40 % 32))
    words[1, 0] = np.uint32(1 << 5 | 1 << 9)
    masks = Masks((3, 1), words)
    hot = Sampling(temperature=5.0, seed=3)
    free = draw(logits, hot, hot, Sampling(), hot, hot)
    bound = draw(logits, hot, hot, Sampling(), hot, hot, masks=masks)
    assert bound[3] == 40
    assert bound[1] in {5, 9}
    assert [bound[i] for i in (0, 2, 4)] == [free[i] for i in (0, 2, 4)]


def test_log_probabilities_are_of_the_raw_logits() -> None:
    """Bias, bans, masks and temperature change what is drawn, not what is reported; only rows that asked get any."""
    with driven(llama) as (driver, backend):
        wild = Sampling(temperature=3.0, seed=5, logit_bias=((4, 50.0),), repetition_penalty=1.5, logprobs=3)
        driver.open(0, wild)
        driver.open(1, Sampling())
        driver.open(2, Sampling(logprobs=0))
        driver.turn(*(Feed(i, (1, 2, 3)) for i in range(3)))
        driver.read()
        reference = backend._model(mx.array([[1, 2, 3]]))[0, -1]
        reference = np.array(reference - mx.logsumexp(reference))
        first, second, third = (driver.sampled[i][0] for i in range(3))
        assert first.token == 4
        assert first.logprob == pytest.approx(reference[4], abs=1e-4)
        best = np.argsort(-reference)[:3]
        assert [token for token, _ in first.top] == best.tolist()
        assert [value for _, value in first.top] == pytest.approx(reference[best], abs=1e-4)
        assert (second.logprob, second.top) == (None, ())
        assert third.logprob == pytest.approx(reference.max(), abs=1e-4)
        assert third.top == ()


def test_seeded_rows_draw_the_same_alone_and_together() -> None:
    """Through the whole backend: eight rows of unlike parameters, alone and then in one batch that changes."""
    prompts = [tuple(range(i + 1, i + 4 + i)) for i in range(len(WAYS))]
    samplings = [Sampling(**{**_fields(s), "seed": i, "top_k": min(s.top_k, 100)}) for i, s in enumerate(WAYS)]
    with driven(llama) as (driver, _):
        alone = [driver.run(i, prompts[i], 12, samplings[i]) for i in range(len(WAYS))]
        for i, sampling in enumerate(samplings):
            driver.open(100 + i, sampling)
        left = {100 + i: 12 for i in range(len(WAYS))}
        started: set[int] = set()
        turn = 0
        while left:
            feeds = []
            for name in list(left):
                if name - 100 <= turn:
                    feeds.append(Feed(name, () if name in started else prompts[name - 100]))
                    started.add(name)
                    left[name] -= 1
            driver.turn(*feeds)
            driver.read()
            for name in [name for name, count in left.items() if not count]:
                driver.edit(Close(name))
                del left[name]
            turn += 1
        assert [driver.tokens(100 + i) for i in range(len(WAYS))] == alone


def _fields(sampling: Sampling) -> dict[str, Any]:
    return {name: getattr(sampling, name) for name in sampling.__struct_fields__}


@settings(deadline=None)
@given(seed=st.integers(0, 1000), size=st.integers(1, 300), temperature=st.floats(0.05, 5))
def test_draws_on_the_host_are_those_of_the_definition(seed: int, size: int, temperature: float) -> None:
    """The first token at which the sum of the weights passes the mark, and never one of no weight."""
    logits = some_logits(seed, size)
    logits[1::3] = -np.inf
    weights = cpu.weights(mx.array(logits[None]), np.array([[temperature]], np.float32))
    exact = np.exp((logits.astype(np.float64) - logits.max()) / np.float32(temperature))
    assert np.allclose(weights[0], exact, rtol=1e-5)
    for mark in (0.0, 0.3, 0.999, float(np.float32(1 - 2**-23))):
        (token,) = cpu.draw(weights, np.array([[mark]], np.float32))
        before = weights[0, :token].sum(dtype=np.float64)
        total = weights.sum(dtype=np.float64)
        assert weights[0, token] > 0
        assert before <= np.float32(mark) * total + 1e-5 * total
        assert before + weights[0, token] > np.float32(mark) * total - 1e-5 * total
