"""Pictures of a model at work, drawn with matplotlib (`pip install 'minibert[plot]'`).

A function `draw_…` draws on a figure what `minibert.picture_numbers` computes or a run has left;
`picture` turns that into the contents of a file. L layers · N heads · S tokens that ask · R tokens
that are asked; in a translation T pieces that were written ask S pieces that were read.
"""

import math
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minibert.writing import whole_file

if TYPE_CHECKING:
    from torch import Tensor

    from minibert.picture_numbers import Points, Schedules, Shares
    from minibert.training.agreement import Answers
    from minibert.training.curves import Curves
    from minibert.translator import Asked

# At least 3:1 on a white and on a dark page; dashes and markers tell lines apart without colour.
INK, BLUE, ORANGE, GREEN, ROSE = "#777b80", "#3d86c6", "#c8681e", "#2f9560", "#b8609f"
COLOURS = (BLUE, ORANGE, GREEN, ROSE, INK)
DASHES = ("-", "--", "-.", ":", (0, (7, 2)))
MARKERS = "os^Dv"
# Colours of the page and of the text on it. The transparent one suits white and dark pages alike.
GROUNDS = {
    "white": ("#ffffff", "#33383e"), "dark": ("#14171c", "#d5dae0"), "transparent": ("none", INK),
}  # fmt: skip
LABELLED = 6 * 24  # heads side by side times tokens: with more, a map of all heads has no words
# The tokens up to which the map of one head has its numbers, and its words.
NUMBERED, WORDED = 14, 144

WIDE = (8.8, 3.4)  # inches: two fields side by side

Draw = Callable[[Any], None]  # puts something on a figure


# --- Files -----------------------------------------------------------------------------------


def picture(
    draw: Draw, size: tuple[float, float], ending: str = ".svg", ground: str = "white"
) -> bytes:
    """A picture of this size in inches as the bytes of a file, .svg or .png; equal on every call.

    In an SVG text stays text, nothing external is referred to, and every `id` is used.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    page, ink = GROUNDS[ground]
    style: Any = {
        "svg.fonttype": "none", "svg.hashsalt": _name_of(draw), "font.family": "sans-serif",
        "font.size": 11, "axes.titlesize": 11, "lines.markersize": 4.5,
        "text.color": ink, "axes.labelcolor": ink, "axes.edgecolor": ink, "xtick.color": ink,
        "ytick.color": ink, "axes.spines.top": False, "axes.spines.right": False,
        "axes.facecolor": "none", "legend.frameon": False,
    }  # fmt: skip
    kind, file = ending.removeprefix("."), BytesIO()
    about = {"metadata": {"Date": None}} if kind == "svg" else {"dpi": 150}
    with rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a letter that the font lacks
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure)
        figure.savefig(file, format=kind, facecolor=page, edgecolor="none", **about)
    return _plain(file.getvalue().decode()).encode() if kind == "svg" else file.getvalue()


def _name_of(draw: Draw) -> str:
    """A salt that makes the ids of two pictures differ, so that one page can hold both."""
    return str(getattr(draw, "func", draw).__name__)


def _plain(svg: str) -> str:
    """The SVG without its metadata; the style shared by all elements moves to the root."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"\s*<(metadata|style)[ >].*?</\1>", "", svg, flags=re.DOTALL)
    svg = svg.replace("<svg", '<svg stroke-linejoin="round" stroke-linecap="butt"', 1)
    used = set(re.findall(r'#([\w.-]+)(?=[")])', svg))
    svg = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", svg)
    return re.sub(r"[ \t]+$", "", svg, flags=re.MULTILINE)


def literal(word: str) -> str:
    """A word as it is: text between two dollar signs would be read as a formula."""
    return word.replace("$", r"\$")


# --- Attention -------------------------------------------------------------------------------


def draw_cross_attention(figure: Any, asked: "Asked") -> None:
    """A field for each layer: the mean over its heads; a row for each piece that was written."""
    shares_LSR = asked.shares_LNSR.mean(1)
    fields = figure.subplots(1, len(shares_LSR), sharey=True, squeeze=False)[0]
    for layer, (axes, shares_SR) in enumerate(zip(fields, shares_LSR, strict=True), start=1):
        image = _map(axes, shares_SR, _largest(shares_LSR), asked.target, asked.source)
        axes.set_title(f"layer {layer}", fontsize=10)
    _scale(figure, image, fields, "share, mean over the heads")


def save_cross_attention(asked: "Asked", path: Path) -> None:
    """The same as a file, whose ending, .svg or .png, decides the format.

    Raises
        OSError  it cannot be written; what was there is untouched.
    """
    n_layers, _, n_written, n_read = asked.shares_LNSR.shape
    size = n_layers * (0.28 * n_read + 0.3) + 1.5, 0.28 * n_written + 1.8
    content = picture(partial(draw_cross_attention, asked=asked), size, path.suffix)
    with whole_file(path) as staged:
        staged.write_bytes(content)


def _map(
    axes: Any, shares_SR: "Tensor", largest: float, rows: Sequence[str], columns: Sequence[str]
) -> Any:
    """Shares as colours from 0 to the largest; a row for each token that asks, and their words."""
    axes.set_xticks(range(len(columns)), map(literal, columns), rotation=90, fontsize=8)
    axes.set_yticks(range(len(rows)), map(literal, rows), fontsize=8)
    axes.tick_params(length=0, pad=3)
    axes.spines[:].set_visible(False)
    return axes.imshow(
        shares_SR.numpy(), cmap="cividis", vmin=0, vmax=largest, interpolation="none"
    )


def _scale(figure: Any, image: Any, fields: Any, words: str) -> None:
    """Which colour is which number, on the right of the fields."""
    bar = figure.colorbar(image, ax=fields, shrink=0.6, aspect=25, pad=0.02)
    bar.set_label(words, size=9)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)


def _largest(maps: Iterable["Tensor"]) -> float:
    """Where the scale of colours ends: the largest share, up to a tenth."""
    return math.ceil(max(float(shares.max()) for shares in maps) * 10 - 1e-6) / 10


def words_fit(shares: "Shares") -> bool:
    """Whether there is room for the tokens at the edge of a map of all heads."""
    return max(map(len, shares.maps)) * len(shares.tokens) <= LABELLED


def size_of_heads(shares: "Shares") -> tuple[float, float]:
    """In inches: a token has a line of 8 points where there are words."""
    words = words_fit(shares)
    field = max(1.2, 0.15 * len(shares.tokens)) if words else 0.85
    margin = 1.6 if words else 1.0
    columns, rows = max(map(len, shares.maps)), len(shares.maps)
    return columns * (field + 0.12) + margin + 0.4, rows * (field + 0.12) + margin


def draw_heads(figure: Any, shares: "Shares") -> None:
    """Every head of the layers as a small field; heads side by side, layers one below the other."""
    words = words_fit(shares)
    columns, largest = max(map(len, shares.maps)), _largest(shares.maps)
    grid = figure.subplots(len(shares.maps), columns, squeeze=False)
    for row, (layer, maps_NSR) in enumerate(zip(shares.layers, shares.maps, strict=True)):
        for axes in grid[row, len(maps_NSR) :]:  # of a layer that lost heads
            axes.set_axis_off()
        for column, shares_SR in enumerate(maps_NSR):
            axes = grid[row, column]
            left = column == 0
            bottom = all(len(below_NSR) <= column for below_NSR in shares.maps[row + 1 :])
            tokens = shares.tokens if words else []
            image = _map(
                axes, shares_SR, largest, tokens if left else [], tokens if bottom else []
            )
            if row == 0:
                axes.set_title(f"head {column + 1}", fontsize=9)
            if left:
                axes.set_ylabel(f"layer {layer}", fontsize=9)
    _scale(figure, image, grid, "share")
    figure.supxlabel("token that is asked", fontsize=9)
    figure.supylabel("token that asks", fontsize=9)


def size_of_head(shares: "Shares") -> tuple[float, float]:
    """In inches: a token has a line of 8 points, and as much again where there are numbers."""
    n_tokens = len(shares.tokens)
    field = max(2.5, (0.36 if n_tokens <= NUMBERED else 0.15) * min(n_tokens, WORDED))
    return field + 2.0, field + 1.2


def draw_head(figure: Any, shares: "Shares", head: int) -> None:
    """One head, counted from 1, of the first of the layers: a large field, with numbers."""
    axes, shares_SR = figure.subplots(), shares.maps[0][head - 1]
    words = shares.tokens if len(shares.tokens) <= WORDED else []
    image = _map(axes, shares_SR, _largest([shares_SR]), words, words)
    axes.set_title(f"layer {shares.layers[0]}, head {head}")
    axes.set_xlabel("token that is asked")
    axes.set_ylabel("token that asks")
    if len(shares.tokens) <= NUMBERED:
        for s, row in enumerate(shares_SR.tolist()):
            for r, share in enumerate(row):
                colour = "white" if share < image.norm.vmax / 2 else "black"
                axes.text(r, s, f"{share:.2f}", fontsize=7, ha="center", va="center", color=colour)
    _scale(figure, image, axes, "share")


# --- Words -----------------------------------------------------------------------------------


def draw_points(figure: Any, points: "Points") -> None:
    """Each word at its place, in the colour and with the marker of its group."""
    axes = figure.subplots()
    for number, (group, words) in enumerate(points.groups.items()):
        style = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}
        axes.plot(*zip(*words.values(), strict=True), linestyle="", label=group, **style)
    axes.margins(0.12)
    for number, share in enumerate(points.variance):
        name = f"{('first', 'second')[number]} axis, {share:.1%} of the variance"
        (axes.set_xlabel, axes.set_ylabel)[number](name)
    if len(points.groups) > 1:
        figure.legend(loc="outside upper center", ncols=len(points.groups), fontsize=9)
    figure.draw_without_rendering()  # now it is known where a point will be
    _name_points(axes, points)


def _name_points(axes: Any, points: "Points") -> None:
    """Each word at the freest place near its point, the closest one; a far one has a line."""
    places = {
        word: (place, axes.transData.transform(place) * 72 / axes.figure.dpi)
        for words in points.groups.values()
        for word, place in words.items()
    }
    taken = [(x - 4, y - 4, x + 4, y + 4) for _, (x, y) in places.values()]
    for word, (place, (x, y)) in places.items():
        width, height = 5 * len(word), 9  # about, for letters of 8 points
        near = []
        for distance in (6, 15, 26, 38):
            for eighth in (0, 4, 2, 6, 1, 3, 5, 7):
                turn = math.cos(eighth * math.pi / 4), math.sin(eighth * math.pi / 4)
                # the middle of the word, so far away that its box begins at this distance
                dx, dy = turn[0] * (distance + width / 2), turn[1] * (distance + height / 2)
                near.append((dx, dy, distance))
        boxes = [
            (x + dx - width / 2, y + dy - height / 2, x + dx + width / 2, y + dy + height / 2)
            for dx, dy, _ in near
        ]
        best = min(range(len(near)), key=lambda n: sum(_shared(boxes[n], box) for box in taken))
        taken.append(boxes[best])
        dx, dy, distance = near[best]
        line = {"arrowstyle": "-", "color": INK, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3}
        _note(axes, literal(word), place, (dx, dy), fontsize=8, ha="center", va="center",
               arrowprops=line if distance > 6 else None)  # fmt: skip


def _shared(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """The area that two boxes (left, bottom, right, top) have in common."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)


# --- Training --------------------------------------------------------------------------------


def draw_schedules(figure: Any, schedules: "Schedules") -> None:
    """The factor of the learning rate at each step, one line a schedule."""
    axes = figure.subplots()
    for number, (name, factors) in enumerate(schedules.factors.items()):
        axes.plot(schedules.steps, factors, label=name, **_style(number))
    axes.set_xlabel("step")
    axes.set_ylabel("share of the learning rate")
    axes.set_ylim(0, 1.05)
    axes.axvline(schedules.warmup, color=INK, linewidth=0.8, linestyle=":")
    _note(axes, "end of warm-up", (schedules.warmup, 0.02), (4, 0))
    figure.legend(loc="outside right center", fontsize=9)


def draw_adam(figure: Any, plain: Sequence[float], corrected: Sequence[float]) -> None:
    """How long Adam's steps are without bias correction and with it, and what a warm-up does."""
    left, right = figure.subplots(1, 2)
    steps = range(1, len(plain) + 1)
    left.plot(steps, plain, color=ORANGE, label="without correction")
    left.plot(steps, corrected, color=BLUE, linestyle="--", label="with correction")
    worst = max(steps, key=lambda step: plain[step - 1])
    left.plot([worst], [plain[worst - 1]], "o", color=ORANGE)
    said = f"{plain[worst - 1]:.2f} at step {worst}"
    _note(left, said, (worst, plain[worst - 1]), (0, 6), ha="center")
    left.set_title("the learning rate stays")
    left.set_ylabel("length of a step, in learning rates")
    for warmup, dash in ((34, "-"), (1000, "-.")):
        rates = [min(1, t / warmup) for t in steps]
        lengths = [rate * length for rate, length in zip(rates, plain, strict=True)]
        right.plot(steps, lengths, dash, color=ORANGE, label=f"without, warm-up {warmup}")
    right.plot(steps, [min(1, t / 34) for t in steps], "--", color=BLUE, label="with, warm-up 34")
    right.set_title("the learning rate rises, then stays")
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xlabel("step")
        axes.set_ylim(0, 7.6)
        axes.legend(fontsize=9, loc="upper right" if axes is left else "best")


def draw_curves(figure: Any, curves: "Curves") -> None:
    """Weighted loss terms, one stage after the other; beside them the scores on the dev set."""
    fields = [curves.terms, curves.dev] if curves.dev else [curves.terms]
    grid = figure.subplots(1, len(fields), squeeze=False)[0]
    for axes, lines in zip(grid, fields, strict=True):
        for number, (name, line) in enumerate(lines.items()):
            axes.plot(*zip(*line, strict=True), **_style(number),
                      label=literal(name.replace("_", " ")),
                      marker=MARKERS[number % len(MARKERS)])  # fmt: skip
        _stages(axes, curves.starts)
        axes.set_xlabel("step")
        axes.legend(fontsize=9)
    values = [value for line in curves.terms.values() for _, value in line]
    if min(values) > 0 and max(values) > 10 * min(values):
        grid[0].set_yscale("log")
    grid[0].set_title("loss, each term times its weight", pad=18)
    if curves.dev:
        grid[1].set_title("on the dev set", pad=18)
        _ring_the_best(grid[1], next(iter(curves.dev.values())))


def _stages(axes: Any, starts: Mapping[str, int]) -> None:
    """Where each stage begins, and above it its name."""
    axes.set_xlim(left=0)
    for name, step in starts.items():
        if step:
            axes.axvline(step, color=INK, linewidth=0.8, linestyle=":")
        _note(axes, literal(name), (step, 1.01), (2, 1), xycoords=("data", "axes fraction"))


def _style(number: int) -> dict[str, Any]:
    """The colour and the dashes of a line."""
    return {"color": COLOURS[number % len(COLOURS)], "linestyle": DASHES[number % len(DASHES)]}


def _note(axes: Any, words: str, place: Any, shift: tuple[float, float], **style: Any) -> None:
    """Words at an offset, in points, from a place."""
    axes.annotate(words, place, shift, textcoords="offset points", **{"fontsize": 9, **style})


def _ring_the_best(axes: Any, line: Sequence[tuple[int, float]]) -> None:
    """A ring around the highest point, and its number above it, where its line never is."""
    axes.margins(y=0.16)
    step, score = max(line, key=lambda point: point[1])
    axes.plot([step], [score], "o", markersize=11, fillstyle="none", color=INK)
    _note(axes, f"best {score:.4f}", (step, score), (0, 9), ha="center")


# --- Student and teacher ---------------------------------------------------------------------


def draw_answers(figure: Any, answers: "Answers") -> None:
    """The student's answer to each text against the teacher's; larger where several meet.

    Each corner shows its number of texts: a yes of both models, of one alone, or of neither.
    """
    axes = figure.subplots()
    for same, name, style in (
        (True, "they agree", {"color": BLUE, "marker": "o"}),
        (False, "they do not", {"color": ORANGE, "marker": "s"}),
    ):
        spots = answers.spots(same)
        areas = [14 * count**0.5 for count in spots.values()]
        if spots:
            axes.scatter(*zip(*spots, strict=True), s=areas, alpha=0.75, linewidths=0, label=name,
                         **style)  # fmt: skip
    low, high = answers.span
    room = 0.06 * (high - low)
    axes.plot([low, high], [low, high], color=INK, linewidth=0.8)
    axes.set_xlim(low - room, high + room)
    axes.set_ylim(low - room, high + room)
    axes.set_aspect("equal")
    if answers.cut is not None:
        for line in (axes.axvline, axes.axhline):
            line(answers.cut, color=INK, linewidth=0.8, linestyle=":")
    for (right, top), (count, words) in answers.corners.items():
        edge = 0.37 if right == top else 0.25  # how far from it; clear of the diagonal
        place = (0.75 if right else 0.25, 1 - edge if top else edge)
        _note(axes, f"{count:,}\n{literal(words)}", place, (0, 0), xycoords="axes fraction",
               ha="center", va="center")  # fmt: skip
    axes.set_xlabel(f"teacher: {literal(answers.what)}")
    axes.set_ylabel(f"student: {literal(answers.what)}")
    legend = figure.legend(loc="outside upper center", ncols=2, fontsize=9)
    for handle in legend.legend_handles:
        handle.set_sizes([30])
