"""python -m ligo.grow: plan, learn, write, verify, train, compare."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ligo.accounting.meter import check_meter, metered
from ligo.command import main
from ligo.config import (
    STAGES,
    TRAINING_STAGES,
    GrowConfig,
    OnSmall,
    check_stage_order,
    check_training_fits,
    learns_maps,
    most_windows,
    needs_objective,
)
from ligo.core.distributed import world_size
from ligo.core.errors import check_installed
from ligo.core.log import say
from ligo.plan import check_memory, known_config, make_plan, name_after_folder, plan_json, plan_text
from ligo.schedule import (
    before_training,
    disk_bytes,
    first_model,
    plan_growths,
    read_growths,
    schedule_text,
)

if TYPE_CHECKING:
    from ligo.checkpoint.reader import Checkpoint
    from ligo.core.run import Run
    from ligo.growth.plan import GrowthPlan
    from ligo.schedule import Growth
    from ligo.tracking.base import Tracker

DESCRIPTION = "Grow a small pretrained transformer into a larger one, train it on, and count what that saved."
EXAMPLES = (
    "python -m ligo.grow +small=tiny-llama +target=tiny-llama-2x",
    "python -m ligo.grow +small=checkpoint small.path=DIR +target=custom target.num_hidden_layers=12 data.path=FILE",
)


def grow(config: GrowConfig, config_yaml: str) -> float | None:
    """Run the stages of a growth; nothing is written before plan, checkpoint and text have been checked.

    Returns:
        What a search minimises: the final validation loss of the grown model, or of the one arm that was trained instead.
        None: nothing was trained.

    Raises:
        LigoError: with the exit code that fits.
    """
    config = replace(config, small=name_after_folder(config.small))
    config = replace(config, hardware=replace(config.hardware, count=None))  # the ranks that there are
    check_extras(config)
    check_meter(config.hardware)
    check_training_fits(config)
    inner = read_growths(config)
    asked, config = config, before_training(config, inner)
    known = known_config(config.small)
    announced = None
    if known is not None:
        plan = make_plan(config, known)
        announced = plan_text(config, plan) + schedule_text(config, plan, inner)
        say(announced)
        check_memory(config, plan)

    from ligo.core import distributed
    from ligo.core.libraries import quiet_libraries
    from ligo.core.run import Run, config_hash

    quiet_libraries()
    if config.small.shape or TRAINING_STAGES & set(config.stages):
        from ligo.training.machine import check_machine

        check_machine(config.train, config.deepspeed)
    joined_before = distributed.is_started()  # by the program that calls this
    run_config = yaml.safe_load(config_yaml)
    digest = config_hash(run_config)
    run = Run(run_folder(asked, digest))
    check_stage_order(config, run.stage_results())
    if config.small.shape:
        from ligo.small import check_data, train_small

        check_data(config)
        with opened(run, config, run_config, config_yaml) as tracker:
            with metered(config.hardware, run.folder, "small"):
                folder = train_small(config, run, digest, tracker)
            grow_checkpoint(folder, config, run, digest, tracker, inner)
    else:
        folder = find_small(config)
        check_inputs(folder, config, run, announced, inner)
        with opened(run, config, run_config, config_yaml) as tracker:
            grow_checkpoint(folder, config, run, digest, tracker, inner)
    if not joined_before:
        distributed.stop()
    results = run.stage_results()
    losses = [results[stage]["loss"] for stage in STAGES if stage in TRAINING_STAGES & set(config.stages)]
    return losses[0] if losses else None


def find_small(config: OnSmall) -> Path:
    """The small checkpoint as a local folder; rank 0 downloads or converts it, the others find it there."""
    from ligo.checkpoint.locate import Source, locate
    from ligo.core import distributed

    small = config.small
    source = Source(
        name=small.name,
        path=small.path,
        hub_id=small.hub_id,
        package_file=small.package_file,
        install_hint=small.install_hint,
    )
    with distributed.others_wait() as alone:
        if alone:
            locate(source)
    return locate(source)


def open_small(folder: Path, config: GrowConfig) -> tuple[Checkpoint, GrowthPlan]:
    """The small checkpoint, its tensors named as the family names them, and the plan of its growth."""
    from ligo.checkpoint.reader import Checkpoint

    checkpoint = Checkpoint.open(folder)
    plan = make_plan(config, checkpoint.config)
    return checkpoint.named_for(plan.small), plan


def check_inputs(
    folder: Path, config: GrowConfig, run: Run, announced: str | None, inner: Sequence[Growth] = ()
) -> None:
    """Refuse a checkpoint, a text or a disk that will not do, before anything is written.

    Args:
        announced: the plan that has been printed, or None.
        inner: growths inside the grown arm.
    """
    from ligo.checkpoint.optimizer import open_optimizer_state
    from ligo.checkpoint.writer import check_free_disk
    from ligo.core import distributed
    from ligo.core.files import unfinished_bytes
    from ligo.data.loader import check_budget
    from ligo.families.stock import expected_shapes
    from ligo.training.dropping import check_dropping
    from ligo.training.objectives import check_attention, make_objective

    checkpoint, plan = open_small(folder, config)
    if (text := plan_text(config, plan) + schedule_text(config, plan, inner)) != announced:
        say(text)
        check_memory(config, plan)
    objective = make_objective(
        plan.small, checkpoint.tokenizer, trains=needs_objective(config), attend=config.data.attend
    )
    checkpoint.expect(expected_shapes(plan.small))
    check_dropping(config.train, plan.target)
    check_attention(plan.target, config.data.attend, config.train.attention)
    if config.operator.init is not None and "learn" in config.stages:
        check_learning_inputs(checkpoint, plan, config)
    if config.operator.optimizer_state != "reset":
        open_optimizer_state(folder, config.small.optimizer_state, plan.small)
    with distributed.others_wait() as alone:
        if alone:  # the others find the tokens in the cache
            check_budget(objective.prepare(config.data), config.data, most_windows(config))
    if not run.grown.exists():
        inside = disk_bytes(plan_growths(first_model(config, plan), inner))
        needed = plan_json(config, plan)["bytes"]["disk"] + inside
        there = sum(file.stat().st_size for file in run.folder.glob("growth-*/*/*"))
        check_free_disk(run.folder, needed - there - unfinished_bytes(run.grown))


def check_learning_inputs(checkpoint: Checkpoint, plan: GrowthPlan, config: GrowConfig) -> None:
    """Refuse a small model that cannot be held as `learn.small` says, maps that were learned for another growth, and a
    trained run that maps cannot be fitted to."""
    from ligo.learning.hindsight import trained_run
    from ligo.learning.state import check_fits, find_operator
    from ligo.learning.store import check_quantisable

    if config.learn.fit_to is not None:
        trained_run(config.learn.fit_to, plan)
    if config.learn.operator is not None:
        check_fits(find_operator(config.learn.operator), plan, config.operator)
    elif config.learn.small == "nf4":
        check_quantisable(plan.small, checkpoint.dtypes)


def grow_checkpoint(
    folder: Path, config: GrowConfig, run: Run, digest: str, tracker: Tracker, inner: Sequence[Growth] = ()
) -> None:
    """Run the stages on a small checkpoint that is there."""
    from ligo.checkpoint.assets import copy_tokenizer
    from ligo.core import distributed
    from ligo.core.files import folder_aside, write_json
    from ligo.families.stock import check_coverage
    from ligo.segments import SegmentedRun
    from ligo.stages import GrowthRun
    from ligo.training.objectives import make_objective

    checkpoint, plan = open_small(folder, config)
    check_coverage(plan.target)
    objective = make_objective(
        plan.small, checkpoint.tokenizer, trains=needs_objective(config), attend=config.data.attend
    )
    corpus = objective.prepare(config.data)
    if distributed.is_main():
        run.check_same_inputs({"small": checkpoint.fingerprint(), "text": corpus.fingerprint})
        write_json(run.plan, plan_json(config, plan))
        if plan.small.dims.vocab_size and not run.tokenizer.exists():
            with folder_aside(run.tokenizer) as aside:  # checkpoints that are exported take it along
                copy_tokenizer(folder, aside)
    parts = (config, run, digest, checkpoint, plan, corpus, tracker)
    (SegmentedRun(inner, *parts) if inner else GrowthRun(*parts)).execute()


def run_folder(config: GrowConfig, config_hash: str) -> Path:
    """`run.dir`, or runs/<study>/<name>-<hash>."""
    if config.run.dir is not None:
        return Path(config.run.dir).expanduser()
    name = config.run.name or f"{config.small.name}-{config.target.name}-{config.operator.name}"
    return Path("runs") / config.run.study / f"{name}-{config_hash}"


def check_extras(config: GrowConfig) -> None:
    """Refuse now, not after an hour, where the run will need a package that is not installed.

    Raises:
        ConfigError: the extra that installs it is named.
    """
    trains = bool(config.small.shape) or TRAINING_STAGES & set(config.stages)
    if trains and config.train.engine == "deepspeed":
        why = "train.engine=deepspeed (train.engine=torch does without)"
        check_installed("deepspeed", extra="deepspeed", why=why)
    if learns_maps(config) and world_size() > 1:
        check_installed("deepspeed", extra="deepspeed", why="learning an operator on several ranks")
    if learns_maps(config) and config.learn.small == "nf4":
        why = "learn.small=nf4 (learn.small=offload does without, in as little memory)"
        check_installed("bitsandbytes", extra="nf4", why=why)
    if config.tracking.wandb != "off":
        why = f"tracking.wandb={config.tracking.wandb} (tracking=jsonl does without)"
        check_installed("wandb", extra="wandb", why=why)


@contextmanager
def opened(run: Run, config: OnSmall, run_config: dict[str, Any], config_yaml: str) -> Iterator[Tracker]:
    """The run folder open and its STATUS kept, with its trackers; ranks other than 0 track nothing.

    Raises:
        ConfigError: the folder holds another run.
        CheckpointError: another process is at work there.
        ResourceError: the folder cannot be written.
    """
    from ligo.checkpoint.reader import Checkpoint
    from ligo.core import distributed
    from ligo.tracking.base import Trackers
    from ligo.tracking.config import start_trackers

    if not distributed.is_main():
        yield Trackers([])
        return
    with run.held():
        run.open(run_config, config_yaml, config.seed)
        with run.keeping_status():
            tracker = start_trackers(
                config.tracking,
                run.folder,
                study=config.run.study,
                name=run.folder.name,
                run_config=run_config,
                fingerprint=lambda folder: Checkpoint.open(folder).fingerprint(),
            )
            try:
                yield tracker
            finally:
                tracker.finish()


if __name__ == "__main__":
    main(grow, DESCRIPTION, EXAMPLES)
