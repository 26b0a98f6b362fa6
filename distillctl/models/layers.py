"""The layers of a net of the transformers library, in order: where hidden states, queries, keys and values come out.

They are found by how the net is built, without a pass through it. B batch, L layers, T tokens, C width, H heads, D width of a head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import nn

from distillctl.errors import ConfigError
from distillctl.models.points import Stack, TapPoint

# what the three projections of an attention are called, and what one that computes all three is
PROJECTIONS = (
    ("query", "key", "value"),
    ("q_proj", "k_proj", "v_proj"),
    ("q_lin", "k_lin", "v_lin"),
    ("query_proj", "key_proj", "value_proj"),
)
FUSED = ("c_attn", "query_key_value", "qkv_proj", "Wqkv", "qkv")
# nets whose attention is softmax(QKᵀ/√D) of these projections and nothing else: no rotation, norm or bias by position is in between
PLAIN = ("bert", "camembert", "distilbert", "electra", "roberta", "xlm-roberta")
STAGES = 4  # quarters of the layers are stage1 to stage4

HIDDEN, CLS = "hidden_states", "cls_states"
ROLES = {"queries": 0, "keys": 1, "values": 2}
SCORES = {"score_queries": "queries", "score_keys": "keys"}
KINDS = (HIDDEN, CLS, *ROLES, *SCORES)  # each of all layers as a stack, or of one as in queries.3 and queries.last


@dataclass(frozen=True)
class Attention:
    """The paths of an attention's projections, and the sizes of what they give: fewer keys than queries where these share them."""

    projections: tuple[str, str, str]  # of queries, keys and values
    heads: int
    key_heads: int
    head_width: int


@dataclass(frozen=True)
class Layer:
    """attention: None where its projections are not known; fused: the path of one layer that computes all three, else empty."""

    path: str
    attention: Attention | None
    fused: str


@dataclass(frozen=True)
class Layers:
    """All layers of a net. model_type: what transformers calls its kind. causal: whether a token sees only those before it."""

    layers: tuple[Layer, ...]
    model_type: str
    causal: bool
    plain_scores: bool


def layers_of(net: nn.Module) -> Layers:
    """Raises ConfigError where there are none that can be told apart."""
    found = pretrained(net)
    if found is None:
        raise ConfigError("it is no net of the transformers library")
    prefix, model = found
    config: Any = model.config
    model_type = str(getattr(config, "model_type", type(model).__name__))
    if getattr(config, "is_encoder_decoder", False):
        raise ConfigError(f"{model_type} has an encoder and a decoder, so which layers are meant cannot be told")
    count = getattr(config, "num_hidden_layers", None)
    stacks = [name for name, part in model.named_modules() if is_stack(part, count)]
    outer = [name for name in stacks if not any(name.startswith(f"{other}.") for other in stacks)]
    if len(outer) > 1:
        outer = [name for name in outer if any(attention_in(item, config) != (None, "") for item in model.get_submodule(name).children())]
    if len(outer) != 1:
        raise ConfigError(
            f"its {count or ''} layers cannot be told apart: {model_type} shares their weights, or has them in several places"
        )
    layers = []
    for number, item in enumerate(model.get_submodule(outer[0]).children()):
        path = joined(prefix, outer[0], str(number))
        attention, fused = attention_in(item, config, path)
        layers.append(Layer(path, attention, fused))
    plain = model_type in PLAIN and getattr(config, "position_embedding_type", "absolute") == "absolute"
    causal = any(getattr(part, "is_causal", False) for part in model.get_submodule(outer[0]).modules())
    return Layers(tuple(layers), model_type, causal, plain)


def pretrained(net: nn.Module) -> tuple[str, nn.Module] | None:
    """The outermost net of transformers in a module, with its path; told by its class's name, as importing the library takes seconds."""
    for name, part in net.named_modules():
        if any(base.__name__ == "PreTrainedModel" and base.__module__.startswith("transformers.") for base in type(part).__mro__):
            return name, part
    return None


def is_stack(part: nn.Module, count: int | None) -> bool:
    return isinstance(part, nn.ModuleList) and len(part) == count and len({type(item) for item in part}) == 1


def joined(*parts: str) -> str:
    return ".".join(filter(None, parts))


def attention_in(layer: nn.Module, config: Any, path: str = "") -> tuple[Attention | None, str]:
    """The projections of a layer's first attention, or the path of the one that computes all three."""
    for name, part in layer.named_modules():
        children = dict(part.named_children())
        for names in PROJECTIONS:
            projections = [children.get(each) for each in names]
            if all(hasattr(each, "out_features") for each in projections):
                query, key, _ = (int(each.out_features) for each in projections)  # type: ignore[union-attr]
                width = head_width(part, config)
                first, second, third = (joined(path, name, each) for each in names)
                return Attention((first, second, third), query // width, key // width, width), ""
        fused = next((each for each in FUSED if each in children), None)
        if fused is not None:
            return None, joined(path, name, fused)
    return None, ""


def head_width(attention: nn.Module, config: Any) -> int:
    for place, name in ((attention, "attention_head_size"), (attention, "head_dim"), (config, "head_dim")):
        if isinstance(width := getattr(place, name, None), int):
            return width
    return int(config.hidden_size) // int(config.num_attention_heads)


def named_point(layers: Layers, name: str) -> TapPoint | Stack | None:
    """The place of `queries`, `queries.3` or `queries.last`; None of a name that is none of these.

    Hidden states are counted from 0, which is what goes into the first layer: the embeddings. The others are counted from 1.
    The last hidden state is the last layer's own: a norm behind it is not in it. Raises ConfigError.
    """
    kind, dot, number = name.partition(".")
    if kind not in KINDS or dot and not (number.isdecimal() or number == "last"):
        return None
    first, last = 0 if kind in (HIDDEN, CLS) else 1, len(layers.layers)
    if not dot:
        return Stack(alike(name, [point_of(layers, kind, each) for each in range(first, last + 1)], layers))
    wanted = last if number == "last" else int(number)
    if not first <= wanted <= last:
        embeddings = " (the embeddings)" if first == 0 else ""
        raise ConfigError(f"tap {name}: its layers are {first}{embeddings} to {last}")
    return point_of(layers, kind, wanted)


def alike(name: str, points: list[TapPoint], layers: Layers) -> tuple[TapPoint, ...]:
    """Only what has one shape in all layers makes a stack."""
    sizes = {(each.attention.heads, each.attention.key_heads, each.attention.head_width) for each in layers.layers if each.attention}
    if name.partition(".")[0] not in (HIDDEN, CLS) and len(sizes) > 1:
        raise ConfigError(f"tap {name}: its layers have different numbers of heads; tap one layer, as in {name}.last")
    return tuple(points)


def point_of(layers: Layers, kind: str, number: int) -> TapPoint:
    if kind == CLS and layers.causal:
        raise ConfigError(
            f"tap {CLS}: the first token of {layers.model_type} sees no other, so it says nothing of a text; take a loss on logits, or on pooled"
        )
    if kind in (HIDDEN, CLS):
        module, side = (layers.layers[number - 1].path, "output") if number else (layers.layers[0].path, "input")
        return TapPoint(module, side, first=kind == CLS)
    layer = layers.layers[number - 1]
    if layer.attention is None:
        why = (
            f"{layer.fused} computes queries, keys and values in one layer"
            if layer.fused
            else "its projections have names that are not known"
        )
        raise ConfigError(f"tap {kind}: of {layers.model_type} not supported, as {why}; take a loss on hidden states or on logits")
    if kind in SCORES and not layers.plain_scores:
        raise ConfigError(
            f"tap {kind}: the attention of {layers.model_type} is not known to be softmax(QKᵀ/√D) of its projections alone, "
            f"as that of {', '.join(PLAIN)}; loss.tinybert.attention=0 leaves attention out"
        )
    role = ROLES[SCORES.get(kind, kind)]
    heads = (layer.attention.heads, layer.attention.key_heads)[role] if kind in SCORES else None
    return TapPoint(layer.attention.projections[role], "output", heads=heads)


def short_points(layers: Layers) -> dict[str, TapPoint | Stack]:
    """Short names that every such net has besides those of one layer: `last`, quarters as stages where there are as many layers, and the stacks that it has."""
    paths = [layer.path for layer in layers.layers]
    ends = [math.ceil(len(paths) * quarter / STAGES) - 1 for quarter in range(1, STAGES + 1)] if len(paths) >= STAGES else []
    found: dict[str, TapPoint | Stack] = {f"stage{number + 1}": TapPoint(paths[end], "output") for number, end in enumerate(ends)}
    found["last"] = TapPoint(paths[-1], "output")
    for kind in KINDS:
        try:
            point = named_point(layers, kind)
        except ConfigError:  # whoever asks for it is told why
            continue
        assert point is not None, kind
        found[kind] = point
    return found
