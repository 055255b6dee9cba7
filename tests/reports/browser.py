"""A page from its file in Debian's Chromium, driven by Playwright: what it asks the network for, what it complains of."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MISSING = "; ".join(
    what
    for what, there in (
        ("needs Chromium: apt-get install --no-install-recommends chromium", CHROMIUM),
        ("needs Playwright: pip install 'ligo[browser]'", find_spec("playwright")),
    )
    if not there
)
"""Why there is no browser here; empty where there is one."""

DESKTOP, PHONE = (1280, 900), (390, 844)


@dataclass
class Opened:
    """A page that has been loaded, with its charts drawn."""

    page: Any
    requests: list[str] = field(default_factory=list)
    """Addresses that it asked for beside its own file."""
    complaints: list[str] = field(default_factory=list)
    """Errors and warnings on the console, and exceptions."""


@contextmanager
def browser() -> Iterator[Any]:
    """One Chromium without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--disable-gpu"])
        try:
            yield running
        finally:
            running.close()


@contextmanager
def opened(
    running: Any, file: Path, size: tuple[int, int] = DESKTOP, scheme: str = "light"
) -> Iterator[Opened]:
    """Open a file at a size of the window, in pixels, and a colour scheme."""
    width, height = size
    context = running.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page = context.new_page()
    found = Opened(page)
    address = file.resolve().as_uri()

    def asked(request: Any) -> None:
        if request.url != address and not request.url.startswith(("data:", "blob:")):
            found.requests.append(request.url)

    def said(message: Any) -> None:
        if message.type in ("error", "warning"):
            found.complaints.append(message.text)

    page.on("request", asked)
    page.on("console", said)
    page.on("pageerror", lambda error: found.complaints.append(str(error)))
    try:
        page.goto(address)
        if page.locator("#losses").count():
            page.locator("#losses canvas").first.wait_for()
        yield found
    finally:
        context.close()


def first_paint_ms(page: Any) -> float:
    """Milliseconds from navigation to the first contentful paint, as the browser reports it."""
    page.wait_for_function("() => performance.getEntriesByName('first-contentful-paint').length > 0")
    return float(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
