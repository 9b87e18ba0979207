"""Numbers and words formatted for a picture or a page, and the axes of pictures."""

import html
import math
import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

SIZE = 14.0  # of letters, in the units of a picture
LETTER = 0.6 * SIZE  # the mean width of a letter in wide sans-serif fonts
LARGEST = 1e300  # beyond it, a difference of two numbers may overflow
SMALLEST = 1e-290
LOGARITHMIC_FROM = 30.0  # the ratio of largest to smallest, above which a linear axis hides curves


# --- Numbers and text ------------------------------------------------------------------------


def finite(value: object) -> float | None:
    """The value as a number that can be drawn; None for NaN, infinity, and non-numbers.

    >>> finite(2), finite("2"), finite(float("nan"))
    (2.0, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        real = float(value)
    except OverflowError:  # an int may be arbitrarily large
        return None
    return real if abs(real) <= LARGEST else None


def number(value: object) -> str:
    """A number for a reader: whole ones in full, others with four digits, and a dash for none.

    >>> number(66362880), number(0.87155963), number(1.25e-7), number(None)
    ('66,362,880', '0.8716', '1.25e-7', '–')
    """
    real = finite(value)
    if real is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    if real == 0 or 1e-4 <= abs(real) < 1e7:
        digits = 4 if real == 0 else max(0, 3 - math.floor(math.log10(abs(real))))
        return f"{real:,.{digits}f}"
    return _power(f"{real:.3e}")


def _power(text: str) -> str:
    """Python's 1.250e-07 in the shortest form: 1.25e-7."""
    digits, _, exponent = text.partition("e")
    if "." in digits:
        digits = digits.rstrip("0").rstrip(".")
    return f"{digits}e{int(exponent)}"


def cleaned(value: object) -> str:
    """Text without the characters that neither HTML nor UTF-8 can hold."""
    forbidden = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]"
    return re.sub(forbidden, "\ufffd", str(value))


def escaped(value: object) -> str:
    """Any value as text of a page, whatever is in it."""
    return html.escape(cleaned(value))


def text_width(text: str) -> float:
    """About how wide a text is; letters of East Asia are as wide as they are high."""
    return sum(SIZE if unicodedata.east_asian_width(c) in "WF" else LETTER for c in text)


def shortened(text: str, room: float) -> str:
    """As much of the beginning of a text as fits into `room` units.

    >>> shortened("a much too long name", 80)
    'a much t…'
    """
    text = " ".join(cleaned(text).split())
    if text_width(text) <= room:
        return text
    text = text[: max(0, int(room / LETTER))]  # no letter is narrower
    while text and text_width(text) > room - LETTER:
        text = text[:-1]
    return f"{text}…"


# --- Axes ------------------------------------------------------------------------------------


class Scale(NamedTuple):
    """An axis: its ends, its ticks with their labels, and whether it counts in powers."""

    low: float
    high: float
    ticks: tuple[float, ...]
    labels: tuple[str, ...]
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """Where a value lies, 0 at the low end and 1 at the high end."""
        low, high = self.low, self.high
        if self.logarithmic:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        return (value - low) / (high - low)


def linear_scale(
    low: float, high: float, most: int, outer: bool = True, least: float = 0.0
) -> Scale:
    """An axis from `low` to `high` with about `most` ticks, 1, 2 or 5 times a power of 10 apart.

    They are at least `least` apart. With `outer` the axis is extended to ticks at both ends.
    Two ends that are equal, or nearly so, are moved apart.

    >>> linear_scale(0.87, 0.92, 5).labels
    ('0.87', '0.88', '0.89', '0.90', '0.91', '0.92')
    """
    largest = max(abs(low), abs(high))
    if high - low <= largest * 1e-6:
        apart = largest / 20 if largest > SMALLEST else 0.5
        low, high = low - apart, high + apart
    raw = max((high - low) / most, least)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9))
    if outer:
        low, high = math.floor(low / step + 1e-6) * step, math.ceil(high / step - 1e-6) * step
    first, last = math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6)
    ticks = tuple(index * step for index in range(first, last + 1))
    return Scale(low, high, ticks, tuple(_linear_label(tick, step) for tick in ticks))


def _linear_label(value: float, step: float) -> str:
    """As many digits as tell one tick from the next."""
    places = -math.floor(math.log10(step) + 1e-9)
    if value == 0:
        return "0"
    if places <= 4 and abs(value) < 1e7:
        return f"{value:,.{max(0, places)}f}"
    digits = max(0, math.floor(math.log10(abs(value)) + 1e-9) + places)
    return _power(f"{value:.{digits}e}")


def logarithmic_scale(low: float, high: float, most: int) -> Scale:
    """An axis of positive numbers, from power of ten to power of ten."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = math.ceil((last - first) / most)
    last = first + every * math.ceil((last - first) / every)
    ticks = tuple(10.0**exponent for exponent in range(first, last + 1, every))
    labels = tuple(f"{t:,g}" if 1e-3 <= t <= 1e5 else _power(f"{t:.0e}") for t in ticks)
    return Scale(ticks[0], ticks[-1], ticks, labels, True)


def scale_of(values: Sequence[float], most: int) -> Scale:
    """The axis that shows all these numbers: logarithmic if their sizes differ much."""
    low, high = min(values), max(values)
    if low > SMALLEST and high / low > LOGARITHMIC_FROM:
        return logarithmic_scale(low, high, most)
    return linear_scale(low, high, most)
