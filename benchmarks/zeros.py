"""How much speed zeros gain on a CPU, and how much removed heads and units do.

    python benchmarks/zeros.py [--model MINILM --data SST2] [--rounds N] [--threads N] [--out DIR]

Two models run over SST-2's dev set, or random sentences of similar lengths, sorted by length in
batches of 32 as in minibert's commands: one of MiniLM's shape (6x384; with --model, its weights),
and one of a student's (4x128, random weights). Each is timed as it is, and with

- zeros anywhere in the linear maps of its blocks, the smallest weights of each: with the same dense
  kernels, and with the maps as torch's CSR matrices, the other kernels as before;
- heads, feed-forward units, or both removed, equally many in every layer: smaller maps, dense
  kernels.

Then a single map, 384 to 1536: dense, and in the sparse formats CSR and COO, whose result lies
transposed in memory. The share from which a format wins is interpolated between those measured.

Before anything is timed, its answer is compared with that of the book in float64, which computes
with all weights, including the zeros; an error over its bound ends the run. The variants of a table
are timed in interleaved rounds; medians count. With --cpu-time, seconds are CPU time of this
process, so that on a busy machine, with one thread, other programs do not count. Prints Markdown
and writes zeros.json.
"""

import argparse
import functools
import itertools
import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from minibert.bench.accuracy import book_answer, bound_of, error_of
from minibert.bench.cases import MINILM, STUDENT, Case, Choices, Work, work_of
from minibert.bench.engines import Forward, Model, encoder_of, kernels, passes
from minibert.bench.inputs import Sentences, Tokens, tokens_of
from minibert.bench.turns import spread, timed
from minibert.cli.machine import keep_memory
from minibert.data.batches import sorted_order
from minibert.functional import linear
from minibert.kernels.attention import attention
from minibert.kernels.encoder import FusedBlock, embedded, fused, layer_norm
from minibert.kernels.packing import Packing, packed, unpacked
from minibert.kernels.products import pack, packed_linear
from minibert.parameters import LinearWeights, named_tensors, with_tensors
from minibert.pruned import without_idle
from minibert.sparsity import keep_largest, keep_n_of_m
from minibert.training.sparse import is_pruned, zeros_of

TURN = 0.1  # seconds that a call is repeated in each round, if it is shorter
FEW = 2  # times the bound of `minibert bench`: over few numbers, the largest error varies
DEV = Sentences(872, 32, split="dev")
CASES = (Case("6x384", "", MINILM, DEV, pretrained=True), Case("4x128", "", STUDENT, DEV))
ZEROS = (0.5, 0.8, 0.95)
REMOVED = (0.25, 0.5, 0.75)
MAP = (384, 1536)
MAP_TOKENS = (256, 4096)
MAP_ZEROS = (0.5, 0.8, 0.9, 0.95, 0.99, 0.995)
FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "CSR": Tensor.to_sparse_csr,
    "COO": Tensor.to_sparse_coo,
}


class Variant(NamedTuple):
    """What is timed, and the same model with its zeros kept, for the book to compute."""

    work: Work
    model: Model
    zeroed: Work


def with_zeros(work: Work, share: float) -> Work:
    """Set this share of the weights of every map of a block to 0: the smallest."""
    maps = {name: x for name, x in named_tensors(work.weights) if is_pruned(name)}
    zeroed = {name: x * keep_largest(x.abs(), share) for name, x in maps.items()}
    tensors = dict(named_tensors(work.weights)) | zeroed
    return work._replace(weights=with_tensors(work.weights, tensors))


def without_parts(work: Work, heads: float, units: float) -> Work:
    """Make these shares of the heads and feed-forward units of every layer add nothing."""
    n_heads, n_units = work.config.num_attention_heads, work.config.intermediate_size
    blocks = []
    for block in work.weights.blocks:
        output = closed(block.attention.output, n_heads, heads)
        attention = block.attention._replace(output=output)
        second = closed(block.output, n_units, units)
        blocks.append(block._replace(attention=attention, output=second))
    return work._replace(weights=work.weights._replace(blocks=tuple(blocks)))


def closed(part: LinearWeights, n_groups: int, share: float) -> LinearWeights:
    """A map with this share of its groups of inputs set to 0, those with the smallest weights."""
    parts_OGK = part.weight_OI.unflatten(1, (n_groups, -1))
    keep_G = keep_largest(parts_OGK.square().sum((0, 2)), share)
    return part._replace(weight_OI=(parts_OGK * keep_G[:, None]).flatten(1))


def variants_of(work: Work) -> dict[str, Variant]:
    """All variants; heads only if the share of them is a whole number."""
    found = {"dense": Variant(work, kernels, work)}
    zeroed_by = {share: with_zeros(work, share) for share in ZEROS}
    for way, model in (("dense kernels", kernels), ("CSR", sparse_kernels)):
        for share, zeroed in zeroed_by.items():
            found[f"{share:.0%} zeros, {way}"] = Variant(zeroed, model, zeroed)
    for what, heads, units in (("heads", 1, 0), ("units", 0, 1), ("heads and units", 1, 1)):
        for share in REMOVED:
            if not heads or (share * work.config.num_attention_heads).is_integer():
                zeroed = without_parts(work, heads * share, units * share)
                weights, config = without_idle(zeroed.weights, work.config)
                smaller = zeroed._replace(weights=weights, config=config)
                found[f"{share:.0%} of {what} removed"] = Variant(smaller, kernels, zeroed)
    return found


def sparse_linear(x_TI: Tensor, weights: LinearWeights) -> Tensor:
    """x Wᵀ + b with sparse W: torch's sparse products take and return tokens in columns."""
    return torch.addmm(weights.bias_O[:, None], weights.weight_OI, x_TI.T).T


def stored_as(form: str, part: LinearWeights) -> LinearWeights:
    """A map whose matrix is stored in a sparse format."""
    return part._replace(weight_OI=FORMS[form](part.weight_OI))


def sparse_kernels(work: Work) -> tuple[Forward, str]:
    """minibert's kernels with sparse products in place of dense ones."""
    weights = encoder_of(work.weights)
    blocks = [
        FusedBlock._make(
            stored_as("CSR", part) if isinstance(part, LinearWeights) else part
            for part in fused(block)
        )
        for block in weights.blocks
    ]

    def forward(batch: Tokens) -> Tensor:
        packing = packed(batch.keep_BS, torch.float32)
        x_TD = embedded(batch.ids_BS, batch.types_BS, packing, weights, work.config, None)
        for block in blocks:
            x_TD = sparse_block(x_TD, packing, block, work)
        return unpacked(x_TD, packing)

    return forward, "CSR"


def sparse_block(x_TD: Tensor, packing: Packing, block: Any, work: Work) -> Tensor:
    """One block of `minibert.kernels.encoder`; each map of the block is sparse."""
    qkv_T3D = sparse_linear(x_TD, block.qkv).contiguous()
    context_TD = attention(qkv_T3D, packing, work.config.num_attention_heads, 0.0, None)
    attended_TD = x_TD + sparse_linear(context_TD, block.output)
    attended_TD = layer_norm(attended_TD, block.attention_norm, work.config)
    inner_TF = F.gelu(sparse_linear(attended_TD, block.intermediate))
    output_TD = attended_TD + sparse_linear(inner_TF, block.feed_forward_output)
    return layer_norm(output_TD, block.output_norm, work.config)


def said_of_two_of_four() -> str:
    """What torch answers on a CPU when asked for its own 2:4 format, 2 zeros in every 4."""
    weight_OI = torch.randn(64, 64)
    try:
        torch.sparse.to_sparse_semi_structured(weight_OI * keep_n_of_m(weight_OI.abs(), 2, 4))
    except (RuntimeError, NotImplementedError) as problem:
        return str(problem)
    return "it is offered"


def work_for(case: Case, args: argparse.Namespace) -> Work:
    """Weights and sentences, in batches from the shortest to the longest."""
    case = case._replace(sentences=case.sentences._replace(number=args.sentences))
    choices = Choices(args.threads, data=args.data, model=args.model)
    work = work_of(case, choices, Path(tempfile.gettempdir()))
    lengths = [len(encoding.ids) for encoding in work.encodings]
    rows = sorted_order(lengths, case.sentences.batch)
    return work._replace(rows=rows, batches=[tokens_of(work.encodings, one) for one in rows])


def checked(name: str, variant: Variant, case: Case) -> float:
    """The largest error on some sentences of short and long batches."""
    rows = variant.work.rows[:: max(1, len(variant.work.rows) // 3)]
    batches = [tokens_of(variant.work.encodings, batch[::8]) for batch in rows]
    zeroed = variant.zeroed._replace(batches=batches)
    exact = book_answer(case, zeroed, torch.float64)
    answer = passes(variant.model)(variant.work._replace(batches=batches)).answer()
    error = error_of(answer, exact, "forward")
    return within(FEW * bound_of(case, zeroed, exact), error, f"{case.name}, {name}")


def within(bound: float, error: float, name: str) -> float:
    """The error, if it is within its bound, which NaN never is; else end the run."""
    if not error <= bound:
        raise SystemExit(f"{name}: the error is {error:.1e}, but the bound {bound:.1e}")
    return error


def compared(
    runs: Mapping[str, Callable[[], Any]], args: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """Median and quartiles in seconds, and how many times faster than the first."""
    clock = time.process_time if args.cpu_time else time.perf_counter
    found = {name: spread(times) for name, times in timed(runs, args.rounds, TURN, clock).items()}
    first = found[next(iter(runs))][1]
    return {
        name: {"seconds": median, "quartiles": [lower, upper], "faster": first / median}
        for name, (lower, median, upper) in found.items()
    }


def measured_model(case: Case, args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """For each variant: share of the maps' weights left, error, seconds and speed-up."""
    variants = variants_of(work_for(case, args))
    errors = {name: checked(name, variant, case) for name, variant in variants.items()}
    counts = {name: zeros_of(variant.work.weights) for name, variant in variants.items()}
    left = {name: weights - zeros for name, (zeros, weights) in counts.items()}
    runs = {name: passes(variant.model)(variant.work).run for name, variant in variants.items()}
    return {
        name: {"left": left[name] / left["dense"], "error": errors[name], **row}
        for name, row in compared(runs, args).items()
    }


def measured_map(tokens: int, args: argparse.Namespace) -> dict[str, Any]:
    """A single map, dense and in both sparse formats at each share of zeros."""
    generator = torch.Generator().manual_seed(0)
    x_TI = torch.randn(tokens, MAP[0], generator=generator)
    weight_OI = torch.randn(*MAP[::-1], generator=generator)
    bias_O = torch.randn(MAP[1], generator=generator)
    plain = LinearWeights(weight_OI, bias_O)
    runs: dict[str, Callable[[], Tensor]] = {
        "dense": functools.partial(packed_linear, x_TI, pack(plain))
    }
    errors = [map_error(runs["dense"], x_TI, plain)]
    for share in MAP_ZEROS:
        zeroed = LinearWeights(weight_OI * keep_largest(weight_OI.abs(), share), bias_O)
        for form in FORMS:
            run = functools.partial(sparse_linear, x_TI, stored_as(form, zeroed))
            errors.append(map_error(run, x_TI, zeroed))
            runs[f"{form} {share}"] = run
    rows = compared(runs, args)
    gains = {form: [rows[f"{form} {share}"]["faster"] for share in MAP_ZEROS] for form in FORMS}
    wins = {form: wins_from(MAP_ZEROS, gains[form]) for form in FORMS}
    return {"rows": rows, "error": max(errors), "wins from": wins}


def map_error(run: Callable[[], Tensor], x_TI: Tensor, weights: LinearWeights) -> float:
    """The largest error of one map, if it is within the bound that the kernels promise."""
    x_TI, weight_OI, bias_O = x_TI.double(), weights.weight_OI.double(), weights.bias_O.double()
    size_TO = linear(x_TI.abs(), weight_OI.abs(), bias_O.abs())
    bound = (x_TI.shape[1] + 1) * torch.finfo(torch.float32).eps * float(size_TO.max())
    error = error_of(run(), linear(x_TI, weight_OI, bias_O), "forward")
    return within(bound, error, "one map")


def wins_from(shares: Sequence[float], faster: Sequence[float]) -> float | None:
    """The share of zeros from which a format is faster than dense; None if it never is.

    Between two shares its time is interpolated linearly.

    >>> wins_from([0.5, 1.0], [0.5, 2.0]), wins_from([0.5], [1.5]), wins_from([0.5], [0.9])
    (0.8333333333333334, 0.5, None)
    """
    if faster[-1] < 1:
        return None
    pairs = list(itertools.pairwise(zip(shares, faster, strict=True)))
    for (low, before), (high, after) in reversed(pairs):
        if before < 1:
            slow, fast = 1 / before, 1 / after
            return low + (high - low) * (slow - 1) / (slow - fast)
    return shares[0]


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """The document of all measurements."""
    return {
        **{key: getattr(args, key) for key in ("threads", "rounds", "sentences", "cpu_time")},
        "torch": torch.__version__,
        "weights": "given" if args.model else "random",
        "2:4": said_of_two_of_four(),
        "models": {case.name: measured_model(case, args) for case in CASES},
        "map": {str(tokens): measured_map(tokens, args) for tokens in MAP_TOKENS},
    }


def gain(row: Mapping[str, Any], dense: bool) -> str:
    """How many times faster than dense; for dense itself, the time."""
    return f"{1000 * row['seconds']:.3g} ms" if dense else f"{row['faster']:.2f}"


def lines_of(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table in Markdown."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def models_table(models: Mapping[str, Any]) -> list[str]:
    """Speed and error of each variant of each model."""
    first = next(iter(models.values()))
    rows = []
    for name, row in first.items():
        cells = [name, f"{row['left']:.0%}"]
        for found in (model.get(name) for model in models.values()):
            cells += [gain(found, name == "dense"), f"{found['error']:.0e}"] if found else ["", ""]
        rows.append(cells)
    return lines_of(["", "weights left", *(x for name in models for x in (name, "error"))], rows)


def map_table(maps: Mapping[str, Any]) -> list[str]:
    """Speed of each format at each share of zeros, and the share from which it wins."""
    columns = [(tokens, form) for tokens in maps for form in FORMS]
    rows = [["dense", *(gain(maps[tokens]["rows"]["dense"], True) for tokens, _ in columns)]]
    for share in MAP_ZEROS:
        found = [maps[tokens]["rows"][f"{form} {share}"] for tokens, form in columns]
        rows.append([f"{share:.1%} zeros", *(gain(row, False) for row in found)])
    wins = [maps[tokens]["wins from"][form] for tokens, form in columns]
    rows.append(["wins from", *("never" if x is None else f"{x:.0%}" for x in wins)])
    return lines_of(["", *(f"{tokens} tokens, {form}" for tokens, form in columns)], rows)


def table(document: Mapping[str, Any]) -> str:
    """Both tables, and how they were measured."""
    error = max(one["error"] for one in document["map"].values())
    settings = ", ".join(f"{document[key]} {key}" for key in ("threads", "rounds", "sentences"))
    clock = "CPU" if document["cpu_time"] else "wall"
    last = [f"one map: largest error {error:.0e}", f"2:4 on a CPU: {document['2:4']}"]
    last.append(f"{settings}; {clock} time; 6x384 with {document['weights']} weights")
    parts = (models_table(document["models"]), map_table(document["map"]), last)
    return "\n\n".join("\n".join(lines) for lines in parts)


def main() -> None:
    """Compare, measure, print the tables, write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", help="a folder with MiniLM's encoder; without it, random")
    parser.add_argument("--data", type=Path, help="a folder with SST-2, to be read with --model")
    parser.add_argument("--sentences", type=int, default=DEV.number, help="the first so many")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--cpu-time", action="store_true", help="best with --threads 1")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    args = parser.parse_args()
    keep_memory()  # as every command does
    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore", message=".*(Sparse CSR|prototype)")
    document = measured(args)
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "zeros.json"
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(table(document))


if __name__ == "__main__":
    main()
