"""What a user can get wrong on the way to a file that runs: one line with a way out, before anything is trained, nothing half written."""

import shutil
from pathlib import Path

from commands import TINY
from exported import export
from mistakes import CHECKPOINT, MACHINE, USAGE, Row, check_refused, each

from distillctl import extras

FAST = " ".join(TINY[5:])
TRAIN = f"train {' '.join(TINY)} baseline=false"
EXPORT, COMPRESS = "export checkpoint=run/distill", f"compress checkpoint=run/distill {FAST} distill.epochs=1"


def text(place: Path) -> None:
    (place / "text.onnx").write_text("no model\n")
    (place / "text.txt").write_text("no model\n")


def empty(place: Path) -> None:
    (place / "empty").mkdir()


def no_student(place: Path) -> None:
    shutil.rmtree(place / "run")
    (place / "run").mkdir()


NOT_AGAIN = ("an exported file is ready", "give the .safetensors that it was made from")
ROWS = [
    Row("unknown format", f"{EXPORT} export.format=foo", USAGE, ("export.format=foo: must be one of none, onnx",)),
    Row("unknown quantiser", f"{EXPORT} quantize=foo", USAGE, ("quantize=foo: no such option", "static")),
    Row("unknown way to deploy", f"{TRAIN} deploy=foo", USAGE, ("deploy=foo: no such option", "onnx_int8")),
    Row("unknown way to prune", f"{COMPRESS} prune=foo", USAGE, ("prune=foo: no such option", "magnitude")),
    *(
        Row(f"without {name}", f"{TRAIN} export.format={fmt}", MACHINE, (f"needs {name}", f"distillctl[{extra}]"), without=(name,))
        for name, fmt, extra in (
            ("onnxscript", "onnx", "onnx"),
            ("onnxruntime", "onnx", "onnx"),
            ("openvino", "openvino", "openvino"),
            ("executorch", "executorch", "executorch"),
            ("coremltools", "coreml", "coreml"),
        )
    ),
    Row("without onnx", f"{TRAIN} deploy=onnx_int8", MACHINE, ("needs onnx: pip install 'distillctl[onnx]'",), without=("onnx",)),
    Row("without torchao", f"{TRAIN} quantize=qat", MACHINE, ("quantize=qat needs torchao", "distillctl[qat]"), without=("torchao",)),
    Row("without torch-pruning", f"{TRAIN} prune=taylor", MACHINE, ("torch-pruning", "distillctl[prune]"), without=("torch_pruning",)),
    Row(
        "without NNCF",
        f"{TRAIN} export.format=openvino quantize=openvino",
        MACHINE,
        ("quantize=openvino needs nncf",),
        without=("nncf", "openvino"),
        lines=2,
    ),
    Row("quantiser of another format", f"{EXPORT} format=openvino quantize=static", USAGE, ("take export.format=onnx",)),
    Row("quantiser of LiteRT for ONNX", f"{TRAIN} deploy=onnx quantize=litert", USAGE, ("take export.format=litert",)),
    Row("training in export", f"{EXPORT} quantize=qat", USAGE, ("export does not; distillctl compress",)),
    Row("features for int8", f"{TRAIN} quantize=qat loss=fitnet", USAGE, ("quantize=qat: the loss or the method reads", "loss=kd")),
    Row("opset too low", f"{TRAIN} export.format=onnx export.opset=9", USAGE, ("export.opset=9", "18 to 23")),
    Row("opset too high", f"{EXPORT} export.opset=99", USAGE, ("export.opset=99", "18 to 23")),
    Row("opset of another format", f"{EXPORT} format=torch_export export.opset=20", USAGE, ("is about ONNX",)),
    Row("export of a file", "export checkpoint=student.onnx", USAGE, NOT_AGAIN, export),
    Row("cut of a file", f"compress checkpoint=student.onnx prune=magnitude {FAST}", USAGE, NOT_AGAIN, export),
    Row("numbers of a file", f"compress checkpoint=student.onnx quantize=static {FAST}", USAGE, NOT_AGAIN, export),
    Row("export of an empty run", "export checkpoint=run", CHECKPOINT, ("holds no trained student",), no_student),
    Row("export of nothing", "export checkpoint=nowhere", CHECKPOINT, ("checkpoint=", "nowhere: no such file")),
    Row("export without a checkpoint", "export", USAGE, ("checkpoint is not set",)),
    Row("nothing to do", f"compress checkpoint=run/distill {FAST}", USAGE, ("nothing to do: choose prune=magnitude",)),
    Row("all MACs", f"{COMPRESS} prune=magnitude prune.target_macs=1", USAGE, ("nothing is cut", "prune.target_macs=0.5")),
    Row("more MACs", f"{TRAIN} prune=magnitude prune.target_macs=1e12", USAGE, ("resnet8 has", "set a smaller number")),
    Row("no MACs", f"{COMPRESS} prune=magnitude prune.target_macs=-1", USAGE, ("prune.target_macs=-1.0 must be > 0",)),
    Row("MACs of zeros", f"{COMPRESS} prune=unstructured prune.target_macs=0.5", USAGE, ("save no MACs",)),
    Row("cut of everything", f"{COMPRESS} prune=magnitude prune.ratio=1", USAGE, ("prune.ratio=1.0 must be <= 0.99",)),
    Row("keys of no cut", f"{TRAIN} prune.ratio=0.3", USAGE, ("nothing is cut here", "prune=magnitude")),
    Row("scale of no batch norm", f"{TRAIN} prune=bn_scale student=deit_tiny_patch16_224", USAGE, ("has no batch norm with a scale",)),
    Row(
        "cut by labels", f"{COMPRESS} prune=taylor dataset.labels=false teacher.checkpoint=run", USAGE, ("prune=taylor", "prune=magnitude")
    ),
    Row("taught by nobody", f"{COMPRESS} quantize=qat dataset.labels=false", USAGE, ("qat learns from labels", "teacher.checkpoint=")),
    Row("assistants", f"{COMPRESS} prune=magnitude assistants=[resnet8]", USAGE, ("compress teaches the student that is there",)),
    Row("negative budget", f"{COMPRESS} budget.size_mb=-1", USAGE, ("budget.size_mb=-1.0 must be > 0",)),
    Row("compare with nothing", f"{EXPORT} verify=nowhere.onnx", CHECKPOINT, ("error: verify=nowhere.onnx: no such file",)),
    Row("compare with a text", f"{EXPORT} verify=text.onnx", CHECKPOINT, ("verify=text.onnx: no ONNX model",), text),
    Row("compare with another text", f"{EXPORT} verify=text.txt", CHECKPOINT, ("verify=text.txt: not a checkpoint",), text),
    Row("page without a runtime", f"{EXPORT} format=web", USAGE, ("export.web_runtime is not set", "npm install")),
    Row("page without a folder", f"{EXPORT} format=web export.web_runtime=no", USAGE, ("export.web_runtime=no: no such folder",)),
    Row("page of an empty folder", f"{EXPORT} format=web export.web_runtime=empty", USAGE, ("no ort.wasm.min.mjs in it",), empty),
    Row("no tolerance", f"{EXPORT} export.tolerance=0", USAGE, ("export.tolerance=0.0 must be > 0",)),
    Row("no samples", f"{EXPORT} quantize=static quantize.samples=0", USAGE, ("quantize.samples=0 must be >= 1",)),
    Row("layers that are a number", f"{EXPORT} quantize=static quantize.keep_float=3", USAGE, ("quantize.keep_float=3",)),
    Row("unknown calibration", f"{EXPORT} quantize=static quantize.calibration=foo", USAGE, ("minmax, entropy, percentile",)),
    Row("drop of everything", f"{EXPORT} quantize=static quantize.max_drop=2", USAGE, ("quantize.max_drop=2.0 must be <= 1",)),
    Row("sweep with a bad job", f"{COMPRESS} -m prune=magnitude prune.ratio=0.3,1", USAGE, ("prune.ratio=1.0", "none was started")),
    Row(
        "sweep with a job that lacks a library",
        f"{COMPRESS} -m prune=magnitude quantize=static,qat",
        MACHINE,
        ("quantize=qat needs torchao", "job 2 of 2; none was started"),
        without=("torchao",),
    ),
    Row(
        "sweep with a job of features for int8",
        f"{TRAIN} -m quantize=static,qat loss=fitnet",
        USAGE,
        ("quantize=qat: the loss or the method reads", "job 2 of 2; none was started"),
    ),
]


@each(ROWS)
def test_a_mistake_is_one_line_before_anything_is_trained(row: Row, tiny_run: Path, tmp_path: Path, monkeypatch):
    shutil.copytree(tiny_run, tmp_path / "run")
    if row.prepare is export:
        export(tiny_run / "distill/student.safetensors", tmp_path / "student.onnx")
    elif row.prepare:
        row.prepare(tmp_path)
    if row.without:
        monkeypatch.setattr(extras, "is_installed", lambda name, lacking=row.without: name not in lacking)
    check_refused(row, tmp_path, f"{row.command} hydra.run.dir=out")
