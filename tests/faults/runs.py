"""Many starts at once, long runs, and runs without a network."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import time
from pathlib import Path

from tests.faults.commands import (
    GROWTH,
    QUIET,
    SMALL,
    complaint,
    end_of,
    log_of,
    run,
    small_checkpoint,
    start,
    write_text_file,
)
from tests.faults.tally import Tally

AT_ONCE = 8
MOST_GROWTH = 0.02
"""Of memory from the second tenth of a long run to the last."""


def starts(tally: Tally, trials: int) -> None:
    """Eight starts of one command at once: one run folder, the work done once, the others refused with words or done."""
    small = small_checkpoint()
    for trial in range(trials):
        folder = tally.folder / f"starts-{trial}"
        folder.mkdir()
        places = [folder / str(number) for number in range(AT_ONCE)]
        for place in places:
            place.mkdir()
        arguments = (
            *small,
            *QUIET,
            "stages=[write]",
            f"run.dir={folder / 'runs' / 'run'}",
            f"data.cache_dir={folder / 'cache'}",
        )
        pids = [start("grow", arguments, place) for place in places]
        codes = [end_of(pid) for pid in pids]
        refused = [place for place, code in zip(places, codes, strict=True) if code]
        words = [complaint(place, "grow") for place in refused]
        made = [path.name for path in (folder / "runs").iterdir()]
        done = (folder / "runs" / "run" / "STATUS").read_text() == "done\n"
        inside = sorted(path.name for path in (folder / "runs" / "run").iterdir())
        leftovers = [name for name in inside if ".tmp" in name or "unfinished" in name]
        good = (
            0 in codes
            and set(codes) <= {0, 4}
            and not any(words)
            and made == ["run"]
            and done
            and not leftovers
        )
        tally.count(good, f"trial {trial}: {codes}, {made}, {leftovers}, {[word for word in words if word]}")
        shutil.rmtree(folder)


def soak(tally: Tally, trials: int) -> None:
    """So many steps with a save every twenty: memory grows by less than 2 %, and no file stays open."""
    small = (*small_checkpoint(), *QUIET)
    folder = tally.folder / "soak"
    budget = (f"train.max_tokens={trials * 256}", "train.save_every=20", "train.evaluate_every=100")
    pid = start("grow", (*small, *budget, "stages=[write,train]", f"run.dir={folder}"), tally.folder)
    samples: list[tuple[int, int, int]] = []  # step, resident bytes, open files
    code = None
    while code is None:
        time.sleep(0.05)
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
        elif (step := last_step(folder)) is not None and resident(pid):  # else it is ending just now
            samples.append((step, resident(pid), len(list(Path(f"/proc/{pid}/fd").iterdir()))))
    tenth = trials / 10
    early = [sample for sample in samples if tenth <= sample[0] < 2 * tenth]
    late = [sample for sample in samples if sample[0] >= trials - tenth]
    growth = statistics.median(s[1] for s in late) / statistics.median(s[1] for s in early) - 1
    files = [min(s[2] for s in part) for part in (early, late)]
    tally.notes |= {
        "steps": trials,
        "memory growth": round(growth, 5),
        "open files": files,
        "resident bytes": late[-1][1],
    }
    tally.count(code == 0 and growth < MOST_GROWTH and files[0] == files[1], f"{code}, {growth:.2%}, {files}")


def last_step(folder: Path) -> int | None:
    """Of the end of metrics.jsonl."""
    try:
        with open(folder / "metrics.jsonl", "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 2000))
            return int(json.loads(file.read().splitlines()[-1])["step"])
    except (OSError, ValueError, IndexError, KeyError):
        return None


def resident(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS")), 0)


def offline(tally: Tally, trials: int) -> None:
    """Without a network: grow, train, tune, report; and what only the network has is refused with words."""
    text = write_text_file(tally.folder / "fables.txt")
    records = [{"instruction": f"Say {i}.", "input": "", "output": f"{i} {i}"} for i in range(64)]
    (tally.folder / "say.json").write_text(json.dumps(records))
    folder, tuned = tally.folder / "run", tally.folder / "tuned"
    grow = (*SMALL, *GROWTH, "tracking=wandb", f"data.path={text}", f"run.dir={folder}")
    tune = (
        f"small.path={folder / 'trained'}", f"data.path={tally.folder / 'say.json'}", f"run.dir={tuned}", "merge=true",
        "train.engine=torch", "train.batch_size=8", "train.steps=4", "data.max_length=400", "tracking=wandb",
    )  # fmt: skip
    nowhere = {"HF_HUB_OFFLINE": "0"}
    codes = {
        "grow": run("grow", (*grow, "stages=[learn,write,verify,train,scratch,report]"), tally.folder),
        "tune": run("tune", tune, tally.folder),
        "report": run("report", (str(folder),), tally.folder),
        "hub checkpoint": run(
            "grow", ("small=llama-7b", "target=13b", "hardware=none"), tally.folder, variables=nowhere
        ),
        "hub data": run(
            "grow", (*grow[:-2], "data.path=owner/texts", f"run.dir={tally.folder / 'hub'}"), tally.folder, variables=nowhere
        ),
    }  # fmt: skip
    for name, code in zip(codes, (0, 0, 0, 4, 3), strict=True):
        log = log_of(tally.folder, name.split()[0] if code == 0 else "grow")
        crashed = "Traceback" in log.read_text()
        tally.count(codes[name] == code and not crashed, f"{name}: {codes[name]}\n{log.read_text()[-1500:]}")
