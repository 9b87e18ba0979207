"""What `minibert distill` refuses before it reads a file: options that clash or have no effect."""

import tempfile
from pathlib import Path
from typing import Any

import click

from minibert.cli.options import check_apart, check_sparsity

# Options that only distillation for a task uses, and those that the demo uses.
OF_A_TASK = frozenset(
    "dev join augment augment_by augment_probability augment_candidates augment_vectors "
    "augment_model augment_seed epochs steps lr intermediate_on prediction_weight label_weight "
    "temperature temperature_squared labels_too seeds results name baseline task limit "
    "sparsity pattern sparsity_by l1".split()
)
OF_AUGMENTATION = frozenset(
    "augment_by augment_probability augment_candidates augment_vectors augment_model".split()
)
OF_ROWS = frozenset({"name", "baseline"})
OF_A_NEW_STUDENT = frozenset({"init_embeddings", "init_layers"})
OF_THE_DEMO = frozenset("out resume overwrite seed device threads arithmetic as_json".split())


def check_usage(chosen: Any) -> None:
    """Refuse options that contradict each other, or leave nothing to learn."""
    check_sparsity(chosen)
    if chosen.teacher is None and (chosen.data or chosen.corpus):
        raise click.UsageError("give --teacher as well, or nothing at all for the demo")
    if chosen.teacher is not None and not (chosen.data or chosen.corpus):
        raise click.UsageError("give --data (texts of a task) or --corpus (raw text) to distil on")
    if chosen.data and chosen.corpus and chosen.augment_by != "mlm":
        raise click.UsageError(
            "--corpus with --data only trains a masked-word head, for --augment-by mlm; for "
            "general distillation give it alone, then use --init-student"
        )
    outs = [Path(chosen.out or "runs/distill")]
    if chosen.seeds > 1 or chosen.results:  # then each student has a folder in it
        outs = [outs[0] / f"seed-{n}" for n in range(chosen.seed, chosen.seed + chosen.seeds)]
    for name in ("teacher", "init_student", "augment_model"):
        check_apart(name.replace("_", "-"), getattr(chosen, name), outs)
    answers = {"prediction_weight", "label_weight"}
    weights = {name: value for name, value in vars(chosen).items() if name.endswith("_weight")}
    if chosen.intermediate_epochs and not any(weights[name] for name in weights.keys() - answers):
        raise click.UsageError(
            "every weight of a loss over states is 0, so the first stage has nothing to learn; "
            "leave it out with --intermediate-epochs 0"
        )
    if not any(weights[name] for name in answers):
        raise click.UsageError(
            "--prediction-weight and --label-weight are both 0, so the second stage has nothing to "
            "learn; give one of them a weight above 0"
        )
    if chosen.corpus and not chosen.data:
        if not chosen.intermediate_epochs:
            raise click.UsageError("general distillation needs --intermediate-epochs of at least 1")
        if chosen.seeds > 1 or chosen.results:
            raise click.UsageError(
                "--seeds and --results compare students on a task; general distillation, --corpus "
                "without --data, has none: run it once for each --seed"
            )
    if (chosen.seeds > 1 or chosen.results) and chosen.labels_too:
        raise click.UsageError(
            "--labels-too does not go with --seeds or --results; run a second recipe with "
            "--prediction-weight 0 --label-weight 1 --intermediate-epochs 0"
        )


def check_ignored(context: click.Context, chosen: Any) -> None:
    """Refuse typed options that would have no effect; a recipe may hold more than is needed."""
    typed = {
        name
        for name in context.params
        if context.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE
    }
    makes_rows, adds_texts = chosen.seeds > 1 or chosen.results, chosen.augment or chosen.join
    without_effect = (
        (chosen.teacher is None, typed - OF_THE_DEMO, "the demo, which runs without --teacher,"),
        (chosen.data is None, OF_A_TASK, "general distillation, --corpus without --data,"),
        (not chosen.augment, OF_AUGMENTATION, "a run without --augment COPIES,"),
        (not adds_texts, {"augment_seed"}, "a run without --augment or --join,"),
        (not makes_rows, OF_ROWS, "a run without --seeds or --results,"),
        (chosen.init_student, OF_A_NEW_STUDENT, "a student that --init-student names,"),
    )
    for holds, names, what in without_effect:
        if holds and typed & names:
            name = min(typed & names).replace("_", "-")
            raise click.UsageError(f"--{name} has no effect on {what} so leave it out")


def check_cache(chosen: Any) -> None:
    """Refuse a cache that cannot be written, or would be deleted with a run's working files."""
    folder = chosen.cache_folder.absolute()
    own = chosen.folder.absolute()
    if own in (folder, *folder.parents) and not chosen.several:
        raise click.UsageError(
            f"--cache {chosen.cache} is in --out, whose working files are deleted at the "
            "end; choose another folder"
        )
    check_writable(f"--cache {chosen.cache}", folder)


def check_writable(option: str, folder: Path) -> None:
    """Refuse a place that cannot be written before time is spent on what is to go there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise click.UsageError(f"{option}: {error.strerror}") from None
