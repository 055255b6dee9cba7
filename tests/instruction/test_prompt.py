"""Prompts are functions of (seed, number), count without a slip, and come back as tasks."""

from __future__ import annotations

import re

import pytest

from ligo.core.errors import ConfigError
from ligo.instruction.config import PromptConfig
from ligo.instruction.parse import parse
from ligo.instruction.prompt import Prompts
from ligo.instruction.seeds import read_seeds
from tests.instruction.recording import default_prompts

SEEDS = read_seeds(None)


def test_a_prompt_depends_on_seed_and_number_alone() -> None:
    one, again, other = default_prompts(), default_prompts(), default_prompts(seed=1)
    assert [one[n] for n in (5, 0, 5)] == [again[n] for n in (5, 0, 5)]
    assert one[5] != one[0] != other[0]
    assert len({tuple(one[n].shown) for n in range(200)}) > 190
    assert {i for n in range(400) for i in one[n].shown} == set(range(175))  # every seed has its turn


def test_draws_are_those_of_every_numpy_and_machine() -> None:
    assert default_prompts()[0].shown == [162, 66, 0]


@pytest.mark.parametrize("shown", [1, 3, 5])
def test_numbers_run_on_without_a_slip(shown: int) -> None:
    request = Prompts(SEEDS, PromptConfig(shown=shown, tasks=12), 0)[7]
    assert [int(n) for n in re.findall(r"^### Task (\d+)$", request.prompt, re.MULTILINE)] == [
        *range(1, shown + 2)
    ]
    assert f"with tasks {shown + 1} to 12." in request.prompt
    assert request.stop == ["### Task 13"]


@pytest.mark.parametrize("template", ["numbered", "jsonl"])
def test_what_is_shown_is_understood_when_a_teacher_writes_like_it(template: str) -> None:
    prompts = Prompts(SEEDS, PromptConfig(template=template), 0)
    for number in range(100):
        request = prompts[number]
        begin = request.prompt.index("### Task 1" if template == "numbered" else '{"instruction"')
        written = request.prompt[begin:].removesuffix("### Task 4\nInstruction:")
        tasks = [SEEDS[i] for i in request.shown]
        assert parse(written, cut=False).tasks == tasks


def test_an_unknown_template_is_refused_with_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match=r"prompt.template=json is not known(.|\n)*Try: prompt.template=jsonl"
    ):
        Prompts(SEEDS, PromptConfig(template="json"), 0)
    with pytest.raises(ConfigError, match="prompt.shown=3, but there are only 2 seed tasks"):
        Prompts(SEEDS[:2], PromptConfig(), 0)
