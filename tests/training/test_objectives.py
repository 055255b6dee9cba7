"""Each objective's loss against a direct computation, on stock models; gradients flow; unknown heads are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ligo.core.errors import CheckpointError, ConfigError
from ligo.data.config import DataConfig
from ligo.data.loader import validation_batches
from ligo.data.mask import mask_tokens
from ligo.families.base import family_of
from ligo.families.fresh import fresh_config
from ligo.families.stock import fresh_model
from ligo.training.objectives import Objective, as_context, make_objective
from tests.families.tiny_others import OTHERS

SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 16}
SHAPES = {
    "llama": SIZES,
    "gpt2": SIZES,
    "gpt_neox": SIZES,
    "bert": SIZES,
    "vit": {**SIZES, "num_channels": 3, "image_size": 4, "patch_size": 2, "num_labels": 5},
}
ROUNDING = 4e-6  # of a float32 mean of losses of about 8, whose last place is 5e-7, summed in another order


class Tokenizer:
    mask_token_id: int | None = 1
    all_special_ids = (0, 1)

    def __len__(self) -> int:
        return 300


def made(name: str, **changes: Any) -> tuple[Objective, Any]:
    """A family's objective, and a stock model with weights that matter."""
    torch.manual_seed(0)
    family = family_of({**fresh_config(name, SHAPES[name]), **changes})
    model = fresh_model(family)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return make_objective(family, Tokenizer), model


def batch_for(objective: Objective) -> Tensor:
    generator = np.random.default_rng(0)
    if objective.family.objective == "image_classes":
        pixels, labels = generator.integers(0, 256, (6, 3 * 4 * 4)), generator.integers(0, 5, (6, 1))
        return torch.from_numpy(np.concatenate([pixels, labels], axis=1))
    return torch.from_numpy(generator.integers(0, 300, (6, 21)))


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox"])
def test_causal_lm_guesses_every_next_token(name: str) -> None:
    objective, model = made(name)
    batch = batch_for(objective)
    own = model(input_ids=batch, labels=batch).loss  # transformers shifts the labels by itself
    assert objective.loss(model, batch).item() == pytest.approx(own.item(), abs=ROUNDING)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_instruction_lm_guesses_the_tokens_of_responses_only(name: str) -> None:
    family, model = made(name)[0].family, made(name)[1]
    objective = make_objective(family, instructions=True)
    tokens = batch_for(objective)
    context = np.arange(21) < np.array([[3], [20], [0], [7], [21], [10]])  # one row is all context
    batch = torch.from_numpy(np.where(context, as_context(tokens.numpy()), tokens))
    labels = tokens.masked_fill(torch.from_numpy(context), -100)
    own = model(input_ids=tokens, labels=labels).loss
    assert objective.loss(model, batch).item() == pytest.approx(own.item(), abs=ROUNDING)
    assert torch.equal(objective.inputs(batch), tokens[:, :-1])
    assert objective.weight(batch.numpy()) == int((~context[:, 1:]).sum())
    assert objective.num_tokens(batch) == 6 * 20

    nothing = objective.loss(model, batch[4:5])
    nothing.backward()  # type: ignore[no-untyped-call]
    assert nothing.item() == 0 and not any(p.grad.any() for p in model.parameters() if p.grad is not None)
    everything = make_objective(family)
    assert objective.loss(model, tokens).item() == pytest.approx(
        everything.loss(model, tokens).item(), abs=ROUNDING
    )


def test_instructions_need_a_model_that_writes_text() -> None:
    with pytest.raises(CheckpointError, match=r"models that write text(.|\n)*a causal model"):
        make_objective(made("bert")[0].family, instructions=True)


def test_masked_lm_guesses_hidden_tokens_only() -> None:
    objective, model = made("bert")
    batch = batch_for(objective)
    shown, chosen = mask_tokens(batch[:, :-1].numpy(), mask_id=1, special_ids=[0, 1], vocab_size=300)
    labels = torch.from_numpy(np.where(chosen, batch[:, :-1], -100))
    own = model(input_ids=torch.from_numpy(shown), labels=labels).loss
    assert objective.loss(model, batch).item() == pytest.approx(own.item(), abs=ROUNDING)

    other = batch.clone()
    other[:, -1] = 5  # the last token of a window belongs to the next one
    assert objective.loss(model, other).item() == objective.loss(model, batch).item()


def test_masked_lm_of_parts_averages_to_that_of_the_whole() -> None:
    objective, model = made("bert")
    batch = batch_for(objective)
    parts = [objective.loss(model, part).item() for part in batch.split(2)]
    assert np.mean(parts) == pytest.approx(objective.loss(model, batch).item(), abs=ROUNDING)


def test_image_classes_sees_scaled_pixels_in_their_places() -> None:
    objective, model = made("vit")
    batch = batch_for(objective)
    images = objective.inputs(batch)
    assert images.shape == (6, 3, 4, 4)
    assert images[2, 1, 3, 0].item() == pytest.approx(batch[2, 16 + 12].item() / 127.5 - 1)
    assert -1 <= images.min() < -0.9 < 0.9 < images.max() <= 1
    own = F.cross_entropy(model(pixel_values=images).logits, batch[:, -1])
    assert objective.loss(model, batch).item() == pytest.approx(own.item(), abs=ROUNDING)


def test_image_classes_are_judged_by_loss_and_accuracy() -> None:
    objective, model = made("vit")
    batch = batch_for(objective)
    given = model(pixel_values=objective.inputs(batch)).logits.argmax(dim=-1)
    batch[:, -1] = given
    batch[:2, -1] = (given[:2] + 1) % 5
    with torch.no_grad():
        found = objective.judge(model, batch)
    assert found == {
        "loss": pytest.approx(objective.loss(model, batch).item(), abs=ROUNDING),
        "accuracy": pytest.approx(4 / 6),
    }


def test_text_is_not_augmented() -> None:
    objective, _ = made("bert")
    with pytest.raises(
        ConfigError, match=r"data.augment=\['flip'\] is for images, and BERT(.|\n)*Try: data.augment=\[\]"
    ):
        objective.prepare(DataConfig(path="text.txt", augment=["flip"]))


@pytest.mark.parametrize("name", SHAPES)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    objective, model = made(name)
    objective.loss(model, batch_for(objective)).backward()  # type: ignore[no-untyped-call]
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert not without
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("name", SHAPES)
def test_a_functional_call_gives_the_same_loss(name: str) -> None:
    objective, model = made(name)
    weights = dict(model.named_parameters())

    def run(**inputs: Any) -> Any:
        return torch.func.functional_call(model, weights, (), inputs)

    batch = batch_for(objective)
    assert objective.loss(run, batch).item() == objective.loss(model, batch).item()


@pytest.mark.parametrize(("name", "tokens"), [("gpt2", 6 * 20), ("bert", 6 * 20), ("vit", 6 * 5)])
def test_tokens_of_a_batch(name: str, tokens: int) -> None:
    objective, _ = made(name)
    batch = batch_for(objective)
    assert objective.num_tokens(batch) == objective.num_tokens(batch.numpy()) == tokens


def test_a_head_without_objective_is_refused() -> None:
    config = {**fresh_config("bert", SIZES), "architectures": ["BertForSequenceClassification"]}
    with pytest.raises(CheckpointError, match=r"\('classes'\)(.|\n)*: causal_lm, masked_lm, image_classes."):
        make_objective(family_of(config))


@pytest.mark.parametrize(
    ("name", "head"),
    [("bert model", "AutoModelForMaskedLM"), ("vit model", "AutoModelForImageClassification")],
)
def test_a_model_without_a_head_is_compared_on_random_inputs_and_not_trained(name: str, head: str) -> None:
    family = family_of(OTHERS[name])
    with pytest.raises(CheckpointError, match=rf"without a head(.|\n)*stages=\[write,verify\](.|\n)*{head}"):
        make_objective(family)
    data = DataConfig(sequence_length=5)
    first, again = (make_objective(family, trains=False) for _ in range(2))
    batch, other = (validation_batches(o.prepare(data), 5, 4, 20)[0] for o in (first, again))
    assert np.array_equal(batch, other) and len(np.unique(batch)) > 10
    inputs = first.inputs(torch.from_numpy(batch))
    assert inputs.shape == ((4, 3, 8, 8) if name == "vit model" else (4, 5))
    with pytest.raises(CheckpointError, match="nothing to train it on"):
        first.loss(lambda **_: None, torch.from_numpy(batch))


def test_a_tokenizer_without_mask_token_is_refused() -> None:
    class NoMask(Tokenizer):
        mask_token_id = None

    objective = make_objective(family_of(fresh_config("bert", SIZES)), NoMask)
    with pytest.raises(CheckpointError, match="no mask token(.|\n)*tokenizer_config.json"):
        objective.loss(lambda **_: None, batch_for(objective))
