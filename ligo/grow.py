"""python -m ligo.grow: plan, learn, write, verify, train, compare."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ligo.command import main
from ligo.config import GrowConfig
from ligo.core.errors import check_installed
from ligo.core.log import say
from ligo.plan import known_config, make_plan, name_after_folder, plan_json, plan_text

if TYPE_CHECKING:
    from ligo.core.run import Run
    from ligo.tracking.base import Trackers

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
    check_extras(config)
    known = known_config(config.small)
    announced = None
    if known is not None:
        announced = make_plan(config, known)
        say(plan_text(config, announced))

    from ligo.checkpoint.locate import Source, locate
    from ligo.checkpoint.reader import Checkpoint
    from ligo.checkpoint.writer import check_free_disk
    from ligo.core import distributed
    from ligo.core.files import write_json
    from ligo.core.libraries import quiet_libraries
    from ligo.core.run import Run, config_hash
    from ligo.data.sources import documents
    from ligo.data.tokenize import prepare
    from ligo.families.base import family_of
    from ligo.families.coverage import expected_shapes

    quiet_libraries()
    run_config = yaml.safe_load(config_yaml)
    digest = config_hash(run_config)
    run = Run(run_folder(config, digest))
    trackers: Trackers | None = None

    if config.small.name == "scratch":
        from ligo.small import train_small

        next(documents(config.data.path, config.data))  # refuse a text that cannot be read before writing
        trackers = open_run(config, run, run_config, config_yaml)
        with run.keeping_status():
            small_folder = train_small(config, run, run_config, trackers)
    else:
        small = config.small
        source = Source(
            name=small.name,
            path=small.path,
            hub_id=small.hub_id,
            package_file=small.package_file,
            install_hint=small.install_hint,
        )
        with distributed.others_wait() as alone:
            if alone:  # the others find it where this rank has put it
                locate(source)
        small_folder = locate(source)
    checkpoint = Checkpoint.open(small_folder)
    plan = make_plan(config, checkpoint.config)
    if announced is None or announced.shapes != plan.shapes:
        say(plan_text(config, plan))
    checkpoint.expect(expected_shapes(family_of(checkpoint.config), checkpoint.config))
    with distributed.others_wait() as alone:
        if alone:  # the others find the tokens in the cache
            prepare(config.data, checkpoint.tokenizer(), vocab_size=plan.shapes.small.vocab_size)
    corpus = prepare(config.data, checkpoint.tokenizer(), vocab_size=plan.shapes.small.vocab_size)

    from ligo.stages import GrowthRun

    if "write" in config.stages and not run.grown.exists():
        check_free_disk(run.folder, plan_json(config, plan)["bytes"]["disk"])
    if trackers is None:
        trackers = open_run(config, run, run_config, config_yaml)
    with run.keeping_status():
        if distributed.is_main():
            write_json(run.plan, plan_json(config, plan))
        GrowthRun(config, run, digest, checkpoint, plan, corpus, trackers).execute()
    trackers.finish()
    distributed.stop()


def check_extras(config: GrowConfig) -> None:
    """Refuse now, not after an hour, where the run will need a package that is not installed.

    Raises:
        ConfigError: the extra that installs it is named.
    """
    trains = config.small.name == "scratch" or {"train", "scratch", "continue"} & set(config.stages)
    if trains and config.train.engine == "deepspeed":
        why = "train.engine=deepspeed (train.engine=torch does without)"
        check_installed("deepspeed", extra="deepspeed", why=why)
    if config.tracking.wandb != "off":
        why = f"tracking.wandb={config.tracking.wandb} (tracking=jsonl does without)"
        check_installed("wandb", extra="wandb", why=why)


def open_run(config: GrowConfig, run: Run, run_config: dict[str, Any], config_yaml: str) -> Trackers:
    """Make or re-open the run folder and its trackers; ranks other than 0 get a tracker that is silent.

    Raises:
        ConfigError: the folder holds another run, or a tracker's package is missing.
        ResourceError: the folder cannot be written.
    """
    from ligo.core import distributed
    from ligo.tracking.base import Trackers
    from ligo.tracking.config import start_trackers

    if not distributed.is_main():
        return Trackers([])
    run.open(run_config, config_yaml, config.seed)
    return start_trackers(
        config.tracking, run.folder, study=config.run.study, name=run.folder.name, run_config=run_config
    )


if __name__ == "__main__":
    main(grow, DESCRIPTION, EXAMPLES)
