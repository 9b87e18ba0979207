"""`minibert bench`: nothing is timed that is not right, everyone takes turns, numbers are counted.

The models are tiny; what the rivals compute is compared with the book, how fast they are is not.
"""

import argparse
import dataclasses
import functools
import io
import itertools
import json
import statistics
from collections import Counter
from pathlib import Path

import pytest
import tiny
import torch
from command import documented, shape_of

from minibert.bench import compare, graphs, memory, turns
from minibert.bench.accuracy import INT8_BOUND, book_answer, bound_of, error_of
from minibert.bench.arithmetic import INT8, PLAIN, operations
from minibert.bench.cases import CASES, GPU_CASES, Case, Choices, Prepared, work_of
from minibert.bench.compare import Row, Table
from minibert.bench.engines import ENGINES, Engine, cases_on
from minibert.bench.inputs import LENGTHS, Sentences, random_lengths, tokens_of
from minibert.bench.report import document, machine, settings_text, table_text
from minibert.config import BertConfig, Pruned
from minibert.data.batches import BATCHES_PER_CHUNK, padding_share
from minibert.data.tokenizer import Encoding
from minibert.parameters import named_tensors, with_tensors
from minibert.training.objectives import LabelObjective

CONFIG = tiny.config(num_attention_heads=2, max_position_embeddings=70)
ONE_HEAD = tiny.config(num_attention_heads=1, max_position_embeddings=70)
RAGGED = Sentences(9, 4, split="dev")
CASE = Case("tiny", "a tiny model", CONFIG, RAGGED, ("kernels", "book", "sdpa", "torch"))
STEP = CASE._replace(name="tiny step", engines=("step", "step-sdpa"), kind="step")
ADAM = CASE._replace(engines=("adam", "adam-book", "adam-fused", "adam-foreach"), kind="adam")
FULL = CASE._replace(sentences=Sentences(3, 3, length=7))
FORWARD = [name for name in CASES["base"].engines if "medium" not in name]


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    monkeypatch.setattr(graphs, "TRIAL", 0.0)
    monkeypatch.setattr(turns, "PAUSE", 0.0)


def run(case: Case, folder: Path, **options) -> Table:
    return compare.compared(case, Choices(), folder, rounds=2, seconds=0.0, **options)


# ---------------------------------------------------------------------------------- the engines


def ready(case: Case, engine: str, folder: Path):
    if not ENGINES[engine].installed:
        pytest.skip(f"{ENGINES[engine].name} is not installed")
    work = work_of(case, Choices(), folder)
    work = work._replace(weights=moved(work.weights))
    return work, ENGINES[engine].prepare(work)


@pytest.mark.parametrize("case", [CASE, FULL], ids=["ragged", "full"])
@pytest.mark.parametrize("engine", FORWARD)
def test_every_engine_computes_the_same_states(engine, case, tmp_path):
    """Biases are not 0 and gains not 1 here, so that none of them can be left out."""
    work, prepared = ready(case, engine, tmp_path)
    exact = book_answer(case, work, torch.float64)
    answer = prepared.answer()
    assert answer.shape == (sum(sum(batch.lengths) for batch in work.batches), 12)
    assert error_of(answer, exact, "forward") <= bound_of(case, work, exact)


def moved(weights):
    generator = torch.Generator().manual_seed(7)
    return with_tensors(
        weights,
        {
            path: tensor + 0.1 * torch.randn(tensor.shape, generator=generator)
            for path, tensor in named_tensors(weights)
        },
    )


@pytest.mark.parametrize("engine", ["kernels-int8", "onnx-int8"])
def test_int8_is_within_its_own_bound_and_beyond_that_of_float32(engine, tmp_path):
    work, prepared = ready(CASE, engine, tmp_path)
    assert ENGINES[engine].int8
    exact = book_answer(CASE, work, torch.float64)
    assert bound_of(CASE, work, exact) < error_of(prepared.answer(), exact, "forward") < INT8_BOUND


def test_onnx_runtime_in_int8_gets_a_scale_for_each_output(tmp_path):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed: it reads the graph")
    work, _ = ready(CASE, "onnx-int8", tmp_path)
    for path in tmp_path.glob("*.int8.onnx"):
        stored = onnx.load(path).graph.initializer
        scales = [tensor for tensor in stored if tensor.name.endswith("_scale")]
        counts = [tensor.dims[0] for tensor in scales if tensor.dims]
        assert counts.count(work.config.intermediate_size) == work.config.num_hidden_layers, path
    assert len(list(tmp_path.glob("*.int8.onnx"))) == 2


@pytest.mark.parametrize("engine", STEP.engines)
def test_every_training_step_has_the_gradient_of_the_book(engine, tmp_path):
    work, prepared = ready(STEP, engine, tmp_path)
    exact = book_answer(STEP, work, torch.float64)
    assert error_of(prepared.answer(), exact, "step") <= bound_of(STEP, work, exact)
    before = prepared.answer().clone()
    prepared.run()
    assert not torch.equal(prepared.answer(), before), "a step moves the weights"


@pytest.mark.parametrize("engine", ADAM.engines)
def test_every_adam_gives_the_weights_of_the_book(engine, tmp_path):
    work, prepared = ready(ADAM, engine, tmp_path)
    exact = book_answer(ADAM, work, torch.float64)
    assert error_of(prepared.answer(), exact, "adam") <= bound_of(ADAM, work, exact)
    prepared.run()
    assert error_of(prepared.answer(), exact, "adam") > 1e-5, "each call is another step"


# ------------------------------------------------------------------------------------- accuracy


def engine_that_is_wrong(by: float) -> Engine:
    def prepare(work):
        right = ENGINES["book"].prepare(work)
        return Prepared(right.run, lambda: right.answer() + by)

    return Engine("wrong", prepare)


@pytest.mark.parametrize("by", [1e-3, float("nan")])
def test_who_is_wrong_gets_no_speed(by, tmp_path, monkeypatch):
    monkeypatch.setitem(ENGINES, "wrong", engine_that_is_wrong(by))
    table = run(CASE._replace(engines=("kernels", "wrong")), tmp_path)
    own, wrong = table.rows
    assert own.status == "measured"
    assert wrong.status == "inaccurate"
    assert wrong.times == ()
    told = document(table)["rows"][1]
    assert told["seconds"] is None
    assert told["error"] == (wrong.error if by == 1e-3 else None), "JSON knows no NaN"
    (line,) = [x for x in table_text(table, 120).splitlines() if x.strip().startswith("wrong  ")]
    assert "–" in line
    assert "ms" not in line
    assert "µs" not in line


def test_a_product_in_lower_precision_is_over_the_bound_of_float32(tmp_path):
    work = work_of(CASE, Choices(), tmp_path)
    exact = book_answer(CASE, work, torch.float64)
    lower = book_answer(CASE, work, torch.bfloat16)
    assert error_of(lower, exact, "forward") > 100 * bound_of(CASE, work, exact)


def test_an_error_is_the_largest_and_that_of_gradients_a_share():
    exact = torch.tensor([1.0, -4.0], dtype=torch.float64)
    answer = torch.tensor([1.5, -4.0])
    assert error_of(answer, exact, "forward") == 0.5
    assert error_of(answer, exact, "step") == 0.125
    with pytest.raises(ValueError, match="shape"):
        error_of(answer[:1], exact, "forward")


def test_who_fails_or_is_missing_has_a_reason_and_no_speed(tmp_path, monkeypatch):
    def fails(work):
        raise RuntimeError("no such instruction\nsecond line")

    monkeypatch.setitem(ENGINES, "fails", Engine("fails", fails))
    monkeypatch.setitem(ENGINES, "absent", Engine("absent", fails, "no_such_package.at_all"))
    table = run(CASE._replace(engines=("book", "fails", "absent")), tmp_path)
    assert [row.status for row in table.rows] == ["measured", "failed", "missing"]
    text = table_text(table, 120)
    assert "fails: failed: RuntimeError: no such instruction" in text
    assert "absent: not installed: pip install 'minibert[bench]'" in text
    assert "second line" not in text


def broken(where: str) -> Engine:
    """A rival that raises at one point of its life, and computes right until then."""

    def raising(*arguments):
        raise OSError(f"broken {where}")

    def prepare(work):
        right = ENGINES["book"].prepare(work)
        if where == "settings":
            return right.run
        runs = itertools.count(0 if where == "run" else -2)
        return {
            "prepare": raising,
            "answer": lambda: right._replace(answer=raising),
            "shape": lambda: right._replace(answer=lambda: right.answer()[:1]),
            "kind": lambda: right._replace(answer=lambda: None),
            "run": lambda: right._replace(run=raising),
            "last run": lambda: right._replace(run=lambda: next(runs) < 0 or raising()),
        }[where]()

    return Engine("broken", prepare, "torch.no_such_module" if where == "import" else "torch")


STAGES = ["import", "prepare", "settings", "answer", "shape", "kind", "run", "last run"]


@pytest.mark.parametrize("where", STAGES)
def test_a_broken_rival_is_a_row_that_says_why(where, tmp_path, monkeypatch):
    monkeypatch.setitem(ENGINES, "broken", broken(where))
    table = run(CASE._replace(engines=("kernels", "broken", "book")), tmp_path)
    assert [row.status for row in table.rows] == ["measured", "failed", "measured"]
    assert [len(row.times) for row in table.rows] == [2, 0, 2]
    note = table.rows[1].note
    if where in ("prepare", "answer", "run", "last run"):
        assert note == f"OSError: broken {where}"
    assert f"broken: failed: {note}" in table_text(table, 160)
    assert document(table)["rows"][1]["seconds"] is None


def test_a_broken_transformers_leaves_the_comparison_in_float64_empty(tmp_path, monkeypatch):
    def raising(*arguments):
        raise OSError("broken")

    monkeypatch.setattr("minibert.bench.accuracy.hugging_face", raising)
    monkeypatch.setitem(ENGINES, "eager", Engine("there", raising))
    table = run(CASE._replace(engines=("kernels",)), tmp_path)
    assert table.float64 is None
    assert table.rows[0].status == "measured"


# ---------------------------------------------------------------------------------------- turns


def test_rounds_interleave():
    called: list[str] = []
    runs = {name: lambda name=name: called.append(name) for name in "abc"}
    times = turns.timed(runs, rounds=3, seconds=0.0, clock=itertools.count().__next__)
    assert called == [*"abc", *"abc", *"acb", *"cab"], "one round to warm up, then three"
    assert times == {name: [1.0, 1.0, 1.0] for name in "abc"}


@pytest.mark.parametrize("count", range(1, 13))
def test_nobody_has_a_better_place_or_the_same_one_before(count):
    """Each at each place, and after each other one, equally often; nobody twice in a row."""
    names, rounds = list(range(count)), count * (1 + count % 2)
    found = list(turns.orders(names, rounds))
    assert all(sorted(order) == names for order in found)
    places = Counter((place, name) for order in found for place, name in enumerate(order))
    assert places == dict.fromkeys(itertools.product(names, names), rounds // count)
    pairs = Counter(pair for order in found for pair in itertools.pairwise(order))
    assert pairs == dict.fromkeys(itertools.permutations(names, 2), rounds // count)
    if count > 2:
        assert all(one[-1] != other[0] for one, other in itertools.pairwise(found))


def test_who_raises_is_left_out_and_the_others_go_on():
    calls: Counter[str] = Counter()

    def call(name: str, until: int) -> None:
        calls[name] += 1
        if calls[name] > until:
            raise OSError(name)

    runs = {name: functools.partial(call, name, n) for name, n in (("a", 9), ("b", 0), ("c", 2))}
    failed: dict[str, Exception] = {}
    clock = itertools.count().__next__
    times = turns.timed(runs, rounds=4, seconds=0.0, clock=clock, failed=failed)
    assert times == {"a": [1.0] * 4}
    assert calls == {"a": 5, "b": 1, "c": 3}
    assert {name: str(problem) for name, problem in failed.items()} == {"b": "b", "c": "c"}
    with pytest.raises(OSError, match="b"):
        turns.timed(runs, rounds=9, seconds=0.0, clock=clock)


def test_a_short_call_is_repeated_and_the_first_one_does_not_count():
    """A clock that moves when the call runs: 3 s at first, 1 s each time after that."""
    durations = itertools.chain([3.0], itertools.repeat(1.0))
    now = [0.0]

    def call() -> None:
        now[0] += next(durations)

    assert turns.turn(call, 10.0, lambda: now[0]) == 1.0
    assert now[0] == 10.0, "until the turn is over"
    durations, now[0] = itertools.repeat(4.0), 0.0
    assert turns.turn(call, 10.0, lambda: now[0]) == 4.0
    assert now[0] == 4.0, "a long one is measured once"


def table_of(**seconds: float) -> Table:
    row = Row("", "", operations=600, products=PLAIN, error=0.0, bound=1.0)
    rows = [
        row._replace(engine=name, name=name, times=(value, 2 * value, 9 * value))
        for name, value in seconds.items()
    ]
    return Table(CASE, 10, 20, 1, tuple(rows), dict(zip(PLAIN, (100.0, 200.0), strict=True)), None)


def test_ratios_rates_and_shares_follow_from_the_medians():
    table = table_of(own=1.0, slow=3.0, fast=0.5)
    assert [table.ratio(row) for row in table.rows] == [1.0, 3.0, 0.5]
    assert [row.rate for row in table.rows] == [300.0, 100.0, 600.0]
    assert [table.share(row) for row in table.rows] == [1.5, 0.5, 3.0]
    assert table.rows[0].quartiles == (1.5, 5.5)
    text = table_text(table, 140)
    assert "3.00x faster" in text
    assert "2.00x slower" in text
    assert "50% padding if padded" in text


def test_a_row_is_compared_with_products_of_its_own_precision_and_size():
    table = table_of(own=1.0)
    (row,) = table.rows
    table = table._replace(rates=table.rates | {INT8[0]: 1200.0})
    assert table.share(row) == 1.5, "the faster one of 100 and 200"
    assert table.share(row._replace(products=INT8)) == 0.25
    assert table.share(row._replace(products=())) is None
    assert "product: the largest linear maps alone" in table_text(table, 140)
    assert f"int8 as a share of {INT8[0]}" in table_text(table, 140)


def test_products_in_whole_numbers_are_measured_where_a_row_has_them(tmp_path):
    engines = ("kernels-int8", "kernels")
    table = run(CASE._replace(engines=engines, teacher=CONFIG), tmp_path)
    assert set(table.rates) == {*PLAIN, *INT8}
    assert all(rate > 0 for rate in table.rates.values())
    assert [row.products for row in table.rows] == [INT8, PLAIN, ()]
    assert set(run(CASE._replace(engines=("kernels",)), tmp_path).rates) == set(PLAIN)


def test_a_way_to_multiply_that_the_processor_lacks_has_no_rate(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    case = CASE._replace(engines=("kernels",))
    assert set(run(case._replace(dtype=torch.bfloat16), tmp_path).rates) == {"F.linear"}
    assert set(run(case, tmp_path).rates) == set(PLAIN)


def test_settings_that_differ_between_cases_are_all_told():
    rows = table_of(own=1.0).rows[0], table_of(own=1.0).rows[0]
    tables = [
        table_of()._replace(rows=(row._replace(note=note),))
        for row, note in zip(rows, ("fixed shapes", "free shapes"), strict=True)
    ]
    lines = settings_text([*tables, *tables], machine(Choices(), 3)).splitlines()
    assert lines[:2] == ["own: fixed shapes", "own: free shapes"]
    assert "cores" in lines[2]


# ----------------------------------------------------------------------- what is read and counted


def test_operations_are_those_counted_by_hand():
    """Width 2, feed-forward 3, one layer; sentences of 1 and of 2 tokens.

    A token goes through four maps of 2 x 2 and two of 2 x 3: 28 multiplications. Each pair of
    tokens costs 2 for its score and 2 for its share of the context.
    """
    config = BertConfig(
        vocab_size=5, hidden_size=2, num_hidden_layers=1, num_attention_heads=1, intermediate_size=3
    )
    assert operations(config, [1]) == 2 * (28 + 4)
    assert operations(config, [2]) == 2 * (2 * 28 + 4 * 4)
    two = dataclasses.replace(config, num_hidden_layers=2)
    assert operations(two, [1, 2]) == 2 * (operations(config, [1]) + operations(config, [2]))
    wide = dataclasses.replace(config, num_attention_heads=2, pruned=Pruned(((1,),), (2,)))
    assert operations(wide, [1]) == 2 * (4 * 2 * 1 + 2 * 2 * 2 + 2), "a head and a unit are gone"


@pytest.mark.parametrize(("split", "mean"), [("dev", 25.2), ("train", 13.3)])
def test_random_lengths_are_like_the_real_ones(split, mean):
    lengths = random_lengths(split, 20_000, 0)
    assert statistics.mean(lengths) == pytest.approx(mean, rel=0.03)
    assert min(lengths) >= LENGTHS[split][0]
    assert max(lengths) <= LENGTHS[split][-1]
    assert lengths[:99] == random_lengths(split, 20_000, 0)[:99]


def test_a_batch_says_where_its_padding_is():
    encodings = [Encoding([5, 6, 7], [0, 0, 0]), Encoding([8], [0])]
    batch = tokens_of(encodings, [0, 1])
    assert batch.mask_BS.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert torch.equal(batch.hide_BS, ~batch.keep_BS)
    assert batch.lengths == [3, 1]
    assert not batch.full
    assert tokens_of(encodings, [1]).full


def test_a_real_model_reads_real_sentences(tmp_path):
    tiny.write_data(tmp_path / "data", n_dev=8)
    model = tiny.classifier(seed=1, max_position_embeddings=70)
    model.save_pretrained(tmp_path / "model")
    choices = Choices(data=tmp_path / "data", model=str(tmp_path / "model"))
    work = work_of(CASE._replace(pretrained=True), choices, tmp_path)
    first = tiny.examples(8, 2)[0].first
    assert work.encodings[0] == model.tokenizer.encode([first])[0]
    assert torch.equal(work.weights.embeddings.word_VD, model.weights.embeddings.word_VD)
    assert [len(rows) for rows in work.rows] == [4, 4]
    student = work_of(CASE, choices, tmp_path)
    assert student.encodings == work.encodings
    assert not torch.equal(student.weights.embeddings.word_VD, work.weights.embeddings.word_VD)


def test_the_engines_of_every_case_exist_and_minibert_is_first():
    for case in (CASES | GPU_CASES).values():
        assert set(case.engines) <= set(ENGINES)
        assert "minibert" in ENGINES[case.engines[0]].name


def test_sorted_training_cuts_an_epoch_as_training_does(tmp_path):
    choices = Choices(seed=3)
    case = CASES["train-sorted"]._replace(config=CONFIG)
    work = work_of(case, choices, tmp_path)
    objective = LabelObjective(work.encodings, 32, 3, 0, torch.device("cpu"), CONFIG, torch.ones(0))
    assert work.rows == objective.order(0)[:8]
    assert len(work.encodings) == 32 * BATCHES_PER_CHUNK, "or all would lie closer together"
    as_they_come = work_of(CASES["train"]._replace(config=CONFIG), choices, tmp_path)

    def padding(work):
        return padding_share([len(encoding.ids) for encoding in work.encodings], work.rows)

    assert padding(work) < 0.2 < 0.6 < padding(as_they_come)
    assert CASES["train-sorted"].engines == CASES["train"].engines
    assert CASES["train-sorted-bf16"].engines == CASES["train-bf16"].engines
    assert CASES["train-sorted-bf16"].sentences == CASES["train-sorted"].sentences


def test_a_precision_of_float32_products_takes_part_in_float32_alone():
    for case in (CASES | GPU_CASES).values():
        lowered = [name for name in case.engines if ENGINES[name].matmul != "highest"]
        assert not lowered or case.dtype == torch.float32


def test_a_teacher_reads_what_its_student_reads(tmp_path):
    teacher = tiny.config(hidden_size=24, max_position_embeddings=70)
    table = run(CASE._replace(engines=("kernels",), teacher=teacher), tmp_path)
    student, last = table.rows
    assert last.name == "its teacher, minibert kernels"
    lengths = [
        length for batch in work_of(CASE, Choices(), tmp_path).batches for length in batch.lengths
    ]
    assert last.operations == operations(teacher, lengths)
    assert student.operations == operations(CONFIG, lengths)
    assert table.ratio(last) == pytest.approx(last.seconds / student.seconds)


# ---------------------------------------------------------------------------------------- a GPU


def test_a_gpu_has_cases_of_its_own_and_only_engines_that_run_there():
    here, there = cases_on("cpu"), cases_on("cuda")
    assert set(here) == set(CASES)
    assert set(there) - set(here) == set(GPU_CASES)
    assert set(here) - set(there) == {"int8"}, "minibert's own engine of this case needs a CPU"
    for device, cases in (("cpu", here), ("cuda", there)):
        for case in cases.values():
            assert all(device in ENGINES[engine].devices for engine in case.engines)
    assert here["base"] == CASES["base"]
    assert "sdpa-compile" in there["gpu-base"].engines
    assert {"onnx", "openvino"} <= set(here["base"].engines) - set(there["base"].engines)


def test_weights_and_inputs_lie_on_the_device(tmp_path):
    """On "meta", which every torch has, and which holds no numbers."""
    work = work_of(CASE, Choices(device="meta"), tmp_path)
    assert {tensor.device.type for _, tensor in named_tensors(work.weights)} == {"meta"}
    for batch in work.batches:
        assert {part.device.type for part in batch[:-1]} == {"meta"}
    assert [batch.full for batch in work.batches] == [
        batch.full for batch in work_of(CASE, Choices(), tmp_path).batches
    ]


def test_a_timed_run_ends_when_the_gpu_is_done(tmp_path, monkeypatch):
    told: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: told.append("done"))
    compare._finished_run(lambda: told.append("run"), "cuda")()
    assert told == ["run", "done"]

    def run() -> None:
        pass

    assert compare._finished_run(run, "cpu") is run, "a CPU pays nothing for it"


@pytest.mark.parametrize(
    ("case", "engine", "dynamic"),
    [(CASE, "sdpa-compile", True), (FULL, "sdpa-compile", False),
     (STEP._replace(dtype=torch.bfloat16), "step-sdpa-autocast-compile", True)],
)  # fmt: skip
def test_what_is_compiled_computes_the_same(case, engine, dynamic, tmp_path, monkeypatch):
    """The compiler is left out here: it takes half a minute, and needs one for C++."""
    asked: list[bool] = []
    monkeypatch.setattr(torch, "compile", lambda model, dynamic: asked.append(dynamic) or model)
    work, prepared = ready(case, engine, tmp_path)
    assert asked == [dynamic]
    exact = book_answer(case, work, torch.float64)
    assert error_of(prepared.answer(), exact, case.kind) <= bound_of(case, work, exact)
    prepared.run()


def test_memory_of_a_gpu_is_that_of_its_tensors(tmp_path, monkeypatch, capsys):
    """The process of its own, run here, with a GPU that is none."""
    request = {"case": "gpu-base", "engine": "book", "folder": str(tmp_path)}
    request["choices"] = Choices(torch.get_num_threads(), device="cuda")._asdict()
    work = work_of(CASE, Choices(), tmp_path)
    told: list[str] = []
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(request)))
    monkeypatch.setattr("minibert.bench.cases.work_of", lambda *arguments: work)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 1000)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: told.append("anew"))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3000)
    memory.main()
    assert json.loads(capsys.readouterr().out) == [1000, 3000]
    assert told == ["anew"]


def test_who_has_no_gpu_is_told_so_and_may_still_list_its_cases(minibert, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    answer = minibert("bench --device cuda --case gpu-base")
    assert answer.code == 2
    assert "--device cuda: torch finds no GPU here; use --device cpu" in answer.said
    answer = minibert("bench --device cuda --list --json")
    assert [row["case"] for row in answer.document["cases"]] == list(cases_on("cuda"))
    answer = minibert("bench --case gpu-base")
    assert answer.code == 2
    assert "there is no case 'gpu-base'" in answer.said


def test_the_gpu_is_named_beside_its_processor(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "H200")
    facts = machine(Choices(device="cuda"), 3)
    assert facts["device"] == "H200"
    assert f"H200 beside {facts['processor']}, " in settings_text([], facts)
    assert "beside" not in settings_text([], machine(Choices(), 3))


# --------------------------------------------------------------------------------------- memory


@pytest.mark.skipif(not memory.FORGET.exists(), reason="only Linux tells and forgets the peak")
def test_peak_memory_is_that_of_a_process_of_its_own(tmp_path):
    options = Choices()._asdict()
    found = memory.peak_memory("small-16", "book", options, tmp_path)
    assert found is not None
    weights = 4 * 4_700_000
    assert weights < found.before <= found.peak < 4e9
    assert found.above == found.peak - found.before
    with pytest.raises(RuntimeError, match="KeyError: 'no such engine'"):
        memory.peak_memory("small-16", "no such engine", options, tmp_path)


@pytest.mark.parametrize(
    "problem", [RuntimeError("OSError: no room\nsecond line"), json.JSONDecodeError("what", "", 0)]
)
def test_who_fails_when_memory_is_measured_keeps_its_times_and_says_why(
    problem, tmp_path, monkeypatch
):
    def raising(*arguments):
        raise problem

    monkeypatch.setattr(compare, "peak_memory", raising)
    table = run(CASE._replace(engines=("kernels", "book"), memory=True), tmp_path)
    for row in table.rows:
        assert (row.status, row.memory, len(row.times)) == ("measured", None, 2)
    why = f"memory not measured: {type(problem).__name__}: {str(problem).splitlines()[0]}"
    assert table.rows[0].note.endswith(f"; {why}")
    assert table.rows[1].note == why, "the book has no settings to tell"
    assert f"minibert book: {why}" in settings_text([table], machine(Choices(), 2))


@pytest.mark.skipif(not memory.FORGET.exists(), reason="only Linux tells and forgets the peak")
def test_memory_is_kept_as_where_the_times_are_measured(tmp_path, monkeypatch):
    """The process of its own, run here."""
    told: list[str] = []
    request = {"case": "small-16", "engine": "book", "folder": str(tmp_path)}
    request["choices"] = Choices(torch.get_num_threads())._asdict()
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(request)))
    monkeypatch.setattr("minibert.cli.machine.keep_memory", lambda: told.append("kept"))
    memory.main()
    assert told == ["kept"]


# ------------------------------------------------------------------------- what zeros give in speed


@pytest.fixture
def zeros(monkeypatch, tmp_path):
    """`benchmarks/zeros.py`, with tiny models whose biases are not 0."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    import zeros

    work_of = zeros.work_of
    monkeypatch.setattr(zeros, "CASES", (CASE, CASE._replace(name="one head", config=ONE_HEAD)))
    monkeypatch.setattr(zeros, "MAP", (8, 12))
    monkeypatch.setattr(zeros, "MAP_TOKENS", (3, 9))
    monkeypatch.setattr(zeros, "TURN", 0.0)
    monkeypatch.setattr(zeros, "keep_memory", lambda: None)
    monkeypatch.setattr(zeros, "work_of", lambda *given: moved_work(work_of(*given)))
    threads = str(torch.get_num_threads())
    line = ["zeros.py", "--rounds", "2", "--sentences", "9", "--threads", threads]
    monkeypatch.setattr("sys.argv", [*line, "--out", str(tmp_path)])
    return zeros


def moved_work(work):
    return work._replace(weights=moved(work.weights))


def test_zeros_and_what_is_removed_are_compared_and_timed(zeros, tmp_path, capsys):
    zeros.main()
    printed = capsys.readouterr().out
    document = json.loads((tmp_path / "zeros.json").read_text())
    rows = document["models"]["tiny"]
    for name, row in rows.items():
        assert row["error"] < 1e-5, name
        assert row["faster"] == pytest.approx(rows["dense"]["seconds"] / row["seconds"]), name
        assert f"| {name} | {row['left']:.0%} |" in printed
    in_heads, in_units, half = 4 * 12 * 12, 2 * 12 * 17, 2 * 12 * 9  # 8 of 17 units go
    left = {name: row["left"] * (in_heads + in_units) for name, row in rows.items()}
    assert left["50% zeros, CSR"] == left["50% zeros, dense kernels"]
    assert left["95% zeros, CSR"] == pytest.approx(0.05 * left["dense"], rel=0.1)
    assert left["50% of heads removed"] == pytest.approx(in_heads / 2 + in_units)
    assert left["50% of units removed"] == pytest.approx(in_heads + half)
    assert left["50% of heads and units removed"] == pytest.approx(in_heads / 2 + half)
    assert not {"25% of heads removed", "75% of heads and units removed"} & set(rows), "of two"
    assert not any("heads" in name for name in document["models"]["one head"])
    assert set(document["map"]) == {"3", "9"}
    assert document["map"]["3"]["rows"].keys() >= {"dense", "CSR 0.5", "COO 0.995"}
    assert document["map"]["9"]["error"] < 1e-5
    assert f"2:4 on a CPU: {document['2:4']}" in printed


def test_a_sparse_product_that_is_wrong_is_not_timed(zeros, tmp_path, monkeypatch):
    right = zeros.sparse_linear
    monkeypatch.setattr(zeros, "sparse_linear", lambda x, weights: right(x, weights) + 1e-2)
    with pytest.raises(SystemExit, match="tiny, 50% zeros, CSR: the error is"):
        zeros.main()
    assert not (tmp_path / "zeros.json").exists()


def test_sentences_come_from_short_to_long(zeros):
    args = argparse.Namespace(sentences=9, threads=1, data=None, model=None)
    lengths = [n for batch in zeros.work_for(CASE, args).batches for n in batch.lengths]
    assert lengths == sorted(lengths)
    assert len(set(lengths)) > 1


def test_the_share_from_which_a_form_wins_lies_between_those_measured(zeros):
    """Times of 2, 1.5 and 0.5 of dense: a straight line is at 1 half way between the last two."""
    faster = [1 / 2, 1 / 1.5, 1 / 0.5]
    assert zeros.wins_from([0.5, 0.7, 0.9], faster) == pytest.approx(0.8)
    assert zeros.wins_from([0.5, 0.7], faster[:2]) is None
    assert zeros.wins_from([0.5, 0.7], [1.2, 3.0]) == 0.5
    assert zeros.wins_from([0.5, 0.8, 0.9], [0.5, 1.2, 0.9]) is None, "it loses again"


# ----------------------------------------------------------------------------------- the command


@pytest.fixture
def small(monkeypatch):
    """The cases are tiny ones."""
    monkeypatch.setattr("minibert.bench.cases.CASES", {"tiny": FULL, "step": STEP})


QUICK = "bench --rounds 2 --seconds 0 --threads 1"


def test_the_document_is_the_documented_one(minibert, small):
    answer = minibert(f"{QUICK} --case tiny --only book --json")
    assert answer.code == 0
    expected = shape_of(documented("bench"))
    found = shape_of(answer.document)
    for dictionary in (expected, found):
        dictionary.pop("environment")  # what is set, and no more
        dictionary["cases"][0].pop("float64_difference")  # needs transformers
        dictionary["cases"][0]["rows"][0].pop("memory")  # only of the large cases
    assert found == expected
    (case,) = answer.document["cases"]
    assert [row["engine"] for row in case["rows"]] == ["kernels", "book"]
    assert len(case["rows"][0]["rounds"]) == 2
    assert answer.document["threads"] == 1


def test_the_tables_are_printed_and_say_how(minibert, small):
    answer = minibert(QUICK, "--only", "book", "--only", "step-sdpa")
    assert answer.code == 0
    assert "tiny: a tiny model; float32; 21 tokens in 1 batch" in answer.out
    assert "minibert book" in answer.out
    assert "against the book in float64; bound" in answer.out
    assert "1 threads for each; 2 rounds" in answer.out
    assert f"torch {torch.__version__}" in answer.out


def test_exit_code_1_if_minibert_itself_is_wrong(minibert, small, monkeypatch):
    monkeypatch.setitem(ENGINES, "kernels", engine_that_is_wrong(1e-2))
    answer = minibert(f"{QUICK} --case tiny --only book")
    assert answer.code == 1
    assert "no speed is shown" in answer.out


@pytest.mark.parametrize("ending", ["svg", "png"])
def test_the_chart_is_a_picture(ending, minibert, small):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: it draws the chart")
    answer = minibert(f"{QUICK} --case tiny --only book --chart chart.{ending} --json")
    assert answer.code == 0
    start = Path(f"chart.{ending}").read_bytes()
    assert start.startswith(b"\x89PNG" if ending == "png" else b"<?xml")
    if ending == "svg":
        assert b"minibert book" in start or start.count(b"<path") > 50


def test_the_list_names_all_cases(minibert):
    answer = minibert("bench --list --json")
    assert [row["case"] for row in answer.document["cases"]] == list(CASES)
    assert json.loads(answer.out)["cases"][0]["engines"] == list(CASES["base"].engines)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("bench --case nonsense", "there is no case 'nonsense'; known: base, base-bf16"),
        ("bench --only nonsense", "there is no engine 'nonsense'; known: adam"),
        ("bench --data somewhere", "--data needs --model"),
        ("bench --chart picture.jpg", "must end in .svg or .png"),
        ("bench --rounds 0", "0 is not in the range"),
    ],
)
def test_wrong_usage_is_one_sentence(line, said, minibert):
    answer = minibert(line)
    assert answer.code == 2
    assert said in answer.said


def test_a_model_that_is_not_there_is_exit_code_3(minibert):
    answer = minibert("bench --case sst2 --model ./nowhere")
    assert answer.code == 3
    assert "there is no folder" in answer.said


def test_a_chart_that_cannot_be_written_is_refused_before_anything_is_measured(minibert):
    answer = minibert("bench --case small-16 --chart nowhere/bench.svg")
    assert answer.code == 2
    assert "there is no such folder" in answer.said
