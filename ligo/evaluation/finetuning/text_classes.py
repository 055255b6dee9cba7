"""Texts and their labels: rows with a label behind each, its loss, and the labels that a model gives."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ligo.core.log import say
from ligo.evaluation.finetuning.glue import Example
from ligo.evaluation.finetuning.grid import predictions
from ligo.evaluation.finetuning.text_rows import Encoded, FixedRows, TextHead, TextReader
from ligo.training.engine import Engine
from ligo.training.objectives import Run


class ClassOfText(TextHead):
    """Cross-entropy of the class of each row, in nats."""

    num_answers = 1

    def logits(self, run: Run, batch: Tensor) -> Tensor:
        """[rows, classes], or [rows, 1] for a number."""
        logits: Tensor = run(**self.given(batch)).logits
        return logits.float()

    def loss(self, run: Run, batch: Tensor) -> Tensor:
        return F.cross_entropy(self.logits(run, batch), batch[:, -1])

    def labels(self, run: Run, batch: Tensor) -> np.ndarray:
        """What the model says: a class for each row, or a number."""
        return self.logits(run, batch).argmax(dim=1).cpu().numpy()


class NumberOfText(ClassOfText):
    """Squared error of the number of each row, of which a row holds the bits."""

    def loss(self, run: Run, batch: Tensor) -> Tensor:
        return F.mse_loss(self.logits(run, batch)[:, 0], batch[:, -1].view(torch.float64).float())

    def labels(self, run: Run, batch: Tensor) -> np.ndarray:
        return self.logits(run, batch)[:, 0].cpu().numpy()


def encode(reader: TextReader, examples: Sequence[Example], *, numbers: bool) -> list[Encoded]:
    """Examples as a model reads them; how many were cut is said.

    Args:
        numbers: whether labels are numbers to be guessed, and not classes.

    Raises:
        DataError: the tokenizer gives a token that the model does not have.
    """
    columns = list(zip(*(example.texts for example in examples), strict=True))
    texts, seconds = list(columns[0]), list(columns[1]) if len(columns) > 1 else None
    labels = np.array([example.label for example in examples], dtype=np.float64)
    stored = labels.view(np.int64) if numbers else labels.astype(np.int64)
    encoded, cut = [], 0
    for encoding, label in zip(
        reader.encodings(texts, seconds, truncation=True, max_length=reader.length), stored, strict=True
    ):
        encoded.append(Encoded.of(encoding, int(label)))
        cut += bool(encoding.overflowing)
    if cut:
        say(f"{cut:,} of {len(examples):,} examples are longer than {reader.length} tokens, and cut")
    reader.check_vocabulary(encoded)
    return encoded


def labels_given(engine: Engine, objective: ClassOfText, rows: FixedRows) -> np.ndarray:
    """The labels that a model gives, in the order of the examples."""
    found = predictions(engine, rows.batches, lambda batch: objective.labels(engine.module, batch))
    return np.array(rows.in_order(np.concatenate(found).tolist()))
