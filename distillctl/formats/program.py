"""What is exported: a net with what comes before it, which makes pixels what it takes, and what comes behind it, which makes probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from distillctl.models.logits import logits_of


class Program(nn.Module):
    """Answers (probabilities [N, K], logits [N, K]), float32; probabilities are those of the logits over the temperature.

    With `before` it takes images uint8 [N, H, W, 3], without what the net takes.
    """

    def __init__(self, net: nn.Module, before: nn.Module | None, temperature: float):
        super().__init__()
        self.net, self.before, self.temperature = net, before, temperature

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        logits = logits_of(self.net(inputs if self.before is None else self.before(inputs)), None)
        return (logits / self.temperature).softmax(-1), logits


class Preprocess(nn.Module):
    """Upright images uint8 [N, H, W, 3] of any one size to what a net takes of them: their middle, normalised, float32 [N, 3, size, size].

    size: of the middle that is seen. resolution: of the net, where it differs. fixed: for files that hold images of that size alone.
    """

    shift: Tensor
    scale: Tensor
    line: Tensor

    def __init__(
        self, size: int, resize: int, mean: Sequence[float], std: Sequence[float], resolution: int | None = None, fixed: bool = False
    ):
        super().__init__()
        self.middle = Middle(size, resize)
        self.fixed = fixed
        self.scaled = resolution is not None and resolution != size
        every = torch.eye(size)[None, None]  # of every pixel of a line alone, what becomes of it as models/adapter.py scales
        self.register_buffer("line", nn.functional.interpolate(every, (resolution or size, size), mode="bilinear", antialias=True)[0, 0])
        scale = 1 / torch.tensor(std, dtype=torch.float32)
        self.register_buffer("shift", (-torch.tensor(mean, dtype=torch.float32) * scale).view(1, 3, 1, 1))
        self.register_buffer("scale", (scale / 255).view(1, 3, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        seen = image.permute(0, 3, 1, 2).float() if self.fixed else self.seen(image)
        pixels = torch.addcmul(self.shift, seen, self.scale)
        return self.line @ (pixels @ self.line.transpose(0, 1)) if self.scaled else pixels

    def seen(self, image: Tensor) -> Tensor:
        """Where an image has the size already nothing is computed: most of what is measured does."""
        size = self.middle.size
        if not torch.compiler.is_exporting():  # torch.cond would compile it for every size
            return self.as_it_is(image) if image.shape[1:3] == (size, size) else self.middle(image)
        height, width = (torch.scalar_tensor(edge, dtype=torch.int64) for edge in image.shape[1:3])
        return torch.cond(height.eq(size) & width.eq(size), self.as_it_is, self.middle, (image,))

    def as_it_is(self, image: Tensor) -> Tensor:
        """For an image of the size. As a choice of rows and columns, so that the size of what comes out is known."""
        every = torch.arange(self.middle.size)
        rows, columns = every.clamp(max=image.shape[1] - 1), every.clamp(max=image.shape[2] - 1)
        return image.index_select(1, rows).index_select(2, columns).permute(0, 3, 1, 2).float().contiguous()


class Middle(nn.Module):
    """Upright images uint8 [N, H, W, 3] of any one size to float32 [N, 3, size, size] of whole numbers in [0, 255].

    What `data/image/upright.py: middle` does, which is Pillow's, up to rounding: the middle of the short edge, as if that became `resize` px
    first, scaled by a triangle filter, across and then down, rounded after each. As products of matrices, so that any runtime has it. Ties
    may be rounded otherwise, and newer versions of Pillow scale some tall images down first and then across: of noise every fourth pixel of
    those differs by a gray level (measured on 800 sizes, Pillow 13), and no pixel of any by more than two.
    """

    def __init__(self, size: int, resize: int):
        super().__init__()
        self.size, self.resize = size, resize

    def forward(self, image: Tensor) -> Tensor:
        pixels = image.permute(0, 3, 1, 2).float()
        height, width = image.shape[1], image.shape[2]
        short = torch.scalar_tensor(torch.sym_min(height, width), dtype=torch.int64)
        # in units of 1 / resize px, so that no edge depends on how a quotient is rounded
        side = torch.where(short > self.size, short * self.size, short * self.resize)
        across, down = self.filter(width, side), self.filter(height, side)
        return rounded(down @ rounded(pixels @ across.transpose(0, 1))).contiguous()

    def filter(self, edge: int, side: Tensor) -> Tensor:
        """What each of the `size` points of a line takes of its `edge` pixels, float32 [size, edge]; `side` px x resize of them are seen."""
        start = (edge * self.resize - side) // (2 * self.resize)
        scale = side.double() / (self.resize * self.size)
        centers = start.double() + (torch.arange(self.size, dtype=torch.float64) + 0.5) * scale
        away = torch.arange(edge, dtype=torch.float64)[None] + 0.5 - centers[:, None]
        weights = (1 - (away / scale.clamp(min=1)).abs()).clamp(min=0)
        return (weights / weights.sum(1, keepdim=True)).float()


def rounded(pixels: Tensor) -> Tensor:
    return (pixels + 0.5).floor().clamp(0, 255)
