"""What mkdocs calls while it builds the site: pages made from the code, and `{{ ... }}` in pages, for numbers and pictures."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, StrictUndefined
from mkdocs.structure.files import File, Files

from docs.hooks import examples, figures, pages

_ENVIRONMENT = Environment(undefined=StrictUndefined, keep_trailing_newline=True)
_WORDS = {
    "percent": figures.percent,
    "row": figures.row,
    "loss": figures.loss,
    "measured_on": figures.measured_on,
    "compatibility": figures.compatibility,
    "studies": figures.studies,
    "picture": examples.picture,
}


def on_files(files: Files, *, config: Any) -> Files:
    """Add the pages that are made, and put them into the navigation."""
    for path, markdown in pages.generated():
        files.append(File.generated(config, path, content=markdown))
    made = pages.navigation()
    config.nav = [
        {title: made.get(part, part) if isinstance(part, str) else part for title, part in entry.items()}
        for entry in config.nav
    ]
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    """Fill in numbers and pictures; a name that there is not ends the build."""
    return _ENVIRONMENT.from_string(markdown).render(_WORDS) if "{{" in markdown else markdown
