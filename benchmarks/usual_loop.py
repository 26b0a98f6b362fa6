"""Distillation as people write it, beside which ours is measured: fp32, PIL images one by one, a teacher that is asked at every step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from distillctl.data.split import Split


class Pictures(Dataset[tuple[Tensor, int]]):
    """As torchvision's sets: files are opened by each access, images in memory lie there as arrays."""

    def __init__(self, split: Split, transform: Callable[[Image.Image], Tensor]):
        self.images = split.inputs if isinstance(split.inputs, list) else split.inputs.permute(0, 2, 3, 1).contiguous().numpy()
        self.targets, self.transform = split.targets.tolist(), transform

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        source = self.images[position]
        image = Image.open(source).convert("RGB") if isinstance(source, Path) else Image.fromarray(source)
        return self.transform(image), self.targets[position]


def augmented(size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> transforms.Compose:
    """Moved by 4 pixels at 32 px, resized crops of larger images."""
    crop = transforms.RandomCrop(size, padding=4) if size < 64 else transforms.RandomResizedCrop(size)
    return transforms.Compose([crop, transforms.RandomHorizontalFlip(), transforms.ToTensor(), transforms.Normalize(mean, std)])


def train(
    student: nn.Module,
    teacher: nn.Module,
    batches: DataLoader[tuple[Tensor, int]],
    optimizer: torch.optim.Optimizer,
    epochs: int,
    temperature: float,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
) -> None:
    """Labels and the teacher's softened answers at the same weight; the scheduler, where there is one, at each step."""
    device = next(student.parameters()).device
    teacher.eval()
    student.train()
    for _ in range(epochs):
        for images, labels in batches:
            images, labels = images.to(device), labels.to(device)
            logits = student(images)
            with torch.no_grad():
                answer = teacher(images)
            soft = F.kl_div(F.log_softmax(logits / temperature, dim=1), F.softmax(answer / temperature, dim=1), reduction="batchmean")
            loss = F.cross_entropy(logits, labels) + soft * temperature**2
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
