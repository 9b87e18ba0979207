"""Why two BERTs differ: which single change to a model makes the first difference vanish.

B texts · S tokens (queries) · R keys · D width · N heads · K = D/N · P positions.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from minibert.attention import (
    AttentionTrace,
    attention_probabilities,
    attention_scores,
    merge_heads,
    padding_bias,
    split_heads,
)
from minibert.config import BertConfig
from minibert.data.tokenizer import Tokenizer
from minibert.difference import (
    SIZES,
    TEXTS,
    TOLERANCE,
    Gap,
    Inputs,
    Side,
    States,
    config_differences,
    first_beyond,
    random_inputs,
    read_inputs,
    side_of,
    side_of_transformers,
    state_gaps,
    states_of,
    weight_gaps,
)
from minibert.encoder import BlockTrace, EncoderTrace, embeddings, feed_forward
from minibert.functional import layer_norm, linear
from minibert.heads import pooled
from minibert.model import Bert
from minibert.parameters import (
    BertWeights,
    BlockWeights,
    LayerNormWeights,
    LinearWeights,
    named_tensors,
    with_tensors,
)

NEAR = {"embedded_BSD": "embeddings.", "pooled_BD": "pooler."}  # which weights make a state
GELUS = {"gelu": "the erf form of GELU", "gelu_new": "the tanh form of GELU"}


class Form(NamedTuple):
    """How the computation of a model may deviate from BERT; the defaults are BERT itself.

    A `score_factor` of √K leaves out the division by √K; `pool` gets states, mask and weights.
    """

    norm_first: bool = False
    score_factor: float = 1.0
    split: Callable[[Tensor, int], Tensor] = split_heads
    merge: Callable[[Tensor], Tensor] = merge_heads
    pool: Callable[[Tensor, Tensor, LinearWeights], Tensor] | None = None


BERT = Form()


class Cause(NamedTuple):
    """What a model would need for the first difference to vanish.

    `model` is A or B; `left` is what remains of the difference, `then` the next state to differ.
    """

    words: str
    model: str
    left: float
    then: str | None


class Change(NamedTuple):
    """One property that a model may have, and the states that it then computes."""

    words: str
    states: Callable[[], States]


class Comparison(NamedTuple):
    """How two models differ; `states` is empty if their sizes are different.

    `weights` are those that differ at all, `alone` those that only one of the two has.
    """

    config: dict[str, tuple[Any, Any]]
    sizes: list[str]
    same_vocabulary: bool
    weights: list[Gap]
    alone: tuple[list[str], list[str]]
    states: list[Gap]
    cause: Cause | None

    @property
    def first(self) -> Gap | None:
        """The first state that differs."""
        return first_beyond(self.states)

    @property
    def equal(self) -> bool:
        """Whether nothing that decides an answer differs beyond its bound."""
        unlike = self.sizes or any(self.alone) or not self.same_vocabulary
        return not unlike and not first_beyond(self.weights) and self.first is None


def _way_of_reading(tokenizer: Tokenizer) -> tuple[Any, ...]:
    """All that decides which ids a text becomes."""
    accents, lowercase = tokenizer.strip_accents, tokenizer.lowercase
    without_accents = lowercase if accents is None else accents
    return tokenizer.pieces, lowercase, without_accents, tokenizer.split_chinese, tokenizer.words


def compare(
    a: Bert, b: Bert, texts: Sequence[str], tolerance: float = TOLERANCE, theirs: Path | None = None
) -> Comparison:
    """Compare two models on the same texts; `theirs` is B's folder if transformers computes it.

    Without `texts`, and where neither has a vocabulary, ids are drawn at random.

    Raises
        CheckpointError  the texts cannot be read; transformers cannot read the folder.
    """
    config = config_differences(a.config, b.config)
    sizes = [key for key in SIZES if key in config]
    ways = [model.tokenizer and _way_of_reading(model.tokenizer) for model in (a, b)]
    same = None in ways or ways[0] == ways[1]
    found = Comparison(config, sizes, same, [], ([], []), [], None)
    if sizes:
        return found
    reader = a if a.tokenizer else b
    random = reader.tokenizer is None and not texts
    inputs = random_inputs(a.config) if random else read_inputs(reader, texts or TEXTS)
    one = side_of(a)
    two = side_of_transformers(b, theirs) if theirs else side_of(b)
    states = state_gaps(one.states(inputs), two.states(inputs), inputs.keep_BS, tolerance)
    first = first_beyond(states)
    mine, other = (dict(named_tensors(side.weights)) for side in (one, two))
    return found._replace(
        weights=[one for one in weight_gaps(mine, other, tolerance) if one.difference],
        alone=([x for x in mine if x not in other], [x for x in other if x not in mine]),
        states=states,
        cause=cause_of(one, two, inputs, first, tolerance) if first else None,
    )


def cause_of(a: Side, b: Side, inputs: Inputs, first: Gap, tolerance: float) -> Cause | None:
    """The change that explains the first difference best, or None.

    It makes all states up to that one agree. Changes to A are tried first; then changes
    to B, as the mistake may be in A; then weights of B in place of A's. A model that already
    computes differently from the book cannot be changed here.
    """
    here, there = a.states(inputs), b.states(inputs)
    if first_beyond(state_gaps(there, b.states(inputs), inputs.keep_BS, tolerance)):
        return Cause("no dropout, which gives another answer each time,", "B", 0.0, None)
    for model, side, wanted, tried in (
        ("A", a, there, changes(a, b, inputs)),
        ("B", b, here, changes(b, a, inputs)),
        ("A", a, there, weight_changes(a, b, inputs, first.name)),
    ):
        if not _is_the_books(side, inputs, tolerance):
            continue
        found = []
        for change in tried:
            gaps = state_gaps(change.states(), wanted, inputs.keep_BS, tolerance)
            names = [one.name for one in gaps]
            until = names.index(first.name) + 1 if first.name in names else 0
            if until and not first_beyond(gaps[:until]):
                then = first_beyond(gaps[until:])
                left, bound = gaps[until - 1][1:3]
                cause = Cause(change.words, model, left, then.name if then else None)
                found.append((round(left / bound, 3) if bound else 0.0, cause))
        if found:
            return min(found, key=lambda pair: pair[0])[1]
    return None


def _is_the_books(side: Side, inputs: Inputs, tolerance: float) -> bool:
    formed = formed_states(inputs, side.weights, side.config, side.head)
    return not first_beyond(state_gaps(formed, side.states(inputs), inputs.keep_BS, tolerance))


def changes(side: Side, other: Side, inputs: Inputs) -> Iterator[Change]:
    """All changes that are tried except swapped weights; eps and heads may be the other model's."""
    config, weights, tables = side.config, side.weights, side.weights.embeddings
    theirs = other.config

    def having(
        words: str,
        form: Form = BERT,
        config: BertConfig = config,
        weights: BertWeights = weights,
        inputs: Inputs = inputs,
    ) -> Change:
        return Change(words, lambda: formed_states(inputs, weights, config, side.head, form))

    def configured(words: str, **values: Any) -> Change:
        return having(words, config=dataclasses.replace(config, **values))

    act = "gelu_new" if config.hidden_act == "gelu" else "gelu"
    yield configured(GELUS[act], hidden_act=act)
    for eps in dict.fromkeys((theirs.layer_norm_eps, 1e-12, 1e-5, 1e-6)):
        if eps != config.layer_norm_eps:
            yield configured(f"{eps:g} as the eps of LayerNorm", layer_norm_eps=eps)
    if theirs.num_attention_heads != config.num_attention_heads and config.pruned is None:
        heads = theirs.num_attention_heads
        yield configured(f"{heads} heads", num_attention_heads=heads)
    yield having("heads cut by a view that exchanges no axes", Form(split=_viewed, merge=_flat))
    interleaved = Form(split=_interleaved, merge=_side_by_side)
    yield having("heads of every N-th number instead of slices", interleaved)
    root = math.sqrt(config.head_width)
    yield having("scores that are not divided by √K", Form(score_factor=root))
    small = root / math.sqrt(config.hidden_size)
    yield having("scores divided by √D instead of √K", Form(score_factor=small))
    seen_BS = torch.ones_like(inputs.keep_BS)
    yield having("no mask, so that padding is read,", inputs=inputs._replace(keep_BS=seen_BS))
    yield having("pre-norm blocks instead of post-norm", Form(norm_first=True))
    for start in (1, 2):
        if len(tables.position_PD) >= inputs.ids_BS.shape[1] + start:
            moved = tables._replace(position_PD=tables.position_PD[start:])
            moved_weights = weights._replace(embeddings=moved)
            yield having(f"positions that start at row {start}", weights=moved_weights)
    zeros_BS = torch.zeros_like(inputs.types_BS)
    yield having("token types that are all 0", inputs=inputs._replace(types_BS=zeros_BS))
    if config.type_vocab_size > 1:
        ones = inputs._replace(types_BS=zeros_BS + 1)
        yield having("token types that are all 1", inputs=ones)
        swapped = inputs._replace(types_BS=(1 - inputs.types_BS).clamp(min=0))
        yield having("token types 0 and 1 exchanged", inputs=swapped)
    if weights.pooler is not None:
        yield having("a pooler without its tanh", Form(pool=_linear_pooled))
        yield having("a ReLU behind the pooler", Form(pool=_rectified_pooled))
        yield having("a pooler of the mean instead of [CLS]", Form(pool=_mean_pooled))
    for dtype in (torch.float16, torch.bfloat16):
        rounded = {path: x.to(dtype).to(x.dtype) for path, x in named_tensors(weights)}
        words = f"weights rounded to {str(dtype).removeprefix('torch.')}"
        yield having(words, weights=with_tensors(weights, rounded))


def weight_changes(side: Side, other: Side, inputs: Inputs, first: str) -> Iterator[Change]:
    """The other model's weights in place of those that differ: one near the first state, or all."""

    def having(words: str, tensors: dict[str, Tensor]) -> Change:
        weights = with_tensors(side.weights, mine | tensors)
        return Change(words, lambda: formed_states(inputs, weights, side.config, side.head))

    mine, others = dict(named_tensors(side.weights)), dict(named_tensors(other.weights))
    unlike = {
        path: others[path]
        for path, x in mine.items()
        if path in others and x.shape == others[path].shape and not torch.equal(x, others[path])
    }
    names = first.split(".")
    near = ".".join(names[:2]) + "." if names[0] == "blocks" else NEAR.get(names[0], "")
    for path, x in unlike.items():
        if path.startswith(near):
            turned = x.dim() == 2 and x.shape == x.T.shape and torch.equal(x.T, mine[path])
            words = f"{path} transposed" if turned else f"the other's {path}"
            yield having(words, {path: x})
    if unlike:
        yield having("the other's weights", unlike)


def formed_states(
    inputs: Inputs, weights: BertWeights, config: BertConfig, head: str, form: Form = BERT
) -> dict[str, Tensor]:
    """The states of a BERT whose blocks and pooler are of this form."""
    embedded_BSD = embeddings(inputs.ids_BS, inputs.types_BS, weights.embeddings, config)
    mask_bias_B11S = padding_bias(inputs.keep_BS, embedded_BSD.dtype)
    blocks: list[BlockTrace] = []
    for block_weights in weights.blocks:
        hidden_BSD = blocks[-1].hidden_BSD if blocks else embedded_BSD
        blocks.append(formed_block(hidden_BSD, mask_bias_B11S, block_weights, config, form))
    states = states_of(EncoderTrace(embedded_BSD, tuple(blocks)), weights, config, head)
    if weights.pooler is not None and form.pool is not None:
        states = {name: x for name, x in states.items() if not name.startswith("answer")}
        hidden_BSD = blocks[-1].hidden_BSD
        states["pooled_BD"] = form.pool(hidden_BSD, inputs.keep_BS, weights.pooler)
    return states


def formed_block(
    hidden_BSD: Tensor,
    mask_bias_B11S: Tensor,
    weights: BlockWeights,
    config: BertConfig,
    form: Form = BERT,
) -> BlockTrace:
    """`minibert.encoder.block` with everything that a form may change in it."""

    def normed(x_BSD: Tensor, norm: LayerNormWeights, here: bool) -> Tensor:
        return layer_norm(x_BSD, *norm, config.layer_norm_eps) if here else x_BSD

    maps, first = weights.attention, form.norm_first
    n_heads = maps.query.bias_O.shape[0] // config.head_width
    asking_BSD = normed(hidden_BSD, weights.attention_norm, first)
    query_BNSK, key_BNRK, value_BNRK = (
        form.split(linear(asking_BSD, *part), n_heads) for part in maps[:3]
    )
    scores_BNSR = attention_scores(query_BNSK, key_BNRK) * form.score_factor
    probabilities_BNSR = attention_probabilities(scores_BNSR, mask_bias_B11S)
    output_BSD = linear(form.merge(probabilities_BNSR @ value_BNRK), *maps.output)
    attention = AttentionTrace(
        query_BNSK, key_BNRK, value_BNRK, scores_BNSR, probabilities_BNSR, output_BSD
    )
    attended_BSD = normed(hidden_BSD + output_BSD, weights.attention_norm, not first)
    fed_BSD = normed(attended_BSD, weights.output_norm, first)
    fed_BSD = attended_BSD + feed_forward(fed_BSD, weights, config.hidden_act)
    return BlockTrace(attention, attended_BSD, normed(fed_BSD, weights.output_norm, not first))


def _viewed(x_BSD: Tensor, n_heads: int) -> Tensor:
    batch, tokens, width = x_BSD.shape
    return x_BSD.reshape(batch, n_heads, tokens, width // n_heads)


def _flat(x_BNSK: Tensor) -> Tensor:
    batch, heads, tokens, width = x_BNSK.shape
    return x_BNSK.reshape(batch, tokens, heads * width)


def _interleaved(x_BSD: Tensor, n_heads: int) -> Tensor:
    batch, tokens, width = x_BSD.shape
    return x_BSD.view(batch, tokens, width // n_heads, n_heads).permute(0, 3, 1, 2)


def _side_by_side(x_BNSK: Tensor) -> Tensor:
    batch, heads, tokens, width = x_BNSK.shape
    return x_BNSK.permute(0, 2, 3, 1).reshape(batch, tokens, heads * width)


def _linear_pooled(hidden_BSD: Tensor, keep_BS: Tensor, weights: LinearWeights) -> Tensor:
    return linear(hidden_BSD[:, 0], *weights)


def _rectified_pooled(hidden_BSD: Tensor, keep_BS: Tensor, weights: LinearWeights) -> Tensor:
    return pooled(hidden_BSD, weights).clamp(min=0)


def _mean_pooled(hidden_BSD: Tensor, keep_BS: Tensor, weights: LinearWeights) -> Tensor:
    keep_BS1 = keep_BS[:, :, None]
    return pooled((hidden_BSD * keep_BS1).sum(1, keepdim=True) / keep_BS1.sum(1, True), weights)
