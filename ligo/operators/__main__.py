"""python -m ligo.operators: what there is to grow with, when it is exact, and where it comes from."""

from __future__ import annotations

from textwrap import indent, wrap

from ligo.operators.base import DEPTH_OPERATORS, WIDTH_OPERATORS
from ligo.operators.config import STARTS


def listing() -> str:
    """Width and depth operators, and the named pairs of them."""
    sections = []
    for title, registry in (("operator.width=", WIDTH_OPERATORS), ("operator.depth=", DEPTH_OPERATORS)):
        lines = [title]
        for name in registry.names():
            operator = registry.get(name)
            first_line = (operator.__doc__ or "").splitlines()[0]
            lines += [f"  {name}", *_paragraph(first_line)]
            lines += [*_paragraph(f"exact: {operator.exact_when}"), *_paragraph(str(operator.reference))]
        sections.append("\n".join(lines))
    pairs = [f"  {name:<16}{width} + {depth}" for name, (width, depth) in STARTS.items()]
    sections.append("\n".join(["operator= and operator.init= (named pairs of width + depth)", *pairs]))
    sections.append(
        "operator=ligo learns the maps, from any of these (operator.init=), as in LiGO (Wang et al., ICLR 2023, arXiv "
        "2303.00980);\noperator=auto tries operator.candidates= for operator.trial_steps= steps each and keeps the best "
        "(LAG, arXiv 2406.02469)."
    )
    return "\n\n".join(sections)


def _paragraph(text: str) -> list[str]:
    return indent("\n".join(wrap(text, 100)), " " * 6).splitlines()


if __name__ == "__main__":
    print(listing())
