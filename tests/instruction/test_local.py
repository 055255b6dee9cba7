"""The local teacher: a tiny random model whose text is that of transformers' own generate."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from ligo.core.errors import CheckpointError, ConfigError
from ligo.data.bpe import train_tokenizer
from ligo.instruction.config import PromptConfig, TeacherConfig
from ligo.instruction.prompt import Prompts, Request
from ligo.instruction.seeds import read_seeds
from ligo.instruction.teachers.base import TEACHERS, Completion
from tests.conftest import random_model, tiny_config

SEEDS = read_seeds(None)
PROMPTS = Prompts(SEEDS, PromptConfig(shown=1), 0)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    train_tokenizer((task.output for task in SEEDS), 400).save_pretrained(folder)
    model = random_model(tiny_config(vocab_size=400, max_position_embeddings=1024), dtype="float32")
    model.save_pretrained(folder)
    return folder


def complete(
    folder: Path, numbers: list[int], seed: int = 0, prompts: Prompts = PROMPTS, **config: Any
) -> list[Completion]:
    settings = {"path": str(folder), "max_tokens": 12, "concurrency": 1, **config}
    teacher = TEACHERS.get("local")(TeacherConfig(**settings), seed)
    left = iter(numbers)

    def next_request() -> Request | None:
        number = next(left, None)
        return None if number is None else prompts[number]

    return list(teacher.complete(next_request))


def test_the_likeliest_text_is_generates_own_alone_and_in_a_batch(checkpoint: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    alone = complete(checkpoint, [0, 1, 2, 3], temperature=0)
    assert complete(checkpoint, [0, 1, 2, 3], temperature=0, concurrency=3) == alone
    for completion in alone:
        ids = tokenizer(PROMPTS[completion.request].prompt, return_tensors="pt")
        made = model.generate(**ids, max_new_tokens=12, do_sample=False, pad_token_id=0)[0]
        prompt = ids["input_ids"].shape[1]
        assert completion.text == tokenizer.decode(made[prompt:], skip_special_tokens=True)
        assert completion.prompt_tokens == prompt
        assert completion.finish == ("length" if completion.completion_tokens == 12 else "stop")


def test_what_is_sampled_depends_on_seed_and_number_alone(checkpoint: Path) -> None:
    first = complete(checkpoint, [0, 1, 2])
    assert complete(checkpoint, [2, 0], concurrency=1) == [first[2], first[0]]  # as after a restart
    assert complete(checkpoint, [0, 1, 2], seed=1) != first


def test_it_stops_at_the_task_that_is_not_wanted(checkpoint: Path) -> None:
    (free,) = complete(checkpoint, [0], temperature=0)
    stop = free.text[3:5]
    request = Request(0, PROMPTS[0].prompt, PROMPTS[0].shown, [stop])
    requests = iter([request, None])
    config = TeacherConfig(path=str(checkpoint), max_tokens=12, concurrency=1, temperature=0)
    (completion,) = TEACHERS.get("local")(config, 0).complete(lambda: next(requests))
    assert completion.text == free.text[: free.text.index(stop)] and completion.finish == "stop"


def test_a_chat_model_is_asked_in_its_own_words(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "chat")
    (tmp_path / "chat" / "chat_template.jinja").write_text("<u>{{ messages[0].content }}</u>")
    (plain,), (chat,) = (complete(folder, [0], temperature=0) for folder in (checkpoint, tmp_path / "chat"))
    assert chat.prompt_tokens > plain.prompt_tokens


def test_what_cannot_be_loaded_or_asked_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="teacher=local needs a checkpoint folder"):
        TEACHERS.get("local")(TeacherConfig(), 0)
    with pytest.raises(CheckpointError, match="no checkpoint at .*: it has no config.json"):
        complete(tmp_path, [0])
    (tmp_path / "config.json").write_text('{"model_type": "no_such_model"}')
    with pytest.raises(CheckpointError, match="cannot be loaded as a causal language model"):
        complete(tmp_path, [0])
    long = Prompts(SEEDS, PromptConfig(shown=20, tasks=30), 0)
    with pytest.raises(ConfigError, match="but the model takes 1024(.|\n)*prompt.shown="):
        complete(checkpoint, [0], prompts=long)
