"""Pictures for a page, as SVG text: curves, stacked bars, and the map of layers.

Nothing is fetched and nothing runs. Colours are CSS classes, which `style` defines for a light and
a dark page. A picture is 400 units wide and is scaled to the room that it gets; its letters are 14
units high, so that they can be read when it is 320 pixels wide.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from minibert.training.axes import (
    SIZE,
    Scale,
    escaped,
    finite,
    linear_scale,
    number,
    scale_of,
    shortened,
    text_width,
)

WIDTH = 400.0
MOST_MARKERS = 12

# At least 3:1 on their page, and distinct in every kind of colour blindness, as tests measure.
LIGHT = {"page": "#ffffff", "ink": "#1b1f24", "faint": "#57606a", "rule": "#d0d7de"}
DARK = {"page": "#14171c", "ink": "#e6e9ed", "faint": "#a0a9b4", "rule": "#3a424d"}
LIGHT_SERIES = ("#0072b2", "#bc6456", "#000047", "#00a400", "#77306c")
DARK_SERIES = ("#56b4e9", "#d97000", "#f7f7e0", "#2ee62e", "#c98fa8")
# Four dashes, five colours, six markers: no two of the first sixty series are alike.
DASHES = ("", "7 3", "2 3", "9 3 2 3")
MARKERS = (
    "M-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0 -7 0z",
    "M-3 -3h6v6h-6z",
    "M0 -4l4 7h-8z",
    "M0 -4.5l4.5 4.5l-4.5 4.5l-4.5 -4.5z",
    "M0 4l4 -7h-8z",
    "M-1.2 -4h2.4v2.8h2.8v2.4h-2.8v2.8h-2.4v-2.8h-2.8v-2.4h2.8z",
)


class Line(NamedTuple):
    """One curve; a y that is NaN leaves a gap."""

    name: str
    points: tuple[tuple[float, float], ...]


def style() -> str:
    """The colours of page and pictures in CSS: light, dark where the reader wants it, print."""

    def colours(page: Mapping[str, str], series: Sequence[str]) -> str:
        named = {**page, **{f"s{k}": colour for k, colour in enumerate(series)}}
        return ";".join(f"--{name}:{colour}" for name, colour in named.items())

    kinds = "".join(
        f".s{k}{{stroke:var(--s{k})}}.f{k}{{fill:var(--s{k})}}" for k in range(len(LIGHT_SERIES))
    )
    return (
        f":root{{color-scheme:light dark;{colours(LIGHT, LIGHT_SERIES)}}}"
        "@media screen and (prefers-color-scheme:dark)"
        f"{{:root{{{colours(DARK, DARK_SERIES)}}}}}"
        f"svg text{{font-size:{SIZE:g}px;fill:var(--ink)}}svg .faint{{fill:var(--faint)}}"
        ".rule{stroke:var(--rule);fill:none}.edge{stroke:var(--faint);fill:none}"
        ".curve{fill:none;stroke-width:2;stroke-linejoin:round}"
        f".box{{fill:var(--page);stroke:var(--faint)}}{kinds}"
    )


# --- Parts of a picture ----------------------------------------------------------------------


def picture(name: str, title: str, words: str, height: float, parts: Iterable[str]) -> str:
    """A picture; title and words are for screen readers. `name` is unique in the page."""
    return (
        f'<svg viewBox="0 0 {WIDTH:g} {height:.0f}" role="img" '
        f'aria-labelledby="{name}-title {name}-words">'
        f'<title id="{name}-title">{escaped(title)}</title>'
        f'<desc id="{name}-words">{escaped(words)}</desc>{"".join(parts)}</svg>'
    )


def text(x: float, y: float, words: str, anchor: str = "start", kind: str = "") -> str:
    """Words at a place; `anchor` start, middle or end."""
    kinds = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{kinds}>{escaped(words)}</text>'


def stroke(x1: float, y1: float, x2: float, y2: float, kind: str, dash: str = "") -> str:
    """A straight line."""
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} class="{kind}"{dashes}/>'


def marker(x: float, y: float, k: int) -> str:
    """The sign of series k."""
    shape, colour = MARKERS[k % len(MARKERS)], k % len(LIGHT_SERIES)
    return f'<path d="{shape}" transform="translate({x:.1f} {y:.1f})" class="f{colour}"/>'


def legend(entries: Sequence[tuple[str, str]]) -> tuple[list[str], float]:
    """Signs with their words, as many in a row as fit; and the total height.

    An entry is a sign, drawn from (0, 0) to (24, 0), and its words.
    """
    parts, x, y = [], 0.0, SIZE
    for sign, words in entries:
        words = shortened(words, WIDTH - 32)
        width = 30 + text_width(words)
        if x and x + width > WIDTH:
            x, y = 0.0, y + SIZE + 7
        parts.append(f'<g transform="translate({x:.1f} {y - 4:.1f})">{sign}</g>')
        parts.append(text(x + 30, y, words))
        x += width + 16
    return parts, y + 8


def _sign(k: int) -> str:
    kind = f"curve s{k % len(LIGHT_SERIES)}"
    return stroke(0, 0, 24, 0, kind, DASHES[k % len(DASHES)]) + marker(12, 0, k)


# --- Curves ----------------------------------------------------------------------------------


def line_chart(
    name: str,
    title: str,
    lines: Sequence[Line],
    level: tuple[str, float] | None = None,
    kept: tuple[str, float, float] | None = None,
) -> str:
    """Curves over steps; "" where no point of them can be drawn.

    `level` is a line across, with its words; `kept` a ring around a point, with its words.
    """
    drawn = [point for line in lines for point in line.points if not math.isnan(point[1])]
    if not drawn:
        return ""
    across = scale_of([y for _, y in drawn] + ([level[1]] if level else []), 5)
    left = max(map(text_width, across.labels)) + 8
    last = max(x for x, _ in drawn)
    most = max(1, int((WIDTH - left) / (text_width(f"{last:,.0f}") + 24)))
    steps = linear_scale(min(0.0, *(x for x, _ in drawn)), last, most, outer=False, least=1.0)
    signs = [(_sign(k), line.name) for k, line in enumerate(lines)]
    if level:
        signs.append((stroke(0, 0, 24, 0, "edge", "1 3"), level[0]))
    if kept:
        signs.append((_ring(12, 0), kept[0]))
    parts, top = legend(signs)
    box = (left, top + 6, WIDTH - 10, top + 190)

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            box[0] + steps.place(x) * (box[2] - box[0]),
            box[3] - across.place(y) * (box[3] - box[1]),
        )

    parts += _axes(steps, across, box)
    if level:
        y = at(0, level[1])[1]
        parts.append(stroke(box[0], y, box[2], y, "edge", "1 3"))
    for k, line in enumerate(lines):
        parts += _curve([at(x, y) if y == y else None for x, y in line.points], k)
    if kept:
        x, y = at(*kept[1:])
        parts += [stroke(x, box[1], x, box[3], "edge", "4 3"), _ring(x, y)]
    words = ". ".join([*map(_told, lines), *(part[0] for part in (level, kept) if part)])
    return picture(name, title, f"{words}.", box[3] + 2 * SIZE + 14, parts)


def _ring(x: float, y: float) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="7" class="edge" stroke-width="2"/>'


def _axes(steps: Scale, across: Scale, box: tuple[float, float, float, float]) -> list[str]:
    left, top, right, bottom = box
    parts = []
    for tick, label in zip(across.ticks, across.labels, strict=True):
        y = bottom - across.place(tick) * (bottom - top)
        parts.append(stroke(left, y, right, y, "rule"))
        parts.append(text(left - 6, y + 4.5, label, "end", "faint"))
    for tick, label in zip(steps.ticks, steps.labels, strict=True):
        x = left + steps.place(tick) * (right - left)
        half = text_width(label) / 2
        parts.append(stroke(x, bottom, x, bottom + 4, "edge"))
        inside = min(max(x, half), WIDTH - half)
        parts.append(text(inside, bottom + SIZE + 5, label, "middle", "faint"))
    parts.append(stroke(left, bottom, right, bottom, "edge"))
    kind = "step (values on a logarithmic scale)" if across.logarithmic else "step"
    return [*parts, text((left + right) / 2, bottom + 2 * SIZE + 8, kind, "middle", "faint")]


def _curve(points: Sequence[tuple[float, float] | None], k: int) -> list[str]:
    """A path with gaps, and markers on some of its points: the first, the last, lone ones."""
    path, alone = [], []
    for before, point, after in zip([None, *points], points, [*points[1:], None], strict=False):
        if point:
            path.append(f"{'L' if before else 'M'}{point[0]:.1f} {point[1]:.1f}")
            alone += [] if before or after else [point]
    drawn = [point for point in points if point]
    if not drawn:
        return []
    every = math.ceil(len(drawn) / MOST_MARKERS)
    marked = dict.fromkeys([drawn[0], *drawn[::-1][::every], *alone])
    dash = DASHES[k % len(DASHES)]
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    line = f'<path d="{"".join(path)}" class="curve s{k % len(LIGHT_SERIES)}"{dashes}/>'
    return [line, *(marker(x, y, k) for x, y in marked)]


def _told(line: Line) -> str:
    """A curve in words."""
    drawn = [(x, y) for x, y in line.points if y == y]
    if not drawn:
        return f"{line.name}: no value"
    (start, first), (end, last) = drawn[0], drawn[-1]
    values = [y for _, y in drawn]
    return (
        f"{line.name}: {number(first)} at step {start:,.0f}, {number(last)} at step {end:,.0f}, "
        f"between {number(min(values))} and {number(max(values))}"
    )


# --- Shares ----------------------------------------------------------------------------------


def share_bars(name: str, title: str, bars: Mapping[str, tuple[Mapping[str, float], str]]) -> str:
    """One bar for each name, divided in proportion to its parts; "" if no bar can be.

    A bar is its parts, each at least 0, and words for its right end.
    """
    bars = {key: bar for key, bar in bars.items() if sum(bar[0].values()) > 0}
    if not bars:
        return ""
    kinds = list(dict.fromkeys(part for shares, _ in bars.values() for part in shares))
    swatches = [
        (f'<rect y="-6" width="24" height="12" class="f{k % len(LIGHT_SERIES)}"/>', kind)
        for k, kind in enumerate(kinds)
    ]
    parts, y = legend(swatches)
    told = []
    for key, (shares, words) in bars.items():
        y += SIZE + 10
        label = shortened(key, WIDTH - text_width(words) - 12)
        parts += [text(0, y, label), text(WIDTH, y, words, "end", "faint")]
        parts += _segments(shares, kinds, y + 7)
        total = sum(shares.values())
        listed = ", ".join(f"{part} {share / total:.0%}" for part, share in shares.items())
        told.append(f"{key}: {listed}; {words}")
        y += 26 + SIZE + 5
    return picture(name, title, ". ".join(told) + ".", y + 8, parts)


def _segments(shares: Mapping[str, float], kinds: Sequence[str], y: float) -> list[str]:
    """The parts of one bar, each with its share below it where there is room."""
    parts, x, total, free = [], 0.0, sum(shares.values()), 0.0
    for part in (kind for kind in kinds if kind in shares):
        width = WIDTH * (shares[part] / total)
        colour = kinds.index(part) % len(LIGHT_SERIES)
        size = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="18"'
        parts.append(f'<rect {size} class="f{colour}" stroke="var(--page)"/>')
        label = f"{shares[part] / total:.0%}"
        half = text_width(label) / 2
        middle = min(max(x + width / 2, half), WIDTH - half)
        if width >= 4 and middle - half >= free:
            # At an end of the bar the label begins or ends with it, however wide its font is.
            place, anchor = middle, "middle"
            if middle == half:
                place, anchor = 0.0, "start"
            elif middle == WIDTH - half:
                place, anchor = WIDTH, "end"
            parts.append(text(place, y + 18 + SIZE + 1, label, anchor, "faint"))
            free = middle + half + 4
        x += width
    return parts


# --- The map of layers -----------------------------------------------------------------------

BOX, PITCH = (112.0, 22.0), 29.0
COLUMNS = {"student": 92.0, "teacher": WIDTH - 92.0}


def layer_map(
    name: str,
    student: Mapping[str, Any],
    teacher: Mapping[str, Any],
    layers: Sequence[int],
    ends: tuple[bool, bool],
) -> str:
    """The student's layers on the left, the teacher's on the right, and who learns from whom.

    `layers` are g(1), g(2), …; `ends` says whether the embeddings and the answers are learned, too.
    A line to a layer that a model does not have is not drawn.
    """
    models = {"student": student, "teacher": teacher}
    counts = {who: int(finite(model.get("layers")) or 0) for who, model in models.items()}
    rows = max(1, *counts.values())
    top = 5 * (SIZE + 5) + 18
    bottom = top + (rows + 1) * PITCH

    def height(who: str, place: float) -> float:
        return bottom - place * rows / max(1, counts[who]) * PITCH

    parts, told = [], []
    for own, other in enumerate(layers, start=1):
        if own <= counts["student"] and 0 <= other <= counts["teacher"]:
            parts += _learns(height("student", own), height("teacher", other))
            told.append(f"student layer {own} learns from teacher layer {other}")
    for learned, y, what in zip(ends, (bottom, top), ("embeddings", "answers"), strict=True):
        if learned:
            parts += _learns(y, y)
            told.append(f"the student's {what} learn from the teacher's")
    for who, model in models.items():
        parts += _column_head(who, model)
        for place in range(1, counts[who] + 1):
            parts += _box(COLUMNS[who], height(who, place), f"layer {place}")
        parts += _box(COLUMNS[who], bottom, "embeddings") + _box(COLUMNS[who], top, "answers")
    words = "; ".join(told) or "no layer learns from another"
    return picture(name, "Which layer learns from which", f"{words}.", bottom + 18, parts)


def _learns(own: float, other: float) -> list[str]:
    left, right = COLUMNS["student"] + BOX[0] / 2, COLUMNS["teacher"] - BOX[0] / 2
    head = f'<path d="M{left:.1f} {own:.1f}l8 -4v8z" class="f0"/>'
    return [stroke(left + 6, own, right, other, "curve s0"), head]


def _box(x: float, y: float, words: str) -> list[str]:
    corner = f'x="{x - BOX[0] / 2:.1f}" y="{y - BOX[1] / 2:.1f}"'
    shape = f'<rect {corner} width="{BOX[0]:g}" height="{BOX[1]:g}" rx="4" class="box"/>'
    return [shape, text(x, y + 4.5, words, "middle")]


def _column_head(who: str, model: Mapping[str, Any]) -> list[str]:
    """Name and sizes of a model, over its layers."""
    heads, width = finite(model.get("heads")), finite(model.get("width"))
    each = f" of {width / heads:g}" if heads and width else ""
    lines = [
        who,
        f"width {number(model.get('width'))}",
        f"{number(model.get('heads'))} heads{each}",
        f"feed-forward {number(model.get('feed_forward'))}",
    ]
    if model.get("name", who) != who:
        lines.append(str(model["name"]))
    room = 2 * COLUMNS["student"]
    return [
        text(COLUMNS[who], SIZE + row * (SIZE + 5), shortened(line, room), "middle",
             "" if row == 0 else "faint")
        for row, line in enumerate(lines)
    ]  # fmt: skip
