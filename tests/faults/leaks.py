"""Secrets planted everywhere that a person could put them: no file, no line printed and no page may hold one."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests.faults.commands import GROWTH, SMALL, log_of, newest, run, write_text_file
from tests.faults.planted import FORMS, address_part, found_in, named, planted
from tests.faults.tally import Tally


def secrets(tally: Tally, trials: int) -> None:
    """Each form planted in the environment, typed, in a config file, in an address: no file and no line printed holds it."""
    text = write_text_file(tally.folder / "fables.txt")
    out = tally.folder / "out"
    out.mkdir()
    forms = list(FORMS)[:trials]
    variables = {f"PLANTED_{number}_TOKEN": planted(form, "environment") for number, form in enumerate(forms)}

    typed = [f"deepspeed.typed_{number}='{named(form, 'typed')}'" for number, form in enumerate(forms)]
    typed += [
        f"deepspeed.of_environment_{number}=${{oc.env:{name}}}" for number, name in enumerate(variables)
    ]
    typed += [
        f"deepspeed.address_{number}='https://user:{address_part(planted(form, 'address'))}@host.example/v1'"
        for number, form in enumerate(forms)
    ]
    typed += ["target.name=${oc.env:PLANTED_0_TOKEN}", f"small.name='{named(forms[0], 'name')}'"]
    common = (
        *SMALL,
        *GROWTH,
        "operator=exact",
        "tracking=wandb",
        f"data.path={text}",
        f"data.cache_dir={out / 'cache'}",
    )
    folder = out / "run"
    codes = {
        "grow": run(
            "grow",
            (*common, *typed, f"run.dir={folder}", "stages=[write,train,scratch,report]"),
            out,
            variables=variables,
        )
    }
    if codes["grow"]:
        raise RuntimeError(log_of(out, "grow").read_text()[-3000:])
    codes |= {
        "report": run("report", (str(folder),), out, variables=variables),
        "sync": run("sync", (str(folder),), out, variables=variables),
        "export": run("export", (str(newest(folder)), str(out / "exported")), out, variables=variables),
        "doctor": run("doctor", (str(out / "doctor"),), out, variables=variables),
    }  # fmt: skip
    wanted = dict.fromkeys(codes, 0)
    lines = "\n".join(f"  in_file_{n}: {json.dumps(named(form, 'file'))}" for n, form in enumerate(forms))
    config = (folder / "config.yaml").read_text().replace("deepspeed:\n", f"deepspeed:\n{lines}\n", 1)
    (tally.folder / "planted.yaml").write_text(config.replace(str(folder), str(out / "from-file")))
    codes["grow --config"] = run(
        "grow", ("--config", str(tally.folder / "planted.yaml")), out, variables=variables
    )
    wanted["grow --config"] = 0
    refused = {
        "grow -m": ("grow", ("-m", *common, *typed, "seed=0,1")),
        "sweep": ("sweep", (*common, *typed, "seed=0,1")),
        "launch": ("launch", ("torchrun", "--nproc_per_node=2", "--", *common, *typed)),
        "grow run.dir": ("grow", (*common, f"run.dir={out / planted(forms[0], 'typed')}")),
        "grow unknown": ("grow", (f"small.nmae={named(forms[0], 'typed')}",)),
    }
    for name, (command, arguments) in refused.items():
        codes[name], wanted[name] = run(command, arguments, out, variables=variables), 2
    hits = [
        f"{form} ({place}) in {where}"
        for form in forms
        for place in ("environment", "typed", "address", "name", "file")
        for where in found_in(out, planted(form, place))
    ]
    for form in forms:
        mine = [hit for hit in hits if hit.startswith(f"{form} (")]
        tally.count(codes == wanted and not mine, f"{form}: {mine[:5]} {codes if codes != wanted else ''}")
    published = [
        folder / "report.html",
        *folder.rglob("README.md"),
        *folder.rglob("*.wandb"),
        *(out / "exported").rglob("*.json"),
    ]
    places = [
        f"{word} in {file.relative_to(out)}"
        for file in published
        for word in (f"{Path.home()}/", str(tally.folder), os.uname().nodename)
        if len(word) > 3 and word.encode() in file.read_bytes()
    ]
    tally.notes["files looked at"] = sum(1 for file in out.rglob("*") if file.is_file())
    tally.count(not places, f"places in what is published: {places[:5]}")
