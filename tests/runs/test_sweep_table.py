"""The table of a sweep: ranked by the validation split, and spread over seeds that are really several."""

import csv
import json
from pathlib import Path

import pytest

from distillctl.runs.sweep_folder import read_job
from distillctl.runs.sweep_table import group, print_table, ranked_by, write


def job(number, *words, val=0.5, test=0.5, seed=0, final="distilled", **more):
    rows = [
        {"model": "teacher", "top1": 0.9, "val_top1": 0.8, "val_nll": 0.2},
        {"model": "distilled", "top1": test, "val_top1": val, "val_nll": val},
        {"model": "fine-tuned", "top1": 0.1, "val_top1": 0.1, "val_nll": 0.1},
    ]
    known = {"seed": seed, "rows": rows, "final": final, "own": ["distilled", "fine-tuned"], "gain_over_alone": 0.01}
    return {"job": number, "overrides": list(words), "error": None, "objective": {"val_top1": val}, **known, **more}


def failed(number, *words):
    return {"job": number, "overrides": list(words), "error": "it broke", "exit_code": 3}


def test_the_best_by_validation_is_first_and_marked_whatever_the_test_split_says(tmp_path, capsys):
    jobs = [job(0, "lr=1", val=0.4, test=0.9), job(1, "lr=2", val=0.6, test=0.3), failed(2, "lr=3")]
    rows = group(jobs)
    assert [(item["setting"], item["best"]) for item in rows] == [("lr=2", True), ("lr=1", False), ("lr=3", False)]
    assert rows[0]["validation"] == {"mean": 0.6, "std": None}
    write(tmp_path, jobs, rows)
    print_table(tmp_path, jobs, rows)
    printed = " ".join(capsys.readouterr().out.split())
    assert "top-1 % on the test split, one seed each; ranked by the validation split (val), the best marked *" in printed
    assert "lr=2 * 60.00 90.00 30.00" in printed
    assert "±" not in printed
    with open(tmp_path / "sweep.csv") as file:
        lines = list(csv.DictReader(file))
    assert [line["best"] for line in lines if line["model"] == "distilled"] == ["True", "False"]
    assert [float(line["val_top1_mean"]) for line in lines if line["model"] == "distilled"] == [0.6, 0.4]
    assert json.loads((tmp_path / "sweep.json").read_text())["rows"][0]["ranked_by"] == "val_top1"


def test_of_equals_none_is_the_best_alone():
    equal = [job(0, "a=1", val=0.5), job(1, "a=2", val=0.5)]
    assert [item["best"] for item in group(equal)] == [False, False]
    assert [item["best"] for item in group([*equal, job(2, "a=3", val=0.4)])] == [True, True, False]


def test_what_is_final_in_each_job_is_what_is_ranked():
    rows = group([job(0, "a=1", val=0.6, final="fine-tuned"), job(1, "a=2", val=0.5)])
    assert [(item["setting"], item["validation"]["mean"]) for item in rows] == [("a=2", 0.5), ("a=1", 0.1)]


def test_the_jobs_objective_ranks_and_less_of_it_may_be_better():
    jobs = [
        job(0, "a=1", val=0.9, objective={"macs": 5.0, "val_nll": 0.9}),
        job(1, "a=2", val=0.3, objective={"macs": 9.0, "val_nll": 0.3}),
    ]
    assert ranked_by(jobs) == "val_nll"
    assert group(jobs)[0]["setting"] == "a=2"
    assert ranked_by([job(0, objective={"top1": 1.0})]) == "val_top1"  # of a record that is not ours, say


def test_several_seeds_have_a_mean_and_a_deviation(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    jobs = [job(number, "a=1", f"seed={number}", seed=number, val=0.4 + 0.1 * number) for number in range(3)]
    [item] = group(jobs)
    assert (item["n"], item["seeds"], item["best"]) == (3, [0, 1, 2], False)
    assert item["validation"] == {"mean": pytest.approx(0.5), "std": pytest.approx(0.1)}
    print_table(tmp_path, jobs, [item])
    printed = " ".join(capsys.readouterr().out.split())
    assert "mean ± std over seeds (n = 3)" in printed
    assert "50.00±10.00" in printed
    assert "ranked" not in printed


def test_the_same_setting_with_the_same_seed_is_no_other_seed(tmp_path, capsys):
    jobs = [job(0, "seed=0", seed=0), job(1, "seed=0", seed=0), job(2, "+seed=0", seed=0)]
    [item] = group(jobs)
    assert (item["n"], item["seeds"], item["repeats"]) == (1, [0], [1, 2])
    assert item["validation"]["std"] is None
    print_table(tmp_path, jobs, [item])
    printed = capsys.readouterr().out
    assert "mean ± std" not in printed
    assert "not counted: job 2, 3, the same setting and seed as a job before" in printed


def test_students_that_learnt_tasks_have_their_figures_side_by_side_whatever_they_are_called(tmp_path, capsys):
    def learnt(number, strategy, top1):
        own = {"model": strategy, "top1": top1, "val_top1": top1, "task_il": 0.9, "incremental_accuracy": 0.7, "forgetting": 0.2}
        floor = {"model": "floor", "top1": 0.2, "val_top1": 0.2, "task_il": 0.6, "incremental_accuracy": 0.4, "forgetting": 0.8}
        return job(number, f"strategy={strategy}", rows=[own, floor], own=[strategy], final=strategy, gain_over_alone=None)

    jobs = [learnt(0, "lwf", 0.4), learnt(1, "er", 0.5)]
    print_table(tmp_path, jobs, group(jobs))
    header, _, *lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()][1:5]
    assert header == ["setting", "val", "top-1", "%", "task-IL", "%", "avg", "%", "forgets", "%", "floor"]
    assert lines == [
        ["strategy=er", "*", "50.00", "50.00", "90.00", "70.00", "20.00", "20.00"],
        ["strategy=lwf", "40.00", "40.00", "90.00", "70.00", "20.00", "20.00"],
    ]


def test_jobs_that_all_failed_are_a_table_without_a_best(tmp_path, capsys):
    jobs = [failed(0, "a=1"), failed(1, "a=2")]
    rows = group(jobs)
    assert [item["best"] for item in rows] == [False, False]
    print_table(tmp_path, jobs, rows)
    assert "it broke" in capsys.readouterr().out


@pytest.mark.parametrize(
    "summary",
    [
        [],
        {},
        {"rows": "x"},
        {"rows": [1], "seed": 0, "final": "x"},
        {"rows": [{"model": "x", "val_top1": []}], "seed": 0, "final": "x"},
        {"rows": [{"model": "x", "top1": "y"}], "seed": 0, "final": "x"},
        {"rows": [{"model": "x"}], "seed": [], "final": "x"},
        {"rows": [], "seed": 0, "final": "x", "objective": 4},
    ],
)
def test_a_job_whose_table_is_none_has_failed_and_the_others_count(summary: object, tmp_path: Path):
    place = tmp_path / "0"
    place.mkdir()
    (place / "run.json").write_text(json.dumps({"command": "pretrain", "status": "done", "stages": {}}))
    (place / "summary.json").write_text(json.dumps(summary))
    job = read_job(place, 0, ["seed=0"], "pretrain")
    assert job["exit_code"] == 4
    assert "not the table of a run" in job["error"]
    assert group([job])[0]["n"] == 0


def test_a_table_says_nothing_of_whose_it_is(tmp_path: Path):
    place = tmp_path / "0"
    place.mkdir()
    (place / "run.json").write_text(json.dumps({"command": "pretrain", "status": "done", "stages": {}}))
    (place / "summary.json").write_text(
        json.dumps({"rows": [], "seed": 0, "final": "x", "job": "y", "overrides": [1], "exit_code": "z", "own": 3})
    )
    job = read_job(place, 0, ["seed=0"], "pretrain")
    assert (job["job"], job["overrides"], job["exit_code"], job["own"]) == (0, ["seed=0"], None, [])
