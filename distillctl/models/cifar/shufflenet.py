"""ShuffleNets for small images: Zhang et al. 2018 (1707.01083) and Ma et al. 2018 (1807.11164), the benchmark's variants.

Where the papers begin with a 3x3 convolution at stride 2 and a max pool, the CIFAR distillation benchmark has one 1x1 convolution
at full resolution. Three stages at 1/2, 1/4 and 1/8 of the image. The first version has 3 groups, the second is of width 1.
"""

import torch
from torch import Tensor, nn


class ChannelShuffle(nn.Module):
    """Deal the channels of each group out to all groups."""

    def __init__(self, groups: int):
        super().__init__()
        self.groups = groups

    def forward(self, inputs: Tensor) -> Tensor:  # [B, G * C, H, W] -> [B, C * G, H, W]
        return inputs.unflatten(1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)


class GroupedBlock(nn.Module):
    """Fig. 2 b and c of 1707.01083; a block at stride 2 appends its channels to the pooled inputs."""

    def __init__(self, channels_in: int, channels: int, stride: int, groups: int, first_groups: int):
        super().__init__()
        added = channels - channels_in if stride == 2 else channels
        inner = added // 4
        self.conv1 = nn.Conv2d(channels_in, inner, 1, groups=first_groups, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.relu1 = nn.ReLU()
        self.shuffle = ChannelShuffle(first_groups)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, padding=1, groups=inner, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.relu2 = nn.ReLU()  # the paper has none here, the benchmark has
        self.conv3 = nn.Conv2d(inner, added, 1, groups=groups, bias=False)
        self.bn3 = nn.BatchNorm2d(added)
        self.shortcut = nn.AvgPool2d(3, stride=2, padding=1) if stride == 2 else nn.Identity()
        self.join = nn.Identity()  # holds the map before the last ReLU, so that it can be tapped
        self.relu3 = nn.ReLU()
        self.stride = stride

    def forward(self, inputs: Tensor) -> Tensor:  # [B, C_in, H, W] -> [B, C, H / stride, W / stride]
        features = self.shuffle(self.relu1(self.bn1(self.conv1(inputs))))
        features = self.relu2(self.bn2(self.conv2(features)))
        features = self.bn3(self.conv3(features))
        shortcut = self.shortcut(inputs)
        joined = torch.cat([features, shortcut], 1) if self.stride == 2 else features + shortcut
        return self.relu3(self.join(joined))


class ShuffleNetV1(nn.Module):
    def __init__(self, widths: tuple[int, int, int], groups: int, num_classes: int):
        super().__init__()
        self.conv = nn.Conv2d(3, 24, 1, bias=False)
        self.bn = nn.BatchNorm2d(24)
        self.relu = nn.ReLU()
        self.stage1 = self._stage(24, widths[0], 4, groups, first_groups=1)  # 24 channels are too few to group
        self.stage2 = self._stage(widths[0], widths[1], 8, groups, groups)
        self.stage3 = self._stage(widths[1], widths[2], 4, groups, groups)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(widths[2], num_classes)

    @staticmethod
    def _stage(channels_in: int, channels: int, blocks: int, groups: int, first_groups: int) -> nn.Sequential:
        rest = [GroupedBlock(channels, channels, 1, groups, groups) for _ in range(blocks - 1)]
        return nn.Sequential(GroupedBlock(channels_in, channels, 2, groups, first_groups), *rest)

    def forward(self, inputs: Tensor) -> Tensor:  # [B, 3, H, W] -> [B, K]
        features = self.relu(self.bn(self.conv(inputs)))
        features = self.stage3(self.stage2(self.stage1(features)))
        return self.classifier(self.flatten(self.pool(features)))


class SplitBlock(nn.Module):
    """Fig. 3 c of 1807.11164: half of the channels pass, the other half is convolved."""

    def __init__(self, channels: int):
        super().__init__()
        half = channels // 2
        self.branch = nn.Sequential(
            nn.Conv2d(half, half, 1, bias=False),
            nn.BatchNorm2d(half),
            nn.ReLU(),
            nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False),
            nn.BatchNorm2d(half),
            nn.Conv2d(half, half, 1, bias=False),
            nn.BatchNorm2d(half),
            nn.ReLU(),
        )
        self.shuffle = ChannelShuffle(2)

    def forward(self, inputs: Tensor) -> Tensor:  # [B, C, H, W] -> [B, C, H, W]
        kept, convolved = inputs.chunk(2, dim=1)
        return self.shuffle(torch.cat([kept, self.branch(convolved)], 1))


class DownBlock(nn.Module):
    """Fig. 3 d of 1807.11164: both branches see all channels and halve the resolution."""

    def __init__(self, channels_in: int, channels: int):
        super().__init__()
        half = channels // 2
        self.left = nn.Sequential(
            nn.Conv2d(channels_in, channels_in, 3, stride=2, padding=1, groups=channels_in, bias=False),
            nn.BatchNorm2d(channels_in),
            nn.Conv2d(channels_in, half, 1, bias=False),
            nn.BatchNorm2d(half),
            nn.ReLU(),
        )
        self.right = nn.Sequential(
            nn.Conv2d(channels_in, half, 1, bias=False),
            nn.BatchNorm2d(half),
            nn.ReLU(),
            nn.Conv2d(half, half, 3, stride=2, padding=1, groups=half, bias=False),
            nn.BatchNorm2d(half),
            nn.Conv2d(half, half, 1, bias=False),
            nn.BatchNorm2d(half),
            nn.ReLU(),
        )
        self.shuffle = ChannelShuffle(2)

    def forward(self, inputs: Tensor) -> Tensor:  # [B, C_in, H, W] -> [B, C, H / 2, W / 2]
        return self.shuffle(torch.cat([self.left(inputs), self.right(inputs)], 1))


class ShuffleNetV2(nn.Module):
    def __init__(self, widths: tuple[int, int, int, int], num_classes: int):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 24, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(24)
        self.relu1 = nn.ReLU()
        self.stage1 = self._stage(24, widths[0], 3)
        self.stage2 = self._stage(widths[0], widths[1], 7)
        self.stage3 = self._stage(widths[1], widths[2], 3)
        self.conv2 = nn.Conv2d(widths[2], widths[3], 1, bias=False)
        self.bn2 = nn.BatchNorm2d(widths[3])
        self.relu2 = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(widths[3], num_classes)

    @staticmethod
    def _stage(channels_in: int, channels: int, split_blocks: int) -> nn.Sequential:
        return nn.Sequential(DownBlock(channels_in, channels), *(SplitBlock(channels) for _ in range(split_blocks)))

    def forward(self, inputs: Tensor) -> Tensor:  # [B, 3, H, W] -> [B, K]
        features = self.relu1(self.bn1(self.conv1(inputs)))
        features = self.stage3(self.stage2(self.stage1(features)))
        features = self.relu2(self.bn2(self.conv2(features)))
        return self.classifier(self.flatten(self.pool(features)))


def shufflenetv1(num_classes: int) -> ShuffleNetV1:
    return ShuffleNetV1((240, 480, 960), 3, num_classes)


def shufflenetv2(num_classes: int) -> ShuffleNetV2:
    return ShuffleNetV2((116, 232, 464, 1024), num_classes)
