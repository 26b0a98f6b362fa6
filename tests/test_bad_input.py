"""Everything that a user can get wrong: one line that names the value, the key and the way out, and an exit code."""

import json
import os
import shlex
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mistakes import CHECKPOINT, DATA, MACHINE, USAGE, Row, check_refused, each
from PIL import Image
from safetensors.torch import load_file, save_file

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
TINY_TEACHER = (
    "hydra.run.dir=out teacher=resnet8 student=resnet8 distill.epochs=1 trainer.device=cpu trainer.precision=fp32 trainer.threads=1"
)


# ---------------------------------------------------------------------------------------------- what rows prepare
def trained(place: Path, run: Path) -> Path:
    """`run/`, a finished run."""
    return Path(shutil.copytree(run, place / "run"))


def weights_file(place: Path, run: Path) -> Path:
    """`teacher.safetensors` alone, without its record and without what rides in the file itself."""
    file = place / "teacher.safetensors"
    save_file(load_file(run / "pretrain/teacher.safetensors"), file)
    return file


def truncated(place: Path, run: Path) -> None:
    file = weights_file(place, run)
    file.write_bytes(file.read_bytes()[:2000])


def truncated_torch_file(place: Path, run: Path) -> None:
    torch.save(load_file(run / "pretrain/teacher.safetensors"), place / "teacher.pt")
    (place / "teacher.pt").write_bytes((place / "teacher.pt").read_bytes()[:9000])


def flipped(place: Path, run: Path) -> None:
    file = trained(place, run) / "pretrain/teacher.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def as_text(place: Path, run: Path) -> None:
    (place / "teacher.pt").write_text("these are not weights\n")


def as_png(place: Path, run: Path) -> None:
    Image.new("RGB", (8, 8)).save(place / "teacher.png")


def empty_file(place: Path, run: Path) -> None:
    (place / "teacher.pt").touch()


class Payload:
    def __reduce__(self) -> Any:
        return os.system, ("touch marker",)


def with_code(place: Path, run: Path) -> None:
    torch.save({"state_dict": Payload()}, place / "teacher.pt")


def other_class_count(place: Path, run: Path) -> None:
    weights = load_file(run / "pretrain/teacher.safetensors")
    last = [name for name in weights if weights[name].shape[:1] == (10,)]
    save_file({name: value[:7].clone() if name in last else value for name, value in weights.items()}, place / "teacher.safetensors")


def not_finite(place: Path, run: Path) -> None:
    weights = load_file(run / "pretrain/teacher.safetensors")
    next(value for value in weights.values() if value.is_floating_point()).flatten()[0] = float("nan")
    save_file(weights, place / "teacher.safetensors")


def change_record(place: Path, run: Path, **changed: Any) -> None:
    file = trained(place, run) / "pretrain/teacher.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))


def other_class_order(place: Path, run: Path) -> None:
    change_record(place, run, classes=["1", "0", *"23456789"])


def fewer_classes(place: Path, run: Path) -> None:
    change_record(place, run, classes=["a", "b", "c"])


def empty_record(place: Path, run: Path) -> None:
    (trained(place, run) / "pretrain/teacher.json").write_text("{}")


def images(place: Path, run: Path, classes: str = "ant bee", parts: str = "train val", count: int = 6) -> Path:
    """`images/train/ant/0.png` and so on."""
    random = np.random.default_rng(0)
    for part in parts.split():
        for name in classes.split():
            folder = place / "images" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(random.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return place / "images"


def no_images(place: Path, run: Path) -> None:
    (place / "images").mkdir()


def one_class(place: Path, run: Path) -> None:
    images(place, run, classes="ant")


def extra_class_in_val(place: Path, run: Path) -> None:
    images(place, run)
    shutil.copytree(place / "images/val/ant", place / "images/val/wasp")


def empty_class(place: Path, run: Path) -> None:
    images(place, run)
    (place / "images/train/wasp").mkdir()


def unreadable(place: Path, run: Path) -> None:
    (images(place, run) / "train/ant/0.png").write_text("<html>not found</html>")


def zero_bytes(place: Path, run: Path) -> None:
    (images(place, run) / "train/ant/0.png").write_bytes(b"")


def huge(place: Path, run: Path) -> None:
    """A header that promises 60,000 x 60,000 pixels."""
    file = images(place, run) / "train/ant/0.png"
    content = bytearray(file.read_bytes())
    content[16:24] = struct.pack(">II", 60_000, 60_000)
    import zlib

    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    file.write_bytes(content)


def a_file(place: Path, run: Path) -> None:
    (place / "file").write_text("")


def folder_without_run(place: Path, run: Path) -> None:
    (place / "run").mkdir()


def interrupted(place: Path, run: Path) -> None:
    """`run/`, as if it had been stopped before its last stage."""
    folder = trained(place, run)
    record = json.loads((folder / "run.json").read_text())
    record |= {"status": "interrupted", "exit_code": 130}
    del record["stages"]["distill"]
    (folder / "run.json").write_text(json.dumps(record))


def damaged_record(place: Path, run: Path) -> None:
    (trained(place, run) / "run.json").write_text("{")


def alias_bomb(place: Path, run: Path) -> None:
    interrupted(place, run)
    (place / "run/.hydra/config.yaml").write_text("a: &a [1, 2]\nb: [*a, *a]\n")


def meddling_overrides(place: Path, run: Path) -> None:
    interrupted(place, run)
    (place / "run/.hydra/overrides.yaml").write_text("- +hydra.callbacks.x._target_=os.system\n")


def code_in_overrides(place: Path, run: Path) -> None:
    interrupted(place, run)
    (place / "run/.hydra/overrides.yaml").write_text("- optimizer._target_=os.system\n")


def conf(place: Path, name: str, text: str) -> None:
    (place / "mine/optimizer").mkdir(parents=True)
    (place / "mine/optimizer" / f"{name}.yaml").write_text(text)


def duplicate_keys(place: Path, run: Path) -> None:
    conf(place, "mine", "_target_: torch.optim.SGD\nlr: 0.1\nlr: 0.2\n")


def broken_yaml(place: Path, run: Path) -> None:
    conf(place, "mine", "_target_: [torch.optim.SGD\nlr: 0.1\n")


def yaml_with_code(place: Path, run: Path) -> None:
    conf(place, "mine", "_target_: !!python/object/apply:os.system ['touch marker']\n")


def secret_in_yaml(place: Path, run: Path) -> None:
    conf(place, "mine", "_target_: torch.optim.SGD\nlr: ${oc.env:AWS_SECRET_ACCESS_KEY}\n")


FOLDER = "train dataset=image_folder dataset.root=images"
TEACHER = "train dataset=digits teacher=resnet8 student=resnet8 teacher.checkpoint="
STUDENT = "finetune dataset=digits student=resnet8 student.checkpoint="
OWN_CONF = "train --config-dir mine optimizer=mine"

ROWS = [
    # names
    Row("unknown command", "tran", USAGE, ("tran: no such command", "train")),
    Row("unknown option", "train optimizer=sdg", USAGE, ("optimizer=sdg: no such option", "did you mean sgd?")),
    Row("unknown option of a list", "train loss=[kd,quuux]", USAGE, ("loss=quuux: no such option", "known: ")),
    Row("number for a group", "train teacher=3", USAGE, ("teacher=3: no such option", "ensemble", "mobilenet_v2")),
    Row("unknown model", "train student=mobilnet_v2", USAGE, ("student=mobilnet_v2: no such model", "mobilenet_v2")),
    Row("unknown model by its key", "train teacher.name=resnet_20", USAGE, ("teacher=resnet_20: no such model", "resnet20")),
    Row(
        "hub as a model",
        "train 'teacher=hf-hub:someone/net'",
        USAGE,
        ("teacher=transformer teacher.model=hf-hub:someone/net", "teacher.checkpoint="),
    ),
    Row("unknown group", "train optimiser=sgd", USAGE, ("optimiser=sgd: unknown group or key", "did you mean optimizer?")),
    Row("unknown group, far off", "train quux=1", USAGE, ("quux=1: unknown group or key; known: assistants, attack, baseline, dataset",)),
    Row("unknown key", "train trainer.batchsize=8", USAGE, ("trainer.batchsize=8: unknown key", "did you mean trainer.batch_size?")),
    Row("key without its group", "train batch_size=8", USAGE, ("batch_size=8", "did you mean trainer.batch_size?")),
    Row("appended unknown key", "train +trainer.batchsize=8", USAGE, ("+trainer.batchsize=8: unknown key", "trainer.batch_size?")),
    Row(
        "two appended unknown keys", "train +sed=1 +trainer.treads=8", USAGE, ("+sed=1", "did you mean seed?", "trainer.threads?"), lines=2
    ),
    Row("group chosen twice", "train +optimizer=adamw", USAGE, ("+optimizer=adamw", "write optimizer=adamw without the +")),
    Row("model argument without a plus", "train student.args.depth=3", USAGE, ("+student.args.depth=3",)),
    Row("unknown argument of a model", "train +student.args.depth=3", USAGE, ("student.args.depth=3", "resnet8 has no such argument")),
    Row("reserved argument of a model", "train +student.args.num_classes=3", USAGE, ("student.args.num_classes=3", "data set decides")),
    Row("unknown recipe", "train recipe=imagenet", USAGE, ("recipe=imagenet: no such option",)),
    Row("unknown data set", "train dataset.name=cifar", USAGE, ("dataset.name=cifar: no such set", "cifar10")),
    Row("unknown key of Hydra", "train hydra.run.folder=x", USAGE, ("hydra.run.folder=x", "--cfg hydra")),
    Row("removed group", "train ~optimizer", USAGE, ("optimizer._target_ is not set", "group optimizer")),
    Row("removed loss", "train ~loss", USAGE, ("loss is empty", "loss=kd")),
    # words
    Row("no equals sign", "train seed", USAGE, ("seed: cannot be read as key=value",)),
    Row("no key", "train =3", USAGE, ("=3: there is no key",)),
    Row("open bracket", "train loss=[kd", USAGE, ("loss=[kd: no such option",)),
    Row("several values without -m", "train seed=0,1", USAGE, ("seed=0,1", "-m", "seed=[0,1]")),
    Row("unknown flag", "train --mutlirun seed=0,1", USAGE, ("--mutlirun: unknown flag", "--multirun?")),
    Row("flag that replaces our config", "train --config-name doctor", USAGE, ("--config-name: unknown flag",)),
    Row("flag that loads a pickle", "train --experimental-rerun x", USAGE, ("--experimental-rerun: unknown flag",)),
    Row("flag without its value", "train --cfg", USAGE, ("--cfg: a value has to follow", "--cfg job")),
    Row("flag with a wrong value", "train --cfg jobs", USAGE, ("--cfg jobs: expected job, hydra or all",)),
    Row("config dir that is not there", "train --config-dir nowhere", USAGE, ("--config-dir nowhere: no such folder",)),
    Row("trust without a name", "train --trust", USAGE, ("--trust (nothing)", "name of a Python package")),
    Row("trust in nonsense", "train --trust os/path", USAGE, ("--trust os/path", "name of a Python package")),
    Row("trust in what is not there", "train --trust nowhere", USAGE, ("--trust nowhere: no such package",)),
    # types and ranges
    Row("word for a whole number", "train trainer.batch_size=many", USAGE, ("trainer.batch_size=many: expected a whole number",)),
    Row("float for a whole number", "train distill.epochs=2.5", USAGE, ("distill.epochs=2.5: expected a whole number",)),
    Row("exponent for a whole number", "train distill.epochs=1e3", USAGE, ("distill.epochs=1e3: expected a whole number",)),
    Row("word for a flag", "train trainer.compile=maybe", USAGE, ("trainer.compile=maybe: expected true or false",)),
    Row("null for a number", "train seed=null", USAGE, ("seed=null: a value is needed",)),
    Row("word of another list of words", "train trainer.precision=fp8", USAGE, ("trainer.precision=fp8: must be one of auto, fp32",)),
    Row("negative seed", "train seed=-1", USAGE, ("seed=-1 must be >= 0",)),
    Row("seed too large", "train seed=4294967296", USAGE, ("seed=4294967296 must be <= 4294967295",)),
    Row("negative temperature", "train loss.kd.temperature=-4", USAGE, ("loss.kd.temperature=-4 must be > 0",)),
    Row("zero temperature", "train loss.kd.temperature=0", USAGE, ("loss.kd.temperature=0 must be > 0",)),
    Row("lr nan", "train optimizer.lr=nan", USAGE, ("optimizer.lr=nan must be a finite number",)),
    Row("lr inf", "train optimizer.lr=inf", USAGE, ("optimizer.lr=inf must be a finite number",)),
    Row("lr negative", "train optimizer.lr=-1", USAGE, ("optimizer.lr=-1",)),
    Row("lr a word", "train optimizer.lr=abc", USAGE, ("optimizer.lr=abc: expected a number",)),
    Row("betas a number", "train optimizer=adamw optimizer.betas=0.9", USAGE, ("optimizer.betas=0.9: expected a list",)),
    Row("betas out of range", "train optimizer=adamw optimizer.betas=[1.5,0.9]", USAGE, ("optimizer.betas=[1.5, 0.9]",)),
    Row("all weights zero", "train loss.kd.weight=0 loss.ce.weight=0", USAGE, ("loss.kd.weight", "all weights are zero", "> 0")),
    Row("negative weight", "train loss.kd.weight=-1", USAGE, ("loss.kd.weight=-1",)),
    Row("nothing to train", "train pretrain.epochs=0 distill.epochs=0 finetune.epochs=0", USAGE, ("distill.epochs=0", "nothing to train")),
    Row("milestones beyond the end", "train schedule=steps schedule.milestones=[2]", USAGE, ("schedule.milestones=[2]", "between 0 and 1")),
    Row("more pieces than samples", "train trainer.accumulate=999", USAGE, ("trainer.accumulate=999", "trainer.batch_size", "lower it")),
    Row(
        "four mistakes at once",
        "distill teacher.checkpoint=x student.checkpoint=y optimizer.lr=-1 loss.kd.temperature=0",
        USAGE,
        ("loss.kd.temperature=0", "optimizer.lr=-1", "teacher.checkpoint=x: no such file", "student.checkpoint=y: no such file"),
        lines=4,
    ),
    # values that are not there
    Row("evaluate without a checkpoint", "evaluate", USAGE, ("checkpoint is not set: pass checkpoint=<run folder or file>",)),
    Row("predict without anything", "predict", USAGE, ("checkpoint=<run folder or file>", "inputs=[image.png]"), lines=2),
    Row("distill without a teacher", "distill", USAGE, ("teacher.checkpoint is not set: pass teacher.checkpoint=",)),
    Row("finetune without a student", "finetune", USAGE, ("student.checkpoint is not set",)),
    Row(
        "forbidden variable", "train 'dataset.root=${oc.env:AWS_TOKEN}'", USAGE, ("dataset.root=${oc.env:AWS_TOKEN}", "not allowed", "HOME")
    ),
    Row("variable that is not set", "train 'dataset.root=${oc.env:SLURM_TMPDIR}'", USAGE, ("dataset.root", "SLURM_TMPDIR is not set")),
    Row("reference to nothing", "train 'dataset.root=${data.root}'", USAGE, ("dataset.root=${data.root}: there is no data.root",)),
    Row("resolver that is not there", "train 'dataset.root=${eval:1}'", USAGE, ("dataset.root=${eval:1}",)),
    # checkpoints
    Row("teacher missing", TEACHER + "nowhere.pt", CHECKPOINT, ("teacher.checkpoint=nowhere.pt: no such file",)),
    Row("teacher truncated", TEACHER + "teacher.safetensors", CHECKPOINT, ("teacher.safetensors: truncated",), truncated),
    Row("teacher truncated, torch", TEACHER + "teacher.pt", CHECKPOINT, ("teacher.pt: truncated or damaged",), truncated_torch_file),
    Row("teacher of 0 bytes", TEACHER + "teacher.pt", CHECKPOINT, ("teacher.pt: an empty file (0 bytes)",), empty_file),
    Row("teacher a PNG", TEACHER + "teacher.png", CHECKPOINT, ("teacher.png: not a checkpoint (looks like PNG)",), as_png),
    Row("teacher a text", TEACHER + "teacher.pt", CHECKPOINT, ("teacher.pt: not a checkpoint (looks like text)",), as_text),
    Row("teacher a pickle with code", TEACHER + "teacher.pt", CHECKPOINT, ("refused", "system", "only plain weights"), with_code),
    Row("teacher with a flipped bit", TEACHER + "run", CHECKPOINT, ("teacher.checkpoint", "damaged", "checksum"), flipped),
    Row("teacher with NaN", TEACHER + "teacher.safetensors", CHECKPOINT, ("NaN in ",), not_finite),
    Row(
        "teacher of another architecture",
        TEACHER.replace("teacher=resnet8", "teacher=resnet20") + "teacher.safetensors",
        CHECKPOINT,
        ("teacher.checkpoint=teacher.safetensors does not fit resnet20",),
        weights_file,
    ),
    Row(
        "teacher of another architecture, with its record",
        TEACHER.replace("teacher=resnet8", "teacher=resnet20") + "run",
        CHECKPOINT,
        ("teacher.checkpoint=run holds resnet8, but teacher=resnet20; pass teacher=resnet8",),
        trained,
    ),
    Row(
        "teacher without an architecture",
        "distill teacher.checkpoint=teacher.safetensors",
        CHECKPOINT,
        ("teacher=<model>",),
        weights_file,
    ),
    Row("teacher of fewer outputs", TEACHER + "teacher.safetensors", CHECKPOINT, ("7 classes", "10", "new_head=true"), other_class_count),
    Row("teacher of fewer classes", TEACHER + "run", CHECKPOINT, ("knows 3 classes, the data set has 10",), fewer_classes),
    Row("teacher of other order", TEACHER + "run", CHECKPOINT, ("in another order", "class 0 is '1'"), other_class_order),
    Row("teacher with a record of nothing", TEACHER + "run", CHECKPOINT, ("teacher.json is not the record of a model",), empty_record),
    Row("teacher a last.pt", TEACHER + "run/pretrain/last.pt", CHECKPOINT, ("resume=<run folder>", ".safetensors"), trained),
    Row("teacher an empty folder", TEACHER + "run", CHECKPOINT, ("teacher.checkpoint=run", "no trained teacher"), folder_without_run),
    Row("student missing", STUDENT + "nowhere.pt", CHECKPOINT, ("student.checkpoint=nowhere.pt: no such file",)),
    Row("student truncated", STUDENT + "teacher.safetensors", CHECKPOINT, ("student.checkpoint", "truncated"), truncated),
    Row("student with code", STUDENT + "teacher.pt", CHECKPOINT, ("student.checkpoint", "refused"), with_code),
    Row("student of other order", "finetune student.checkpoint=run/pretrain", CHECKPOINT, ("class 0 is '1'",), other_class_order),
    Row(
        "teacher neither trained nor pretrained",
        "train pretrain.epochs=0",
        USAGE,
        ("teacher=resnet20", "teacher.checkpoint=", "pretrain.epochs=N"),
    ),
    Row("distill from random weights", "distill teacher=resnet20", USAGE, ("neither trained nor pretrained", "distillctl pretrain")),
    Row("pretrained CIFAR net", "train teacher.pretrained=true", USAGE, ("no weights of the CIFAR net", "teacher.checkpoint=")),
    Row(
        "pretrained of other classes",
        "train teacher=resnet18 teacher.pretrained=true",
        USAGE,
        ("1000 classes", "10", "teacher.new_head=true"),
    ),
    Row("new head on nothing", "train student.new_head=true", USAGE, ("student.new_head=true", "student.checkpoint=<file>")),
    Row("evaluate what is not there", "evaluate checkpoint=nowhere", CHECKPOINT, ("error: checkpoint=nowhere: no such file",)),
    Row("evaluate without a record", "evaluate checkpoint=teacher.safetensors", CHECKPOINT, ("no record", "model=<model>"), weights_file),
    Row(
        "evaluate two checkpoints", "evaluate checkpoint=a model.checkpoint=b", USAGE, ("checkpoint=a", "model.checkpoint=b", "one of them")
    ),
    Row(
        "predict without a record",
        "predict checkpoint=teacher.safetensors inputs=[x.png]",
        CHECKPOINT,
        ("no record", ".json"),
        weights_file,
    ),
    Row("predict a missing file", "predict checkpoint=run inputs=[cat.png]", DATA, ("inputs=cat.png: no such file",), trained),
    Row("predict an empty folder", "predict checkpoint=run inputs=[run/.hydra]", DATA, ("inputs=run/.hydra: no images",), trained),
    Row("predict what is no image", "predict checkpoint=run inputs=[run/run.json]", DATA, ("run.json",), trained),
    Row("predict nothing", "predict checkpoint=run inputs=[]", USAGE, ("inputs is empty", "inputs=[image.png]"), trained),
    Row("models without a match", "models search=qqqqqq", USAGE, ("search=qqqqqq", "shorter part")),
    Row("models with a typo", "models search=mobilnet_v2", USAGE, ("search=mobilnet_v2", "mobilenet_v2")),
    # data
    Row("no root", "train dataset=image_folder", DATA, ("dataset.root is not set",)),
    Row("root missing", FOLDER, DATA, ("dataset.root=images: no such folder",)),
    Row("root a file", "train dataset=image_folder dataset.root=file", DATA, ("dataset.root=file: not a folder",), a_file),
    Row("root empty", FOLDER, DATA, ("dataset.root=images", "expected images/"), no_images),
    Row("one class", FOLDER, DATA, ("only one class, ant",), one_class),
    Row("class in val alone", FOLDER, DATA, ("val has classes", "wasp"), extra_class_in_val),
    Row("class without images", FOLDER, DATA, ("train/wasp: no images in this class folder",), empty_class),
    Row("image that is HTML", FOLDER, DATA, ("train/ant/0.png", "dataset.on_bad_image=skip"), unreadable),
    Row("image of 0 bytes", FOLDER, DATA, ("train/ant/0.png", "dataset.on_bad_image=skip"), zero_bytes),
    Row("image of 3.6 Gpx", FOLDER, DATA, ("train/ant/0.png", "max_pixels"), huge),
    Row("subset too large", "train dataset.subset=9999", DATA, ("dataset.subset=9999", "from 20", "to 1438")),
    Row("subset too small", "train dataset.subset=9", DATA, ("dataset.subset=9", "from 20")),
    Row("batch larger than the set", "train trainer.batch_size=5000", USAGE, ("trainer.batch_size=5000", "1294", "lower it")),
    Row("image too small", "train dataset.image_size=3", USAGE, ("dataset.image_size=3",)),
    Row(
        "image too small for the net",
        "train student=inception_v3 student.stem=large",
        USAGE,
        ("student=inception_v3", "image too small", "student.image_size="),
    ),
    # the machine
    Row("no GPU", "train trainer.device=cuda", MACHINE, ("trainer.device=cuda: no GPU is visible", "trainer.device=cpu"), marks=(no_gpu,)),
    Row("no eighth GPU", "train trainer.device=cuda:7", MACHINE, ("trainer.device=cuda:7", "use trainer.device=c")),
    Row("no such device", "train trainer.device=tpu", USAGE, ("trainer.device=tpu: expected auto, cpu, cuda or cuda:N",)),
    Row("fp16 on a CPU", "train trainer.precision=fp16 trainer.device=cpu", USAGE, ("trainer.precision=fp16", "fp32, bf16")),
    Row("folder that cannot be written", "train hydra.run.dir=file/out", MACHINE, ("file/out: Not a directory", "hydra.run.dir="), a_file),
    Row("no folder", "train hydra.run.dir=", USAGE, ("hydra.run.dir=", "a folder is needed")),
    Row(
        "folder of another run",
        "train hydra.run.dir=run",
        USAGE,
        ("hydra.run.dir=/", "holds a run already", "distillctl train resume=/"),
        trained,
    ),
    # resume
    Row("resume nothing", "train resume=nowhere", CHECKPOINT, ("resume=nowhere: no such folder",)),
    Row("resume a folder", "train resume=run", CHECKPOINT, ("resume=run", "no run folder"), folder_without_run),
    Row("resume a damaged record", "train resume=run", CHECKPOINT, ("resume=run/run.json: cannot be read",), damaged_record),
    Row("resume by another command", "distill resume=run", USAGE, ("resume=run", "distillctl train resume=/"), interrupted),
    Row("resume in a sweep", "train -m resume=run seed=0,1", USAGE, ("resume=run", "leave out -m"), interrupted),
    Row(
        "resume with other settings",
        "train resume=run seed=5 trainer.batch_size=32",
        USAGE,
        ("seed was 0, now 5", "trainer.batch_size was 64, now 32", "start a new run"),
        interrupted,
    ),
    Row("finished, with other settings", "train resume=run seed=5", USAGE, ("seed was 0, now 5",), trained),
    Row("resume with aliases in YAML", "train resume=run", CHECKPOINT, ("config.yaml: holds aliases",), alias_bomb),
    Row("resume with overrides of Hydra", "train resume=run", CHECKPOINT, ("touch Hydra itself",), meddling_overrides),
    Row("resume with code", "train resume=run", USAGE, ("_target_", "os.system"), code_in_overrides),
    # code
    Row(
        "function of the system", "train optimizer._target_=os.system", USAGE, ("optimizer._target_=os.system", "not in a trusted package")
    ),
    Row("function of torch", "train optimizer._target_=torch.nn.functional.relu", USAGE, ("torch.nn.functional.relu", "Optimizer")),
    Row("alias of a function", "train optimizer._target_=torch.nn.os.system", USAGE, ("torch.nn.os.system: no such class",)),
    Row("class of another kind", "train optimizer._target_=torch.nn.Linear", USAGE, ("torch.nn.Linear", "Optimizer")),
    Row("class with a typo", "train optimizer._target_=torch.optim.SDG", USAGE, ("torch.optim.SDG: no such class", "SGD")),
    Row("own student not trusted", "train student=own student._target_=mine.Net", USAGE, ("student._target_=mine.Net", "--trust mine")),
    Row("own student without a class", "train student=own", USAGE, ("student._target_=package.Class", "--trust")),
    Row("unknown argument", "train optimizer.momentm=1", USAGE, ("optimizer.momentm=1: unknown key", "optimizer.momentum?")),
    Row("unknown appended argument", "train +optimizer.momentm=1", USAGE, ("optimizer.momentm=1: unknown key", "momentum?")),
    Row("unknown argument of a loss", "train loss.kd.temprature=2", USAGE, ("loss.kd.temprature=2: unknown key", "loss.kd.temperature?")),
    # YAML of one's own
    Row("duplicate keys", OWN_CONF, USAGE, ("mine.yaml", "lr"), duplicate_keys),
    Row("broken YAML", OWN_CONF, USAGE, ("mine.yaml", "line 2"), broken_yaml),
    Row("YAML with code", OWN_CONF, USAGE, ("mine.yaml", "python/object"), yaml_with_code),
    Row("YAML that asks for a secret", OWN_CONF, USAGE, ("AWS_SECRET_ACCESS_KEY", "not allowed"), secret_in_yaml),
    # sweeps
    Row(
        "one bad job of three",
        "train -m seed=0,1 optimizer.lr=0.1,-1",
        USAGE,
        ("optimizer.lr=-1", "job 2 of 4", "none was started"),
    ),
    Row("two bad jobs of three", "train -m loss.kd.temperature=0,4,-2", USAGE, ("temperature=0 must", "temperature=-2 must"), lines=2),
    Row("unknown key in a sweep", "train -m sed=0,1", USAGE, ("sed=0: unknown", "sed=1: unknown", "seed?", "none was started"), lines=2),
    Row(
        "key of one option in a sweep",
        "train -m optimizer=sgd,adamw,sgd optimizer.momentum=0.5",
        USAGE,
        ("optimizer.momentum=0.5: unknown key", "job 2 of 3", "none was started"),
    ),
    Row("unknown option in a sweep", "train -m optimizer=sgd,adamm", USAGE, ("optimizer=adamm", "adamw", "none was started")),
]


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(file): (file.stat().st_mtime_ns, file.stat().st_size) for file in sorted(folder.rglob("*")) if file.is_file()}


@each(ROWS)
def test_a_mistake_is_one_line_with_a_way_out(row: Row, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for variable in ("DISTILLCTL_DATA", "SLURM_TMPDIR", "RANK"):
        monkeypatch.delenv(variable, raising=False)
    if row.prepare:
        row.prepare(tmp_path, tiny_run)
    check_refused(row, tmp_path)


def test_a_bad_batch_of_jobs_leaves_nothing(distillctl, tmp_path: Path):
    distillctl("train", "-m", "seed=0,1", "optimizer.lr=0.1,-1", cwd=tmp_path)
    assert not list(tmp_path.rglob("run.json"))


def test_a_finished_run_is_not_touched_by_resume(distillctl, tiny_run: Path, tmp_path: Path):
    folder = trained(tmp_path, tiny_run)
    before = snapshot(folder)
    finished = distillctl("train", "resume=run", "trainer.log_every=5", cwd=tmp_path)
    assert finished.code == 0
    assert not finished.err
    assert "nothing to do" in finished.out
    assert snapshot(folder) == before


def test_a_finished_run_stays_finished_after_a_mistake(distillctl, tiny_run: Path, tmp_path: Path):
    folder = trained(tmp_path, tiny_run)
    for mistake in (["resume=run", "seed=5"], ["hydra.run.dir=run"], ["hydra.run.dir='run'"], ["hydra.run.dir=./run/"]):
        assert distillctl("train", *mistake, cwd=tmp_path).code == USAGE
        assert json.loads((folder / "run.json").read_text())["status"] == "done"


def test_a_run_that_another_process_holds(distillctl, tiny_run: Path, tmp_path: Path):
    interrupted(tmp_path, tiny_run)
    holder = "import fcntl, sys; f = open('run/.lock', 'a+'); fcntl.lockf(f, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", holder], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        finished = distillctl("train", "resume=run", cwd=tmp_path)
        process.stdin.close()  # type: ignore[union-attr]
    assert finished.code == MACHINE
    assert "is in use by" in finished.err
    assert len(finished.err.splitlines()) == 1
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "interrupted"


def test_a_class_that_val_lacks_is_a_note(distillctl, tiny_run: Path, tmp_path: Path):
    folder = images(tmp_path, tiny_run, classes="ant bee wasp", parts="train val test")
    shutil.rmtree(folder / "val/bee")
    fast = [*["teacher=resnet8", "student=resnet8", "pretrain.epochs=1", "distill.epochs=0", "finetune.epochs=0", "baseline=false"]]
    machine = [*["trainer.batch_size=6", "trainer.device=cpu", "trainer.precision=fp32", "trainer.threads=1"]]
    finished = distillctl(*shlex.split(FOLDER), *fast, *machine, cwd=tmp_path)
    assert finished.code == 0, finished.err
    assert "val has no images of: bee" in finished.out


def test_weights_that_cannot_be_downloaded_name_the_file_and_the_folder(distillctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """No network: an address of this machine where nobody listens stands for it."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    for name in ("http_proxy", "https_proxy", "HTTPS_PROXY", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    options = ["teacher=squeezenet1_1", "teacher.pretrained=true", "teacher.new_head=true", "pretrain.epochs=1", "trainer.device=cpu"]
    finished = distillctl("pretrain", *options, cwd=tmp_path)
    assert finished.code == MACHINE
    assert "squeezenet1_1" in finished.err
    assert str(tmp_path / "home/hub/checkpoints/squeezenet1_1-") in finished.err
    assert "teacher.checkpoint=<file>" in finished.err
    assert len(finished.err.splitlines()) == 1


def test_a_mistake_in_a_process_of_its_own(tmp_path: Path):
    """As the shell sees it: nothing but the line, and the code."""
    command = [sys.executable, "-m", "distillctl", "train", "loss.kd.temprature=2"]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (finished.returncode, finished.stdout) == (USAGE, "")
    assert finished.stderr == "error: loss.kd.temprature=2: unknown key; did you mean loss.kd.temperature?\n"
