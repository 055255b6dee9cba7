"""Text to two token files, train.npy and validation.npy, made once and memory-mapped ever after.

They lie in a cache folder named by a fingerprint of everything that shapes them: tokenizer, source files,
options. Tokens mark where a document begins or ends: those that the tokenizer itself puts around a text, if it
begins texts with BOS (LLaMA) or CLS (BERT), else EOS after it (GPT-2). Documents are streamed twice, first to count characters
(for the split and the progress bar), then to be tokenised; memory holds a batch of documents at a time.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ligo.core.errors import ConfigError, DataError, ResourceError
from ligo.core.files import folder_aside, read_json, write_json
from ligo.core.log import progress
from ligo.data.sources import DataConfig, documents, source_files

SPLITS = ("train", "validation")
_FORMAT = 1  # of the cache folder; raise it when the same inputs shall give other tokens
SPLIT_SEED = 20230302  # fixed: the same text has the same validation set whatever the run's seed
_FEW_DOCUMENTS = 20  # with fewer, whole documents cannot be held out fairly
_PIECE_CHARACTERS = 10_000
_BATCH_CHARACTERS = 1_000_000


@dataclass(frozen=True)
class Corpus:
    """Tokens of one text, in two streams; each is 1-D, uint16 or uint32, and read from disk when indexed."""

    train: np.ndarray
    validation: np.ndarray
    fingerprint: str
    """Of tokenizer, text and options: equal fingerprints mean equal tokens."""
    name: str
    num_documents: int
    bytes_per_token: float
    """UTF-8 bytes of validation text per token: nats per token / ln 2 / this = bits per byte."""

    def num_windows(self, split: str, length: int) -> int:
        """Whole windows in a split."""
        return (len(getattr(self, split)) - 1) // length

    def windows(self, split: str, numbers: np.ndarray, length: int) -> np.ndarray:
        """Windows by number: int64 [len(numbers), length + 1]."""
        starts = numbers * length
        return getattr(self, split)[starts[:, None] + np.arange(length + 1)].astype(np.int64)

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


def prepare(config: DataConfig, tokenizer: Any, *, vocab_size: int) -> Corpus:
    """Tokenise the text, or open the tokens when the same text was tokenised before.

    Several processes may do this at the same time: the first to finish puts its folder in place.

    Args:
        tokenizer: a transformers tokenizer.
        vocab_size: ids that the model has; all tokens are below it.

    Raises:
        ConfigError: no data.path, a fraction outside (0, 1), or a package that is not installed.
        DataError: unreadable text, a tokenizer with more ids than the model, or too little text.
        ResourceError: the cache folder cannot be written.
    """
    if len(tokenizer) > vocab_size:
        raise _too_many_ids(f"has {len(tokenizer)} ids", vocab_size)
    if config.validation_path is None and not 0 < config.validation_fraction < 1:
        raise ConfigError(
            f"data.validation_fraction={config.validation_fraction} leaves nothing to train on or nothing to "
            "evaluate on: it must lie between 0 and 1.\n  Try: data.validation_fraction=0.05"
        )
    marks = _boundary_tokens(tokenizer)
    dtype = np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32)
    fingerprint = _fingerprint(config, tokenizer, marks, dtype)
    folder = _cache_root(config) / fingerprint
    if not folder.exists():
        _tokenise(folder, config, tokenizer, marks, dtype, vocab_size)
    corpus = _open(folder, config.name)
    corpus.check_length(config.sequence_length)
    return corpus


def _too_many_ids(what: str, vocab_size: int) -> DataError:
    return DataError(
        f"the tokenizer {what} but the model's vocabulary is {vocab_size}: "
        "some tokens would have no embedding.\n"
        "  Try: the tokenizer of the model's own folder, or a model with a larger vocab_size"
    )


class _Marks(NamedTuple):
    """Tokens put before and after each document."""

    before: list[int]
    after: list[int]


def _boundary_tokens(tokenizer: Any) -> _Marks:
    """What the tokenizer itself puts around a text if that begins with BOS or CLS, else EOS (or BOS) after it."""
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    begins = {bos, tokenizer.cls_token_id} - {None}
    ends = {eos, tokenizer.sep_token_id} - {None}
    around: list[int] = tokenizer("a")["input_ids"]
    if around and around[0] in begins:
        return _Marks(before=around[:1], after=around[-1:] if around[-1] in ends else [])
    if eos is None and bos is None:
        raise DataError(
            "the tokenizer has neither an EOS nor a BOS token, so documents would run into each other.\n"
            '  Try: set one, for example "eos_token": "<|endoftext|>" in its tokenizer_config.json'
        )
    return _Marks(before=[], after=[bos if eos is None else eos])


# Fingerprint and cache


def _cache_root(config: DataConfig) -> Path:
    root = config.cache_dir or os.environ.get("LIGO_CACHE") or "~/.cache/ligo"
    return Path(root).expanduser() / "tokens"


def _fingerprint(config: DataConfig, tokenizer: Any, marks: _Marks, dtype: np.dtype) -> str:
    """24 hexadecimal digits. A hub data set is known by its id alone: its text is not read for this."""
    inputs = {
        "format": _FORMAT,
        "dtype": dtype.name,
        "marks": marks,
        "tokenizer": _serialised(tokenizer),
        "train": _identity(config.path, config),
        "validation": config.validation_fraction
        if config.validation_path is None
        else _identity(config.validation_path, config),
        "text_key": config.text_key,
        "group_keys": list(config.group_keys),
        "document_separator": config.document_separator,
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:24]


def _serialised(tokenizer: Any) -> Any:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return [type(tokenizer).__name__, sorted(tokenizer.get_vocab().items())]
    state = json.loads(backend.to_str())
    # what the last call asked for, not part of the tokenizer
    return {key: value for key, value in state.items() if key not in ("truncation", "padding")}


def _identity(path: str | None, config: DataConfig) -> Any:
    """Names, sizes and contents of the files; no folder names, so that moved text is the same text."""
    files = source_files(path, config)
    if not files:
        return path
    try:
        identity = []
        for file in files:
            with open(file, "rb") as handle:
                digest = hashlib.file_digest(handle, "sha256").hexdigest()
            identity.append([file.name, file.stat().st_size, digest])
    except OSError as error:
        raise DataError(
            f"cannot read {file}: {error.strerror or error}.\n"
            f"  Try: ls -l {file.name}, and check who may read it"
        ) from error
    return identity


def _open(folder: Path, name: str) -> Corpus:
    try:
        meta = read_json(folder / "meta.json")
        train, validation = (np.load(folder / f"{split}.npy", mmap_mode="r") for split in SPLITS)
        if [len(train), len(validation)] != [meta[split]["tokens"] for split in SPLITS]:
            raise ValueError("the number of tokens is not the one recorded")
        return Corpus(
            train=train,
            validation=validation,
            fingerprint=folder.name,
            name=name,
            num_documents=sum(meta[split]["documents"] for split in SPLITS),
            bytes_per_token=meta["validation"]["bytes"] / max(1, len(validation)),
        )
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise DataError(
            f"the token cache {folder} is damaged: {error}.\n  Try: rm -r {folder}, and start again"
        ) from error


# Train and validation


class _Piece(NamedTuple):
    """A document, or a part of one, and the split that it belongs to."""

    split: str
    text: str
    first: bool = True
    last: bool = True


def _pieces(config: DataConfig, lengths: np.ndarray) -> Iterator[_Piece]:
    """All text in order. lengths: characters of each document of `path`, int64 [documents]."""
    if config.validation_path is not None:
        for split, path in zip(SPLITS, (config.path, config.validation_path), strict=True):
            for text in documents(path, config):
                yield _Piece(split, text)
    elif len(lengths) >= _FEW_DOCUMENTS:
        held_out = _held_out(lengths, config.validation_fraction)
        for index, text in enumerate(documents(config.path, config)):
            yield _Piece(SPLITS[int(index in held_out)], text)
    else:
        tail = config.validation_fraction * lengths.sum()
        # at least two pieces in the tail, however small the text
        size = max(1, min(_PIECE_CHARACTERS, int(tail / 2)))
        position = 0
        for text in documents(config.path, config):
            parts = list(_cut(text, size))
            for index, part in enumerate(parts):
                split = SPLITS[int(position >= lengths.sum() - tail)]
                yield _Piece(split, part, first=index == 0, last=index == len(parts) - 1)
                position += len(part)


def _held_out(lengths: np.ndarray, fraction: float) -> set[int]:
    """Documents to hold out: in seeded order, as many as fit into `fraction` of the characters, or one."""
    # the draw of a document depends on its index only, so text added at the end keeps most of the split
    order = np.argsort(np.random.default_rng(SPLIT_SEED).random(len(lengths)))
    budget, taken, chosen = fraction * lengths.sum(), 0, set[int]()
    for index in order:
        if taken + lengths[index] <= budget:
            chosen.add(int(index))
            taken += lengths[index]
        if taken >= 0.9 * budget:
            break
    return chosen or {int(np.argmin(lengths))}


def _cut(text: str, size: int) -> Iterator[str]:
    """Pieces of at most `size` characters that end at a line break where there is one, else at a space."""
    start = 0
    while len(text) - start > size:
        after_line = text.rfind("\n", start, start + size) + 1
        before_word = text.rfind(" ", start + 1, start + size)
        end = after_line or (before_word if before_word > 0 else start + size)
        yield text[start:end]
        start = end
    yield text[start:]


# Tokens


def _tokenise(
    folder: Path, config: DataConfig, tokenizer: Any, marks: _Marks, dtype: np.dtype, vocab_size: int
) -> None:
    """Make the cache folder: train.npy, validation.npy, meta.json."""
    texts = documents(config.path, config)
    lengths = np.fromiter((len(text) for text in texts), dtype=np.int64)
    total = int(lengths.sum())
    if config.validation_path is not None:
        total += sum(len(text) for text in documents(config.validation_path, config))

    # a name of our own, also on shared disks, so that processes that do the same work do not meet
    staged = folder.with_name(f"{folder.name}.{socket.gethostname()}-{os.getpid()}")
    try:
        with (
            folder_aside(staged) as aside,
            _TokenFile(aside / "train.npy", dtype) as train,
            _TokenFile(aside / "validation.npy", dtype) as validation,
            progress(f"tokenise {config.name}", total) as bar,
        ):
            files = dict(zip(SPLITS, (train, validation), strict=True))
            counts = {split: {"tokens": 0, "documents": 0, "bytes": 0} for split in SPLITS}
            for batch in _batches(_pieces(config, lengths)):
                encoded = tokenizer(
                    [piece.text for piece in batch],
                    add_special_tokens=False,
                    return_attention_mask=False,
                    verbose=False,  # it warns of texts longer than the model's context, which we cut anyway
                )["input_ids"]
                for piece, ids in zip(batch, encoded, strict=True):
                    tokens = np.asarray(
                        [*marks.before * piece.first, *ids, *marks.after * piece.last], dtype=np.int64
                    )
                    if len(tokens) and tokens.max() >= vocab_size:
                        raise _too_many_ids(f"gives id {tokens.max()}", vocab_size)
                    files[piece.split].append(tokens)
                    counts[piece.split]["tokens"] += len(tokens)
                    counts[piece.split]["documents"] += piece.first
                    counts[piece.split]["bytes"] += len(piece.text.encode())
                bar.advance(sum(len(piece.text) for piece in batch))
            write_json(aside / "meta.json", {"format": _FORMAT, "name": config.name, **counts})
        _put_in_place(staged, folder)
    except (OSError, ResourceError) as error:
        reason = error if isinstance(error, OSError) else error.__cause__
        raise ResourceError(
            f"cannot keep tokens in {folder.parent}: {getattr(reason, 'strerror', None) or reason}.\n"
            "  Try: free some space there, or choose another folder: data.cache_dir=DIR"
        ) from error


def _put_in_place(staged: Path, folder: Path) -> None:
    """Rename, unless another process was first: its bytes are the same, and may be open already."""
    try:
        os.rename(staged, folder)
    except OSError:
        shutil.rmtree(staged, ignore_errors=True)
        if not folder.exists():
            raise


def _batches(pieces: Iterable[_Piece]) -> Iterator[list[_Piece]]:
    """Lists of pieces of about a million characters: enough for the tokenizer to use all cores."""
    batch: list[_Piece] = []
    size = 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece.text)
        if size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class _TokenFile:
    """A 1-D .npy file whose length is known only at the end."""

    def __init__(self, path: Path, dtype: np.dtype) -> None:
        self._path, self._dtype, self._length = path, dtype, 0

    def __enter__(self) -> _TokenFile:
        self._file = open(self._path, "wb")
        self._write_header()
        return self

    def __exit__(self, *_: object) -> None:
        with self._file:
            self._file.seek(0)
            self._write_header()

    def _write_header(self) -> None:
        # numpy pads the header for exactly this: a first axis that grows
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": (self._length,)}
        np.lib.format.write_array_header_1_0(self._file, header)

    def append(self, tokens: np.ndarray) -> None:
        self._file.write(tokens.astype(self._dtype).tobytes())
        self._length += len(tokens)
