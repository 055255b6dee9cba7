"""--help of every command: two examples that work, groups with their choices, every option with default and meaning."""

from __future__ import annotations

import importlib
from functools import cache

import pytest

from docs.hooks.pages import commands, help_of
from ligo.config import GROW
from ligo.help import field_docs, group_lines, help_text
from ligo.options import Options, options
from tests.docs.planning import plan_command

COMMANDS = commands()
_WITHOUT_GROUPS = ("doctor", "export", "launch", "report", "sync", "sweep")

shown = cache(help_of)


def options_of(name: str) -> Options:
    return getattr(importlib.import_module(f"ligo.{name}"), "OPTIONS", GROW)


def test_every_command_is_known() -> None:
    known = {"grow", "plan", "report", "sweep", "tune", "instruct", "sync", "export", "launch", "doctor"}
    assert known <= set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_what_it_does_and_how_it_ends_and_gives_two_examples(name: str) -> None:
    text = shown(name)
    examples = [
        line.strip() for line in text.splitlines() if line.startswith("  ") and f"-m ligo.{name} " in line
    ]
    assert "Examples:" in text
    assert len(set(examples)) >= 2
    assert "Exit codes: 0 ok" in text
    assert max(map(len, text.splitlines())) <= 140


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_of_help_can_be_planned(name: str) -> None:
    for example in importlib.import_module(f"ligo.{name}").EXAMPLES:
        plan_command(example)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in _WITHOUT_GROUPS])
def test_help_shows_every_group_and_option(name: str) -> None:
    text, command = shown(name), options_of(name)
    for group in command.groups:
        words = " ".join(group_lines(command.root, [group])).split()
        assert set(options(group)) <= {word.strip(",") for word in words}
        for line in group_lines(command.root, [group]):
            assert line in text
    for option, meaning in field_docs(command.schema).items():
        if f"  {option}=" in text:
            assert meaning.split(" ")[0] in text
    assert "(default: " in text
    assert "seed=0" in text


def test_help_has_defaults_as_they_are_composed_and_the_meaning_from_below_the_field() -> None:
    text = help_text("D.", ("one", "two"), GROW)
    assert "train.max_tokens=393216" in text  # conf/grow.yaml, and not the dataclass
    assert "train.lr=0.002" in text  # ${target.grown_lr}
    assert "Token budget; the schedule is fitted to it." in text
    assert "train.start=grown" in text
    assert "train.micro_batch_tokens=null" in text


def test_docstring_lines_of_inherited_fields_are_found() -> None:
    from ligo.config import GrownTrainConfig

    docs = field_docs(GrownTrainConfig)
    assert docs["lr"] == "Peak learning rate."
    assert docs["start"].startswith("grown: the model that the stage")


@pytest.mark.parametrize(("name", "words"), [
    ("sweep", ("llama, llama-1.5x, llama-2x", "local, slurm", "cluster.workers=1", "study.seeds=[0]")),
    ("launch", ("torchrun, deepspeed, srun",)),
    ("doctor", ("default: runs", "default: 60")),
    ("report", ("default: report.html",)),
    ("sync", ("{offline,online}", "default: offline")),
    ("export", ("CHECKPOINT", "DIR")),
])  # fmt: skip
def test_help_of_commands_without_groups_shows_choices_and_defaults(
    name: str, words: tuple[str, ...]
) -> None:
    for word in words:
        assert word in shown(name)


def test_a_group_on_the_command_line_decides_the_defaults_that_are_shown() -> None:
    text = help_text("D.", ("one", "two"), GROW, ["+small=llama-7b", "target=13b", "seed=1", "--help"])
    assert "target.hidden_size=5120" in text
    assert "small.name=llama-7b" in text
    assert "seed=0" in text
