"""Where the time of a training run goes: seconds for each named part, without the parts inside it.

The parts are named where they are defined, with `@timed("teacher")`; a run that wants to know uses
`with running(watch):`; without it, a timed function only looks for a watch and finds none.
"""

import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class Stopwatch:
    """Seconds per name; while an inner part runs, the outer one is paused.

    `seconds` is a plain dictionary: pass a stored one, and the watch continues from it. A part that
    is still running has its seconds up to the last start or end of any part. One thread at a time.

    A GPU keeps working while Python runs ahead, so its time shows wherever Python waits for it;
    `wait`, such as `torch.cuda.synchronize`, is called before every look at the clock, and slows
    the run.

    Raises
        ValueError  a stored time is negative or not finite.

    >>> clock = iter([0.0, 1.0, 3.0, 7.0]).__next__
    >>> watch = Stopwatch(clock=clock)
    >>> with watch("student"):
    ...     with watch("teacher"):
    ...         pass
    >>> watch.seconds
    {'student': 5.0, 'teacher': 2.0}
    """

    def __init__(
        self,
        seconds: Mapping[str, float] | None = None,
        clock: Callable[[], float] = time.perf_counter,
        wait: Callable[[], object] | None = None,
    ) -> None:
        self.seconds: dict[str, float] = {}
        self.merge(seconds or {})
        self._clock, self._wait = clock, wait
        self._parts: dict[str, _Part] = {}
        self._names: list[str] = []  # of the parts that run, the innermost last
        self._since = 0.0

    def __call__(self, name: str) -> "_Part":
        """A context manager that adds its time to `name`; the same part may run inside itself."""
        part = self._parts.get(name)
        if part is None:
            part = self._parts[name] = _Part(self, name)
        return part

    def add(self, name: str, seconds: float) -> None:
        """Count time that was measured elsewhere.

        Raises
            ValueError  the time is negative or not finite.
        """
        if not (seconds >= 0 and math.isfinite(seconds)):
            raise ValueError(f"{name} took {seconds} seconds, but a time is finite and at least 0")
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def merge(self, seconds: Mapping[str, float]) -> None:
        """Add the `seconds` of another watch, name by name.

        Raises
            ValueError  a time is negative or not finite.
        """
        for name, value in seconds.items():
            self.add(name, value)

    def _begin(self, name: str) -> None:
        self._count()
        self.seconds.setdefault(name, 0.0)
        self._names.append(name)

    def _end(self) -> None:
        self._count()
        self._names.pop()

    def _count(self) -> None:
        """The time since the last change belongs to the innermost part."""
        if self._wait is not None:
            self._wait()
        now = self._clock()
        if self._names:
            self.seconds[self._names[-1]] += now - self._since
        self._since = now


class _Part:
    """One name of a watch, to be used in `with` as often as wanted."""

    __slots__ = ("name", "watch")

    def __init__(self, watch: Stopwatch, name: str) -> None:
        self.watch, self.name = watch, name

    def __enter__(self) -> None:
        self.watch._begin(self.name)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.watch._end()


_running: ContextVar[Stopwatch | None] = ContextVar("stopwatch", default=None)


@contextmanager
def running(watch: Stopwatch) -> Iterator[Stopwatch]:
    """Let `watch` count the timed functions that are called inside a `with`, in this thread."""
    token = _running.set(watch)
    try:
        yield watch
    finally:
        _running.reset(token)


def timed(name: str) -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]]:
    """A decorator: the function's time, less that of timed functions inside, goes to `name`."""

    def decorated(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        @functools.wraps(function)
        def measured(*arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
            watch = _running.get()
            if watch is None:
                return function(*arguments, **named)
            with watch(name):
                return function(*arguments, **named)

        return measured

    return decorated
