"""The fenced blocks of a page of Markdown: commands, scripts, files, and what commands print.

The convention, visible on the page as the title of a block:

    bash                       is run, and must end with 0
    bash "exits with N"        is run, and must end with N
    bash "needs ..."           needs what a test has not: it is composed and planned, and not run
    python                     is run as a script of its own
    python "PATH.py"           is written to that file
    text "it says"             each line of it is in what the block before it printed
    text, yaml                 is shown
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
LANGUAGES = ("bash", "python", "text", "yaml")

_FENCE = re.compile(
    r'^```(?P<language>\w*)(?: title="(?P<title>[^"]*)")?[ \t]*\n(?P<body>.*?)^```[ \t]*$', re.M | re.S
)


@dataclass(frozen=True)
class Block:
    """One fenced block and where it stands."""

    page: Path
    line: int
    language: str
    title: str
    body: str

    @property
    def is_planned(self) -> bool:
        """Whether it is composed and planned instead of run."""
        return self.language == "bash" and self.title.startswith("needs ")

    @property
    def exit_code(self) -> int:
        """With what it must end."""
        return int(self.title.removeprefix("exits with ")) if self.title.startswith("exits with ") else 0

    @property
    def commands(self) -> list[str]:
        """Its command lines, continued ones joined, comments left out."""
        lines = self.body.replace("\\\n", " ").splitlines()
        return [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]

    def __str__(self) -> str:
        return f"{self.page.relative_to(REPO)}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page,
            text.count("\n", 0, found.start()) + 1,
            found["language"],
            found["title"] or "",
            found["body"],
        )
        for found in _FENCE.finditer(text)
    ]


def pages() -> list[Path]:
    """README and every page that is written by hand, and has a fenced block."""
    written = [REPO / "README.md", *sorted((REPO / "docs").glob("*.md"))]
    return [page for page in written if blocks_of(page)]
