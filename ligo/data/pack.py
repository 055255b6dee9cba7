"""Documents in a window: where they begin, and what lets a model read each of them alone."""

from __future__ import annotations

import torch
from torch import Tensor

from ligo.data.encode import Marks


def document_starts(tokens: Tensor, marks: Marks) -> Tensor:
    """Which tokens begin a document, by the boundary tokens around it: bool, in the shape of `tokens` [rows, length].

    The first token of a row counts as one, though its document may have begun before.
    """
    starts = torch.zeros_like(tokens, dtype=torch.bool)
    if marks.before:
        starts |= tokens == marks.before[0]
    if marks.after:
        starts[:, 1:] |= tokens[:, :-1] == marks.after[-1]
    starts[:, 0] = True
    return starts


def positions_within(starts: Tensor) -> Tensor:
    """Positions that begin again with every document: int64, in the shape of `starts` [rows, length].

    From these, transformers derives that attention stays within a document.
    """
    index = torch.arange(starts.shape[1], device=starts.device).expand_as(starts)
    return index - torch.where(starts, index, 0).cummax(dim=1).values


def mask_within(starts: Tensor) -> Tensor:
    """The same for models of which transformers derives nothing: who sees whom, bool [rows, 1, length, length]."""
    document = starts.cumsum(dim=1)
    same = document[:, :, None] == document[:, None, :]
    return same.tril()[:, None]
