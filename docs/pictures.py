"""Draw the pictures of the chapters and of `plots.md`.

Those of the chapters show what functions of the book compute; those of `plots.md` are drawn by the
commands on that page.

    python docs/pictures.py                 writes all SVG files that need no model to docs/pictures
    python docs/pictures.py --runs DIR      those of plots.md too; DIR/runs/distill is the demo

This needs `pip install 'minibert[docs]'` and takes 20 seconds. Each experiment is a separate
function, so that the chapters can use its numbers.
"""

import math
import os
import re
import shlex
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from minibert.attention import attention_probabilities, causal_bias, multi_head_attention
from minibert.cli import cli
from minibert.config import BertConfig
from minibert.encoder import block, feed_forward
from minibert.functional import layer_norm, linear, softmax
from minibert.losses import cross_entropy, soft_cross_entropy
from minibert.optim import adam_form, adam_step, initial_adam_state, linear_schedule
from minibert.parameters import (
    BlockWeights,
    initial_weights,
    named_tensors,
    weight_shapes,
    with_tensors,
)
from minibert.picture_numbers import adam_lengths, schedules_over, step_lengths
from minibert.pictures import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    WIDE,
    draw_adam,
    draw_schedules,
    picture,
)

# ------------------------------------------------------------------------------- experiments


def largest_share(width: int, divisor: float, n_keys: int = 32, n_queries: int = 500) -> float:
    """The largest of a query's attention probabilities, on average, for random queries and keys."""
    generator = torch.Generator().manual_seed(width)
    query_SK = torch.randn(n_queries, width, generator=generator)
    key_RK = torch.randn(n_keys, width, generator=generator)
    return softmax(query_SK @ key_RK.T / divisor).amax(-1).mean().item()


def post_norm(x_BSD: Tensor, bias: Tensor, layer: BlockWeights, config: BertConfig) -> Tensor:
    """The book's own block."""
    return block(x_BSD, bias, layer, config).hidden_BSD


def pre_norm(x_BSD: Tensor, bias: Tensor, layer: BlockWeights, config: BertConfig) -> Tensor:
    """The other order: normalise the input of each sublayer, and add its output as it is."""
    heads, eps = config.num_attention_heads, config.layer_norm_eps
    y_BSD = layer_norm(x_BSD, *layer.attention_norm, eps)
    x_BSD = x_BSD + multi_head_attention(y_BSD, y_BSD, bias, layer.attention, heads).output_BSD
    y_BSD = layer_norm(x_BSD, *layer.output_norm, eps)
    return x_BSD + feed_forward(y_BSD, layer, config.hidden_act)


def sizes_by_layer(one_block: Callable[..., Tensor]) -> tuple[list[float], list[float]]:
    """Twelve untrained layers: the size of each state, and of each layer's gradient.

    A size of 1 is that of a normalised vector. The weights have a standard deviation of 0.88/√D, so
    that a map nearly preserves the size of its input; the loss is the projection of the last state
    onto a random direction.
    """
    config = BertConfig(vocab_size=1, hidden_size=64, num_attention_heads=4, intermediate_size=256)
    generator = torch.Generator().manual_seed(0)
    weights = initial_weights(weight_shapes(config), 1 / math.sqrt(64), generator)
    weights = with_tensors(
        weights, {name: tensor.requires_grad_() for name, tensor in named_tensors(weights)}
    )
    one_D, zero_D = torch.ones(64), torch.zeros(64)
    x_BSD = layer_norm(torch.randn(8, 16, 64, generator=generator), one_D, zero_D, 1e-12)
    sizes = [1.0]
    for layer in weights.blocks:
        x_BSD = one_block(x_BSD, torch.zeros(1, 1, 1, 16), layer, config)
        sizes.append(x_BSD.detach().square().mean().sqrt().item())
    last_BSD = layer_norm(x_BSD, one_D, zero_D, 1e-12)  # ends pre-norm; for post-norm a no-op
    (last_BSD * torch.randn(last_BSD.shape, generator=generator)).sum().backward()
    return sizes, [layer.output.weight_OI.grad.norm().item() for layer in weights.blocks]


def normed_size(deviation: float, eps: float) -> float:
    """The standard deviation of LayerNorm's output for an input of this deviation."""
    x_D = torch.tensor([-deviation, deviation], dtype=torch.float64)
    return layer_norm(x_D, torch.ones(2), torch.zeros(2), eps)[1].item()


@cache
def agreement(n_texts: int, soft: bool, n_teachers: int = 3) -> float:
    """How often a student that saw n texts makes its teacher's choice on unseen texts.

    A text is 20 random numbers, the teacher a random linear map to 4 classes, the student one that
    starts from zeros. It learns the teacher's choice, or all of the teacher's probabilities.
    """
    shares = []
    for seed in range(n_teachers):
        generator = torch.Generator().manual_seed(seed)
        teacher_CI = torch.randn(4, 20, generator=generator) / math.sqrt(5)
        seen_BI = torch.randn(n_texts, 20, generator=generator)
        unseen_BI = torch.randn(4000, 20, generator=generator)
        zero_C, student_CI = torch.zeros(4), torch.zeros(4, 20)
        told_BC = linear(seen_BI, teacher_CI, zero_C)
        state, options = initial_adam_state(student_CI), adam_form("kingma")
        for step in range(150):
            student_CI.requires_grad_()
            said_BC = linear(seen_BI, student_CI, zero_C)
            loss = (soft_cross_entropy(told_BC, said_BC).mean() if soft
                    else cross_entropy(said_BC, told_BC.argmax(-1)))
            (gradient_CI,) = torch.autograd.grad(loss, student_CI)
            rate = 0.1 * linear_schedule(step, 0, 150)
            student_CI, state = adam_step(student_CI.detach(), gradient_CI, state, rate, options)
        same_B = (unseen_BI @ student_CI.T).argmax(-1) == (unseen_BI @ teacher_CI.T).argmax(-1)
        shares.append(same_B.float().mean().item())
    return sum(shares) / len(shares)


# ----------------------------------------------------------------------------------- pictures


def draw_root_k(left, right) -> None:
    widths = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]
    for axes, what, divisor in (
        (left, "scores as they are", lambda width: 1.0),
        (right, "scores / √K", math.sqrt),
    ):
        shares = [largest_share(width, divisor(width)) for width in widths]
        axes.plot(widths, shares, color=ORANGE if axes is left else BLUE, marker="o")
        axes.axhline(1 / 32, color=INK, linestyle=":")
        axes.set_title(what)
        axes.set_xscale("log", base=2)
        axes.set_xticks([1, 8, 64, 1024], ["1", "8", "64", "1024"])
        axes.set_xlabel("width K of a head")
        axes.set_ylim(0, 1)
        axes.text(1, 0.045, "1/32, an even spread", fontsize=9)
    left.set_ylabel("largest probability among 32 keys")


def draw_post_norm(left, right) -> None:
    for one_block, name, colour, marker in (
        (post_norm, "post-norm", BLUE, "o"),
        (pre_norm, "pre-norm", ORANGE, "s"),
    ):
        sizes, gradients = sizes_by_layer(one_block)
        left.plot(range(13), sizes, color=colour, marker=marker, label=name)
        right.plot(range(1, 13), gradients, color=colour, marker=marker, label=name)
    left.set_title("size of the state after each layer")
    right.set_title("size of the gradient of each layer")
    right.set_ylim(0)
    left.set_ylim(0)
    for axes in (left, right):
        axes.set_xlabel("layer")
        axes.set_xticks([0, 4, 8, 12])
        axes.legend(frameon=False)


def draw_eps(left, right) -> None:
    places = [10 ** (power / 4) for power in range(-36, 5)]
    for eps, colour, dash in ((1e-12, BLUE, "-"), (1e-5, ORANGE, "--")):
        sizes = [normed_size(place, eps) for place in places]
        left.plot(places, sizes, dash, color=colour, label=f"eps = {eps:g}")
    for eps, colour, dash in ((1e-8, BLUE, "-"), (1e-6, ORANGE, "--")):
        first = [step_lengths(1, "kingma", place, eps)[0] for place in places]
        right.plot(places, first, dash, color=colour, label=f"eps = {eps:g}")
    left.set_title("LayerNorm: deviation of the result")
    left.set_xlabel("deviation of the input")
    right.set_title("Adam: length of the first step")
    right.set_xlabel("size of the gradient")
    right.set_ylabel("learning rates")
    for axes in (left, right):
        axes.set_xscale("log")
        axes.legend(frameon=False, loc="lower right")


def draw_distillation(left, right) -> None:
    logits = torch.tensor([4.0, 2.0, -1.0])
    for n, (temperature, colour) in enumerate(((1, BLUE), (2, GREEN), (4, ORANGE))):
        places = [place + 0.27 * (n - 1) for place in range(3)]
        shares = softmax(logits / temperature).tolist()
        left.bar(places, shares, 0.25, color=colour, label=f"T = {temperature}")
    left.set_title("one answer of a teacher")
    left.set_xticks(range(3), ["class 1", "class 2", "class 3"])
    left.set_ylabel("probability")
    left.legend(frameon=False)
    counts = [5, 10, 20, 40, 80, 160]
    for soft, name, colour, marker in (
        (True, "all its probabilities", BLUE, "o"),
        (False, "its choice", ORANGE, "s"),
    ):
        shares = [agreement(count, soft) for count in counts]
        right.plot(counts, shares, color=colour, marker=marker, label=name)
    right.set_title("student and teacher agree")
    right.set_xscale("log")
    right.set_xticks(counts, [str(count) for count in counts])
    right.minorticks_off()
    right.set_xlabel("texts seen")
    right.set_ylim(0, 1.05)
    right.legend(frameon=False, loc="lower right")


def draw_mask(left, right) -> None:
    generator = torch.Generator().manual_seed(1)
    scores_BNSR = torch.randn(1, 1, 8, 8, generator=generator)
    shares_SR = attention_probabilities(scores_BNSR, causal_bias(8, 8))[0, 0]
    for s, row in enumerate(shares_SR.tolist()):
        for r, share in enumerate(row[: s + 1]):
            corners = [r, r + 1, r + 1, r], [s, s, s + 1, s + 1]
            left.fill(*corners, color=BLUE, alpha=0.05 + 0.6 * share)
            number = f"{share:.2f}"[1:] if share < 1 else "1"
            left.text(r + 0.5, s + 0.5, number, fontsize=8, ha="center", va="center")
    left.set_xlim(0, 8)
    left.set_ylim(0, 8)
    left.invert_yaxis()
    left.set_aspect("equal")
    left.set_title("whom each word may ask")
    left.set_xlabel("word that is asked")
    left.set_ylabel("word that asks")
    left.set_xticks([n + 0.5 for n in range(8)], range(1, 9))
    left.set_yticks([n + 0.5 for n in range(8)], range(1, 9))
    lengths = range(1, 65)
    right.plot(lengths, [n * (n + 1) / 2 for n in lengths], color=ORANGE, label="without a memory")
    right.plot(lengths, lengths, "--", color=BLUE, label="with keys and values kept")
    right.set_title("words put through the layers")
    right.set_xlabel("words written")
    right.legend(frameon=False)


def adam(figure) -> None:
    lengths = adam_lengths()
    draw_adam(figure, lengths["google"], lengths["kingma"])


def schedules(figure) -> None:
    draw_schedules(figure, schedules_over(1000, 0.1))


CHAPTERS = {
    "root-k": draw_root_k,
    "post-norm": draw_post_norm,
    "eps": draw_eps,
    "distillation": draw_distillation,
    "mask": draw_mask,
}
PLOTS = {"adam": adam, "schedules": schedules}  # those of `minibert plot` that need no model


def svg_of(name: str) -> str:
    """One picture as SVG, the same on every call; text stays text, no outside references."""

    def draw(figure) -> None:
        if name in PLOTS:
            PLOTS[name](figure)
        else:
            CHAPTERS[name](*figure.subplots(1, 2))

    draw.__name__ = name
    return picture(draw, WIDE, ground="transparent").decode()


def commands() -> list[list[str]]:
    """The calls of `minibert plot` in plots.md, as lists of words."""
    text = (Path(__file__).parent / "plots.md").read_text(encoding="utf-8")
    return [shlex.split(line) for line in re.findall(r"^minibert (plot .*)$", text, re.MULTILINE)]


def main(folder: Path, runs: Path | None) -> None:
    torch.set_num_threads(1)  # small tensors gain nothing from more
    for name in (*CHAPTERS, *PLOTS):
        (folder / f"{name}.svg").write_text(svg_of(name), encoding="utf-8")
    if runs is not None:
        os.chdir(runs)
        for *words, option, name in commands():
            assert option == "-o"
            if Path(name).stem not in PLOTS:
                more = ["-o", str(folder / name), "--ground", "transparent"]
                cli.main([*words, *more], standalone_mode=False)


if __name__ == "__main__":
    given = sys.argv[2] if sys.argv[1:2] == ["--runs"] else None
    main(Path(__file__).resolve().parent / "pictures", given and Path(given))
