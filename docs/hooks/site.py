"""What mkdocs calls while it builds the site: pages made from the code, and `{{ ... }}` in pages, for numbers and pictures."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, StrictUndefined
from mkdocs.structure.files import File, Files

from docs.hooks import examples, figures, pages

_FOLDERS = ("operators", "families", "api")
_ENVIRONMENT = Environment(undefined=StrictUndefined, keep_trailing_newline=True)
_WORDS = {
    "percent": figures.percent,
    "row": figures.row,
    "loss": figures.loss,
    "measured_on": figures.measured_on,
    "compatibility": figures.compatibility,
    "picture": examples.picture,
}


def on_files(files: Files, *, config: Any) -> Files:
    """Add the pages that are made, and put them into the navigation."""
    made = dict(pages.generated())
    for path, markdown in made.items():
        files.append(File.generated(config, path, content=markdown))
    for entry in config.nav:
        if isinstance(entry, dict):
            for title, folder in entry.items():
                if folder in _FOLDERS:
                    entry[title] = [path for path in made if path.startswith(f"{folder}/")]
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    """Fill in numbers and pictures; a name that there is not ends the build."""
    return _ENVIRONMENT.from_string(markdown).render(_WORDS) if "{{" in markdown else markdown
