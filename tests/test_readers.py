"""Readers: the four GLUE corpora, every format, and every way in which a row can be bad."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibert.data.readers import TASKS, DataError, find_split, read_dataset, read_texts

GLUE_COUNTS = {
    "sst2": (67_349, 872),
    "cola": (8_551, 1_043),
    "mrpc": (3_668, 408),
    "stsb": (5_749, 1_500),
}


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.real
@pytest.mark.parametrize("task", GLUE_COUNTS)
def test_glue_corpora_have_their_published_sizes(data_dir, task):
    for split, count in zip(("train", "dev"), GLUE_COUNTS[task], strict=True):
        data = read_dataset(find_split(data_dir / task, split), task)
        assert (len(data), data.task) == (count, TASKS[task])
        assert len({example.label for example in data.examples}) >= 2
        assert all(bool(example.second) == TASKS[task].pair for example in data.examples)


@pytest.mark.real
@pytest.mark.parametrize("task", GLUE_COUNTS)
def test_the_header_tells_the_task_of_glue_files(data_dir, task):
    data = read_dataset(find_split(data_dir / task, "dev"))
    told = read_dataset(data.path, task)
    assert data.task.name == ("classify" if task == "sst2" else task)  # sst2 has a general header
    assert data.examples == told.examples


def test_quotes_in_tsv_are_characters(tmp_path):
    path = write(tmp_path, "a.tsv", 'sentence\tlabel\n"open\t1\nshut "\t0\n')
    assert [e.first for e in read_dataset(path, "sst2").examples] == ['"open', 'shut "']


def test_csv_quotes_hold_commas_quotes_and_line_breaks(tmp_path):
    path = write(tmp_path, "a.csv", 'label,text\r\n1,"a, ""b""\r\nc"\r\n0,d\r\n')
    assert [tuple(e) for e in read_dataset(path).examples] == [
        ('a, "b"\r\nc', None, 1),
        ("d", None, 0),
    ]


def test_jsonl_takes_typed_labels_and_any_order_of_names(tmp_path):
    path = write(tmp_path, "a.jsonl", '{"text": "a", "label": true}\n{"label": false, "text":"b"}')
    data = read_dataset(path)
    assert data.task.label_names == ("false", "true")
    assert [tuple(e) for e in data.examples] == [("a", None, 1), ("b", None, 0)]


@pytest.mark.parametrize("task", [None, "cola"])
def test_cola_without_header_keeps_its_first_line(tmp_path, task):
    path = write(tmp_path, "a.tsv", "gj04\t1\t\tIt works.\ngj04\t0\t*\tWork it do.")
    data = read_dataset(path, task)
    assert data.task.name == "cola"
    assert [tuple(e) for e in data.examples] == [("It works.", None, 1), ("Work it do.", None, 0)]


@pytest.mark.parametrize("ending", ["tsv", "csv", "jsonl"])
def test_byte_order_mark_and_carriage_returns_leave_no_trace(tmp_path, ending):
    rows = {
        "tsv": "sentence\tlabel\r\na\t0\r\nb\t1\r\n",
        "csv": "sentence,label\r\na,0\r\nb,1\r\n",
        "jsonl": '{"sentence": "a", "label": 0}\r\n{"sentence": "b", "label": 1}\r\n',
    }[ending]
    data = read_dataset(write(tmp_path, f"a.{ending}", b"\xef\xbb\xbf" + rows.encode()), "sst2")
    assert [tuple(e) for e in data.examples] == [("a", None, 0), ("b", None, 1)]


@pytest.mark.parametrize(
    ("header", "task"),
    [
        ("Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", "mrpc"),
        ("index\tgenre\tsentence1\tsentence2\tscore", "stsb"),
        ("sentence1\tsentence2\tscore", "regress"),
        ("text\tscore", "regress"),
        ("Sentence\tLabel", "classify"),
        ("text\ttext2\tlabel", "classify"),
    ],
)
def test_the_header_tells_the_task(tmp_path, header, task):
    width = len(header.split("\t"))
    path = write(tmp_path, "a.tsv", "\n".join([header, *("\t".join([c] * width) for c in "01")]))
    data = read_dataset(path)
    assert data.task.name == task
    assert data.task.pair == ("2" in header)
    assert [float(e.label) for e in data.examples] == [0.0, 1.0]


def test_class_names_come_from_training_and_bind_the_development_file(tmp_path):
    train = read_dataset(write(tmp_path, "train.tsv", "text\tlabel\na\tspam\nb\tham\nc\tspam"))
    assert train.task.label_names == ("ham", "spam")
    assert [e.label for e in train.examples] == [1, 0, 1]
    dev = write(tmp_path, "dev.tsv", "text\tlabel\nd\tspam")
    assert read_dataset(dev, "classify", train.task.label_names).examples[0].label == 1
    bad = write(tmp_path, "bad.tsv", "text\tlabel\nd\tspam\ne\teggs")
    with pytest.raises(DataError, match=r"bad\.tsv, line 3: the label is 'eggs'.*ham, spam"):
        read_dataset(bad, "classify", train.task.label_names)


def test_numbers_as_class_names_are_names_and_sort_as_numbers(tmp_path):
    rows = "".join(f"a\t{label}\n" for label in (10, 9, 2))
    train = read_dataset(write(tmp_path, "train.tsv", "text\tlabel\n" + rows))
    assert train.task.label_names == ("2", "9", "10")
    dev = write(tmp_path, "dev.tsv", "text\tlabel\nd\t0")
    with pytest.raises(DataError, match="line 2"):  # not an index: "0" is no class here
        read_dataset(dev, label_names=train.task.label_names)
    assert read_dataset(dev, label_names=("bad", "good")).examples[0].label == 0


def test_limit_keeps_the_first_rows_but_all_class_names(tmp_path):
    path = write(tmp_path, "a.tsv", "text\tlabel\na\tx\nb\ty\nc\tz\n")
    data = read_dataset(path, limit=1)
    assert (len(data), data.task.label_names) == (1, ("x", "y", "z"))
    assert data.summary() == f"{path}: classify, 1 rows (x: 1, y: 0, z: 0)"
    with pytest.raises(DataError, match="limit of 0"):
        read_dataset(path, limit=0)


# Each file, the task to read it as, and what the message must say, the line included.
BAD_FILES = {
    "too few columns": ("a.tsv", "text\tlabel\na\t1\nb\n", "sst2", "line 3: 1 column, but 2"),
    "too many columns": ("a.tsv", "text\tlabel\na\t1\t2\n", "sst2", "line 2: 3 columns, but 2"),
    "blank line": ("a.tsv", "text\tlabel\n\na\t1\n", "sst2", "line 2: 1 column"),
    "blank csv line": ("a.csv", "text,label\na,1\n\n", "sst2", "line 3: 0 columns"),
    "cola columns": ("a.tsv", "g\t1\t\tok\ng\t1\tno\n", None, "line 2: 3 columns, but 4"),
    "label out of range": ("a.tsv", "text\tlabel\na\t2\n", "sst2", "line 2: the label is '2'"),
    "label not a class": ("a.tsv", "g\tyes\t\tok", "cola", "line 1: the label is 'yes'"),
    "no label": ("a.tsv", "text\tlabel\na\t \n", "sst2", "line 2: the label is empty"),
    "score too high": ("a.tsv", "text\ttext2\tscore\na\tb\t5.1\n", "stsb", "line 2: .*5.1.*0 and"),
    "label of pandas": (
        "a.jsonl", '{"sentence": "a", "label": 1.0}\n{"sentence": "b", "label": NaN}\n', "classify",
        "line 2: the label is missing, NaN",
    ),
    "score nan": ("a.tsv", "text\tscore\na\tnan\n", None, "line 2: .*'nan'.*number"),
    "score infinite": ("a.tsv", "text\tscore\na\t1e999\n", None, "line 2: .*'1e999'.*number"),
    "score a word": ("a.tsv", "text\tscore\na\t1\nb\tx", None, "line 3: .*'x'.*number"),
    "class or score": ("a.tsv", "text\tlabel\na\t1\nb\t0.5", None, "line 3: .*0.5 may be a class"),
    "empty sentence": ("a.tsv", "text\tlabel\n  \t1\n", "sst2", "line 2: the sentence is empty"),
    "empty second": (
        "a.tsv", "text\ttext2\tlabel\na\t\t1", "mrpc", "line 2: the second sentence is empty"
    ),
    "nul": ("a.tsv", "text\tlabel\na\t1\nb\0c\t1", "sst2", "line 3: the sentence holds a NUL"),
    "not utf-8": ("a.tsv", b"text\tlabel\na\t1\nb\xff\t1", "sst2", "line 3: byte 0xff"),
    "half a surrogate": ("a.jsonl", '{"text": "\\ud800", "label": 1}', "sst2", "line 1: .*surrog"),
    "open quote": ("a.csv", 'text,label\na,1\n"b,1\n', "sst2", "line 3: unexpected end"),
    "not json": ("a.jsonl", '{"text": "a", "label": 1}\n{', "sst2", "line 2: not JSON"),
    "deep json": ("a.jsonl", "[" * 100_000, "sst2", "line 1: not JSON"),
    "json list": ("a.jsonl", "[1]", "sst2", "line 1: .*not an object"),
    "json text": ("a.jsonl", '{"text": 3, "label": 1}', "sst2", "line 1: the sentence is 3"),
    "json name": (
        "a.jsonl", '{"text": "a", "label": 1}\n{"text": "a"}', "sst2", "line 2: the names are text"
    ),
    "json new name": (
        "a.jsonl", '{"text": "a", "label": 1}\n{"text": "a", "text2": "b", "label": 1}', None,
        "line 2: the names are",
    ),
    "one class": ("a.tsv", "text\tlabel\na\tx\n", None, "every label is 'x'"),
    "header only": ("a.tsv", "text\tlabel\n", None, "no row"),
    "empty": ("a.tsv", "", None, "file is empty"),
    "only a mark": ("a.csv", b"\xef\xbb\xbf\n", None, "file is empty"),
    "no sentence": ("a.tsv", "x\tlabel\na\t1", None, "no column for the sentence.*x, label"),
    "no label column": ("a.tsv", "index\tsentence\n1\ta", None, "no column for the label.*predict"),
    "two labels": ("a.tsv", "text\tlabel\tscore\na\t1\t1", None, "label, score could all be"),
    "same name twice": ("a.tsv", "text\tlabel\tLabel\na\t1\t1", None, "2 columns are called"),
    "pair for sst2": ("a.tsv", "text\ttext2\tlabel\na\tb\t1", "sst2", "needs one sentence"),
    "single for mrpc": ("a.tsv", "text\tlabel\na\t1", "mrpc", "needs two sentences"),
    "ending": ("a.txt", "text\tlabel\na\t1", None, "'.txt' is unknown"),
    "task": ("a.tsv", "text\tlabel\na\t1", "mnli", "task 'mnli' is unknown"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_rows_stop_with_file_line_and_reason(tmp_path, case):
    name, content, task, message = BAD_FILES[case]
    with pytest.raises(DataError, match=message) as caught:
        read_dataset(write(tmp_path, name, content), task)
    assert "\n" not in str(caught.value)
    assert case == "task" or name in str(caught.value)


@pytest.mark.parametrize(("task", "names"), [("sst2", ("a", "b", "c")), ("regress", ("a", "b"))])
def test_class_names_must_fit_the_task(tmp_path, task, names):
    path = write(tmp_path, "a.tsv", "text\tlabel\na\t1\n")
    with pytest.raises(DataError, match=r"were given|was given"):
        read_dataset(path, task, names)


CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\t\n\r\0\ufeff")


@given(st.lists(st.tuples(st.text(CHARACTERS, min_size=1), st.booleans()), min_size=1))
def test_tsv_gives_back_any_text_however_odd(tmp_path_factory, rows):
    rows = [(f"x{text}x", int(label)) for text, label in rows]
    content = "".join(f"{text}\t{label}\n" for text, label in rows)
    path = write(tmp_path_factory.mktemp("tsv"), "a.tsv", "sentence\tlabel\n" + content)
    assert [(e.first, e.label) for e in read_dataset(path, "sst2").examples] == rows


@given(st.binary(max_size=200), st.sampled_from(["tsv", "csv", "jsonl"]))
def test_no_bytes_raise_anything_but_a_data_error(tmp_path_factory, content, ending):
    path = write(tmp_path_factory.mktemp("bytes"), f"a.{ending}", b"text\tlabel\na\t" + content)
    try:
        outcome = f"{len(read_dataset(path))} rows in {path}"
    except DataError as error:
        outcome = str(error)
    assert str(path) in outcome


def test_find_split_knows_the_names_and_prefers_dev_to_test(tmp_path):
    for name in ("train.csv", "test.csv", "notes.txt"):
        write(tmp_path, name, "x")
    assert find_split(tmp_path, "train").name == "train.csv"
    assert find_split(tmp_path, "dev").name == "test.csv"
    write(tmp_path, "validation-00000-of-00001.parquet", "x")
    assert find_split(tmp_path, "dev").name == "validation-00000-of-00001.parquet"
    assert find_split(tmp_path / "notes.txt", "dev").name == "notes.txt"


def test_find_split_refuses_to_guess(tmp_path):
    with pytest.raises(DataError, match=r"no train file; need train with.*holds nothing"):
        find_split(tmp_path, "train")
    for name in ("dev.tsv", "val.tsv", "readme.md"):
        write(tmp_path, name, "x")
    with pytest.raises(DataError, match=r"dev\.tsv, val\.tsv"):
        find_split(tmp_path, "dev")
    with pytest.raises(DataError, match=r"holds dev\.tsv, readme\.md, val\.tsv"):
        find_split(tmp_path, "train")
    with pytest.raises(DataError, match="no such file or folder"):
        find_split(tmp_path / "absent", "train")
    with pytest.raises(DataError, match="folder, but one file"):
        read_dataset(tmp_path)


def test_texts_are_lines_and_blank_ones_are_refused(tmp_path):
    path = write(tmp_path, "a.txt", "one \r\ntwo\u2028halves\n")
    assert read_texts(path) == ["one", "two\u2028halves"]
    with pytest.raises(DataError, match=r"b\.txt, line 2: the text is empty"):
        read_texts(write(tmp_path, "b.txt", "one\n \nthree\n"))
    with pytest.raises(DataError, match="No such file"):
        read_texts(tmp_path / "absent.txt")


def test_parquet_reads_typed_columns(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="parquet needs the extra [data]")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"sentence1": ["a", "b"], "sentence2": ["c", "d"], "label": [0.5, 5.0]})
    parquet.write_table(table, tmp_path / "a.parquet")
    data = read_dataset(tmp_path / "a.parquet", "stsb")
    assert [tuple(e) for e in data.examples] == [("a", "c", 0.5), ("b", "d", 5.0)]
    parquet.write_table(table.set_column(2, "label", [[1.0, 9.0]]), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet, row 2: the label is 9\.0"):
        read_dataset(tmp_path / "a.parquet", "stsb")
    with pytest.raises(DataError, match="not a readable parquet file"):
        read_dataset(write(tmp_path, "b.parquet", "PAR1"))
    broken = pyarrow.array([b"\xff", b"good"]).cast(pyarrow.string(), safe=False)
    parquet.write_table(pyarrow.table({"sentence": broken}), tmp_path / "c.parquet")
    with pytest.raises(DataError, match="not a readable parquet file"):
        read_dataset(tmp_path / "c.parquet")
    columns = [table["sentence1"], table["label"], table["label"], table["label"]]
    twice = pyarrow.Table.from_arrays(columns, names=["sentence", "score", "mine", "mine"])
    parquet.write_table(twice, tmp_path / "d.parquet")
    data = read_dataset(tmp_path / "d.parquet", "regress")
    assert [tuple(e) for e in data.examples] == [("a", None, 0.5), ("b", None, 5.0)]


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"needs pyarrow; run: pip install 'minibert\[data\]'"):
        read_dataset(write(tmp_path, "a.parquet", "PAR1"))


def test_reading_loads_neither_torch_nor_numpy(tmp_path):
    path = write(tmp_path, "a.tsv", "text\tlabel\na\tx\nb\ty\n")
    code = (
        "import json, sys; from minibert.data.readers import read_dataset; "
        f"n = len(read_dataset({str(path)!r})); "
        "print(json.dumps([n, 'torch' in sys.modules, 'numpy' in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [2, False, False]


def test_a_cell_of_csv_may_be_as_long_as_a_line_of_tsv(tmp_path):
    """Python's own limit is 131,072 characters."""
    text = "good " * 40_000
    (tmp_path / "a.csv").write_text(f"text,label\n{text},1\nbad,0\n")
    assert read_dataset(tmp_path / "a.csv").examples[0].first == text.strip()
