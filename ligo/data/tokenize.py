"""Text to tokens on disk, made once and memory-mapped ever after; or tokens that are there already.

They lie in a cache folder named by a fingerprint of everything that shapes them: tokenizer, source files,
options. Tokens mark where a document begins or ends: those that the tokenizer itself puts around a text, if it
begins texts with BOS (LLaMA) or CLS (BERT), else EOS after it (GPT-2). Documents are streamed twice, first to count
characters (for the split and the progress bar), then to be tokenised; memory holds some batches of documents at a
time.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ligo.core.errors import ConfigError, DataError, ResourceError
from ligo.core.files import remove_half_written
from ligo.core.log import say
from ligo.data.config import DataConfig
from ligo.data.corpus import FORMAT, MANIFEST, Corpus, holds_shards, open_corpus, open_foreign, read_manifest
from ligo.data.encode import Marks, Tokenising, boundary_tokens, tokenizer_fingerprint, too_many_ids
from ligo.data.facts import Facts, sha256
from ligo.data.indexed import dtype_for
from ligo.data.sources import cache_folder, local_path, source_files


def prepare(config: DataConfig, tokenizer: Any, *, vocab_size: int) -> Corpus:
    """Tokenise the text, or open the tokens when the same text was tokenised before, or `data.path` holds tokens.

    Several processes may do this at the same time: one works, the others wait for it.

    Args:
        tokenizer: a transformers tokenizer.
        vocab_size: ids that the model has; all tokens are below it.

    Raises:
        ConfigError: no data.path, a fraction outside (0, 1), or a package that is not installed.
        DataError: unreadable text, a tokenizer with more ids than the model, tokens of another tokenizer, a damaged
            shard, or too little text.
        ResourceError: the cache folder cannot be written.
    """
    if len(tokenizer) > vocab_size:
        raise too_many_ids(f"has {len(tokenizer)} ids", vocab_size)
    if config.validation_path is None and not 0 < config.validation_fraction < 1:
        raise ConfigError(
            f"data.validation_fraction={config.validation_fraction} leaves nothing to train on or nothing to "
            "evaluate on: it must lie between 0 and 1.\n  Try: data.validation_fraction=0.05"
        )
    cache = cache_folder(config)
    facts = Facts(cache)
    if holds_shards(local_path(config.path, config)):
        corpus = _open_given(config, tokenizer, facts, vocab_size)
    else:
        corpus = _open_or_make(config, tokenizer, facts, vocab_size, cache / "tokens")
    corpus.check_length(config.sequence_length)
    return corpus


def _open_or_make(config: DataConfig, tokenizer: Any, facts: Facts, vocab_size: int, cache: Path) -> Corpus:
    marks = boundary_tokens(tokenizer)
    dtype = dtype_for(vocab_size)
    fingerprint = _fingerprint(config, tokenizer, marks, dtype, facts)
    folder = cache / fingerprint
    made_now = False
    try:
        while not folder.exists():
            with _locked(folder.with_name(f".{fingerprint}.unfinished")) as aside:
                if aside is not None:
                    remove_half_written(aside)
                    work = Tokenising(aside, config, tokenizer, marks, vocab_size)
                    work.run(fingerprint)
                    os.rename(aside, folder)
                    facts.keep("sha256", {folder / name: digest for name, digest in work.digests.items()})
                    made_now = True
    except (OSError, ResourceError) as error:
        reason = error if isinstance(error, OSError) else error.__cause__
        if not isinstance(reason, OSError):
            raise
        raise ResourceError(
            f"cannot keep tokens in {cache}: {reason.strerror or reason}.\n"
            "  Try: free some space there, or choose another folder: data.cache_dir=DIR"
        ) from error
    return open_corpus(folder, config.name, facts, made_now=made_now)


@contextmanager
def _locked(aside: Path) -> Iterator[Path | None]:
    """The folder of work that is not finished, for this process alone; None if another has finished it meanwhile."""
    aside.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(aside, os.O_RDONLY)
    except FileNotFoundError:  # finished just now
        yield None
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another process is tokenising the same text: waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield aside if aside.exists() and os.path.samestat(os.fstat(handle), aside.stat()) else None
    finally:
        os.close(handle)


def _open_given(config: DataConfig, tokenizer: Any, facts: Facts, vocab_size: int) -> Corpus:
    """The tokens in `data.path` and `data.validation_path`."""
    corpora = []
    for path in (config.path, config.validation_path):
        if path is None:
            break
        folder = local_path(path, config)
        if not holds_shards(folder):
            raise DataError(
                f"{config.section}.path={config.path} holds tokens, but {path} does not.\n"
                f"  Try: tokens in {config.section}.validation_path too, or leave it out"
            )
        if (folder / MANIFEST).is_file():
            _check_same_tokenizer(folder, tokenizer, vocab_size)
            corpora.append(open_corpus(folder, config.name, facts))
        else:
            held_out = None if config.validation_path else config.validation_fraction
            corpora.append(open_foreign(folder, config.name, facts, vocab_size=vocab_size, held_out=held_out))
    train, validation = corpora[0], corpora[-1]
    digest = hashlib.sha256(f"{train.fingerprint} {validation.fingerprint}".encode()).hexdigest()[:24]
    return Corpus(
        train=train.train,
        validation=validation.validation,
        fingerprint=train.fingerprint if train is validation else digest,
        name=config.name,
        num_documents=sum(corpus.num_documents for corpus in corpora),
        bytes_per_token=validation.bytes_per_token,
    )


def _check_same_tokenizer(folder: Path, tokenizer: Any, vocab_size: int) -> None:
    manifest = read_manifest(folder)
    theirs, ours = manifest.get("tokenizer"), tokenizer_fingerprint(tokenizer)
    if theirs != ours:
        raise DataError(
            f"the tokens in {folder} were made with another tokenizer than the model's ({theirs}, not {ours}): "
            "their ids mean other text.\n  Try: the text itself, data.path=FILE_OR_FOLDER, or tokens of this tokenizer"
        )
    if manifest.get("largest_id", 0) >= vocab_size:
        raise too_many_ids(f"gave id {manifest['largest_id']} in {folder}", vocab_size)


# Fingerprint


def _fingerprint(config: DataConfig, tokenizer: Any, marks: Marks, dtype: np.dtype, facts: Facts) -> str:
    """24 hexadecimal digits. A hub data set is known by its id alone: its text is not read for this."""
    inputs = {
        "format": FORMAT,
        "dtype": dtype.name,
        "marks": marks,
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "train": _identity(config.path, config, facts),
        "validation": config.validation_fraction
        if config.validation_path is None
        else _identity(config.validation_path, config, facts),
        "text_key": config.text_key,
        "group_keys": list(config.group_keys),
        "document_separator": config.document_separator,
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:24]


def _identity(path: str | None, config: DataConfig, facts: Facts) -> Any:
    """Names, sizes and contents of the files; no folder names, so that moved text is the same text."""
    files = source_files(path, config)
    if not files:
        return path
    try:
        return [[file.name, file.stat().st_size, facts.get(file, "sha256", sha256)] for file in files]
    except OSError as error:
        name = Path(error.filename or files[0]).name
        raise DataError(
            f"cannot read {error.filename}: {error.strerror or error}.\n"
            f"  Try: ls -l {name}, and check who may read it"
        ) from error
