"""The options of `python -m ligo.instruct`, and the checks that their types cannot express."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ligo.core.checks import check_between
from ligo.core.errors import ConfigError


@dataclass(kw_only=True)
class TeacherConfig:
    """The model that is asked for instructions, and what it costs."""

    name: str = "openai"
    """How it is reached: openai (any endpoint that speaks the chat completions of OpenAI), local, or replay."""
    model: str | None = None
    """openai: the model's name at the endpoint."""
    base_url: str | None = None
    """openai: address of the endpoint, up to /v1. null: $OPENAI_BASE_URL, or OpenAI's own."""
    key_variable: str = "OPENAI_API_KEY"
    """openai: the environment variable that holds the key; there is no option for the key itself."""
    path: str | None = None
    """local: a checkpoint folder. replay: the completions.jsonl of an earlier run."""
    temperature: float = 1.0
    """1 samples from the model's own distribution; 0 always takes the likeliest token."""
    top_p: float = 1.0
    """Samples from the likeliest tokens that together have this probability."""
    max_tokens: int = 3072
    """Longest completion; max_cost reckons with it."""
    concurrency: int = 8
    """openai: requests in flight. local: prompts in one batch."""
    max_retries: int = 8
    """openai: further tries, with exponential backoff and jitter, after 408, 409, 429, 5xx, no connection, no answer."""
    timeout: float = 300.0
    """openai: seconds to wait for an answer."""
    request: dict[str, Any] = field(default_factory=dict)
    """openai: further keys of the request, passed through as they are; null leaves one of ours out."""
    prompt_price: float = 0.0
    """Price of 1,000 prompt tokens, in any currency."""
    completion_price: float = 0.0
    """Price of 1,000 completion tokens, in the same currency."""


@dataclass(kw_only=True)
class PromptConfig:
    """What the teacher is shown."""

    template: str = "numbered"
    """numbered: numbered blocks, which models without chat tuning continue too; jsonl: one JSON object per line."""
    seeds: str | None = None
    """Seed tasks, .json or .jsonl with instruction, input and output. null: the 175 that come with ligo."""
    shown: int = 3
    """Seed tasks in a prompt, drawn for each request from its number."""
    tasks: int = 20
    """Tasks that a prompt numbers, those shown included."""


@dataclass(kw_only=True)
class FilterConfig:
    """Which tasks are kept."""

    min_words: int = 4
    """Fewest words of an instruction."""
    max_words: int = 150
    """Most words of an instruction."""
    max_rouge_l: float = 0.7
    """An instruction is dropped when its ROUGE-L with a seed or a kept instruction is above this."""
    beyond_text: list[str] = field(
        default_factory=lambda: [
            *("image", "images", "picture", "pictures", "photo", "photos", "graph", "graphs", "diagram", "diagrams"),
            *("flowchart", "draw", "plot", "map", "maps", "file", "files", "video", "videos", "audio", "music", "go to"),
        ]
    )  # fmt: skip
    """Words of instructions that ask for what a model of text can neither see nor make."""
    unclear_starts: list[str] = field(default_factory=lambda: ["write a program"])
    """Beginnings of instructions that leave open whether a text or an action is wanted."""


@dataclass(kw_only=True)
class RunConfig:
    """Where the run lies."""

    dir: str = "runs/instruct"
    """Run folder; the same command goes on in it."""


@dataclass(kw_only=True)
class InstructConfig:
    """Everything that `ligo.instruct` reads."""

    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    filter: FilterConfig = field(default_factory=FilterConfig)
    run: RunConfig = field(default_factory=RunConfig)
    count: int = 52_000
    """Instructions to keep; the run ends with the request that reaches it."""
    max_cost: float | None = None
    """No request is sent that could take the cost above this. null: no limit."""
    patience: int = 50
    """Completions in a row without one new task, after which the run gives up."""
    seed: int = 0
    """Decides which seed tasks each request shows, and what a local teacher samples."""


def check_teacher(teacher: TeacherConfig, section: str) -> None:
    """Refuse values that no teacher can have.

    Args:
        section: where these options are typed.

    Raises:
        ConfigError: the value, and its range.
    """
    check_between(f"{section}.temperature", teacher.temperature, 0, 2)
    check_between(f"{section}.top_p", teacher.top_p, 0, 1, above=True)
    check_between(f"{section}.max_tokens", teacher.max_tokens, 1)
    check_between(f"{section}.concurrency", teacher.concurrency, 1, 1000)
    check_between(f"{section}.max_retries", teacher.max_retries, 0, 1000)
    check_between(f"{section}.timeout", teacher.timeout, 0, above=True)
    check_between(f"{section}.prompt_price", teacher.prompt_price, 0)
    check_between(f"{section}.completion_price", teacher.completion_price, 0)


def check(config: InstructConfig) -> None:
    """Refuse values that cannot be.

    Raises:
        ConfigError: the value, why it cannot be, and what to type instead.
    """
    teacher, prompt, keep = config.teacher, config.prompt, config.filter
    check_teacher(teacher, "teacher")
    check_between("count", config.count, 1)
    check_between("patience", config.patience, 1)
    check_between("prompt.shown", prompt.shown, 1)
    check_between("prompt.tasks", prompt.tasks, prompt.shown + 1, 1000)
    check_between("filter.min_words", keep.min_words, 1)
    check_between("filter.max_words", keep.max_words, keep.min_words)
    check_between("filter.max_rouge_l", keep.max_rouge_l, 0, 1)
    if config.max_cost is not None:
        check_between("max_cost", config.max_cost, 0)
        if teacher.prompt_price == teacher.completion_price == 0:
            raise ConfigError(
                f"max_cost={config.max_cost:g} is a limit, but no price is known, so that nothing would count.\n"
                "  Try: teacher.prompt_price=PRICE teacher.completion_price=PRICE, each of 1,000 tokens"
            )
