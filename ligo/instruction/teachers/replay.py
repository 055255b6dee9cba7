"""A teacher that says again what another has said: the completions that a run has recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ligo.core.errors import ConfigError, DataError
from ligo.core.files import from_json
from ligo.instruction.config import TeacherConfig
from ligo.instruction.prompt import Request
from ligo.instruction.teachers.base import TEACHERS, Completion


@TEACHERS.register("replay")
class ReplayTeacher:
    """Ends at the first request that was not recorded."""

    def __init__(self, config: TeacherConfig, seed: int) -> None:
        if not config.path:
            raise ConfigError(
                "teacher=replay needs the recorded completions.\n  Try: teacher.path=RUN/completions.jsonl"
            )
        self._path = Path(config.path).expanduser()
        if not self._path.is_file():
            raise DataError(
                f"there are no recorded completions at {self._path}.\n"
                "  Try: teacher.path=RUN/completions.jsonl of an earlier run"
            )
        self._recorded = read_completions(self._path)

    def complete(self, next_request: Callable[[], Request | None]) -> Iterator[Completion]:
        while (request := next_request()) is not None:
            completion = self._recorded.get(request.number)
            if completion is None:
                return
            if completion.prompt != request.digest:
                raise ConfigError(
                    f"{self._path} answers another prompt as request {request.number}: it was recorded with another "
                    "seed, template or seed tasks.\n  Try: seed= and prompt. as in the config.yaml of that run"
                )
            yield completion


def read_completions(path: Path) -> dict[int, Completion]:
    """Recorded completions by number of request; a last line that was cut off is left out.

    Raises:
        DataError: a line is no completion; it is named.
    """
    found: dict[int, Completion] = {}
    lines = path.read_bytes().split(b"\n")[:-1]
    for number, line in enumerate(lines, start=1):
        try:
            completion = as_completion(from_json(line))
        except (ValueError, TypeError) as error:
            raise DataError(
                f"{path}, line {number}: no recorded completion ({error}).\n"
                '  Needed: {"request": 0, "prompt": DIGEST, "text": "...", "finish": "stop", "prompt_tokens": 1, '
                '"completion_tokens": 1}.\n  Try: correct or remove that line'
            ) from error
        found.setdefault(completion.request, completion)
    return found


def as_completion(record: Any) -> Completion:
    """A record of a completion.

    Raises:
        TypeError: it lacks a field, or a field has another type.
    """
    kinds = Completion.__annotations__
    if not isinstance(record, dict) or set(record) != set(kinds):
        raise TypeError(f"its fields are not {', '.join(kinds)}")
    for name, kind in kinds.items():
        if type(record[name]).__name__ != kind:
            raise TypeError(f"{name} is not {kind}")
    return Completion(**record)
