"""What training on texts costs: our loop beside a hand-written one, kept answers beside labels alone, buckets beside padding; a batch; memory of many rows.

    python benchmarks/text.py [--steps 24] [--rounds 9] [--rows 1000000] [--threads 1] [--device auto] [--precision auto]

Texts are made up, as long as those of SST-2: 13 tokens in the mean, 34 at the 95th percentile, at most 75. Batches of 32. What is compared takes its
turn in every round; medians of the rounds' ratios. Memory is that of a process of its own, without what it maps, free memory given back.
"""

from __future__ import annotations

import argparse
import csv
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from clock import compared, in_turn
from common import epoch_of_method, machine_of, optimizer_for, options_of_machine

from distillctl import runtime
from distillctl.config import ModelConfig, TextSetConfig
from distillctl.data.loader import Place
from distillctl.data.split import Split
from distillctl.data.text.loader import TextLoader, padding
from distillctl.data.text.reader import IDS
from distillctl.inputs.text import Texts
from distillctl.losses.logits import CrossEntropy, SoftTargets
from distillctl.losses.weighted import WeightedSum
from distillctl.methods.distill import Distill
from distillctl.models.obtain import obtain
from distillctl.models.text.adapter import TextClassifier
from distillctl.teachers.cached import Cached
from distillctl.teachers.frozen import Frozen
from distillctl.teachers.records import Layout
from distillctl.teachers.store import Store
from distillctl.types import Batch

BATCH, LONGEST, WORDS, IDS_KNOWN = 32, 128, 500, 8000  # as few words as all become tokens; nets know as many ids as usual
WANTED = {"loop": "<= 1.05", "kept": "<= 1.05", "padded": ">= 3"}

MEMORY = """
import contextlib, ctypes, gc, sys
from distillctl.config import TextSetConfig
from distillctl.inputs.text import Texts

def anonymous():
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")) / 1024

few = Texts.load(TextSetConfig(name="text", root=sys.argv[1]), None)
before = anonymous()
data, inputs = Texts.load(TextSetConfig(name="text", root=sys.argv[2]), None)
print(anonymous() - before)
"""


@dataclass(frozen=True)
class Bench:
    """Texts of two classes, which nets read by one tokenizer, and where they are computed."""

    inputs: Texts
    split: Split
    machine: runtime.Runtime

    def model(self, name: str) -> TextClassifier:
        found = obtain(ModelConfig(name=name, args={"vocab_size": IDS_KNOWN}), self.inputs, name, seed=0).classifier
        return found.to(self.machine.device)

    def loader(self, kind: type[TextLoader] = TextLoader, bucket: int = 50) -> TextLoader:
        return kind(self.split, self.inputs.corpus, BATCH, 0, Place(self.machine.device), bucket, TextSetConfig(name="text").augment, 0)


class ToTheLongest(TextLoader):
    """As many people's: every text is filled up to so many tokens."""

    def show(self, pieces: Sequence[torch.Tensor], view: int) -> Iterator[Batch]:
        for batch in super().show(pieces, view):
            wide = {name: F.pad(each, (0, LONGEST - each.shape[1])) if name.endswith(IDS) else each for name, each in batch.inputs.items()}
            yield batch._replace(inputs=wide)


def made_up(file: Path, rows: int) -> Path:
    """A table of texts; of words some are much more usual than others."""
    draw = random.Random(0)
    words = [f"w{number:x}" for number in range(WORDS)]
    weights = [1 / (number + 10) for number in range(WORDS)]
    with file.open("w", newline="") as opened:
        lines = csv.writer(opened)
        lines.writerow(("text", "label"))
        for number in range(rows):
            count = min(73, max(1, round(draw.lognormvariate(2.05, 0.85))))
            lines.writerow((" ".join(draw.choices(words, weights, k=count)), number % 2))
    return file


def by_hand(model: TextClassifier, batches: TextLoader, machine: runtime.Runtime) -> Callable[[], None]:
    """An epoch as short as it can be written."""
    model.train()
    optimizer, numbers = optimizer_for(model), iter(range(10**6))

    def epoch() -> None:
        for batch in batches(next(numbers), 0):
            with machine.autocast():
                logits = model(batch.inputs).logits
            loss = F.cross_entropy(logits.float(), batch.targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return epoch


def ours(model: TextClassifier, batches: TextLoader, machine: runtime.Runtime, teacher: Frozen | None = None) -> Callable[[], None]:
    """An epoch of `fit`, by labels, and with a teacher by its answers at the same weight."""
    terms = {"ce": CrossEntropy()} | ({"kd": SoftTargets(4.0)} if teacher is not None else {})
    return epoch_of_method(Distill(model, WeightedSum(terms, dict.fromkeys(terms, 1.0)), teacher), batches, machine)


def tell(what: str, works: Mapping[str, Callable[[], None]], steps: int, rounds: int, wanted: str, machine: runtime.Runtime) -> None:
    """The second of two works beside the first."""
    times = in_turn(works, rounds, machine.device, warm_ups=2)
    plain, other = works
    each = "   ".join(f"{name} {1000 * statistics.median(value.wall for value in times[name]) / steps:6.2f} ms a step" for name in works)
    print(f"{what:<12} {each}   {compared(times[other], times[plain])}, wanted {wanted}", flush=True)


def kept_teacher(bench: Bench, batches: TextLoader, folder: Path) -> Cached:
    live, layout = Frozen(bench.model("bert_mini"), bench.machine.precision, bench.machine.device), Layout(1, 2)
    return Cached(live, layout, Store(folder, "kept", layout, len(bench.split), print), batches.split.index, dtypes=(torch.int64,))


def cost_of_a_batch(bench: Bench, epochs: int) -> None:
    """CPU time of a loader that nobody waits for."""
    batches, taken = bench.loader(), []
    for epoch in range(epochs + 1):
        begun = time.process_time()
        count = sum(1 for _ in batches(epoch))
        taken.append(1e6 * (time.process_time() - begun) / count)
    lengths = bench.inputs.corpus.tokens(next(iter(bench.inputs.corpus.readers.values()))).tokens.lengths[bench.split.inputs.numpy()]
    filled = [padding(lengths, list(bench.loader(bucket=bucket).order(0).split(BATCH))) for bucket in (50, 0)]
    print(
        f"a batch of {BATCH}: {statistics.median(taken[1:]):.0f} us of CPU time ({min(taken[1:]):.0f} to {max(taken[1:]):.0f}, n = {epochs}); positions over "
        f"tokens {filled[0]:.2f} in buckets, {filled[1]:.2f} at random, {LONGEST / lengths.mean():.2f} filled up to {LONGEST}",
        flush=True,
    )


def memory(folder: Path, rows: int) -> None:
    few, many = made_up(folder / "few.csv", 100), made_up(folder / "many.csv", rows)
    told = subprocess.run([sys.executable, "-c", MEMORY, few, many], capture_output=True, text=True, check=True).stdout
    size = many.stat().st_size / 2**20
    print(f"memory of {rows:,} rows, {size:,.0f} MiB of CSV: {float(told):.1f} MiB ({float(told) * 2**20 / rows:.0f} bytes a row)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--rows", type=int, default=1_000_000)
    options_of_machine(parser)
    options = parser.parse_args()
    machine = machine_of(options)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        config = TextSetConfig(name="text", root=str(made_up(folder / "texts.csv", options.steps * BATCH * 2)))
        data, inputs = Texts.load(config, None)
        bench = Bench(inputs, data.train.take(range(options.steps * BATCH)), machine)
        print(
            f"batch {BATCH}, {runtime.precision_name(machine.precision)} on {machine.device}, {options.threads} threads, n = {options.rounds}"
        )
        for name in ("bilstm", "bert_mini"):
            loops = {
                "by hand": by_hand(bench.model(name), bench.loader(), machine),
                "ours": ours(bench.model(name), bench.loader(), machine),
            }
            tell(name, loops, options.steps, options.rounds, WANTED["loop"], machine)
        batches = bench.loader()
        (folder / "kept").mkdir()
        teacher = kept_teacher(bench, batches, folder / "kept")
        kinds = {
            "labels": ours(bench.model("bilstm"), bench.loader(), machine),
            "kept": ours(bench.model("bilstm"), batches, machine, teacher),
        }
        tell("kept answers", kinds, options.steps, options.rounds, WANTED["kept"], machine)
        assert teacher.asked <= len(bench.split), "the teacher was asked again"
        padded = {
            "buckets": ours(bench.model("bert_mini"), bench.loader(), machine),
            "padded": ours(bench.model("bert_mini"), bench.loader(ToTheLongest), machine),
        }
        tell("padding", padded, options.steps, max(options.rounds // 3, 1), WANTED["padded"], machine)
        cost_of_a_batch(bench, max(options.rounds, 3))
        memory(folder, options.rows)


if __name__ == "__main__":
    main()
