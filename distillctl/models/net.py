"""Build the net that a model's configuration names, with random or published weights."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import nn
from torch.overrides import TorchFunctionMode

from distillctl.config import ModelConfig
from distillctl.errors import CheckpointError, ConfigError
from distillctl.models import arguments, catalogue
from distillctl.models.edits import Edit, apply_edits
from distillctl.models.published import AUXILIARY, find_published, load_published, triple, usual_statistics
from distillctl.models.stem import small_stem
from distillctl.models.trace import pixels, trace

SMALL = 64  # px: below this the stem of a net made for 224 px throws most of the image away


@dataclass(frozen=True)
class Net:
    """A net and what is needed to build it again: `rebuild(source, name, num_classes, args, edits)`.

    mean, std: of the images that its weights were trained on, as published or as the config says; None where nobody says. input_size: the resolution
    in px that the net is built for; None of a net that takes no images.
    """

    module: nn.Module
    source: str
    name: str
    stem: str
    edits: tuple[Edit, ...]
    args: dict[str, Any]
    mean: tuple[float, float, float] | None
    std: tuple[float, float, float] | None
    input_size: int | None
    reader: Any = None  # how it reads samples, where that is its own: of texts their tokens


def build_net(config: ModelConfig | Mapping[str, Any], num_classes: int, image_size: int, key: str = "student") -> Net:
    """The net that `config` names, for images of `image_size` px. Weights from `config.checkpoint` are not read here.

    key: where the configuration stands, for messages. Random weights depend on torch's global generator alone.
    """
    return _build(_as_model_config(config), num_classes, image_size, key, load=True)


def plan_net(config: ModelConfig | Mapping[str, Any], num_classes: int, image_size: int, key: str = "student") -> Net:
    """As `build_net` on the meta device: the same names, shapes and errors, but no weights, no download, next to no memory."""
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                return _build(_as_model_config(config), num_classes, image_size, key, load=False)
        except NotImplementedError:  # torchvision's regnets compute their widths with tensors
            pass
        with _ParametersOnMeta():
            return _build(_as_model_config(config), num_classes, image_size, key, load=False)


def _build(config: ModelConfig, num_classes: int, image_size: int, key: str, load: bool) -> Net:
    source, name = catalogue.resolve(config.name, config.source, key)
    if source in catalogue.TEXT_SOURCES:
        raise ConfigError(f"{key}={config.name} reads texts, and the data set has images; take one that sees images, as {key}=resnet20")
    args = arguments.checked(_builder(source, name), name, config.args, key)
    published = find_published(source, name, num_classes, config.new_head, key) if config.pretrained else None
    # published weights see what they were trained on, unless the configuration says otherwise
    native = published.size if published and config.stem != "small" else image_size
    size = config.image_size or native
    stem = _stem(config.stem, source, size)
    args = {**(published.args if published else {}), **_size_args(source, name, size, stem, published is not None, args), **args}
    try:
        module = _construct(source, name, num_classes, args, key, user_args=config.args)
    except ConfigError:
        if config.args or not _takes_size(args):
            raise
        raise _too_small(source, name, args, size, key) from None
    runs = trace(module, pixels(size))[1] is None
    edits: tuple[Edit, ...] = ()
    if stem == "small" and source != "cifar" and not _takes_size(args):
        try:
            edits = small_stem(module, size, keep_kernels=published is not None, key=key)
        except ConfigError:
            if runs:
                raise
            raise _too_small(source, name, args, size, key) from None
    elif not runs:
        raise _too_small(source, name, args, size, key)
    if published and load:
        load_published(module, source, name, num_classes, args, size, config.new_head, key)
    mean, std = (published.mean, published.std) if published else usual_statistics(source, name) if config.checkpoint else (None, None)
    return Net(module, source, name, stem, edits, args, triple(config.mean) or mean, triple(config.std) or std, size)


class _ParametersOnMeta(TorchFunctionMode):
    """The meta device for the tensors that modules are made of, but not for the small ones that a net counts with."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = dict(kwargs or {})
        if function in (torch.empty, torch.zeros, torch.ones) and given.get("device") is None:
            given["device"] = "meta"
        return function(*args, **given)


def rebuild(
    source: str,
    name: str,
    num_classes: int,
    args: Mapping[str, Any],
    edits: Any,
    key: str = "student",
    added: Mapping[str, Any] | None = None,
) -> nn.Module:
    """The module of a `Net` from what describes it, with random weights; all of that may come from JSON. `added`: a user's own args on top.

    Names and arguments are held against what a config may say. Raises CheckpointError, and ConfigError about what was added.
    """
    if source == "transformers":
        return _rebuilt_transformer(num_classes, {**args, **(added or {})})
    try:
        resolved = catalogue.resolve(name, source, "name")
    except ConfigError:
        resolved = None
    if resolved != (source, name):
        raise CheckpointError(f"its record names {name[:60]!r} of {source}, which is not known here")
    if reserved := arguments.RESERVED.keys() & args.keys():
        raise CheckpointError(f"its record gives {name} the argument {min(reserved)}, which is not for a record to say")
    builder = _builder(source, name)
    given = arguments.checked(builder, name, added or {}, key)
    try:
        recorded = arguments.checked(builder, name, args, "architecture")
        module = _construct(source, name, num_classes, {**recorded, **given}, key, user_args={**recorded, **given})
    except ConfigError as error:
        if given:
            raise
        raise CheckpointError(f"its record describes no {name} that can be built: {str(error)[:300]}") from None
    apply_edits(module, edits)
    return module


def _rebuilt_transformer(num_classes: int, settings: Mapping[str, Any]) -> nn.Module:
    from distillctl.models.text import transformer

    try:
        return transformer.build(settings, num_classes)
    except ConfigError as error:
        raise CheckpointError(f"its record describes no net that can be built: {error}") from None


def _as_model_config(config: ModelConfig | Mapping[str, Any]) -> ModelConfig:
    if isinstance(config, ModelConfig):
        return config
    plain = OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else dict(config)
    assert isinstance(plain, dict)
    known = {each.name for each in fields(ModelConfig)}
    return ModelConfig(**{str(name): value for name, value in plain.items() if name in known})


def _stem(wanted: str, source: str, size: int) -> str:
    if source == "cifar":
        return "small"
    if wanted != "auto":
        return wanted
    return "small" if size < SMALL else "large"


def _construct(source: str, name: str, num_classes: int, args: dict[str, Any], key: str, user_args: Mapping[str, Any]) -> nn.Module:
    builder = _builder(source, name)
    given = dict(args)
    if source == "torchvision":
        given["weights"] = None
        if name in AUXILIARY:
            given |= {"aux_logits": False, "init_weights": True}
    if source == "timm":
        import timm

        builder = timm.create_model
        given |= {"model_name": name, "pretrained": False, "in_chans": 3}
    try:
        return builder(num_classes=num_classes, **given)
    except Exception as error:  # a library may object to a value in any way it likes
        if isinstance(error, NotImplementedError) and torch.get_default_device().type == "meta":
            raise  # not the value, the device: see plan_net
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        shown = ", ".join(f"{arg}={value!r}" for arg, value in user_args.items())
        if shown:
            raise ConfigError(f"{key}.args: {name} does not take {shown} ({reason})") from None
        shown = ", ".join(f"{arg}={value!r}" for arg, value in args.items())
        raise ConfigError(f"{key}={name}: cannot be built{f' with {shown}' if shown else ''} ({reason})") from None


def _builder(source: str, name: str) -> Callable[..., nn.Module]:
    if source == "cifar":
        return getattr(importlib.import_module(f"distillctl.models.cifar.{catalogue.CIFAR[name]}"), name)
    if source == "text":
        return getattr(importlib.import_module(f"distillctl.models.text.{name}"), name)
    if source == "torchvision":
        from torchvision.models import get_model_builder

        return get_model_builder(name)
    from timm.models import model_entrypoint

    return model_entrypoint(name.partition(".")[0])


def _size_args(source: str, name: str, size: int, stem: str, pretrained: bool, args: Mapping[str, Any]) -> dict[str, Any]:
    """What nets need to be told about the resolution: those that embed positions, and have no strides to edit."""
    if source == "torchvision":
        if name.startswith("vit_"):
            return {"image_size": size}
        return {"input_size": [size, size]} if name.startswith("maxvit") else {}
    if source != "timm":
        return {}
    from timm.models import get_pretrained_cfg

    known = arguments.parameters(_builder(source, name))
    described = get_pretrained_cfg(name.partition(".")[0])
    if "img_size" not in known or described is None or not described.fixed_input_size:
        return {}
    found: dict[str, Any] = {"img_size": size}
    if stem == "small" and not pretrained and "patch_size" in known and "patch_size" not in args:
        smaller = max(2, size // 8)
        patch = _patch_size(name, found)
        if patch is not None and patch > smaller and _patch_size(name, {**found, "patch_size": smaller}) == smaller:
            found["patch_size"] = smaller
    return found


def _takes_size(args: Mapping[str, Any]) -> bool:
    return any(each in args for each in ("img_size", "image_size", "input_size"))


def _patch_size(name: str, args: Mapping[str, Any]) -> int | None:
    """What one patch of a timm transformer covers, in px; None where the net cannot be built so."""
    import timm

    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        try:
            module = timm.create_model(name.partition(".")[0], pretrained=False, **args)
        except Exception:  # a library may object in any way it likes
            return None
    patches = (getattr(part, "patch_size", None) for part in module.modules())
    patch = next((each for each in patches if each is not None), None)
    return patch[0] if isinstance(patch, (tuple, list)) else patch


def _too_small(source: str, name: str, args: dict[str, Any], size: int, key: str) -> ConfigError:
    message = f"{key}={name}: image too small: it cannot take {size} px"
    for larger in (32, 64, 75, 96, 112, 128, 160, 192, 224, 240, 256, 299, 384, 448, 512):
        if larger <= size:
            continue
        try:
            with torch.device("meta"), torch.random.fork_rng(devices=[]):
                sizes: dict[str, Any] = {"img_size": larger, "image_size": larger, "input_size": [larger, larger], "patch_size": None}
                tried = {arg: sizes.get(arg, value) for arg, value in args.items() if sizes.get(arg, value) is not None}
                fits = trace(_construct(source, name, 10, tried, key, {}), pixels(larger))[1] is None
        except (ConfigError, NotImplementedError):
            fits = False
        if fits:
            return ConfigError(f"{message}; set {key}.image_size={larger}, or choose another net")
    return ConfigError(f"{message}; choose another net")
