"""What distillation is for: teacher and students side by side, quality beside cost."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minibert.data.readers import Dataset
from minibert.files import bytes_of_weights
from minibert.model import Bert
from minibert.parameters import named_tensors
from minibert.training.evaluation import all_logits, encodings_of, evaluated


def compared(
    models: Mapping[str, str | Path],
    dataset: Dataset,
    max_length: int,
    device: str = "cpu",
) -> list[dict[str, Any]]:
    """One row for each model folder: metrics, parameters, bytes on disk, sentences per second.

    All is measured in float32. Speed is the median of three passes over the data, the models taking
    turns, so that whatever else the machine does affects all of them.
    """
    loaded = {name: Bert.from_pretrained(folder).to(device) for name, folder in models.items()}
    seconds: dict[str, list[float]] = {name: [] for name in loaded}
    for _ in range(3):
        for name, model in loaded.items():
            encodings = encodings_of(dataset, model.tokenizer, max_length)
            started = time.perf_counter()
            all_logits(encodings, model.weights, model.config)
            seconds[name].append(time.perf_counter() - started)
    rows = []
    for name, model in loaded.items():
        rows.append(
            {
                "name": name,
                "metrics": evaluated(model, dataset, max_length),
                "parameters": n_parameters(model.weights),
                "bytes": bytes_of_weights(Path(models[name])),
                "sentences_per_second": len(dataset) / sorted(seconds[name])[1],
            }
        )
    return rows


def n_parameters(weights: Any) -> int:
    """How many numbers a model has."""
    return sum(tensor.numel() for _, tensor in named_tensors(weights))


def comparison_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The rows as a table; parameters, size and speed also as ratios to the first row's."""
    metrics = tuple(rows[0]["metrics"])
    head = ("", *metrics, "parameters", "on disk", "sentences/s")
    table = [head]
    for row in rows:
        first = rows[0]
        smaller = first["parameters"] / row["parameters"]
        lighter = first["bytes"] / max(row["bytes"], 1)
        faster = row["sentences_per_second"] / first["sentences_per_second"]
        parameters = f"{row['parameters'] / 1e6:.2f} M"
        size = f"{row['bytes'] / 1e6:.1f} MB"
        speed = f"{row['sentences_per_second']:,.0f}"
        if row is not first:
            parameters += f" ({smaller:.1f}x fewer)"
            size += f" ({lighter:.1f}x less)"
            speed += f" ({faster:.1f}x faster)"
        measured = (f"{row['metrics'][metric]:.4f}" for metric in metrics)
        table.append((row["name"], *measured, parameters, size, speed))
    widths = [max(len(cells[i]) for cells in table) for i in range(len(head))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
        for cells in table
    ]
