"""Arms over seeds: savings by hand, what is missing said, what cannot be compared refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from ligo.core.errors import DataError
from ligo.report import main
from ligo.reports.collect import check_different_names, load_run
from ligo.reports.html import write_report, write_study_report
from ligo.reports.results import study_results
from ligo.reports.study import load_study
from ligo.reports.study_table import markdown, study_answer, study_not_measured, study_rows

from .conftest import RunMaker
from .study_folder import SCRATCH, add_run, enter
from .test_html import visible_text

GROWN = {0: (4.0, 3.2, 3.0), 1: (4.0, 3.0, 2.9), 2: (4.0, 3.1, 3.05, 3.0)}
"""Reach V* = 3 after 2, 1 and 3 units of 4; growing took half a unit and the small model one."""
SUNK = [1 - 2.5 / 4, 1 - 1.5 / 4, 1 - 3.5 / 4]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "sizes"
    for seed, losses in GROWN.items():
        add_run(folder, "scratch", seed, SCRATCH, trains="scratch")
        add_run(folder, "ligo", seed, losses)
    return folder


def test_savings_over_seeds_by_hand(study: Path) -> None:
    arms = {arm.name: arm for arm in load_study(study).arms}
    sunk = arms["ligo"].savings[1.0, "small model sunk", "flops"]
    charged = arms["ligo"].savings[1.0, "small model charged", "flops"]
    assert sunk is not None and charged is not None
    mean = sum(SUNK) / 3
    assert sunk.mean == pytest.approx(mean)
    assert sunk.deviation == pytest.approx((sum((s - mean) ** 2 for s in SUNK) / 2) ** 0.5)
    assert sunk.interval == pytest.approx((min(SUNK), max(SUNK)))  # the ends of all 27 resamples of three
    assert charged.mean == pytest.approx(mean - 1 / 4)
    tokens = arms["ligo"].savings[1.0, "small model sunk", "tokens"]
    assert tokens is not None and tokens.mean == pytest.approx(1 - (10 + 200) / 400)
    assert arms["ligo"].final_loss.mean == pytest.approx((3.0 + 2.9 + 3.0) / 3)
    assert (arms["ligo"].reached, arms["scratch"].reached) == (3, None)


def test_one_seed_that_does_not_reach_leaves_no_mean(study: Path) -> None:
    add_run(study, "late", 0, (4.0, 3.0))
    add_run(study, "late", 1, (4.0, 3.4))
    late = next(arm for arm in load_study(study).arms if arm.name == "late")
    assert late.savings[1.0, "small model sunk", "flops"] is None
    assert late.savings[0.5, "small model charged", "flops"] is not None  # 4.0, at half of the way
    row = next(row for row in study_rows(load_study(study)) if row[0] == "late")
    assert row[1:4] == ["not reached", "not reached", "1 of 2"]
    assert row[4] == "3.2000 ± 0.2828"  # two seeds: no interval


def test_a_seed_without_its_scratch_run_is_said_and_not_averaged_over(study: Path) -> None:
    add_run(study, "ligo", 3, (4.0, 2.0))
    found = load_study(study)
    assert (
        "ligo: 1 of 4 seeds have no scratch run of their seed to be compared with, or several." in found.notes
    )
    arm = next(arm for arm in found.arms if arm.name == "ligo")
    assert arm.savings == {} and arm.reached is None and arm.final_loss.num_values == 4


def test_missing_unfinished_and_cut_runs_are_said(study: Path) -> None:
    enter(study, "gone-7", "ligo", 7, None, ["train"])
    half = add_run(study, "ligo", 8, (4.0, 3.0))
    (half / "stages.json").write_text(json.dumps({"learn": {}}))
    with open(study / "ligo-0" / "metrics.jsonl", "a") as file:
        file.write('{"arm": "grown", "st')
    notes = load_study(study).notes
    assert "gone-7 (arm ligo, seed 7) is missing." in notes
    assert "ligo-8 (arm ligo, seed 8) is not finished: train, write left to do." in notes
    assert any(
        note.startswith("ligo-0 (arm ligo, seed 0): metrics.jsonl: line 4, the last") for note in notes
    )


def test_other_evaluation_data_are_refused_by_name(study: Path) -> None:
    add_run(study, "other", 0, (4.0, 3.0), text="xyz")
    with pytest.raises(DataError, match=r"scratch-0 and other-0 were evaluated on different data .*abc.*xyz"):
        load_study(study)


def test_each_size_may_have_evaluation_data_of_its_own(study: Path) -> None:
    add_run(study, "scratch", 0, SCRATCH, trains="scratch", text="xyz", name="scratch-other")
    add_run(study, "ligo", 0, GROWN[1], text="xyz", name="ligo-other")
    add_run(study, "small", 0, (9.0, 2.5), trains="continue", text="xyz", name="small-other")
    path = study / "study.json"
    runs = json.loads(path.read_text())
    for name in ("scratch-other", "ligo-other", "small-other"):
        runs["runs"][name]["size"] = "other"
    path.write_text(json.dumps(runs))
    arm = next(arm for arm in load_study(study).arms if arm.name == "ligo (other)")
    saved = arm.savings[1.0, "small model sunk", "flops"]
    assert saved is not None and saved.mean == pytest.approx(SUNK[1])  # against the scratch run of its size
    claim, basis = study_answer(load_study(study))
    assert "“ligo (other)”" in claim and "small model trained on ended at 2.5000" in basis
    runs["runs"]["small-other"]["size"] = "third"
    path.write_text(json.dumps(runs))
    assert "Control" not in study_answer(load_study(study))[1]  # a control of another size says nothing of it


def test_another_evaluation_length_is_refused_too(study: Path) -> None:
    folder = add_run(study, "other", 0, (4.0, 3.0))
    (folder / "config.yaml").write_text("data: {sequence_length: 64, validation_tokens: 1024}\n")
    with pytest.raises(DataError, match=r"scratch-0 and other-0 were evaluated on different data"):
        load_study(study)


def test_unknown_evaluation_data_are_said(study: Path) -> None:
    add_run(study, "old", 0, (4.0, 3.0), text=None)
    assert (
        "Which data these runs were evaluated on is not known, and not compared: old-0."
        in load_study(study).notes
    )


def test_two_runs_of_one_arm_and_seed_are_refused(study: Path) -> None:
    add_run(study, "ligo", 0, (4.0, 3.0), rate=1e-3, name="ligo-again")
    with pytest.raises(DataError, match=r"ligo-0 and ligo-again are both arm ligo at seed 0"):
        load_study(study)


def test_the_rate_that_the_sweep_found_best_counts(study: Path) -> None:
    add_run(study, "tuned", 0, (4.0, 3.0), rate=1e-3, name="tuned-a")
    add_run(study, "tuned", 0, (4.0, 2.5), rate=2e-3, name="tuned-b")
    (study / "rates.json").write_text(
        json.dumps([{"arm": "tuned", "size": "", "best_rate": 2e-3, "bracketed": False}])
    )
    found = load_study(study)
    assert next(arm for arm in found.arms if arm.name == "tuned").runs == ("tuned-b",)
    assert "1 runs at rates that are not their arm's best are left out." in found.notes
    assert found.notes[0].startswith("tuned: its best rate 0.002 is at the edge of those tried")
    assert found.swept


def test_of_a_sweep_that_was_stopped_the_best_rate_so_far_counts(study: Path) -> None:
    for rate, loss in ((1e-3, 3.0), (2e-3, 2.5), (4e-3, 2.75)):
        add_run(study, "tuned", 0, (4.0, loss), rate=rate, name=f"tuned-{rate:g}")
    found = load_study(study)
    assert next(arm for arm in found.arms if arm.name == "tuned").runs == ("tuned-0.002",)
    assert "2 runs at rates that are not their arm's best are left out." in found.notes
    assert sum(note.startswith("tuned: the sweep was stopped before its search") for note in found.notes) == 1
    assert found.swept


def test_of_a_stopped_sweep_all_seeds_of_an_arm_have_one_rate(study: Path) -> None:
    for rate, losses in ((2e-3, (3.2, 3.0, 3.1)), (4e-3, (3.0, 3.2, 3.0)), (8e-3, (2.0,))):
        for seed, loss in enumerate(losses):
            add_run(study, "tuned", seed, (4.0, loss), rate=rate, name=f"tuned-{rate:g}-{seed}")
    found = load_study(study)
    tuned = next(arm for arm in found.arms if arm.name == "tuned")
    assert tuned.runs == (
        "tuned-0.004-0",
        "tuned-0.004-1",
        "tuned-0.004-2",
    )  # the lowest mean of those with most seeds
    assert "4 runs at rates that are not their arm's best are left out." in found.notes


def test_seeds_of_an_arm_at_different_rates_are_said(study: Path) -> None:
    for seed, rate in enumerate((2e-3, 4e-3)):
        stages = add_run(study, "mixed", seed, (4.0, 3.0)) / "stages.json"
        results = json.loads(stages.read_text())
        stages.write_text(json.dumps(results | {"train": results["train"] | {"peak_lr": rate}}))
    assert "mixed: its seeds ran at different peak rates, 0.002, 0.004." in load_study(study).notes


def test_one_rate_for_all_arms_is_no_search(study: Path) -> None:
    (study / "rates.json").write_text(
        json.dumps([{"arm": "ligo", "size": "", "best_rate": None, "bracketed": None},
                    {"arm": "scratch", "size": "", "best_rate": 1e-3, "bracketed": None}])
    )  # fmt: skip
    assert "whether each arm has its best peak rate" in " ".join(study_not_measured(load_study(study)))


def test_nothing_finished_is_refused_with_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    enter(tmp_path / "empty", "a-0", "a", 0, None, ["train"])
    with pytest.raises(
        DataError, match=r"no run of .*empty is finished: a-0 .* is missing(.|\n)*ligo.sweep status empty"
    ):
        load_study(tmp_path / "empty")


def test_the_command_leaves_page_numbers_and_table(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["ligo.report", str(study)])
    main()
    said = capsys.readouterr().out.splitlines()
    assert {str(study / name) for name in ("report.html", "results.json", "table.md")} <= set(said)
    found = load_study(study)
    numbers = json.loads((study / "results.json").read_text())
    assert numbers == json.loads(json.dumps(study_results(found)))
    ligo = next(arm for arm in numbers["arms"] if arm["arm"] == "ligo")
    row = next(
        r
        for r in ligo["savings"]
        if (r["scratch_share"], r["convention"], r["measure"]) == (1.0, "small model sunk", "flops")
    )
    assert row["saving"]["mean_fraction"] == pytest.approx(sum(SUNK) / 3)
    assert (study / "table.md").read_text() == markdown(found)
    text = visible_text((study / "report.html").read_text())
    assert "Which is best?" in text
    for row in study_rows(found):
        assert " ".join(cell for cell in row if cell) in text
    assert "ligo: grown" in text and "scratch: from scratch" in text


def test_the_table_for_papers(study: Path) -> None:
    lines = markdown(load_study(study)).split("\n")
    assert lines[0] == " ".join(study_answer(load_study(study)))
    lines = lines[2:]
    assert lines[0].startswith("| arm | saved, small charged | saved, small sunk | reached V* | final loss |")
    assert lines[2].startswith(
        "| ligo | 12.5 % ± 25.0 % [-12.5 %, 37.5 %] | 37.5 % ± 25.0 % [12.5 %, 62.5 %] | 3 of 3 |"
    )
    assert lines[3] == "| scratch |  |  |  | 3.0000 ± 0.0000 [3.0000, 3.0000] | from scratch | 3 |"


def test_a_control_that_ends_lower_is_said_beside_the_finding(study: Path) -> None:
    add_run(study, "continue-small", 0, (3.5, 2.5), trains="continue")
    add_run(study, "short", 0, (9.0, 8.0), trains="short")
    own = next(arm for arm in load_study(study).arms if arm.name == "ligo").final_loss.mean
    _, basis = study_answer(load_study(study))
    assert f"Control: small model trained on ended at 2.5000, below its {own:.4f}." in basis
    assert f"Control: from scratch, short schedule ended at 8.0000, above its {own:.4f}." in basis


def test_two_runs_of_one_name_are_refused(make_run: RunMaker, tmp_path: Path) -> None:
    one, two = make_run("same"), make_run("same")
    with pytest.raises(DataError, match=f"{one} and {two} are both named 'same'"):
        write_report([one, two], tmp_path / "report.html")
    check_different_names([load_run(one), load_run(make_run("other"))])


def test_a_study_that_cannot_be_compared_ends_with_the_code_for_data(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add_run(study, "other", 0, (4.0, 3.0), text="xyz")
    monkeypatch.setattr(sys, "argv", ["ligo.report", str(study)])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 3
    assert "DataError: scratch-0 and other-0" in capsys.readouterr().err
    assert not (study / "report.html").exists()


def test_the_answer_names_the_arm_that_saved_most_and_says_of_how_many(study: Path) -> None:
    sentence, basis = study_answer(load_study(study))
    assert sentence == (
        "Growing by “ligo” saved 12.5 % of the compute of training from scratch (small model charged); "
        "37.5 % when the small model is already there."
    )
    assert basis == "Mean over 3 seeds, 95 % interval -12.5 % to 37.5 % (small model charged)."
    for seed in GROWN:
        add_run(study, "worse", seed, (4.0, 3.5, 3.2, 3.0))
    assert study_answer(load_study(study))[1].endswith(", the most that one of 2 grown arms saved.")


def test_an_answer_that_is_none_says_why(tmp_path: Path) -> None:
    folder = tmp_path / "sizes"
    add_run(folder, "ligo", 0, (4.0, 3.2))
    assert study_answer(load_study(folder))[0].startswith("Whether growing saves compute was not measured")
    add_run(folder, "scratch", 0, SCRATCH, trains="scratch")
    assert study_answer(load_study(folder))[0].startswith("No saving: no grown arm reached")


def test_what_a_study_did_not_measure(study: Path) -> None:
    enter(study, "gone-0", "gone", 0, None, ["train"])
    add_run(study, "few", 0, (4.0, 3.0))
    add_run(study, "longer", 0, (4.0, 3.0), trains="continue")
    found = load_study(study)
    missing = study_not_measured(found)
    assert "the arm gone: no run of it is finished" in missing
    assert any(item.startswith("intervals of few, longer: they take 3 seeds") for item in missing)
    assert any(item.startswith("whether each arm has its best peak rate") for item in missing)
    assert not any("trained on at equal total FLOPs" in item for item in missing)
    assert study_rows(found)[-1] == ["gone", *["not measured"] * 4, "", "0"]


def test_a_run_that_failed_says_what_it_said(study: Path) -> None:
    failed = add_run(study, "ligo", 8, (4.0, 3.0))
    (failed / "stages.json").write_text(json.dumps({"learn": {}, "write": {}}))
    (failed / "STATUS").write_text("failed: the loss is nan at step 4.\n")
    assert (
        "ligo-8 (arm ligo, seed 8) is not finished: train left to do; failed: the loss is nan at step 4."
        in load_study(study).notes
    )


@pytest.mark.parametrize("cut", ["ligo-0", "scratch-0"])
def test_a_curve_that_was_cut_saves_nothing_and_is_said(study: Path, cut: str) -> None:
    path = study / cut / "metrics.jsonl"
    path.write_text(path.read_text()[:-20])  # in the middle of the last line
    found = load_study(study)
    assert any(f"{cut} (arm" in note and "cannot be read" in note for note in found.notes)
    assert any(note.startswith(f"{cut}: metrics.jsonl does not go to the end") for note in found.notes)
    arm = next(arm for arm in found.arms if arm.name == "ligo")
    assert (arm.savings, arm.reached) == ({}, None)
    assert arm.final_loss.num_values == 3  # which the run itself wrote down


def test_the_page_of_a_study_has_every_part(study: Path, tmp_path: Path) -> None:
    page, *_ = write_study_report(study, tmp_path / "out" / "report.html")
    text = visible_text(page.read_text())
    parts = ("saved 12.5 %", "37.5 % ± 25.0 % [12.5 %, 62.5 %]", "Not measured", "Loss curves",
             "Savings at several losses", "Cost: what each arm took", "The growth of each arm", "How it was counted")  # fmt: skip
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
    assert "ligo grown 3 GFLOP" not in text and "ligo grown 2.33 GFLOP 500 MFLOP" in text  # means over seeds
