"""Pictures of maps, as SVG inside the page, so that they take its colours: matrices, layers, and boxes with arrows."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from ligo.operators.maps import LayerMap

_CELL, _GAP, _TOP = 46, 34, 26


def matrices(*shown: tuple[str, np.ndarray], caption: str) -> str:
    """Small matrices side by side, each under its name, entries written in and shaded by their size."""
    parts, left, height = [], 0.0, 0
    for name, matrix in shown:
        rows, columns = matrix.shape
        width = max(columns * _CELL, 9 * len(name))
        middle = (width - columns * _CELL) / 2
        largest = float(np.abs(matrix).max()) or 1.0
        parts.append(_text(left + width / 2, 14, name, "name"))
        for (i, j), value in np.ndenumerate(matrix):
            x, y = left + middle + j * _CELL, _TOP + i * _CELL
            shade = abs(float(value)) / largest
            parts.append(
                f'<rect x="{x}" y="{y}" width="{_CELL}" height="{_CELL}" class="cell" fill-opacity="{0.6 * shade:.2f}"/>'
            )
            parts.append(_text(x + _CELL / 2, y + _CELL / 2 + 4, _entry(float(value))))
        left += width + _GAP
        height = max(height, _TOP + rows * _CELL)
    return _figure(left - _GAP, height, parts, caption)


def layers(layer_map: LayerMap, caption: str) -> str:
    """The small model's layers below, the target's above, a line for each share; identity blocks are hollow."""
    num_target, num_small = layer_map.weights.shape
    step = 64
    inset = (num_target - num_small) * step / 2
    parts = []
    for target, source in zip(*np.nonzero(layer_map.weights), strict=True):
        share = float(layer_map.weights[target, source])
        x1, x2 = inset + source * step + 24, target * step + 24
        parts.append(
            f'<line x1="{x1}" y1="118" x2="{x2}" y2="46" class="line" stroke-opacity="{max(share, 0.12):.2f}"/>'
        )
    for target in range(num_target):
        kind = "hollow" if target in layer_map.identity_layers else "box"
        parts += _box(target * step, 10, 48, 36, str(target), kind)
    for source in range(num_small):
        parts += _box(inset + source * step, 118, 48, 36, str(source), "box small")
    return _figure(num_target * step - 16, 164, parts, caption)


def flow(rows: Sequence[Sequence[str]], caption: str) -> str:
    """Boxes in rows, an arrow from each to the next in its row."""
    width, height, gap = 176, 50, 40
    parts = [
        '<defs><marker id="tip" markerWidth="9" markerHeight="8" refX="8" refY="4" orient="auto">'
        '<path d="M0,0 L9,4 L0,8 z" class="tip"/></marker></defs>'
    ]
    for i, row in enumerate(rows):
        y = i * (height + 24)
        for j, words in enumerate(row):
            x = j * (width + gap)
            parts += _box(x, y, width, height, words, "box")
            if j:
                parts.append(
                    f'<line x1="{x - gap}" y1="{y + height / 2}" x2="{x - 2}" y2="{y + height / 2}" class="arrow"/>'
                )
    columns = max(map(len, rows))
    return _figure(columns * (width + gap) - gap, len(rows) * (height + 24) - 24, parts, caption)


def _box(x: float, y: float, width: float, height: float, words: str, kind: str) -> list[str]:
    lines = words.split("\n")
    top = y + height / 2 + 4 - 8 * (len(lines) - 1)
    return [
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" class="{kind}"/>',
        *(_text(x + width / 2, top + 16 * i, line) for i, line in enumerate(lines)),
    ]


def _text(x: float, y: float, words: str, kind: str = "entry") -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{kind}">{escape(words)}</text>'


def _entry(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if abs(value) >= 0.005 else "0"


def _figure(width: float, height: float, parts: Sequence[str], caption: str) -> str:
    """One line of HTML, which Markdown leaves as it is."""
    svg = (
        f'<svg viewBox="-2 -2 {width + 4:g} {height + 4:g}" style="max-width:{width + 4:g}px" role="img" '
        f'aria-label="{escape(caption, quote=True)}">{"".join(parts)}</svg>'
    )
    return f'\n<figure class="picture">{svg}<figcaption>{escape(caption)}</figcaption></figure>\n'
