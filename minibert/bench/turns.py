"""Time in interleaved rounds: everyone once in each, and another one first every time.

What else the machine does, and how warm it is, then falls on all alike.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

PAUSE = 0.02  # seconds in which the threads of the one before stop waiting in a loop


def orders(names: Sequence[str], rounds: int) -> Iterator[list[str]]:
    """The order of each round: rotated by one place.

    >>> list(orders("ab", 3))
    [['a', 'b'], ['b', 'a'], ['a', 'b']]
    """
    for number in range(rounds):
        first = number % max(1, len(names))
        yield [*names[first:], *names[:first]]


def timed(
    runs: Mapping[str, Callable[[], Any]],
    rounds: int,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of one call in each round, after one round that warms up and does not count."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for order in orders(list(runs), rounds):
        for name in order:
            time.sleep(PAUSE)
            times[name].append(turn(runs[name], seconds, clock))
    return times


def turn(run: Callable[[], Any], seconds: float, clock: Callable[[], float]) -> float:
    """The median call of one turn.

    A call that fills a third of the turn is measured once. Shorter ones are repeated until the
    turn is over, and the first, which finds the caches full of something else, does not count.
    """
    started = clock()
    run()
    first = clock() - started
    if first > seconds / 3:
        return first
    calls = []
    while clock() - started < seconds:
        begun = clock()
        run()
        calls.append(clock() - begun)
    return statistics.median(calls or [first])


def spread(times: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile.

    >>> spread([1.0, 2.0, 3.0, 4.0, 5.0])
    (2.0, 3.0, 4.0)
    """
    if len(times) == 1:
        return times[0], times[0], times[0]
    lower, middle, upper = statistics.quantiles(times, n=4, method="inclusive")
    return lower, middle, upper
