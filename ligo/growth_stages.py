"""Growth in a run folder: the stages learn, write and verify.

Each stage of a run reads what the stages before it left in the run folder and leaves its own result there, so a run that
was cut goes on at the first stage that is not done. All ranks learn; rank 0 writes and verifies alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ligo.accounting.meter import metered
from ligo.checkpoint.assets import ModelCard, write_assets
from ligo.checkpoint.hashes import write_hashes
from ligo.checkpoint.locate import packaged
from ligo.checkpoint.optimizer import (
    OptimizerState,
    open_optimizer_state,
    read_optimizer_file,
    write_optimizer_file,
)
from ligo.checkpoint.reader import Checkpoint
from ligo.checkpoint.writer import check_free_memory, write_weights
from ligo.config import GrowConfig, learns_maps, needs_objective
from ligo.core import distributed
from ligo.core.files import folder_aside, folder_resumed, write_json
from ligo.core.log import say
from ligo.core.run import Run
from ligo.core.units import flops as in_flops
from ligo.costs import grown_dtype
from ligo.data.loader import Batches, Data, validation_batches
from ligo.families.stock import expected_shapes
from ligo.growth.plan import GrowthPlan
from ligo.operators.maps import GrowthMaps
from ligo.plan import make_plan, plan_json
from ligo.summary import operator_flops
from ligo.tracking.base import Tracker
from ligo.training.config import batch_shape

if TYPE_CHECKING:
    from torch import Tensor

    from ligo.learning.fit import LearnedOperator
    from ligo.training.objectives import Objective

_VALIDATION_WINDOWS = 32  # per forward pass


class GrowthStages:
    """One growth: the config, the plan, the small checkpoint, the text, and the run folder that it all goes to."""

    def __init__(
        self, config: GrowConfig, run: Run, config_hash: str, small: Checkpoint, plan: GrowthPlan,
        corpus: Data, tracker: Tracker,
    ) -> None:  # fmt: skip
        self.config, self.run, self.small, self.plan, self.corpus = config, run, small, plan, corpus
        self._config_hash, self._tracker = config_hash, tracker

    def execute(self) -> None:
        """Run the chosen stages in order, those already done left out."""
        done = self.run.stage_results()
        distributed.barrier()  # all ranks have looked before rank 0 finishes another stage
        self._adopt_choice()
        for name in self.config.stages:
            if name == "report" or name not in done:
                with metered(self.config.hardware, self.run.folder, name):
                    self._stages[name]()

    @property
    def _stages(self) -> dict[str, Callable[[], None]]:
        return {"learn": self.learn, "write": self.write, "verify": self.verify}

    @contextmanager
    def _alone(self, stage: str) -> Iterator[dict[str, Any] | None]:
        """Rank 0 fills in the result of a stage; the others get None and wait."""
        with distributed.others_wait() as main:
            result: dict[str, Any] = {}
            yield result if main else None
            if main:
                self.run.finish_stage(stage, result)

    def learn(self) -> None:
        """Learn the operator's maps, or choose the operator; nothing to do for one that is neither."""
        learned = self._learn() if learns_maps(self.config) else None
        with self._alone("learn") as result:
            if result is not None and self.config.operator.candidates:
                self._select(result)
            elif result is not None and learned is not None:
                self._keep_learned(learned, result)
            elif result is not None and self.config.operator.init is not None:
                self._reuse(result)
        self._adopt_choice()

    def _learn(self) -> LearnedOperator:
        """All ranks learn together."""
        from ligo.learning.fit import learn_operator

        operator, length = self.config.operator, self.config.data.sequence_length
        self._tracker.rewind("learn", -1)
        if self.config.learn.fit_to is not None:
            return self._fit_to_trained(self.config.learn.fit_to)
        # another order of the same text than training's
        batches = Batches(self.corpus, length, max(1, operator.batch_tokens // length), self.config.seed + 1)
        return learn_operator(
            self.plan, self.small.read, batches.__getitem__, self._validation, operator, self.config.learn,
            self._tracker.log, objective=self._objective, seed=self.config.seed, deepspeed=self.config.deepspeed,
        )  # fmt: skip

    def _fit_to_trained(self, where: str) -> LearnedOperator:
        """Every rank fits the same maps."""
        from ligo.learning.hindsight import FirstRun, fit_to_trained, trained_run

        first, trained = trained_run(where, self.plan)
        done, growing = first.stage_results()["train"], first.stage_results().get("learn", {})
        return fit_to_trained(
            self.plan,
            self.small.read,
            FirstRun(
                trained.read,
                flops=operator_flops(first) + done["flops"],
                tokens=growing.get("tokens", 0) + done["tokens"],
                wall_s=growing.get("wall_s", 0.0) + done["wall_s"],
            ),
            self._validation,
            self.config.operator,
            self.config.learn,
            self._tracker.log,
            objective=self._objective,
            seed=self.config.seed,
        )

    def _keep_learned(self, learned: LearnedOperator, result: dict[str, Any]) -> None:
        from ligo.learning.state import save_operator

        save_operator(self.run.operator, self.plan, self.config.operator, learned)
        result.update(
            flops=learned.flops, recomputed_flops=learned.recomputed_flops, tokens=learned.tokens,
            wall_s=learned.wall_s, best_step=learned.best_step, start_loss=learned.start_loss,
            best_loss=learned.best_loss, quiet_loss=learned.quiet_loss,
            parameters=learned.num_parameters, small=learned.small, ranks=distributed.world_size(), captured=learned.captured,
        )  # fmt: skip
        if learned.captured is not None:
            say(f"the maps make {learned.captured:.1%} of the way to the trained weights (in squares)")
        quiet = (
            f", {learned.quiet_loss:.4f} without the noise" if learned.quiet_loss < learned.best_loss else ""
        )
        say(
            f"learned: validation loss {learned.start_loss:.4f} -> {learned.best_loss:.4f}{quiet} "
            f"(best at step {learned.best_step} of {self.config.operator.steps}), {in_flops(learned.flops)}"
        )

    def _reuse(self, result: dict[str, Any]) -> None:
        """Take maps that were learned elsewhere: nothing is charged, and what they cost there is noted."""
        from ligo.learning.state import find_operator, reuse_operator

        where = self.config.learn.operator
        assert where is not None
        elsewhere = reuse_operator(find_operator(where), self.run.operator, self.plan, self.config.operator)
        result.update(
            flops=0.0, tokens=0, best_step=elsewhere.best_step, parameters=elsewhere.parameters,
            small=elsewhere.small, reused=asdict(elsewhere),
        )  # fmt: skip
        say(
            f"took the operator of {where}, which cost {in_flops(elsewhere.flops)} to learn there: not charged here"
        )

    def _select(self, result: dict[str, Any]) -> None:
        from ligo.learning.select import select_operator

        config, training = self.config, self.config.train
        windows = batch_shape(training, config.data.sequence_length, 1).windows
        self._tracker.rewind("learn", -1)
        selection = select_operator(
            {name: make_plan(config, self.small.config, chosen=name) for name in config.operator.candidates},
            self.small.read,
            Batches(self.corpus, config.data.sequence_length, windows, config.seed).__getitem__,
            self._validation,
            training,
            self._tracker.log,
            objective=self._objective,
            num_steps=config.operator.trial_steps,
            sequence_length=config.data.sequence_length,
            noise=config.operator.noise_level,
            seed=config.seed,
        )
        result.update(
            flops=selection.flops, tokens=selection.tokens, wall_s=selection.wall_s, chosen=selection.chosen,
            start_loss=selection.start_losses[selection.chosen], losses=dict(selection.losses), ranks=1,
        )  # fmt: skip
        tried = ", ".join(f"{name} {loss:.4f}" for name, loss in selection.losses.items())
        say(f"chose {selection.chosen} (validation loss after {config.operator.trial_steps} steps: {tried})")

    def _adopt_choice(self) -> None:
        """Go on with the plan of the operator that was chosen, on every rank."""
        chosen = self.run.stage_results().get("learn", {}).get("chosen")
        if chosen is not None:
            self.plan = make_plan(self.config, self.small.config, chosen=chosen)
            if distributed.is_main():
                write_json(self.run.plan, plan_json(self.config, self.plan))

    def write(self) -> None:
        """Write the grown model as a stock Hugging Face folder."""
        with self._alone("write") as result:
            if result is None:
                return
            from ligo.growth.write import GrowthWriter, growth_key

            dtype, maps = grown_dtype(self.config, self.plan), self._maps()
            noise = self.config.operator.noise_level
            seed, shard_bytes = self.config.seed, self.config.write.shard_bytes
            writer = GrowthWriter(self.plan, maps, self.small.read, dtype, noise, seed)
            key = growth_key(
                self.plan, maps, self.small, dtype=dtype, noise=noise, seed=seed, shard_bytes=shard_bytes
            )
            check_free_memory(writer.peak_bytes)
            with folder_resumed(self.run.grown, key) as (folder, record):
                written = writer.write(folder, record, shard_bytes=shard_bytes)
                self._write_assets(folder, dtype, notes=["Grown, not trained on since."])
                write_hashes(folder, written["checksums"])
            moments_flops = self._write_moments(maps)
            result.update(written, dtype=dtype, build_flops=self.plan.build_flops(maps) + moments_flops)
            say(f"wrote {self.run.grown}")

    def _write_moments(self, maps: GrowthMaps) -> int:
        """Write which coordinates are new and, where they are wanted, the moments to train on with; the FLOPs."""
        from ligo.growth.coordinates import write_new_coordinates
        from ligo.growth.moments import grow_moments

        write_new_coordinates(self.run.new_coordinates, self.plan)
        how, state = self.config.operator.optimizer_state, self._small_state()
        if state is None:
            return 0
        moments = grow_moments(self.plan, maps, state.read, how, weights=self.small.read)
        write_optimizer_file(self.run.moments, state.step, expected_shapes(self.plan.target), moments)
        return 2 * self.plan.build_flops(maps.dual()) if how == "grow" else 0

    def _small_state(self) -> OptimizerState | None:
        """The small run's Adam moments, where they are wanted."""
        if self.config.operator.optimizer_state == "reset":
            return None
        return open_optimizer_state(self.small.folder, self.config.small.optimizer_state, self.plan.small)

    def verify(self) -> None:
        """Reload what was written with stock transformers, and compare outputs and weights with the small model's."""
        with self._alone("verify") as result:
            if result is None:
                return
            import torch

            from ligo.growth.modules import module_statistics
            from ligo.growth.verify import verify_growth

            probe = self._objective.inputs(torch.from_numpy(self._validation[0][:4]))
            learned = self.run.stage_results().get("learn", {})
            verification = verify_growth(
                self.small.folder,
                self.run.grown,
                probe.numpy(),
                claimed_exact=self.plan.exactness.exact and not learned.get("best_step"),
                stored_dtype=grown_dtype(self.config, self.plan),
                read_back=self.plan.read_back,
            )
            grown = Checkpoint.open(self.run.grown).named_for(self.plan.target)
            modules = module_statistics(self.plan, self.small.read, grown.read)
            result.update(verification.as_json(), modules=modules)
            verdict = "exact" if verification.exact else "not exact, as planned"
            compared = "logit" if self.plan.small.has_head else "hidden state"
            say(
                f"verified: largest {compared} difference {verification.max_logit_difference:.2e} ({verdict})"
            )

    def _maps(self) -> GrowthMaps:
        """The maps to write: those learned, or the operator's own."""
        if self.config.operator.init is None:
            return self.plan.maps
        from ligo.learning.state import load_maps

        return load_maps(self.run.operator, self.plan, self.config.operator)

    def _write_assets(self, folder: Path, dtype: str, notes: list[str]) -> None:
        small, target = self.plan.small.dims, self.plan.target.dims
        card = ModelCard(
            name=f"{self.config.small.name} grown to {self.config.target.name}",
            base_model=self._base_model(),
            operator=self.config.operator.name,
            operator_reference="; ".join(self.plan.references),
            exactness=self._exactness_sentence(),
            small={**asdict(small), "parameters": self.plan.small.num_parameters},
            target={**asdict(target), "parameters": self.plan.target.num_parameters},
            notes=notes,
        )
        config = {**self.plan.target_config, "dtype": dtype}
        write_assets(folder, config=config, source_folder=self.small.folder, card=card)

    def _base_model(self) -> str:
        """The hub id if the checkpoint came from the hub, else a plain name."""
        small = self.config.small
        elsewhere = small.path is not None or (small.package_file and packaged(small.package_file))
        return small.name if elsewhere or small.hub_id is None else small.hub_id

    def _exactness_sentence(self) -> str:
        start = ("exact" if self.plan.exactness.exact else "not exact") + f" ({self.plan.exactness.reason})"
        if self.run.stage_results().get("learn", {}).get("best_step"):
            return f"Its maps were learned, which changed the function; the start they were learned from is {start}."
        return f"Growth was {start}."

    # --- what training reads and keeps -----------------------------------------------------------------

    def grown_state(self) -> OptimizerState | None:
        """The moments that the grown model begins with, where they are wanted."""
        if self.config.operator.optimizer_state == "reset":
            return None
        return read_optimizer_file(self.run.moments, self.plan.target)

    def new_elements(self) -> dict[str, Tensor]:
        """The elements of the grown model's tensors that are new."""
        from ligo.growth.coordinates import is_new, read_new_coordinates

        return {name: is_new(axes) for name, axes in read_new_coordinates(self.run.new_coordinates).items()}

    def keep_trained(self, weights: dict[str, Tensor], tokens: int, loss: float, final: Path) -> None:
        """Write the grown model's trained weights, by their names on disk, as a stock folder."""
        with distributed.others_wait() as main:
            if main:
                with folder_aside(final) as folder:
                    shard_bytes = self.config.write.shard_bytes
                    ordered = ((job.spec.name, weights[job.spec.name]) for job in self.plan.jobs)
                    written = write_weights(folder, ordered, shard_bytes=shard_bytes)
                    note = f"Grown, then trained on {tokens:,} tokens to a validation loss of {loss:.4f} nats per prediction."
                    self._write_assets(folder, "float32", notes=[note])
                    write_hashes(folder, written["checksums"])

    @cached_property
    def _objective(self) -> Objective:
        from ligo.training.objectives import make_objective

        return make_objective(
            self.plan.small,
            self.small.tokenizer,
            trains=needs_objective(self.config),
            attend=self.config.data.attend,
        )

    @cached_property
    def _validation(self) -> list[Any]:
        data = self.config.data
        return validation_batches(
            self.corpus, data.sequence_length, _VALIDATION_WINDOWS, data.validation_tokens
        )
