"""Checkpoints from strangers and damaged ones of our own, many of each: how often nothing bad came of it.

    python -m tests.trust.campaigns traversal=48 pickles=528 mutations=10000 hostile=110

One campaign is a function of its number of trials; the last line of JSON says how many were good, and what was not.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import torch
from safetensors import SafetensorError, safe_open

from ligo.checkpoint.hashes import SUMS_FILE
from ligo.checkpoint.headers import DamagedFile, read_header
from ligo.core.errors import CheckpointError
from ligo.core.permissions import ALLOW_PICKLE, take_permissions
from tests.faults.campaigns import Tally
from tests.trust import hostile as hostile_json
from tests.trust.mutations import mutated
from tests.trust.pickles import CONTAINERS, KINDS, PLACES, fires, read
from tests.trust.samples import OURS, open_all, published
from tests.trust.traversal import FORMS, attempt


def traversal(tally: Tally, trials: int) -> None:
    """Indices, links and keys that lead out of a folder: refused, and nothing there was opened."""
    open_all(published(tally.folder / "good"))  # what is refused is what the form adds
    forms = list(FORMS.items())[:: max(1, len(FORMS) // trials)] if trials < len(FORMS) else FORMS.items()
    for name, form in forms:
        words, opened = attempt(tally.folder / "form", form)
        tally.notes["files opened elsewhere"] = tally.notes.get("files opened elsewhere", 0) + len(opened)
        tally.count(words is not None and not opened, f"{name}: {words}, opened {opened}")


def pickles(tally: Tally, trials: int) -> None:
    """Every kind of pickle under every name: none runs, with and without the permission to read pickles."""
    canary = tally.folder / "canary"
    dead = [kind for kind in KINDS if not fires(kind, canary)]
    if dead:
        raise RuntimeError(f"these pickles do nothing even when they are read: {dead}")
    tally.notes |= {"kinds": len(KINDS), "places": len(PLACES), "run": 0}
    kinds, places, containers = list(KINDS), list(PLACES), list(CONTAINERS)
    for trial in range(trials):
        shift, place = divmod(trial, len(places))
        kind = kinds[(shift + place) % len(kinds)]
        where = (kind, containers[(shift + place) % len(containers)], places[place])
        with _allowed((shift + place) // len(containers) % 2 == 1):
            ran, said = read(tally.folder / "trial", *where, canary)
        tally.notes["run"] += ran
        tally.count(not ran, f"{where}: {said}")


def mutations(tally: Tally, trials: int) -> None:
    """Changed files: of our own checkpoints, refused with the file's name, or every number is what it was; of others, never a
    crash, and no header is taken that the library refuses or reads in another way."""
    draw = random.Random(0)
    samples = {}
    for kind, (write, load) in OURS.items():
        folder = tally.folder / kind
        folder.mkdir()
        write(folder)
        samples[kind] = (folder, sorted(f for f in folder.rglob("*") if f.is_file()), load(folder), load)
    foreign = published(tally.folder / "foreign")
    tally.notes |= {"refused": 0, "read unchanged": 0, "of others": 0}
    for trial in range(trials):
        kind = [*samples, "foreign"][trial % (len(samples) + 1)]
        if kind == "foreign":
            _mutate_foreign(tally, foreign / "x.safetensors", draw, trial)
            continue
        folder, files, expected, load = samples[kind]
        file = draw.choice([f for f in files if f.suffix == ".safetensors"] if draw.random() < 0.8 else files)
        content = file.read_bytes()
        what, changed = mutated(content, draw, trial // (len(samples) + 1))
        file.write_bytes(changed)
        try:
            found = load(folder)
        except CheckpointError as error:
            named = file.name in str(error) or file.name == SUMS_FILE  # whose hash is wrong cannot be known
            tally.count(changed != content and named, f"{what} in {kind}/{file.name}: {error}")
            tally.notes["refused"] += 1
        except Exception as error:
            tally.count(False, f"{what} in {kind}/{file.name}: {error!r}")
        else:
            same = found.keys() == expected.keys() and all(torch.equal(found[n], expected[n]) for n in found)
            tally.count(same, f"{what} in {kind}/{file.name}: read, and {'un' * same}changed")
            tally.notes["read unchanged"] += 1
        file.write_bytes(content)


def _mutate_foreign(tally: Tally, file: Path, draw: random.Random, trial: int) -> None:
    content = file.read_bytes()
    what, changed = mutated(content, draw, trial // (len(OURS) + 1))
    file.write_bytes(changed)
    tally.notes["of others"] += 1
    try:
        ours = {name: (e.shape, e.dtype) for name, e in read_header(file).tensors.items()}
    except DamagedFile:
        tally.count(True, "")
    except Exception as error:
        tally.count(False, f"{what}: {error!r}")
    else:
        try:
            with safe_open(file, "pt") as handle:
                names = handle.keys()
                theirs = {
                    n: (tuple(handle.get_slice(n).get_shape()), handle.get_slice(n).get_dtype())
                    for n in names
                }
        except (SafetensorError, OSError) as error:
            theirs = {"refused": ((), str(error))}
        tally.count(ours == theirs, f"{what}: ours {ours}, the library's {theirs}"[:500])
    file.write_bytes(content)


def hostile(tally: Tally, trials: int) -> None:
    """JSON that is meant to hurt: refused in less than a second, and without a large allocation."""
    cases = hostile_json.cases()
    folder = published(tally.folder / "hostile")
    worst = {"slowest, s": 0.0, "largest allocation, MB": 0.0}
    for file, what in cases[:: max(1, len(cases) // trials)] if trials < len(cases) else cases:
        kept = (folder / file).read_bytes() if (folder / file).exists() else None
        hostile_json.put(folder, file, what)
        outcome = hostile_json.measured(folder, file)
        tally.count(outcome.good and file in str(outcome.said), f"{what} in {file}: {outcome}"[:500])
        worst["slowest, s"] = round(max(worst["slowest, s"], outcome.seconds), 3)
        more = outcome.more_bytes / 2**20
        worst["largest allocation, MB"] = round(max(worst["largest allocation, MB"], more), 1)
        if kept is None:
            (folder / file).unlink()
        else:
            (folder / file).write_bytes(kept)
    tally.notes |= worst


@contextmanager
def _allowed(allowed: bool) -> Iterator[None]:
    """The permission to read pickles, as the command line gives it, for the length of a block."""
    with patch.dict(os.environ):
        take_permissions([ALLOW_PICKLE] if allowed else [])
        yield


CAMPAIGNS: dict[str, Callable[[Tally, int], None]] = {
    campaign.__name__: campaign for campaign in (traversal, pickles, mutations, hostile)
}


if __name__ == "__main__":
    results = {}
    for name, count in (argument.split("=") for argument in sys.argv[1:]):
        with tempfile.TemporaryDirectory() as made:
            tally = Tally(Path(made))
            CAMPAIGNS[name](tally, int(count))
            results[name] = tally.result()
            print(name, json.dumps(results[name]), file=sys.stderr, flush=True)
    print(json.dumps(results))
