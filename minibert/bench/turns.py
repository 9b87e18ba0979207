"""Timing in interleaved rounds: every engine once in each, after a different one each time.

Other load, the machine's temperature and what the previous engine left then affect all alike.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

PAUSE = 0.02  # seconds in which the previous engine's threads stop spinning


def orders(names: Sequence[str], rounds: int) -> Iterator[list[str]]:
    """The order of each round, from a balanced Latin square.

    The first order is 0, 1, -1, 2, -2, …, and each next one adds 1. In as many rounds as there are
    names, each name is at each place once, and right after each other name once. If the number of
    names is odd, it takes twice as many rounds, every second order is reversed, and each name is
    at each place twice, and right after each other name twice.

    Source
        E. J. Williams, Experimental designs balanced for the estimation of residual effects of
        treatments, Australian Journal of Scientific Research A 2 (1949), 149 to 168

    >>> ["".join(order) for order in orders("abcd", 4)]
    ['abdc', 'bcad', 'cdba', 'dacb']
    """
    count = len(names)
    steps = [(place + 1) // 2 * (-1) ** (place + 1) for place in range(count)]
    for number in range(rounds):
        order = [names[(number + step) % count] for step in steps]
        yield order[::-1] if count % 2 and number % 2 else order


def timed(
    runs: Mapping[str, Callable[[], Any]],
    rounds: int,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
    failed: dict[str, Exception] | None = None,
) -> dict[str, list[float]]:
    """Seconds of one call in each round, after a warm-up round that does not count.

    With a dictionary `failed`, a run that raises is left out from then on, and `failed` holds why.

    Raises
        Exception  what a run raised, without `failed`.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number, order in enumerate([list(runs), *orders(list(runs), rounds)]):
        for name in order:
            if name not in times:
                continue
            time.sleep(PAUSE)
            try:
                taken = turn(runs[name], seconds if number else 0.0, clock)
            except Exception as problem:
                if failed is None:
                    raise
                failed[name] = problem
                del times[name]
                continue
            if number:
                times[name].append(taken)
    return times


def turn(run: Callable[[], Any], seconds: float, clock: Callable[[], float]) -> float:
    """The median call of one turn.

    A call that fills a third of the turn is measured once. Shorter ones are repeated until the
    turn is over, and the first, which finds other data in the caches, does not count.
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
