"""Fetch the weights that torchvision and timm publish, or say what stands in the way."""

from __future__ import annotations

import contextlib
import os
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distillctl.errors import CheckpointError, ConfigError, MachineError, did_you_mean
from distillctl.models import catalogue
from distillctl.models.fitting import load_weights

AUXILIARY = ("googlenet", "inception_v3")  # these two can have classifiers on the way
DOWNLOAD_TIMEOUT_S = 30.0
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Published:
    """Weights that a library offers, not yet downloaded."""

    classes: int
    size: int
    mean: Triple | None
    std: Triple | None
    args: dict[str, Any]


def find_published(source: str, name: str, num_classes: int, new_head: bool, key: str) -> Published:
    if source == "cifar":
        also = next((each for each in ("torchvision", "timm") if catalogue.has(each, name)), None)
        way_out = f"set {key}.source={also} for the {name} of {also}, " if also else ""
        raise ConfigError(
            f"{key}.pretrained=true: no weights of the CIFAR net {name} are published; {way_out}"
            f"train it (pretrain.epochs=N), or set {key}.checkpoint=<file>"
        )
    found = _published_torchvision(name) if source == "torchvision" else _published_timm(name, key)
    if found is None:
        raise ConfigError(
            f"{key}.pretrained=true: {source} has no weights of {name}; set {key}.pretrained=false or {key}.checkpoint=<file>"
        )
    if found.classes != num_classes and not new_head:
        way_out = f"{key}.new_head=true pretrain.epochs=N" if key == "teacher" else f"{key}.new_head=true"
        raise ConfigError(
            f"{key}.pretrained=true: the weights of {name} know {found.classes} classes, the data set has {num_classes}; "
            f"for a new classifier on these weights set {way_out}"
        )
    return found


def _torchvision_weights(name: str) -> Any:
    from torchvision.models import get_model_weights

    return get_model_weights(name).DEFAULT


def _published_torchvision(name: str) -> Published:
    weights = _torchvision_weights(name)
    preset = weights.transforms()
    crop = preset.crop_size[0] if isinstance(preset.crop_size, (list, tuple)) else preset.crop_size
    # these two were trained on [-1, 1] and re-normalise what they are given
    args = {"transform_input": True} if name in AUXILIARY else {}
    return Published(len(weights.meta["categories"]), crop, triple(preset.mean), triple(preset.std), args)


def _published_timm(name: str, key: str) -> Published | None:
    from timm.models import get_pretrained_cfg, list_pretrained

    architecture, _, tag = name.partition(".")
    tags = [each for each in list_pretrained(f"{architecture}.*") if each.partition(".")[0] == architecture]
    if tag and name not in tags:
        raise ConfigError(
            f"{key}={name}: no such weights; {did_you_mean(name, tags)}" if tags else f"{key}={name}: no weights are published"
        )
    described = get_pretrained_cfg(name, allow_unregistered=False)
    if described is None or not described.has_weights or not described.num_classes:
        return None
    return Published(described.num_classes, described.input_size[-1], triple(described.mean), triple(described.std), {})


def usual_statistics(source: str, name: str) -> tuple[Triple | None, Triple | None]:
    """Mean and deviation that timm gives a net, which its own scripts train by too; of a file of weights nothing else tells. Else None."""
    if source != "timm":
        return None, None
    from timm.models import get_pretrained_cfg

    described = get_pretrained_cfg(name) or get_pretrained_cfg(name.partition(".")[0])
    return (triple(described.mean), triple(described.std)) if described is not None else (None, None)


def triple(values: Any) -> Triple | None:
    """A number for each channel; None of None."""
    if values is None:
        return None
    first, second, third = (float(each) for each in values)
    return first, second, third


def load_published(
    module: nn.Module, source: str, name: str, num_classes: int, args: dict[str, Any], size: int, new_head: bool, key: str
) -> None:
    state = _fetch_timm(name, num_classes, args, key) if source == "timm" else _fetch_torchvision(name, key)
    if source == "torchvision" and name.startswith("vit_") and size != _published_torchvision(name).size:
        from torchvision.models.vision_transformer import interpolate_embeddings

        state = dict(interpolate_embeddings(size, module.patch_size, state))
    load_weights(module, state, f"{key}.pretrained", "true", name=name, new_head=new_head)


def _fetch_torchvision(name: str, key: str) -> dict[str, Tensor]:
    weights = _torchvision_weights(name)
    file = Path(torch.hub.get_dir(), "checkpoints", weights.url.rpartition("/")[2])
    there = file.exists()
    try:
        with _impatient():
            # torch.hub would run code from the file if weights_only were left out
            state: dict[str, Tensor] = weights.get_state_dict(check_hash=True, weights_only=True, map_location="cpu")
    except Exception as error:  # no network, a proxy, a full disk, a broken file: urllib, ssl, OS and pickle errors alike
        if there:
            raise CheckpointError(f"{file}: the downloaded weights of {name} are truncated or damaged; delete the file") from None
        raise MachineError(
            f"could not download the weights of {name} ({_reason(error)}): put the file in {file}, or set {key}.checkpoint=<file>"
        ) from None
    return state


def _fetch_timm(name: str, num_classes: int, args: dict[str, Any], key: str) -> dict[str, Tensor]:
    """timm converts what it downloads to fit (old names, positions), so it loads into a net of its own first."""
    import timm
    from timm.models import get_pretrained_cfg

    described = get_pretrained_cfg(name, allow_unregistered=False)
    assert described is not None, name
    file, url = _cached_timm(described), str(described.url)
    if described.hf_hub_id:
        url = f"https://huggingface.co/{described.hf_hub_id}/resolve/main/{described.hf_hub_filename or 'model.safetensors'}"
    try:
        if file is None:
            _reach(url)
        overlay = {"file": file} if file else None
        with _impatient():
            net = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=num_classes, in_chans=3, **args)
    except Exception as error:  # as above, and what huggingface_hub raises
        if file:
            raise CheckpointError(f"{file}: the downloaded weights of {name} are truncated or damaged; delete the file") from None
        raise MachineError(
            f"could not download the weights of {name} ({_reason(error)}): fetch {url}, and set {key}.checkpoint=<file>"
        ) from None
    return net.state_dict()


def _cached_timm(described: Any) -> str | None:
    """The file from an earlier download. timm would ask the hub about it first, and retry for most of a minute without a network."""
    if not described.hf_hub_id or described.custom_load:
        return None
    from huggingface_hub import try_to_load_from_cache

    for each in [described.hf_hub_filename] if described.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]:
        found = try_to_load_from_cache(described.hf_hub_id, each)
        if isinstance(found, str):
            return found
    return None


def _reach(url: str) -> None:
    """OSError at once where the host of `url` cannot be reached; behind a proxy only the download itself can tell."""
    if not urllib.request.getproxies():
        host = os.environ.get("HF_ENDPOINT") or url
        socket.create_connection((urllib.parse.urlsplit(host).hostname or host, 443), timeout=DOWNLOAD_TIMEOUT_S).close()


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
    return " ".join(str(reason).split())[:160] or type(error).__name__


@contextlib.contextmanager
def _impatient() -> Iterator[None]:
    """torch.hub sets no timeout: a network that swallows packets would hang it for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
