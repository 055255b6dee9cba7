"""GLUE's files are read as they are given out, what is wrong in them is named by its line, and metrics are worked by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ligo.core.errors import DataError
from ligo.evaluation.finetuning.glue import TASKS, Example, MissingSplit, read_examples
from ligo.evaluation.finetuning.metrics import METRICS, score

_WORDS = {"sentence": "a b", "sentence1": "a", "sentence2": "b", "question": "why", "question1": "a", "question2": "b",
          "premise": "a", "hypothesis": "b"}  # fmt: skip
_LABELS = {
    "mnli": ["neutral", "2", 0],
    "qnli": ["not_entailment", "0", 1],
    "rte": ["entailment", "1", 0],
    "stsb": ["3.8", 0, 5.0],
}
_EXPECTED = {"mnli": [1, 2, 0], "qnli": [1, 0, 1], "rte": [0, 1, 0], "stsb": [3.8, 0.0, 5.0]}


@pytest.mark.parametrize("name", TASKS)
def test_every_task_is_read_by_the_hubs_columns_and_by_those_of_its_own_files(
    tmp_path: Path, name: str
) -> None:
    """The last name of each column is that of the benchmark's own files."""
    task = TASKS[name]
    labels = _LABELS.get(name, ["0", 1, "1"])
    expected = [
        Example(tuple(_WORDS[names[0]] for names in task.texts), float(one))
        for one in _EXPECTED.get(name, [0, 1, 1])
    ]
    hub = [
        {**{names[0]: _WORDS[names[0]] for names in task.texts}, task.label[0]: label, "idx": 1}
        for label in labels
    ]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, hub)))
    assert read_examples(str(tmp_path), "train", task, name) == expected

    columns = ["id", *(names[-1] for names in task.texts), task.label[-1]]
    lines = [columns, *(["7", *(_WORDS[names[0]] for names in task.texts), str(label)] for label in labels)]
    (tmp_path / "dev.tsv").write_text("\n".join("\t".join(line) for line in lines))
    assert read_examples(str(tmp_path), "validation", task, name) == expected


def test_files_without_a_header_have_the_columns_that_the_benchmark_gives_them(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text('gj04\t1\t\tHe said "no.\ngj04\t0\t*\tHim said no.\n')
    cola = read_examples(str(tmp_path), "train", TASKS["cola"], "cola")
    assert cola == [Example(('He said "no.',), 1.0), Example(("Him said no.",), 0.0)]
    (tmp_path / "dev.tsv").write_text("a fine film\t1\n\na dull one\t0\n")
    sst2 = read_examples(str(tmp_path), "validation", TASKS["sst2"], "sst2")
    assert sst2 == [Example(("a fine film",), 1.0), Example(("a dull one",), 0.0)]


def test_parquet_shards_and_saved_data_sets_hold_the_same_examples(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = {"sentence": ["a", "b", "c"], "label": [0, 1, 1], "idx": [0, 1, 2]}
    expected = [
        Example((text,), float(label)) for text, label in zip(rows["sentence"], rows["label"], strict=True)
    ]
    whole = datasets.Dataset.from_dict(rows)
    datasets.DatasetDict({"train": whole, "validation": whole}).save_to_disk(tmp_path / "saved")
    (tmp_path / "hub").mkdir()
    whole.select([0, 1]).to_parquet(tmp_path / "hub" / "train-00000-of-00002.parquet")
    whole.select([2]).to_parquet(tmp_path / "hub" / "train-00001-of-00002.parquet")
    for folder in ("saved", "hub"):
        assert read_examples(str(tmp_path / folder), "train", TASKS["sst2"], "sst2") == expected
    with pytest.raises(MissingSplit, match="no split mismatched: there is train, validation"):
        read_examples(str(tmp_path / "saved"), "mismatched", TASKS["sst2"], "sst2")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("sentence\tlabel\na\t1\nb\t2\n", "line 3: the label '2' is none of the task's 2 classes, 0 to 1"),
        ("sentence\tlabel\na\t-1\n", "line 2: the label '-1' .*Public test splits of GLUE have -1"),
        ("sentence\tgold\na\t1\n", "line 2: there is no column 'label'.\n  There: sentence, gold."),
        ("text\tlabel\na\t1\n", "line 2: there is no column 'sentence'.*rename 'text'"),
        ("a fine film\t1\na dull one\n", "line 2: 1 column.s., and 2 are needed .sentence, label."),
        ("sentence\tlabel\n", "holds no example of the split train: it is empty"),
        ("", "holds no example of the split train: it is empty"),
    ],
)
def test_what_is_wrong_in_a_file_is_refused_with_its_line(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "train.tsv").write_text(content)
    with pytest.raises(DataError, match=f"(?s){words}"):
        read_examples(str(tmp_path), "train", TASKS["sst2"], "sst2")


def test_what_is_not_there_is_refused_with_what_is(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(MissingSplit, match="(?s)no split validation: there is notes.txt.*validation.tsv or"):
        read_examples(str(tmp_path), "validation", TASKS["sst2"], "sst2")
    with pytest.raises(DataError, match="cannot tell how to read .*notes.txt"):
        read_examples(str(tmp_path / "notes.txt"), "validation", TASKS["sst2"], "sst2")
    (tmp_path / "train.jsonl").write_text('{"sentence": 3, "label": 1}\n')
    with pytest.raises(DataError, match="line 1: 'sentence' is a int, not text"):
        read_examples(str(tmp_path), "train", TASKS["sst2"], "sst2")
    (tmp_path / "train.jsonl").write_text('{"sentence1": "a", "sentence2": "b", "score": "much"}\n')
    with pytest.raises(DataError, match="line 1: the label 'much' is no number"):
        read_examples(str(tmp_path), "train", TASKS["stsb"], "stsb")


# two right of four; of class 1 two found, one missed, one too many
_RIGHT, _GIVEN = np.array([1, 0, 1, 1]), np.array([1, 1, 1, 0])
# deviations from the means: -1.5 -.5 .5 1.5 and -1.75 .25 -.75 2.25; ranks 1 2 3 4 and 1 3 2 4
_NUMBERS, _GUESSES = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 3.0, 2.0, 5.0])


@pytest.mark.parametrize(
    ("metric", "right", "given", "expected"),
    [
        ("accuracy", _RIGHT, _GIVEN, 2 / 4),
        ("f1", _RIGHT, _GIVEN, 2 * 2 / (2 * 2 + 1 + 1)),
        ("matthews", _RIGHT, _GIVEN, (2 * 0 - 1 * 1) / (3 * 3 * 1 * 1) ** 0.5),
        ("pearson", _NUMBERS, _GUESSES, 5.5 / (5 * 8.75) ** 0.5),
        ("spearman", _NUMBERS, _GUESSES, 1 - 6 * 2 / (4 * (16 - 1))),
        ("f1", np.zeros(3), np.zeros(3), 0.0),
        ("matthews", _RIGHT, np.ones(4), 0.0),
        ("pearson", _NUMBERS, np.ones(4), 0.0),
        ("spearman", np.ones(4), _NUMBERS, 0.0),
    ],
)
def test_metrics_are_as_worked_by_hand(
    metric: str, right: np.ndarray, given: np.ndarray, expected: float
) -> None:
    assert score([metric], right, given) == {metric: pytest.approx(expected, abs=1e-12)}


def test_every_task_is_scored_by_metrics_that_there_are() -> None:
    assert {metric for task in TASKS.values() for metric in task.metrics} == set(METRICS)
    assert (TASKS["cola"].metrics, TASKS["mrpc"].metrics, TASKS["stsb"].metrics) == (
        ("matthews",),
        ("f1", "accuracy"),
        ("pearson", "spearman"),
    )
