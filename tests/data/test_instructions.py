"""Instruction files become prompts and responses, and these ids and labels."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ligo.core.errors import ConfigError, DataError
from ligo.data.instructions import (
    IGNORED,
    Example,
    alpaca_prompt,
    read_examples,
    tokenize_examples,
)
from tests.conftest import SHARED_DATA

RECORDS = [
    {"instruction": "Name a colour.", "input": "", "output": "Blue."},
    {"instruction": "Add.", "input": "1, 2", "output": "3"},
    {"instruction": "Say nothing.", "input": "", "output": " "},
    {"instruction": "Use {braces}.", "output": "{ok}"},
]
INTRODUCTION = "Below is an instruction that describes a task. Write a response that appropriately completes the request."


def write(path: Path, records: list[Any]) -> Path:
    if ".jsonl" in path.name:
        text = "".join(json.dumps(record) + "\n" for record in records)
    else:
        text = json.dumps(records, indent=1)
    path.write_bytes(gzip.compress(text.encode()) if path.name.endswith(".gz") else text.encode())
    return path


@pytest.mark.parametrize("name", ["a.json", "a.json.gz", "a.jsonl", "a.jsonl.gz"])
def test_alpaca_records_in_every_kind_of_file(tmp_path: Path, name: str) -> None:
    examples = read_examples(write(tmp_path / name, RECORDS))
    assert examples.num_empty == 1
    assert [example.response for example in examples.items] == ["Blue.", "3", "{ok}"]
    assert examples.items[0].prompt == f"{INTRODUCTION}\n\n### Instruction:\nName a colour.\n\n### Response:"
    assert examples.items[1].prompt == (
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nAdd.\n\n### Input:\n1, 2\n\n### Response:"
    )
    assert "Use {braces}." in examples.items[2].prompt


def test_each_answer_of_a_chat_is_an_example_with_all_that_was_said_before(tmp_path: Path) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Bye"},
        {"role": "assistant", "content": "See you."},
    ]
    first, second = read_examples(write(tmp_path / "chat.jsonl", [{"messages": messages}])).items
    assert first == Example(alpaca_prompt("Be brief.\n\nHi"), "Hello.")
    assert second == Example(f"{first.prompt}Hello.\n\n### Instruction:\nBye\n\n### Response:", "See you.")


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"instruction": "x"}, "there is no field 'output'.\n  There: instruction"),
        ({"output": "x", "prompt": "y"}, "there is no field 'instruction'.\n  There: output, prompt"),
        ({"instruction": "", "output": "x"}, "'instruction' is empty"),
        ({"instruction": "x", "output": 3}, "'output' is a int, not text"),
        ({"instruction": "x", "input": ["y"], "output": "z"}, "'input' is a list, not text"),
        ("x", "a str, but a record with keys is needed"),
        ({"messages": "x"}, "'messages' is a str, not a list"),
        ({"messages": []}, "no message of the assistant"),
        ({"messages": ["x"]}, "message 1: a str, but role and content"),
        ({"messages": [{"role": "user"}]}, "message 1: there is no field 'content'"),
        ({"messages": [{"role": "usr", "content": "x"}]}, "the role 'usr' is not one of (.|\n)*Try: user"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "message 1: an answer to nothing"),
    ],
)  # fmt: skip
@pytest.mark.parametrize(("name", "place"), [("a.jsonl", "line 2"), ("a.json", "record 2")])
def test_a_record_that_will_not_do_is_refused_with_its_place(
    tmp_path: Path, name: str, place: str, record: Any, words: str
) -> None:
    with pytest.raises(DataError, match=f"{name}, {place}.*{words}"):
        read_examples(write(tmp_path / name, [RECORDS[0], record]))


def test_an_empty_response_can_be_refused_and_nothing_at_all_is(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", RECORDS)
    with pytest.raises(DataError, match="line 3: the response is empty.\n  Try: data.on_empty=drop"):
        read_examples(path, on_empty="error")
    with pytest.raises(ConfigError, match="on_empty=dropp is not one of drop, error.\n  Try: on_empty=drop"):
        read_examples(path, on_empty="dropp")
    with pytest.raises(DataError, match="holds no example: 1 records, all with an empty response"):
        read_examples(write(tmp_path / "b.json", [RECORDS[2]]))


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.json", '[{"instruction": "x",\n"output"]', "a.json, line 2: not JSON"),
        ("a.json", '{"instruction": "x", "output": "y"}', "holds a dict, but a list of records is needed"),
        ("a.jsonl", '{"instruction": "x"', 'line 1: not JSON(.|\n)*"Name a colour."'),
        ("a.csv", "x", "its name ends in none of .json, .json.gz, .jsonl, .jsonl.gz"),
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=words):
        read_examples(tmp_path / name)


# Tokens


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from ligo.data.bpe import train_tokenizer

    return train_tokenizer([INTRODUCTION, "### Instruction: ### Response:"], 300)


EXAMPLES = [Example("Say a:", "a a a"), Example("Say a very long thing:", "b"), Example("c", "d")]


def test_the_loss_is_on_response_and_end_alone(tokenizer: Any) -> None:
    tokenized = tokenize_examples(EXAMPLES, tokenizer)
    assert (tokenized.num_truncated, tokenized.num_dropped) == (0, 0)
    for example, made in zip(EXAMPLES, tokenized.items, strict=True):
        prompt = tokenizer(example.prompt)["input_ids"]
        learned = made.labels != IGNORED
        assert made.ids.dtype == made.labels.dtype == np.int64
        assert made.ids[: len(prompt)].tolist() == prompt  # as at the time of answering
        assert not learned[: len(prompt)].any() and learned[len(prompt) :].all()
        assert tokenizer.decode(made.labels[learned]) == example.response + tokenizer.eos_token


def test_over_long_examples_are_cut_or_left_out_and_counted(tokenizer: Any) -> None:
    prompt, long_prompt, _ = (len(tokenizer(example.prompt)["input_ids"]) for example in EXAMPLES)
    length = prompt + 2
    assert long_prompt > length
    cut = tokenize_examples(EXAMPLES, tokenizer, max_length=length)
    assert (len(cut.items), cut.num_truncated, cut.num_dropped) == (2, 1, 1)
    assert len(cut.items[0].ids) == length and (cut.items[0].labels != IGNORED).sum() == 2
    left = tokenize_examples(EXAMPLES, tokenizer, max_length=length, on_long="drop")
    assert (len(left.items), left.num_truncated, left.num_dropped) == (1, 0, 2)
    with pytest.raises(
        DataError, match="all 1 are longer than max_length=2 tokens.\n  Try: data.max_length=8"
    ):
        tokenize_examples(EXAMPLES[1:2], tokenizer, max_length=2)
    with pytest.raises(ConfigError, match="on_long=cut is not one of truncate, drop"):
        tokenize_examples(EXAMPLES, tokenizer, on_long="cut")
    with pytest.raises(ConfigError, match="max_length=1 leaves no room"):
        tokenize_examples(EXAMPLES, tokenizer, max_length=1)


def test_tokens_that_begin_a_text_stand_once_and_those_that_end_it_at_the_end(tokenizer: Any) -> None:
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    inner = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer.from_str(tokenizer.backend_tokenizer.to_str()),
        bos_token="!",
        eos_token=tokenizer.eos_token,
    )
    bos, eos = inner.bos_token_id, inner.eos_token_id
    inner.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"! $A {inner.eos_token}", special_tokens=[("!", bos), (inner.eos_token, eos)]
    )
    (made,) = tokenize_examples([Example("c", "d")], inner).items
    assert made.ids.tolist() == [bos, *tokenizer("c")["input_ids"], *tokenizer("d")["input_ids"], eos]


def test_a_tokenizer_without_an_end_is_refused(tokenizer: Any) -> None:
    from transformers import PreTrainedTokenizerFast

    endless = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    with pytest.raises(DataError, match="no end-of-text token"):
        tokenize_examples(EXAMPLES, endless)


def test_published_instructions_are_read_whole(tokenizer: Any) -> None:
    folder = SHARED_DATA / "alpaca-5k"
    if not folder.is_dir():
        pytest.skip("the Alpaca sample is not beside this checkout (../shared/data)")
    with gzip.open(folder / "valid.jsonl.gz", "rt", encoding="utf-8") as lines:
        raw = [json.loads(line) for line in lines]
    examples = read_examples(folder / "valid.jsonl.gz")
    filled = [record for record in raw if record["output"].strip()]
    assert [example.response for example in examples.items] == [record["output"] for record in filled]
    assert examples.num_empty == len(raw) - len(filled)
    with_input = [" paired with an input " in example.prompt for example in examples.items]
    assert with_input == [bool(record["input"]) for record in filled]
    tokenized = tokenize_examples(examples.items, tokenizer, max_length=512)
    assert len(tokenized.items) + tokenized.num_dropped == len(examples.items)
    assert all((made.labels != IGNORED).any() and len(made.ids) <= 512 for made in tokenized.items)
