"""Tokens on disk: a folder of shards and a manifest, or shards that another program made; opened as two streams.

    FOLDER/manifest.json     tokenizer, tokens, documents, size and sha256 of every file
    FOLDER/train-00000.bin, train-00000.idx, ...
    FOLDER/validation-00000.bin, validation-00000.idx, ...

Sizes are checked whenever a folder is opened. Content is read for its checksum once for each place that a folder
lies in, and again where a file was written since: reading a terabyte takes the better part of an hour.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ligo.core.errors import DataError
from ligo.core.files import read_json
from ligo.core.log import progress, warn
from ligo.data.facts import Facts, largest, sha256
from ligo.data.indexed import damaged, open_shard

SPLITS = ("train", "validation")
MANIFEST = "manifest.json"
FORMAT = 2  # of the folder; raise it when the same inputs shall give other tokens
_OPEN_FILES = 128  # of one stream at a time


class TokenStream:
    """Token ids of several arrays, one after another, of which those last used are kept open."""

    def __init__(
        self,
        lengths: Sequence[int],
        open_part: Callable[[int], np.ndarray],
        skip: int = 0,
        end: int | None = None,
    ) -> None:
        """
        Args:
            lengths: tokens of each array.
            open_part: the array of a number.
            skip, end: the tokens that the stream begins and ends at.
        """
        self._starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        self._lengths, self._open_part = lengths, open_part
        self._part = lru_cache(maxsize=_OPEN_FILES)(open_part)
        self._skip, self._end = skip, int(self._starts[-1]) if end is None else end

    @classmethod
    def of(cls, *arrays: np.ndarray) -> TokenStream:
        """A stream of arrays in memory."""
        return cls([len(array) for array in arrays], arrays.__getitem__)

    def __len__(self) -> int:
        return self._end - self._skip

    def cut(self, at: int) -> tuple[TokenStream, TokenStream]:
        """The stream before a token, and from it on."""
        middle = self._skip + at
        return (
            TokenStream(self._lengths, self._open_part, self._skip, middle),
            TokenStream(self._lengths, self._open_part, middle, self._end),
        )

    def read(self, starts: np.ndarray, length: int) -> np.ndarray:
        """`length` tokens from each start on: int64 [len(starts), length]."""
        rows = np.empty((len(starts), length), dtype=np.int64)
        for row, start in zip(rows, starts + self._skip, strict=True):
            part = int(np.searchsorted(self._starts, start, side="right")) - 1
            first, filled = int(start - self._starts[part]), 0
            while filled < length:
                piece = self._part(part)[first : first + length - filled]
                row[filled : filled + len(piece)] = piece
                part, first, filled = part + 1, 0, filled + len(piece)
        return rows

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.read(np.zeros(1, dtype=np.int64), len(self))[0].astype(dtype or np.int64)


@dataclass(frozen=True)
class Corpus:
    """Tokens of one text, in two streams."""

    train: TokenStream
    validation: TokenStream
    fingerprint: str
    """Of tokenizer, text and options: equal fingerprints mean equal tokens."""
    name: str
    num_documents: int
    bytes_per_token: float | None
    """UTF-8 bytes of validation text per token: nats per token / ln 2 / this = bits per byte. None: not known."""

    def num_windows(self, split: str, length: int) -> int:
        """Whole windows in a split."""
        return (len(getattr(self, split)) - 1) // length

    def windows(self, split: str, numbers: np.ndarray, length: int) -> np.ndarray:
        """Windows by number: int64 [len(numbers), length + 1]."""
        stream: TokenStream = getattr(self, split)
        return stream.read(numbers * length, length + 1)

    def check_length(self, sequence_length: int) -> None:
        """Check that either stream fills a sequence and the label of its last token.

        Raises:
            DataError: one does not.
        """
        for split, tokens in zip(SPLITS, (self.train, self.validation), strict=True):
            if len(tokens) < sequence_length + 1:
                more = "" if split == "train" else ", data.validation_fraction=0.2"
                raise DataError(
                    f"too little {split} text in data '{self.name}': {len(tokens)} tokens, but one sequence "
                    f"needs {sequence_length + 1} (data.sequence_length={sequence_length}, and one label).\n"
                    f"  Try: more text, data.sequence_length={max(1, len(tokens) // 4)}{more}"
                )


def holds_shards(folder: Path) -> bool:
    """Whether a folder is one of tokens."""
    return (folder / MANIFEST).is_file() or (folder.is_dir() and any(folder.glob("*.idx")))


def open_corpus(folder: Path, name: str, facts: Facts, *, made_now: bool = False) -> Corpus:
    """Open a folder that ligo made.

    Args:
        made_now: whether this process has just written it; content is not read again then.

    Raises:
        DataError: a file is missing, or is not as the manifest says.
    """
    manifest = read_manifest(folder)
    try:
        splits = {split: manifest[split] for split in SPLITS}
        dtype = np.dtype(manifest["dtype"])
        files = {
            folder / f"{shard['name']}{suffix}": (shard["bytes"][suffix], shard["sha256"][suffix])
            for split in splits.values()
            for shard in split["shards"]
            for suffix in (".bin", ".idx")
        }
        corpus = Corpus(
            train=_stream(folder, splits["train"]["shards"], dtype),
            validation=_stream(folder, splits["validation"]["shards"], dtype),
            fingerprint=manifest["fingerprint"],
            name=name,
            num_documents=sum(split["documents"] for split in splits.values()),
            bytes_per_token=splits["validation"]["bytes"] / max(1, splits["validation"]["tokens"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(folder / MANIFEST, f"it lacks {error}") from error
    _check_sizes({file: size for file, (size, _) in files.items()})
    if not made_now:
        _check_content({file: digest for file, (_, digest) in files.items()}, facts)
    return corpus


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder that ligo made.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return dict(read_json(folder / MANIFEST))
    except (OSError, ValueError) as error:
        raise damaged(folder / MANIFEST, str(error)) from error


def _stream(folder: Path, shards: Sequence[Mapping[str, Any]], dtype: np.dtype) -> TokenStream:
    paths = [folder / f"{shard['name']}.bin" for shard in shards]
    return TokenStream(
        [shard["tokens"] for shard in shards], lambda part: np.memmap(paths[part], dtype=dtype, mode="r")
    )


def _check_sizes(sizes: Mapping[Path, int]) -> None:
    for file, size in sizes.items():
        try:
            there = file.stat().st_size
        except OSError as error:
            raise damaged(file, error.strerror or str(error)) from error
        if there != size:
            raise damaged(file, f"it has {there:,} bytes, and the manifest says {size:,}")


def _check_content(digests: Mapping[Path, str], facts: Facts) -> None:
    with progress("check shards", len(digests)) as bar:
        for file, digest in digests.items():
            if facts.get(file, "sha256", sha256) != digest:
                raise damaged(file, "its sha256 is not the one in the manifest")
            bar.advance()


def open_foreign(folder: Path, name: str, facts: Facts, *, vocab_size: int, held_out: float | None) -> Corpus:
    """Open shards that another program made; the first time, every token is looked at.

    Args:
        held_out: part of the tokens at the end, whole documents if there are several, that becomes the validation
            stream. None: the whole is both.

    Raises:
        DataError: a shard is damaged, or holds ids that the model has not.
    """
    shards = [shard for shard in map(open_shard, sorted(folder.glob("*.idx"))) if shard.num_tokens]
    if not shards:
        raise DataError(f"the shards of {folder} hold no tokens.\n  Try: another folder")
    for shard in shards:
        last = facts.get(shard.bin, "largest id", lambda _, shard=shard: largest(shard.tokens()))  # type: ignore[misc]
        if last >= vocab_size:
            raise DataError(
                f"the shard {shard.bin} holds id {last}, but the model's vocabulary is {vocab_size}: it was made with "
                "another tokenizer.\n  Try: the tokens of this model's tokenizer, or data.path=TEXT"
            )
    warn(f"{folder} does not say which tokenizer made it; all ids are below {vocab_size}")
    whole = TokenStream([shard.num_tokens for shard in shards], lambda part: shards[part].tokens())
    train = validation = whole
    if held_out is not None:
        offsets = np.cumsum([0, *(shard.num_tokens for shard in shards[:-1])])
        starts = np.concatenate(
            [s.document_starts + offset for s, offset in zip(shards, offsets, strict=True)]
        )
        wanted = int((1 - held_out) * len(whole))
        after = starts[(starts >= wanted) & (starts > 0)]
        train, validation = whole.cut(int(after[0]) if len(after) else wanted)
    digest = hashlib.sha256()
    for shard in shards:
        digest.update(f"{facts.get(shard.bin, 'sha256', sha256)} {held_out}".encode())
    documents = sum(len(shard.document_starts) for shard in shards)
    return Corpus(train, validation, digest.hexdigest()[:24], name, documents, None)
