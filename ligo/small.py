"""`small=scratch`: no small model at hand, so train one first, and record what that cost."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ligo.accounting.flops import model_flops
from ligo.checkpoint.hashes import write_hashes
from ligo.checkpoint.load import load_tokenizer
from ligo.checkpoint.optimizer import OPTIMIZER_FILE
from ligo.checkpoint.writer import write_weights
from ligo.config import GrowConfig, most_windows, small_training
from ligo.core import distributed
from ligo.core.files import folder_aside, write_json, write_text
from ligo.core.log import say
from ligo.core.run import Run, versions
from ligo.core.units import flops as in_flops
from ligo.data.bpe import train_tokenizer
from ligo.data.loader import Batches, check_budget, validation_batches
from ligo.data.mixture import all_documents
from ligo.families.base import Family, family_of
from ligo.families.fresh import fresh_config
from ligo.families.stock import as_on_disk
from ligo.tracking.base import Tracker
from ligo.training.config import TrainConfig, batch_shape, keeps_moments
from ligo.training.loop import Progress


def check_data(config: GrowConfig) -> None:
    """Refuse text or images that cannot be read, before anything is written.

    Raises:
        LigoError: as the data room does.
    """
    from ligo.training.objectives import make_objective

    family = family_of(fresh_config(config.small.family, config.small.shape))
    if family.objective == "image_classes":
        make_objective(family).prepare(config.data)
    else:
        next(all_documents(config.data))


def train_small(config: GrowConfig, run: Run, digest: str, tracker: Tracker) -> Path:
    """Train the small model on the run's text, with a tokenizer of its own, or on the run's images; or only draw it.

    It lies in the folder `small/` of the run, made once. The folder's `ligo.json` holds tokens, FLOPs and loss of
    the training, which the ledger charges.

    Raises:
        LigoError: as the data, training and checkpoint rooms do.
    """
    folder = run.folder / "small"
    if (folder / "ligo.json").is_file():
        return folder
    from torch import zeros_like

    from ligo.training.dropping import flops_share
    from ligo.training.engine import Moments
    from ligo.training.engines import make_engine
    from ligo.training.loop import train
    from ligo.training.models import fresh_model
    from ligo.training.moments import write_moments
    from ligo.training.objectives import make_objective

    model_config, training = fresh_config(config.small.family, config.small.shape), small_training(config)
    family, length = family_of(model_config), config.data.sequence_length
    shape = batch_shape(training, length, distributed.world_size())
    reads_text = family.objective != "image_classes"
    tokenizer = _tokenizer(config, run.tokenizer, family) if reads_text else None
    objective = make_objective(family, lambda: tokenizer, attend=config.data.attend)
    with distributed.others_wait() as alone:
        if alone:
            check_budget(objective.prepare(config.data), config.data, most_windows(config))
    corpus = objective.prepare(config.data)

    model = fresh_model(model_config, config.seed)
    moments: tuple[int, Moments] | None
    if training.max_tokens == 0:
        parameters = dict(model.named_parameters())
        weights, done = as_on_disk(model, parameters), Progress()
        moments = 0, {n: (zeros_like(p), zeros_like(p)) for n, p in parameters.items()}
    else:
        engine = make_engine(model, objective, training, shape, config.deepspeed)
        done = train(
            engine,
            arm="small",
            batches=Batches(corpus, length, shape.windows, config.seed),
            validation=validation_batches(corpus, length, 32, config.data.validation_tokens),
            config=training,
            flops_per_token=model_flops(family, length).training,
            flops_share=flops_share(training, family, length),
            tracker=tracker,
            checkpoints=run.checkpoints("small"),
            config_hash=digest,
            run_id=run.id,
        )
        weights = engine.weights()
        moments = engine.moments() if keeps_moments(training) else None
        engine.close()
    with distributed.others_wait() as alone:
        if alone:
            with folder_aside(folder) as aside:
                write_weights(aside, weights.items())
                if moments is not None:
                    write_moments(aside / OPTIMIZER_FILE, family, *moments)
                if tokenizer is not None:
                    tokenizer.save_pretrained(aside)
                write_json(aside / "config.json", model_config)
                write_json(aside / "ligo.json", _record(config, training, done))
                write_text(aside / "README.md", _card(config, family, training, done))
                write_hashes(aside)
            if done.step:
                say(f"trained the small model: validation loss {done.loss:.4f} after {in_flops(done.flops)}")
            else:
                say("drew the small model fresh and left it untrained")
    return folder


def _tokenizer(config: GrowConfig, folder: Path, family: Family) -> Any:
    """The run's own tokenizer, trained by rank 0 on the run's text."""
    with distributed.others_wait() as alone:
        if alone and not folder.exists():
            with folder_aside(folder) as aside:
                texts = all_documents(config.data)
                masks = family.objective == "masked_lm"
                train_tokenizer(texts, family.dims.vocab_size, mask=masks).save_pretrained(aside)
                write_hashes(aside)
    return load_tokenizer(folder)


def _record(config: GrowConfig, training: TrainConfig, done: Progress) -> dict[str, Any]:
    """What the ledger reads (`training`), and what it takes to train the same model again."""
    return {
        "training": {
            "tokens": done.tokens,
            "flops": done.flops,
            "wall_s": done.wall_s,
            "ranks": distributed.world_size(),
            "loss": done.loss if done.step else None,
        },
        "data": {"name": config.data.name, "sequence_length": config.data.sequence_length},
        "options": asdict(training),
        "seed": config.seed,
        "versions": versions(),
    }


_PIPELINES = {
    "causal_lm": "text-generation",
    "masked_lm": "fill-mask",
    "image_classes": "image-classification",
}


def _card(config: GrowConfig, family: Family, training: TrainConfig, done: Progress) -> str:
    """The model's README.md."""
    length = config.data.sequence_length
    if family.objective == "image_classes":
        data = f"| images | `{config.data.name}`, pixels scaled to [-1, 1] |\n"
        unit, held_out, windows = "image", "on images held out", f"images of {length} tokens"
    else:
        data = f"| text | `{config.data.name}`, tokenizer trained on the same text |\n"
        unit, held_out, windows = "token", "on text held out by document", f"windows of {length}"
    if family.objective == "masked_lm":
        unit = "hidden token"
    loss = f"{done.loss:.4f} nats per {unit}, {held_out}" if done.step else "untrained"
    return (
        f"---\nlibrary_name: transformers\npipeline_tag: {_PIPELINES[family.objective]}\ntags: [ligo]\n---\n\n"
        f"# A small {family.name} trained by ligo\n\n"
        f"| | |\n|---|---|\n{data}"
        f"| training | {done.tokens:,} tokens, {windows}, "
        f"{training.batch_tokens:,} tokens per step, peak rate {training.lr:g}, {training.schedule} |\n"
        f"| cost | {done.flops:.4g} FLOPs (3x forward, lookups free, full attention counted) |\n"
        f"| validation loss | {loss} |\n\n"
        "The same as data: `ligo.json`.\n"
    )
