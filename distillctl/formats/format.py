"""What every format of exported files has to say of itself. No torch here: a file is run without it where its runtime needs none."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from distillctl import extras
from distillctl.errors import CheckpointError, ConfigError
from distillctl.files import hash_of, open_file

if TYPE_CHECKING:
    from distillctl.formats.program import Program

IMAGE, PIXELS = "image", "pixels"  # what a file takes: upright images uint8 [N, H, W, 3], or what its net takes, float32 [N, 3, S, S]
OUTPUTS = ("probabilities", "logits")  # of a file written here, in this order


@dataclass(frozen=True)
class Takes:
    """The input of a file. kind: IMAGE or PIXELS. batch: how many samples it takes at once; None: any number. size: in px, None: any."""

    kind: str
    batch: int | None = None
    size: int | None = None


class Runner(Protocol):
    """A file in its own runtime, on one thread unless told otherwise."""

    takes: Takes

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Logits float32 [N, K] for inputs as the file takes them."""
        ...


class PlainRunner(Runner):
    """One that takes images in one of the two ways as they are, and whose `once` answers a batch with all outputs. output: which are logits."""

    output = -1

    @property
    def dtype(self) -> type[np.generic]:
        """Of what it takes."""
        return np.uint8 if self.takes.kind == IMAGE else np.float32

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        return in_batches(lambda part: [self.once(part)[self.output]], inputs, self.takes.batch)[0].astype(np.float32, copy=False)

    @abstractmethod
    def once(self, inputs: np.ndarray) -> list[np.ndarray]:
        """All outputs for as many samples as it takes at once."""


def plainly(shape: Sequence[int | None], is_bytes: bool, is_floats: bool) -> Takes | None:
    """What an input of four dimensions takes, of which some may be unknown; None where that is none of the two ways."""
    if len(shape) == 4 and is_bytes and shape[3] == 3:
        return Takes(IMAGE, shape[0], shape[1])
    if len(shape) == 4 and is_floats and shape[1] == 3:
        return Takes(PIXELS, shape[0], shape[2])
    return None


@dataclass(frozen=True)
class Form:
    """How a file is written. opset: of ONNX; None: the format's own choice. precision: fp32, or one of what the format has besides."""

    preprocess: str = "inside"
    opset: int | None = None
    precision: str = "fp32"


class Format(ABC):
    """One kind of file. runtime: what people call the library that runs it. extra: the pip extra with all that it needs, by import names.

    inside: whether it can hold preprocessing; flexible: for images of any size, otherwise for those of the size alone that a net sees
    (`Preprocess(fixed=True)`). batch: whether it takes any number of samples at once, otherwise as many as the example has.
    precisions: what it can write of a float net by itself. elsewhere: why it cannot be run on this machine whatever is installed, else "".
    """

    name: ClassVar[str]
    suffix: ClassVar[str]
    runtime: ClassVar[str]
    extra: ClassVar[str]
    writes_by: ClassVar[tuple[str, ...]]
    runs_by: ClassVar[tuple[str, ...]]
    inside: ClassVar[bool] = True
    flexible: ClassVar[bool] = True
    batch: ClassVar[bool] = True
    precisions: ClassVar[tuple[str, ...]] = ("fp32",)

    @property
    def elsewhere(self) -> str:
        return ""

    @abstractmethod
    def write(self, program: Program, example: Any, file: Path, form: Form, metadata: Mapping[str, str]) -> None:
        """Write a program in eval mode. example: one batch of its inputs. Raises ConfigError where the net cannot be exported, which names what of it."""

    def check_form(self, form: Form) -> None:
        """Whether it can be written so. Raises ConfigError."""
        if form.opset is not None:
            raise ConfigError(f"export.opset={form.opset} is about ONNX, and export.format={self.name}; leave it out")

    @abstractmethod
    def open(self, file: Path, threads: int = 1) -> Runner:
        """Raises CheckpointError where the file is damaged or of another kind."""

    @abstractmethod
    def metadata(self, file: Path) -> Mapping[str, str]:
        """What `write` was given, read without running anything; empty of a file from elsewhere."""

    def parameters(self, file: Path) -> int:
        """How many a file from elsewhere has; 0 where that cannot be told."""
        return 0

    def files(self, file: Path) -> tuple[Path, ...]:
        """All that belongs to a file of this format, itself first: mostly itself alone."""
        return (file,)

    def digest(self, file: Path) -> str:
        """SHA-256 of a file; where several belong together, of a line `sha256  name` for each. Raises CheckpointError where one is missing."""
        parts = self.files(file)
        if len(parts) == 1:
            return hash_of(file)
        home = file if file.is_dir() else file.parent
        lines = []
        for part in parts:
            try:
                lines.append(f"{hash_of(part)}  {part.relative_to(home).as_posix()}\n")
            except OSError as error:
                raise CheckpointError(f"{file}: {part.name}: cannot be read ({error.strerror}); copy all that belongs to it") from None
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def check_can_write(self, asked: str) -> None:
        self.check_installed(self.writes_by, asked)

    def check_can_run(self, asked: str) -> None:
        self.check_installed(self.runs_by, asked)

    def check_installed(self, modules: tuple[str, ...], asked: str) -> None:
        """asked: the key and the value that want it. Raises MachineError with the line that installs what lacks."""
        extras.require(asked, modules, self.extra)


def content_of(file: Path) -> bytes:
    """All of a file. Raises CheckpointError."""
    try:
        with open_file(file) as source:
            return source.read()
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror})") from None


def in_batches(run: Callable[[np.ndarray], list[np.ndarray]], inputs: np.ndarray, batch: int | None) -> list[np.ndarray]:
    """What a file answers that takes `batch` samples at once, None for any number: the last of them stands for those that lack at the end."""
    if batch in (None, len(inputs)):
        return run(inputs)
    assert batch is not None
    padded = np.concatenate([inputs, np.repeat(inputs[-1:], -len(inputs) % batch, axis=0)])
    parts = [run(padded[start : start + batch]) for start in range(0, len(padded), batch)]
    return [np.concatenate(columns)[: len(inputs)] for columns in zip(*parts, strict=True)]
