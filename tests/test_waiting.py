"""The order of the queue: plain calls on plain values, with the time passed in."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from loose import Loose
from silent import Silent
from test_kv_budget import Course

from greenroom.actors.messages import Submit
from greenroom.actors.scheduler.request import Request
from greenroom.actors.scheduler.shares import Account
from greenroom.actors.scheduler.waiting import LEVEL_SECONDS, PATIENCE_SECONDS, Waiting
from greenroom.backends.protocol import Sampling


class Queue(Waiting):
    """With a way to put a request into it."""

    def __init__(self) -> None:
        super().__init__()
        self._next = 0

    def come(self, when: float = 0.0, *, prompt: int = 10, begins: int = 1, **more: Any) -> Request:
        """One that was asked for then, whose prompt has so many of one token."""
        number, self._next = self._next, self._next + 1
        submit = Submit(
            request=number,
            prompt=(begins,) * prompt,
            sampling=Sampling(),
            max_tokens=None,
            submitted=when,
            decoder=Silent(),
            **more,
        )
        request = Request(submit, self.shares.join(submit.client, submit.user), limit=1 << 20)
        self.add(request)
        return request

    def go(self, now: float = 0.0) -> Request:
        """Who is first gets a row."""
        found = self.first(now)
        assert found is not None
        self.take(found)
        return found

    def order(self, now: float = 0.0) -> list[Request]:
        """All of them, in the order in which they go."""
        return [self.go(now) for _ in range(len(self))]


def test_without_anything_said_who_came_first_goes_first() -> None:
    """Also where what came first was ready later."""
    queue = Queue()
    first, second, third = (queue.come(when) for when in (1.0, 0.5, 2.0))
    assert queue.order(100.0) == [second, first, third]
    assert queue.first(100.0) is None


def test_the_highest_priority_goes_first_and_of_one_the_oldest() -> None:
    """Whatever came before."""
    queue = Queue()
    low, usual, high, higher = (queue.come(priority=priority) for priority in (-3, 0, 2, 7))
    late = queue.come(1.0, priority=7)
    assert queue.order(1.0) == [higher, late, high, usual, low]


@given(
    st.lists(
        st.tuples(st.integers(-3, 3), st.floats(0, 2000), st.sampled_from([None, "a", "b"])), min_size=2, max_size=30
    )
)
def test_nobody_is_passed_by_what_came_too_long_after(shapes: list[tuple[int, int, str | None]]) -> None:
    """A level of priority is worth `LEVEL_SECONDS`, whoever asks: so waiting has a bound under any load."""
    queue = Queue()
    for priority, when, client in shapes:
        queue.come(when, priority=priority, client=client)
    gone: set[int] = set()
    requests = list(queue)
    for passed in queue.order(2000.0):
        gone.add(passed.id)
        for other in requests:
            levels = passed.submit.priority - other.submit.priority
            if other.id not in gone and levels > 0:
                assert passed.queued <= other.queued + levels * LEVEL_SECONDS


def test_the_lowest_priority_comes_to_a_row_under_endless_higher_load() -> None:
    """A request a second more than can be served: the low one has a row within a level's worth."""
    queue = Queue()
    low = queue.come(0.0, priority=0)
    for second in range(10_000):
        queue.come(float(second), priority=1)
        if queue.go(float(second)) is low:
            break
    assert second <= LEVEL_SECONDS + 1


def test_of_those_with_a_horizon_the_shortest_goes_first() -> None:
    """Prompt and output together, as long as the oldest has one too."""
    queue = Queue()
    long, plain, short, middle = (queue.come(horizon=horizon) for horizon in (900, None, 5, 80))
    wordy = queue.come(prompt=2000, horizon=1)
    assert queue.order() == [short, middle, long, plain, wordy]


def test_who_has_no_horizon_and_came_first_is_passed_by_nobody() -> None:
    """However short the others are."""
    queue = Queue()
    plain, long = queue.come(0.0), queue.come(1.0, horizon=900)
    other, short = queue.come(2.0), queue.come(3.0, horizon=5)
    assert queue.order(4.0) == [plain, short, long, other]


def test_a_long_one_is_passed_for_so_long_and_no_longer() -> None:
    """Endless short ones: it goes once it has waited `PATIENCE_SECONDS`."""
    queue = Queue()
    long = queue.come(0.0, horizon=5000)
    for second in range(1000):
        queue.come(float(second), horizon=1)
        if queue.go(float(second)) is long:
            break
    assert second == int(PATIENCE_SECONDS) + 1


def test_what_begins_with_what_was_run_goes_first() -> None:
    """Where prefixes are kept, and until the oldest has waited for long; of those that begin so, in their order."""
    queue = Queue()
    queue.come(0.0, prompt=100, begins=7)
    queue.go(0.0)
    cold, first, short, second = [
        queue.come(when, prompt=prompt, begins=begins)
        for when, prompt, begins in ((1.0, 100, 8), (2.0, 90, 7), (3.0, 9, 7), (4.0, 70, 7))
    ]
    late = 1.0 + PATIENCE_SECONDS
    assert queue.first(4.0) is queue.first(late + 1, known=queue.known((), 1 << 30)) is cold
    found = []
    while len(queue):
        chosen = queue.first(late, known=queue.known((), 1 << 30))
        assert chosen is not None
        queue.take(chosen)
        found.append(chosen)
    assert found == [first, second, cold, short]


def test_where_all_begin_alike_the_order_is_as_ever() -> None:
    """By age, or the shortest of those that say it: a template's first words are no reason to pass anybody."""
    for horizon in (None, 5):
        queue = Queue()
        queue.come(0.0, prompt=100)
        queue.go(0.0)
        requests = [queue.come(1.0, prompt=100 + length, horizon=horizon) for length in (3, 1, 2)]
        found = []
        while len(queue):
            chosen = queue.first(2.0, known=queue.known((), 1 << 30))
            assert chosen is not None
            queue.take(chosen)
            found.append(chosen)
        assert found == (requests if horizon is None else [requests[1], requests[2], requests[0]])


def test_beginnings_that_are_remembered_are_few() -> None:
    """The last ones: of prompts without number, nothing piles up."""
    queue = Queue()
    for begins in range(200):
        queue.come(0.0, prompt=100, begins=begins)
        queue.go(0.0)
    old, new = queue.come(1.0, prompt=100, begins=1), queue.come(2.0, prompt=100, begins=199)
    assert queue.first(2.0, known=queue.known((), 1 << 30)) is new
    queue.remove(new)
    assert queue.first(2.0, known=queue.known((), 1 << 30)) is old
    assert len(queue._warm) == 64


def test_what_is_known_is_what_has_room_where_prefixes_are_kept() -> None:
    """Those that were run last, as long as they fit; what a row holds needs no room there."""
    queue = Queue()
    for begins in range(5):
        queue.come(0.0, prompt=100, begins=begins)
    rows = [queue.go(0.0) for _ in range(5)]
    last = [request.beginning for request in rows]
    assert queue.known([], 99) == set()
    assert queue.known([], 250) == {last[4], last[3]}
    assert queue.known([rows[4], rows[0]], 150) == {last[4], last[0], last[3]}


def test_clients_that_contend_get_equal_shares() -> None:
    """One asks for a hundred at once, another for three a little later: these go one in two."""
    queue = Queue()
    for _ in range(100):
        queue.come(client="flood")
    for _ in range(10):
        request = queue.go()
        request.account.charge(50, 1.0)
    light = [queue.come(1.0, client="light") for _ in range(3)]
    found = []
    for _ in range(6):
        request = queue.go(1.0)
        request.account.charge(50, 1.0)
        found.append(request in light)
    assert sum(found) == 3
    assert found[0]


def test_a_weight_is_a_share() -> None:
    """Three to one."""
    queue = Queue()
    for _ in range(60):
        queue.come(client="a", weight=3.0)
        queue.come(client="b")
    served = []
    for _ in range(40):
        request = queue.go()
        request.account.charge(30, request.submit.weight)
        served.append(request.submit.client)
    assert abs(served.count("a") - 30) <= 1


def test_users_share_what_their_client_has() -> None:
    """One client with a flood of one user and three of another's; a second client has half of all, whoever it names."""
    queue = Queue()
    for _ in range(100):
        queue.come(client="app", user="flood")
    for _ in range(10):
        queue.go().account.charge(50, 1.0)
    for _ in range(50):
        queue.come(1.0, client="app", user="light")
        queue.come(1.0, client="other")
    served = []
    for _ in range(40):
        request = queue.go(1.0)
        request.account.charge(50, 1.0)
        served.append((request.submit.client, request.submit.user))
    assert served.count(("other", None)) == 20
    assert served.count(("app", "light")) == 10
    assert served.count(("app", "flood")) == 10


def test_naming_many_users_gains_nothing() -> None:
    """A hundred of one client's have together what the other client has."""
    queue = Queue()
    for number in range(100):
        queue.come(client="many", user=str(number))
        queue.come(client="one")
    served = []
    for _ in range(60):
        request = queue.go()
        request.account.charge(50, 1.0)
        served.append(request.submit.client)
    assert served.count("many") == 30


def test_who_has_been_away_has_saved_nothing_up() -> None:
    """A counter without requests is forgotten, and who comes begins where the others stand."""
    queue = Queue()
    early = queue.come(client="away")
    queue.go()
    early.account.leave()
    for _ in range(50):
        queue.come(client="busy")
    for _ in range(10):
        queue.go().account.charge(1000, 1.0)
    assert len(queue.shares) == 1
    for _ in range(10):
        queue.come(1.0, client="away")
    served = []
    for _ in range(10):
        request = queue.go(1.0)
        request.account.charge(1000, 1.0)
        served.append(request.submit.client)
    assert served.count("busy") >= 4


def test_what_was_charged_too_much_is_given_back() -> None:
    """A prompt that was there already costs its client nothing."""
    queue = Queue()
    first = queue.come(client="a")
    a, b = queue.come(client="a"), queue.come(client="b")
    assert queue.go() is first
    first.account.charge(500, 1.0)
    queue.come(client="b")
    queue.refund(first, 500)
    assert queue.go() is a
    assert queue.go() is b


def test_a_row_that_was_lost_is_got_back_before_who_waits() -> None:
    """Whatever their priority: nobody who waits takes the place of one that ran."""
    backend = Loose(slack=0.0)
    course = Course(backend, 500)
    requests = [course.submit(10, 50) for _ in range(3)]
    while backend.crowd < 3:
        course.turn()
    backend.ballast = 495
    for _ in range(5):
        course.turn()
    late = course.submit(10, 50, priority=5)
    course.turn()
    queue = course.scheduler._admission.waiting
    assert len(queue) == 3
    assert (first := queue.first(9.0)) is not None
    assert first.id == requests[1]
    backend.ballast = 0
    course.finish()
    assert course.ended == dict.fromkeys([*requests, late], 50)


def test_the_lowest_priority_gives_its_row_back_first_then_the_youngest() -> None:
    """Where rows have outgrown the memory."""
    backend = Loose(slack=0.0)
    course = Course(backend, 400)
    requests = [course.submit(10, 50, priority=priority) for priority in (0, 2, 1, 2)]
    while backend.crowd < 4:
        course.turn()
    backend.ballast = 395
    for _ in range(3):
        course.turn()
    chosen = [r.id for r in course.scheduler._admission.by_row.values() if r.progress.is_yielding]
    evicted = [r.id for r in course.scheduler._admission.waiting]
    assert sorted([*chosen, *evicted]) == sorted(set(requests) - {requests[1]})
    backend.ballast = 0
    course.finish()
    assert course.ended == dict.fromkeys(requests, 50)


LOADS = st.lists(
    st.tuples(
        st.integers(1, 60),
        st.integers(1, 40),
        st.integers(0, 12),
        st.integers(-2, 2),
        st.sampled_from([None, "a", "b", "c"]),
        st.sampled_from([None, "x", "y"]),
        st.sampled_from([0.5, 1.0, 4.0]),
        st.none() | st.integers(1, 80),
    ),
    min_size=1,
    max_size=20,
)


@settings(max_examples=60)
@given(LOADS, st.integers(110, 500))
def test_under_any_policy_all_of_it_is_written(loads: list[tuple[Any, ...]], budget: int) -> None:
    """Nobody is lost, nobody runs twice, and lies about horizons cost no token."""
    backend = Loose(slack=0.0)
    course = Course(backend, budget)
    for prompt, max_tokens, pause, priority, client, user, weight, horizon in loads:
        course.submit(prompt, max_tokens, priority=priority, client=client, user=user, weight=weight, horizon=horizon)
        for _ in range(pause):
            course.turn()
    course.finish()
    assert course.ended == {request: load[1] for request, load in enumerate(loads)}
    assert sorted(set(course.started)) == list(range(len(loads)))
    assert len(course.scheduler._admission.waiting.shares) == 0
    assert not len(course.scheduler._admission.waiting)


def client_of(request: Request) -> Account:
    """The account of its client."""
    assert request.account.owner is not None
    return request.account.owner


class Comings(RuleBasedStateMachine):
    """Requests come, go, are set aside, put back, and taken out, compared with a plain list."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = Queue()
        self.there: list[Request] = []
        self.now = 0.0

    @rule(
        priority=st.integers(-1, 1),
        client=st.sampled_from([None, "a", "b"]),
        user=st.sampled_from([None, "x", "y"]),
        horizon=st.none() | st.integers(1, 9),
        seconds=st.integers(0, 200),
    )
    def come(self, priority: int, client: str | None, user: str | None, horizon: int | None, seconds: int) -> None:
        """One more."""
        self.now += seconds
        self.there.append(self.queue.come(self.now, priority=priority, client=client, user=user, horizon=horizon))

    @rule(tokens=st.integers(0, 100))
    def go(self, tokens: int) -> None:
        """The first one, as a plain search finds it."""
        if self.there:
            found = self.queue.go(self.now)
            assert found is self.expected()
            self.there.remove(found)
            found.account.charge(tokens, 1.0)
            found.account.leave()

    def expected(self) -> Request:
        """By looking at all of them."""
        highest = max(r.submit.priority for r in self.there)
        level = [r for r in self.there if r.submit.priority == highest]
        client = min((client_of(r) for r in level), key=lambda each: (each.spent, each.number))
        users = [r for r in level if client_of(r) is client]
        user = min((r.account for r in users), key=lambda each: (each.spent, each.number))
        lane = [r for r in users if r.account is user]
        chosen = min(lane, key=lambda r: (r.queued, r.id))
        if chosen.horizon is not None and self.now - chosen.queued <= PATIENCE_SECONDS:
            known = [r for r in lane if r.horizon is not None]
            chosen = min(known, key=lambda r: (len(r.tokens) + (r.horizon or 0), r.id))
        lower = [r for r in self.there if r.submit.priority < highest]
        oldest = min(lower, key=lambda r: (r.queued - r.submit.priority * LEVEL_SECONDS, r.id), default=chosen)
        levels = highest - oldest.submit.priority
        return oldest if chosen.queued - oldest.queued > levels * LEVEL_SECONDS else chosen

    @rule(index=st.integers(0, 30))
    def leave(self, index: int) -> None:
        """One that was cancelled."""
        if self.there:
            gone = self.there.pop(index % len(self.there))
            self.queue.remove(gone)
            gone.account.leave()

    @rule(count=st.integers(1, 4))
    def look_past(self, count: int) -> None:
        """Set some aside, and put them back."""
        for _ in range(count):
            found = self.queue.first(self.now)
            if found is not None:
                self.queue.set_aside(found)
        self.queue.put_back()

    @invariant()
    def holds_them_all(self) -> None:
        """Each once."""
        assert sorted(r.id for r in self.queue) == sorted(r.id for r in self.there)
        assert len(self.queue) == len(self.there)
        waiting: dict[int, int] = {}
        for request in self.there:
            for account in (request.account, client_of(request)):
                waiting[id(account)] = waiting.get(id(account), 0) + 1
        assert all(r.account.num_waiting == waiting[id(r.account)] for r in self.there)
        assert all(client_of(r).num_waiting == waiting[id(client_of(r))] for r in self.there)


TestComings = Comings.TestCase
TestComings.settings = settings(max_examples=40, stateful_step_count=30)
