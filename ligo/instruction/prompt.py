"""What the teacher is asked: some seed tasks as an example, and the list of tasks to go on with.

As in Alpaca (Taori et al. 2023, after self-instruct, Wang et al. 2022, arXiv 2212.10560) a prompt shows seed tasks
only, never generated ones: so it is a function of (seed, number of the request), whatever has come back before.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ligo.core.errors import ConfigError, nearest
from ligo.instruction.config import PromptConfig
from ligo.instruction.parse import NO_INPUT, Task


@dataclass(frozen=True)
class Request:
    """One prompt for the teacher."""

    number: int
    prompt: str
    shown: list[int]
    """Numbers of the seed tasks in it."""
    stop: list[str]
    """Where the teacher need not go on."""

    @property
    def digest(self) -> str:
        """Short name of the prompt's text."""
        return hashlib.sha256(self.prompt.encode()).hexdigest()[:16]


class Prompts:
    """Requests by number: `prompts[number]`."""

    def __init__(self, seeds: Sequence[Task], config: PromptConfig, seed: int) -> None:
        """
        Raises:
            ConfigError: there is no such template, or there are fewer seeds than a prompt shows.
        """
        if config.template not in _TEMPLATES:
            close = nearest(config.template, _TEMPLATES) or "numbered"
            raise ConfigError(
                f"prompt.template={config.template} is not known.\n  Known: {', '.join(_TEMPLATES)}.\n"
                f"  Try: prompt.template={close}"
            )
        if len(seeds) < config.shown:
            raise ConfigError(
                f"prompt.shown={config.shown}, but there are only {len(seeds)} seed tasks.\n"
                f"  Try: prompt.shown={len(seeds)}"
            )
        self._seeds, self._config, self._seed = seeds, config, seed

    def __getitem__(self, number: int) -> Request:
        # raw draws, because numpy promises these for all its versions
        key = np.array([self._seed % 2**64, number], dtype=np.uint64)
        draws = np.random.Philox(key=key).random_raw(len(self._seeds))
        shown = np.argsort(draws, kind="stable")[: self._config.shown].tolist()
        first, last = len(shown) + 1, self._config.tasks
        form, stop = _TEMPLATES[self._config.template]
        head = _HEAD.format(first=first, last=last)
        return Request(number, head + form([self._seeds[i] for i in shown]), shown, stop(last + 1))


_HEAD = """\
Someone is collecting tasks to teach an assistant that reads and writes text. The list below has just been begun; \
continue it with tasks {first} to {last}.

How the list should be:
- No two tasks alike: change the subject, the verb, the length, and whether it is a question or an order.
- Many kinds of work: explaining, writing, rewriting, summing up, sorting, extracting, comparing, planning, \
calculating, translating, coding, advising, inventing, and more.
- Nothing that text alone cannot do: no looking, listening, opening, clicking, going, and nothing that needs to know \
today's date or what was said earlier.
- The instruction is English, one or two sentences long, and clear by itself.
- The input is the material that the instruction is about: real and complete, never a placeholder, at most 100 words. \
Many tasks need none.
- The output is a correct and finished answer to this very instruction and input, at most 100 words where possible.

"""


def _blocks(shown: Sequence[Task]) -> str:
    blocks = [
        f"### Task {number}\nInstruction: {_one_line(task.instruction)}\nInput: {task.input or NO_INPUT}\n"
        f"Output: {task.output}\n\n"
        for number, task in enumerate(shown, start=1)
    ]
    intro = f"Each task stands under its number; an input that is not needed is {NO_INPUT}.\n\n"
    return intro + "".join(blocks) + f"### Task {len(shown) + 1}\nInstruction:"


def _json_lines(shown: Sequence[Task]) -> str:
    lines = [
        json.dumps(
            {"instruction": _one_line(task.instruction), "input": task.input, "output": task.output},
            ensure_ascii=False,
        )
        for task in shown
    ]
    intro = (
        'Each task is one line of JSON with "instruction", "input" (empty where none is needed) and "output"; '
        "write these lines and nothing else.\n\n"
    )
    return intro + "\n".join(lines) + "\n"


def _one_line(instruction: str) -> str:
    return " ".join(instruction.split()).rstrip(":")


_Form = tuple[Callable[[Sequence[Task]], str], Callable[[int], list[str]]]
_TEMPLATES: dict[str, _Form] = {
    "numbered": (_blocks, lambda beyond: [f"### Task {beyond}"]),
    "jsonl": (_json_lines, lambda _: []),
}
"""How tasks are written, and what begins the first task that is not wanted."""
