"""Examples become windows in which responses alone are guessed, in an order that follows from seed and step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ligo.data.instructions import IGNORED, TokenizedExample
from ligo.families.base import family_of
from ligo.training.objectives import InstructionLM
from ligo.tuning.batches import (
    InstructionBatches,
    Instructions,
    as_windows,
    response_size,
    validation_windows,
)
from tests.conftest import random_model, tiny_config


def example(first: int, prompt: int, response: int) -> TokenizedExample:
    ids = np.arange(first, first + prompt + response)
    labels = np.where(np.arange(len(ids)) < prompt, IGNORED, ids)
    return TokenizedExample(ids, labels)


EXAMPLES = [example(1 + number, 3 + number % 3, 2 + number % 5) for number in range(20)]


def test_the_loss_is_transformers_own_on_the_labels() -> None:
    model, pair = random_model(tiny_config()), [example(5, 4, 3), example(40, 2, 9)]
    windows = torch.from_numpy(as_windows(pair, fill=0))
    assert windows.shape == (2, 11) and (windows[0, 7:] == -1).all()
    labels = torch.full((2, 11), IGNORED)
    for row, each in zip(labels, pair, strict=True):
        row[: len(each.ids)] = torch.from_numpy(each.labels)
    ids = torch.where(windows < 0, ~windows, windows)
    expected = model(input_ids=ids, labels=labels).loss.detach()
    found = InstructionLM(family_of(tiny_config())).loss(model, windows).detach()
    assert float(found) == pytest.approx(float(expected), abs=1e-6)


def test_every_epoch_visits_each_example_once_in_another_order() -> None:
    batches = InstructionBatches(Instructions(EXAMPLES, [], fill=0), batch_size=5, seed=3)
    epochs = [
        [int(abs(row[0] + 1)) for step in range(4 * e, 4 * e + 4) for row in batches[step]] for e in (0, 1)
    ]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(1, 21))
    assert epochs[0] != epochs[1]


def test_a_batch_is_a_function_of_seed_and_step_and_as_wide_as_its_longest_example() -> None:
    instructions = Instructions(EXAMPLES, [], fill=0)
    batches, again = (InstructionBatches(instructions, 6, seed=0) for _ in range(2))
    for step in (7, 0, 3):
        batch = batches[step]
        assert np.array_equal(batch, again[step])
        assert batch.shape == (6, batches.num_inputs(step) + 1)
        assert (batch[:, -1] >= 0).any()
    assert not np.array_equal(InstructionBatches(instructions, 6, seed=1)[0], batches[0])


def test_all_examples_that_are_held_out_are_evaluated_on() -> None:
    windows = validation_windows(Instructions([], EXAMPLES, fill=0))
    assert [len(batch) for batch in windows] == [16, 4]
    guessed = sum(int((batch >= 0).sum()) for batch in windows)
    assert guessed == sum(int((each.labels != IGNORED).sum()) for each in EXAMPLES)


def test_bits_per_byte_are_of_the_text_of_responses() -> None:
    from transformers import AutoTokenizer

    from tests.tuning.tuned import TOKENIZER

    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    prompt, response = tokenizer("Say it.")["input_ids"], tokenizer(" light of the world")["input_ids"]
    ids = np.array([*prompt, *response, tokenizer.eos_token_id])
    labels = np.where(np.arange(len(ids)) < len(prompt), IGNORED, ids)
    tokens, num_bytes = response_size([TokenizedExample(ids, labels)] * 3, tokenizer)
    assert tokens == 3 * (len(response) + 1)
    assert num_bytes == 3 * len(b" light of the world")
