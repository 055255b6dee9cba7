"""A tokenizer without libraries, for tests in other processes: ids are the letters a-z, 26 for all else."""

from __future__ import annotations

from typing import Any


class CharacterTokenizer:
    bos_token_id: int | None = None
    eos_token_id: int | None = 27
    cls_token_id: int | None = None
    sep_token_id: int | None = None

    def __init__(self) -> None:
        self.calls = 0

    def __len__(self) -> int:
        return 28

    def get_vocab(self) -> dict[str, int]:
        return {chr(97 + i): i for i in range(26)}

    def __call__(self, text: Any, **_: Any) -> dict[str, Any]:
        self.calls += 1
        texts = [text] if isinstance(text, str) else text
        ids = [[ord(c) - 97 if "a" <= c <= "z" else 26 for c in t] for t in texts]
        return {"input_ids": ids[0] if isinstance(text, str) else ids}
