"""Where the steps run: device, precision, and this process's place among its ranks."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from distillctl.config import TrainerConfig
from distillctl.errors import WORKER_DIED, ConfigError, Diverged, MachineError, UserError
from distillctl.rank import Rank

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
ALLOWED = {"cpu": ("fp32", "bf16"), "cuda": ("fp32", "bf16", "fp16")}


@dataclass(frozen=True)
class Runtime:
    """What the loop needs to know of the machine; made once a process."""

    device: torch.device
    precision: torch.dtype
    rank: int = 0
    world: int = 1
    sync_batchnorm: bool = True

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def name(self) -> str:
        """For people."""
        threads = torch.get_num_threads()
        cores = f"CPU ({threads} thread{'s' if threads != 1 else ''})"
        device = cores if self.device.type == "cpu" else torch.cuda.get_device_name(self.device)
        return f"{self.world} x {device}" if self.world > 1 else device

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32)

    def scaler(self) -> torch.amp.GradScaler:
        return torch.amp.GradScaler(self.device.type, enabled=self.precision == torch.float16)

    def wrap(self, method: nn.Module) -> nn.Module:
        """The method under DDP where there are several ranks, so that a loss's own parameters sync like the student's."""
        if self.world == 1:
            return method
        devices = [self.device.index] if self.device.type == "cuda" else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # broadcast_buffers has a new name that torch 2.11 does not know
            return nn.parallel.DistributedDataParallel(
                method,
                device_ids=devices,
                broadcast_buffers=not self.sync_batchnorm,
                find_unused_parameters=len(getattr(method, "players", ())) > 1,  # one player's step leaves the others' parameters alone
            )

    def share_statistics(self, module: nn.Module) -> nn.Module:
        """Batch norm over the whole batch instead of a rank's piece, so that the number of ranks changes no result."""
        if self.world == 1 or not self.sync_batchnorm:
            return module
        from distillctl.batchnorm import convert

        tapped = {name: part for name, part in module.named_modules() if part._forward_hooks or part._forward_pre_hooks}
        module = nn.SyncBatchNorm.convert_sync_batchnorm(module) if self.device.type == "cuda" else convert(module)
        for name, part in tapped.items():  # a new module in the place of a batch norm has none of its hooks
            module.get_submodule(name)._forward_hooks.update(part._forward_hooks)
            module.get_submodule(name)._forward_pre_hooks.update(part._forward_pre_hooks)
        return module

    def mean(self, values: Tensor) -> Tensor:
        """Mean of a tensor over the ranks; NaN anywhere is NaN everywhere."""
        if self.world > 1:
            values = values.clone()
            dist.all_reduce(values)
            values /= self.world
        return values

    def highest(self, number: int) -> int:
        """The largest of the ranks' numbers."""
        if self.world == 1:
            return number
        shared = torch.tensor(number, device=self.device)
        dist.all_reduce(shared, op=dist.ReduceOp.MAX)
        return int(shared.item())

    def gather(self, piece: Tensor) -> Tensor:
        """The ranks' pieces, interleaved again: rank r holds items r, r + world, ... of the result."""
        if self.world == 1:
            return piece
        pieces: list[Any] = [None] * self.world
        dist.all_gather_object(pieces, piece.cpu())
        total = sum(len(item) for item in pieces)
        whole = torch.empty((total, *piece.shape[1:]), dtype=piece.dtype)
        for rank, item in enumerate(pieces):
            whole[rank :: self.world] = item
        return whole

    def from_main(self, value: Any) -> Any:
        """Rank 0's value, on every rank."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def barrier(self) -> None:
        if self.world > 1:
            dist.barrier()


@contextlib.contextmanager
def open_runtime(config: TrainerConfig) -> Iterator[Runtime]:
    """This process's runtime, within the process group that the environment describes (RANK, WORLD_SIZE, ...)."""
    here = Rank.here()
    world, rank = here.world, here.number
    device = choose_device(config.device, local_rank=here.local_number, world=world)
    precision = choose_precision(config.precision, device)
    torch.set_num_threads(threads_for(config, device, world))
    if world == 1:
        yield Runtime(device, precision)
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo", timeout=timedelta(seconds=config.timeout_s), world_size=world, rank=rank
        )
    except (RuntimeError, dist.DistError) as error:
        if "EADDRINUSE" in str(error) or "address already in use" in str(error):
            port = os.environ.get("MASTER_PORT")
            raise MachineError(f"port {port} is in use; pass another with torchrun --master-port, or set MASTER_PORT") from None
        raise
    try:
        yield Runtime(device, precision, rank, world, config.sync_batchnorm)
    finally:
        dist.destroy_process_group()


def threads_for(config: TrainerConfig, device: torch.device, world: int) -> int:
    """Of each process: what is asked for, or on a CPU its share; else as they are."""
    shared = max(1, (os.cpu_count() or 1) // world) if world > 1 and device.type == "cpu" else torch.get_num_threads()
    return config.threads or shared


def choose_device(name: str, local_rank: int = 0, world: int = 1) -> torch.device:
    """`auto`: the GPU where there is one. Raises MachineError rather than falling back to something slower in silence."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        name = "cuda" if count else "cpu"
    kind, _, index = name.partition(":")
    if kind not in ALLOWED or (index and (not index.isdigit() or kind == "cpu")):
        raise ConfigError(f"trainer.device={name}: expected auto, cpu, cuda or cuda:N")
    if kind == "cpu":
        return torch.device("cpu")
    if not count:
        raise MachineError(f"trainer.device={name}: no GPU is visible; use trainer.device=cpu")
    position = int(index) if index else local_rank
    if position >= count:
        way_out = f"trainer.devices={count}" if world > 1 else f"trainer.device=cuda:{count - 1}"
        raise MachineError(f"trainer.device=cuda:{position}: this machine has cuda:0 to cuda:{count - 1}; use {way_out}")
    return torch.device("cuda", position)


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """`auto`: bf16 where the hardware computes it, fp16 on older GPUs, fp32 on older CPUs."""
    if name == "auto":
        return best_precision(device)
    if name not in ALLOWED[device.type]:
        raise ConfigError(f"trainer.precision={name} does not work on {device.type}; it can do {', '.join(ALLOWED[device.type])}")
    if name == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ConfigError(f"trainer.precision=bf16: {torch.cuda.get_device_name(device)} does not compute it; use fp16 or fp32")
    return PRECISIONS[name]


def best_precision(device: torch.device) -> torch.dtype:
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if cpu_computes_bf16() else torch.float32


def cpu_computes_bf16() -> bool:
    """Whether the CPU multiplies bf16 by itself; elsewhere it is emulated, and slower than fp32."""
    capabilities = torch.backends.cpu.get_cpu_capability()
    if not capabilities.startswith("AVX512"):
        return capabilities.startswith("SVE")
    try:
        flags = open("/proc/cpuinfo").read()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def precision_name(precision: torch.dtype) -> str:
    return next(name for name, value in PRECISIONS.items() if value == precision)


def explain(error: BaseException) -> UserError | None:
    """The line for what a machine ran out of; None where the machine is not to blame."""
    message = str(error)
    if isinstance(error, torch.OutOfMemoryError) or "out of memory" in message.lower():
        return MachineError(f"out of GPU memory; {MEMORY_KNOBS}, trainer.precision=bf16")
    if isinstance(error, MemoryError) or "can't allocate memory" in message or "DefaultCPUAllocator" in message:
        return MachineError(f"out of memory; {MEMORY_KNOBS}, dataset.workers=0, dataset.in_memory=never")
    if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        return MachineError(f"trainer.compile=true: torch.compile failed ({type(error).__name__}); set trainer.compile=false")
    if "DataLoader worker (pid" in message:  # not "in DataLoader worker process": that one lived to tell what went wrong
        return MachineError(WORKER_DIED)
    if "Expected more than 1 value per channel" in message:
        return ConfigError(
            "trainer.batch_size: batch norm has one value a channel to go by, as an image stands alone on a map of one pixel; "
            "take trainer.batch_size=2 or more, trainer.accumulate=1, or a larger dataset.image_size"
        )
    if isinstance(error, OSError) and error.errno in (28, 122):
        return MachineError(f"{error.filename or 'disk'}: {error.strerror}; free some space and resume")
    return None


MEMORY_KNOBS = "try trainer.accumulate=2 (same result, less memory), a smaller trainer.batch_size or dataset.image_size"


def diverged(part: str, value: float, epoch: int, step: int) -> Diverged:
    """`epoch` and `step` are those that were done before."""
    return Diverged(
        f"loss is {value} at epoch {epoch + 1} step {step + 1} ({part}); nothing was saved since, the last checkpoint is good: "
        f"try optimizer.lr/10, trainer.clip_norm=1 or trainer.precision=fp32"
    )
