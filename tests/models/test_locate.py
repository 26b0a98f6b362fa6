"""A run's folder, a stage's folder or a file: which weights are meant."""

import json
from pathlib import Path

import pytest

from distillctl.errors import CheckpointError
from distillctl.models.locate import locate


def run(folder: Path, *stages: str, rows: list[dict] | None = None, final: str = "fine-tuned") -> Path:
    for stage in stages:
        place = folder / stage
        place.mkdir(parents=True)
        role = "teacher" if stage.startswith("pretrain") else "student"
        (place / f"{role}.safetensors").write_bytes(b"")
    if rows is not None:
        (folder / "run.json").write_text(json.dumps({"stages": {}, "plan": {"rows": rows, "final": final}}))
    return folder


def row(name: str, stage: str, own: bool = False) -> dict:
    return {"name": name, "role": "student", "own": own, "file": f"{stage}/{'teacher' if stage == 'pretrain' else 'student'}.safetensors"}


ALL = [row("teacher", "pretrain"), row("distilled", "distill", own=True), row("fine-tuned", "finetune", own=True), row("alone", "alone")]
STAGES = ("pretrain", "distill", "finetune", "alone")


def found(folder: Path, role: str) -> str:
    return locate(str(folder), role, f"{role}.checkpoint").parent.name


@pytest.mark.parametrize("rows", [None, ALL], ids=["before plans", "planned"])
def test_a_run_s_folder_gives_what_is_most_finished(rows, tmp_path):
    folder = run(tmp_path, *STAGES, rows=rows)
    assert [found(folder, role) for role in ("teacher", "student", "model")] == ["pretrain", "finetune", "finetune"]


@pytest.mark.parametrize(
    ("stages", "role", "expected"),
    [
        (("pretrain", "distill"), "student", "distill"),
        (("pretrain", "alone"), "student", "alone"),
        (("pretrain", "alone"), "model", "pretrain"),
        (("distill", "alone"), "teacher", "distill"),
        (("pretrain", "other"), "student", "pretrain"),
    ],
)
def test_a_run_that_is_half_done_gives_what_there_is(stages, role, expected, tmp_path):
    assert found(run(tmp_path, *stages, rows=ALL), role) == expected


def test_the_final_student_goes_first_whichever_that_is(tmp_path):
    assert found(run(tmp_path, *STAGES, rows=ALL, final="distilled"), "model") == "distill"


def test_of_generations_the_last_is_meant(tmp_path):
    rows = [row("teacher", "pretrain"), row("generation 1", "distill"), row("distilled", "distill-2", own=True)]
    assert found(run(tmp_path, "pretrain", "distill", "distill-2", rows=rows, final="distilled"), "student") == "distill-2"


def test_a_run_that_was_stopped_between_generations_stands_for_the_one_it_has(tmp_path):
    rows = [
        row("teacher", "pretrain"),
        row("generation 1", "distill"),
        row("generation 2", "distill-2"),
        row("distilled", "distill-3", own=True),
    ]
    folder = run(tmp_path, "pretrain", "distill", "distill-2", rows=rows, final="distilled")
    assert [found(folder, role) for role in ("student", "model", "teacher")] == ["distill-2", "distill-2", "pretrain"]


def test_a_stage_may_lie_on_another_disk(tmp_path):
    run(tmp_path / "big", "distill")
    (tmp_path / "run").mkdir()
    folder = run(tmp_path / "run", rows=ALL)
    (folder / "distill").symlink_to(tmp_path / "big" / "distill")
    assert locate(str(folder), "student", "student.checkpoint") == folder / "distill" / "student.safetensors"


def test_a_name_that_no_disk_takes_is_passed_over(tmp_path):
    rows = [row("distilled", "x" * 5000, own=True), row("alone", "alone")]
    assert found(run(tmp_path, "alone", rows=rows, final="distilled"), "student") == "alone"


def test_a_member_is_found_by_its_name(tmp_path):
    folder = run(tmp_path, "pretrain-a", "pretrain-b", "distill", rows=[row("distilled", "distill", own=True)], final="distilled")
    assert found(folder, "teacher.members.b") == "pretrain-b"


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"plan": 3}', '{"plan": {"rows": [{"name": "x"}], "final": "x"}}', '{"plan": {"rows": 1, "final": 2}}', "[" * 100_000],
)
def test_a_record_of_nonsense_is_as_good_as_none(text, tmp_path):
    folder = run(tmp_path, *STAGES)
    (folder / "run.json").write_text(text)
    assert found(folder, "model") == "finetune"


def test_a_record_cannot_lead_out_of_its_folder(tmp_path):
    run(tmp_path / "elsewhere", "distill")
    rows = [{"name": "distilled", "role": "student", "own": True, "file": "../elsewhere/distill/student.safetensors"}]
    (tmp_path / "run").mkdir()
    folder = run(tmp_path / "run", rows=rows, final="distilled")
    with pytest.raises(CheckpointError, match="holds no trained student"):
        locate(str(folder), "student", "student.checkpoint")


EXPORTED = [
    row("teacher", "pretrain"),
    row("distilled", "distill", own=True),
    row("fine-tuned", "finetune", own=True),
    {"name": "fp32", "role": "student", "own": True, "file": "export/student.onnx"},
    {"name": "int8", "role": "student", "own": True, "file": "quantize/student.onnx"},
]


def exported(folder: Path, **plan: str) -> Path:
    """A run that ended in files: that in int8 is what it is about."""
    run(folder, "pretrain", "distill", "finetune")
    for stage in ("export", "quantize"):
        (folder / stage).mkdir()
        (folder / stage / "student.onnx").write_bytes(b"")
    (folder / "run.json").write_text(json.dumps({"plan": {"rows": EXPORTED, "final": "int8", **plan}}))
    return folder


def test_of_a_run_that_ended_in_a_file_the_file_is_measured_and_weights_learn(tmp_path):
    folder = exported(tmp_path)
    assert [found(folder, role) for role in ("model", "student", "teacher")] == ["quantize", "finetune", "pretrain"]


def test_the_student_that_a_file_was_made_from_is_the_one_that_was_chosen(tmp_path):
    assert found(exported(tmp_path, student="distilled"), "student") == "distill"


def test_where_there_are_files_alone_a_student_is_a_file(tmp_path):
    folder = exported(tmp_path)
    for stage in ("pretrain", "distill", "finetune"):
        (folder / stage / f"{'teacher' if stage == 'pretrain' else 'student'}.safetensors").unlink()
    assert found(folder, "student") == "quantize"


def test_ranges_beside_a_student_are_no_student(tmp_path):
    folder = run(tmp_path, "qat")
    (folder / "qat/quantizers.safetensors").write_bytes(b"")
    assert locate(str(folder / "qat"), "student", "checkpoint").name == "student.safetensors"
