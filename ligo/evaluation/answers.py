"""A model's answers to questions, kept in a file as they are made.

Questions are answered in batches that depend on nothing but their order, and a batch is kept whole or not at all: a run
that was stopped goes on with the very answers that it would have had.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ligo.core.checks import check_between, check_choice
from ligo.core.errors import CheckpointError, ConfigError
from ligo.core.log import progress
from ligo.data.instructions import alpaca_prompt
from ligo.evaluation.meter import metered
from ligo.evaluation.models import Model
from ligo.evaluation.questions import Question
from ligo.instruction.lines import JsonLines

PROMPTS = ("auto", "alpaca", "chat", "plain")


@dataclass(kw_only=True)
class AnswerConfig:
    """How models answer."""

    prompt: str = "auto"
    """alpaca: in Alpaca's template; chat: in the tokenizer's own; plain: the question alone; auto: chat where the tokenizer
    has a template, else alpaca."""
    max_tokens: int = 512
    """Longest answer."""
    temperature: float = 0.0
    """0 always takes the likeliest token; 1 samples from the model's own distribution."""
    top_p: float = 1.0
    """Samples from the likeliest tokens that together have this probability."""
    batch_size: int = 8
    """Questions that are answered at once."""


@dataclass(frozen=True)
class Answer:
    """What a model wrote."""

    question: str
    text: str
    finish: str
    """stop, or length when it reached answers.max_tokens or the end of the model's positions."""
    prompt_tokens: int
    tokens: int
    flops: float | None
    """Its part of what its batch took."""


def check(config: AnswerConfig, section: str) -> None:
    """Refuse values that cannot be.

    Raises:
        ConfigError: the value, why it cannot be, and what to type instead.
    """
    check_choice(f"{section}.prompt", config.prompt, PROMPTS)
    check_between(f"{section}.max_tokens", config.max_tokens, 1)
    check_between(f"{section}.temperature", config.temperature, 0, 2)
    check_between(f"{section}.top_p", config.top_p, 0, 1, above=True)
    check_between(f"{section}.batch_size", config.batch_size, 1)


def prompts_for(model: Model, questions: Sequence[Question], config: AnswerConfig) -> list[list[int]]:
    """The ids that the model is given for each question.

    Raises:
        ConfigError: the tokenizer has no chat template and prompt=chat, or a prompt leaves no room for an answer.
    """
    tokenizer = model.tokenizer()
    kind = config.prompt
    if kind == "auto":
        kind = "alpaca" if tokenizer.chat_template is None else "chat"
    if kind == "chat" and tokenizer.chat_template is None:
        raise ConfigError(
            f"evaluation.answers.prompt=chat, and the tokenizer of models.{model.name} has no chat template.\n"
            "  Try: evaluation.answers.prompt=alpaca"
        )
    found: list[list[int]] = []
    for question in questions:
        text = alpaca_prompt(question.text) if kind == "alpaca" else question.text
        if kind == "chat":
            chat = [{"role": "user", "content": question.text}]
            text = str(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))
        ids = tokenizer(text, add_special_tokens=kind != "chat")[
            "input_ids"
        ]  # chat templates write their own
        if ids and ids[-1] == tokenizer.eos_token_id and kind != "chat":
            ids = ids[:-1]  # some tokenizers end every text, but here it goes on
        found.append(ids)
    room, longest = model.max_positions, max(map(len, found))
    if room is not None and longest >= room:
        number = next(at for at, ids in enumerate(found) if len(ids) == longest)
        raise ConfigError(
            f"question {questions[number].id} has {longest} tokens as a prompt, and models.{model.name} has {room} positions "
            "for prompt and answer together.\n  Try: evaluation.answers.prompt=plain, or leave that question out"
        )
    return found


def answer(
    model: Model, questions: Sequence[Question], prompts: Sequence[list[int]], config: AnswerConfig, path: Path, seed: int
) -> list[Answer]:  # fmt: skip
    """The answers in a file, and those that it lacks yet, in the order of the questions.

    Args:
        prompts: of `prompts_for`.
        path: the file; made when it is not there.
        seed: of sampling, which is drawn from it and the number of a batch's first question.

    Raises:
        DataError: the file was changed from outside.
        CheckpointError: the model cannot be loaded.
        ResourceError: the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = JsonLines(path)
    try:
        there = file.read()
        if len(there) < len(questions):
            file.keep(len(there) // config.batch_size * config.batch_size)
        answers = [_as_answer(file, number, record) for number, record in enumerate(file.read())]
        for number, (made, question) in enumerate(zip(answers, questions, strict=False), start=1):
            if made.question != question.id:
                raise file.changed(number, f"the answer to question {question.id}")
        if len(answers) < len(questions):
            loaded = model.load()
            with progress(f"answers of {model.name}", len(questions)) as bar:
                bar.advance(len(answers))
                for first in range(len(answers), len(questions), config.batch_size):
                    batch = slice(first, first + config.batch_size)
                    made_now = _generate(
                        model, loaded, questions[batch], prompts[batch], config, _draw(seed, first)
                    )
                    file.append(asdict(each) for each in made_now)
                    answers += made_now
                    bar.advance(len(made_now))
        return answers
    finally:
        file.close()


def _generate(
    model: Model, loaded: Any, questions: Sequence[Question], prompts: Sequence[list[int]], config: AnswerConfig, draw: int
) -> list[Answer]:  # fmt: skip
    import torch

    tokenizer = model.tokenizer()
    ends = _ends(loaded, tokenizer)
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), ends[0])
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    room = config.max_tokens if model.max_positions is None else model.max_positions - width
    sampling: dict[str, Any] = {"do_sample": False}
    if config.temperature > 0:
        sampling = {"do_sample": True, "temperature": config.temperature, "top_p": config.top_p, "top_k": 0}
    torch.manual_seed(draw)
    with metered(model, loaded) as meter, torch.inference_mode():
        made = loaded.generate(
            input_ids=ids.to(loaded.device),
            attention_mask=mask.to(loaded.device),
            max_new_tokens=min(config.max_tokens, room),
            pad_token_id=ends[0],
            eos_token_id=ends,
            **sampling,
        )[:, width:].tolist()
    share = None if meter.flops is None else meter.flops / len(prompts)
    answers = []
    for question, prompt, new in zip(questions, prompts, made, strict=True):
        count = next((at for at, token in enumerate(new) if token in ends), len(new))
        text = tokenizer.decode(new[:count], skip_special_tokens=True).strip()
        finish = "stop" if count < len(new) else "length"
        answers.append(Answer(question.id, text, finish, len(prompt), count, share))
    return answers


def _ends(loaded: Any, tokenizer: Any) -> list[int]:
    """The tokens that end an answer.

    Raises:
        CheckpointError: there is none, so that no answer would end.
    """
    of_model = loaded.generation_config.eos_token_id
    listed = of_model if isinstance(of_model, list) else [of_model]
    ends = [token for token in dict.fromkeys([*listed, tokenizer.eos_token_id]) if token is not None]
    if not ends:
        raise CheckpointError(
            "neither the tokenizer nor generation_config.json names a token that ends a text.\n"
            '  Try: "eos_token_id" in generation_config.json'
        )
    return ends


def _draw(seed: int, first: int) -> int:
    """A seed of 32 bits, which is all that torch's generator on the CPU looks at."""
    return int(np.random.SeedSequence([seed % 2**64, first]).generate_state(1)[0])


def _as_answer(file: JsonLines, number: int, record: dict[str, Any]) -> Answer:
    if set(record) != set(Answer.__annotations__):
        raise file.changed(number + 1, f"an answer with {', '.join(Answer.__annotations__)}")
    return Answer(**record)
