"""python -m ligo.grow: plan, learn, write, verify, train, compare."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import yaml

from ligo.command import main
from ligo.config import GrowConfig
from ligo.core.log import say
from ligo.plan import known_config, make_plan, name_after_folder, plan_json, plan_text

DESCRIPTION = "Grow a small pretrained transformer into a larger one, train it on, and count what that saved."
EXAMPLES = (
    "python -m ligo.grow +small=tiny-llama +target=tiny-llama-2x",
    "python -m ligo.grow +small=checkpoint small.path=DIR +target=custom target.num_hidden_layers=12 data.path=FILE",
)


def run_folder(config: GrowConfig, config_hash: str) -> Path:
    """`run.dir`, or runs/<study>/<name>-<hash>."""
    if config.run.dir is not None:
        return Path(config.run.dir).expanduser()
    name = config.run.name or f"{config.small.name}-{config.target.name}-{config.operator.name}"
    return Path("runs") / config.run.study / f"{name}-{config_hash}"


def grow(config: GrowConfig, config_yaml: str) -> None:
    """Run the stages of a growth; nothing is written before plan, checkpoint and text have been checked.

    Raises:
        LigoError: with the exit code that fits.
    """
    config = replace(config, small=name_after_folder(config.small))
    known = known_config(config.small)
    if known is not None:
        plan = make_plan(config, known)
        say(plan_text(config, plan))

    from ligo.checkpoint.locate import Source, locate
    from ligo.checkpoint.reader import Checkpoint
    from ligo.checkpoint.writer import check_free_disk
    from ligo.core import distributed
    from ligo.core.files import write_json
    from ligo.core.run import Run, config_hash
    from ligo.data.tokenize import prepare
    from ligo.families.base import family_of
    from ligo.families.coverage import expected_shapes

    run_config = yaml.safe_load(config_yaml)
    digest = config_hash(run_config)
    run = Run(run_folder(config, digest))

    if config.small.name == "scratch":
        from ligo.small import train_small

        with run.keeping_status():
            small_folder = train_small(config, run, run_config, config_yaml)
    else:
        small = config.small
        small_folder = locate(
            Source(
                name=small.name, path=small.path, hub_id=small.hub_id, package_file=small.package_file,
                install_hint=small.install_hint,
            )
        )  # fmt: skip
    checkpoint = Checkpoint.open(small_folder)
    plan = make_plan(config, checkpoint.config)
    if known is None or known != checkpoint.config:
        say(plan_text(config, plan))
    checkpoint.expect(expected_shapes(family_of(checkpoint.config), checkpoint.config))
    with distributed.others_wait() as alone:
        if alone:  # the others find the tokens in the cache
            prepare(config.data, checkpoint.tokenizer(), vocab_size=plan.shapes.small.vocab_size)
    corpus = prepare(config.data, checkpoint.tokenizer(), vocab_size=plan.shapes.small.vocab_size)

    from ligo.stages import GrowthRun

    with distributed.others_wait() as alone:
        if alone:
            if "write" in config.stages and not run.grown.exists():
                check_free_disk(run.folder, plan_json(config, plan)["bytes"]["disk"])
            run.open(run_config, config_yaml, config.seed)
            write_json(run.plan, plan_json(config, plan))
    with run.keeping_status():
        GrowthRun(config, run, run_config, digest, checkpoint, plan, corpus).execute()
    distributed.stop()


if __name__ == "__main__":
    main(grow, DESCRIPTION, EXAMPLES)
