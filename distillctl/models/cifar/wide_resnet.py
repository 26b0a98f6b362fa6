"""Wide residual nets with activation before convolution: Zagoruyko and Komodakis 2016 (1605.07146), table 1.

Depth 6n + 4: a 3x3 convolution, three stages of n blocks, a last batch norm, a classifier. `wrn_40_2` is 40 deep, 2 wide.
"""

from torch import Tensor, nn


class PreActivationBlock(nn.Module):
    """Batch norm and ReLU come before each 3x3 convolution; a shortcut that changes shape reads the activated inputs."""

    def __init__(self, channels_in: int, channels: int, stride: int, drop_rate: float):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU()
        self.dropout = nn.Dropout(drop_rate)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.shortcut: nn.Module | None = None
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Conv2d(channels_in, channels, 1, stride, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:  # [B, C_in, H, W] -> [B, C, H / stride, W / stride]
        activated = self.relu1(self.bn1(inputs))
        residual = self.conv2(self.dropout(self.relu2(self.bn2(self.conv1(activated)))))
        return residual + (inputs if self.shortcut is None else self.shortcut(activated))


class WideResNet(nn.Module):
    """The last map before ReLU is what `bn` gives; `relu` and `pool` follow it."""

    def __init__(self, depth: int, width: int, num_classes: int, drop_rate: float = 0.0):
        super().__init__()
        assert depth % 6 == 4, f"a wide residual net is 6n + 4 deep, not {depth}"
        blocks = (depth - 4) // 6
        self.conv = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.stage1 = _stage(16, 16 * width, blocks, 1, drop_rate)
        self.stage2 = _stage(16 * width, 32 * width, blocks, 2, drop_rate)
        self.stage3 = _stage(32 * width, 64 * width, blocks, 2, drop_rate)
        self.bn = nn.BatchNorm2d(64 * width)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(64 * width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.classifier.bias)

    def forward(self, inputs: Tensor) -> Tensor:  # [B, 3, H, W] -> [B, K]
        features = self.stage3(self.stage2(self.stage1(self.conv(inputs))))
        return self.classifier(self.flatten(self.pool(self.relu(self.bn(features)))))


def _stage(channels_in: int, channels: int, blocks: int, stride: int, drop_rate: float) -> nn.Sequential:
    rest = [PreActivationBlock(channels, channels, 1, drop_rate) for _ in range(blocks - 1)]
    return nn.Sequential(PreActivationBlock(channels_in, channels, stride, drop_rate), *rest)


def wrn_16_1(num_classes: int, drop_rate: float = 0.0) -> WideResNet:
    return WideResNet(16, 1, num_classes, drop_rate)


def wrn_16_2(num_classes: int, drop_rate: float = 0.0) -> WideResNet:
    return WideResNet(16, 2, num_classes, drop_rate)


def wrn_40_1(num_classes: int, drop_rate: float = 0.0) -> WideResNet:
    return WideResNet(40, 1, num_classes, drop_rate)


def wrn_40_2(num_classes: int, drop_rate: float = 0.0) -> WideResNet:
    return WideResNet(40, 2, num_classes, drop_rate)
