"""The tasks of GLUE: their columns, classes and metrics, and their examples from files, saved data sets or the hub.

Names of columns are those of the hub's `nyu-mll/glue`, then those of the files that the benchmark itself gives out
(Wang et al. 2018, arXiv 1804.07461).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ligo.core.errors import DataError, LigoError, nearest, require
from ligo.data.sources import jsonl_records, text_lines

SUFFIXES = (".tsv", ".tsv.gz", ".jsonl", ".jsonl.gz", ".parquet")
SPLITS: Mapping[str, tuple[str, ...]] = {
    "train": ("train",),
    "validation": ("validation", "dev", "valid", "validation_matched", "dev_matched"),
    "mismatched": ("validation_mismatched", "dev_mismatched"),
    "test": ("test",),
}
"""A split, and what files and splits of the hub are called that hold it; MNLI is validated on two."""

Record = tuple[str, Mapping[str, Any]]
"""Where something stands, for messages, and what stands there by column."""


@dataclass(frozen=True)
class Task:
    """A task on one text or two."""

    texts: tuple[tuple[str, ...], ...]
    """The columns of its texts, each by the names that it may have."""
    label: tuple[str, ...]
    """The names that the column of labels may have."""
    classes: tuple[str, ...]
    """Names of its classes, by number; none where the label is a number to be guessed."""
    metrics: tuple[str, ...]
    """The first is the one that rates are chosen by."""
    bare_columns: tuple[str, ...] = ()
    """Columns of a .tsv file without a line that names them, where there are more than texts and label."""

    @property
    def guesses_numbers(self) -> bool:
        return not self.classes


_PAIR = (("sentence1",), ("sentence2",))
_ENTAILED = ("entailment", "not_entailment")
_YES_NO = ("0", "1")

TASKS: Mapping[str, Task] = {
    "cola": Task(
        (("sentence",),), ("label",), _YES_NO, ("matthews",), ("source", "label", "mark", "sentence")
    ),
    "sst2": Task((("sentence",),), ("label",), _YES_NO, ("accuracy",)),
    "mrpc": Task(
        (("sentence1", "#1 String"), ("sentence2", "#2 String")),
        ("label", "Quality"),
        _YES_NO,
        ("f1", "accuracy"),
    ),
    "stsb": Task(_PAIR, ("label", "score"), (), ("pearson", "spearman")),
    "qqp": Task((("question1",), ("question2",)), ("label", "is_duplicate"), _YES_NO, ("f1", "accuracy")),
    "mnli": Task(
        (("premise", "sentence1"), ("hypothesis", "sentence2")),
        ("label", "gold_label"),
        ("entailment", "neutral", "contradiction"),
        ("accuracy",),
    ),
    "qnli": Task((("question",), ("sentence",)), ("label",), _ENTAILED, ("accuracy",)),
    "rte": Task(_PAIR, ("label",), _ENTAILED, ("accuracy",)),
    "wnli": Task(_PAIR, ("label",), _YES_NO, ("accuracy",)),
}


@dataclass(frozen=True)
class Example:
    """One text or two, and the number of their class, or the number to be guessed."""

    texts: tuple[str, ...]
    label: float


class MissingSplit(DataError):
    """There is data, and it has no such split."""


def read_examples(path: str, split: str, task: Task, name: str) -> list[Example]:
    """All examples of one split.

    Args:
        path: a file; a folder with a file for each split, or saved by `datasets`; or a hub id.
        split: a key of SPLITS; a file is read whatever the split.
        name: of the task: the configuration of a data set on the hub.

    Raises:
        MissingSplit: a folder or a data set has no such split.
        DataError: nothing is there, it cannot be read or is empty, or a row lacks a column or has no such class; file
            and line are named.
    """
    examples = [_example(where, record, task) for where, record in _records(path, split, task, name)]
    if not examples:
        raise DataError(
            f"{path} holds no example of the split {split}: it is empty.\n  Try: evaluation.path=ANOTHER_FILE_OR_FOLDER"
        )
    return examples


# --- rows ----------------------------------------------------------------------------------------------------


def _example(where: str, record: Mapping[str, Any], task: Task) -> Example:
    texts = tuple(_text(where, record, names) for names in task.texts)
    return Example(texts, _label(where, _value(where, record, task.label), task))


def _value(where: str, record: Mapping[str, Any], names: Sequence[str]) -> Any:
    for name in names:
        if name in record:
            return record[name]
    close = nearest(names[0], record)
    raise DataError(
        f"{where}: there is no column '{names[0]}'"
        + (f" (nor {', '.join(names[1:])})" if names[1:] else "")
        + f".\n  There: {', '.join(map(str, record)) or 'nothing'}.\n"
        + f"  Try: rename '{close or next(iter(record), 'a column')}' to '{names[0]}', or another evaluation.task="
    )


def _text(where: str, record: Mapping[str, Any], names: Sequence[str]) -> str:
    value = _value(where, record, names)
    if not isinstance(value, str):
        raise DataError(
            f"{where}: '{names[0]}' is a {type(value).__name__}, not text.\n  Try: correct or remove it"
        )
    return value


def _label(where: str, value: Any, task: Task) -> float:
    """The number of a class, from its number or its name; or the number itself."""
    word = str(value).strip()
    if task.guesses_numbers:
        try:
            number = float(word)
        except ValueError:
            number = math.nan
        if math.isfinite(number):
            return number
        raise DataError(f"{where}: the label {word!r} is no number.\n  Try: correct or remove it")
    if word in task.classes:
        return float(task.classes.index(word))
    if word.isdigit() and int(word) < len(task.classes):
        return float(word)
    hidden = (
        " Public test splits of GLUE have -1 for labels that are kept secret."
        if word in ("-1", "-1.0")
        else ""
    )
    raise DataError(
        f"{where}: the label {word!r} is none of the task's {len(task.classes)} classes, 0 to {len(task.classes) - 1} "
        f"({', '.join(task.classes)}).{hidden}\n  Try: another evaluation.task=, or remove such rows"
    )


# --- where rows come from ------------------------------------------------------------------------------------


def _records(path: str, split: str, task: Task, name: str) -> Iterator[Record]:
    local = Path(path).expanduser()
    if local.is_dir() and not _is_saved(local):
        files = _files_of(local, split)
        if not files:
            there = ", ".join(sorted(file.name for file in local.iterdir())[:6]) or "nothing"
            wanted = " or ".join(
                f"{word}{suffix}" for word in SPLITS[split][:2] for suffix in (".tsv", ".jsonl")
            )
            raise MissingSplit(
                f"the folder {path} has no split {split}: there is {there}.\n  Try: name it {wanted}, or .parquet"
            )
        for file in files:
            yield from _file_records(file, task)
    elif local.is_file():
        yield from _file_records(local, task)
    else:
        yield from _library_records(path, local, split, name)


def _files_of(folder: Path, split: str) -> list[Path]:
    """The files of a split: NAME.SUFFIX, or the hub's NAME-00000-of-00001.parquet; of several names, those of the first."""
    for word in SPLITS[split]:
        whole = [folder / f"{word}{suffix}" for suffix in SUFFIXES if (folder / f"{word}{suffix}").is_file()]
        found = whole[:1] or sorted(folder.glob(f"{word}-[0-9]*-of-[0-9]*.parquet"))
        if found:
            return found
    return []


def _file_records(file: Path, task: Task) -> Iterator[Record]:
    if file.name.endswith((".tsv", ".tsv.gz")):
        return _tsv_records(file, task)
    if file.name.endswith((".jsonl", ".jsonl.gz")):
        columns = [names[0] for names in (*task.texts, task.label)]
        return jsonl_records(file, "{" + ", ".join(f'"{column}": ...' for column in columns) + "}")
    if file.name.endswith(".parquet"):
        return _parquet_records(file)
    raise DataError(
        f"cannot tell how to read {file}: its name ends in none of {', '.join(SUFFIXES)}.\n"
        "  Try: rename it, to .tsv if columns are parted by tabs"
    )


def _tsv_records(file: Path, task: Task) -> Iterator[Record]:
    """Columns parted by tabs, never quoted, as GLUE's files are; a first line that names the columns may be missing."""
    known = {name for names in (*task.texts, task.label) for name in names}
    bare = task.bare_columns or tuple(names[0] for names in (*task.texts, task.label))
    columns: Sequence[str] | None = None
    for number, line in enumerate(text_lines(file), start=1):
        fields = line.rstrip("\n").split("\t")
        if columns is None:
            is_header = bool(known & set(fields))
            columns = fields if is_header else bare
            if is_header:
                continue
        if line.strip():
            if len(fields) != len(columns):
                raise DataError(
                    f"{file}, line {number}: {len(fields)} column(s), and {len(columns)} are needed "
                    f"({', '.join(columns)}).\n  Try: one tab between columns, and a first line that names them"
                )
            yield f"{file}, line {number}", dict(zip(columns, fields, strict=True))


def _parquet_records(file: Path) -> Iterator[Record]:
    arrow = require("pyarrow", extra="data", why=f"reading {file.name}")
    parquet = require("pyarrow.parquet", extra="data", why=f"reading {file.name}")
    try:
        rows = parquet.read_table(file).to_pylist()
    except (arrow.ArrowException, OSError) as error:
        raise DataError(
            f"cannot read {file} as parquet: {str(error).splitlines()[0]}.\n  Try: fetch the file again"
        ) from error
    for number, row in enumerate(rows, start=1):
        yield f"{file}, row {number}", row


def _is_saved(folder: Path) -> bool:
    """Whether the library `datasets` saved the folder, with its splits."""
    return (folder / "dataset_dict.json").is_file()


def _library_records(path: str, local: Path, split: str, name: str) -> Iterator[Record]:
    """A folder saved by `datasets`, or a data set on the hub; a missing split of the latter is the library's to tell."""
    datasets = require("datasets", extra="data", why=f"evaluation.path={path}, which is no file")
    try:
        found = datasets.load_from_disk(str(local)) if local.is_dir() else datasets.load_dataset(path, name)
        present = next((word for word in SPLITS[split] if word in found), None)
        if present is None:
            raise MissingSplit(
                f"{path} has no split {split}: there is {', '.join(found)}.\n  Try: evaluation.path=ANOTHER"
            )
        for number, row in enumerate(found[present], start=1):
            yield f"{path}, {present}, row {number}", row
    except LigoError:
        raise
    except Exception as error:  # the library fails in many ways, offline above all
        raise DataError(
            f"there is no file or folder {path} here, and the hub data set {path} (configuration {name}) cannot be read: "
            f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}\n"
            "  Check the name and the network, or give a local folder.\n  Try: evaluation.path=FOLDER"
        ) from error
