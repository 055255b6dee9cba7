"""A byte-level BPE tokenizer for models that the project trains from nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

END_OF_TEXT, MASK = "<|endoftext|>", "[MASK]"


def train_tokenizer(documents: Iterable[str], vocab_size: int, *, mask: bool = False) -> Any:
    """Train a byte-level BPE of exactly `vocab_size` ids or fewer; id 0 ends a document.

    Args:
        mask: whether id 1 is a mask token, for masked language models.

    Returns:
        A transformers `PreTrainedTokenizerFast`.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT, MASK] if mask else [END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    masking = {"mask_token": MASK} if mask else {}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END_OF_TEXT, **masking)
