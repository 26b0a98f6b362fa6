"""How much of a model's accuracy is left when its images are attacked."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from distillctl.config import AttackConfig
from distillctl.losses.logits import cross_entropy
from distillctl.methods.attack import Pgd, pixels_of
from distillctl.metrics import autoattack
from distillctl.metrics.quality import top_k_accuracy
from distillctl.modes import evaluating
from distillctl.runtime import Runtime
from distillctl.types import Batch


def robust_accuracy(model: nn.Module, batches: Iterable[Batch], config: AttackConfig, seed: int, runtime: Runtime) -> dict[str, Any]:
    """`robust_top1`, the accuracy under an attack against the labels, and the attack: PGD of `config.eval_steps` steps, or AutoAttack.

    An upper bound of what a stronger attack would leave.
    """
    if config.name == autoattack.NAME:
        return autoattack.robust_accuracy(model, batches, config, seed, runtime)
    attack = Pgd.for_measuring(config, seed)
    logits, targets = attacked_answers(model, batches, attack, runtime)
    return {"robust_top1": top_k_accuracy(logits, targets, 1), "attack": {"name": config.name, **asdict(attack)}}


def attacked_answers(model: nn.Module, batches: Iterable[Batch], attack: Pgd, runtime: Runtime) -> tuple[Tensor, Tensor]:
    """Logits float32 [N, K] for attacked images and targets int64 [N], on the CPU, of all ranks' batches; the model's mode is restored.

    The attack is computed in fp32 whatever the answers are: bf16 blurs the gradient, and a blurred attack flatters the model.
    """
    logits, targets = [], []
    with evaluating(model):
        for batch in batches:
            worst = attack.perturb(model, pixels_of(batch), against(batch.targets), attack.draws(batch))
            with torch.inference_mode(), runtime.autocast():
                logits.append(model(worst).logits.float())
            targets.append(batch.targets)
    return runtime.gather(torch.cat(logits).cpu()), runtime.gather(torch.cat(targets).cpu())


def against(labels: Tensor) -> Callable[[Tensor], Tensor]:
    """What the attack makes large: the cross-entropy of logits [B, K] with these labels."""
    return lambda logits: cross_entropy(logits, labels)
