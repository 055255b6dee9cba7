"""DeiT: ViT with a second token that learns from a teacher; its head may be there or not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from ligo.families.base import FAMILIES
from ligo.families.vit import ViT

_WITH_TEACHER = "ForImageClassificationWithTeacher"


@FAMILIES.register("deit")
class DeiT(ViT):
    """As `DeiTForImageClassification` and `DeiTForImageClassificationWithTeacher` store it."""

    model_types: ClassVar[tuple[str, ...]] = ("deit",)
    reference: ClassVar[str] = "DeiT (Touvron et al. 2020, arXiv 2012.12877)"
    objectives: ClassVar[Mapping[str, str]] = {**ViT.objectives, _WITH_TEACHER: "image_classes"}
    body: ClassVar[str] = "deit"
    extra_tokens: ClassVar[tuple[str, ...]] = ("cls_token", "distillation_token")

    @property
    def classifiers(self) -> tuple[str, ...]:
        if self.architecture == _WITH_TEACHER:
            return ("cls_classifier", "distillation_classifier")
        return super().classifiers
