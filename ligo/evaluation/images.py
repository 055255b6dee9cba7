"""Fine-tuning, or transfer, of image models on the classes of images."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ligo.core.errors import CheckpointError
from ligo.core.log import say
from ligo.core.run import Run
from ligo.data.config import DataConfig
from ligo.data.sources import cache_folder
from ligo.evaluation.finetuning import config as options
from ligo.evaluation.finetuning.config import FineTuningConfig
from ligo.evaluation.finetuning.metrics import check_installed, score
from ligo.evaluation.finetuning.pictures import Pictures, find_split, read_pictures
from ligo.evaluation.models import Model
from ligo.evaluation.registry import EVALUATIONS, EvaluationOfEach, Findings, Row
from ligo.families.base import Family, family_of
from ligo.families.vit import ViT


@dataclass(kw_only=True)
class ImagesConfig(FineTuningConfig):
    """path: a folder with train and validation as .npz or as folders of classes, or what to learn from, beside
    validation_path."""

    rates: list[float] = field(default_factory=lambda: [3e-4])
    """As everywhere; there is no published recipe for this optimiser without augmentation, so try some."""
    resize: bool = False
    """Whether images in arrays are scaled, and made grey or coloured, to fit the model; those in folders always are."""


@EVALUATIONS.register("images")
class ImageClassification(EvaluationOfEach[ImagesConfig]):
    """Fine-tune on images, unaugmented, and score on the validation split."""

    Config: ClassVar[type[ImagesConfig]] = ImagesConfig

    @classmethod
    def check(cls, config: ImagesConfig) -> None:
        options.check(config)

    def decisive(self) -> dict[str, Any]:
        return options.decisive(self.config)

    def prepare(self, models: Sequence[Model]) -> str:
        from ligo.evaluation.finetuning.heads import check_body

        options.check_models(models, self.config)
        check_installed()
        self._families: dict[str, ViT] = {}
        self._pictures: dict[str, dict[str, Pictures]] = {}
        by_shape: dict[tuple[int, int], dict[str, Pictures]] = {}
        for model in models:
            family = family_of(model.config)
            if not isinstance(family, ViT):
                raise CheckpointError(
                    f"models.{model.name} is a {family.name} model, which reads text, not images.\n"
                    "  Try: evaluation=classification"
                )
            check_body(model, family)
            shape = family.setting("num_channels"), family.setting("image_size")
            if shape not in by_shape:
                by_shape[shape] = self._read(*shape)
            self._pictures[model.name] = by_shape[shape]
            self._families[model.name] = _with_classes(family, by_shape[shape]["train"].classes)
        digest = hashlib.sha256()
        for _, pictures in sorted(by_shape.items()):
            for part in pictures.values():
                digest.update(np.ascontiguousarray(part.pixels).tobytes() + part.labels.tobytes())
        return digest.hexdigest()

    def _read(self, channels: int, size: int) -> dict[str, Pictures]:
        """Images by split: those to learn from, then those to score on, validation first."""
        config, cache = self.config, cache_folder(DataConfig()) / "images"
        assert config.path is not None, "checked with the options"
        folder = options.split_folder(config)
        places = {
            "train": find_split(config.path, "train"),
            "validation": find_split(config.validation_path or folder, "validation"),
            **({"test": find_split(folder, "test")} if config.test else {}),
        }
        found: dict[str, Pictures] = {}
        for split, place in places.items():
            found[split] = read_pictures(
                place,
                channels=channels,
                size=size,
                resize=config.resize,
                classes=found["train"].classes if found else None,
                cache=cache,
            )
        counts = ", ".join(f"{len(pictures.labels):,} {split}" for split, pictures in found.items())
        say(f"{counts} images in {len(found['train'].classes)} classes")
        return found

    def evaluate(self, model: Model, run: Run, seed: int) -> Findings:
        from ligo.accounting.flops import model_flops
        from ligo.data.images import Images
        from ligo.data.loader import Batches
        from ligo.evaluation.finetuning.grid import Job, predictions, run_grid, spread
        from ligo.evaluation.finetuning.heads import model_with_head
        from ligo.training.objectives import ImageClasses

        config, family, pictures = self.config, self._families[model.name], dict(self._pictures[model.name])
        learned, name = pictures.pop("train"), _task_of(self.config)
        objective = ImageClasses(family)
        length = objective.shape.num_tokens
        images = Images((learned.pixels, learned.labels), (learned.pixels[:0], learned.labels[:0]), "", name, objective.shape)  # fmt: skip
        rows = {split: ImageRows(found) for split, found in pictures.items()}
        held_out = pictures["validation"]
        some = spread(len(held_out.labels))
        followed = replace(held_out, pixels=held_out.pixels[some], labels=held_out.labels[some])
        forward = model_flops(family, length).forward * length
        classes = dict(enumerate(learned.classes))

        def make(seed: int) -> tuple[Any, list[str]]:
            labels = {"id2label": classes, "label2id": {word: number for number, word in classes.items()}}
            head = "AutoModelForImageClassification"
            return model_with_head(model.checkpoint.folder, head, family, seed, **labels)

        def labels_given(engine: Any, batches: Sequence[np.ndarray]) -> np.ndarray:
            def read(batch: Any) -> np.ndarray:
                logits = engine.module(pixel_values=objective.inputs(batch)).logits
                return np.asarray(logits.argmax(dim=1).cpu())

            return np.concatenate(predictions(engine, batches, read))

        findings = run_grid(
            Job(
                model=model.name,
                task=name,
                make=make,
                objective=objective,
                batches=lambda seed: Batches(images, length, config.train.batch_size, seed),
                followed=list(ImageRows(followed)),
                rows=rows,
                num_examples=len(learned.labels),
                length=length,
                forward_flops=lambda batch: float(len(batch) * forward),
                scores=lambda engine: {
                    split: score(["accuracy"], pictures[split].labels, labels_given(engine, batches))
                    for split, batches in rows.items()
                },
                counts={split: len(found.labels) for split, found in pictures.items()},
            ),
            config,
            run,
            seed,
        )
        usual = Counter(learned.labels.tolist()).most_common(1)[0][0]
        findings.rows.extend(
            Row(
                model=model.name,
                task=options.task_of(name, split),
                metric="accuracy of the most frequent class",
                value=float(np.mean(found.labels == usual)),
                count=len(found.labels),
            )
            for split, found in pictures.items()
        )
        return findings


_ROWS_AT_ONCE = 64  # per forward pass of an evaluation


class ImageRows(Sequence[np.ndarray]):
    """Rows to evaluate on, int64 [<= 64, pixels + 1] each, in the order of the images; each is made when it is asked for."""

    def __init__(self, pictures: Pictures) -> None:
        self._pictures = pictures

    def __len__(self) -> int:
        return -(-len(self._pictures.labels) // _ROWS_AT_ONCE)

    def __getitem__(self, number: Any) -> Any:
        if not 0 <= number < len(self):
            raise IndexError(number)
        part = slice(number * _ROWS_AT_ONCE, (number + 1) * _ROWS_AT_ONCE)
        return np.column_stack([self._pictures.pixels[part], self._pictures.labels[part]])


def _with_classes(family: Family, classes: Sequence[str]) -> ViT:
    """The model with a head for these classes, and no other."""
    labels = {str(number): name for number, name in enumerate(classes)}
    found = family_of(
        {**family.config, "architectures": [f"{family.name}ForImageClassification"], "id2label": labels}
    )
    assert isinstance(found, ViT), "the family is a matter of model_type"
    return found


def _task_of(config: ImagesConfig) -> str:
    """The name of the folder or file."""
    return Path(config.path or "").expanduser().resolve().name.removesuffix(".npz")
