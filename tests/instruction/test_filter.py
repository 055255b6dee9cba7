"""Each reason to drop a task, and what is kept."""

from __future__ import annotations

import pytest

from ligo.instruction.config import FilterConfig
from ligo.instruction.filter import Refusal, TaskFilter
from ligo.instruction.parse import Task

SEED = Task("Explain the tides of the sea to a child of seven.", "", "The moon pulls.")


def judge(instruction: str, **config: object) -> Refusal | None:
    return TaskFilter(FilterConfig(**config), [SEED]).refusal(Task(instruction, "", "Yes."))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("instruction", "reason"),
    [
        ("Say it again", "too short"),
        ("word " * 151, "too long"),
        ("Describe what this Image shows.", "beyond text"),
        ("After that, go to the shop.", "beyond text"),
        ("Write a program that adds numbers.", "unclear start"),
        ("- list some animals here", "odd start"),
        ("¿Cómo se llama este animal?", "odd start"),
        ("explain the tides of the SEA  to a child of seven", "duplicate"),
    ],
)
def test_reasons(instruction: str, reason: str) -> None:
    assert judge(instruction) == Refusal(reason)


@pytest.mark.parametrize(
    "instruction",
    [
        "Say it once again",
        "word " * 150,
        "Imagine a profile of a mapmaker.",
        "Rewrite a program note for a concert.",
    ],
)
def test_the_nearest_that_is_kept(instruction: str) -> None:
    assert judge(instruction) is None


def test_what_resembles_a_seed_or_a_kept_instruction_is_dropped_and_says_which() -> None:
    similar = judge("Explain the tides of the sea to a child of nine.")
    assert similar == Refusal("similar", like=0, rouge_l=pytest.approx(10 / 11, abs=1e-4))
    keep = TaskFilter(FilterConfig(), [SEED])
    keep.add(Task("List five rivers that flow through Vienna.", "", "One does."))
    found = keep.refusal(Task("List four rivers that flow through Vienna.", "", "One does."))
    assert found is not None and found.like == 1


def test_options_move_the_limits() -> None:
    assert judge("Describe what this image shows.", beyond_text=[]) is None
    assert judge("Write a program that adds numbers.", unclear_starts=[]) is None
    assert judge("Say it", min_words=2) is None
    assert judge("Explain the tides of the sea to a child of nine.", max_rouge_l=0.95) is None
    assert judge("Explain the tides of the sea to a child of seven!", max_rouge_l=1.0) == Refusal("duplicate")
