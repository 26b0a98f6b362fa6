"""What must hold of the keys of `budget`, beyond their types and ranges."""

from __future__ import annotations

from distillctl.config.deploy import BudgetConfig
from distillctl.config.schema import CompressConfig

FASTEST_MS = 1e-3  # a call of a runtime that does nothing takes longer
MEASURED = ("none", "onnx", "openvino", "litert", "torch_export", "executorch")  # formats whose file can be run where it is made


def has_budget(budget: BudgetConfig) -> bool:
    """Whether anything is asked of the file; `max_drop` alone says how much a file may lose that nobody asks for."""
    return any(limit is not None for limit in (budget.latency_ms, budget.size_mb, budget.macs))


def check_budget(_: str, config: CompressConfig) -> list[str]:
    budget, problems = config.budget, []
    if not has_budget(budget):
        if budget.max_drop != BudgetConfig.max_drop:
            problems.append(
                f"budget.max_drop={budget.max_drop:g} alone asks for nothing: give budget.size_mb, budget.latency_ms or budget.macs"
            )
        return problems
    if budget.latency_ms is not None and 0 < budget.latency_ms < FASTEST_MS:
        problems.append(f"budget.latency_ms={budget.latency_ms:g}: no file answers in less than {FASTEST_MS:g} ms; raise it")
    if budget.macs == 1:
        problems.append("budget.macs=1: all multiply-accumulates stay, so nothing is asked; half of them: budget.macs=0.5")
    return problems + check_beside(config)


def check_beside(config: CompressConfig) -> list[str]:
    """What does not go with a budget."""
    prune, problems = config.prune, []
    if prune.name == "unstructured":
        problems.append("prune=unstructured: zeros make no file smaller or faster, so they meet no budget; take prune=magnitude")
    if prune.steps > 1:
        problems.append(f"prune.steps={prune.steps}: each level of a budget is cut in one step; leave it out")
    if config.finetune.epochs and config.quantize.name != "qat":
        problems.append(f"finetune.epochs={config.finetune.epochs}: each level of a budget is trained again by distill.epochs; set that")
    if config.baseline:
        problems.append("baseline=true: a budget tries several levels, and a net trained from fresh weights has one; leave it out")
    if config.export.format not in MEASURED:
        problems.append(
            f"export.format={config.export.format}: a budget is measured on the file; take export.format=onnx, then distillctl export checkpoint=<its folder>"
        )
    if not config.dataset.labels:
        problems.append("dataset.labels=false: budget.max_drop is about accuracy, which needs labels")
    return problems
