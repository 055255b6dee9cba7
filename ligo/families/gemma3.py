"""Gemma 3: Gemma 2 with a norm on the queries and keys of each head, and one full layer in six.

The text model alone (`gemma3_text`); a checkpoint that also reads images is another architecture.
"""

from __future__ import annotations

from typing import ClassVar

from ligo.families.base import FAMILIES
from ligo.families.gemma2 import Gemma2, alternating
from ligo.families.spec import Norm


@FAMILIES.register("gemma3")
class Gemma3(Gemma2):
    """As `Gemma3ForCausalLM` stores it."""

    model_types: ClassVar[tuple[str, ...]] = ("gemma3_text",)
    reference: ClassVar[str] = "Gemma 3 (Gemma Team 2025, arXiv 2503.19786)"
    head_norm: ClassVar[Norm | None] = Norm.RMS

    def implied_layer_types(self) -> list[str]:
        return alternating(self.dims.num_layers, self.config.get("sliding_window_pattern", 6))
