"""What `--help` prints: examples, groups with their choices, and every option with its default and what it means.

The meaning of an option is the docstring line below its field, which is where it is kept anyway.
"""

from __future__ import annotations

import argparse
import ast
import inspect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from itertools import pairwise
from textwrap import dedent, wrap
from typing import Any

import yaml

from ligo.options import Options, conf_dir, options, register_schemas, strip_plus

EXIT_CODES = (
    "Exit codes: 0 ok, 2 usage or config, 3 data, 4 checkpoint, 5 memory or disk, 6 numerics, 75 pre-empted or without "
    "network,\n130 interrupted; 1 an error of ligo, whose traceback LIGO_DEBUG=1 shows."
)
_COLUMN, _WIDTH = 42, 118


def help_text(
    description: str, examples: Sequence[str], command: Options, arguments: Sequence[str] = ()
) -> str:
    """The help of a command whose options Hydra composes.

    Args:
        arguments: of the command line; what it sets groups to decides which options and defaults are shown.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from omegaconf import OmegaConf

    register_schemas(command)
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        chosen = [word for word in strip_plus([*arguments], command.groups) if _is_choice(word, command)]
        defaults = OmegaConf.to_object(hydra_compose(command.root, chosen))
    return "\n".join(
        [
            description,
            "",
            *example_lines(examples),
            "",
            "Groups, as group=name (a plus in front is allowed):",
            *group_lines(command.root, command.groups),
            "",
            "Options, as key=value, with their defaults (GROUP=NAME --help shows those of another choice):",
            *option_lines(defaults),
            "",
            "Or --config FILE alone: a file that holds all of them, such as a run's config.yaml.",
            EXIT_CODES,
        ]
    )


def example_lines(examples: Sequence[str]) -> list[str]:
    """Examples, as every command shows them."""
    return ["Examples:", *(f"  {example}" for example in examples)]


def group_lines(root: str, groups: Iterable[str]) -> list[str]:
    """Each group with its choices and the one that it is set to."""
    config = yaml.safe_load((conf_dir() / f"{root}.yaml").read_text(encoding="utf-8"))
    chosen = {
        key: name for line in config["defaults"] if isinstance(line, dict) for key, name in line.items()
    }
    lines = []
    for group in groups:
        if options(group):
            default = f" (default: {chosen[group]})" if chosen.get(group) else ""
            lines += _two_columns(group, ", ".join(options(group)) + default, column=14)
    return lines


def option_lines(config: Any, prefix: str = "") -> Iterator[str]:
    """Every option of a config with its value and its docstring line; its own first, then those of each part."""
    meanings, parts = field_docs(type(config)), []
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            parts.append((field.name, value))
        else:
            yield from _two_columns(f"{prefix}{field.name}={_shown(value)}", meanings.get(field.name, ""))
    for name, part in parts:
        yield ""
        yield from option_lines(part, f"{prefix}{name}.")


def field_docs(schema: type) -> dict[str, str]:
    """The docstring lines below the fields of a dataclass and of those that it inherits from."""
    docs: dict[str, str] = {}
    for base in reversed(schema.__mro__):
        if not is_dataclass(base):
            continue
        definition = ast.parse(dedent(inspect.getsource(base))).body[0]
        assert isinstance(definition, ast.ClassDef)
        for field, line in pairwise(definition.body):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(line, ast.Expr)
                and isinstance(line.value, ast.Constant)
            ):
                docs[field.target.id] = " ".join(str(line.value.value).split())
    return docs


def argument_parser(name: str, description: str, examples: Sequence[str]) -> argparse.ArgumentParser:
    """A parser for a command without Hydra's options, whose help ends as that of the others does."""
    return argparse.ArgumentParser(
        prog=f"python -m ligo.{name}",
        description=description,
        epilog="\n".join([*example_lines(examples), "", EXIT_CODES]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _is_choice(word: str, command: Options) -> bool:
    group, _, name = word.partition("=")
    return group in command.groups and name in options(group)


def _shown(value: Any) -> str:
    """A value as it is typed on the command line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, sort_keys=False)
    return text.removesuffix("...\n").strip()


def _two_columns(left: str, right: str, column: int = _COLUMN) -> list[str]:
    """`left`, and `right` beside it, or below it where `left` is too long."""
    beside = wrap(right, _WIDTH - column, break_on_hyphens=False) or [""]
    first = f"  {left:<{column - 3}} "
    too_long = wrap(left, _WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)
    lines = [first + beside.pop(0)] if len(first) == column else too_long
    return [line.rstrip() for line in [*lines, *(" " * column + line for line in beside)] if line.strip()]
