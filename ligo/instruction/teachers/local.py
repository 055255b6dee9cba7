"""A teacher on this machine: a checkpoint folder, through transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ligo.checkpoint.load import load_model, load_tokenizer
from ligo.core.errors import CheckpointError, ConfigError
from ligo.families.positions import num_positions
from ligo.instruction.config import TeacherConfig
from ligo.instruction.prompt import Request
from ligo.instruction.teachers.base import TEACHERS, Completion


@TEACHERS.register("local")
class LocalTeacher:
    """Generates for `concurrency` prompts at a time.

    What is sampled for a batch is drawn from (seed, number of its first request): with concurrency=1 a run that was
    stopped goes on with the very text that it would have had.
    """

    def __init__(self, config: TeacherConfig, seed: int) -> None:
        if not config.path:
            raise ConfigError("teacher=local needs a checkpoint folder.\n  Try: teacher.path=DIR")
        folder = Path(config.path).expanduser()
        if not (folder / "config.json").is_file():
            raise CheckpointError(
                f"there is no checkpoint at {folder}: it has no config.json.\n"
                "  Try: teacher.path=DIR, a folder that transformers can load"
            )
        import torch
        from transformers import AutoModelForCausalLM

        from ligo.core.libraries import quiet_libraries

        quiet_libraries()
        try:
            self._tokenizer: Any = load_tokenizer(folder, padding_side="left")
            model: Any = load_model(AutoModelForCausalLM, folder, dtype="auto")
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{folder} cannot be loaded as a causal language model: {str(error).splitlines()[0]}.\n"
                "  Try: teacher.path=DIR, a folder that transformers can load, with its tokenizer"
            ) from error
        self._model = model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
        if self._tokenizer.pad_token_id is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._config, self._seed = config, seed

    def complete(self, next_request: Callable[[], Request | None]) -> Iterator[Completion]:
        while batch := self._next_batch(next_request):
            yield from self._generate(batch)

    def _next_batch(self, next_request: Callable[[], Request | None]) -> list[Request]:
        batch: list[Request] = []
        while len(batch) < self._config.concurrency and (request := next_request()) is not None:
            batch.append(request)
        return batch

    def _generate(self, batch: list[Request]) -> Iterator[Completion]:
        import torch

        inputs = self._tokenizer(
            [self._text(request.prompt) for request in batch],
            return_tensors="pt",
            padding=True,
            add_special_tokens=self._tokenizer.chat_template is None,  # chat templates write their own
        ).to(self._model.device)
        width, room = inputs["input_ids"].shape[1], self._room()
        if width >= room:
            raise ConfigError(
                f"a prompt has {width} tokens, but the model takes {room}, prompt and completion together.\n"
                "  Try: a smaller prompt.shown=, or a teacher with a longer context"
            )
        torch.manual_seed(self._draw(batch[0].number))
        sampling: dict[str, Any] = {"do_sample": False}
        if self._config.temperature > 0:
            sampling = {
                "do_sample": True,
                "temperature": self._config.temperature,
                "top_p": self._config.top_p,
                "top_k": 0,
            }
        with torch.inference_mode():
            made = self._model.generate(
                **{key: inputs[key] for key in ("input_ids", "attention_mask")},
                max_new_tokens=min(self._config.max_tokens, room - width),
                pad_token_id=self._tokenizer.pad_token_id,
                **sampling,
                **({"stop_strings": batch[0].stop, "tokenizer": self._tokenizer} if batch[0].stop else {}),
            )
        for row, request in enumerate(batch):
            yield self._completion(
                request, int(inputs["attention_mask"][row].sum()), made[row, width:].tolist()
            )

    def _draw(self, number: int) -> int:
        """A seed of 32 bits, which is all that torch's generator on the CPU looks at."""
        return int(np.random.SeedSequence([self._seed % 2**64, number]).generate_state(1)[0])

    def _text(self, prompt: str) -> str:
        """The prompt as the model wants it: as a chat where it has a template for that."""
        if self._tokenizer.chat_template is None:
            return prompt
        chat = [{"role": "user", "content": prompt}]
        return str(self._tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))

    def _room(self) -> int:
        return num_positions(self._model.config.to_dict()) or 2**31

    def _completion(self, request: Request, prompt_tokens: int, ids: list[int]) -> Completion:
        eos = self._model.generation_config.eos_token_id
        ends = {*(eos if isinstance(eos, list) else [eos]), self._tokenizer.pad_token_id}
        count = next((at for at, token in enumerate(ids) if token in ends), len(ids))
        text = self._tokenizer.decode(ids[:count], skip_special_tokens=True)
        stopped = [text.index(word) for word in request.stop if word in text]
        whole = count < len(ids) or bool(stopped)
        return Completion(
            request=request.number,
            prompt=request.digest,
            text=text[: min(stopped)] if stopped else text,
            finish="stop" if whole else "length",
            prompt_tokens=prompt_tokens,
            completion_tokens=count,
        )
