"""The one training loop, for every stage, method and scenario."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distillctl import types
from distillctl.draws import seed_of
from distillctl.runtime import Runtime, diverged
from distillctl.schedules import Schedule
from distillctl.training import Training
from distillctl.types import Batch


@dataclass(frozen=True)
class FitSettings:
    """How long and by what rule `fit` trains, and how often it tells and saves."""

    epochs: int
    batches_per_epoch: int
    batch_size: int  # of all ranks together
    seed: int
    schedule: Schedule
    accumulate: int = 1
    clip_norm: float | None = None
    log_every: int = 20
    save_every_s: float = 300.0
    sizes: tuple[int, ...] = ()  # of the batches of an epoch, where they are not all of `batch_size`
    steps: int | None = None  # of the optimizer, where the last epoch is not to be done to its end
    gone: Callable[[], float] | None = None  # the share of its time that has passed, where that is limited; at 1 the epoch ends

    @property
    def length(self) -> float:
        """In epochs."""
        return self.epochs if self.steps is None else self.steps / self.batches_per_epoch

    def size(self, batch: int) -> int:
        """Of the batch of this number in an epoch, of all ranks together."""
        return self.sizes[batch] if self.sizes else self.batch_size

    def is_over(self, training: Training) -> bool:
        return training.epoch >= self.epochs or (self.steps is not None and training.step >= self.steps)


@dataclass(frozen=True)
class Report:
    """What the loop tells at each log step: means over the steps since the last one."""

    epoch: int
    batch: int
    step: int
    parts: dict[str, float]
    lr: float
    images_per_s: float


def fit(
    training: Training,
    batches: Callable[[int, int], Iterable[Batch]],
    settings: FitSettings,
    runtime: Runtime,
    *,
    after_step: Callable[[Report], None],
    after_epoch: Callable[[Training, dict[str, float]], bool],
    save: Callable[[Training], None],
    asked_to_stop: Callable[[], bool],
) -> None:
    """Train until `settings.epochs` are done, or `settings.steps`, or `after_epoch`, which is given the epoch's mean loss parts, says False.

    `batches(epoch, first)` gives this rank's part of each batch of an epoch from batch `first` on, as a function of
    nothing else. `save` is called after each epoch, every `settings.save_every_s`, and before leaving when
    `asked_to_stop` or when no batch can be had. Raises Diverged before the step that would spoil the weights; on a GPU, where looking costs a
    sync, at the next log step at the latest, and always before anything is saved.
    """
    module = runtime.wrap(training.method)
    watch = Watch(training, settings, runtime)
    watch.look_at_clock()
    while not settings.is_over(training):
        for batch in saving_on_failure(batches(training.epoch, training.batch), training, save, watch, runtime):
            torch.manual_seed(seed_of(settings.seed, "dropout", training.step, runtime.rank))
            size = settings.size(training.batch)
            progress = max(training.epoch + training.batch / settings.batches_per_epoch, watch.gone * settings.length)
            factor = settings.schedule(progress, settings.length)
            training.method.at(progress, settings.length)
            for player in training.optimizers:
                parts = backward(module, player, batch, training, settings, runtime)
                watch.look(parts)
                descend(player, training, factor, settings)
            training.method.after_step()
            if training.ema:
                training.ema.update(training.method.averaged())
            training.batch, training.step, training.samples = training.batch + 1, training.step + 1, training.samples + size
            watch.look_at_clock()
            last = training.batch == settings.batches_per_epoch or settings.is_over(training) or watch.gone >= 1
            if last or training.step % settings.log_every == 0 or training.step == 1:
                after_step(watch.report(factor))
            wish = watch.wish(asked_to_stop())
            if wish != GO_ON and not last:
                watch.settle()
                save(training)
                watch.saved()
            if wish == STOP and not last:
                return
            if last:
                break
        means = {name: value / training.batch for name, value in training.epoch_sums.items()}
        training.epoch, training.batch, training.epoch_sums = training.epoch + 1, 0, {}
        go_on = after_epoch(training, means)
        save(training)
        watch.saved()
        if not go_on or runtime.highest(STOP if asked_to_stop() else GO_ON) == STOP:
            return


def saving_on_failure(
    batches: Iterable[Batch], training: Training, save: Callable[[Training], None], watch: Watch, runtime: Runtime
) -> Iterator[Batch]:
    """The batches; where the next one cannot be had (a file that is gone, a worker that died), save before that is raised."""
    try:
        yield from batches
    except Exception:
        if runtime.world == 1:  # the other ranks are in the middle of a step, and saving needs to hear from them
            watch.settle()
            save(training)
        raise


def backward(
    module: nn.Module, player: str, batch: Batch, training: Training, settings: FitSettings, runtime: Runtime
) -> dict[str, Tensor]:
    """Leave the whole batch's mean gradient behind, piece by piece; returns the loss parts, weighted alike.

    A piece weighs what it holds of the whole batch, so the pieces may differ in size; DDP divides by the ranks.
    """
    training.optimizers[player].zero_grad(set_to_none=True)
    parts: dict[str, Tensor] = {}
    pieces = cut(batch, settings.accumulate)
    for number, piece in enumerate(pieces):
        share = len(piece.index) * runtime.world / settings.size(training.batch)
        unsynced = runtime.world > 1 and number < len(pieces) - 1
        with module.no_sync() if unsynced else nullcontext():  # type: ignore[operator]
            with runtime.autocast():
                terms = module(piece, player)
            training.scaler.scale(terms.loss if share == 1 else terms.loss * share).backward()
        for name, value in terms.parts.items():
            parts[name] = parts[name] + value * share if name in parts else value * share
    return parts


def cut(batch: Batch, pieces: int) -> list[Batch]:
    """A batch as `pieces` smaller ones, equal up to one sample."""
    if pieces == 1:
        return [batch]
    answers = [None] * pieces if batch.answers is None else types.pieces(batch.answers, pieces)
    plain = [None] * pieces if batch.plain is None else types.pieces(batch.plain, pieces)
    columns = types.pieces(batch.inputs, pieces), batch.targets.tensor_split(pieces), batch.index.tensor_split(pieces), answers, plain
    found, (first, whole) = list[Batch](), batch.place or (0, len(batch.index))
    for inputs, targets, index, kept, stored in zip(*columns, strict=True):
        if len(index):
            found.append(Batch(inputs, targets, index, batch.view, kept, stored, (first, whole)))  # type: ignore[arg-type]
            first += len(index)
    return found


def descend(player: str, training: Training, factor: float, settings: FitSettings) -> None:
    """One optimizer step at the scheduled learning rate, on clipped gradients."""
    optimizer = training.optimizers[player]
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
    if settings.clip_norm is not None:
        training.scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(training.method.trainable(player), settings.clip_norm)
    training.scaler.step(optimizer)
    training.scaler.update()


GO_ON, SAVE, STOP = 0, 1, 2


class Watch:
    """Looks at losses and clock without making the device wait: on a GPU only at log steps."""

    def __init__(self, training: Training, settings: FitSettings, runtime: Runtime):
        self.training, self.settings, self.runtime = training, settings, runtime
        self.every = 1 if runtime.device.type == "cpu" else settings.log_every
        self.gone = 0.0
        self.pending: list[tuple[int, int, list[str], Tensor]] = []
        self.logged_samples = training.samples  # by this process: the rate is its own
        self.since = self.last_save = time.monotonic()

    def look(self, parts: Mapping[str, Tensor]) -> None:
        """Take note of a step's loss parts; raises Diverged as soon as they are known not to be finite."""
        self.pending.append((self.training.epoch, self.training.step, list(parts), torch.stack(tuple(parts.values())).float()))
        if len(self.pending) >= self.every:
            self.settle()

    def settle(self) -> None:
        """Fetch the noted parts: the only place where the host waits for the device."""
        if not self.pending:
            return
        values = self.runtime.mean(torch.cat([noted for *_, noted in self.pending])).tolist()
        for epoch, step, names, noted in self.pending:
            mine, values = values[: len(noted)], values[len(noted) :]
            for name, value in zip(names, mine, strict=True):
                if not math.isfinite(value):
                    raise diverged(name, value, epoch, step)
                for sums in (self.training.sums, self.training.epoch_sums):
                    sums[name] = sums.get(name, 0.0) + value
        self.pending.clear()

    def report(self, factor: float) -> Report:
        """Means since the last report, which may have been another process's."""
        self.settle()
        training, now = self.training, time.monotonic()
        optimizer = next(iter(training.optimizers.values()))
        report = Report(
            epoch=training.epoch,
            batch=training.batch,
            step=training.step,
            parts={name: value / (training.step - training.logged_step) for name, value in training.sums.items()},
            lr=optimizer.param_groups[0]["initial_lr"] * factor,
            images_per_s=(training.samples - self.logged_samples) / max(now - self.since, 1e-9),
        )
        training.sums, training.logged_step = {}, training.step
        self.logged_samples, self.since = training.samples, now
        return report

    def look_at_clock(self) -> None:
        """Agree on the share of the time that has passed, where asking is cheap."""
        if self.settings.gone is None or self.is_blind():
            return
        self.gone = self.runtime.highest(round(1e6 * min(self.settings.gone(), 1.0))) / 1e6

    def is_blind(self) -> bool:
        """Whether the ranks cannot ask each other now without making their devices wait."""
        return self.runtime.world > 1 and self.every > 1 and self.training.step % self.settings.log_every > 0

    def wish(self, asked_to_stop: bool) -> int:
        """What all ranks do next: the most urgent wish of any of them, asked only where asking is cheap."""
        if self.is_blind():
            return GO_ON
        due = self.runtime.is_main and time.monotonic() - self.last_save > self.settings.save_every_s
        return self.runtime.highest(STOP if asked_to_stop else SAVE if due else GO_ON)

    def saved(self) -> None:
        self.last_save = time.monotonic()
