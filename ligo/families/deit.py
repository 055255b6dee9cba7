"""DeiT: ViT with a second token that learns from a teacher; its head may be there or not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from ligo.families.base import FAMILIES
from ligo.families.vit import ViT

_WITH_TEACHER = "ForImageClassificationWithTeacher"


@FAMILIES.register("deit")
class DeiT(ViT):
    """As `DeiTForImageClassification`, `DeiTForImageClassificationWithTeacher` and `DeiTModel` store it."""

    model_types: ClassVar[tuple[str, ...]] = ("deit",)
    reference: ClassVar[str] = "DeiT (Touvron et al. 2020, arXiv 2012.12877)"
    objectives: ClassVar[Mapping[str, str]] = {
        "ForImageClassification": "image_classes",
        _WITH_TEACHER: "image_classes",
        "DeiTModel": "none",
    }
    body: ClassVar[str] = "deit"
    other_heads: ClassVar[tuple[str, ...]] = (
        "deit.pooler.",
        "classifier.",
        "cls_classifier.",
        "distillation_classifier.",
    )
    extra_tokens: ClassVar[tuple[str, ...]] = ("cls_token", "distillation_token")

    @property
    def classifiers(self) -> tuple[str, ...]:
        if self.architecture == _WITH_TEACHER:
            return ("cls_classifier", "distillation_classifier")
        return super().classifiers
