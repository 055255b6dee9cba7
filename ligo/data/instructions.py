"""Instruction files for tuning: from records to prompts and responses, and to token ids with labels.

    read_examples       Example(prompt, response)                       Alpaca's records, or chats in `messages`
    tokenize_examples   ids and labels, int64 [tokens] each             labels are -100 on the prompt

Prompts are Alpaca's two templates, word for word, since models tuned on them expect these
(tatsu-lab/stanford_alpaca, train.py, 2023).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ligo.core.checks import check_choice
from ligo.core.errors import ConfigError, DataError, nearest
from ligo.core.files import from_json
from ligo.data.sources import check_characters, jsonl_records, text_lines

IGNORED = -100
"""Label of a token that the loss leaves out, as torch's cross-entropy has it."""
ON_EMPTY = ("drop", "error")
ON_LONG = ("truncate", "drop")
_SUFFIXES = (".json", ".json.gz", ".jsonl", ".jsonl.gz")
_EXAMPLE = '{"instruction": "Name a colour.", "input": "", "output": "Blue."}'

_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
)
_WITHOUT_INPUT = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:"
)


@dataclass(frozen=True)
class Example:
    """What a model is shown, and what it should write."""

    prompt: str
    response: str


@dataclass(frozen=True)
class Examples:
    """The examples of a file, in its order."""

    items: list[Example]
    num_empty: int
    """Left out because the response is empty."""


@dataclass(frozen=True)
class TokenizedExample:
    """ids and labels, int64 [tokens] each; labels are the ids of the response and its end, and -100 before."""

    ids: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class TokenizedExamples:
    """Examples as tokens, in their order."""

    items: list[TokenizedExample]
    num_truncated: int
    """Longer than max_length, and cut to it."""
    num_dropped: int
    """Longer than max_length, and left out: always where a cut would leave nothing of the response."""


# Reading


def alpaca_prompt(instruction: str, input_: str = "") -> str:
    """Alpaca's prompt; the response follows it directly."""
    if input_:
        return _WITH_INPUT.format(instruction=instruction, input=input_)
    return _WITHOUT_INPUT.format(instruction=instruction)


def read_examples(path: Path, *, on_empty: str = "drop") -> Examples:
    """Read a file of instructions.

    A record is Alpaca's, with instruction, output and perhaps input; or a chat, {"messages": [{"role", "content"},
    ...]}, in which each answer of the assistant is an example whose prompt is all that was said before.

    Args:
        path: .json (a list) or .jsonl, either also .gz.
        on_empty: drop or error, for empty responses.

    Raises:
        ConfigError: on_empty is neither.
        DataError: the file cannot be read, a record lacks a field, or no example is left.
    """
    check_choice("on_empty", on_empty, ON_EMPTY)
    items, num_empty = [], 0
    for where, record in records(path):
        examples = _chat_examples(where, record) if "messages" in record else [_alpaca_example(where, record)]
        for example in examples:
            if example.response.strip():
                items.append(example)
            elif on_empty == "drop":
                num_empty += 1
            else:
                raise DataError(f"{where}: the response is empty.\n  Try: data.on_empty=drop, or fill it in")
    if not items:
        raise DataError(
            f"{path} holds no example: {num_empty} records, all with an empty response.\n"
            f"  Try: a file with records such as {_EXAMPLE}"
        )
    return Examples(items, num_empty)


def records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, record) of every record of a .json list or a .jsonl file.

    Raises:
        DataError: the file cannot be read, or something in it is no record.
    """
    if not path.name.endswith(_SUFFIXES):
        raise DataError(
            f"cannot tell how to read instructions from {path}: its name ends in none of {', '.join(_SUFFIXES)}.\n"
            "  Try: rename it, to .json if it is one list, to .jsonl if each line is a record"
        )
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        yield from jsonl_records(path, _EXAMPLE)
        return
    try:
        found = from_json("".join(text_lines(path)))
    except ValueError as error:
        line, at = "", str(error)
        if isinstance(error, json.JSONDecodeError):
            line, at = f", line {error.lineno}", f"{error.msg} at column {error.colno}"
        raise DataError(
            f"{path}{line}: not JSON ({at}).\n"
            "  Try: correct it, or rename it to .jsonl if each line is a record"
        ) from error
    if not isinstance(found, list):
        raise DataError(
            f"{path} holds a {type(found).__name__}, but a list of records is needed.\n  Try: [{_EXAMPLE}]"
        )
    for number, record in enumerate(found, start=1):
        where = f"{path}, record {number}"
        if not isinstance(record, dict):
            raise DataError(
                f"{where}: a {type(record).__name__}, but a record with keys is needed.\n  Try: {_EXAMPLE}"
            )
        check_characters(where, record)
        yield where, record


def text_field(where: str, record: dict[str, Any], key: str, *, filled: bool = False) -> str:
    """The text of a field; an `input` may be absent.

    Args:
        filled: whether white space alone is refused too.

    Raises:
        DataError: the field is absent, no text, or empty.
    """
    value = record.get(key, "" if key == "input" else None)
    if value is None:
        raise DataError(
            f"{where}: there is no field '{key}'.\n  There: {', '.join(record) or 'nothing'}.\n  Try: {_EXAMPLE}"
        )
    if not isinstance(value, str):
        raise DataError(f"{where}: '{key}' is a {type(value).__name__}, not text.\n  Try: {_EXAMPLE}")
    if filled and not value.strip():
        raise DataError(f"{where}: '{key}' is empty.\n  Try: fill it in, or remove that record")
    return value


def _alpaca_example(where: str, record: dict[str, Any]) -> Example:
    instruction = text_field(where, record, "instruction", filled=True)
    return Example(
        alpaca_prompt(instruction, text_field(where, record, "input")), text_field(where, record, "output")
    )


_ROLES = ("system", "user", "assistant")


def _chat_examples(where: str, record: dict[str, Any]) -> Iterator[Example]:
    """One example for each answer; earlier turns stand in its prompt one after another, in Alpaca's template."""
    messages = record["messages"]
    if not isinstance(messages, list):
        raise DataError(
            f"{where}: 'messages' is a {type(messages).__name__}, not a list.\n"
            '  Try: {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}'
        )
    prompt, asked, answers = "", [], 0
    for number, message in enumerate(messages, start=1):
        place = f"{where}, message {number}"
        if not isinstance(message, dict):
            raise DataError(f"{place}: a {type(message).__name__}, but role and content are needed.")
        role, content = text_field(place, message, "role"), text_field(place, message, "content")
        if role not in _ROLES:
            close = nearest(role, _ROLES) or "user"
            raise DataError(f"{place}: the role '{role}' is not one of {', '.join(_ROLES)}.\n  Try: {close}")
        if role != "assistant":
            asked.append(content)
            continue
        if not asked:
            raise DataError(f"{place}: an answer to nothing.\n  Try: a message of the user before it")
        instruction = "\n\n".join(asked)
        turn = _turn(instruction) if prompt else alpaca_prompt(instruction)
        yield Example(prompt + turn, content)
        prompt, asked, answers = f"{prompt}{turn}{content}\n\n", [], answers + 1
    if not answers:
        raise DataError(f"{where}: no message of the assistant.\n  Try: end it with one")


def _turn(instruction: str) -> str:
    """The part of Alpaca's template that is not the introduction."""
    return alpaca_prompt(instruction).partition("\n\n")[2]


# Tokens


def tokenize_examples(
    examples: Sequence[Example], tokenizer: Any, *, max_length: int = 512, on_long: str = "truncate"
) -> TokenizedExamples:
    """Token ids of prompt, response and end of text, with the loss on response and end only.

    Prompt and response are tokenized apart, as the prompt is when a model answers it.

    Args:
        tokenizer: a transformers tokenizer.
        max_length: most tokens of an example.
        on_long: truncate keeps the first max_length tokens, drop leaves the example out.

    Raises:
        ConfigError: on_long is neither, or max_length is below 2.
        DataError: the tokenizer has no end of text, or no example is left.
    """
    check_choice("on_long", on_long, ON_LONG)
    if max_length < 2:
        raise ConfigError(
            f"max_length={max_length} leaves no room for a response.\n  Try: data.max_length=512"
        )
    end = tokenizer.eos_token_id
    if end is None:
        raise DataError(
            "the tokenizer has no end-of-text token, so that a model could not learn where responses end.\n"
            "  Try: tokenizer.eos_token = TOKEN, and save it"
        )
    items, num_truncated, num_dropped = [], 0, 0
    for prompt, response in _tokens(examples, tokenizer, end):
        ids = np.array([*prompt, *response, end], dtype=np.int64)
        if len(ids) > max_length:
            if on_long == "drop" or len(prompt) >= max_length:
                num_dropped += 1
                continue
            num_truncated += 1
            ids = ids[:max_length]
        labels = ids.copy()
        labels[: len(prompt)] = IGNORED
        items.append(TokenizedExample(ids, labels))
    if examples and not items:
        raise DataError(
            f"no example is left: all {num_dropped} are longer than max_length={max_length} tokens.\n"
            f"  Try: data.max_length={4 * max_length}"
        )
    return TokenizedExamples(items, num_truncated, num_dropped)


def _tokens(examples: Sequence[Example], tokenizer: Any, end: int) -> Iterator[tuple[list[int], list[int]]]:
    """Ids of each prompt, with the token that begins a text, and of each response, without."""
    if not examples:
        return
    prompts = tokenizer([example.prompt for example in examples])["input_ids"]
    responses = tokenizer([example.response for example in examples], add_special_tokens=False)["input_ids"]
    for prompt, response in zip(prompts, responses, strict=True):
        # some tokenizers end every text, but here it goes on
        yield (prompt[:-1] if prompt and prompt[-1] == end else prompt), response
