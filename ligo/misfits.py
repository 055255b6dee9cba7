"""What of a plan does not fit into memory, and which options would make it fit, the least change first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import combinations, islice
from typing import Any

from ligo.accounting.memory import STAGES, Memory, zero_keys
from ligo.config import GrowConfig
from ligo.core.units import num_bytes
from ligo.forecast import Forecast, StageCost
from ligo.learning.config import learn_shape
from ligo.training.config import batch_shape


def misfits(forecast: Forecast, stages: Mapping[str, StageCost]) -> Iterator[str]:
    """What of these stages does not fit into a rank's memory, and what would."""
    capacity = forecast.capacity
    if capacity is None:
        return
    for name, stage in stages.items():
        if name in ("scratch", "short") or (name == "write" and forecast.on_gpu):
            continue  # the same model as train; writing is the host's work, which looks for itself
        needed = stage.memory.peak
        if needed <= capacity * (1 if name == "train" or forecast.on_gpu else forecast.ranks):
            continue
        fitting = (way for way in _ways(forecast, name) if way[1].peak <= capacity)
        ways = [f"{words} ({num_bytes(memory.peak)})" for words, memory in islice(fitting, 3)]
        yield (
            f"{name} needs {num_bytes(needed)} on each rank ({stage.memory.phase}), and "
            f"{forecast.hardware.name} has {num_bytes(capacity)}.\n  Try: "
            + (" or ".join(ways) or _no_way(forecast.config, name))
        )


def _no_way(config: GrowConfig, name: str) -> str:
    if name == "learn" and config.operator.form == "dense":
        return "operator.form=low_rank, which learns smaller maps, or an operator that is not learned: operator=exact"
    return "a smaller target; no option that there is makes it fit"


def _ways(forecast: Forecast, name: str) -> Iterator[tuple[str, Memory]]:
    """Other options for a stage, the least change first, and what a rank would hold with each."""
    ways = {"learn": _ways_to_learn, "train": _ways_to_train}
    return ways[name](forecast) if name in ways else iter(())


def _ways_to_train(forecast: Forecast) -> Iterator[tuple[str, Memory]]:
    arm, length = forecast.config.train, forecast.length
    one = {"windows": 1} if batch_shape(arm, length, forecast.ranks).windows_per_micro_batch > 1 else {}
    micro = f" train.micro_batch_tokens={length}" if one else ""
    ways: list[tuple[str, dict[str, int]]] = [(micro.strip(), one)] if one else []
    if arm.engine == "deepspeed":
        later = [stage for stage in STAGES if stage > zero_keys(forecast.config.deepspeed)["stage"]]
        ways += [(f"deepspeed=zero{stage}", {"stage": stage}) for stage in later]
        ways += [(f"deepspeed=zero{stage}{micro}", {"stage": stage, **one}) for stage in later if one]
        counts = [forecast.ranks * 2**power for power in range(1, 11)]
        most = {"stage": 3, **one}
        ways += [(f"hardware.count={n} deepspeed=zero3{micro}", {"ranks": n, **most}) for n in counts]
    for words, options in ways:
        yield words, forecast.training_memory(arm, **options)


def _ways_to_learn(forecast: Forecast) -> Iterator[tuple[str, Memory]]:
    now, length = forecast.config.learn, forecast.length
    shape = learn_shape(now, forecast.config.operator.batch_tokens, length, forecast.ranks)
    changes: list[dict[str, Any]] = []
    changes += [{"micro_batch_tokens": length}] if shape.windows_per_micro_batch > 1 else []
    changes += [{"recompute": "layers"}] if now.recompute != "layers" else []
    changes += [{"small": held} for held in ("bf16", "nf4") if now.small not in (held, "nf4", "offload")]
    changes += [{"shard_small": True}] if forecast.ranks > 1 and not now.shard_small else []
    pairs = [one | other for one, other in combinations(changes, 2) if not one.keys() & other.keys()]
    everything = {key: value for change in changes for key, value in change.items()}
    for chosen in [*changes, *pairs, everything]:
        words = " ".join(f"learn.{key}={str(value).lower()}" for key, value in chosen.items())
        yield words, forecast.learning_memory(replace(now, **chosen))
