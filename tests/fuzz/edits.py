"""Random edits of what a person types: typos in keys, names of options that are not there, values that cannot be.

Whatever is typed, the config composes and can be planned, or a `LigoError` says what to type instead; of a key that is not
there, the nearest one.
"""

from __future__ import annotations

import difflib
import io
import random
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import yaml

from ligo import instruct, tune
from ligo.command import read_config
from ligo.config import GROW
from ligo.core.errors import ConfigError, LigoError
from ligo.options import Options, options
from ligo.plan import print_plan
from ligo.study import compose_sweep
from tests.faults.tally import Tally

VALUES = (
    "", " ", "null", "true", "nan", "inf", "-inf", "0", "-1", "1e400", "1e-400", "9" * 400, "0x10", "1_000", "0.1.2", "--", "[]",
    "[1", "]", "{", "{}", "{a: 1}", "{a: {b: [1, null]}}", "[[[]]]", "[1,a,null]", "1,2", "a b", "a=b", "a,b", "'", '"', "''", "'a",
    "\\", "\t", "\n", "é😀", "\ud800", "${", "${}", "${nope}", "${train.lr}", "${oc.env:NOT_SET}", "${oc.env}", "${train}", "$x", "~",
    "range(1,3)", "choice(1,2)", "glob(*)", "int(3)", "int(x)", "sort(3,1)", "tag(a,1)", "nope(1)", "???", "@", "!!python/none",
    "/nowhere", "../..", "package:os/path", "owner/name", "C:\\x", "x" * 5000, "*", "&a", "%", "#", ":", "a: b", "- a",
)  # fmt: skip
COMMANDS: dict[str, Options] = {"grow": GROW, "tune": tune.OPTIONS, "instruct": instruct.OPTIONS}
ALWAYS = {
    "grow": ["hardware=none"],
    "tune": ["data.path=tasks.json"],
    "instruct": list[str](),
    "sweep": list[str](),
}
"""Typed before what is edited: no machine to look at, and what has no default."""
FREE = ("deepspeed", "small.model", "small.shape", "tuning.peft", "data.sources", "teacher.request")
"""Below these the keys are other programs' or the user's own."""


def known_keys(text: str) -> dict[str, Any]:
    """Every option in a config and its value."""
    found: dict[str, Any] = {}

    def walk(tree: Any, prefix: str) -> None:
        for key, value in tree.items():
            found[prefix + key] = value
            if isinstance(value, dict):
                walk(value, f"{prefix}{key}.")

    walk(yaml.safe_load(text), "")
    return found


def mistyped(draw: random.Random, word: str) -> str:
    """One letter left out, doubled, swapped with the next, or another one."""
    at = draw.randrange(len(word))
    return draw.choice(
        (
            word[:at] + word[at + 1 :],
            word[:at] + word[at] + word[at:],
            word[:at] + word[at + 1 : at + 2] + word[at] + word[at + 2 :],
            word[:at] + draw.choice("abcdefghijklmnopqrstuvwxyz_") + word[at + 1 :],
        )
    )


def mistyped_key(draw: random.Random, known: dict[str, Any]) -> tuple[str, str]:
    """A key with a typo, and the key that was meant."""
    while True:
        meant = draw.choice(
            [key for key in known if not f"{key}.".startswith(tuple(f"{free}." for free in FREE))]
        )
        section, _, last = meant.rpartition(".")
        typed = (
            f"{section}.{mistyped(draw, last)}" if section and draw.random() < 0.7 else mistyped(draw, meant)
        )
        if (
            typed not in known
            and typed.strip("._")
            and not f"{typed}.".startswith(tuple(f"{free}." for free in FREE))
        ):
            return typed, meant


def is_named(message: str, typed: str, meant: str, known: dict[str, Any]) -> bool:
    """Whether a message names the key that was meant, or one that looks as much like what was typed."""

    def likeness(key: str) -> float:
        return difflib.SequenceMatcher(None, key, typed).ratio()

    words = message.replace("=", " ").replace("'", " ").split()
    named = [word.rstrip(".,;") for word in words]
    return typed in message and any(
        key in named and (key == meant or likeness(key) >= likeness(meant)) for key in known
    )


def try_typed(arguments: list[str], name: str) -> LigoError | None:
    """Compose, check and, where it is a growth, plan what was typed."""
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            if name == "sweep":
                compose_sweep(arguments)
                return None
            config, text = read_config(arguments, COMMANDS[name])
            if name == "grow":
                print_plan(config, text)
    except LigoError as error:
        return error
    return None


def config_edits(tally: Tally, trials: int, seed: int = 0) -> None:
    """Random edits of options and of config files: no error but those with words, and every unknown key with the nearest."""
    draw = random.Random(seed)
    texts = {name: read_config(ALWAYS[name], command)[1] for name, command in COMMANDS.items()}
    known = {name: known_keys(text) for name, text in texts.items()}
    unknown = named = 0
    for trial in range(trials):
        name = draw.choices(("grow", "tune", "instruct", "sweep"), (6, 2, 1, 1))[0]
        kind = draw.choice(KINDS[name])
        arguments, typed, meant = kind(
            draw, known.get(name, {}), tally.folder / f"{trial}.yaml", texts.get(name, "")
        )
        if "--config" not in arguments:
            typed_keys = {argument.lstrip("+~").partition("=")[0] for argument in arguments}
            arguments = [a for a in ALWAYS[name] if a.partition("=")[0] not in typed_keys] + arguments
        try:
            error = try_typed(arguments, name)
        except BaseException:
            tally.count(False, f"{name} {arguments}: {traceback.format_exc()[-900:]}")
            continue
        good = error is None or (isinstance(error, LigoError) and bool(str(error).strip()))
        if meant is not None:
            assert typed is not None
            unknown += 1
            found = isinstance(error, ConfigError) and is_named(
                str(error), typed, meant, known.get(name, {meant: None})
            )
            named += found
            good = good and found
        tally.count(good, f"{name} {arguments}: {error}")
    tally.notes |= {"unknown keys": unknown, "named with the nearest": named}


Edited = tuple[list[str], str | None, str | None]
"""What is typed; and where a key is not there, that key and the one that was meant."""


def unknown_key(draw: random.Random, known: dict[str, Any], file: Path, text: str) -> Edited:
    typed, meant = mistyped_key(draw, known)
    return (
        [
            f"{draw.choice(('', '+', '++', '~'))}{typed}={known[meant] if not isinstance(known[meant], (dict, list)) else 1}"
        ],
        typed,
        meant,
    )


def unknown_group_option(draw: random.Random, known: dict[str, Any], file: Path, text: str) -> Edited:
    group = draw.choice([group for group in GROW.groups if options(group)])
    option = mistyped(draw, draw.choice(options(group)))
    return [f"{draw.choice(('', '+'))}{group}={option}"], None, None


def odd_value(draw: random.Random, known: dict[str, Any], file: Path, text: str) -> Edited:
    keys = draw.sample(sorted(known), draw.choice((1, 1, 2)))
    return (
        [f"{draw.choice(('', '', '', '+', '++', '~'))}{key}={draw.choice(VALUES)}" for key in keys],
        None,
        None,
    )


def junk(draw: random.Random, known: dict[str, Any], file: Path, text: str) -> Edited:
    letters = "abz.=+~@/[]{}'\"\\$:, -_09\n"
    return ["".join(draw.choices(letters, k=draw.randrange(1, 20)))], None, None


def unknown_key_of_a_file(draw: random.Random, known: dict[str, Any], file: Path, text: str) -> Edited:
    typed, meant = mistyped_key(draw, known)
    while typed.rpartition(".")[0] != meant.rpartition(".")[0]:
        typed, meant = mistyped_key(draw, known)
    tree = yaml.safe_load(text)
    section = tree
    for part in meant.split(".")[:-1]:
        section = section[part]
    section[typed.rpartition(".")[2]] = section.pop(meant.rpartition(".")[2])
    file.write_text(yaml.safe_dump(tree))
    return ["--config", str(file)], typed, meant


def damaged_file(draw: random.Random, known: dict[str, Any], file: Path, text: str) -> Edited:
    lines = text.splitlines()
    for _ in range(draw.choice((1, 1, 3))):
        at = draw.randrange(len(lines))
        key, colon, _ = lines[at].partition(":")
        lines[at] = draw.choice(
            (
                f"{key}{colon} {draw.choice(VALUES)}".replace("\ud800", "?"), lines[at][1:], f"  {lines[at]}", "", key,
                lines[at] * 2, f"{lines[at]}\n{lines[at]}", "\x00", "- a", "? b", "<<: *x",
            )
        )  # fmt: skip
    file.write_text("\n".join(lines))
    return ["--config", str(file)], None, None


def odd_study(draw: random.Random, known: dict[str, Any], file: Path, text: str) -> Edited:
    keys = (
        "study", "study.name", "study.arms", "study.arms.a", "study.seeds", "study.learning_rates", "study.overrides", "cluster",
        "cluster.workers", "cluster.name", "cluster.slurm", "study.sizes", "study.max_doublings",
    )  # fmt: skip
    return [f"{draw.choice(('', '+', '~'))}{draw.choice(keys)}={draw.choice(VALUES)}"], None, None


_COMMON = (unknown_key, unknown_key, odd_value, odd_value, junk, unknown_key_of_a_file, damaged_file)
KINDS: dict[str, tuple[Callable[..., Edited], ...]] = {
    "grow": (*_COMMON, unknown_group_option),
    "tune": _COMMON,
    "instruct": _COMMON,
    "sweep": (odd_study,),
}
