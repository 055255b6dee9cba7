"""Options as words, and configs as trees: what a sweep does with them before and after Hydra reads them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from ligo.core.errors import ConfigError


def arms_of_lists(options: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """`operator=a,b seed=0,1` -> an arm for each combination, and the options that are no lists."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import OverrideParseException

    lists: list[list[str]] = []
    single: list[str] = []
    for argument in options:
        try:
            parsed = OverridesParser.create().parse_override(argument.lstrip("+"))
        except OverrideParseException:  # a file name, which may hold anything
            single.append(argument)
            continue
        if parsed.is_sweep_override():
            lists.append([f"{parsed.key_or_group}={value}" for value in parsed.sweep_string_iterator()])
        else:
            single.append(argument)
    arms = {}
    for combination in product(*lists):
        name = "-".join(_slug(word, alone=len(lists) == 1) for word in combination) or "run"
        if name in arms:
            raise ConfigError(
                f"{name} is asked for twice, which would be two runs with one name.\n  Try: each value once"
            )
        arms[name] = list(combination)
    return arms, single


def split_list(value: str) -> list[str]:
    """`[a=b,c=[d,e]]` -> a=b and c=[d,e]: options in a list, which Hydra would want quoted."""
    parts, depth = [""], 0
    for letter in value.removeprefix("[").removesuffix("]"):
        depth += (letter in "[{(") - (letter in "]})")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip().strip("'\"") for part in parts if part.strip()]


def quoted(word: str) -> str:
    return "'" + word.replace("'", "\\'") + "'"


def last_of_each(words: Iterable[str]) -> tuple[str, ...]:
    """Each option once, the last one that was given: Hydra refuses a group that is set twice."""
    last: dict[str, str] = {}
    for word in words:
        key = word.partition("=")[0].lstrip("+")
        last.pop(key, None)
        last[key] = word
    return tuple(last.values())


def with_values(tree: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The tree with other values under dotted keys."""
    changed = dict(tree)
    for key, value in values.items():
        head, _, rest = key.partition(".")
        changed[head] = with_values(changed[head], {rest: value}) if rest else value
    return changed


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    return dict(_leaves(tree, prefix))


def _leaves(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _slug(word: str, alone: bool) -> str:
    """`operator=ligo` -> `ligo` where it is the only list, else `operator-ligo`: what a folder can be called."""
    key, _, value = word.partition("=")
    text = value if alone or key == "operator" else f"{key.split('.')[-1]}-{value}"
    return (
        "".join(letter if letter.isalnum() or letter in "._" else "-" for letter in text).strip("-.")
        or "none"
    )
