"""ViT: an image is a sequence of patches behind a token for the class; LayerNorm before each block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ligo.core.errors import PlanError
from ligo.families.base import FAMILIES
from ligo.families.layer_norm import POOLED, LayerNormFamily
from ligo.families.spec import (
    FFN,
    HEADS,
    KEY_DIM,
    QUERY_DIM,
    RESIDUAL,
    VALUE_DIM,
    Axis,
    Dims,
    Space,
    TensorSpec,
    reads,
    writes,
)


@FAMILIES.register("vit")
class ViT(LayerNormFamily):
    """As `ViTForImageClassification` and `ViTModel` store it."""

    model_types: ClassVar[tuple[str, ...]] = ("vit",)
    reference: ClassVar[str] = "ViT (Dosovitskiy et al. 2020, arXiv 2010.11929)"
    objectives: ClassVar[Mapping[str, str]] = {"ForImageClassification": "image_classes", "ViTModel": "none"}
    size_keys: ClassVar[Mapping[str, str]] = {
        "num_layers": "num_hidden_layers",
        "hidden_size": "hidden_size",
        "num_heads": "num_attention_heads",
        "ffn_size": "intermediate_size",
    }
    defaults: ClassVar[Mapping[str, Any]] = {
        "image_size": 224,
        "patch_size": 16,
        "num_channels": 3,
        "qkv_bias": True,
    }
    body: ClassVar[str] = "vit"
    other_heads: ClassVar[tuple[str, ...]] = ("vit.pooler.", "classifier.")
    extra_tokens: ClassVar[tuple[str, ...]] = ("cls_token",)
    """Learned tokens in front of the patches."""

    def check_variant(self) -> None:
        for key in ("image_size", "patch_size"):
            if not isinstance(self.setting(key), int):
                raise self.refuse(key, "images and patches are square, of one size", f"{key} as one number")
        if self.setting("head_dim") is not None:
            raise self.refuse("head_dim", "the size of a head is hidden_size / heads", "a model without it")

    def target_dims(self, wanted: Mapping[str, int | None]) -> Dims:
        if wanted.get("vocab_size") is not None:
            raise PlanError(
                f"target.vocab_size={wanted['vocab_size']}: {self.name} models read images, not tokens.\n"
                "  Try: leave target.vocab_size out"
            )
        return super().target_dims(wanted)

    def resized(self, dims: Dims) -> dict[str, Any]:
        grows = self.pooler_size == self.dims.hidden_size
        return {
            **super().resized(dims),
            "pooler_output_size": dims.hidden_size if grows else self.pooler_size,
        }

    @property
    def pooler_size(self) -> int:
        """Units of the pooler, which models without a head have."""
        return int(self.setting("pooler_output_size", self.dims.hidden_size))

    def _spaces(self) -> list[Space]:
        pooled = [] if self.has_head else [Space(name=POOLED, size=self.pooler_size)]
        return [*super()._spaces(), *pooled]

    @property
    def num_patches(self) -> int:
        return (self.setting("image_size") // self.setting("patch_size")) ** 2

    @property
    def tokens_per_image(self) -> int:
        """The length of every sequence: patches and the tokens in front of them."""
        return self.num_patches + len(self.extra_tokens)

    def _tensors(self) -> list[TensorSpec]:
        embeddings, layers = self.in_body("embeddings"), self.in_body("encoder.layer")
        last_norm = self.in_body("layernorm")
        patch, channels = self.setting("patch_size"), self.setting("num_channels")
        pixels = (reads(channels), reads(patch), reads(patch))
        projection = f"{embeddings}.patch_embeddings.projection"
        return [
            *(self.table_spec(f"{embeddings}.{token}", 1, 1) for token in self.extra_tokens),
            self.table_spec(f"{embeddings}.position_embeddings", 1, self.tokens_per_image),
            TensorSpec(
                name=f"{projection}.weight",
                kind="projection.weight",
                axes=(writes(RESIDUAL), *pixels),
                active_share=self.num_patches / self.tokens_per_image,
            ),
            TensorSpec(name=f"{projection}.bias", kind="projection.bias", axes=(writes(RESIDUAL),)),
            *self.all_layers(layers),
            *self.norm_specs(last_norm),
            *([] if self.has_head else self.pooler_specs("pooler.dense", norm=last_norm)),
            *(
                spec
                for name in self.classifiers
                for spec in self.classifier_specs(name, reads(RESIDUAL), norm=last_norm)
            ),
        ]

    @property
    def classifiers(self) -> tuple[str, ...]:
        return ("classifier",) if self.has_head else ()

    def layer_specs(self, prefix: str, layer: int) -> list[TensorSpec]:
        before_attention, before_ffn = f"{prefix}.layernorm_before", f"{prefix}.layernorm_after"

        def linear(name: str, out: Axis, in_: Axis, norm: str | None, bias: bool = True) -> list[TensorSpec]:
            return self.linear_specs(
                f"{prefix}.{name}", out, in_, layer=layer, norm=norm, bias=bias, ends_block=norm is None
            )

        heads = {"query": QUERY_DIM, "key": KEY_DIM, "value": VALUE_DIM}
        return [
            *(
                spec
                for part, dim in heads.items()
                for spec in linear(
                    f"attention.attention.{part}",
                    writes(HEADS, dim),
                    reads(RESIDUAL),
                    before_attention,
                    self.setting("qkv_bias"),
                )
            ),
            *linear("attention.output.dense", writes(RESIDUAL), reads(HEADS, VALUE_DIM), None),
            *linear("intermediate.dense", writes(FFN), reads(RESIDUAL), before_ffn),
            *linear("output.dense", writes(RESIDUAL), reads(FFN), None),
            *self.norm_specs(before_attention, layer),
            *self.norm_specs(before_ffn, layer),
        ]
