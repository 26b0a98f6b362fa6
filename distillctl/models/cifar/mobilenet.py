"""MobileNetV2 for small images: table 2 of Sandler et al. 2018 (1801.04381), strides of the CIFAR distillation benchmark.

Half width and expansion 6. The first convolution keeps its stride of 2, the 24-channel blocks lose theirs: 32 px end at 2x2.
The last convolution has 1280 channels at every width.
"""

from torch import Tensor, nn


class InvertedResidual(nn.Module):
    """Expand by a 1x1 convolution, filter each channel by a 3x3 one, project by a 1x1 one without activation."""

    def __init__(self, channels_in: int, channels: int, stride: int, expansion: int):
        super().__init__()
        inner = channels_in * expansion
        self.expand = nn.Conv2d(channels_in, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.relu1 = nn.ReLU()
        self.filter = nn.Conv2d(inner, inner, 3, stride, padding=1, groups=inner, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.relu2 = nn.ReLU()
        self.project = nn.Conv2d(inner, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.residual = stride == 1 and channels_in == channels

    def forward(self, inputs: Tensor) -> Tensor:  # [B, C_in, H, W] -> [B, C, H / stride, W / stride]
        features = self.relu1(self.bn1(self.expand(inputs)))
        features = self.relu2(self.bn2(self.filter(features)))
        features = self.bn3(self.project(features))
        return inputs + features if self.residual else features


class MobileNetV2(nn.Module):
    """Four stages, one a resolution: 1/2, 1/4, 1/8 and 1/16 of the image."""

    def __init__(self, width: float, expansion: int, num_classes: int):
        super().__init__()
        stem, *rest = (int(channels * width) for channels in (32, 16, 24, 32, 64, 96, 160, 320))
        self.conv1 = nn.Conv2d(3, stem, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu1 = nn.ReLU()
        self.stage1 = nn.Sequential(*_blocks(stem, rest[0], 1, 1, 1), *_blocks(rest[0], rest[1], 2, 1, expansion))
        self.stage2 = nn.Sequential(*_blocks(rest[1], rest[2], 3, 2, expansion))
        self.stage3 = nn.Sequential(*_blocks(rest[2], rest[3], 4, 2, expansion), *_blocks(rest[3], rest[4], 3, 1, expansion))
        self.stage4 = nn.Sequential(*_blocks(rest[4], rest[5], 3, 2, expansion), *_blocks(rest[5], rest[6], 1, 1, expansion))
        self.conv2 = nn.Conv2d(rest[6], 1280, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(1280)
        self.relu2 = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(1280, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.classifier.weight, 0, 0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, inputs: Tensor) -> Tensor:  # [B, 3, H, W] -> [B, K]
        features = self.relu1(self.bn1(self.conv1(inputs)))
        features = self.stage4(self.stage3(self.stage2(self.stage1(features))))
        features = self.relu2(self.bn2(self.conv2(features)))
        return self.classifier(self.flatten(self.pool(features)))


def _blocks(channels_in: int, channels: int, count: int, stride: int, expansion: int) -> list[InvertedResidual]:
    rest = [InvertedResidual(channels, channels, 1, expansion) for _ in range(count - 1)]
    return [InvertedResidual(channels_in, channels, stride, expansion), *rest]


def mobilenetv2_x0_5(num_classes: int) -> MobileNetV2:
    return MobileNetV2(0.5, 6, num_classes)
