"""Train a net for int8 with the teacher still teaching: torchao's PT2E, with fake quantisation where onnxruntime will quantise."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from distillctl import extras
from distillctl.compress.quantize.folding import fold_norms
from distillctl.errors import ConfigError, first_line
from distillctl.formats.exporting import silenced


class QatNet(nn.Module):
    """A net as an exported graph with fake quantisation in it: answers, learns and is measured as any module.

    Parameters and buffers keep their names below `graph.`; scales, zero points and observed ranges are buffers beside them, so that a
    state dict holds all that a step changes. In training mode batch norm and dropout train and activation ranges move, in eval mode
    neither. Hooks on the net's modules were traced: they fire no more.
    """

    def __init__(self, prepared: fx.GraphModule, example: Tensor):
        super().__init__()
        self.example = torch.zeros_like(example[:1], device="cpu")  # its shape is all that is wanted
        for name in ("train", "eval"):  # torchao forbids them, as they would change nothing in its graphs
            prepared.__dict__.pop(name, None)
        self.graph = prepared
        # functions of the same module, which is handed to them: what is trained and moved exists once
        self.forwards: dict[bool, Callable[..., Any]] = {mode: forward_of(prepared, mode) for mode in (True, False)}

    def forward(self, inputs: Tensor) -> Any:
        return self.forwards[self.training](self.graph, inputs)


def prepare(module: nn.Module, example: Tensor, *, per_channel: bool = True) -> QatNet:
    """A copy of a float net to be trained for int8. example: its input [N, ...] with N >= 2, of which only N may change later;
    ranges begin with what it shows, so it had better be a few hundred samples.

    Whatever tensors `module` gives (logits, or logits and features in tuples and dicts) the copy gives. Raises ConfigError for a net that
    cannot be exported, or that draws random numbers in other ways than by dropout.
    """
    pt2e, placement = torchao()
    net = copy.deepcopy(module).train()
    norms = {f"{name}.running_var": norm for name, norm in net.named_modules() if isinstance(norm, nn.modules.batchnorm._BatchNorm)}
    try:
        with silenced():
            exported = torch.export.export(net, (example,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)).module(check_guards=False)
    except Exception as error:  # whatever its tracing meets
        raise ConfigError(f"quantize=qat: this net cannot be exported: {first_line(error)}") from None
    check_random(exported)
    with silenced():
        prepared = pt2e.prepare_qat_pt2e(exported, placement.OnnxRuntimePlacement(per_channel))
    keep_norms(prepared, norms)
    observe_first(prepared, example)
    return QatNet(prepared, example).train(module.training)


def finish(net: QatNet) -> nn.Module:
    """What the exporter takes: the net with integer weights, batch norm folded, and quantised activations."""
    pt2e, _ = torchao()
    graph = copy.deepcopy(net.graph).eval()
    set_modes(graph.graph, False)
    graph.recompile()
    with torch.no_grad():
        graph(net.example.to(next(graph.parameters()).device))  # scales of weights are of the last pass, and those have moved since
        fold_norms(graph)
    with silenced():
        converted = pt2e.convert_pt2e(graph)
    for name in ("train", "eval"):
        converted.__dict__.pop(name, None)
    return converted.eval()


def torchao() -> tuple[Any, Any]:
    """torchao's quantize_pt2e, and our placement, which is made of its classes. Raises MachineError where it is not installed."""
    try:
        with silenced():  # importing it is not quiet either
            from torchao.quantization.pt2e import quantize_pt2e

            from distillctl.compress.quantize import placement
    except ImportError:
        raise extras.missing("quantize=qat", "torchao", "qat") from None
    return quantize_pt2e, placement


def observe_first(prepared: fx.GraphModule, example: Tensor) -> None:
    """Buffers take their final shapes, which they have after a first batch; what that batch showed is forgotten, save in fake quantisation."""
    before = {name: value.clone() for name, value in prepared.named_buffers() if "running" in name or "num_batches" in name}
    with torch.no_grad():
        forward_of(prepared, True)(prepared, example)
        for name, value in before.items():
            prepared.get_buffer(name).copy_(value)


def forward_of(graph: fx.GraphModule, training: bool) -> Callable[..., Any]:
    """The graph's code with batch norm and dropout in one of their modes, as a function of the module and its inputs."""
    other = copy.deepcopy(graph.graph)
    set_modes(other, training)
    return type(fx.GraphModule(graph, other)).forward


def set_modes(graph: fx.Graph, training: bool) -> None:
    """torchao's own switch replaces patterns, and with them each norm's eps and momentum; here the flag alone changes."""
    aten = torch.ops.aten
    places = {aten.batch_norm.default: 5, aten.dropout.default: 2, aten.dropout_.default: 2}
    for node in list(graph.nodes):
        if node.target in places:
            node.update_arg(places[node.target], training)
        elif not training and node.target is aten.add_.Tensor and str(node.args[0].target).endswith("num_batches_tracked"):
            graph.erase_node(node)


def keep_norms(prepared: fx.GraphModule, norms: Mapping[str, Any]) -> None:
    """Give each batch norm its own momentum and eps back, which torchao's pattern of convolution and norm takes for 0.1 and 1e-5."""
    aten = torch.ops.aten
    for node in prepared.graph.nodes:
        if node.target is aten.batch_norm.default:
            norm = norms.get(node.args[4].target)
            if norm is None or norm.momentum is None:
                raise ConfigError(
                    f"quantize=qat: batch norm with {node.args[4].target} is none of torch's with a momentum, and cannot be folded"
                )
            node.update_arg(6, norm.momentum)
            node.update_arg(7, norm.eps)
        elif node.target is aten.add.Tensor and getattr(node.args[0], "target", None) in norms:  # running_var + eps
            node.update_arg(1, norms[node.args[0].target].eps)
    prepared.recompile()


def check_random(graph: fx.GraphModule) -> None:
    for node in graph.graph.nodes:
        name = getattr(node.target, "__name__", "")
        if any(word in name for word in ("bernoulli", "rand", "uniform", "normal_")):
            raise ConfigError(f"quantize=qat: this net draws random numbers ({name}), which would not stop in eval mode; train it without")
