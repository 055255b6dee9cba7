"""Faults on purpose, many times: what must come out of each is counted.

    python -m tests.faults.campaigns kills=120 saves=60 disks=8 launchers=20 flips=500 ranks=1 bad=1 parity=1

One campaign is a function of its number of trials; its last line of JSON says how many were good, and what was not.
"""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, suppress
from dataclasses import replace
from io import StringIO
from itertools import product
from pathlib import Path
from typing import Any

from ligo.core.files import read_json, write_json
from ligo.tracking.jsonl import read_records
from ligo.training.engines import make_engine
from ligo.training.models import fresh_model
from ligo.training.resume import checkpoints, find_problem, load_latest, step_of
from tests.conftest import REPO, tiny_config
from tests.faults.jobs import SAVE_EVERY, STEPS, Arm, Trap, family
from tests.faults.points import Points
from tests.faults.tally import Tally
from tests.faults.zygote import run_ranks
from tests.training.arms import CONFIG, LENGTH, batch_shape

RANKS = 2
KINDS = list(product((1, 2, 3), ("fp32", "bf16")))
WITHIN_S = 10.0
"""In which ranks must be gone once their launcher is."""


def losses(folder: Path) -> dict[int, tuple[str, ...]]:
    """Step -> training loss, gradient norm and validation loss in hex: nothing is rounded away."""
    keys = ("train/loss", "grad_norm", "eval/loss")
    return {
        record["step"]: tuple(float(record[key]).hex() if key in record else "-" for key in keys)
        for record in read_records(folder / "metrics.jsonl")
    }


def whole_run(tally: Tally, arm: Arm, ranks: int = RANKS) -> tuple[dict[int, tuple[str, ...]], float]:
    """What an arm that nothing happens to logs, and the seconds that it takes."""
    started = time.monotonic()
    codes = run_ranks(arm, ranks, arm.folder.with_suffix(".log"))
    if codes != [0] * ranks:
        raise RuntimeError(arm.folder.with_suffix(".log").read_text()[-3000:])
    return losses(arm.folder), time.monotonic() - started


# --- the campaigns -------------------------------------------------------------------------------------------


def kills(tally: Tally, trials: int) -> None:
    """kill -9 of all ranks at a random instant; the same start again must end as if nothing had happened."""
    draw = random.Random(0)
    expected = {}
    for stage, precision in KINDS[:trials]:
        whole = Arm(tally.folder / f"whole-{stage}-{precision}", stage, precision)
        expected[stage, precision] = whole_run(tally, whole)
    for trial in range(trials):
        stage, precision = KINDS[trial % len(KINDS)]
        reference, seconds = expected[stage, precision]
        arm = Arm(tally.folder / f"kill-{trial}", stage, precision)
        log = arm.folder.with_suffix(".log")
        # the first third is nothing but starting
        while -signal.SIGKILL not in run_ranks(arm, RANKS, log, draw.uniform(seconds / 3, seconds)):
            shutil.rmtree(arm.folder)  # it was faster this time
        left = len(losses(arm.folder))
        codes = run_ranks(arm, RANKS, log)
        good = codes == [0, 0] and losses(arm.folder) == reference
        tally.count(
            good,
            f"trial {trial}, ZeRO-{stage} {precision}, killed after {left - 1} steps: {codes}\n{tail(log)}",
        )
        tally.notes["killed in a step after the first"] = tally.notes.get(
            "killed in a step after the first", 0
        ) + (left > 1)
        shutil.rmtree(arm.folder, ignore_errors=True)


def saves(tally: Tally, trials: int) -> None:
    """Killed at every step of saving: a checkpoint that verifies is left, at most one interval old."""
    save_step = 3 * SAVE_EVERY  # the first one that removes an older one
    num_saves = STEPS // SAVE_EVERY
    names = {}
    for rank in range(RANKS):
        arm = Arm(tally.folder / f"note-{rank}", stage=1)
        noted = tally.folder / f"points-{rank}.json"

        def note(arm: Arm = arm, noted: Path = noted, rank: int = rank) -> None:
            points = Points(arm.folder / "checkpoints", rank=rank)
            points.install()
            arm()
            if points.seen:
                write_json(noted, points.seen)

        run_ranks(note, RANKS, noted.with_suffix(".log"))
        for name in read_json(noted):
            names[name] = (rank, names.get(name, (rank, 0))[1] + 1)
    references: dict[int, Any] = {}
    # but for the making of the folder, which happens once, when there is nothing to lose yet
    points = sorted(name for name in names if "mkdir checkpoints" not in name)
    tally.notes["fault points"] = len(points)
    for trial in range(trials):
        name, stage = points[trial % len(points)], trial % 4
        rank, times = names[name]
        if stage not in references:
            references[stage], _ = whole_run(tally, Arm(tally.folder / f"whole-{stage}", stage))
        arm = Arm(tally.folder / f"save-{trial}", stage)
        log = arm.folder.with_suffix(".log")
        per_save = max(1, times // num_saves)
        which = min(times, per_save * (save_step // SAVE_EVERY - 1) + 1 + trial % per_save)

        def die(arm: Arm = arm, name: str = name, which: int = which, rank: int = rank) -> None:
            Points(arm.folder / "checkpoints", rank=rank, die_at=(name, which)).install()
            arm()

        codes = run_ranks(die, RANKS, log)
        logged = max(losses(arm.folder), default=0)
        verified = [
            step_of(f)
            for f in checkpoints(arm.folder / "checkpoints")
            if find_problem(f, "test", "run") is None
        ]
        fresh_enough = bool(verified) and max(verified) >= logged - SAVE_EVERY
        again = run_ranks(arm, RANKS, log)
        same = losses(arm.folder) == references[stage]
        good = -signal.SIGKILL in codes and fresh_enough and again == [0, 0] and same
        tally.count(
            good, f"{name} ({which}), ZeRO-{stage}: {codes}, {verified} of {logged}, {again}\n{tail(log)}"
        )
        shutil.rmtree(arm.folder)


def disks(tally: Tally, trials: int) -> None:
    """The disk of one rank is full while saving: all end with 5, the checkpoint before is whole, no half one has a name."""
    for trial in range(trials):
        arm = Arm(tally.folder / f"full-{trial}", stage=trial // RANKS % 4, full_on=trial % RANKS)
        log = arm.folder.with_suffix(".log")
        codes = run_ranks(arm, RANKS, log)
        root = arm.folder / "checkpoints"
        left = sorted(path.name for path in root.iterdir())
        whole = find_problem(root / "step-00000002", "test", "run") is None
        again = run_ranks(replace(arm, full_on=None), RANKS, log)
        untouched = whole and left == ["latest", "step-00000002"]
        good = codes == [5, 5] and untouched and again == [0, 0]
        tally.count(good, f"rank {arm.full_on}, ZeRO-{arm.stage}: {codes}, {left}, {again}\n{tail(log)}")


def launchers(tally: Tally, trials: int) -> None:
    """The launcher alone is killed: its ranks are gone in time, for torchrun, DeepSpeed's and one like srun."""
    python = sys.executable
    rank = ["tests.faults.rank"]
    starts = {
        "torchrun": [python, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={RANKS}", "-m", *rank],
        "deepspeed": [
            python, str(Path(python).with_name("deepspeed")), "--no_local_rank", "--num_gpus", str(RANKS),
            "--master_port", "{port}", "--module", *rank,
        ],
        "one like srun": [python, "-m", "tests.faults.srun", str(RANKS)],
    }  # fmt: skip
    slowest = 0.0
    for trial in range(trials):
        name = list(starts)[trial % len(starts)]
        folder = tally.folder / f"launch-{trial}"
        folder.mkdir()
        command = [part.format(port=29600 + trial) for part in starts[name]] + [str(folder)]
        launcher = subprocess.Popen(
            command, cwd=REPO, env=clean_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 120
        while len(list(folder.glob("*.pid"))) < RANKS and time.monotonic() < deadline:
            time.sleep(0.05)
        pids = [int(file.stem) for file in folder.glob("*.pid")]
        launcher.kill()
        launcher.wait()
        killed = time.monotonic()
        while any(map(lives, pids)) and time.monotonic() < killed + 2 * WITHIN_S:
            time.sleep(0.02)
        took = time.monotonic() - killed
        slowest = max(slowest, took)
        good = len(pids) == RANKS and took < WITHIN_S
        tally.count(good, f"{name}: {len(pids)} ranks, {took:.1f} s")
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    tally.notes["slowest, s"] = round(slowest, 2)


def flips(tally: Tally, trials: int) -> None:
    """One bit flipped, or the end cut off, in any file of the newest checkpoint: it is named, the one before is taken."""
    draw = random.Random(0)
    arms = [Arm(tally.folder / f"flip-{stage}", stage, export="every") for stage in (1, 3)][
        : max(1, trials // 10)
    ]
    for arm in arms:
        whole_run(tally, arm)
    config = replace(CONFIG, engine="torch")
    model = fresh_model(tiny_config(), 0)
    forwards = list[int]()
    model.register_forward_pre_hook(lambda *_: forwards.append(1))
    engine = make_engine(model, Trap(family()), config, batch_shape(config, LENGTH, 1), {})
    for trial in range(trials):
        root = arms[trial % len(arms)].folder / "checkpoints"
        previous, newest = checkpoints(root)
        file = draw.choice(sorted(f for f in newest.rglob("*") if f.is_file()))
        content = file.read_bytes()
        place = draw.randrange(len(content))
        cut = draw.random() < 0.3
        changed = bytearray(content[:place] if cut else content)
        if not cut:
            changed[place] ^= 1 << draw.randrange(8)
        file.write_bytes(changed)
        said = StringIO()
        with redirect_stderr(said):
            state = load_latest(engine, root, "test", "run")
        file.write_bytes(content)
        named = str(file.relative_to(newest)) in said.getvalue() and newest.name in said.getvalue()
        good = named and state is not None and state["step"] == step_of(previous) and not forwards
        tally.count(good, f"{'cut' if cut else 'flip'} at {place} of {file}: {said.getvalue()}")


def ranks(tally: Tally, trials: int) -> None:
    """2 ranks, then 1, then 2 again: the same windows in every step, and the losses of 2 ranks throughout."""
    bounds = {"fp32": 1e-6, "bf16": 1e-3}
    for stage, precision in [*KINDS, (0, "fp32")][: 7 if trials > 1 else 1]:
        whole = Arm(tally.folder / f"two-{stage}-{precision}", stage, precision, steps=9)
        whole_run(tally, whole)
        arm = Arm(tally.folder / f"resized-{stage}-{precision}", stage, precision, steps=9)
        seen, codes, log = [], [], arm.folder.with_suffix(".log")
        for number, stop_at in ((2, 3), (1, 6), (2, None)):
            codes.append(run_ranks(replace(arm, stop_at=stop_at), number, log))
            seen += windows_seen(arm.folder, number)
        found, expected = (
            {s: float.fromhex(v[0]) for s, v in losses(a.folder).items() if s} for a in (arm, whole)
        )
        worst = (
            max(abs(found[s] - expected[s]) / expected[s] for s in expected)
            if found.keys() == expected.keys()
            else math.inf
        )
        same_windows = seen == windows_seen(whole.folder, 2)
        good = codes == [[75, 75], [75], [0, 0]] and same_windows and worst <= bounds[precision]
        tally.count(
            good,
            f"ZeRO-{stage} {precision}: {codes}, windows {same_windows}, {worst:.1e}\n{tail(log)}",
        )
        key = f"largest relative difference, {precision}"
        tally.notes[key] = max(tally.notes.get(key, 0.0), worst)
    parted = Arm(tally.folder / "parted", parted=True)
    codes = run_ranks(parted, RANKS, parted.folder.with_suffix(".log"))
    tally.count(codes == [2, 2], f"ranks with different options: {codes}")


def bad(tally: Tally, trials: int) -> None:
    """A batch with a loss or gradient that is not finite on one rank: nothing changes; three in a row end the run with 6."""
    kinds = list(product((0, 1, 2, 3), ("fp32", "bf16"), ("loss", "gradient")))
    for stage, precision, what in kinds if trials > 1 else [(s, "fp32", "loss") for s in range(4)]:
        arm = Arm(
            tally.folder / f"bad-{stage}-{precision}-{what}", stage, precision, bad_steps=(3, 5), bad=what
        )
        log = arm.folder.with_suffix(".log")
        codes = run_ranks(arm, RANKS, log)
        unchanged = codes == [0, 0] and all(
            read_json(arm.folder / f"seen-{rank}.json")["unchanged"] == [True, True] for rank in range(RANKS)
        )
        records = {r["step"]: r for r in read_records(arm.folder / "metrics.jsonl")}
        skipped = [records[step]["skipped_steps"] for step in records if step > 0]
        counted = skipped == [0, 0, 0, 1, 1, 2, 2, 2]
        tally.count(
            unchanged and counted,
            f"ZeRO-{stage} {precision} {what}: {codes}, {unchanged}, {counted}\n{tail(log)}",
        )
    arm = Arm(tally.folder / "three", 1, bad_steps=(3, 4, 5))
    codes = run_ranks(arm, RANKS, arm.folder.with_suffix(".log"))
    tally.count(codes == [6, 6], f"three in a row: {codes}")


def parity(tally: Tally, trials: int) -> None:
    """ZeRO-0 to 3 on two ranks against plain torch on one, float32."""
    steps = 50 if trials > 1 else 10
    plain = Arm(tally.folder / "torch", engine="torch", steps=steps)
    whole_run(tally, plain, ranks=1)
    expected = [float.fromhex(v[0]) for s, v in sorted(losses(plain.folder).items()) if s]
    for stage in range(4):
        arm = Arm(tally.folder / f"zero{stage}", stage, steps=steps)
        whole_run(tally, arm)
        found = [float.fromhex(v[0]) for s, v in sorted(losses(arm.folder).items()) if s]
        worst = max(abs(a - b) for a, b in zip(found, expected, strict=True))
        tally.count(len(found) == steps and worst <= 1e-5, f"ZeRO-{stage}: {worst:.1e}")
        tally.notes[f"largest difference, ZeRO-{stage}"] = worst


# --- what they share ----------------------------------------------------------------------------------------


def tail(log: Path) -> str:
    return log.read_text()[-800:]


def windows_seen(folder: Path, num_ranks: int) -> list[Any]:
    """The windows of every step that the last start took, those of rank 0 first."""
    per_rank = [read_json(folder / f"seen-{rank}.json")["windows"] for rank in range(num_ranks)]
    return [[row for rows in step for row in rows] for step in zip(*per_rank, strict=True)]


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def clean_environment() -> dict[str, str]:
    """Without what another launcher has set."""
    mine = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    return {k: v for k, v in os.environ.items() if k not in mine} | {
        "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"
    }  # fmt: skip


CAMPAIGNS: dict[str, Callable[[Tally, int], None]] = {
    c.__name__: c for c in (kills, saves, disks, launchers, flips, ranks, bad, parity)
}


def run(counts: dict[str, int]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The campaigns asked for, one after another."""
    for name, trials in counts.items():
        with tempfile.TemporaryDirectory() as folder:
            tally = Tally(Path(folder))
            CAMPAIGNS[name](tally, trials)
            yield name, tally.result()


if __name__ == "__main__":
    asked = dict(argument.split("=") for argument in sys.argv[1:])
    results = {}
    for campaign, result in run({name: int(trials) for name, trials in asked.items()}):
        print(campaign, json.dumps(result), file=sys.stderr, flush=True)
        results[campaign] = result
    print(json.dumps(results))
