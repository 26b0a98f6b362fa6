"""What a batch of a stream costs: by quarters of the stream, and beside the loop that people write for it.

    python benchmarks/stream.py [--student resnet8] [--samples 1000] [--rounds 3] [--threads 1]

One process, digits in batches of 10 with 10 kept samples beside them. Written by hand: answer the batch in eval mode, put it and a random draw from a list
of 200 images together, one step of SGD, keep it in the list by chance; nothing is held out, saved, augmented or looked at. The stream does these
too, so that the ratio is the price of them; with its average as a teacher and with the student alone it learns two students. Runs take turns; medians of
batches, in ms by the wall and in CPU time, and ratios run by run. Quarters tell whether a stream becomes slower as it goes on.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from clock import Time, ratios, spread, timed, turns
from hydra import compose as hydra_compose
from hydra import initialize_config_dir

from distillctl import compose
from distillctl.interruption import StopRequest
from distillctl.runs.session import session
from distillctl.runs.stream.driver import Pass
from distillctl.runs.stream.learner import Learner

KINDS = {
    "by hand": (),
    "stream": ("stream.teacher=none",),
    "with a teacher": ("stream.beside=[]",),
    "and alone": (),
}
SIZE, KEPT = 10, 200


def opened(words: tuple[str, ...], folder: Path, work) -> list[Time]:
    """What each batch took."""
    with initialize_config_dir(str(compose.conf_dir()), version_base="1.3"):
        config = compose.typed(hydra_compose("stream", list(words)))
    with StopRequest() as stop, session(config, folder, stop) as running:
        return work(Pass(running, running.bundle(config.dataset)))


def by_the_stream(stream: Pass) -> list[Time]:
    found: list[Time] = []
    stream.take_up()
    while entries := stream.next():
        found.append(timed(lambda: stream.learn(entries), stream.machine.device))
        if stream.progress.batches % stream.stage.save_every == 0:
            found[-1] = found[-1] + timed(stream.save, stream.machine.device)
    return found


def by_hand(stream: Pass) -> list[Time]:
    learner: Learner = stream.learners["student"]
    net, optimizer = learner.student, learner.training.optimizers["student"]
    images: list[torch.Tensor] = []
    labels: list[int] = []
    seen, found, first = 0, list[Time](), 0

    def batch(new: torch.Tensor, targets: torch.Tensor) -> None:
        nonlocal seen
        net.eval()
        with torch.no_grad():
            net(new).logits.argmax(1)
        net.train()
        chosen = torch.randperm(len(images))[:SIZE].tolist()
        inputs = torch.cat([new, torch.stack([images[place] for place in chosen])]) if chosen else new
        wanted = torch.cat([targets, torch.tensor([labels[place] for place in chosen])]) if chosen else targets
        optimizer.zero_grad()
        F.cross_entropy(net(inputs).logits, wanted).backward()
        optimizer.step()
        for image, label in zip(new, targets.tolist(), strict=True):
            place = len(images) if seen < KEPT else int(torch.randint(seen + 1, ()))
            seen += 1
            if place == len(images) < KEPT:
                images.append(image)
                labels.append(label)
            elif place < KEPT:
                images[place], labels[place] = image, label

    while entries := stream.source.batch(first, min(SIZE, (stream.stage.samples or 0) - first)):
        new, targets = stream.read(entries), torch.tensor([entry.label for entry in entries])
        found.append(timed(lambda: batch(new, targets), stream.machine.device))  # noqa: B023
        first += len(entries)
    return found


def quarters(times: list[Time]) -> str:
    cut = len(times) // 4
    return " ".join(f"{1000 * statistics.median(time.wall for time in times[begin : begin + cut]):.1f}" for begin in range(0, 4 * cut, cut))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--student", default="resnet8")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    compose.prepare()
    words = (f"student={given.student}", f"stream.samples={given.samples}", f"trainer.threads={given.threads}", "stream.release_every=null")
    sums: dict[str, list[Time]] = {name: [] for name in KINDS}
    latest: dict[str, list[Time]] = {}
    for number in range(given.rounds):
        for name in turns(list(KINDS), number):
            with tempfile.TemporaryDirectory() as place:
                times = opened((*words, *KINDS[name]), Path(place) / "run", by_hand if name == "by hand" else by_the_stream)
            latest[name] = times
            sums[name].append(Time(statistics.median(t.wall for t in times), statistics.median(t.cpu for t in times)))
    print(
        f"{given.student}, {given.samples} digits in batches of {SIZE}, {given.rounds} rounds, torch {torch.__version__}, {given.threads} thread(s)"
    )
    for name, found in sums.items():
        wall, cpu = ratios(found, sums["by hand"])
        p95 = statistics.quantiles([time.wall for time in latest[name]], n=20)[-1]
        print(
            f"{name:<15} {1000 * statistics.median(t.wall for t in found):6.2f} ms a batch, p95 {1000 * p95:.1f}, quarters {quarters(latest[name])}; "
            f"x by hand: wall {spread(wall)}, CPU {spread(cpu)}"
        )


if __name__ == "__main__":
    main()
