"""Nets of the transformers library that classify texts: from scratch at the sizes of small BERTs, or as a folder or the hub has them. No code of theirs is run."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from distillctl import extras
from distillctl.errors import CheckpointError, ConfigError, MachineError, did_you_mean, first_line
from distillctl.paths import as_path

# Turc et al. 2019, table 1; the base of Devlin et al. 2019
SIZES: dict[str, dict[str, int]] = {
    "bert_tiny": {"num_hidden_layers": 2, "hidden_size": 128, "num_attention_heads": 2, "intermediate_size": 512},
    "bert_mini": {"num_hidden_layers": 4, "hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024},
    "bert_small": {"num_hidden_layers": 4, "hidden_size": 512, "num_attention_heads": 8, "intermediate_size": 2048},
    "bert_base": {"num_hidden_layers": 12, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
}
TYPE = "model_type"
# what a config says of a file, of classes or of how it is run, and not of the net's shape
NOT_SHAPE = frozenset({
    *("id2label", "label2id", "num_labels", "problem_type", "architectures", "_name_or_path", "transformers_version", "dtype", "torch_dtype"),
    *("auto_map", "return_dict", "output_hidden_states", "output_attentions", "chunk_size_feed_forward", "is_encoder_decoder", "use_cache"),
    *("finetuning_task", "task_specific_params", "tokenizer_class", "quantization_config", "_attn_implementation_autoset"),
})  # fmt: skip


class ByName:
    """In front of a net's class: its inputs come as one mapping, as all nets here take them."""

    def forward(self, inputs: Any = None, *others: Any, **named: Any) -> Any:
        if isinstance(inputs, dict):
            return super().forward(**inputs)  # type: ignore[misc]
        return super().forward(inputs, *others, **named)  # type: ignore[misc]


@cache
def by_name(kind: type) -> type:
    return type(kind.__name__, (ByName, kind), {"__module__": kind.__module__})


@dataclass(frozen=True)
class Loaded:
    """missing: what of the net the files had no weights for; labels: the names of its classes as they say, empty where they name none."""

    module: nn.Module
    settings: dict[str, Any]
    missing: tuple[str, ...]
    labels: tuple[str, ...]


def build(settings: Mapping[str, Any], num_classes: int) -> nn.Module:
    """A net of a `model_type` with a new head and random weights. Raises ConfigError."""
    transformers = library()
    kind = settings.get(TYPE)
    known = transformers.CONFIG_MAPPING
    if kind not in known:
        raise ConfigError(
            f"model_type={kind!r} is none that transformers {transformers.__version__} has; {did_you_mean(str(kind), list(known.keys()))}"
        )
    given = {name: value for name, value in settings.items() if name != TYPE}
    shape = known[kind]()
    for name in given:
        if not hasattr(shape, name):
            raise ConfigError(
                f"{kind} has no setting {name}; {did_you_mean(name, [each for each in shape.to_dict() if each not in NOT_SHAPE])}"
            )
    try:
        config = known[kind](**given, num_labels=num_classes)
        module = transformers.AutoModelForSequenceClassification.from_config(config)
    except Exception as error:  # a library may object to a value in any way it likes
        shown = ", ".join(f"{name}={value!r}" for name, value in given.items())
        raise ConfigError(f"{kind} does not take {shown[:200]} ({first_line(error)[:200]})") from None
    return taking_mappings(module)


def taking_mappings(module: nn.Module) -> nn.Module:
    kind: Any = type(module)
    module.__class__ = by_name(kind)
    return module


def load(place: str, num_classes: int, key: str, new_head: bool) -> Loaded:
    """The net of a folder or of the hub, with its weights. Raises CheckpointError and MachineError."""
    where = f"{key}.model={place}"
    more = {"ignore_mismatched_sizes": True, "num_labels": num_classes} if new_head else {}
    module, told = fetched("AutoModelForSequenceClassification", place, key, f"{where}: cannot be used", **more)
    missing = tuple(sorted({*told["missing_keys"], *(entry[0] for entry in told.get("mismatched_keys", ()))}))
    count = module.config.num_labels
    if missing and not new_head:
        raise CheckpointError(
            f"{where}: it has no weights for {', '.join(missing[:4])}, so it is no classifier yet; {key}.new_head=true trains a new head"
        )
    if count != num_classes:
        raise CheckpointError(f"{where}: it knows {count} classes, the data set has {num_classes}; {key}.new_head=true learns these")
    return Loaded(taking_mappings(module), settings_of(module), missing, () if new_head else class_names(module.config))


def fetched(kind: str, place: str, key: str, unusable: str, **more: Any) -> tuple[Any, dict[str, Any]]:
    """A net of an Auto class with the weights of a folder or of the hub in float32, and what there was to say. No code of theirs is run.

    unusable: what is said of a folder that holds none. Raises CheckpointError and MachineError.
    """
    auto = getattr(library(), kind)
    where, folder = f"{key}.model={place}", as_path(place)
    if not folder.is_dir() and place.startswith((".", "/", "~")):
        raise CheckpointError(f"{where}: no such folder")
    try:
        found: tuple[Any, dict[str, Any]] = auto.from_pretrained(
            str(folder) if folder.is_dir() else place,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            dtype=torch.float32,  # else that of the file, and a net would learn and answer in half precision whatever is asked for
            **more,
        )
    except Exception as error:  # of the hub, of the network, of the files
        reason = first_line(error)[:200]
        if folder.is_dir():
            raise CheckpointError(f"{unusable} ({reason})") from None
        raise MachineError(f"{where}: no such folder here, and the hub does not give it ({reason})") from None
    return found


def class_names(config: Any) -> tuple[str, ...]:
    """What a config calls the classes; nothing where it only counts them."""
    names = {int(number): str(name) for number, name in sorted(config.id2label.items())}
    return () if all(name == f"LABEL_{number}" for number, name in names.items()) else tuple(names.values())


def settings_of(module: nn.Module) -> dict[str, Any]:
    """What a net is built again from, as JSON: its `model_type` and shape."""
    told, config = described(module), module.config
    kind, known = told.pop(TYPE), type(config)()
    kept = {name: value for name, value in told.items() if name not in NOT_SHAPE and value is not None and hasattr(known, name)}
    return {TYPE: kind, **kept}


def described(module: nn.Module) -> dict[str, Any]:
    """A net's config as JSON."""
    config: Any = module.config
    found: dict[str, Any] = json.loads(json.dumps(config.to_dict(), default=str))
    return found


def config_json(module: nn.Module, classes: tuple[str, ...]) -> bytes:
    """config.json as plain transformers reads it, with the names of the classes."""
    told = described(module)
    told |= {
        "architectures": [type(module).__name__],
        "id2label": {str(number): name for number, name in enumerate(classes)},
        "label2id": {name: number for number, name in enumerate(classes)},
    }
    told.pop("_name_or_path", None)
    return json.dumps(told, indent=1, sort_keys=True).encode()


def index_json(weights: Mapping[str, Tensor], file: str) -> bytes:
    """An index by which plain transformers takes its weights from a file of another name: so nothing is written twice."""
    size = sum(value.numel() * value.element_size() for value in weights.values())
    return json.dumps({"metadata": {"total_size": size}, "weight_map": dict.fromkeys(sorted(weights), file)}, indent=1).encode()


def library() -> Any:
    try:
        import transformers
    except ImportError:
        raise extras.missing("this net", "transformers", "text") from None
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)  # what torchao, which it imports, is told about its own classes
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers
