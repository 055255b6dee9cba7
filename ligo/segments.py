"""A run whose grown arm grows further while it trains (`train.growth`).

The arm is a chain of segments, each another model trained from one growth to the next, with one history of steps, tokens,
FLOPs and losses, one learning-rate schedule and one order of the data. A growth is a run of its own, with the stages learn,
write and verify:

    growth-1/small/     the model and its moments at the end of the first segment, there once that has ended
    growth-1/           plan.json operator.safetensors grown/ moments.safetensors stages.json, as in any run folder
    checkpoints/grown/segment-1/    what the segment after it goes on from

So a run that was cut goes on in the middle of a segment, or of a growth. What a growth cost is in the arm's own FLOPs,
from the evaluation right after it on.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ligo.checkpoint.hashes import write_hashes
from ligo.checkpoint.optimizer import OPTIMIZER_FILE, OptimizerState
from ligo.checkpoint.reader import Checkpoint
from ligo.checkpoint.writer import write_weights
from ligo.core import distributed
from ligo.core.files import folder_aside, read_json, write_json
from ligo.core.run import Run
from ligo.families.base import Family
from ligo.families.stock import expected_shapes
from ligo.growth.plan import GrowthPlan
from ligo.growth_stages import GrowthStages
from ligo.plan import make_plan, plan_json
from ligo.schedule import Growth, first_model, plan_growths, segments
from ligo.stages import GrowthRun
from ligo.summary import InnerGrowth, operator_flops, summarise
from ligo.tracking.base import Tracker
from ligo.tracking.jsonl import read_records
from ligo.training.dropping import training_flops
from ligo.training.engine import Engine
from ligo.training.loop import Progress, evaluate
from ligo.training.moments import write_moments
from ligo.training.resume import remove_finished
from ligo.training.watch import Health

_ARM = "grown"

_Beginning = tuple[Family, Path, OptimizerState | None, dict[str, Tensor] | None]
"""What a segment begins with: the model, its folder, its moments where they are wanted, and which elements re-warm."""


class SegmentedRun(GrowthRun):
    """A run that grows inside its stage `train`."""

    def __init__(self, growths: Sequence[Growth], *run: Any) -> None:
        """`run`: as for a `GrowthRun`; with train.start=small its plan is that of the first growth."""
        super().__init__(*run)
        self._growths = growths

    # --- training -----------------------------------------------------------------------------------

    def train(self) -> None:
        """Train and grow in turns; the result is `trained/`, a stock folder of the last model."""
        grown = None
        for growth in self._growths:
            if not self._folder(growth, "small").exists():
                self._train_segment(grown, growth)
            grown = self._inner_run(growth)
            grown.execute()
        self._train_segment(grown, None)
        with suppress(OSError):  # checkpoints that are kept for good stay in there
            self.run.checkpoints(_ARM).rmdir()

    def _train_segment(self, grown: GrowthStages | None, growth: Growth | None) -> None:
        """Train from one growth to the next, and keep the model that comes out.

        Args:
            grown: the growth that made the segment's model, done; None: the arm begins.
            growth: the growth that ends the segment; None: the end of the budget, and the arm's result.
        """
        training, number = self.config.train, growth.number - 1 if growth else len(self._growths)
        start, health = (Progress(), Health()) if grown is None else _after(grown)
        made_by = grown or (None if training.start == "small" else self)
        family, model, moments, new = self._begin() if made_by is None else _made_by(made_by)
        engine = self._engine(self._pretrained(model), training, family, moments, new, start.step)
        if grown is not None:
            start = self._evaluated(engine, grown, number, start)
        checkpoints = self.run.checkpoints(_ARM) / f"segment-{number}"
        done = self._run_engine(
            engine,
            _ARM,
            training,
            family,
            checkpoints,
            start=start,
            health=health,
            until_step=growth and growth.at_tokens // training.batch_tokens,
        )
        if growth is not None:
            self._keep_for_growth(engine, family, growth, done, health, checkpoints)
        elif grown is not None:
            grown.keep_trained(engine.weights(), done.tokens, done.loss, self.run.trained)
        engine.close()
        if growth is None:
            self._finish_arm("train", _ARM, training, done, checkpoints)

    def _begin(self) -> _Beginning:
        """Of an arm that begins with the small model itself."""
        return self.plan.small, self.small.folder, self._small_state(), None

    def _evaluated(self, engine: Engine, grown: GrowthStages, number: int, start: Progress) -> Progress:
        """The start of a segment with the loss right after growth, which is logged and kept once."""
        known = grown.run.stage_results().get("evaluate")
        if known is not None:
            return Progress(**known["after"])
        found = evaluate(engine, self._validation)
        after = replace(start, loss=found["loss"], accuracy=found.get("accuracy"))
        with distributed.others_wait() as main:
            if main:
                self._tracker.rewind(_ARM, start.step)  # a line may have been cut
                if all(record.get("growth") != number for record in read_records(self.run.metrics)):
                    self._tracker.log({"arm": _ARM, "step": after.step, "tokens": after.tokens, "flops": after.flops,
                                       "wall_s": round(after.wall_s, 3), "growth": number,
                                       **{f"eval/{name}": value for name, value in found.items()}})  # fmt: skip
                grown.run.finish_stage("evaluate", {"loss_before": start.loss, "after": asdict(after)})
        return after

    def _keep_for_growth(
        self,
        engine: Engine,
        family: Family,
        growth: Growth,
        done: Progress,
        health: Health,
        checkpoints: Path,
    ) -> None:
        """Leave the model of a segment's end as a stock folder, with its moments where they are wanted."""
        weights, wants_moments = engine.weights(), growth.operator.optimizer_state != "reset"
        step, moments = engine.moments() if wants_moments else (0, {})
        with distributed.others_wait() as main:
            if main:
                with folder_aside(self._folder(growth, "small")) as folder:
                    ordered = ((name, weights[name]) for name in expected_shapes(family))
                    write_weights(folder, ordered, shard_bytes=self.config.write.shard_bytes)
                    if wants_moments:
                        write_moments(folder / OPTIMIZER_FILE, family, step, moments)
                    if family.dims.vocab_size:
                        self.small.tokenizer().save_pretrained(folder)
                    settings = {key: value for key, value in family.config.items() if key != "torch_dtype"}
                    write_json(folder / "config.json", {**settings, "dtype": "float32"})
                    seen = asdict(replace(health, recent=[]))  # losses after growth are no match for these
                    write_json(folder / "progress.json", {"progress": asdict(done), "health": seen})
                    write_hashes(folder)
                remove_finished(checkpoints, self.config.train.keep_every)

    # --- growth -------------------------------------------------------------------------------------

    def _folder(self, growth: Growth, *inside: str) -> Path:
        return self.run.folder.joinpath(f"growth-{growth.number}", *inside)

    def _inner_run(self, growth: Growth) -> GrowthStages:
        """A growth as a run of its own; the segment before it has ended."""
        run, small = Run(self._folder(growth)), self._folder(growth, "small")
        config, checkpoint = growth.config(self.config, small), Checkpoint.open(small)
        plan = make_plan(config, checkpoint.config)
        if distributed.is_main() and not run.plan.exists():
            write_json(run.plan, plan_json(config, plan))
        tracker = _LearningOf(growth, self._tracker)
        small_checkpoint = checkpoint.named_for(plan.small)
        return GrowthStages(config, run, self._config_hash, small_checkpoint, plan, self.corpus, tracker)

    @property
    def _plans(self) -> list[GrowthPlan]:
        return plan_growths(first_model(self.config, self.plan), self._growths)

    # --- what the other stages need -------------------------------------------------------------------

    @property
    def _final(self) -> Family:
        return self._plans[-1].target

    def _grown_flops(self) -> float:
        """What all segments take, and the growths that are done."""
        growing = sum(operator_flops(Run(self._folder(growth))) for growth in self._growths)
        training, length = self.config.train, self.config.data.sequence_length
        return growing + sum(
            training_flops(training, family, length, steps)
            for family, steps in segments(self.config, self._growths, self._plans)
        )

    def _summary(self) -> dict[str, Any]:
        inner = []
        for growth, plan in zip(self._growths, self._plans, strict=True):
            config = growth.config(self.config, self._folder(growth, "small"))
            inner.append(InnerGrowth(growth.at_tokens, config, plan, Run(self._folder(growth))))
        config = replace(self.config, target=self._growths[-1].target)
        return summarise(config, self.run, self.small, self.plan, inner)


def _made_by(grown: GrowthStages) -> _Beginning:
    """After a growth."""
    state = grown.grown_state()
    new = grown.new_elements() if state is not None and grown.config.train.rewarm_steps else None
    return grown.plan.target, grown.run.grown, state, new


def _after(grown: GrowthStages) -> tuple[Progress, Health]:
    """Where the arm stands after a growth: at the same step, with what growing cost; and what it has seen so far."""
    kept = read_json(grown.small.folder / "progress.json")
    before = Progress(**kept["progress"])
    learned_s = grown.run.stage_results().get("learn", {}).get("wall_s", 0.0)
    after = replace(before, flops=before.flops + operator_flops(grown.run), wall_s=before.wall_s + learned_s)
    return after, Health(**kept["health"])


class _LearningOf:
    """A tracker that keeps what growths learn apart: the arms learn-1, learn-2."""

    def __init__(self, growth: Growth, tracker: Tracker) -> None:
        self._suffix, self._tracker = f"-{growth.number}", tracker

    def log(self, record: dict[str, Any]) -> None:
        self._tracker.log({**record, "arm": record["arm"] + self._suffix})

    def rewind(self, arm: str, step: int) -> None:
        self._tracker.rewind(arm + self._suffix, step)

    def summary(self, values: dict[str, Any]) -> None:
        self._tracker.summary(values)

    def finish(self) -> None:
        self._tracker.finish()
