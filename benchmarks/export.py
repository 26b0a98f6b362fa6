"""What a file for another runtime costs and brings: its export, `predict` of a folder beside the eager student, and the start of `predict`.

    python benchmarks/export.py [--student resnet8] [--count 500] [--rounds 5] [--starts 10] [--net resnet18] [--size 224] [--images FOLDER] [--threads 1]

Whole commands, as a user waits for them, each in a process of its own: by the wall, and in CPU time of the process, which others on the same
cores disturb less. The nets are trained for three steps, so their answers mean nothing; they cost what learned ones do. Export: `distillctl export
format=onnx` of --net at --size px with 10 classes, which writes the file, runs it back and compares it on the validation images. Predict: --count
test images of 32 px, by the student's .onnx in ONNX Runtime and by its .safetensors in torch, in turn, medians of the rounds; with the start,
and without it (`answering`): reading, decoding and answering alone, in one process. Start: `predict` of one image by the .onnx, for which torch is not imported.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from clock import Time, listed, ratios, spread, timed, turns
from common import chosen, machine_of, option_of_images, options_of_machine, real_images

from distillctl import runtime
from distillctl.commands.given import recorded
from distillctl.commands.net_predictor import NetPredictor
from distillctl.commands.predict import answered
from distillctl.commands.predictor import FilePredictor, Predictor
from distillctl.config import ModelConfig, PredictConfig, TrainerConfig

FILE, EAGER = "onnxruntime", "eager"
LIMIT_S = 60  # of an export


def command(threads: int, name: str, *given: object, **keys: object) -> subprocess.CompletedProcess[str]:
    """`distillctl NAME`, on so many threads. What it says when it fails ends this script."""
    words = [*map(str, given), *(f"{key.replace('__', '.')}={value}" for key, value in keys.items())]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    found = subprocess.run([sys.executable, "-m", "distillctl", name, *words], capture_output=True, text=True, env=environment, check=False)
    if found.returncode:
        raise SystemExit(f"distillctl {name}: {found.stdout[-2000:]}{found.stderr[-2000:]}")
    return found


def spent(work: Callable[[], object]) -> Time:
    """By the wall, and CPU time of the processes that it starts and waits for."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    work()
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Time(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def trained(net: str, images: Path, size: int, folder: Path, threads: int) -> Path:
    """The weights that a run of three steps leaves."""
    few = {"trainer.max_steps": 3, "trainer.batch_size": 16, "pretrain.epochs": 1, "dataset.subset": 200, "dataset.test_subset": 20}
    given = few | {"teacher": net, "dataset": "image_folder", "dataset.root": images, "dataset.image_size": size, "hydra.run.dir": folder}
    command(threads, "pretrain", *(f"{key}={value}" for key, value in given.items()))
    return next(folder.glob("*/*.safetensors"))


def linked(root: Path, count: int, folder: Path) -> Path:
    """A folder of so many test images of all classes."""
    folder.mkdir()
    for number, file in enumerate(chosen(root / "test", count).inputs):
        (folder / f"{number:05d}{Path(file).suffix}").symlink_to(Path(file).resolve())
    return folder


def tell_export(weights: Path, folder: Path, threads: int) -> Path:
    """Print what an export takes, and what it found. Returns the file."""
    took = spent(lambda: command(threads, "export", f"hydra.run.dir={folder}", checkpoint=weights, format="onnx"))
    [file] = folder.glob("export/*.onnx")
    found = json.loads((folder / "run.json").read_text())["stages"]["export"]["verified"]
    print(
        f"export and verification: {took.wall:.1f} s by the wall, {took.cpu:.1f} s of CPU time ({'under' if took.wall < LIMIT_S else 'OVER'} {LIMIT_S} s); "
        f"{file.stat().st_size / 1e6:.1f} MB, a logit differs by {found['max_error']:.1g} at most, agreement {found['agreement']:.2%}, n = {found['n']}",
        flush=True,
    )
    return file


def predicted(weights: Path, images: Path, threads: int) -> None:
    command(threads, "predict", f"inputs=[{images}]", checkpoint=weights, format="jsonl", trainer__batch_size=64, trainer__precision="fp32")


def predictor(weights: Path, images: Path, options: argparse.Namespace) -> Callable[[], object]:
    """The same in this process, once everything is loaded."""
    trainer = TrainerConfig(batch_size=64, threads=options.threads, device="cpu")
    config = PredictConfig(checkpoint=str(weights), inputs=[str(images)], trainer=trainer)
    _, record = recorded(str(weights), "")
    model = ModelConfig(name="recorded", checkpoint=str(weights))
    machine = runtime.Runtime(runtime.choose_device("cpu"), runtime.choose_precision("fp32", runtime.choose_device("cpu")))
    made: Predictor = FilePredictor(weights, record, config) if weights.suffix == ".onnx" else NetPredictor(record, model, config, machine)
    made.prepare()
    files = sorted(images.iterdir())
    return lambda: list(answered(files, made, record, config))


def in_turns(kinds: Mapping[str, Callable[[], Time]], rounds: int, count: int, what: str) -> None:
    times: dict[str, list[Time]] = {name: [] for name in kinds}
    for number in range(rounds):
        for name in turns([*kinds], number):
            times[name].append(kinds[name]())
    for name, values in times.items():
        wall, cpu = ratios(values, times[EAGER])
        middle = statistics.median(value.wall for value in values)
        print(
            f"  {what:<10}{name:<12}{middle:>7.2f} s {count / middle:>8.0f} img/s   over eager (least to most): wall {spread(wall)}, CPU time {spread(cpu)}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", default="resnet8")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--starts", type=int, default=10)
    parser.add_argument("--net", default="resnet18")
    parser.add_argument("--size", type=int, default=224)
    options_of_machine(parser)
    option_of_images(parser)
    options = parser.parse_args()
    machine_of(options)
    with tempfile.TemporaryDirectory() as held:
        folder = Path(held)
        root = real_images(options.images, parser, folder / "images")
        asked = linked(root, options.count, folder / "asked")
        print(f"{options.net}, {options.size} px, CPU, {options.threads} threads", flush=True)
        large = trained(options.net, root, options.size, folder / "large", options.threads)
        tell_export(large, folder / "large-file", options.threads)
        small = trained(options.student, root, 32, folder / "small", options.threads)
        print(f"{options.student}, 32 px", flush=True)
        files = {FILE: tell_export(small, folder / "small-file", options.threads), EAGER: small}
        print(f"predict, {options.count} images, n = {options.rounds}")
        whole = {name: partial(spent, partial(predicted, file, asked, options.threads)) for name, file in files.items()}
        in_turns(whole, options.rounds, options.count, "command")
        loaded = {name: partial(timed, predictor(file, asked, options), torch.device("cpu")) for name, file in files.items()}
        for once in loaded.values():
            once()
        in_turns(loaded, options.rounds, options.count, "answering")
        one = next(asked.iterdir())
        starts = [spent(partial(predicted, files[FILE], one, options.threads)) for _ in range(options.starts)]
        print(
            f"predict, one image, {FILE}: wall {spread([each.wall for each in starts])} s, CPU time {spread([each.cpu for each in starts])} s, n = {len(starts)}"
        )
        print(f"  wall, s: {listed([each.wall for each in starts])}")


if __name__ == "__main__":
    main()
