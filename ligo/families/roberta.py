"""RoBERTa: BERT with heads of other names. Positions are counted from behind the padding token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from ligo.families.base import FAMILIES
from ligo.families.bert import BERT, HEADS_OF_BERT


@FAMILIES.register("roberta")
class RoBERTa(BERT):
    """As `RobertaForMaskedLM`, `RobertaForSequenceClassification` and `RobertaModel` store it."""

    model_types: ClassVar[tuple[str, ...]] = ("roberta",)
    reference: ClassVar[str] = "RoBERTa (Liu et al. 2019, arXiv 1907.11692)"
    objectives: ClassVar[Mapping[str, str]] = {**HEADS_OF_BERT, "RobertaModel": "none"}
    body: ClassVar[str] = "roberta"
    other_heads: ClassVar[tuple[str, ...]] = ("lm_head.", "roberta.pooler.", "classifier.")
    decoder: ClassVar[str] = "lm_head.decoder"
    decoder_bias: ClassVar[str] = "lm_head.bias"
    transform: ClassVar[str] = "lm_head.dense"
    transform_norm: ClassVar[str] = "lm_head.layer_norm"
    pooler: ClassVar[str] = "classifier.dense"
    classifier: ClassVar[str] = "classifier.out_proj"
