"""Build the net that a model's configuration names, with random or published weights."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import socket
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from distillctl.config import ModelConfig
from distillctl.errors import CheckpointError, ConfigError, MachineError, did_you_mean
from distillctl.models import catalogue
from distillctl.models.stem import Edit, apply_edits, small_stem, trace
from distillctl.models.weights import load_weights

SMALL = 64  # px: below this the stem of a net made for 224 px throws most of the image away
DOWNLOAD_TIMEOUT_S = 30.0

# arguments that are not for `args`, and why
RESERVED = {
    **dict.fromkeys(("num_classes", "in_chans"), "the data set decides that"),
    **dict.fromkeys(("weights", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay"), "set {key}.pretrained=true instead"),
    **dict.fromkeys(("pretrained_strict", "pretrained_filter_fn", "pretrained_model_args"), "set {key}.pretrained=true instead"),
    **dict.fromkeys(("checkpoint_path", "cache_dir"), "set {key}.checkpoint=<file> instead"),
    **dict.fromkeys(("aux_logits", "init_weights", "features_only", "progress"), "not offered: a plain classifier is built"),
}
AUXILIARY = ("googlenet", "inception_v3")


@dataclass(frozen=True)
class Net:
    """A net and what is needed to build it again: `rebuild(source, name, num_classes, args, edits)`.

    mean, std: of the images that published weights were trained on; None with random weights. input_size: the resolution
    in px that the net is built for.
    """

    module: nn.Module
    source: str
    name: str
    stem: str
    edits: tuple[Edit, ...]
    args: dict[str, Any]
    mean: tuple[float, float, float] | None
    std: tuple[float, float, float] | None
    input_size: int


@dataclass(frozen=True)
class Published:
    """Weights that a library offers, not yet downloaded."""

    classes: int
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    args: dict[str, Any]


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
    args = _checked_args(source, name, config.args, key)
    published = _published(source, name, num_classes, config.new_head, key) if config.pretrained else None
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
    runs = trace(module, size)[1] is None
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
        _load_published(module, source, name, num_classes, args, size, config.new_head, key)
    mean, std = (published.mean, published.std) if published else (None, None)
    return Net(module, source, name, stem, edits, args, mean, std, size)


class _ParametersOnMeta(TorchFunctionMode):
    """The meta device for the tensors that modules are made of, but not for the small ones that a net counts with."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = dict(kwargs or {})
        if function in (torch.empty, torch.zeros, torch.ones) and given.get("device") is None:
            given["device"] = "meta"
        return function(*args, **given)


def rebuild(source: str, name: str, num_classes: int, args: Mapping[str, Any], edits: Any, key: str = "student") -> nn.Module:
    """The module of a `Net` from what describes it, with random weights; `edits` may come from JSON."""
    module = _construct(source, name, num_classes, dict(args), key, user_args=args)
    apply_edits(module, edits)
    return module


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
    except NotImplementedError:  # the meta device, see plan_net
        raise
    except Exception as error:  # a library may object to a value in any way it likes
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        shown = ", ".join(f"{arg}={value!r}" for arg, value in user_args.items())
        if shown:
            raise ConfigError(f"{key}.args: {name} does not take {shown} ({reason})") from None
        shown = ", ".join(f"{arg}={value!r}" for arg, value in args.items())
        raise ConfigError(f"{key}={name}: cannot be built{f' with {shown}' if shown else ''} ({reason})") from None


def _builder(source: str, name: str) -> Callable[..., nn.Module]:
    if source == "cifar":
        return getattr(importlib.import_module(f"distillctl.models.cifar.{catalogue.CIFAR[name]}"), name)
    if source == "torchvision":
        from torchvision.models import get_model_builder

        return get_model_builder(name)
    from timm.models import model_entrypoint

    return model_entrypoint(name.partition(".")[0])


# --- arguments -------------------------------------------------------------------------------------------------------


def _checked_args(source: str, name: str, args: Mapping[str, Any], key: str) -> dict[str, Any]:
    known = _parameters(_builder(source, name)) if args else {}
    offered = [each for each, default in known.items() if default is not None and each not in RESERVED]
    for arg, value in args.items():
        place = f"{key}.args.{arg}={value}"
        if arg in RESERVED:
            raise ConfigError(f"{place}: {RESERVED[arg].format(key=key)}")
        if arg not in known:
            raise ConfigError(f"{place}: {name} has no such argument; {did_you_mean(arg, offered) if offered else 'it takes none'}")
        wanted = known[arg]
        if wanted is not None and value is not None and not _fits_type(value, wanted):
            raise ConfigError(f"{place}: must be {_type_name(wanted)}, like its default {wanted!r}")
        if not _is_plain(value):
            raise ConfigError(f"{place}: must be a number, a word, a flag or a list of these")
    return dict(args)


def _parameters(builder: Callable[..., Any]) -> dict[str, Any]:
    """Every argument a builder hands on, with its default. It ends in **kwargs, so what it calls is looked at as well."""
    found: dict[str, Any] = {}
    package = builder.__module__.partition(".")[0]
    queue: list[Any] = [builder]
    visited: set[int] = set()
    while queue:
        callee = queue.pop(0)
        if id(callee) in visited:
            continue
        visited.add(id(callee))
        targets = [vars(each)["__init__"] for each in callee.__mro__ if "__init__" in vars(each)] if isinstance(callee, type) else [callee]
        for target in targets:
            target = inspect.unwrap(target)
            if not inspect.isfunction(target) or not target.__module__.startswith(package):
                continue
            parameters = list(inspect.signature(target).parameters.values())
            for each in parameters:
                if each.kind in (each.KEYWORD_ONLY, each.POSITIONAL_OR_KEYWORD) and each.name != "self":
                    default = None if each.default is each.empty else each.default
                    found.setdefault(each.name, default if isinstance(default, (bool, int, float, str)) else None)
            if isinstance(callee, type) or not _takes_any(target):
                continue
            named = [target.__globals__.get(each) for each in target.__code__.co_names]
            # a builder either passes its arguments on to a private function, or makes the net itself; classes that it
            # merely mentions in the first case are blocks
            passed_on = [each for each in named if inspect.isfunction(each) and each.__name__.startswith("_") and _takes_any(each)]
            queue += passed_on or [each for each in named if isinstance(each, type) and issubclass(each, nn.Module)]
    return found


def _takes_any(function: Callable[..., Any]) -> bool:
    return any(each.kind is each.VAR_KEYWORD for each in inspect.signature(function).parameters.values())


def _fits_type(value: Any, default: Any) -> bool:
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, (int, float)):
        return isinstance(value, (int, float, list, tuple))  # a size may be a pair
    return True


def _type_name(default: Any) -> str:
    return "true or false" if isinstance(default, bool) else "a number"


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_plain(each) for each in value)
    return value is None or isinstance(value, (bool, int, float, str))


# --- sizes -----------------------------------------------------------------------------------------------------------


def _size_args(source: str, name: str, size: int, stem: str, pretrained: bool, args: Mapping[str, Any]) -> dict[str, Any]:
    """What nets need to be told about the resolution: those that embed positions, and have no strides to edit."""
    if source == "torchvision":
        if name.startswith("vit_"):
            return {"image_size": size}
        return {"input_size": [size, size]} if name.startswith("maxvit") else {}
    if source != "timm":
        return {}
    from timm.models import get_pretrained_cfg

    known = _parameters(_builder(source, name))
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
                fits = trace(_construct(source, name, 10, tried, key, {}), larger)[1] is None
        except (ConfigError, NotImplementedError):
            fits = False
        if fits:
            return ConfigError(f"{message}; set {key}.image_size={larger}, or choose another net")
    return ConfigError(f"{message}; choose another net")


# --- published weights -----------------------------------------------------------------------------------------------


def _published(source: str, name: str, num_classes: int, new_head: bool, key: str) -> Published:
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
    return Published(len(weights.meta["categories"]), crop, _triple(preset.mean), _triple(preset.std), args)


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
    return Published(described.num_classes, described.input_size[-1], _triple(described.mean), _triple(described.std), {})


def _triple(values: Any) -> tuple[float, float, float]:
    first, second, third = (float(each) for each in values)
    return first, second, third


def _load_published(
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
    if name in AUXILIARY:
        state = {entry: tensor for entry, tensor in state.items() if not entry.startswith(("AuxLogits.", "aux1.", "aux2."))}
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
