"""What all evaluations of causal language models need: that they are causal, how much they see, how texts begin."""

from __future__ import annotations

from collections.abc import Sequence

from ligo.core.errors import CheckpointError, ConfigError, DataError
from ligo.core.log import warn
from ligo.data.encode import boundary_tokens, too_many_ids
from ligo.evaluation.models import Model

LONGEST_WINDOW = 2048
"""Tokens that models are given at once unless more is asked for; logits take memory for each."""
_CAUSAL = ("ForCausalLM", "LMHeadModel")


def check_causal(model: Model) -> None:
    """Refuse models that see what they should guess.

    Raises:
        CheckpointError: the architecture in config.json is named.
    """
    named = model.config.get("architectures") or []
    if named and not any(name.endswith(_CAUSAL) for name in named):
        raise CheckpointError(
            f"models.{model.name} is a {named[0]}, and no causal language model: it does not guess texts from left to right.\n"
            "  Try: models that end in ForCausalLM or LMHeadModel"
        )


def shared_window(models: Sequence[Model]) -> int:
    """Tokens that all of the models can see at once, at most LONGEST_WINDOW."""
    limits = [model.max_positions for model in models]
    return min([LONGEST_WINDOW, *(limit for limit in limits if limit is not None)])


def check_window(model: Model, window: int, option: str) -> None:
    """Refuse a context longer than a model's positions.

    Raises:
        ConfigError: both numbers are named.
    """
    limit = model.max_positions
    if limit is not None and window > limit:
        raise ConfigError(
            f"{option}={window} is more than the {limit} positions of models.{model.name}.\n  Try: {option}={limit}"
        )


def token_ids(model: Model, texts: Sequence[str]) -> list[list[int]]:
    """The ids of each text, after the token that the model has seen before every document in training.

    Raises:
        DataError: a text is empty to the tokenizer, or the tokenizer has ids that the model lacks, or no such token.
    """
    tokenizer = model.tokenizer()
    marks = boundary_tokens(tokenizer)
    prefix = [*marks.before, *marks.after][0]
    found: list[list[int]] = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    for number, ids in enumerate(found, start=1):
        if not ids:
            raise DataError(
                f"document {number} has no token in the tokenizer of models.{model.name}: {texts[number - 1][:40]!r}.\n"
                "  Try: remove it from the text"
            )
    vocab_size = model.config.get("vocab_size")
    largest = max(map(max, found))
    if vocab_size is not None and largest >= vocab_size:
        raise too_many_ids(f"of models.{model.name} gives {largest}", vocab_size)
    return [[prefix, *ids] for ids in found]


def unknown_tokens(model: Model, texts: Sequence[list[int]]) -> int:
    """How many tokens stand for text that the tokenizer does not know; what they cost says little of that text."""
    unknown = model.tokenizer().unk_token_id
    count = 0 if unknown is None else sum(ids[1:].count(unknown) for ids in texts)
    if count:
        total = sum(len(ids) - 1 for ids in texts)
        warn(
            f"{count:,} of {total:,} tokens are unknown to the tokenizer of models.{model.name}: its perplexity and bits per "
            "byte are too low"
        )
    return count
