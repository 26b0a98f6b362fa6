"""Low-rank adapters in a net's linear layers, and the net's own weights with them merged in."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from distillctl import extras
from distillctl.config import LoraConfig
from distillctl.errors import ConfigError

ADAPTER = "default"  # peft's name for the only one


def require_peft(where: str = "train=lora") -> None:
    """where: the key that asks for it. Raises ConfigError where it is not installed."""
    if not extras.is_installed("peft"):
        raise ConfigError(f"{where} needs peft: {extras.pip_line('lora')}")


def adapt(net: nn.Module, layers: Sequence[str], config: LoraConfig, seed: int) -> None:
    """W x becomes W x + (alpha / rank) B A x in each of `layers`, in place; A is random by `seed`, B zero (Hu et al. 2022).

    The names in the state dict change: `plain_state` gives the net's own.
    """
    require_peft()
    import peft

    exactly_these = "|".join(map(re.escape, layers))
    torch.manual_seed(seed)
    peft.inject_adapter_in_model(
        peft.LoraConfig(r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=exactly_these, bias="none"),
        net,
        adapter_name=ADAPTER,
    )


def is_adapter(module: str) -> bool:
    """Whether a module of an adapted net is a part of an adapter, by its name."""
    return ".lora_" in f".{module}"


@torch.no_grad()
def plain_state(net: nn.Module) -> dict[str, Tensor]:
    """The state dict of a net, adapters merged into the layers they adapt: W + (alpha / rank) B A, under the net's own names."""
    state = net.state_dict()
    adapted = {name: part for name, part in net.named_modules() if hasattr(part, "base_layer") and hasattr(part, "get_delta_weight")}
    if not adapted:
        return state
    merged = {name.replace(".base_layer.", "."): value for name, value in state.items() if not is_adapter(name)}
    for name, layer in adapted.items():
        merged[f"{name}.weight"] = merged[f"{name}.weight"] + layer.get_delta_weight(ADAPTER)
    return merged
