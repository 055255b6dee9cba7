"""Shards in Megatron-LM's format: read by a reader of its own, and those of others read back."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pytest

from ligo.core.errors import DataError
from ligo.data.config import DataConfig
from ligo.data.corpus import TokenStream
from ligo.data.indexed import ShardWriter, dtype_for, open_shard
from ligo.data.tokenize import prepare
from tests.data.character_tokenizer import CharacterTokenizer

DOCUMENTS = [[5, 6, 7, 27], [8, 27], [9] * 50 + [27]]


def flat(documents: Iterable[list[int]]) -> list[int]:
    return list(chain.from_iterable(documents))


def read_as_megatron_does(prefix: Path) -> list[list[int]]:
    """The documents of a pair of files, from the description of the format and nothing else."""
    index = prefix.with_suffix(".idx").read_bytes()
    assert index[:9] == b"MMIDIDX\x00\x00"
    version, code, sequences, bounds = struct.unpack_from("<QBQQ", index, 9)
    assert version == 1
    number = {4: "i", 8: "H"}[code]
    lengths = struct.unpack_from(f"<{sequences}i", index, 34)
    pointers = struct.unpack_from(f"<{sequences}q", index, 34 + 4 * sequences)
    documents = struct.unpack_from(f"<{bounds}q", index, 34 + 12 * sequences)
    assert len(index) == 34 + 12 * sequences + 8 * bounds
    tokens = prefix.with_suffix(".bin").read_bytes()
    read = [struct.unpack_from(f"<{n}{number}", tokens, at) for n, at in zip(lengths, pointers, strict=True)]
    return [
        [token for sequence in read[first:last] for token in sequence] for first, last in pairwise(documents)
    ]


def write_as_megatron_does(prefix: Path, documents: list[list[int]], code: int = 8) -> None:
    """A pair of files, from the description of the format and nothing else."""
    number = {4: "i", 8: "H"}[code]
    size, lengths = struct.calcsize(number), [len(document) for document in documents]
    pointers = [size * sum(lengths[:i]) for i in range(len(lengths))]
    prefix.with_suffix(".idx").write_bytes(
        b"MMIDIDX\x00\x00"
        + struct.pack("<QBQQ", 1, code, len(lengths), len(lengths) + 1)
        + struct.pack(f"<{len(lengths)}i", *lengths)
        + struct.pack(f"<{len(lengths)}q", *pointers)
        + struct.pack(f"<{len(lengths) + 1}q", *range(len(lengths) + 1))
    )
    flat = [token for document in documents for token in document]
    prefix.with_suffix(".bin").write_bytes(struct.pack(f"<{len(flat)}{number}", *flat))


@pytest.mark.parametrize("vocab_size", [28, 70_000])
def test_another_reader_finds_every_document(tmp_path: Path, vocab_size: int) -> None:
    with ShardWriter(tmp_path / "a.bin", dtype_for(vocab_size)) as writer:
        for document in DOCUMENTS:
            writer.append(np.array(document[:1]), ends_document=False)
            writer.append(np.array(document[1:]))
    assert read_as_megatron_does(tmp_path / "a") == DOCUMENTS
    shard = open_shard(tmp_path / "a.idx")
    assert shard.tokens().tolist() == flat(DOCUMENTS)
    assert shard.document_starts.tolist() == [0, 4, 6]


def test_megatron_itself_finds_every_document(tmp_path: Path) -> None:
    indexed_dataset = pytest.importorskip(
        "megatron.core.datasets.indexed_dataset", reason="needs megatron-core"
    )
    with ShardWriter(tmp_path / "a.bin", dtype_for(28)) as writer:
        for document in DOCUMENTS:
            writer.append(np.array(document))
    read = indexed_dataset.IndexedDataset(str(tmp_path / "a"))
    assert [read[i].tolist() for i in range(len(read))] == DOCUMENTS
    assert read.document_indices.tolist() == [0, 1, 2, 3]


def test_a_whole_corpus_is_read_by_another_reader(tmp_path: Path) -> None:
    texts = [f"story {chr(97 + i % 26)} end" for i in range(60)]
    (tmp_path / "a.txt").write_text("<|endoftext|>".join(texts))
    data = DataConfig(path=str(tmp_path / "a.txt"), sequence_length=8, cache_dir=str(tmp_path))
    folder = tmp_path / "tokens" / prepare(data, CharacterTokenizer(), vocab_size=28).fingerprint
    read = [
        document
        for split in ("train", "validation")
        for document in read_as_megatron_does(folder / f"{split}-00000")
    ]
    assert sorted(read) == sorted([*ids, 27] for ids in CharacterTokenizer()(texts)["input_ids"])


# Shards of other programs


def foreign(tmp_path: Path, **options: object) -> DataConfig:
    (tmp_path / "shards").mkdir(exist_ok=True)
    values = {
        "path": str(tmp_path / "shards"),
        "sequence_length": 8,
        "cache_dir": str(tmp_path / "cache"),
        **options,
    }
    return DataConfig(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize("code", [4, 8])
def test_shards_of_others_are_read_and_their_last_documents_held_out(
    tmp_path: Path, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    data = foreign(tmp_path, validation_fraction=0.1)
    documents = [[i % 26] * 9 + [27] for i in range(40)]
    write_as_megatron_does(tmp_path / "shards" / "a", documents[:25], code)
    write_as_megatron_does(tmp_path / "shards" / "b", documents[25:], code)
    corpus = prepare(data, CharacterTokenizer(), vocab_size=28)
    assert np.asarray(corpus.train).tolist() == flat(documents[:36])
    assert np.asarray(corpus.validation).tolist() == flat(documents[36:])
    windows = corpus.windows("train", np.arange(corpus.num_windows("train", 8)), 8)
    assert windows[:, :-1].ravel().tolist() == flat(documents[:36])[: windows.shape[0] * 8]
    assert "does not say which tokenizer made it" in capsys.readouterr().err


def test_two_folders_of_tokens(tmp_path: Path) -> None:
    (tmp_path / "valid").mkdir()
    data = foreign(tmp_path, validation_path=str(tmp_path / "valid"))
    write_as_megatron_does(tmp_path / "shards" / "a", DOCUMENTS)
    write_as_megatron_does(tmp_path / "valid" / "a", DOCUMENTS[2:])
    corpus = prepare(data, CharacterTokenizer(), vocab_size=28)
    assert (len(corpus.train), len(corpus.validation)) == (57, 51)
    (tmp_path / "text.txt").write_text("text")
    with pytest.raises(DataError, match="holds tokens, but .*text.txt does not"):
        prepare(
            foreign(tmp_path, validation_path=str(tmp_path / "text.txt")), CharacterTokenizer(), vocab_size=28
        )


def test_ids_beyond_the_vocabulary_are_refused(tmp_path: Path) -> None:
    data = foreign(tmp_path)
    write_as_megatron_does(tmp_path / "shards" / "a", [*DOCUMENTS, [28]])
    with pytest.raises(
        DataError, match=r"shards/a.bin holds id 28, but the model's vocabulary is 28: (.|\n)*Try: "
    ):
        prepare(data, CharacterTokenizer(), vocab_size=28)


def test_tokens_can_be_given_instead_of_text(tmp_path: Path) -> None:
    texts = [f"story {chr(97 + i % 26)} end" for i in range(60)]
    (tmp_path / "a.txt").write_text("<|endoftext|>".join(texts))
    made = DataConfig(path=str(tmp_path / "a.txt"), sequence_length=8, cache_dir=str(tmp_path))
    corpus = prepare(made, CharacterTokenizer(), vocab_size=28)
    train = np.asarray(corpus.train)
    (tmp_path / "tokens" / corpus.fingerprint).rename(tmp_path / "shards")
    given = prepare(foreign(tmp_path), CharacterTokenizer(), vocab_size=28)
    assert given.fingerprint == corpus.fingerprint
    assert np.array_equal(given.train, train)

    class Other(CharacterTokenizer):
        def get_vocab(self) -> dict[str, int]:
            return {chr(122 - i): i for i in range(26)}

    with pytest.raises(
        DataError, match=r"made with another tokenizer than the model's(.|\n)*Try: the text itself"
    ):
        prepare(foreign(tmp_path), Other(), vocab_size=28)


DAMAGES = {
    "no index": (lambda content: b"nothing" * 10, r"a.idx is damaged: it does not begin as an index"),
    "cut index": (
        lambda content: content[:50],
        r"a.idx is damaged: it has 50 bytes, and needs 102 for 3 sequences",
    ),
    "version": (lambda content: content[:9] + b"\x02" + content[10:], "a.idx is damaged: it is of version 2"),
    "kind": (
        lambda content: content[:17] + b"\x07" + content[18:],
        "a.idx is damaged: it is of version 1 and kind 7",
    ),
    "lengths": (
        lambda content: content[:34] + b"\x09" + content[35:],
        "a.idx is damaged: its sequences do not follow",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_index_is_named(tmp_path: Path, damage: str) -> None:
    data = foreign(tmp_path)
    write_as_megatron_does(tmp_path / "shards" / "a", DOCUMENTS)
    index = tmp_path / "shards" / "a.idx"
    change, words = DAMAGES[damage]
    index.write_bytes(change(index.read_bytes()))
    with pytest.raises(DataError, match=words):
        prepare(data, CharacterTokenizer(), vocab_size=28)


def test_tokens_that_are_cut_short_are_named(tmp_path: Path) -> None:
    data = foreign(tmp_path)
    write_as_megatron_does(tmp_path / "shards" / "a", DOCUMENTS)
    tokens = tmp_path / "shards" / "a.bin"
    tokens.write_bytes(tokens.read_bytes()[:-2])
    with pytest.raises(
        DataError, match="a.bin is damaged: it has 112 bytes, and its index says 57 tokens of 2"
    ):
        prepare(data, CharacterTokenizer(), vocab_size=28)
    tokens.unlink()
    with pytest.raises(DataError, match="a.bin is damaged: No such file"):
        prepare(data, CharacterTokenizer(), vocab_size=28)


# Streams


def test_windows_run_on_over_the_ends_of_arrays() -> None:
    parts = [np.arange(0, 5), np.arange(5, 5), np.arange(5, 6), np.arange(6, 40)]
    stream = TokenStream.of(*parts)
    assert np.asarray(stream).tolist() == list(range(40))
    assert stream.read(np.array([0, 3, 4, 5, 31]), 9).tolist() == [
        list(range(s, s + 9)) for s in (0, 3, 4, 5, 31)
    ]
    before, after = stream.cut(7)
    assert (len(before), len(after)) == (7, 33)
    assert after.read(np.array([0]), 33)[0].tolist() == list(range(7, 40))


def test_more_arrays_than_may_be_open_at_a_time() -> None:
    opened: list[int] = []

    def part(number: int) -> np.ndarray:
        opened.append(number)
        return np.array([number])

    stream = TokenStream([1] * 1000, part)
    assert stream.read(np.array([10]), 900)[0].tolist() == list(range(10, 910))
    assert len(opened) == 900
