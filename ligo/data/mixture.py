"""Several texts as one: sequences are drawn from each by its weight, and each is held out and evaluated by itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from ligo.core.errors import ConfigError
from ligo.data.config import DataConfig, source_weights
from ligo.data.corpus import Corpus
from ligo.data.sources import documents
from ligo.data.tokenize import prepare


@dataclass(frozen=True)
class Mixture:
    """Corpora by name, with the part of all sequences that comes from each."""

    name: str
    sources: Mapping[str, Corpus]
    weights: Mapping[str, Fraction]
    """They sum to 1."""

    @property
    def fingerprint(self) -> str:
        """Of the corpora and their weights."""
        parts = [[name, corpus.fingerprint, str(self.weights[name])] for name, corpus in self.sources.items()]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]

    def check_length(self, sequence_length: int) -> None:
        """Check that every corpus fills a sequence.

        Raises:
            DataError: one does not.
        """
        for corpus in self.sources.values():
            corpus.check_length(sequence_length)


def prepare_text(config: DataConfig, tokenizer: Any, *, vocab_size: int) -> Corpus | Mixture:
    """The text of `data.path`, or the mixture of `data.sources`.

    Raises:
        LigoError: as `prepare` does; or a source has no path.
    """
    if not config.sources:
        return prepare(config, tokenizer, vocab_size=vocab_size)
    weights = source_weights(config)
    lacking = [name for name, source in config.sources.items() if not source.path]
    if lacking:
        raise ConfigError(
            f"data.sources.{lacking[0]}.path is not set"
            + (f", nor are those of {', '.join(lacking[1:])}" if lacking[1:] else "")
            + f".\n  Try: data.sources.{lacking[0]}.path=FILE_OR_FOLDER"
        )
    corpora = {
        name: prepare(config.of_source(name), tokenizer, vocab_size=vocab_size) for name in config.sources
    }
    return Mixture(config.name, corpora, weights)


def all_documents(config: DataConfig) -> Iterator[str]:
    """The documents of `data.path`, or of every source in turn.

    Raises:
        LigoError: as `sources.documents` does.
    """
    parts = [config.of_source(name) for name in config.sources] or [config]
    return (text for part in parts for text in documents(part.path, part))
