"""What rows cost: bytes copied, bytes held, buffers given back, writes in place; and what a failed pass leaves."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from models import MODELS, Driver, driven, llama, mx, sequential
from passlog import PassLog

from greenroom.backends.mlx import MlxBackend
from greenroom.backends.mlx.kv.packed import PackedStore
from greenroom.backends.protocol import Close, Feed, ForwardPlan, Open, Sampling

PROMPT = (1, 2, 3, 4, 5, 6, 7, 8, 9)


def store_of(backend: MlxBackend) -> PackedStore:
    """The backend's rows."""
    assert isinstance(backend.store, PackedStore)
    return backend.store


def test_joining_and_leaving_copy_one_row_at_most_and_a_fork_copies_its_row() -> None:
    """With two rows beside it and with twenty: prompts are written where they stay; who closes a gap copies itself."""
    prompt = PROMPT * 8  # shorter beginnings are run again, which costs less than to copy them
    for company in (2, 20):
        with driven(llama) as (driver, backend):
            for i in range(company):
                driver.open(i)
            driver.turn(*(Feed(i, (1,) * 30) for i in range(company)))
            driver.turn(*(Feed(i) for i in range(company)))
            store = store_of(backend)
            driver.open(99)
            driver.turn(Feed(99, prompt), *(Feed(i) for i in range(company)))
            driver.read()
            driver.edit(Close(0))
            driver.turn(Feed(99, tuple(driver.tokens(99))), *(Feed(i) for i in range(1, company)))
            before = store.bytes_copied
            assert before <= 32 * store.bytes_per_token
            driver.read()
            assert len(driver.branch(100, (*prompt, *driver.tokens(99)))) == 1
            assert store.bytes_copied - before == (len(prompt) + 1) * store.bytes_per_token


def test_a_row_that_outgrows_its_slot_copies_its_pool_now_and_then() -> None:
    """Where its length was announced, never; else less than it holds in all, with whom it shares a pool."""
    for expects in (0, 200):
        with driven(llama) as (driver, backend):
            driver.open(0, expects=expects)
            driver.open(1, expects=expects)
            driver.turn(Feed(0, PROMPT), Feed(1, (5, *PROMPT)))
            for _ in range(150 - len(PROMPT)):
                driver.turn(Feed(0), Feed(1))
            driver.read()
            store = store_of(backend)
            assert store.bytes_copied == (0 if expects else 2 * (64 + 128) * store.bytes_per_token - 2 * 768)
            assert driver.tokens(0) == sequential(backend._model, PROMPT, 151 - len(PROMPT))[0]


def test_one_long_row_does_not_make_its_neighbours_long() -> None:
    """Buffers of one row of 2,000 tokens and seven of 40 stay near the sum of what they hold."""
    with driven(llama) as (driver, backend):
        for i in range(8):
            driver.open(i)
        driver.turn(*(Feed(i, (2,) * (2000 if i == 3 else 40)) for i in range(8)))
        driver.turn(*(Feed(i) for i in range(8)))
        driver.read()
        store = store_of(backend)
        live = (2001 + 7 * 41) * store.bytes_per_token
        assert live <= store.nbytes <= 2.2 * live


def test_rows_that_are_left_over_move_together() -> None:
    """When most rows have gone, the rest close up, their tokens stay right, and pools are given back."""
    with driven(llama) as (driver, backend):
        for i in range(16):
            driver.open(i)
        driver.turn(*(Feed(i, (*PROMPT * 30, i)) for i in range(16)))
        driver.read()
        wide = store_of(backend).nbytes
        driver.edit(*(Close(i) for i in range(16) if i % 5))
        left = (0, 5, 10, 15)
        for _ in range(20):
            driver.turn(*(Feed(i) for i in left))
        driver.read()
        assert store_of(backend).nbytes <= wide / 3
        for i in left:
            assert driver.tokens(i) == sequential(backend._model, (*PROMPT * 30, i), 21)[0]


def test_a_step_writes_in_place() -> None:
    """Peak memory of a step beside large buffers stays far below one of them: nothing is copied."""
    with driven(lambda: llama(layers=2, hidden=256)) as (driver, backend):
        for i in range(8):
            driver.open(i)
        driver.turn(*(Feed(i, (3,) * (900 + i)) for i in range(8)))
        for _ in range(3):
            driver.turn(*(Feed(i) for i in range(8)))
        driver.read()
        buffer = max(array.nbytes for array in store_of(backend).state())
        held = mx.get_active_memory()
        mx.reset_peak_memory()
        for _ in range(5):
            driver.turn(*(Feed(i) for i in range(8)))
        driver.read()
        assert buffer >= 2 << 20
        assert mx.get_peak_memory() - held < buffer / 2


@pytest.mark.parametrize("name", MODELS)
def test_bytes_are_those_of_the_rows_and_go_with_them(name: str) -> None:
    """Zero before the first row and after the last; memory is back where it was, over many rounds."""
    with driven(MODELS[name], name) as (driver, backend):
        assert backend._profile is not None
        stores = backend._profile.stores
        assert driver.edit() == 0
        before = None
        for turn in range(6):
            rows = range(10 * turn, 10 * turn + 4)
            for row in rows:
                driver.open(row)
            driver.turn(*(Feed(row, PROMPT) for row in rows))
            driver.turn(*(Feed(row) for row in rows))
            driver.read()
            assert driver.edit() == stores.row_bytes(None, [len(PROMPT) + 1] * 4)
            assert driver.edit(Close(rows[0])) == stores.row_bytes(None, [len(PROMPT) + 1] * 3)
            driver.turn(*(Feed(row) for row in rows[1:]))
            assert driver.edit(*(Close(row) for row in rows[1:])) == 0
            driver.read()
            gc.collect()
            if before is None:
                before = mx.get_active_memory()
            assert mx.get_active_memory() <= before + 4096


def test_slots_are_given_back_when_a_long_row_has_gone() -> None:
    """One row of 2,000 tokens makes the buffers wide; when it leaves, the short ones do not keep them so."""
    with driven(llama) as (driver, backend):
        for i in range(4):
            driver.open(i)
        driver.turn(*(Feed(i, (2,) * (2000 if i == 0 else 10)) for i in range(4)))
        driver.turn(*(Feed(i) for i in range(4)))
        driver.read()
        wide = store_of(backend).nbytes
        driver.edit(Close(0))
        for _ in range(3):
            driver.turn(*(Feed(i) for i in range(1, 4)))
        driver.read()
        assert store_of(backend).nbytes < wide / 4
        assert driver.tokens(1) == sequential(backend._model, [2] * 10, 5)[0]


def test_a_row_that_is_left_out_keeps_its_state() -> None:
    """Paused for ten passes while others come and go around it."""
    with driven(llama) as (driver, backend):
        driver.open(0)
        driver.turn(Feed(0, PROMPT))
        driver.turn(Feed(0))
        for i in range(1, 6):
            driver.open(i)
            driver.turn(*(Feed(j, PROMPT if j == i else ()) for j in range(1, i + 1)))
        driver.read()
        driver.edit(Close(2), Close(5))
        for _ in range(5):
            driver.turn(Feed(4), Feed(1), Feed(3))
        driver.turn(Feed(3), Feed(0), Feed(1), Feed(4))
        driver.read()
        assert driver.tokens(0) == sequential(backend._model, PROMPT, 3)[0]


def test_results_come_in_the_plans_order_without_rows_that_have_closed() -> None:
    """Also where rows stand in other slots than they are planned in."""
    with driven(llama) as (driver, _):
        for i in range(5):
            driver.open(i)
        driver.turn(*(Feed(i, (i + 1, 2)) for i in range(5)))
        driver.turn(Feed(4), Feed(2), Feed(0), Feed(3), Feed(1, sample=True))
        driver.edit(Close(2))
        driver.read()
        assert [sampled.row for sampled in driver.results[-1].sampled] == [4, 0, 3, 1]


def run_pass(backend: MlxBackend, *feeds: Feed) -> None:
    """A pass from beginning to end, which may fail anywhere."""
    backend.forward(ForwardPlan(feeds))
    backend.sample()
    backend.read()


class Breakable:
    """Breaks a model's calls on demand."""

    def __init__(self, how: str) -> None:
        self.how = how
        self.armed = False

    def build(self) -> tuple[Any, Any]:
        """A small llama whose class can be told to break."""
        model, tokenizer = llama()
        breakable = self

        class Broken(type(model)):  # type: ignore[misc]
            def __call__(self, tokens: mx.array, cache: Any = None) -> Any:
                logits = super().__call__(tokens, cache=cache)
                if not breakable.armed:
                    return logits
                if breakable.how == "raise" or (breakable.how == "prefill" and tokens.size > 2):
                    raise RuntimeError("broken on purpose")
                if breakable.how == "evaluate":
                    # A singular matrix has no inverse: that fails when it is computed, not when it is built.
                    return logits + mx.linalg.inv(mx.zeros((2, 2)), stream=mx.cpu).sum()
                return logits

        model.__class__ = Broken
        return model, tokenizer


def test_a_prompt_that_fails_alone_fails_alone() -> None:
    """An exception in one row's chunk is that row's; the batch beside it goes on in the same pass."""
    breakable = Breakable("prefill")
    with driven(breakable.build) as (driver, backend):
        driver.open(0)
        driver.open(1)
        driver.turn(Feed(0, PROMPT))
        breakable.armed = True
        driver.turn(Feed(0), Feed(1, PROMPT))
        driver.read()
        breakable.armed = False
        assert [failure.row for failure in driver.results[-1].failures] == [1]
        driver.edit(Close(1))
        driver.turn(Feed(0))
        driver.read()
        assert driver.tokens(0) == sequential(backend._model, PROMPT, 3)[0]


@pytest.mark.parametrize("how", ["raise", "evaluate"])
def test_a_failed_pass_takes_its_own_rows_and_no_others(how: str) -> None:
    """A row that was paused during the failure goes on with the right tokens, and new rows work."""
    breakable = Breakable(how)
    with driven(breakable.build) as (driver, backend):
        for i in range(4):
            driver.open(i)
        driver.turn(*(Feed(i, (i + 1, *PROMPT)) for i in range(4)))
        driver.turn(*(Feed(i) for i in range(4)))
        driver.read()
        breakable.armed = True
        with pytest.raises(RuntimeError):
            run_pass(backend, Feed(0), Feed(1))
        breakable.armed = False
        driver.edit(Close(0), Close(1))
        driver.open(5)
        driver.turn(Feed(5, PROMPT), Feed(2), Feed(3))
        driver.turn(Feed(5), Feed(2), Feed(3))
        driver.read()
        for i in (2, 3):
            assert driver.tokens(i) == sequential(backend._model, [i + 1, *PROMPT], 4)[0]
        assert driver.tokens(5) == sequential(backend._model, PROMPT, 2)[0]
        assert driver.edit(Close(2), Close(3), Close(5)) == 0


def test_masks_are_filled_while_the_pass_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is computed without them is submitted before they are asked for, what depends on them behind."""
    order: list[str] = []
    submit: Callable[..., object] = mx.async_eval

    def noted(*arrays: Any) -> None:
        order.append("submit")
        submit(*arrays)

    def fill() -> None:
        order.append("fill")

    monkeypatch.setattr(mx, "async_eval", noted)
    with driven(llama) as (driver, _):
        driver.open(0)
        driver.turn(Feed(0, PROMPT), masks=fill)
        driver.turn(Feed(0))
        driver.read()
    assert order == ["submit", "fill", "submit", "submit"]


def test_the_log_has_the_rows_of_every_submitted_pass() -> None:
    """A pass that was built and failed was not submitted."""
    breakable = Breakable("raise")
    log = PassLog(MlxBackend.from_model(breakable.build))
    log.load()
    driver = Driver(log)
    driver.open(0)
    driver.open(1)
    driver.turn(Feed(0, PROMPT), Feed(1, PROMPT))
    driver.turn(Feed(1))
    breakable.armed = True
    with pytest.raises(RuntimeError, match="on purpose"):
        log.forward(ForwardPlan((Feed(0),)))
    driver.read()
    log.close()
    assert log.passes == [(0, 1), (1,)]
    assert (log.num_passes(0), log.num_passes(1), log.num_read) == (1, 2, 2)


def test_the_process_survives_engine_threads_that_have_ended() -> None:
    """Two threads load, run and close, one of them twice; the process then exits cleanly."""
    code = (
        "import sys, threading\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from models import Driver, llama\n"
        "from greenroom.backends.mlx import MlxBackend\n"
        "def engine(times):\n"
        "    backend = MlxBackend.from_model(llama)\n"
        "    for _ in range(times):\n"
        "        backend.load()\n"
        "        print(Driver(backend).run(0, [1, 2, 3], 4))\n"
        "        backend.close()\n"
        "for times in (2, 1):\n"
        "    thread = threading.Thread(target=engine, args=(times,))\n"
        "    thread.start()\n"
        "    thread.join()\n"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).resolve().parents[1])]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert len(set(result.stdout.splitlines())) == 1
    assert result.stdout.count("\n") == 3


def test_closing_gives_everything_back_and_loading_again_works() -> None:
    """Closed with a pass under way and rows open, twice; then the same tokens as before."""
    gc.collect()
    held = mx.get_active_memory()
    backend = MlxBackend.from_model(llama)
    tokens = []
    for _ in range(2):
        backend.load()
        driver = Driver(backend)
        tokens.append(driver.run(0, PROMPT, 5))
        backend.edit([Open(1, Sampling())])
        backend.forward(ForwardPlan((Feed(1, PROMPT),)))
        backend.sample()
        backend.close()
        backend.close()
        assert mx.get_active_memory() <= held + 4096
    assert tokens[0] == tokens[1]
