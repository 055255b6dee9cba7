"""What is minimised, when a model is trained and when an operator is learned: one objective per kind of head.

A batch is what `data.loader` gives, an int64 array or tensor with one window of text, or one image, per row.
Losses are means over what has to be guessed, in nats: per token, or per image.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from copy import copy
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ligo.core.errors import CheckpointError, ConfigError
from ligo.data.config import DataConfig
from ligo.data.corpus import Corpus, TokenStream
from ligo.data.encode import Marks, boundary_tokens
from ligo.data.images import Images, ImageShape, prepare_images
from ligo.data.loader import Data
from ligo.data.mask import mask_tokens
from ligo.data.mixture import Mixture, prepare_text
from ligo.data.pack import document_starts, mask_within, positions_within
from ligo.families.base import Family
from ligo.families.stock import AUTO_CLASSES
from ligo.families.vit import ViT

Run = Callable[..., Any]
"""A model, or one given as a function of its weights: keyword inputs -> a transformers output with `.logits`."""


class Objective(ABC):
    """What a model is trained on."""

    def __init__(
        self, family: Family, load_tokenizer: Callable[[], Any] | None = None, attend: str = "across"
    ) -> None:
        """
        Args:
            load_tokenizer: called once, by objectives on text only.
            attend: as data.attend.

        Raises:
            ConfigError: the objective has no documents to attend within.
        """
        if attend == "within" and not isinstance(self, CausalLM):
            raise ConfigError(
                f"data.attend=within is for causal models, and {family.architecture} is none.\n"
                "  Try: data.attend=across"
            )
        self.family, self.attend = family, attend
        self._load_tokenizer = load_tokenizer

    def of(self, family: Family) -> Self:
        """The same objective for a model of another size: a grown one."""
        other = copy(self)
        other.family = family
        return other

    @abstractmethod
    def prepare(self, data: DataConfig) -> Data:
        """What the batches are drawn from.

        Raises:
            LigoError: as `tokenize.prepare` and `prepare_images` do.
        """

    @abstractmethod
    def inputs(self, batch: Tensor) -> Tensor:
        """What a model is given with nothing hidden: token ids [rows, length], or images."""

    @abstractmethod
    def loss(self, run: Run, batch: Tensor) -> Tensor:
        """The mean loss of `run` on a batch: a scalar, in nats."""

    def judge(self, run: Run, batch: Tensor) -> dict[str, float]:
        """What an evaluation finds on a batch: the `loss`, and where there is one right answer, the `accuracy`, its share."""
        return {"loss": float(self.loss(run, batch))}

    @abstractmethod
    def num_tokens(self, batch: np.ndarray | Tensor) -> int:
        """Tokens that a model works on in a batch; budgets and FLOPs are counted in them."""

    def weight(self, batch: np.ndarray) -> int:
        """What a batch counts for in the mean loss of several."""
        return self.num_tokens(batch)


_TOLD_BY_A_MASK = {"opt"}  # transformers does not look at their positions for where documents begin


class TextObjective(Objective):
    """On windows [rows, length + 1] of text."""

    @cached_property
    def tokenizer(self) -> Any:
        assert self._load_tokenizer is not None, "this objective was made without a tokenizer"
        return self._load_tokenizer()

    def prepare(self, data: DataConfig) -> Corpus | Mixture:
        if data.augment:
            raise ConfigError(
                f"data.augment={data.augment} is for images, and {self.family.name} models read text.\n  Try: data.augment=[]"
            )
        return prepare_text(data, self.tokenizer, vocab_size=self.family.dims.vocab_size)

    def inputs(self, batch: Tensor) -> Tensor:
        return batch[:, :-1]

    def num_tokens(self, batch: np.ndarray | Tensor) -> int:
        rows, columns = batch.shape
        return rows * (columns - 1)


class CausalLM(TextObjective):
    """Cross-entropy of every next token; with `attend=within`, of those of the same document, which is read alone."""

    @cached_property
    def _marks(self) -> Marks:
        """The boundary tokens, and EOS where a tokenizer only puts BOS: others' corpora end documents with it."""
        marks, eos = boundary_tokens(self.tokenizer), self.tokenizer.eos_token_id
        if marks.after or eos in (None, *marks.before):
            return marks
        return Marks(marks.before, [eos])

    def loss(self, run: Run, batch: Tensor) -> Tensor:
        if self.attend == "within":
            return self._loss_within(run, batch)
        logits = run(input_ids=self.inputs(batch), use_cache=False).logits
        return F.cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())

    def _loss_within(self, run: Run, batch: Tensor) -> Tensor:
        starts = document_starts(batch, self._marks)
        within = {"position_ids": positions_within(starts[:, :-1])}
        if self.family.config["model_type"] in _TOLD_BY_A_MASK:
            within["attention_mask"] = mask_within(starts[:, :-1])
        logits = run(input_ids=self.inputs(batch), use_cache=False, **within).logits
        kept = ~starts[:, 1:]
        losses = F.cross_entropy(logits[kept].float(), batch[:, 1:][kept], reduction="sum")
        return losses / kept.sum().clamp(min=1)


def check_attention(family: Family, attend: str, attention: str) -> None:
    """Refuse attention that is not known to keep documents apart.

    Raises:
        ConfigError: eager attention, where documents are told apart by a mask of truth values, or flash attention.
    """
    by_mask = family.config["model_type"] in _TOLD_BY_A_MASK
    if attend == "within" and (attention == "flash_attention_2" or (attention == "eager" and by_mask)):
        raise ConfigError(
            f"data.attend=within: train.attention={attention} is not known to keep the documents of {family.name} models "
            "apart.\n  Try: train.attention=sdpa, or data.attend=across"
        )


class InstructionLM(TextObjective):
    """Cross-entropy of the tokens of responses; prompts, and what fills a window up, are read and not guessed.

    A window marks such a token t by the number -1 - t (`as_context`). The mean is over the response tokens of the batch
    that is given, as in transformers with labels of -100, so micro-batches and ranks count alike whatever they hold;
    without any the loss is zero.
    """

    def inputs(self, batch: Tensor) -> Tensor:
        return torch.where(batch < 0, ~batch, batch)[:, :-1]

    def loss(self, run: Run, batch: Tensor) -> Tensor:
        labels = batch[:, 1:].flatten()
        logits = run(input_ids=self.inputs(batch), use_cache=False).logits.flatten(0, 1)
        labels = torch.where(labels < 0, _NOT_GUESSED, labels)
        summed = F.cross_entropy(logits.float(), labels, ignore_index=_NOT_GUESSED, reduction="sum")
        return summed / (labels >= 0).sum().clamp(min=1)

    def weight(self, batch: np.ndarray) -> int:
        return int((batch[:, 1:] >= 0).sum())


_NOT_GUESSED = -100  # torch's own ignore_index


def as_context(tokens: np.ndarray) -> np.ndarray:
    """Tokens marked as read and not guessed; the same again gives them back."""
    return ~tokens


class MaskedLM(TextObjective):
    """Cross-entropy of hidden tokens (Devlin et al. 2019, arXiv 1810.04805); a window's last token is left out."""

    @cached_property
    def mask_id(self) -> int:
        """
        Raises:
            CheckpointError: the tokenizer has no mask token.
        """
        if self.tokenizer.mask_token_id is None:
            raise CheckpointError(
                f"the tokenizer has no mask token, and {self.family.name} models are trained to guess what it hides.\n"
                '  Try: name it in tokenizer_config.json, for example "mask_token": "[MASK]"'
            )
        return int(self.tokenizer.mask_token_id)

    def loss(self, run: Run, batch: Tensor) -> Tensor:
        tokens = self.inputs(batch)
        shown, chosen = (
            torch.from_numpy(array).to(batch.device)
            for array in mask_tokens(
                tokens.cpu().numpy(),
                mask_id=self.mask_id,
                special_ids=self.tokenizer.all_special_ids,
                vocab_size=len(self.tokenizer),
            )
        )
        return F.cross_entropy(run(input_ids=shown).logits[chosen].float(), tokens[chosen])


class ImageClasses(Objective):
    """Cross-entropy of the classes of images [rows, pixels + 1]; pixels 0 to 255 are scaled to [-1, 1]."""

    family: ViT

    @cached_property
    def shape(self) -> ImageShape:
        return ImageShape(
            num_channels=self.family.setting("num_channels"),
            size=self.family.setting("image_size"),
            num_classes=self.family.num_classes if self.family.has_head else 0,
            num_tokens=self.family.tokens_per_image,
        )

    def prepare(self, data: DataConfig) -> Images:
        return prepare_images(data, self.shape)

    def inputs(self, batch: Tensor) -> Tensor:
        channels, size = self.shape.num_channels, self.shape.size
        return batch[:, :-1].reshape(-1, channels, size, size) / 127.5 - 1

    def loss(self, run: Run, batch: Tensor) -> Tensor:
        return F.cross_entropy(self._logits(run, batch), batch[:, -1])

    def judge(self, run: Run, batch: Tensor) -> dict[str, float]:
        logits, classes = self._logits(run, batch), batch[:, -1]
        right = logits.argmax(dim=-1) == classes
        return {"loss": float(F.cross_entropy(logits, classes)), "accuracy": float(right.float().mean())}

    def _logits(self, run: Run, batch: Tensor) -> Tensor:
        logits: Tensor = run(pixel_values=self.inputs(batch)).logits.float()
        return logits

    def num_tokens(self, batch: np.ndarray | Tensor) -> int:
        return len(batch) * self.shape.num_tokens


class UntrainedText(TextObjective):
    """Of models that are grown and compared, on random tokens, and not trained."""

    def prepare(self, data: DataConfig) -> Corpus:
        size = _NUM_RANDOM * data.sequence_length + 1
        tokens = np.random.default_rng(0).integers(0, self.family.dims.vocab_size, size)
        stream = TokenStream.of(tokens)
        return Corpus(stream, stream, "random", "random tokens", 1, 1.0)

    def loss(self, run: Run, batch: Tensor) -> Tensor:
        raise _not_trained(self.family)


class UntrainedImages(ImageClasses):
    """The same on random images."""

    def prepare(self, data: DataConfig) -> Images:
        size = (_NUM_RANDOM, self.shape.num_pixels)
        pixels = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
        split = (pixels, np.zeros(_NUM_RANDOM, dtype=np.int64))
        images = Images(split, split, "random", "random images", self.shape)
        images.check_length(data.sequence_length)
        return images

    def loss(self, run: Run, batch: Tensor) -> Tensor:
        raise _not_trained(self.family)


_NUM_RANDOM = 4  # windows, or images

OBJECTIVES: dict[str, type[Objective]] = {
    "causal_lm": CausalLM,
    "masked_lm": MaskedLM,
    "image_classes": ImageClasses,
}


def make_objective(
    family: Family,
    load_tokenizer: Callable[[], Any] | None = None,
    *,
    trains: bool = True,
    attend: str = "across",
    instructions: bool = False,
) -> Objective:
    """The objective of a model's head.

    Args:
        load_tokenizer: gives the model's tokenizer; only asked where there is text. Causal models need none
            unless their text has to be prepared.
        trains: whether anything is trained or learned; models without an objective can still be compared.
        attend: as data.attend.
        instructions: train on responses alone; batches say which tokens are not (`InstructionLM`).

    Raises:
        ConfigError: `attend` is not for this objective.
        CheckpointError: there is no head, or no objective for this head; those that exist are named.
    """
    if instructions:
        if family.objective != "causal_lm":
            raise CheckpointError(
                f"instructions are answered by models that write text, and {family.name} models with the head "
                f"{family.architecture} do not.\n  Try: a causal model, for example +small=smollm2-135m"
            )
        return InstructionLM(family, load_tokenizer)
    if family.objective in OBJECTIVES:
        return OBJECTIVES[family.objective](family, load_tokenizer, attend)
    if trains:
        raise _not_trained(family)
    return (UntrainedText if family.dims.vocab_size else UntrainedImages)(family, load_tokenizer, attend)


def _not_trained(family: Family) -> CheckpointError:
    if family.has_head:
        return CheckpointError(
            f"ligo has no objective for {family.architecture} ({family.objective!r}), so it cannot train this model.\n"
            f"  There are: {', '.join(OBJECTIVES)}.\n"
            "  Try: operator=exact stages=[write,verify], which trains nothing; or load it with a head for one of "
            "these, for example AutoModelForMaskedLM, and save it again"
        )
    with_head = AUTO_CLASSES[next(iter(family.objectives.values()))]
    return CheckpointError(
        f"{family.architecture} is a model without a head, and there is nothing to train it on.\n"
        "  Try: operator=exact stages=[write,verify], which trains nothing; or give it a head:\n"
        f'    python -c "from transformers import {with_head} as M; '
        "M.from_pretrained('DIR').save_pretrained('NEW_DIR')\"\n"
        "  copy its tokenizer's files there, and then small.path=NEW_DIR"
    )
