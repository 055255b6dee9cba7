"""What a teacher is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from ligo.core.registry import Registry
from ligo.instruction.config import TeacherConfig
from ligo.instruction.prompt import Request


@dataclass(frozen=True)
class Completion:
    """What a teacher wrote for one request."""

    request: int
    """The request's number."""
    prompt: str
    """The digest of its prompt."""
    text: str
    finish: str
    """Why it ends there: stop, or length when it reached teacher.max_tokens, or what else the endpoint says."""
    prompt_tokens: int
    completion_tokens: int


class Teacher(Protocol):
    """Answers requests, several at once where it can."""

    def __init__(self, config: TeacherConfig, seed: int) -> None:
        """
        Raises:
            LigoError: the teacher cannot be reached like this.
        """

    def complete(self, next_request: Callable[[], Request | None]) -> Iterator[Completion]:
        """Completions as they arrive, in any order.

        Args:
            next_request: gives what to ask next; None says that there is nothing to ask before more has arrived,
                and with nothing under way, that this is the end.

        Raises:
            Interrupted: the teacher does not answer now; every completion that did arrive has been yielded.
            LigoError: it will never answer like this.
        """


TEACHERS: Registry[type[Teacher]] = Registry("teacher", "ligo.instruction.teachers", option="teacher")
