"""Every reference that is taken is given back, once, in whatever order things end."""

from __future__ import annotations

import gc
import random
import resource
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import cbison_engines
import pytest
from cbison_engines import SOURCE, library, spelt, toy, toy_factory
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from greenroom.constraints.cbison import (
    CbisonExport,
    CbisonFactory,
    CbisonMatcher,
    CbisonTokenizer,
    CbisonTokenizerProvider,
    llguidance_cbison_factory,
)
from greenroom.errors import FactoryClosed, FactoryInUse

OPERATIONS = 10_000
STEPS = 200


class ToyReferences(RuleBasedStateMachine):
    """The C engine counts itself; this model counts beside it."""

    matchers = Bundle("matchers")
    views = Bundle("views")
    operations = 0

    def __init__(self) -> None:
        super().__init__()
        self.allocated = toy().toy_live_allocations()
        self.provider = CbisonTokenizerProvider(SOURCE)
        self.factory = toy_factory(provider=self.provider)
        self.num_matchers = toy().toy_live_matchers()
        self.open_matchers: list[CbisonMatcher] = []
        self.open_views: list[CbisonFactory] = []

    @rule(target=matchers)
    def create(self) -> CbisonMatcher:
        """From the factory that owns."""
        return self._opened(self.factory.matcher("regex", "(ab)*"))

    @rule(target=views)
    def view(self) -> CbisonFactory:
        """Somebody else borrows the factory."""
        self.open_views.append(CbisonFactory.from_address(self.factory.address, owned=False))
        return self.open_views[-1]

    @rule(target=matchers, view=views)
    def create_from_a_view(self, view: CbisonFactory) -> CbisonMatcher:
        """It counts for both."""
        return self._opened(view.matcher("regex", "(ab)*"))

    @rule(target=matchers, matcher=matchers, use=st.booleans())
    def clone(self, matcher: CbisonMatcher, use: bool) -> CbisonMatcher:
        """Copies of copies; some go on."""
        twin = self._opened(matcher.fork())
        if use:
            twin.consume(spelt(b"ab"))
            assert twin.error is None
        return twin

    @rule(matcher=consumes(matchers))
    def free(self, matcher: CbisonMatcher) -> None:
        """Closed at once."""
        self._ended(matcher)
        matcher.close()
        matcher.close()

    @rule(matcher=matchers)
    def refuse(self, matcher: CbisonMatcher) -> None:
        """A grammar that does not compile leaves nothing."""
        matcher.validate(spelt(b"abx"))
        assert not self.factory.validate("regex", "(").is_ok

    @rule(view=consumes(views))
    def close_a_view(self, view: CbisonFactory) -> None:
        """Refused while matchers of it live, and then deferred."""
        self.open_views.remove(view)
        if view.num_matchers:
            with pytest.raises(FactoryInUse):
                view.close()
        view.close(defer=True)
        assert view.is_released == (view.num_matchers == 0)
        with pytest.raises(FactoryClosed):
            view.matcher("regex", "a")
        self.open_views.append(view)

    @invariant()
    def counts_agree(self) -> None:
        """One for each view that has not given back, one for each living matcher."""
        type(self).operations += 1
        views = sum(not view.is_released for view in self.open_views)
        assert toy().toy_live_matchers() == self.num_matchers + len(self.open_matchers)
        assert toy().toy_references(self.factory.address) == 1 + views + len(self.open_matchers)
        assert self.provider.reference_count == 2

    def teardown(self) -> None:
        """Everything is given back: the factory's count is one, and then it is gone with all its memory."""
        for matcher in self.open_matchers:
            matcher.close()
        for view in self.open_views:
            view.close()
        assert toy().toy_references(self.factory.address) == 1
        self.factory.close()
        assert self.provider.reference_count == 1
        assert toy().toy_live_allocations() == self.allocated

    def _opened(self, matcher: CbisonMatcher) -> CbisonMatcher:
        self.open_matchers.append(matcher)
        return matcher

    def _ended(self, matcher: CbisonMatcher) -> None:
        self.open_matchers.remove(matcher)


@pytest.mark.timeout(180)
def test_references_agree_over_ten_thousand_operations() -> None:
    """Random histories of creating, copying, viewing and freeing, checked after each operation."""
    library("engine")
    ToyReferences.operations = 0
    profile = settings(max_examples=OPERATIONS // STEPS * 3 // 2, stateful_step_count=STEPS, deadline=None)
    ToyReferences.TestCase.settings = profile
    outcome = ToyReferences.TestCase("runTest")
    outcome.runTest()
    assert ToyReferences.operations >= OPERATIONS


ENGINES: dict[str, Callable[[], CbisonExport | CbisonFactory]] = {
    "native": lambda: llguidance_cbison_factory(SOURCE, native=True),
    "callbacks": lambda: llguidance_cbison_factory(SOURCE, native=False),
    "C": toy_factory,
}


@pytest.mark.parametrize("engine", ENGINES)
def test_one_history_of_ten_thousand_operations_leaves_nothing(engine: str) -> None:
    """Create, copy and free in random order; then one reference is left, and memory stops growing."""
    owner = ENGINES[engine]()
    factory = CbisonFactory.from_address(owner.address, owned=False)
    draw = random.Random(20)  # noqa: S311 - a walk to repeat, no secret
    live: list[CbisonMatcher] = []
    grown = []
    for at in range(OPERATIONS):
        if at % (OPERATIONS // 4) == 0:
            grown.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        match draw.randrange(8):
            case 0 | 1 if len(live) < 100:
                live.append(factory.matcher("regex", "(ab)*[0-9]+"))
            case 2 | 3 if 0 < len(live) < 100:
                live.append(draw.choice(live).fork())
            case 4 if live:
                draw.choice(live).consume(spelt(b"ab"))
            case _ if live:
                live.pop(draw.randrange(len(live))).close()
            case _:
                pass
    assert factory.num_matchers == len(live)
    live.clear()
    gc.collect()
    assert factory.num_matchers == 0
    factory.close()
    left = owner.reference_count if isinstance(owner, CbisonExport) else toy().toy_references(owner.address)
    assert left == 1
    owner.close()
    unit = 1 if sys.platform == "darwin" else 1024  # the unit of ru_maxrss is bytes there, and kilobytes on Linux
    assert (grown[-1] - grown[1]) * unit < 8 << 20


def test_a_matcher_keeps_its_factory_and_the_factory_its_tokenizer() -> None:
    """All other names can be dropped; the matcher still works, and all goes with it."""
    before = (toy().toy_live_factories(), toy().toy_live_allocations())
    matcher = toy_factory().matcher("regex", "(ab)*")
    gc.collect()
    assert toy().toy_live_factories() == before[0] + 1
    matcher.consume(spelt(b"ab"))
    assert matcher.is_accepting
    assert matcher.validate([97, 98, 98]) == 2
    del matcher
    gc.collect()
    assert (toy().toy_live_factories(), toy().toy_live_allocations()) == before


def test_an_engine_outlives_the_python_object_of_its_tokenizer() -> None:
    """The memory behind the address stays while the engine counts on it."""
    provider = CbisonTokenizerProvider(SOURCE)
    address = provider.address
    borrowed = CbisonTokenizer.from_address(address, owned=False)
    provider.close()
    provider.close()
    assert provider.reference_count == 1
    del provider
    gc.collect()
    assert borrowed.token_bytes(97) == b"a"
    borrowed.close()
    with pytest.raises(FactoryClosed):
        borrowed.token_bytes(97)


def test_a_provider_that_nobody_refers_to_has_no_address() -> None:
    """It cannot be handed to an engine any more."""
    with CbisonTokenizerProvider(SOURCE) as provider:
        pass
    with pytest.raises(FactoryClosed):
        _ = provider.address


@pytest.mark.parametrize("native", [True, False])
def test_an_export_lives_as_long_as_its_last_matcher(native: bool) -> None:
    """Neither our own object nor the consumer's factory is needed for it."""
    export = llguidance_cbison_factory(SOURCE, native=native)
    factory = CbisonFactory.from_address(export.address, owned=False)
    matcher = factory.matcher("regex", "(ab)*")
    assert export.reference_count == 3
    factory.close(defer=True)
    export.close()
    assert export.reference_count == 2  # the matcher's own, and the consumer's until the matcher ends
    matcher.consume(spelt(b"ab"))
    with matcher.fork() as twin:
        assert twin.is_accepting
    matcher.close()
    assert factory.is_released
    assert export.reference_count == 0
    with pytest.raises(FactoryClosed):
        _ = export.address


def test_closing_is_refused_while_matchers_live_and_deferred_on_request() -> None:
    """A `with` block that raises does not hide its error behind ours."""
    with toy_factory() as factory:
        matcher = factory.matcher("regex", "a")
        with pytest.raises(FactoryInUse, match="1 matchers"):
            factory.close()
        factory.matcher("regex", "a").close()
        with pytest.raises(ZeroDivisionError), factory:
            _ = 1 / 0
        with pytest.raises(FactoryClosed):
            factory.matcher("regex", "a")
        assert not factory.is_released
        matcher.consume([97])
        with matcher.fork() as twin:
            assert twin.is_accepting
        matcher.close()
        assert factory.is_released


def test_ownership_is_named_and_kept() -> None:
    """`owned=True` takes a reference over, `owned=False` adds one."""
    with toy_factory() as factory:
        address = factory.address
        with CbisonFactory.from_address(address, owned=False):
            assert toy().toy_references(address) == 2
        assert toy().toy_references(address) == 1
        added = CbisonFactory.from_address(address, owned=False)
        taken = CbisonFactory.from_address(address, owned=True)  # what `added` had, it now gives back
        taken.close()
        assert toy().toy_references(address) == 1
        added._engine._release.detach()


def test_a_process_that_ends_with_everything_open_ends_well() -> None:
    """Finalisers run in an order that the engine can bear, whoever holds whom."""
    program = """
    import sys; sys.path.insert(0, {tests!r})
    from cbison_engines import SOURCE, toy_factory
    from greenroom.constraints.cbison import CbisonFactory, llguidance_cbison_factory
    kept = []
    for native in (True, False):
        export = llguidance_cbison_factory(SOURCE, native=native)
        kept.append(CbisonFactory.from_address(export.address, owned=False).matcher("regex", "a*"))
        kept.append(kept[-1].fork())
    kept.append(toy_factory().matcher("regex", "a*"))
    print(len(kept))
    """
    library("engine")
    folder = str(Path(cbison_engines.__file__).parent)
    text = textwrap.dedent(program).format(tests=folder)
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "5\n", "")
