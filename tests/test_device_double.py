"""The double of a device: its clock, that nothing of a pass is computed, and that rows write what they are to write."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from device_double import DeviceDouble, Spelling, Text, Timeline
from models import VOCAB, llama, mx

from greenroom import JsonSchema, Runtime, Sampler
from greenroom.backends.protocol import Close, Feed, ForwardPlan, Masks, Open, Rewind, Sampling
from greenroom.backends.scripted import ByteTokenizer
from greenroom.backends.scripted.tokenizer import END, STOP

LAYERS = 3
PASS = 0.010
PIECES = [bytes([byte]) if byte < 256 else b"" for byte in range(VOCAB)]
SPELLING = Spelling(PIECES, END)


class Ending(ByteTokenizer):
    """With the ids that end a turn, which constraints need."""

    stop_tokens = tuple(sorted(STOP))


class Clock:
    """Stands still but when somebody sleeps, or when it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """Seconds."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Be later."""
        self.now += seconds


def spelt(text: str) -> Text:
    """A text in single bytes."""
    return Text(text.encode(), SPELLING)


def doubled(*texts: str, clock: Clock | None = None, **options: Any) -> DeviceDouble:
    """A double of bytes, whose passes take `PASS` of a clock's seconds."""
    clock = clock or Clock()
    timeline = Timeline(lambda _: PASS, clock=clock, sleep=clock.sleep)
    return DeviceDouble(lambda: (llama(LAYERS)[0], Ending()), timeline, [spelt(text) for text in texts], **options)


def loaded(*texts: str, clock: Clock | None = None) -> DeviceDouble:
    """One on this thread, with a row for each text that has run its prompt."""
    double = doubled(*texts, clock=clock)
    double.load()
    rows = range(len(texts))
    double.edit([Open(row, Sampling(seed=row), prompt=(1, 2, 3)) for row in rows])
    double.forward(ForwardPlan(tuple([Feed(row, (1, 2, 3)) for row in rows])))
    double.sample()
    return double


def step(double: DeviceDouble, *feeds: Feed, masks: Masks | None = None) -> None:
    """Hand a pass in."""
    double.forward(ForwardPlan(feeds))
    double.sample(masks)


def read(double: DeviceDouble) -> str:
    """What the oldest pass drew."""
    return bytes(sampled.token for sampled in double.read().sampled).decode()


def num_operations(arrays: Sequence[Any]) -> int:
    """How many have to run for `arrays`."""
    text = io.StringIO()
    mx.export_to_dot(text, *arrays)
    return text.getvalue().count("shape=rectangle")


def allowing(tokens: Sequence[int]) -> Any:
    """A mask of these ids."""
    bits = np.zeros((1, 10), np.uint32)
    for token in tokens:
        bits[0, token // 32] |= np.uint32(1 << token % 32)
    return bits


# The device's clock.


def test_a_pass_starts_when_the_one_before_it_is_over_and_who_reads_waits_for_it() -> None:
    """Handing in waits for nothing."""
    clock = Clock()
    double = loaded("abc", clock=clock)
    clock.now += 0.004
    step(double, Feed(0))
    assert clock.now == pytest.approx(100.004)
    assert read(double) == "a"
    assert clock.now == pytest.approx(100.010)
    assert read(double) == "b"
    assert clock.now == pytest.approx(100.020)
    clock.now += 0.003  # the device idles
    step(double, Feed(0))
    assert read(double) == "c"
    assert clock.now == pytest.approx(100.033)
    assert [ran.start for ran in double.timeline.passes] == pytest.approx([100.0, 100.010, 100.023])
    assert [ran.waited for ran in double.timeline.passes] == pytest.approx([0.0, 0.0, 0.016])
    double.close()


@pytest.mark.parametrize(("filling", "end"), [(0.004, 100.010), (0.025, 100.025)])
def test_masks_are_filled_beside_the_pass_which_waits_for_them_at_its_end(filling: float, end: float) -> None:
    """It runs up to its logits by itself."""
    clock = Clock()
    double = loaded("abc", clock=clock)
    double.read()
    clock.now = 100.0
    double.timeline.passes.clear()

    def fill() -> Masks:
        clock.now += filling
        return Masks((0,), allowing(b"b"))

    double.forward(ForwardPlan((Feed(0),)))
    double.sample(fill)
    assert clock.now == pytest.approx(100.0 + filling)
    assert read(double) == "b"
    assert clock.now == pytest.approx(end)
    double.close()


# The graph.


def test_every_pass_builds_a_graph_of_one_size_and_nothing_of_it_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """None hangs from the one before it, and what rows hold is never computed either."""
    sizes: list[int] = []
    dispatch = DeviceDouble._dispatch

    def counted(double: DeviceDouble, arrays: list[Any]) -> None:
        sizes.append(num_operations(arrays))
        dispatch(double, arrays)

    double = loaded("a" * 100, "b" * 100)
    monkeypatch.setattr(DeviceDouble, "_dispatch", counted)
    for name in ("eval", "async_eval"):
        monkeypatch.setattr(mx, name, lambda *arrays: pytest.fail("computed") if [*arrays] not in ([[]], []) else None)
    double.read()
    for _ in range(40):
        step(double, Feed(0), Feed(1))
        double.read()
    assert len(set(sizes)) == 1
    assert sizes[0] > 20 * LAYERS
    assert double.store is not None
    assert num_operations(double.store.state()) == 0
    monkeypatch.undo()
    double.close()


# What rows write.


@pytest.mark.parametrize("is_ahead", [False, True])
def test_rows_write_their_texts_whether_a_pass_is_handed_in_before_or_after_the_last_is_read(*, is_ahead: bool) -> None:
    """A row's seed picks its text; behind its end it ends the turn."""
    texts = "hello", "world"
    double = loaded(*texts)
    found: list[str] = []
    if not is_ahead:
        found.append(read(double))
    for _ in range(4):
        step(double, Feed(0), Feed(1))
        found.append(read(double))
    if is_ahead:
        found.append(read(double))
    assert tuple("".join(letters) for letters in zip(*found, strict=True)) == texts
    step(double, Feed(0))
    assert [sampled.token for sampled in double.read().sampled] == [END]
    double.close()


def test_a_mask_is_obeyed_in_other_words_if_need_be() -> None:
    """In the longest that go on with the text; where none does, by the lowest that is legal."""
    spelling = Spelling([b"c", b"ca", b"cat", b"x", b"t", b"a"], 6)
    text = Text([2, 3], spelling)
    assert text.choose(0, None) == 2
    assert text.choose(0, allowing([0, 1, 2, 3])[0]) == 2
    assert text.choose(0, allowing([0, 1, 3])[0]) == 1
    assert text.choose(2, None) == 4  # in the midst of "cat"
    assert text.choose(3, allowing([4, 5])[0]) == 4
    assert text.choose(4, None) == 6


def test_guesses_are_judged_by_the_text() -> None:
    """Each draw behind them is what comes there, and the row goes on from those that were right."""
    double = loaded("abcdefgh")
    assert read(double) == "a"
    step(double, Feed(0, tuple(b"abcX"), drafts=3))
    assert read(double)[:3] == "bcd"
    double.edit([Rewind(0, 6)])
    step(double, Feed(0, tuple(b"d")))
    assert read(double) == "e"
    double.close()


def test_a_row_that_begins_with_what_another_has_written_goes_on_from_there() -> None:
    """`start` says where in its prompt the output begins."""
    double = loaded("abcdefgh")
    double.read()
    double.edit([Open(1, Sampling(), prompt=(1, 2, 3, *b"abc"), start=3)])
    step(double, Feed(0), Feed(1, (1, 2, 3, *b"abc")))
    assert read(double) == "bd"
    double.edit([Close(0), Rewind(1, 6, Sampling(), start=4)])
    step(double, Feed(1, tuple(b"d")))
    assert read(double) == "d"  # its text began anew behind "a", so that three letters stand there
    double.close()


# Under the whole engine.

PEOPLE = JsonSchema(
    {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
        "required": ["name", "age"],
        "additionalProperties": False,
    },
    whitespace=False,
)


@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 0.8}, {"temperature": 0.6, "top_p": 0.9}, {"temperature": 1.0, "repetition_penalty": 1.2}],
    ids=["greedy", "temperature", "top_p", "penalty"],
)
async def test_streams_are_given_their_texts_however_they_draw(options: dict[str, Any]) -> None:
    """Many at once."""
    texts = [f"This is what row {row} has to say." for row in range(4)]
    async with Runtime(backend=doubled(*texts)) as runtime:
        streams = [runtime.generate([1 + row], max_tokens=60, seed=row, **options) for row in range(4)]
        assert [await stream.text() for stream in streams] == texts


@pytest.mark.parametrize("forces", [True, False])
async def test_a_constrained_row_writes_what_it_is_to_write(*, forces: bool) -> None:
    """What it is forced to write stands in its text too."""
    written = {"name": "Zoë Åkerman", "age": 71}
    text = msgspec.json.encode(written).decode()
    double = doubled(text)
    async with Runtime(backend=double) as runtime:
        stream = runtime.generate([1], max_tokens=80, seed=0, constrain=PEOPLE, force_tokens=forces)
        assert await stream.text() == text
        assert double._device.mask == "kernel"  # whose stand-in did not fail


async def test_guesses_take_fewer_passes_for_the_same_text() -> None:
    """From what the prompt says already."""
    line = "one two three four five six seven. "
    num_passes = []
    for guesses in (False, True):
        double = doubled(line * 3)
        async with Runtime(backend=double) as runtime, runtime.context() as ctx:
            ctx.fill(list((line * 2).encode()))
            generator = ctx.generate(
                Sampler.greedy(), max_tokens=90, seed=0, default_stops=False, system_speculation=guesses
            )
            assert await generator.collect_text() == (line * 3)[:90]
        num_passes.append(len(double.timeline.passes))
    assert num_passes[1] < num_passes[0] / 2
