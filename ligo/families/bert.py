"""BERT: LayerNorm after each addition, so that the stream itself is normed; positions and token types are learned.

No norm stands between the stream and its readers, so no reader names a gain. The masked-LM head transforms the
stream into the space of the embeddings, and reads it with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ligo.families.base import FAMILIES
from ligo.families.layer_norm import POOLED, LayerNormFamily
from ligo.families.spec import (
    FFN,
    HEADS,
    KEY_DIM,
    QUERY_DIM,
    RESIDUAL,
    VALUE_DIM,
    VOCAB,
    Axis,
    Space,
    TensorSpec,
    reads,
    writes,
)

HEADS_OF_BERT = {"ForMaskedLM": "masked_lm", "ForSequenceClassification": "classes"}


@FAMILIES.register("bert")
class BERT(LayerNormFamily):
    """As `BertForMaskedLM`, `BertForSequenceClassification` and `BertModel` store it."""

    model_types: ClassVar[tuple[str, ...]] = ("bert",)
    reference: ClassVar[str] = "BERT (Devlin et al. 2018, arXiv 1810.04805)"
    post_norm: ClassVar[bool] = True
    objectives: ClassVar[Mapping[str, str]] = {**HEADS_OF_BERT, "BertModel": "none"}
    defaults: ClassVar[Mapping[str, Any]] = {
        "tie_word_embeddings": True,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
    }
    body: ClassVar[str] = "bert"
    other_heads: ClassVar[tuple[str, ...]] = ("cls.", "bert.pooler.", "classifier.")

    def check_variant(self) -> None:
        for key in ("is_decoder", "add_cross_attention"):
            if self.setting(key):
                raise self.refuse(key, "they read whole texts at once", "an encoder")
        if self.setting("position_embedding_type", "absolute") != "absolute":
            raise self.refuse(
                "position_embedding_type", "positions are a learned table", "a model with absolute positions"
            )

    def _spaces(self) -> list[Space]:
        pooled = [] if self.objective == "masked_lm" else [Space(name=POOLED, size=self.dims.hidden_size)]
        return [*super()._spaces(), *pooled]

    def _tensors(self) -> list[TensorSpec]:
        embeddings, layers = self.in_body("embeddings"), self.in_body("encoder.layer")
        return [
            self.embedding_spec(f"{embeddings}.word_embeddings.weight", tied_head=f"{self.decoder}.weight"),
            self.table_spec(
                f"{embeddings}.position_embeddings.weight", self.setting("max_position_embeddings")
            ),
            self.table_spec(f"{embeddings}.token_type_embeddings.weight", self.setting("type_vocab_size")),
            *self.norm_specs(f"{embeddings}.LayerNorm"),
            *self.all_layers(layers),
            *self.last_specs(),
        ]

    def layer_specs(self, prefix: str, layer: int) -> list[TensorSpec]:
        def linear(name: str, out: Axis, in_: Axis, ends_block: bool = False) -> list[TensorSpec]:
            return self.linear_specs(f"{prefix}.{name}", out, in_, layer=layer, ends_block=ends_block)

        return [
            *linear("attention.self.query", writes(HEADS, QUERY_DIM), reads(RESIDUAL)),
            *linear("attention.self.key", writes(HEADS, KEY_DIM), reads(RESIDUAL)),
            *linear("attention.self.value", writes(HEADS, VALUE_DIM), reads(RESIDUAL)),
            *linear("attention.output.dense", writes(RESIDUAL), reads(HEADS, VALUE_DIM), ends_block=True),
            *self.norm_specs(f"{prefix}.attention.output.LayerNorm", layer),
            *linear("intermediate.dense", writes(FFN), reads(RESIDUAL)),
            *linear("output.dense", writes(RESIDUAL), reads(FFN), ends_block=True),
            *self.norm_specs(f"{prefix}.output.LayerNorm", layer),
        ]

    # --- heads --------------------------------------------------------------------------------------

    def last_specs(self) -> list[TensorSpec]:
        """The head, or the pooler that a model without one ends in."""
        if self.objective == "masked_lm":
            return self.masked_lm_head()
        return self.classification_head() if self.has_head else self.pooler_specs("pooler.dense")

    decoder: ClassVar[str] = "cls.predictions.decoder"
    decoder_bias: ClassVar[str] = "cls.predictions.bias"
    transform: ClassVar[str] = "cls.predictions.transform.dense"
    transform_norm: ClassVar[str] = "cls.predictions.transform.LayerNorm"

    def masked_lm_head(self) -> list[TensorSpec]:
        """A dense layer, an elementwise function and a norm; then the embeddings, and a bias for each token.

        Where the head is not tied, the decoder has a bias of its own, and the other one stays unused.
        """
        bias = TensorSpec(
            name=self.decoder_bias,
            kind=self.decoder_bias,
            axes=(writes(VOCAB),),
            aliases=(f"{self.decoder}.bias",) if self.dims.tied else (),
        )
        own_bias = TensorSpec(name=f"{self.decoder}.bias", kind=f"{self.decoder}.bias", axes=(writes(VOCAB),))
        embedding = f"{self.body}.embeddings.word_embeddings.weight"
        return [
            bias,
            *self.linear_specs(self.transform, writes(RESIDUAL), reads(RESIDUAL)),
            *self.norm_specs(self.transform_norm, before_head=True),
            *self.head_specs(self.decoder, norm=self.transform_norm, embedding=embedding),
            *([] if self.dims.tied else [own_bias]),
        ]

    pooler: ClassVar[str] = "bert.pooler.dense"
    classifier: ClassVar[str] = "classifier"

    def classification_head(self) -> list[TensorSpec]:
        """A dense layer and a tanh on the first token, then the classes."""
        return [
            *self.pooler_specs(self.pooler),
            *self.classifier_specs(self.classifier, reads(POOLED)),
        ]
