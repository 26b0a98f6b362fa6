"""Where a net that is trained for int8 has its 8 bits: where onnxruntime's static QDQ has them, as annotations of an exported graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torchao.quantization.pt2e import FakeQuantize, MovingAverageMinMaxObserver, MovingAveragePerChannelMinMaxObserver
from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, QuantizationSpec, Quantizer, SharedQuantizationSpec

ANNOTATION = "quantization_annotation"
aten = torch.ops.aten
CONVOLUTIONS = (aten.conv2d.default, aten.conv2d.padding)
LINEAR = aten.linear.default
ADDITIONS = (aten.add.Tensor, aten.add_.Tensor)
NORMS = (aten.batch_norm.default,)
CLIPS = (aten.relu.default, aten.relu_.default, aten.hardtanh.default, aten.hardtanh_.default)  # in the 8 bits of what they follow
POOLS = (aten.max_pool2d.default,)
ATTENTION = (aten.layer_norm.default, aten.softmax.int, aten.scaled_dot_product_attention.default)


class SteadyInEval(FakeQuantize):
    """Learns the range of an activation in training mode alone: what validation shows must not move it.

    Not torchao's fused kind, whose symmetric scales are a 254th larger than those it is converted with.
    """

    def forward(self, values: Tensor) -> Tensor:
        if self.training:
            return super().forward(values)
        return torch.fake_quantize_per_tensor_affine(values, self.scale, self.zero_point, self.quant_min, self.quant_max)


def activation() -> QuantizationSpec:
    """uint8 with a zero point; the range is a moving average of each batch's lowest and highest value."""
    make = SteadyInEval.with_args(observer=MovingAverageMinMaxObserver)
    return QuantizationSpec(torch.uint8, make, 0, 255, torch.per_tensor_affine)


def weight(per_channel: bool) -> QuantizationSpec:
    """Symmetric int8 of the weight as it is: averaging_constant=1 forgets what it was."""
    if per_channel:
        make = FakeQuantize.with_args(observer=MovingAveragePerChannelMinMaxObserver, averaging_constant=1.0)
        return QuantizationSpec(torch.int8, make, -127, 127, torch.per_channel_symmetric, ch_axis=0)
    make = FakeQuantize.with_args(observer=MovingAverageMinMaxObserver, averaging_constant=1.0)
    return QuantizationSpec(torch.int8, make, -127, 127, torch.per_tensor_symmetric)


class OnnxRuntimePlacement(Quantizer):
    """Inputs and weights of convolutions and linear layers; what a convolution gives after its norm and its ReLU; sums, and their inputs.

    Of a net with attention no sums. Logits stay float, as whatever no such layer reads.
    """

    def __init__(self, per_channel: bool = True):
        self.activation, self.weight = activation(), weight(per_channel)

    def annotate(self, model: fx.GraphModule) -> fx.GraphModule:
        nodes = list(model.graph.nodes)
        has_attention = any(node.target in ATTENTION for node in nodes)
        for node in nodes:
            if node.target in CONVOLUTIONS or node.target is LINEAR:
                put(node, {node.args[0]: self.activation, node.args[1]: self.weight})
                if node.target is not LINEAR:
                    put(self.end(node), output=self.activation)
            elif node.target in ADDITIONS and not has_attention and is_sum(node):
                put(node, dict.fromkeys(node.args[:2], self.activation))
                put(self.end(node), output=self.activation)
            elif node.target in POOLS and not has_attention:
                edge = (node.args[0], node)
                put(node, {node.args[0]: self.activation}, SharedQuantizationSpec(edge))
        return model

    def end(self, node: fx.Node) -> fx.Node:
        """Where the result of a node is that has to be in 8 bits: after the norm and the ReLU that it alone goes through."""
        for kinds in (NORMS, CLIPS):
            users = list(node.users)
            node = users[0] if len(users) == 1 and users[0].target in kinds else node
        return node

    def validate(self, model: fx.GraphModule) -> None:
        pass


def is_sum(node: fx.Node) -> bool:
    """Of two maps; not of a map and a number."""
    return all(isinstance(part, fx.Node) and part.op == "call_function" for part in node.args[:2])


def put(node: fx.Node, inputs: dict[Any, Any] | None = None, output: Any = None) -> None:
    """Add to what is annotated of a node."""
    found = node.meta.setdefault(ANNOTATION, QuantizationAnnotation(_annotated=True))
    found.input_qspec_map.update(inputs or {})
    found.output_qspec = output or found.output_qspec
