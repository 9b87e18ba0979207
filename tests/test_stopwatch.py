"""A stopwatch whose clock says what the test wants, so that every time is exact."""

import json
import threading
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibert.training.stopwatch import Stopwatch, running, timed


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_part_has_the_time_between_its_beginning_and_its_end(clock):
    watch = Stopwatch(clock=clock)
    clock.now += 5  # nobody's
    with watch("data"):
        clock.now += 2
    clock.now += 7  # nobody's
    with watch("data"):
        clock.now += 1
    with watch("teacher"):
        clock.now += 4
    assert watch.seconds == {"data": 3.0, "teacher": 4.0}


def test_the_time_of_an_inner_part_is_not_that_of_the_outer_one(clock):
    watch = Stopwatch(clock=clock)
    with watch("student"):
        clock.now += 1
        with watch("teacher"):
            clock.now += 10
            with watch("data"):
                clock.now += 100
            clock.now += 20
        clock.now += 2
        with watch("data"):
            clock.now += 200
    assert watch.seconds == {"student": 3.0, "teacher": 30.0, "data": 300.0}


def test_a_part_inside_itself_is_counted_once(clock):
    watch = Stopwatch(clock=clock)
    with watch("student"):
        clock.now += 1
        with watch("student"):
            clock.now += 2
        clock.now += 4
    assert watch.seconds == {"student": 7.0}


def test_an_error_ends_its_part(clock):
    watch = Stopwatch(clock=clock)

    def fail() -> None:
        with watch("student"):
            clock.now += 1
            raise KeyError

    with watch("step"), pytest.raises(KeyError):
        fail()
    clock.now += 50
    with watch("optimiser"):
        clock.now += 2
    assert watch.seconds == {"step": 0.0, "student": 1.0, "optimiser": 2.0}


PARTS = st.recursive(
    st.tuples(st.sampled_from("abc"), st.integers(0, 9), st.just(())),
    lambda inner: st.tuples(st.sampled_from("abc"), st.integers(0, 9), st.lists(inner, max_size=4)),
    max_leaves=12,
)


@given(st.lists(PARTS, max_size=4))
def test_all_parts_together_have_all_the_time(parts):
    """However they are nested: nothing is counted twice, and nothing is lost."""
    clock = Clock()
    watch = Stopwatch(clock=clock)
    expected: dict[str, float] = {}

    def run(parts: Iterable) -> None:
        for name, seconds, inner in parts:
            with watch(name):
                clock.now += seconds
                run(inner)
                clock.now += seconds
            expected[name] = expected.get(name, 0) + 2 * seconds

    run(parts)
    assert watch.seconds == expected
    assert sum(watch.seconds.values()) == clock.now - 1000


def test_times_are_added_and_merged():
    watch = Stopwatch({"data": 1.0})
    watch.add("data", 2)
    watch.merge({"data": 4.0, "teacher": 8.0})
    assert watch.seconds == {"data": 7.0, "teacher": 8.0}


@pytest.mark.parametrize("wrong", [-1.0, float("nan"), float("inf")])
@pytest.mark.parametrize(
    "call",
    [
        lambda seconds: Stopwatch({"data": seconds}),
        lambda seconds: Stopwatch().add("data", seconds),
        lambda seconds: Stopwatch().merge({"data": seconds}),
    ],
)
def test_a_time_that_is_none_is_refused(wrong, call):
    with pytest.raises(ValueError, match=f"data took {wrong} seconds, but"):
        call(wrong)


def test_a_resumed_run_counts_on(clock):
    """The seconds go to a file as they are and come back; the stored ones are left alone."""
    first = Stopwatch(clock=clock)
    with first("data"):
        clock.now += 2
    stored = json.loads(json.dumps(first.seconds))
    clock.now += 10_000  # the night between
    second = Stopwatch(stored, clock)
    with second("data"):
        clock.now += 3
    assert second.seconds == {"data": 5.0}
    assert stored == first.seconds == {"data": 2.0}


def test_a_part_that_runs_is_counted_up_to_the_last_change(clock):
    watch = Stopwatch(clock=clock)
    with watch("student"):
        clock.now += 1
        with watch("data"):
            clock.now += 2
        clock.now += 4
        assert watch.seconds == {"student": 1.0, "data": 2.0}


def test_what_works_ahead_is_waited_for_before_the_clock_is_read(clock):
    """As a GPU does: the call returns at once, and the work is done while one waits."""
    behind = [0.0]

    def launch(seconds: float) -> None:
        behind[0] += seconds

    def wait() -> None:
        clock.now += behind[0]
        behind[0] = 0.0

    def measured(wait: Callable[[], None] | None) -> dict[str, float]:
        watch = Stopwatch(clock=clock, wait=wait)
        with watch("student"):
            launch(1)
            with watch("teacher"):
                launch(8)
            launch(2)
        behind[0] = 0.0
        return watch.seconds

    assert measured(wait) == {"student": 3.0, "teacher": 8.0}
    assert measured(None) == {"student": 0.0, "teacher": 0.0}


# --- Timed functions -------------------------------------------------------------------------


class Work:
    """What a step of training does, with a clock instead of work."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    @timed("student")
    def step(self, text: str, *, times: int = 1) -> str:
        """One step."""
        self.clock.now += 1
        return self.teacher(text) * times

    @timed("teacher")
    def teacher(self, text: str) -> str:
        self.clock.now += 10
        if not text:
            raise ValueError("no text")
        return text.upper()


def test_a_timed_function_does_what_it_did(clock):
    work = Work(clock)
    assert work.step("ab", times=2) == "ABAB"
    with running(Stopwatch(clock=clock)):
        assert work.step("ab", times=2) == "ABAB"
    assert (work.step.__name__, work.step.__doc__) == ("step", "One step.")


def test_a_timed_function_is_counted_while_a_watch_runs(clock):
    work, watch = Work(clock), Stopwatch(clock=clock)
    work.step("before")
    with running(watch) as same:
        work.step("ab")
        with pytest.raises(ValueError, match="no text"):
            work.step("")
    work.step("after")
    assert same is watch
    assert watch.seconds == {"student": 2.0, "teacher": 20.0}


def test_the_inner_of_two_watches_counts(clock):
    work, outer, inner = Work(clock), Stopwatch(clock=clock), Stopwatch(clock=clock)
    with running(outer):
        with pytest.raises(ValueError, match="no text"), running(inner):
            work.teacher("")
        work.step("ab")
    assert inner.seconds == {"teacher": 10.0}
    assert outer.seconds == {"student": 1.0, "teacher": 10.0}


def test_other_threads_are_not_counted(clock):
    """Their times overlap, so that no part would know its own."""
    work, watch = Work(clock), Stopwatch(clock=clock)
    with running(watch):
        thread = threading.Thread(target=work.step, args=("ab",))
        thread.start()
        thread.join()
    assert watch.seconds == {}


def test_the_real_clock_runs():
    watch = Stopwatch()
    with watch("counting"):
        sum(range(10_000))
    assert 0 < watch.seconds["counting"] < 60
