"""Fine-tune BERT on SST-2 with `transformers`: the plain loop that `minibert finetune` must beat.

    python benchmarks/transformers_finetune.py --model DIR --data DIR [--seed N] [--threads N]

It is the loop of a careful user: the fast tokenizer on all texts at once, batches of similar length
in the order of `Trainer(group_by_length=True)`, padding to the longest of the batch, bfloat16 by
autocast, fused AdamW with decay for matrices only, and a dev set sorted by length. It prints
one line of JSON: the accuracy on dev, and the seconds of training and evaluation.
"""

import argparse
import json
import time
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoTokenizer,
    BertForSequenceClassification,
    PreTrainedTokenizerBase,
    get_linear_schedule_with_warmup,
)
from transformers.trainer_pt_utils import get_length_grouped_indices

BATCH, EVALUATION_BATCH, MAX_LENGTH = 32, 64, 128
LEARNING_RATE, WARMUP, DECAY, MAX_NORM = 5e-5, 0.1, 0.01, 1.0


class Data(NamedTuple):
    """The token ids of every sentence, and the labels."""

    ids: list[Tensor]
    labels: Tensor

    @property
    def lengths(self) -> list[int]:
        return [len(ids) for ids in self.ids]


def read(path: Path, tokenizer: PreTrainedTokenizerBase) -> Data:
    """Read a file of sentences and labels, separated by a tab, after a header line."""
    lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")[1:]
    texts, labels = zip(*(line.rsplit("\t", 1) for line in lines), strict=True)
    encoded = tokenizer(list(texts), truncation=True, max_length=MAX_LENGTH)
    return Data(
        [torch.tensor(ids) for ids in encoded["input_ids"]],
        torch.tensor([int(label) for label in labels]),
    )


def batch_of(data: Data, rows: list[int], pad_id: int) -> dict[str, Tensor]:
    """The rows, padded to the longest of them."""
    lengths = torch.tensor([len(data.ids[row]) for row in rows])
    ids = pad_sequence([data.ids[row] for row in rows], batch_first=True, padding_value=pad_id)
    keep = torch.arange(ids.shape[1]) < lengths[:, None]
    return {"input_ids": ids, "attention_mask": keep.long()}


def decayed_apart(model: torch.nn.Module) -> list[dict[str, object]]:
    """Matrices with decay; biases and the gains of LayerNorm without."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    return [
        {"params": matrices, "weight_decay": DECAY},
        {"params": vectors, "weight_decay": 0.0},
    ]


def train(model: BertForSequenceClassification, data: Data, pad_id: int) -> None:
    """One epoch."""
    model.train()
    order = get_length_grouped_indices(data.lengths, BATCH)
    batches = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    optimizer = torch.optim.AdamW(decayed_apart(model), lr=LEARNING_RATE, fused=True)
    warmup = round(WARMUP * len(batches))
    schedule = get_linear_schedule_with_warmup(optimizer, warmup, len(batches))
    for rows in batches:
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(**batch_of(data, rows, pad_id), labels=data.labels[rows]).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()


@torch.inference_mode()
def accuracy(model: BertForSequenceClassification, data: Data, pad_id: int) -> float:
    """The share of the rows that the model labels right."""
    model.eval()
    order = sorted(range(len(data.ids)), key=data.lengths.__getitem__)
    right = 0
    for start in range(0, len(order), EVALUATION_BATCH):
        rows = order[start : start + EVALUATION_BATCH]
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(**batch_of(data, rows, pad_id)).logits
        right += int((logits.argmax(-1) == data.labels[rows]).sum())
    return right / len(order)


def main() -> None:
    """Read, train, evaluate, and print the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, type=Path, help="folder with train.tsv, dev.tsv")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    train_set = read(args.data / "train.tsv", tokenizer)
    dev_set = read(args.data / "dev.tsv", tokenizer)
    model = BertForSequenceClassification.from_pretrained(args.model, attn_implementation="sdpa")
    started = time.perf_counter()
    train(model, train_set, tokenizer.pad_token_id)
    said = accuracy(model, dev_set, tokenizer.pad_token_id)
    print(json.dumps({"accuracy": said, "seconds": time.perf_counter() - started}))


if __name__ == "__main__":
    main()
