"""What models can be named, and which library each name belongs to; found without importing torch."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

from distillctl.errors import ConfigError, did_you_mean, nearest

# name -> the file under models/cifar that defines it
CIFAR = {
    "resnet8": "resnet",
    "resnet14": "resnet",
    "resnet20": "resnet",
    "resnet32": "resnet",
    "resnet44": "resnet",
    "resnet56": "resnet",
    "resnet110": "resnet",
    "resnet8x4": "resnet",
    "resnet32x4": "resnet",
    "wrn_16_1": "wide_resnet",
    "wrn_16_2": "wide_resnet",
    "wrn_40_1": "wide_resnet",
    "wrn_40_2": "wide_resnet",
    "vgg8": "vgg",
    "vgg13": "vgg",
    "mobilenetv2_x0_5": "mobilenet",
    "shufflenetv1": "shufflenet",
    "shufflenetv2": "shufflenet",
}

# nets that read texts
TEXTS = {
    **dict.fromkeys(("bilstm", "textcnn", "bag"), "text"),
    **dict.fromkeys(("bert_tiny", "bert_mini", "bert_small", "bert_base", "transformer", "causal_lm"), "transformers"),
}

IMAGE_SOURCES, TEXT_SOURCES = ("cifar", "torchvision", "timm"), ("text", "transformers")
SOURCES = (*IMAGE_SOURCES, *TEXT_SOURCES)  # in the order in which a name is looked for

ALIASES = {
    "mobilenetv2": "mobilenet_v2",
    "mobilenetv2_half": "mobilenetv2_x0_5",
    "mobilenetv3_small": "mobilenet_v3_small",
    "mobilenetv3_large": "mobilenet_v3_large",
    "shufflenet_v1": "shufflenetv1",
    "shufflenet_v2": "shufflenet_v2_x1_0",
    "squeezenet": "squeezenet1_1",
    "efficientnetb0": "efficientnet_b0",
    "wide_resnet_16_1": "wrn_16_1",
    "wide_resnet_16_2": "wrn_16_2",
    "wide_resnet_40_1": "wrn_40_1",
    "wide_resnet_40_2": "wrn_40_2",
    "inceptionv3": "inception_v3",
    "vit_tiny": "vit_tiny_patch16_224",
    "vit_small": "vit_small_patch16_224",
    "deit_tiny": "deit_tiny_patch16_224",
    "deit_small": "deit_small_patch16_224",
}

# offered at completion; every other name works as well
FEATURED = (
    *CIFAR,
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "wide_resnet50_2"),
    *("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "squeezenet1_1"),
    *(name for name in TEXTS if name != "causal_lm"),  # which teaches alone
    *("efficientnet_b0", "efficientnet_v2_s", "regnet_y_400mf", "densenet121", "vgg11", "vgg16", "convnext_tiny", "swin_t", "vit_b_16"),
)


def model_names(source: str | None = None) -> dict[str, str]:
    """name -> source. A name that two libraries have belongs to the one that is looked through first."""
    if source is not None:
        return dict.fromkeys(_names_of(source), source)
    found: dict[str, str] = {}
    for each in reversed(SOURCES):
        found.update(dict.fromkeys(_names_of(each), each))
    return found


def resolve(name: str, source: str = "auto", key: str = "student") -> tuple[str, str]:
    """(source, the name that this source knows). A timm name may carry a tag: `resnet50.a1_in1k`."""
    if any(mark in name for mark in "/\\:"):
        raise ConfigError(
            f"{key}={name}: name a model, and give its weights as {key}.checkpoint=<file>; one that reads texts, of the hub or of a folder, is {key}=transformer {key}.model={name}"
        )
    if source not in ("auto", *SOURCES):
        raise ConfigError(f"{key}.source={source}: no models by name there; {did_you_mean(source, ('auto', *SOURCES))}")
    sources = SOURCES if source == "auto" else (source,)
    spelled = [name, ALIASES.get(name, name)]
    plain = name.lower().replace("-", "_")
    spelled += [plain, ALIASES.get(plain, plain)]
    for candidate in spelled:
        for each in sources:
            if candidate in _names_of(each):
                return each, candidate
    architecture, dot, tag = name.partition(".")
    if dot and tag and "timm" in sources and architecture in _names_of("timm"):
        return "timm", name
    known = {each_name for each in sources for each_name in _names_of(each)}
    if not known:
        raise ConfigError(f"{key}={name}: {source} is not installed (pip install {source})")
    known |= {alias for alias, target in ALIASES.items() if target in known}
    hint = did_you_mean(name, known if nearest(name, known) else known.intersection(FEATURED) or known)
    where = "" if source == "auto" else f" in {source}"
    missing = "; timm, which has many more, is not installed (pip install timm)" if source == "auto" and not _names_of("timm") else ""
    raise ConfigError(f"{key}={name}: no such model{where}; {hint}{missing}")


def has(source: str, name: str) -> bool:
    return name in _names_of(source)


def _names_of(source: str) -> frozenset[str]:
    if source in TEXT_SOURCES:
        return frozenset(name for name, each in TEXTS.items() if each == source)
    return frozenset(CIFAR) if source == "cifar" else _registered_in(source)


@cache
def _registered_in(package: str) -> frozenset[str]:
    """The functions below `@register_model` in <package>/models/*.py: importing either library would take seconds."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return frozenset()
    found = set()
    for root in spec.submodule_search_locations:
        for file in Path(root, "models").glob("*.py"):
            for part in file.read_bytes().split(b"\n@register_model")[1:]:
                definition = part[part.find(b"\ndef ") + 5 :]
                found.add(definition[: definition.find(b"(")].decode())
    return frozenset(found)
