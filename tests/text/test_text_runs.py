"""Runs on texts: trained, killed and gone on with, by two ranks, with kept answers, several teachers or students, parts of nets, few labels or none."""

import contextlib
import json
import multiprocessing
import os
import random
import re
import signal
import time
from pathlib import Path

import pytest
import torch
from commands import call
from processes import CEILING_S, StopAfter, checkpoint, configured, metrics, run_on_two_ranks, same_stage, steps
from safetensors.torch import load_file
from text_runs import RATE, SHORT, STUDENT, TEACHER, WORDS, rows, without, written
from texts import sentences

from distillctl.config import TextSetConfig
from distillctl.data.loader import Place
from distillctl.data.text import tokenizer
from distillctl.errors import CheckpointError, Interrupted
from distillctl.inputs.text import Texts
from distillctl.models.obtain import obtain
from distillctl.runs.execute import execute
from distillctl.runs.session import session

KILLS = int(os.environ.get("DISTILLCTL_SOAK", "3"))
STAGES = ("pretrain", "distill", "finetune")


def test_it_trains_and_the_table_speaks_of_texts(text_run):
    printed, found = (text_run.parent / "printed").read_text(), rows(text_run)
    assert list(found) == ["teacher", "distilled", "fine-tuned"]
    assert found["teacher"]["top1"] > 0.8
    assert found["distilled"]["top1"] > 0.6
    assert found["distilled"]["macs"] > 0
    assert "173 training, 19 validation and 48 test texts of 2 classes" in printed
    assert "texts/s" in printed
    assert "image" not in printed


def test_the_teacher_is_asked_once_as_texts_have_one_view(text_run):
    lines = (text_run.parent / "printed").read_text().splitlines()
    assert any("its answers to 1 view x 173 texts are kept" in line for line in lines)
    epochs = checkpoint(text_run / "distill")["epoch"]
    assert f"  teacher: {173 * (epochs - 1):,} answers were read, 173 asked for" in lines


# --- kills


def child(words: tuple[str, ...], cwd: str) -> None:
    os.setsid()
    os._exit(call(*words, cwd=Path(cwd)).code)


def killed_at(words: tuple[str, ...], place: Path, stage: str, step: int) -> None:
    """Begin or go on, until a stage has a checkpoint of so many steps; then kill."""
    process = multiprocessing.get_context("fork").Process(target=child, args=(words, str(place)))
    process.start()
    deadline = time.monotonic() + CEILING_S
    while steps(place / "killed" / stage) < step and process.is_alive():
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)  # it may have been faster


def test_a_run_that_is_killed_again_and_again_ends_as_if_it_never_was(text_run, tmp_path):
    seed = int(os.environ.get("DISTILLCTL_SOAK_SEED", "0"))
    moments = [(stage, step) for stage in STAGES for step in range(1, steps(text_run / stage))]
    chosen = sorted(random.Random(seed).sample(range(len(moments)), min(KILLS, len(moments))))
    written(tmp_path)
    words = ("train", *without(WORDS, "distill.epochs"), "distill.epochs=8", "trainer.save_every_s=0.001", "hydra.run.dir=killed")
    for place in chosen:
        killed_at(words, tmp_path, *moments[place])
        words = ("train", "resume=killed")
    finished = call("train", "resume=killed", cwd=tmp_path)
    assert finished.code == 0, finished.err
    for stage in STAGES:
        assert same_stage(text_run / stage, tmp_path / "killed" / stage) == [], f"DISTILLCTL_SOAK_SEED={seed}"


# --- ranks


@pytest.mark.usefixtures("logs")
def test_two_ranks_take_the_steps_of_one(tmp_path):
    """Dropout is drawn by each rank; without it what is left is the order in which numbers are added."""
    written(tmp_path)
    net = ("teacher=bilstm", "+teacher.args.width=16", "+teacher.args.states=8", "+teacher.args.hidden=8", "+teacher.args.dropout=0.0")
    shared = (
        *without(WORDS, "teacher", "student", "distill", "finetune", "baseline", "pretrain", "optimizer"),
        "pretrain.epochs=2",
        "optimizer=sgd",
    )
    words = ("pretrain", *net, *shared, f"dataset.root={tmp_path / 't.csv'}", "optimizer.lr=0.05", "trainer.log_every=1")
    words = tuple(dict.fromkeys(word for word in words if word != "dataset.root=t.csv"))
    alone = call(*words, f"hydra.run.dir={tmp_path / 'one'}", cwd=tmp_path)
    assert alone.code == 0, alone.err
    for rank in run_on_two_ranks(*words, f"hydra.run.dir={tmp_path / 'two'}"):
        assert rank.code == 0, rank.output
    one, two = (metrics(tmp_path / name / "pretrain") for name in ("one", "two"))
    assert [(line["kind"], line.get("step")) for line in one] == [(line["kind"], line.get("step")) for line in two]
    for ours, theirs in zip(one, two, strict=True):
        if ours["kind"] == "step":
            assert theirs["loss"] == pytest.approx(ours["loss"], abs=1e-4)
    weights = (checkpoint(tmp_path / name / "pretrain")["method"] for name in ("one", "two"))
    first, second = weights
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=1e-3, atol=1e-4, msg=name)


# --- kept answers


def test_a_teacher_s_answer_to_a_text_does_not_depend_on_its_batch(text_run):
    config = TextSetConfig(name="text", root=str(text_run.parent / "t.csv"), vocab_size=300, max_tokens=24)
    data, inputs = Texts.load(config, None)
    words = configured("distill", text_run.parent / "nowhere", *("dataset=text", f"teacher.checkpoint={text_run / 'pretrain'}"))
    model = obtain(words.teacher, inputs, "teacher", seed=0).classifier.eval()
    answers = []
    for size in (1, 7, 64):
        with torch.no_grad():
            batches = list(inputs.plain_loader(config, data.train, size, Place(torch.device("cpu"))))
            answers.append({int(i): row for batch in batches for i, row in zip(batch.index, model(batch.inputs).logits, strict=True)})
    for other in answers[1:]:
        assert max(float((other[index] - row).abs().max()) for index, row in answers[0].items()) < 1e-6


def test_kept_answers_give_the_weights_of_a_live_teacher(taught, tmp_path):
    kept = ("teacher.cache.dtype=fp32", f"teacher.cache.dir={tmp_path / 'cache'}")

    def distilled(name: str, *words: str) -> tuple[Path, str]:
        finished = call("distill", *taught, *words, f"hydra.run.dir={name}", cwd=tmp_path)
        assert finished.code == 0, finished.err
        return tmp_path / name / "distill", finished.out

    live, _ = distilled("live", "teacher.cache.mode=off", "distill.epochs=1")
    once, printed = distilled("once", *kept, "teacher.cache.mode=fill", "distill.epochs=1")
    assert " 173 asked for" in printed
    assert same_stage(live, once) == [], "the batches are the same, so all bits are"
    live, _ = distilled("longer", "teacher.cache.mode=off", "distill.epochs=4")
    again, printed = distilled("again", *kept, "teacher.cache.mode=require", "distill.epochs=4")
    assert "  teacher: 692 answers were read, 0 asked for" in printed
    weights, others = load_file(live / "student.safetensors"), load_file(again / "student.safetensors")
    for name, value in weights.items():
        torch.testing.assert_close(others[name], value, rtol=1e-3, atol=1e-4, msg=name)


def test_views_of_texts_with_hidden_words_are_kept_each(taught, tmp_path):
    words = ("dataset.augment.mask=0.2", "dataset.augment.drop=0.1", "dataset.views=2", "distill.epochs=4", "teacher.cache.dir=cache")
    finished = call("distill", *taught, *words, "hydra.run.dir=run", cwd=tmp_path)
    assert finished.code == 0, finished.err
    assert "its answers to 2 views x 173 texts are kept" in finished.out
    assert "  teacher: 346 answers were read, 346 asked for" in finished.out


# --- what a run may be besides


ENSEMBLE = ("teacher=ensemble", "teacher.members.a=bert_tiny", "teacher.members.b=bag")
RUNS = {
    "two teachers": ("train", (*without(WORDS, "teacher"), *ENSEMBLE), "distill"),
    "a student's own net as its teacher's size": ("train", (*without(WORDS, "student"), "student=bert_tiny", *(w.replace("teacher", "student") for w in TEACHER[1:])), "distill"),
    "students that teach each other": ("distill", ("method=mutual", "method.peers=[bilstm,bag]"), "distill"),
    "an average of the weights": ("distill", ("trainer.ema_decay=0.9",), "distill"),
    "no labels": ("distill", ("dataset.labels=false",), "distill"),
    "few labels": ("distill", ("dataset.shots=20",), "distill"),
    "a part of the texts": ("distill", ("dataset.subset=80",), "distill"),
    "as many of each class": ("distill", ("dataset.balance=oversample",), "distill"),
    "pieces of batches": ("distill", ("trainer.accumulate=2",), "distill"),
    "words hidden": ("distill", ("dataset.augment.mask=0.3",), "distill"),
    "no buckets": ("distill", ("dataset.bucket=0",), "distill"),
    "cut weights": ("train", (*WORDS, "prune=unstructured"), "distill-again"),
    "cut channels": ("train", (*WORDS, "prune=magnitude"), "distill-again"),
    "the head alone": ("finetune", ("finetune.train=head", "finetune.keep=always"), "finetune"),
    "the last part": ("finetune", ("finetune.train=last", "finetune.keep=always"), "finetune"),
    "adapters": ("finetune", ("finetune.train=lora", "finetune.keep=always"), "finetune"),
}  # fmt: skip


@pytest.mark.parametrize("what", RUNS)
def test_it_goes_on_to_the_same_bits_and_ships(what, text_run, taught, tmp_path):
    command, more, stage = RUNS[what]
    if command == "finetune":
        more = (
            *without(taught, "teacher", "student", "distill"),
            f"student.checkpoint={text_run / 'pretrain'}",
            "finetune.epochs=2",
            *more,
        )
    elif command == "distill":
        more = (*taught, "distill.epochs=2", "optimizer.lr=0.005", *more)
    else:
        more = (*without(more, "dataset.root", "pretrain.epochs", "distill.epochs"), f"dataset.root={text_run.parent / 't.csv'}")
        more = (*more, "pretrain.epochs=1", "distill.epochs=2")
    words = tuple(dict.fromkeys((*more, "optimizer=adamw_text")))
    folders = tmp_path / "whole", tmp_path / "stopped"
    for folder, moments in ((folders[0], (10**9,)), (folders[1], (5, 10**9))):
        for moment in moments:
            config = configured(command, folder, *without(words, "pretrain.reuse"))
            ends = pytest.raises(Interrupted) if moment < 10**9 else contextlib.nullcontext()
            with ends, session(config, folder, StopAfter(moment)) as running:
                execute(running)
    assert same_stage(folders[0] / stage, folders[1] / stage) == []
    summary = json.loads((folders[0] / "summary.json").read_text())
    assert rows(folders[0])[summary["final"]]["n"] == 48
    asked = call(
        "predict", f"checkpoint={folders[0]}", f"inputs=[{text_run.parent / 't.csv'}]", "format=jsonl", "trainer.device=cpu", cwd=tmp_path
    )
    assert asked.code == 0, asked.err
    assert len(asked.out.splitlines()) == 240


def test_a_reused_teacher_brings_its_tokenizer_and_another_tokenizer_is_another_teacher(text_run, tmp_path):
    written(tmp_path)
    words = (
        *TEACHER,
        *STUDENT,
        *RATE,
        *SHORT,
        *without(WORDS, "teacher", "student", "optimizer", "schedule", "pretrain", "distill", "finetune", "baseline"),
    )
    words = (*without(words, "distill.epochs", "pretrain.epochs"), "pretrain.epochs=1", "distill.epochs=1")
    cache = {"DISTILLCTL_CACHE": str(tmp_path / "cache")}
    said = []
    content = tmp_path / "own.json"
    content.write_text((text_run / "pretrain/tokenizer.json").read_text())
    for name in ("first", "second", "third"):
        if name == "third":
            content.write_text(tokenizer.train([text for text, _ in sentences(60)], 280, lowercase=False))
        finished = call("train", *words, f"teacher.tokenizer={content}", f"hydra.run.dir={name}", cwd=tmp_path, env=cache)
        assert finished.code == 0, finished.err
        said.append("the same teacher was trained before" in finished.out)
        asked = call("predict", f"checkpoint={name}/pretrain", "inputs=[t.csv]", "format=csv", "trainer.device=cpu", cwd=tmp_path)
        assert asked.code == 0, asked.err
    assert said == [False, True, False]


def test_a_run_does_not_go_on_by_another_tokenizer_in_the_same_file(text_run, taught, tmp_path):
    file = tmp_path / "own.json"
    content = (text_run / "pretrain/tokenizer.json").read_text()
    file.write_text(content)
    words = (*taught, "distill.epochs=2", f"student.tokenizer={file}")

    def go_on(moment: int) -> None:
        config = configured("distill", tmp_path / "run", *words)
        with session(config, tmp_path / "run", StopAfter(moment)) as running:
            execute(running)

    with pytest.raises(Interrupted):
        go_on(12)
    assert steps(tmp_path / "run/distill") > 0
    file.write_text(content.replace("[UNK]", "[UNC]"))
    with pytest.raises(CheckpointError, match="student was learning with another tokenizer than it has now; put that back as it was"):
        go_on(10**9)
    file.write_text(content)
    go_on(10**9)
    assert (tmp_path / "run/distill/student.safetensors").is_file()


def test_texts_that_are_cut_are_counted_once_in_a_line(tmp_path):
    written(tmp_path)
    done = call("train", *WORDS, "dataset.max_tokens=6", "trainer.max_steps=1", "hydra.run.dir=run", cwd=tmp_path)
    assert done.code == 0, done.err
    lines = [line for line in done.out.splitlines() if "were cut" in line]
    assert len(lines) == 1
    assert re.search(r"^\d+ of 240 texts \(\d+\.\d%\) have more than 6 tokens and were cut; raise dataset.max_tokens$", lines[0]), lines
