"""What the families with LayerNorm share: every norm has a scale and a shift, heads have the size hidden / heads.

GPT-2, GPT-NeoX, OPT, BERT, RoBERTa, ViT and DeiT say the rest in a file each.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import Any, ClassVar

from ligo.core.errors import CheckpointError
from ligo.families.base import Family, kind_of
from ligo.families.spec import (
    FFN,
    RESIDUAL,
    VOCAB,
    Axis,
    Dims,
    Norm,
    Space,
    TensorSpec,
    gain,
    reads,
    shift,
    writes,
)

POOLED = "pooled"
"""The hidden units of a pooler, or of a classification head that has such units."""
ONCE_PER_SEQUENCE = 0.0
"""Share of all tokens that a classification head is multiplied with: it costs nothing per token."""


class LayerNormFamily(Family):
    """Tables of linear layers and norms, each of them a weight and a bias."""

    norm: ClassVar[Norm] = Norm.LAYER

    @property
    def num_classes(self) -> int:
        """Classes of a classification head, as transformers counts them.

        Raises:
            CheckpointError: there are none.
        """
        labels = self.config.get("id2label")
        number = len(labels) if labels is not None else self.config.get("num_labels")
        if number == 0:
            raise CheckpointError(
                f"config.json names no classes, so that this {self.name} model has no head to train.\n"
                "  Try: load it with num_labels=N and save it again"
            )
        return 2 if number is None else int(number)

    def _dims(self) -> Dims:
        dims = super()._dims()
        if dims.hidden_size % dims.num_heads:
            raise CheckpointError(
                f"config.json says {self.size_keys['hidden_size']}={dims.hidden_size} and {dims.num_heads} heads, "
                "which do not divide it.\n  Try: save the model again with save_pretrained"
            )
        return replace(dims, tied=self.objective in ("causal_lm", "masked_lm") and dims.tied)

    def _spaces(self) -> list[Space]:
        d = self.dims
        return [
            Space(name=RESIDUAL, size=d.hidden_size, norm=self.norm),
            *self.attention_spaces(),
            Space(name=FFN, size=d.ffn_size),
            *([Space(name=VOCAB, size=d.vocab_size)] if d.vocab_size else []),
        ]

    @abstractmethod
    def layer_specs(self, prefix: str, layer: int) -> list[TensorSpec]:
        """The tensors of one layer, whose names begin with `prefix`, in file order."""

    def in_body(self, name: str) -> str:
        """The name on disk of what lies below the head."""
        return f"{self.body}.{name}" if self.has_head else name

    def all_layers(self, prefix: str) -> list[TensorSpec]:
        """The tensors of all layers, in file order."""
        layers = range(self.dims.num_layers)
        return [spec for layer in layers for spec in self.layer_specs(f"{prefix}.{layer}", layer)]

    def norm_specs(
        self, name: str, layer: int | None = None, *, before_head: bool = False
    ) -> list[TensorSpec]:
        """Scale and shift of a LayerNorm on the residual stream."""
        kind = kind_of(name, layer)
        return [
            TensorSpec(
                name=f"{name}.{part}",
                kind=f"{kind}.{part}",
                layer=layer,
                axes=(axis,),
                gain=scale,
                before_head=before_head,
            )
            for part, axis, scale in (
                ("weight", gain(RESIDUAL), None),
                ("bias", shift(RESIDUAL), f"{name}.weight"),
            )
        ]

    def linear_specs(
        self, name: str, out: Axis, in_: Axis, layer: int | None = None, *, norm: str | None = None,
        bias: bool = True, **more: Any,
    ) -> list[TensorSpec]:  # fmt: skip
        """Weight and bias of a linear layer; `norm`: the LayerNorm between the stream and this layer."""
        scale = f"{norm}.weight" if norm is not None else None
        return super().linear_specs(name, out, in_, layer, norm=scale, bias=bias, **more)

    def embedding_spec(self, name: str, *, tied_head: str) -> TensorSpec:
        """The table of tokens; a tied head is another name for it in the running model."""
        return TensorSpec(
            name=name,
            kind="embedding",
            axes=(writes(VOCAB), writes(RESIDUAL)),
            lookup=True,
            aliases=(tied_head,) if self.dims.tied else (),
        )

    def table_spec(self, name: str, *sizes: int) -> TensorSpec:
        """Vectors that are added to the stream by their place in a table of fixed size: positions, token types."""
        axes = (*(writes(size) for size in sizes), writes(RESIDUAL))
        return TensorSpec(name=name, kind=name, axes=axes, lookup=True)

    def head_specs(self, name: str, *, norm: str, embedding: str) -> list[TensorSpec]:
        """An output head of its own, without a bias; a tied one is not on disk."""
        if self.dims.tied:
            return []
        return self.linear_specs(
            name, writes(VOCAB), reads(RESIDUAL), norm=norm, bias=False, else_from=embedding
        )

    def pooler_specs(self, name: str, norm: str | None = None) -> list[TensorSpec]:
        """A dense layer on the first token, whose units go through a tanh."""
        return self.linear_specs(
            name, writes(POOLED), reads(RESIDUAL), norm=norm, active_share=ONCE_PER_SEQUENCE
        )

    def classifier_specs(self, name: str, in_: Axis, norm: str | None = None) -> list[TensorSpec]:
        """A classification head; the number of classes is fixed."""
        return self.linear_specs(
            name, writes(self.num_classes), in_, norm=norm, active_share=ONCE_PER_SEQUENCE
        )
