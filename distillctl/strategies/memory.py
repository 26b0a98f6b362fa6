"""Samples of earlier tasks that are kept to be learnt again: which, where, and how they are drawn. All of it is state, none of it chance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from distillctl import draws
from distillctl.strategies.task import Views
from distillctl.types import Batch, Inputs, columns, concatenated, mapped, rows

EMPTY = -1  # in the place of a class
REPLAYED = 2**32  # views of replayed samples are numbered from here, those of epochs from 0
SELECT = ("reservoir", "balanced", "herding")


class Replay(NamedTuple):
    """Samples out of a memory, as a view shows them.

    logits:  float [B, K], what the student answered as they were kept; of which the first `widths` (int64 [B]) count
    share:   what their mean weighs in a term that is a mean over all that the whole batch draws: 1, unless several pieces or ranks share it
    """

    batch: Batch
    logits: Tensor
    widths: Tensor
    share: float


class Memory(nn.Module):
    """`size` samples as they are stored (of images uint8, not augmented), with label, index and the logits of that moment.

    reservoir: every sample that ever came is in it with equal probability (Vitter 1985): the n-th takes slot j ~ U{0..n} where j < size.
    balanced:  the same within each class, at the cost of the largest one (Chrysakis & Moens 2020, class-balancing reservoir sampling).
    herding:   filled at the end of a task by whoever owns it (`fill`), the same number of each class.

    Slots and draws are functions of (seed, how many came, which step), so that a resumed run and any number of ranks have the same memory.
    Every rank holds all of it; what a rank has seen is shared in `keep`.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        like: Inputs,
        classes: int,
        seed: int,
        views: Views,
        select: str = "reservoir",
        with_logits: bool = False,
    ):
        super().__init__()
        self.size, self.batch_size, self.classes, self.seed, self.views = size, batch_size, classes, seed, views
        self.select, self.with_logits = select, with_logits
        self.names = tuple(sorted(like)) if isinstance(like, dict) else ()
        for name, column in like.items() if isinstance(like, dict) else [("inputs", like)]:
            place = f"inputs_{name}" if self.names else name
            self.register_buffer(place, torch.zeros((size, *column.shape[1:]), dtype=column.dtype, device=column.device))
        device = columns(like)[0].device
        self.register_buffer("targets", torch.full((size,), EMPTY, dtype=torch.int64, device=device))
        self.register_buffer("index", torch.zeros(size, dtype=torch.int64, device=device))
        self.register_buffer("widths", torch.zeros(size, dtype=torch.int64, device=device))
        self.register_buffer("logits", torch.zeros((size, classes if with_logits else 0), device=device))
        self.seen, self.steps, self.filled = 0, 0, 0
        self.seen_of, self.full = [0] * classes, [0] * classes  # by class: how many came; whether it was ever the largest in a full memory
        self.pending: list[tuple[Batch, Tensor | None]] = []

    targets: Tensor
    index: Tensor
    widths: Tensor
    logits: Tensor

    @property
    def samples(self) -> Inputs:
        """All slots, the empty ones too."""
        if not self.names:
            return self.get_buffer("inputs")
        return {name: self.get_buffer(f"inputs_{name}") for name in self.names}

    def empty(self) -> None:
        """Hold nothing, as if nothing had ever come."""
        self.targets.fill_(EMPTY)
        self.seen = self.filled = 0
        self.seen_of, self.full = [0] * self.classes, [0] * self.classes

    @property
    def bytes(self) -> int:
        """What it holds, with labels, indices and logits."""
        return sum(buffer.numel() * buffer.element_size() for buffer in self.buffers())

    def get_extra_state(self) -> dict[str, Any]:
        return {"seen": self.seen, "steps": self.steps, "filled": self.filled, "seen_of": [*self.seen_of], "full": [*self.full]}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        self.seen, self.steps, self.filled = (int(state[name]) for name in ("seen", "steps", "filled"))
        self.seen_of, self.full = ([int(count) for count in state[name]] for name in ("seen_of", "full"))

    def carried(self) -> dict[str, Tensor]:
        """What the next task goes on with."""
        return {**dict(self.named_buffers()), "counters": torch.tensor([self.seen, self.steps, self.filled, *self.seen_of, *self.full])}

    def take(self, carried: Mapping[str, Tensor]) -> None:
        """Go on with what `carried` gave at the end of the task before."""
        for name, buffer in self.named_buffers():
            buffer.copy_(carried[name])
        self.seen, self.steps, self.filled, *by_class = carried["counters"].tolist()
        self.seen_of, self.full = by_class[: self.classes], by_class[self.classes :]

    def draw(self, batch: Batch, number: int = 0) -> Replay | None:
        """This piece's part of the samples that the whole batch replays; None while the memory is empty. number: which draw of the step this is."""
        if not self.filled:
            return None
        count = min(self.batch_size, self.filled)
        first, whole = batch.place or (0, len(batch.index))
        low, high = count * first // whole, count * (first + len(batch.index)) // whole
        order = draws.permutation(self.filled, self.seed, "replay", self.steps, number)
        chosen = order[low:high].to(self.index.device)
        index, view = self.index[chosen], REPLAYED + 2 * self.steps + number
        inputs = self.views(rows(self.samples, chosen), index, view)
        share = (high - low) * whole / (count * len(batch.index))
        replayed = Batch(inputs, self.targets[chosen], index, view)
        return Replay(replayed, self.logits[chosen], self.widths[chosen], share)

    def new_part(self, batch: Batch) -> float:
        """Of the samples that a step learns, those of this batch and those drawn beside it, the share of the new ones."""
        whole = batch.place[1] if batch.place else len(batch.index)
        return whole / (whole + min(self.batch_size, self.filled))

    def observe(self, batch: Batch, logits: Tensor | None = None) -> None:
        """Take note of a piece of a batch, and of what the student answered to it; `keep` decides."""
        assert batch.plain is not None, "a memory keeps samples as they are stored"
        self.pending.append((batch, None if logits is None else logits.detach().float()))

    @torch.no_grad()
    def keep(self) -> None:
        """Called after each step, on all ranks: put what the batch brought where it belongs."""
        pieces, self.pending = self.pending, []
        self.steps += 1
        if not pieces:
            return
        batches = [batch for batch, _ in pieces]
        places = [batch.place or (0, len(batch.index)) for batch in batches]
        here = torch.cat([first + torch.arange(len(batch.index)) for (first, _), batch in zip(places, batches, strict=True)])
        targets = shared(torch.cat([batch.targets for batch in batches]), here, places[0][1])
        taken = self.places(targets)
        if not taken:
            return
        where = {position: number for number, position in enumerate(taken.values())}
        mine = [number for number, position in enumerate(here.tolist()) if position in where]
        at = torch.tensor([where[position] for position in here.tolist() if position in where], dtype=torch.int64)
        slots = torch.tensor(list(taken), device=self.index.device)

        def chosen(column: Tensor) -> Tensor:
            """Those rows of the whole batch that are kept, in the order of `slots`, whichever rank has them."""
            return shared(column[mine], at, len(taken))

        plain = concatenated([batch.plain for batch in batches if batch.plain is not None])
        for buffer, column in zip(columns(self.samples), columns(plain), strict=True):
            buffer.index_copy_(0, slots, chosen(column))
        self.targets[slots] = targets[list(taken.values())]
        self.index[slots] = chosen(torch.cat([batch.index for batch in batches]))
        if self.with_logits:
            logits = chosen(torch.cat([answer for _, answer in pieces if answer is not None]))
            self.logits[slots] = 0
            self.logits[slots, : logits.shape[1]] = logits
            self.widths[slots] = logits.shape[1]

    def places(self, targets: Tensor) -> dict[int, int]:
        """Which slots the samples of a whole batch take, in the order in which they came: slot -> position in the batch; the last to take a slot has it."""
        if self.select == "balanced":
            return self.balanced(targets.tolist())
        number = torch.arange(self.seen, self.seen + len(targets))
        slots = torch.where(number < self.size, number, draws.integers(number + 1, self.seed, "reservoir", number))
        self.seen += len(targets)
        self.filled = min(self.seen, self.size)
        kept = (slots < self.size).nonzero().flatten().tolist()
        return {int(slots[position]): position for position in kept}

    def balanced(self, labels: list[int]) -> dict[int, int]:
        """Algorithm 1 of Chrysakis & Moens 2020."""
        held, taken = self.targets.tolist(), dict[int, int]()
        number = torch.arange(self.seen, self.seen + len(labels))
        luck = draws.uniform(self.seed, "balanced", number).tolist()
        which = draws.uniform(self.seed, "balanced slot", number).tolist()
        for position, label in enumerate(labels):
            self.seen_of[label] += 1
            slot = None
            if self.filled < self.size:
                slot, self.filled = self.filled, self.filled + 1
            else:
                sizes = {other: held.count(other) for other in set(held)}
                largest = max(sizes.values())
                for other, size in sizes.items():
                    self.full[other] |= size == largest
                if not self.full[label]:
                    victims = [place for place, other in enumerate(held) if sizes[other] == largest]
                    slot = victims[int(which[position] * len(victims))]
                elif luck[position] <= sizes.get(label, 0) / self.seen_of[label]:
                    own = [place for place, other in enumerate(held) if other == label]
                    slot = own[int(which[position] * len(own))]
            if slot is not None:
                held[slot] = label
                taken.pop(slot, None)
                taken[slot] = position
        self.seen += len(labels)
        return taken

    @torch.no_grad()
    def fill(self, samples: Inputs, targets: Tensor, index: Tensor) -> None:
        """Hold exactly these samples, at most `size`, in this order."""
        count = len(targets)
        assert count <= self.size, (count, self.size)
        own = columns(self.samples)
        for buffer, column in zip(own, columns(samples), strict=True):
            buffer[:count] = column.to(buffer.device)
        self.targets.fill_(EMPTY)
        self.targets[:count], self.index[:count] = targets.to(self.targets.device), index.to(self.index.device)
        self.filled = count

    def held(self) -> tuple[Inputs, Tensor, Tensor]:
        """Samples, targets and index of the slots that are taken."""
        return mapped(self.samples, lambda column: column[: self.filled]), self.targets[: self.filled], self.index[: self.filled]


def shared(own: Tensor, positions: Tensor, count: int) -> Tensor:
    """[count, ...] of which this rank has the rows at `positions` and the others have the rest; exact, since every row is one rank's and zero elsewhere."""
    whole = torch.zeros((count, *own.shape[1:]), dtype=own.dtype, device=own.device)
    whole[positions.to(own.device)] = own
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(whole)
    return whole
