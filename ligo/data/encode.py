"""Documents to shards, by several processes, in order; a later start goes on after what is finished.

What is finished at a time is a run of batches, which becomes one shard of each split. Its record is written when its
files are on the disk; where a process dies in the middle of a run, that run is done again. The bytes do not depend on
the number of processes, nor on where the work was cut.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ligo.core.errors import DataError
from ligo.core.files import read_json, write_json
from ligo.core.log import Progress, progress
from ligo.data.config import DataConfig
from ligo.data.corpus import FORMAT, MANIFEST, SPLITS
from ligo.data.indexed import ShardWriter, dtype_for
from ligo.data.split import Lengths, Piece, count_characters, split_text
from ligo.data.workers import in_order, num_cores

_BATCH_CHARACTERS = 1_000_000
_SHARD_CHARACTERS = 2**28
_CHARACTERS_PER_WORKER = 4_000_000  # with less, a process costs more than it saves


class Marks(NamedTuple):
    """Tokens put before and after each document."""

    before: list[int]
    after: list[int]


def boundary_tokens(tokenizer: Any) -> Marks:
    """What the tokenizer itself puts around a text if that begins with BOS or CLS, else EOS (or BOS) after it.

    Raises:
        DataError: the tokenizer has none of these.
    """
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    begins = {bos, tokenizer.cls_token_id} - {None}
    ends = {eos, tokenizer.sep_token_id} - {None}
    around: list[int] = tokenizer("a")["input_ids"]
    if around and around[0] in begins:
        return Marks(before=around[:1], after=around[-1:] if around[-1] in ends else [])
    if eos is None and bos is None:
        raise DataError(
            "the tokenizer has neither an EOS nor a BOS token, so documents would run into each other.\n"
            '  Try: set one, for example "eos_token": "<|endoftext|>" in its tokenizer_config.json'
        )
    return Marks(before=[], after=[bos if eos is None else eos])


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """24 hexadecimal digits of what makes the ids."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        state: Any = [type(tokenizer).__name__, sorted(tokenizer.get_vocab().items())]
    else:
        # truncation and padding are what the last call asked for, not part of the tokenizer
        whole = json.loads(backend.to_str())
        state = {key: value for key, value in whole.items() if key not in ("truncation", "padding")}
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()[:24]


def too_many_ids(what: str, vocab_size: int) -> DataError:
    return DataError(
        f"the tokenizer {what} but the model's vocabulary is {vocab_size}: "
        "some tokens would have no embedding.\n"
        "  Try: the tokenizer of the model's own folder, or a model with a larger vocab_size"
    )


class _Encoded(NamedTuple):
    """The tokens of a batch of pieces, boundary tokens among them."""

    ids: np.ndarray
    lengths: np.ndarray
    """Of each piece, int64."""


def encoder(tokenizer: Any) -> Callable[[list[str]], list[list[int]]]:
    """Texts -> their ids, without special tokens: what the tokenizer gives when it is called, faster."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return lambda texts: tokenizer(
            texts, add_special_tokens=False, return_attention_mask=False, verbose=False
        )["input_ids"]
    plain = type(backend).from_str(backend.to_str())
    plain.no_truncation()
    plain.no_padding()
    plain.encode_special_tokens = backend.encode_special_tokens
    return lambda texts: [
        encoding.ids for encoding in plain.encode_batch_fast(texts, add_special_tokens=False)
    ]


class Tokenising:
    """The work on one cache folder, which lies in `folder` until it is finished."""

    def __init__(
        self, folder: Path, config: DataConfig, tokenizer: Any, marks: Marks, vocab_size: int
    ) -> None:
        self._folder, self._config, self._tokenizer = folder, config, tokenizer
        self._marks, self._vocab_size, self._dtype = marks, vocab_size, dtype_for(vocab_size)
        self._texts = encoder(tokenizer)

    def run(self, fingerprint: str) -> None:
        """Do all that is not done; what was finished stays there if this fails."""
        counted, record = self._folder / "lengths.json", self._folder / "record.json"
        runs: list[dict[str, Any]] = read_json(record) if record.exists() else []
        try:
            if counted.exists():
                total, each = read_json(counted)
                lengths = Lengths(total, None if each is None else np.array(each, dtype=np.int64))
            else:
                lengths = count_characters(self._config)
                write_json(counted, [lengths.total, None if lengths.each is None else lengths.each.tolist()])
            self._write_runs(lengths, runs, record)
        finally:
            if not runs:
                shutil.rmtree(self._folder, ignore_errors=True)
        write_json(self._folder / MANIFEST, self._manifest(fingerprint, runs))
        counted.unlink()
        record.unlink()
        shards = (shard for run in runs for split in SPLITS for shard in run[split]["shards"])
        self.digests = {
            f"{shard['name']}{suffix}": digest
            for shard in shards
            for suffix, digest in shard["sha256"].items()
        }

    def _write_runs(self, lengths: Lengths, runs: list[dict[str, Any]], record: Path) -> None:
        pieces = islice(split_text(self._config, lengths), sum(run["pieces"] for run in runs), None)
        workers = min(self._config.num_workers or num_cores(), 1 + lengths.total // _CHARACTERS_PER_WORKER)
        with (
            closing(in_order(self._encode, _batches(pieces), workers)) as batches,
            progress(f"tokenise {self._config.name}", lengths.total) as bar,
        ):
            bar.advance(sum(run["characters"] for run in runs))
            while (run := self._write_run(len(runs), batches, bar))["pieces"]:
                runs.append(run)
                write_json(record, runs)

    def _encode(self, batch: list[Piece]) -> _Encoded:
        before, after = self._marks
        encoded = self._texts([piece.text for piece in batch])
        rows = [
            [*before * piece.first, *ids, *after * piece.last]
            for piece, ids in zip(batch, encoded, strict=True)
        ]
        lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
        ids = np.fromiter(chain.from_iterable(rows), dtype=np.int64, count=lengths.sum())
        if len(ids) and ids.max() >= self._vocab_size:
            raise too_many_ids(f"gives id {ids.max()}", self._vocab_size)
        return _Encoded(ids.astype(self._dtype), lengths)

    def _write_run(
        self, number: int, batches: Iterator[tuple[list[Piece], _Encoded]], bar: Progress
    ) -> dict[str, Any]:
        """Write the next batches as one shard of each split, and have them on the disk."""
        run: dict[str, Any] = {"pieces": 0, "characters": 0, "largest_id": 0}
        counts: dict[str, dict[str, Any]] = {
            split: {"tokens": 0, "documents": 0, "bytes": 0, "shards": []} for split in SPLITS
        }
        files = {split: self._folder / f"{split}-{number:05d}.bin" for split in SPLITS}
        with ExitStack() as stack:
            writers = {
                split: stack.enter_context(ShardWriter(file, self._dtype)) for split, file in files.items()
            }
            for batch, (ids, lengths) in batches:
                for piece, tokens in zip(batch, np.split(ids, np.cumsum(lengths)[:-1]), strict=True):
                    if len(tokens):
                        writers[piece.split].append(tokens, ends_document=piece.last)
                    counts[piece.split]["tokens"] += len(tokens)
                    counts[piece.split]["documents"] += piece.first
                    counts[piece.split]["bytes"] += len(piece.text.encode())
                characters = sum(len(piece.text) for piece in batch)
                run["pieces"] += len(batch)
                run["characters"] += characters
                run["largest_id"] = max(run["largest_id"], int(ids.max(initial=0)))
                bar.advance(characters)
                if run["characters"] >= _SHARD_CHARACTERS:
                    break
        for split, file in files.items():
            pair = {suffix: file.with_suffix(suffix) for suffix in (".bin", ".idx")}
            if counts[split]["tokens"] == 0:
                for path in pair.values():
                    path.unlink()
                continue
            for path in pair.values():
                with open(path, "rb") as handle:
                    os.fsync(handle.fileno())
            counts[split]["shards"] = [
                {
                    "name": file.stem,
                    "tokens": writers[split].num_tokens,
                    "bytes": {suffix: path.stat().st_size for suffix, path in pair.items()},
                    "sha256": writers[split].sha256,
                }
            ]
        return run | counts

    def _manifest(self, fingerprint: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "fingerprint": fingerprint,
            "name": self._config.name,
            "tokenizer": tokenizer_fingerprint(self._tokenizer),
            "dtype": self._dtype.name,
            "largest_id": max(run["largest_id"] for run in runs),
            **{
                split: {
                    "tokens": sum(run[split]["tokens"] for run in runs),
                    "documents": sum(run[split]["documents"] for run in runs),
                    "bytes": sum(run[split]["bytes"] for run in runs),
                    "shards": [shard for run in runs for shard in run[split]["shards"]],
                }
                for split in SPLITS
            },
        }


def _batches(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """Lists of pieces of about a million characters."""
    batch: list[Piece] = []
    size = 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece.text)
        if size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
