"""VGG nets for small images: convolutions of Simonyan and Zisserman 2015 (1409.1556), one linear classifier.

As in the CIFAR distillation benchmark: batch norm, convolutions with bias, five stages, a 2x2 max pool after each of the
first three; images of 64 px and more are also pooled after the fourth, so that 32 and 64 px both end at 4x4.
"""

from torch import Tensor, nn


class VGG(nn.Module):
    """widths: the channels of each convolution, stage by stage."""

    def __init__(self, widths: tuple[tuple[int, ...], ...], num_classes: int):
        super().__init__()
        channels = (3, *(stage[-1] for stage in widths))
        self.stage1 = _stage(channels[0], widths[0])
        self.pool1 = nn.MaxPool2d(2)
        self.stage2 = _stage(channels[1], widths[1])
        self.pool2 = nn.MaxPool2d(2)
        self.stage3 = _stage(channels[2], widths[2])
        self.pool3 = nn.MaxPool2d(2)
        self.stage4 = _stage(channels[3], widths[3])
        self.pool4 = nn.MaxPool2d(2)
        self.stage5 = _stage(channels[4], widths[4])
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(channels[5], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.classifier.weight, 0, 0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, inputs: Tensor) -> Tensor:  # [B, 3, H, W] -> [B, K]
        features = self.pool1(self.stage1(inputs))
        features = self.pool2(self.stage2(features))
        features = self.stage4(self.pool3(self.stage3(features)))
        if inputs.shape[-1] >= 64:
            features = self.pool4(features)
        return self.classifier(self.flatten(self.pool(self.stage5(features))))


def _stage(channels_in: int, widths: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in widths:
        layers += [nn.Conv2d(channels_in, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
        channels_in = channels
    return nn.Sequential(*layers)


def vgg8(num_classes: int) -> VGG:
    return VGG(((64,), (128,), (256,), (512,), (512,)), num_classes)


def vgg13(num_classes: int) -> VGG:
    return VGG(((64, 64), (128, 128), (256, 256), (512, 512), (512, 512)), num_classes)
