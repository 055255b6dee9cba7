"""Which of a teacher's tasks are kept, and why the others are not."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable
from dataclasses import dataclass

from ligo.instruction.config import FilterConfig
from ligo.instruction.parse import Task
from ligo.instruction.rouge import RougeIndex


@dataclass(frozen=True)
class Refusal:
    """Why a task is dropped."""

    reason: str
    """too short, too long, beyond text, unclear start, odd start, duplicate or similar."""
    like: int | None = None
    """similar: number of the instruction it resembles most, in the order of adding, seeds first."""
    rouge_l: float | None = None


class TaskFilter:
    """Judges tasks by themselves and against all instructions that were added before."""

    def __init__(self, config: FilterConfig, seeds: Iterable[Task]) -> None:
        """
        Raises:
            ConfigError: rapidfuzz is not installed.
        """
        self._config = config
        words = "|".join(re.escape(word) for word in config.beyond_text)
        self._beyond_text = re.compile(rf"\b(?:{words})\b", re.IGNORECASE) if words else None
        self._unclear_starts = tuple(start.lower() for start in config.unclear_starts)
        self._index = RougeIndex(config.max_rouge_l)
        self._known: set[str] = set()
        for task in seeds:
            self.add(task)

    def add(self, task: Task) -> None:
        """Judge later tasks against this one too."""
        self._index.add(task.instruction)
        self._known.add(_normal(task.instruction))

    def refusal(self, task: Task) -> Refusal | None:
        """Why the task is to be dropped, or None."""
        instruction = task.instruction
        reason = self._fault(instruction)
        if reason is not None:
            return Refusal(reason)
        if _normal(instruction) in self._known:
            return Refusal("duplicate")
        match = self._index.most_alike(instruction)
        return None if match is None else Refusal("similar", match.number, round(match.rouge_l, 4))

    def _fault(self, instruction: str) -> str | None:
        """What is wrong with an instruction by itself."""
        num_words = len(instruction.split())
        if num_words < self._config.min_words:
            return "too short"
        if num_words > self._config.max_words:
            return "too long"
        if self._beyond_text is not None and self._beyond_text.search(instruction):
            return "beyond text"
        if instruction.lower().startswith(self._unclear_starts):
            return "unclear start"
        if instruction[0] in string.punctuation or not instruction[0].isascii():
            return "odd start"
        return None


def _normal(instruction: str) -> str:
    return " ".join(instruction.lower().split()).strip(string.punctuation + " ")
