"""Residual nets for small images: sec. 4.2 of He et al. 2016 (1512.03385), widths of the CIFAR distillation benchmark.

Depth 6n + 2: a 3x3 convolution, three stages of n basic blocks at 1, 1/2 and 1/4 of the resolution, a classifier.
The shortcut that changes shape is a 1x1 convolution (option B), where the paper pads with zeros on CIFAR.
`resnet8x4` and `resnet32x4` have four times the channels in the stages and twice in the stem.
"""

from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut. `add` holds the sum, so the map before the last ReLU can be tapped."""

    def __init__(self, channels_in: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))
        self.add = nn.Identity()
        self.relu2 = nn.ReLU()

    def forward(self, inputs: Tensor) -> Tensor:  # [B, C_in, H, W] -> [B, C, H / stride, W / stride]
        residual = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(inputs)))))
        return self.relu2(self.add(residual + self.shortcut(inputs)))


class ResNet(nn.Module):
    """widths: channels of the stem and of the three stages."""

    def __init__(self, depth: int, widths: tuple[int, int, int, int], num_classes: int):
        super().__init__()
        assert depth % 6 == 2, f"a basic-block net is 6n + 2 deep, not {depth}"
        blocks = (depth - 2) // 6
        stem, first, second, third = widths
        self.conv = nn.Conv2d(3, stem, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU()
        self.stage1 = _stage(stem, first, blocks, stride=1)
        self.stage2 = _stage(first, second, blocks, stride=2)
        self.stage3 = _stage(second, third, blocks, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(third, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, inputs: Tensor) -> Tensor:  # [B, 3, H, W] -> [B, K]
        features = self.relu(self.bn(self.conv(inputs)))
        features = self.stage3(self.stage2(self.stage1(features)))
        return self.classifier(self.flatten(self.pool(features)))


def _stage(channels_in: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    rest = [BasicBlock(channels, channels, 1) for _ in range(blocks - 1)]
    return nn.Sequential(BasicBlock(channels_in, channels, stride), *rest)


NARROW = (16, 16, 32, 64)
WIDE = (32, 64, 128, 256)


def resnet8(num_classes: int) -> ResNet:
    return ResNet(8, NARROW, num_classes)


def resnet14(num_classes: int) -> ResNet:
    return ResNet(14, NARROW, num_classes)


def resnet20(num_classes: int) -> ResNet:
    return ResNet(20, NARROW, num_classes)


def resnet32(num_classes: int) -> ResNet:
    return ResNet(32, NARROW, num_classes)


def resnet44(num_classes: int) -> ResNet:
    return ResNet(44, NARROW, num_classes)


def resnet56(num_classes: int) -> ResNet:
    return ResNet(56, NARROW, num_classes)


def resnet110(num_classes: int) -> ResNet:
    return ResNet(110, NARROW, num_classes)


def resnet8x4(num_classes: int) -> ResNet:
    return ResNet(8, WIDE, num_classes)


def resnet32x4(num_classes: int) -> ResNet:
    return ResNet(32, WIDE, num_classes)
