"""Where text comes from: files, folders, files inside installed packages, hub data sets.

Whatever the source, what comes out is a stream of documents, one string each. Everything that can be wrong
with text is found here and named with its file and, where there are lines, its line.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from ligo.core.errors import ConfigError, DataError, LigoError, nearest, require
from ligo.core.files import from_json
from ligo.data.config import DataConfig

SUFFIXES = (".txt", ".txt.gz", ".jsonl", ".jsonl.gz", ".parquet")
_PACKAGE = "package:"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def documents(path: str | None, config: DataConfig) -> Iterator[str]:
    """Stream the documents of `path`, in a fixed order, without the empty ones.

    Raises:
        ConfigError: no path is given, or the package of a package: path is not installed.
        DataError: nothing is there, it cannot be read, or it holds no text; some of these only while the
            stream is read.
    """
    files = source_files(path, config)
    assert path is not None
    streams: Iterable[Iterator[str]]
    if not files:
        streams = [_hub_documents(path, config)]
    elif (saved := _saved_by_datasets(local_path(path, config))) is not None:
        streams = [_join_groups(_saved_records(saved, config), config)]
    else:
        streams = (_file_documents(file, config) for file in files)
    return _at_least_one((text for stream in streams for text in stream), path, config)


def source_files(path: str | None, config: DataConfig) -> list[Path]:
    """The files that `path` stands for, in the order they are read; empty when it is a hub id.

    Raises:
        ConfigError: no path is given, or the package of a package: path is not installed.
        DataError: nothing is there, or nothing that can be read.
    """
    local = local_path(path, config)
    assert path is not None
    saved = _saved_by_datasets(local)
    if saved is not None:
        return sorted(saved.glob("*.arrow"))
    if local.is_dir():
        inside = sorted(file for file in local.rglob("*") if file.is_file() and not file.name.startswith("."))
        files = [file for file in inside if file.name.endswith(SUFFIXES)]
        if not files:
            others = ", ".join(file.name for file in inside[:5]) or "nothing"
            raise DataError(
                f"the folder {path} holds no text that can be read: there is {others}"
                f"{', ...' if len(inside) > 5 else ''}.\n  Files must end in one of {', '.join(SUFFIXES)}."
                f"\n  Try: {_option(path, config)}=ANOTHER_FOLDER"
            )
        return files
    if local.exists():
        if not local.name.endswith(SUFFIXES):
            raise DataError(
                f"cannot tell how to read {path}: its name ends in none of {', '.join(SUFFIXES)}.\n"
                f"  Try: rename it, for example to {local.stem}.txt if it is plain text"
            )
        return [local]
    if _HUB_ID.fullmatch(path) and not path.endswith(SUFFIXES):
        return []
    there = [file.name for file in local.parent.iterdir()] if local.parent.is_dir() else []
    close = nearest(local.name, there)
    raise DataError(
        f"{path} does not exist"
        + ("" if local.parent.is_dir() else f", nor does the folder {Path(path).parent}")
        + f".\n  Try: {_option(path, config)}={Path(path).with_name(close) if close else 'FILE_OR_FOLDER'}"
    )


def _option(path: str, config: DataConfig) -> str:
    """The option that `path` was typed as."""
    key = "validation_path" if path == config.validation_path != config.path else "path"
    return f"{config.section}.{key}"


def cache_folder(config: DataConfig) -> Path:
    """Where what is made of the data is kept."""
    return Path(config.cache_dir or os.environ.get("LIGO_CACHE") or "~/.cache/ligo").expanduser()


def local_path(path: str | None, config: DataConfig) -> Path:
    """`path` as a place on this machine, which need not exist.

    Raises:
        ConfigError: no path is given, or the package of a package: path is not installed.
        DataError: the package has no such file.
    """
    if not path:
        raise ConfigError(
            f"{config.section}.path is not set, so there is nothing to train on.\n"
            f"  Try: data=kjv, or {config.section}.path=FILE_OR_FOLDER, for example {config.section}.path=texts/train.txt"
        )
    return _in_package(path, config) if path.startswith(_PACKAGE) else Path(path).expanduser()


def _in_package(path: str, config: DataConfig) -> Path:
    """package:NAME/FILE -> that file of the installed package, whose code is not run."""
    package, _, inside = path.removeprefix(_PACKAGE).partition("/")
    if not package.isidentifier() or not inside:
        raise DataError(
            f"cannot read {_option(path, config)}={path}: it is not of the form package:NAME/FILE.\n"
            "  Try: package:bible/data/kjv.jsonl"
        )
    spec = importlib.util.find_spec(package)
    if spec is None:
        require(package, extra=config.extra, why=f"{_option(path, config)}={path}")
    for folder in (spec.submodule_search_locations if spec else None) or []:
        if (Path(folder) / inside).exists():
            return Path(folder) / inside
    raise DataError(
        f"the package '{package}' is installed but has no file {inside}.\n"
        f"  Try: pip install --force-reinstall 'ligo[{config.extra}]'"
    )


def _at_least_one(texts: Iterable[str], path: str, config: DataConfig) -> Iterator[str]:
    empty = True
    for text in texts:
        if text.strip():
            empty = False
            yield text
    if empty:
        raise DataError(
            f"{path} holds no text: it is empty, or white space only.\n"
            f"  Try: {_option(path, config)}=FILE_OR_FOLDER with text in it"
        )


# Files


def _file_documents(file: Path, config: DataConfig) -> Iterator[str]:
    if file.name.endswith(".parquet"):
        return _join_groups(_parquet_records(file, config), config)
    if file.name.endswith((".jsonl", ".jsonl.gz")):
        return _join_groups(jsonl_records(file), config)
    return _separated(text_lines(file), config.document_separator)


def text_lines(file: Path) -> Iterator[str]:
    """The lines of a UTF-8 file, compressed or not; line ends become '\\n'."""
    number = 0
    try:
        with gzip.open(file, "rb") if file.name.endswith(".gz") else open(file, "rb") as raw_lines:
            for number, raw in enumerate(raw_lines, start=1):
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                yield line.replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file}, line {number}: not UTF-8: byte 0x{error.object[error.start]:02x} of that line, "
            f"at {error.start}, belongs to no character.\n"
            f"  Try: iconv -f latin1 -t utf-8 {file.name} > NEW_FILE, with the encoding that it has"
        ) from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{file}, after line {number}: the gzip data is corrupt or cut short ({error}).\n"
            f"  Try: gzip -t {file.name}, and fetch the file again"
        ) from error
    except OSError as error:
        raise DataError(
            f"cannot read {file}: {error.strerror or error}.\n"
            f"  Try: ls -l {file.name}, and check who may read it"
        ) from error


def _separated(lines: Iterable[str], separator: str) -> Iterator[str]:
    """Cut a text at `separator`, which may stand anywhere, also within a line."""
    if "\n" in separator:
        lines = ["".join(lines)]
    parts: list[str] = []
    for line in lines:
        before, *after = line.split(separator) if separator else [line]
        parts.append(before)
        for text in after:
            yield "".join(parts).strip("\n")
            parts = [text]
    yield "".join(parts).strip("\n")


def jsonl_records(
    file: Path, example: str = '{"text": "Once upon a time"}'
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, record) of every line that is not blank; the example is for messages.

    Raises:
        DataError: a line is no JSON record, or the file cannot be read.
    """
    for number, line in enumerate(text_lines(file), start=1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        try:
            record = from_json(line)
        except ValueError as error:
            at = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
            raise DataError(
                f"{where}: not JSON ({at}): {line.strip()[:60]!r}.\n"
                f"  Each line must be one record, such as {example}.\n"
                "  Try: correct or remove that line"
            ) from error
        if not isinstance(record, dict):
            raise DataError(
                f"{where}: a {type(record).__name__}, but a record with keys is needed.\n"
                f"  Try: {example} on each line"
            )
        if "\\ud" in line.lower():
            check_characters(where, record)
        yield where, record


def check_characters(where: str, value: Any) -> None:
    """Refuse half a character, which JSON can write (\\ud83d) and no tokenizer can read.

    Raises:
        DataError: there is one.
    """
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):x}"
        raise DataError(
            f"{where}: {half} is half a character, and its other half is missing.\n  Try: remove {half} there"
        ) from error


def _parquet_records(file: Path, config: DataConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, record) of every row; only the columns that are needed are read."""
    arrow = require("pyarrow", extra="data", why=f"reading {file.name}")
    parquet = require("pyarrow.parquet", extra="data", why=f"reading {file.name}")
    try:
        with parquet.ParquetFile(file) as table:
            wanted = [config.text_key, *config.group_keys]
            for key in wanted:
                if key not in table.schema_arrow.names:
                    raise _missing_key(str(file), key, "column", table.schema_arrow.names, config)
            row = 0
            for batch in table.iter_batches(columns=wanted):
                for record in batch.to_pylist():
                    row += 1
                    yield f"{file}, row {row}", record
    except (arrow.ArrowException, OSError) as error:
        raise DataError(
            f"cannot read {file} as parquet: {str(error).splitlines()[0]}.\n  Try: fetch the file again"
        ) from error


# Records


def _join_groups(records: Iterable[tuple[str, dict[str, Any]]], config: DataConfig) -> Iterator[str]:
    """One document per record, or per run of records that agree in `group_keys`."""
    if not config.group_keys:
        for where, record in records:
            yield _text(where, record, config)
        return

    def group(item: tuple[str, dict[str, Any]]) -> list[Any]:
        where, record = item
        return [_value(where, record, key, config) for key in config.group_keys]

    for _, members in groupby(records, key=group):
        yield "\n".join(_text(where, record, config) for where, record in members)


def _text(where: str, record: dict[str, Any], config: DataConfig) -> str:
    text = _value(where, record, config.text_key, config)
    if text is None:
        return ""
    if not isinstance(text, str):
        strings = [key for key, value in record.items() if isinstance(value, str)]
        raise DataError(
            f"{where}: '{config.text_key}' is a {type(text).__name__}, not text.\n"
            f"  Keys that hold text: {', '.join(strings) or 'none'}.\n"
            f"  Try: {config.section}.text_key={strings[0] if strings else 'KEY'}"
        )
    return text


def _value(where: str, record: dict[str, Any], key: str, config: DataConfig) -> Any:
    if key not in record:
        raise _missing_key(where, key, "key", list(record), config)
    return record[key]


def _missing_key(where: str, key: str, kind: str, there: list[str], config: DataConfig) -> DataError:
    close = nearest(key, there) or "ONE_OF_THESE"
    key_option = f"text_key={close}" if key == config.text_key else f"group_keys=[{close}]"
    option = f"{config.section}.{key_option}"
    return DataError(
        f"{where}: there is no {kind} '{key}'.\n  There: {', '.join(there) or 'nothing'}.\n  Try: {option}"
    )


# The library `datasets`: folders that it saved, and the hub


def _saved_by_datasets(local: Path) -> Path | None:
    """The folder that `Dataset.save_to_disk` wrote; of a `DatasetDict`, its train split. None: it is no such folder."""
    if (local / "dataset_dict.json").is_file():
        local = local / "train"
    return local if (local / "state.json").is_file() else None


def _saved_records(saved: Path, config: DataConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    datasets = require("datasets", extra="data", why=f"{config.section}.path={saved}")
    try:
        for row, record in enumerate(datasets.load_from_disk(str(saved)), start=1):
            yield f"{saved}, row {row}", record
    except LigoError:
        raise
    except Exception as error:  # the library fails in many ways
        raise DataError(
            f"cannot read {saved} as a data set that was saved to disk: {str(error).splitlines()[0]}.\n"
            "  Try: save it again, with Dataset.save_to_disk"
        ) from error


def _hub_documents(path: str, config: DataConfig) -> Iterator[str]:
    """The train split of a hub data set, streamed; without a network, from the library's own cache."""
    option = _option(path, config)
    datasets = require("datasets", extra="data", why=f"{option}={path} is no local file, and a hub data set")

    def records() -> Iterator[tuple[str, dict[str, Any]]]:
        rows = datasets.load_dataset(path, split="train", streaming=True)
        for row, record in enumerate(rows, start=1):
            yield f"{path}, row {row}", record

    try:
        yield from _join_groups(records(), config)
    except LigoError:
        raise
    except Exception as error:  # the library fails in many ways, offline above all
        reason = (str(error).splitlines() or [""])[0]
        raise DataError(
            f"there is no file or folder {path} here, and the hub data set {path} (split train) "
            f"cannot be read: {type(error).__name__}: {reason}\n"
            "  Check the name and the network, or give local text.\n"
            f"  Try: {option}=FILE_OR_FOLDER"
        ) from error
