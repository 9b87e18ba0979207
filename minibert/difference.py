"""Where two BERTs differ: the states of both on the same texts, in the order of computation.

B texts · S tokens (queries) · R keys · D width · N heads · K = D/N. Everything is computed in
float64 with the book as it is written, so that what differs is the model and not its rounding.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from minibert.attention import merge_heads, split_heads
from minibert.config import BertConfig, CheckpointError
from minibert.data.batches import collate
from minibert.encoder import EncoderTrace, encode_traced
from minibert.heads import pooled
from minibert.model import Bert
from minibert.module import answer
from minibert.parameters import BertWeights, named_tensors
from minibert.pretrained import HEADS

States = Mapping[str, Tensor]
TOLERANCE = 16 * 2.0**-23  # what 16 roundings to float32 may do to a number
TEXTS = (
    "The end of the film was not at all what anybody in the room had seen coming.",
    "Was it good?\tIt was.",
)
ANSWER_AXES = {
    "mlm": "_BSV",
    "token_classification": "_BSC",
    "classification": "_BC",
    "multiple_choice": "_BC",
    "nsp": "_B2",
    "regression": "_B",
}
SIZES = (
    "vocab_size hidden_size num_hidden_layers intermediate_size max_position_embeddings "
    "type_vocab_size pruned"
).split()


class Inputs(NamedTuple):
    """Padded texts: `keep_BS` is False at padding, `types_BS` 1 in a second sentence."""

    ids_BS: Tensor
    keep_BS: Tensor
    types_BS: Tensor


class Side(NamedTuple):
    """One of the two: its sizes and weights, and how its states are computed.

    `states` may be any BERT's, under the names of `states_of`; those that it lacks are left out.
    """

    config: BertConfig
    weights: BertWeights
    head: str
    states: Callable[[Inputs], States]


class Gap(NamedTuple):
    """The largest difference between two tensors of the same name, and its bound.

    Tensors of different sizes are infinitely far apart. `shapes` are those of two weights.
    """

    name: str
    difference: float
    bound: float
    shapes: tuple[tuple[int, ...], ...] = ()

    @property
    def beyond(self) -> bool:
        """Whether they differ; NaN is beyond any bound."""
        return not self.difference <= self.bound


def gap(name: str, a: Tensor, b: Tensor, tolerance: float) -> Gap:
    """The gap between two tensors; the bound is a share of the largest value in either.

    >>> gap("x", torch.tensor([2.0, 1.0]), torch.tensor([2.0, 1.5]), 0.25)
    Gap(name='x', difference=0.5, bound=0.5, shapes=())
    """
    if a.shape != b.shape:
        return Gap(name, math.inf, 0.0)
    if not a.numel():
        return Gap(name, 0.0, 0.0)
    largest = max(a.abs().max().item(), b.abs().max().item())
    return Gap(name, (a - b).abs().max().item(), tolerance * largest)


def read_inputs(bert: Bert, texts: Sequence[str]) -> Inputs:
    """Texts as the model reads them; a tab separates two sentences.

    A model with a single token type gives it to all tokens. `TEXTS` are cut if the model has too
    few positions.

    Raises
        CheckpointError  the model has no vocabulary, or a text has more tokens than the model has
                         positions, or more than one tab.
    """
    if bert.tokenizer is None:
        raise CheckpointError("neither model has a vocabulary, so no --text can be read")
    encodings, most = [], bert.config.max_position_embeddings
    for text in texts:
        first, *others = text.split("\t")
        if len(others) > 1:
            raise CheckpointError(f"a --text holds {len(others)} tabs; at most one is allowed")
        limit = most if text in TEXTS else None
        encodings += bert.tokenizer.encode([first], others or None, limit)
        if (count := len(encodings[-1].ids)) > most:
            raise CheckpointError(
                f"a --text has {count:,} tokens, but the model has only {most} positions"
            )
    batch = collate(encodings, range(len(texts)), bert.tokenizer.pad_id)
    return Inputs(*batch[:2], batch.types_BS.clamp(max=bert.config.type_vocab_size - 1))


def random_inputs(config: BertConfig, seed: int = 0) -> Inputs:
    """Ids for models without a vocabulary: two rows of different length, the second a pair.

    >>> random_inputs(BertConfig()).keep_BS.sum(1).tolist()
    [17, 8]
    """
    longest = min(17, config.max_position_embeddings)
    shape, places_S = (2, longest), torch.arange(longest)
    lengths_B1 = torch.tensor([[longest], [(longest + 1) // 2 - 1 or 1]])
    generator = torch.Generator().manual_seed(seed)
    ids_BS = torch.randint(0, config.vocab_size, shape, generator=generator)
    types_BS = (places_S >= torch.tensor([[longest], [longest // 4]])).long()
    return Inputs(ids_BS, places_S < lengths_B1, types_BS.clamp(max=config.type_vocab_size - 1))


def config_differences(a: BertConfig, b: BertConfig) -> dict[str, tuple[Any, Any]]:
    """The keys of `config.json` in which two configs differ, and both values.

    >>> config_differences(BertConfig(), BertConfig(layer_norm_eps=1e-5))
    {'layer_norm_eps': (1e-12, 1e-05)}
    """
    first, second = a.to_dict(), b.to_dict()
    keys = dict.fromkeys((*first, *second))
    return {k: (first.get(k), second.get(k)) for k in keys if first.get(k) != second.get(k)}


def side_of(bert: Bert) -> Side:
    """A model as the book computes it."""
    bert = bert.to("cpu", torch.float64)

    def states(inputs: Inputs) -> States:
        trace = encode_traced(*inputs, bert.weights, bert.config)
        return states_of(trace, bert.weights, bert.config, bert.head)

    return Side(bert.config, bert.weights, bert.head, states)


def states_of(
    trace: EncoderTrace, weights: BertWeights, config: BertConfig, head: str
) -> dict[str, Tensor]:
    """Every state by name: those of the trace, the pooled vector, and the answer of the head."""
    states = dict(named_tensors(trace))
    if weights.pooler is not None:
        states["pooled_BD"] = pooled(trace.hidden_BSD, weights.pooler)
    if head != "encoder":
        said = answer(trace.hidden_BSD, weights, config, head, len(trace.hidden_BSD))
        states |= named_tensors(said, f"answer{ANSWER_AXES.get(head, '')}")
    return states


def side_of_transformers(bert: Bert, folder: Path) -> Side:
    """`transformers`' own model of a folder that minibert has read as well.

    Hooks record the output of each part. Attention scores are not accessible; eager attention is
    the implementation that returns probabilities.

    Raises
        CheckpointError  it cannot read the folder, such as that of a packed or a pruned model.
    """
    if bert.config.pruned is not None:
        raise CheckpointError(
            f"{folder}: transformers cannot read a pruned model; first run minibert export --dense"
        )
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    kind = getattr(transformers, HEADS[bert.head].architecture)
    bare = {} if bert.weights.pooler or bert.head != "encoder" else {"add_pooling_layer": False}
    try:
        model = kind.from_pretrained(
            folder, attn_implementation="eager", local_files_only=True, **bare
        )
    except Exception as error:  # packed or pruned files, or whatever else it refuses
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{folder}: transformers cannot read it: {reason}") from None
    model = model.double().eval()
    body = model if bert.head == "encoder" else model.bert

    def states(inputs: Inputs) -> States:
        found: dict[str, Tensor] = {}

        def keep(name: str, place: Any) -> Any:
            def hook(module: Any, arguments: Any, output: Any) -> None:
                found[name] = output if isinstance(output, Tensor) else output[0]

            return place.register_forward_hook(hook)

        hooks = [keep("embedded_BSD", body.embeddings)]
        for number, layer in enumerate(body.encoder.layer):
            attention = f"blocks.{number}.attention"
            for part in ("query_BNSK", "key_BNRK", "value_BNRK"):
                place = getattr(layer.attention.self, part[:-5])
                hooks.append(keep(f"{attention}.{part}", place))
            hooks.append(keep(f"{attention}.output_BSD", layer.attention.output.dense))
            hooks.append(keep(f"blocks.{number}.attended_BSD", layer.attention.output))
            hooks.append(keep(f"blocks.{number}.hidden_BSD", layer))
        if getattr(body, "pooler", None) is not None:
            hooks.append(keep("pooled_BD", body.pooler))
        rows = (1, *inputs.ids_BS.shape) if bert.head == "multiple_choice" else inputs.ids_BS.shape
        with torch.no_grad():
            output = model(
                input_ids=inputs.ids_BS.view(rows),
                attention_mask=inputs.keep_BS.long().view(rows),
                token_type_ids=inputs.types_BS.view(rows),
                output_attentions=True,
            )
        for hook in hooks:
            hook.remove()
        heads = body.config.num_attention_heads
        cut = {name: split_heads(x, heads) for name, x in found.items() if name.endswith("K")}
        states = found | cut
        for number, probabilities_BNSR in enumerate(output.attentions):
            states[f"blocks.{number}.attention.probabilities_BNSR"] = probabilities_BNSR
        if bert.head == "question_answering":
            states |= {"answer.start_BS": output.start_logits, "answer.end_BS": output.end_logits}
        elif bert.head == "pretraining":
            states["answer.words_BSV"] = output.prediction_logits
            states["answer.follows_B2"] = output.seq_relationship_logits
        elif bert.head != "encoder":
            logits = output.logits[:, 0] if bert.head == "regression" else output.logits
            states[f"answer{ANSWER_AXES[bert.head]}"] = logits
        return states

    # their config object may differ from the file: what they compute with counts
    config = dataclasses.replace(
        bert.config,
        hidden_act=body.config.hidden_act,
        layer_norm_eps=body.config.layer_norm_eps,
        num_attention_heads=body.config.num_attention_heads,
    )
    return Side(config, bert.to("cpu", torch.float64).weights, bert.head, states)


def state_gaps(a: States, b: States, keep_BS: Tensor, tolerance: float) -> list[Gap]:
    """The gaps of the states that both have, in A's order, at the tokens that are not padding.

    For probabilities the masked keys count as well: they must be 0 there. If the numbers of heads
    differ, the heads are concatenated first.
    """
    gaps = []
    for name in a:
        if name in b:
            x, y = a[name].detach(), b[name].detach()
            if name.endswith("K") and x.shape[1] != y.shape[1]:
                x, y = merge_heads(x)[:, :, None], merge_heads(y)[:, :, None]
                x, y = x.transpose(1, 2), y.transpose(1, 2)  # one head, as wide as all
            gaps.append(gap(name, _seen(name, x, keep_BS), _seen(name, y, keep_BS), tolerance))
    return gaps


def _seen(name: str, x: Tensor, keep_BS: Tensor) -> Tensor:
    """The part of a state that belongs to kept tokens, one row each; its name tells its axes."""
    axes = name.rpartition("_")[2]
    if name.endswith("scores_BNSR"):
        x = x.masked_fill(~keep_BS[:, None, None], 0)
    if axes.startswith("BN"):  # the heads come before the tokens
        x = x.transpose(1, 2)
    return x[keep_BS] if axes.startswith(("BN", "BS")) else x


def weight_gaps(a: States, b: States, tolerance: float) -> list[Gap]:
    """The gaps of the weights that both models have."""
    shapes = {name: (tuple(x.shape), tuple(b[name].shape)) for name, x in a.items() if name in b}
    return [
        gap(name, a[name], b[name], tolerance)._replace(shapes=pair)
        for name, pair in shapes.items()
    ]


def first_beyond(gaps: Sequence[Gap]) -> Gap | None:
    """The first tensor that differs."""
    return next((one for one in gaps if one.beyond), None)
