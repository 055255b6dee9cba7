"""Documents in a window: each is read as if it stood alone, and nothing is guessed from one to the next."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ligo.core.errors import ConfigError
from ligo.data.encode import Marks
from ligo.data.pack import document_starts, mask_within, positions_within
from ligo.families.base import family_of
from ligo.families.stock import fresh_model
from ligo.training.objectives import check_attention, make_objective
from tests.data.character_tokenizer import CharacterTokenizer
from tests.families.tiny import TINY
from tests.families.tiny_others import OTHERS

CAUSAL = {
    name: config for name, config in {**TINY, **OTHERS}.items() if family_of(config).objective == "causal_lm"
}
ROUNDING = 1e-6  # of a float32 mean of losses of about 5
END, BEGIN = 27, 26


def test_where_documents_begin() -> None:
    tokens = torch.tensor([[5, END, 6, 7, END, END, 8], [END, 5, 6, 7, 8, 9, END]])
    starts = document_starts(tokens, Marks(before=[], after=[END]))
    assert starts.int().tolist() == [[1, 0, 1, 0, 0, 1, 1], [1, 1, 0, 0, 0, 0, 0]]
    assert positions_within(starts).tolist() == [[0, 1, 0, 1, 2, 0, 0], [0, 0, 1, 2, 3, 4, 5]]
    tokens = torch.tensor([[5, BEGIN, 6, 7, BEGIN, BEGIN, 8]])
    starts = document_starts(tokens, Marks(before=[BEGIN], after=[]))
    assert starts.int().tolist() == [[1, 1, 0, 0, 1, 1, 0]]
    assert positions_within(starts).tolist() == [[0, 0, 1, 2, 0, 0, 1]]
    tokens = torch.tensor([[5, END, BEGIN, 6, END, 7, 8]])
    starts = document_starts(tokens, Marks(before=[BEGIN], after=[END]))
    assert starts.int().tolist() == [[1, 0, 1, 0, 0, 1, 0]]


def test_who_sees_whom() -> None:
    starts = torch.tensor([[True, False, True, False]])
    seen = [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]
    assert mask_within(starts).int().tolist() == [[seen]]


def packed(bos: bool) -> Tensor:
    """Three windows that documents of many lengths, of one token too, lie in."""
    batch = torch.from_numpy(np.random.default_rng(0).integers(0, 26, (3, 25)))
    for row, column in ((0, 4), (0, 11), (1, 8), (1, 9), (1, 20), (2, 24)):
        batch[row, column] = BEGIN if bos else END
    return batch


def documents(batch: Tensor, bos: bool) -> list[Tensor]:
    found = []
    for row in batch:
        marks = torch.nonzero(row == (BEGIN if bos else END)).flatten()
        found += torch.tensor_split(row, marks if bos else marks + 1)
    return found


def trained_on(name: str, bos: bool) -> tuple[Any, Any]:
    class Begins(CharacterTokenizer):
        bos_token_id = BEGIN

        def __call__(self, text: Any, **options: Any) -> dict[str, Any]:
            return {"input_ids": [BEGIN, *super().__call__(text)["input_ids"]]}

    torch.manual_seed(0)
    family = family_of(CAUSAL[name])
    model = fresh_model(family).eval()
    model = model if "mix" in name or "moe" in name else model.double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return make_objective(family, Begins if bos else CharacterTokenizer, attend="within"), model


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("bos", [False, True], ids=["ends", "begins"])
def test_loss_is_that_of_each_document_alone(name: str, bos: bool) -> None:
    objective, model = trained_on(name, bos)
    batch = packed(bos)
    total, count = 0.0, 0
    with torch.no_grad():
        for document in documents(batch, bos):
            if len(document) > 1:
                logits = model(input_ids=document[None, :-1], use_cache=False).logits[0]
                total += float(F.cross_entropy(logits, document[1:], reduction="sum"))
                count += len(document) - 1
        loss = float(objective.loss(model, batch))
    assert count == batch.numel() - len(batch) - 6 + (0 if bos else 1)  # one mark ends a window
    assert loss == pytest.approx(total / count, rel=ROUNDING)


@pytest.mark.parametrize("name", ["llama", "opt"])
def test_nothing_flows_from_one_document_to_another(name: str) -> None:
    objective, model = trained_on(name, bos=False)
    batch = packed(bos=False)
    changed = batch.clone()
    changed[1, :8] = (changed[1, :8] + 1) % 26  # all of the first document but its end

    def later(rows: Tensor) -> Tensor:
        seen: list[Tensor] = []

        def run(**inputs: Any) -> Any:
            output = model(**inputs)
            seen.append(output.logits)
            return output

        objective.loss(run, rows)
        return seen[0][1, 9:]

    with torch.no_grad():
        assert torch.equal(later(batch), later(changed))


def test_a_window_of_boundaries_alone_has_no_loss() -> None:
    objective, model = trained_on("llama", bos=False)
    assert objective.loss(model, torch.full((1, 5), END)).item() == 0.0


@pytest.mark.parametrize("name", ["bert", "vit"])
def test_models_that_are_not_causal_are_refused(name: str) -> None:
    with pytest.raises(
        ConfigError, match="data.attend=within is for causal models(.|\n)*Try: data.attend=across"
    ):
        make_objective(family_of(OTHERS[name]), CharacterTokenizer, attend="within")


def test_attention_that_is_not_known_to_keep_documents_apart_is_refused() -> None:
    llama, opt = family_of(TINY["llama"]), family_of(CAUSAL["opt"])
    for attend, attention in (("within", "sdpa"), ("across", "eager"), ("across", "flash_attention_2")):
        check_attention(opt, attend, attention)
    check_attention(llama, "within", "eager")
    with pytest.raises(
        ConfigError, match="attention=eager is not known to keep(.|\n)*Try: train.attention=sdpa"
    ):
        check_attention(opt, "within", "eager")
    with pytest.raises(ConfigError, match="flash_attention_2 is not known to keep"):
        check_attention(llama, "within", "flash_attention_2")
