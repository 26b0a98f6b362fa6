"""Turn answers of teachers into records of a fixed size and back, with the checksums by which a record is believed.

B images, M teachers (1, or the members of an ensemble), K classes, W 4-byte words of a record's payload. A feature is [B, ...]: its shape is
that of one image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from distillctl.draws import bits
from distillctl.types import Inputs, content

Words = NDArray[np.uint32]
Features = tuple[tuple[str, tuple[int, ...]], ...]  # (name, shape), by name
NONE: Mapping[str, Any] = MappingProxyType({})
DTYPES = {"fp16": torch.float16, "fp32": torch.float32}
MOST_CLASSES = 256  # that are all kept, where nothing else is asked for
KEPT = 16  # of more classes
_PIECE = 4096  # words of an image at once: more leave a core's cache, ten times as slow at 224 pixels


@dataclass(frozen=True)
class Layout:
    """What is kept of an answer.

    top_k: None keeps the logits of all classes. Else those of the k largest and their classes, and the logit that each other class gets
    when the remaining mass is spread evenly over them: log of the mean of their exponentials. features: kept whole, behind the logits.
    """

    teachers: int
    classes: int
    dtype: str = "fp16"
    top_k: int | None = None
    features: Features = ()

    @property
    def words(self) -> int:
        """W"""
        return -(-(self.logit_bytes + self.feature_bytes) // 4)

    @property
    def logit_bytes(self) -> int:
        value_bytes = DTYPES[self.dtype].itemsize
        if self.top_k is None:
            return self.teachers * self.classes * value_bytes
        return self.teachers * ((self.top_k + 1) * value_bytes + self.top_k * self._place.itemsize)

    @property
    def feature_bytes(self) -> int:
        return sum(prod(shape) for _, shape in self.features) * DTYPES[self.dtype].itemsize

    @property
    def _place(self) -> torch.dtype:
        return torch.int16 if self.classes <= 2**15 else torch.int32

    def encode(self, logits: Tensor, features: Mapping[str, Tensor] = NONE) -> Words:
        """float [B, M, K] and each feature float [B, ...] -> uint32 [B, W]"""
        logits = logits.detach().float()
        kept = []
        for name, shape in self.features:
            values = features[name].detach()
            assert values.shape == (len(logits), *shape), f"{name}: {tuple(values.shape)} for {len(logits)} images of {shape}"
            kept.append(values.to(DTYPES[self.dtype]).cpu())
        if self.top_k is None:
            return packed(logits.to(DTYPES[self.dtype]).cpu(), *kept)
        largest, place = logits.topk(self.top_k, dim=-1)
        others = logits.scatter(-1, place, -torch.inf).logsumexp(-1, keepdim=True) - np.log(self.classes - self.top_k)
        return packed(torch.cat([largest, others], dim=-1).to(DTYPES[self.dtype]).cpu(), place.to(self._place).cpu(), *kept)

    def decode(self, words: Words) -> Tensor:
        """The logits: uint32 [B, W] -> float32 [B, M, K]"""
        octets = torch.from_numpy(words.view(np.uint8))
        kept = self.classes if self.top_k is None else self.top_k + 1
        size = self.teachers * kept * DTYPES[self.dtype].itemsize
        values = numbers(octets[:, :size], DTYPES[self.dtype]).float().view(-1, self.teachers, kept)
        if self.top_k is None:
            return values
        places = numbers(octets[:, size : self.logit_bytes], self._place)
        others = values[..., -1:].expand(-1, -1, self.classes)
        return others.scatter(-1, places.long().view(-1, self.teachers, self.top_k), values[..., :-1])

    def decode_features(self, words: Words) -> dict[str, Tensor]:
        """uint32 [B, W] -> each feature float32 [B, ...], by name"""
        if not self.features:
            return {}
        octets = torch.from_numpy(words.view(np.uint8))[:, self.logit_bytes : self.logit_bytes + self.feature_bytes]
        values = numbers(octets, DTYPES[self.dtype]).float()
        pieces = values.split([prod(shape) for _, shape in self.features], dim=1)
        return {name: piece.reshape(-1, *shape) for (name, shape), piece in zip(self.features, pieces, strict=True)}

    def finite(self, words: Words) -> NDArray[np.bool_]:
        """bool [B]: which records hold nothing but numbers; one that does not fit into fp16 is none there."""
        parts = [self.decode(words), *self.decode_features(words).values()]
        return torch.stack([part.flatten(1).isfinite().all(1) for part in parts]).all(0).numpy()


def layout_for(teachers: int, classes: int, dtype: str, top_k: int | None, features: Mapping[str, Sequence[int]] = NONE) -> Layout:
    """With `top_k` None, all classes up to MOST_CLASSES and else the KEPT largest. features: shapes by name."""
    if top_k is None and classes > MOST_CLASSES:
        top_k = KEPT
    return Layout(teachers, classes, dtype, None if top_k is None or top_k >= classes else top_k, by_name(features))


def by_name(features: Mapping[str, Sequence[int]]) -> Features:
    return tuple((name, tuple(features[name])) for name in sorted(features))


def numbers(octets: Tensor, dtype: torch.dtype) -> Tensor:
    """uint8 [B, n] -> [B, n / size of a number]. A copy: in a slice of one record they need not begin at a multiple of that size."""
    return octets.clone(memory_format=torch.contiguous_format).view(dtype)


def packed(*columns: Tensor) -> Words:
    """Tensors [B, ...] side by side as bytes, filled up with zeros to whole words."""
    octets = torch.cat([column.flatten(1).contiguous().view(torch.uint8) for column in columns], dim=1)
    return F.pad(octets, (0, -octets.shape[1] % 4)).contiguous().numpy().view(np.uint32)


def input_marks(inputs: Inputs) -> Words:
    """uint32 [B], a hash of each sample's bytes: tensors [B, ...] of any type, on any device.

    Σ k_i w_i over its 4-byte words with drawn 64-bit keys, the upper half of 64 bits: two samples are alike by chance once in 2^32
    (Dietzfelbinger 1996, "Universal hashing and k-wise independent random variables via integer arithmetic without primes").
    """
    tensors = content(inputs)
    flat = torch.cat([bytes_of(tensor) for tensor in tensors], dim=1) if len(tensors) > 1 else bytes_of(tensors[0])
    flat = F.pad(flat, (0, -flat.shape[1] % 4)).contiguous()
    words, total = flat.view(torch.int32), torch.zeros(len(flat), dtype=torch.int64, device=flat.device)
    keys = _input_keys(words.shape[1], flat.device)
    for piece, own in zip(words.split(_PIECE, dim=1), keys.split(_PIECE), strict=True):
        total += piece.long().mul_(own).sum(1)
    return ((total >> 32) & 0xFFFFFFFF).cpu().numpy().astype(np.uint32)


def bytes_of(values: Tensor) -> Tensor:
    """uint8 [B, n]: the bytes of each row."""
    flat = values.flatten(1) if values.ndim > 1 else values[:, None]
    return flat if flat.dtype == torch.uint8 else flat.contiguous().view(torch.uint8)


def record_keys(secret: int, words: int) -> NDArray[np.uint64]:
    """The keys of `checksums` for records of so many words, mark included; another secret makes them strangers to each other."""
    return bits(secret, "record", torch.arange(words + 3)).numpy().view(np.uint64)


def checksums(words: Words, view: int, rows: NDArray[np.int64], keys: NDArray[np.uint64]) -> Words:
    """uint32 [B], never 0: the same hash of marks and payloads [B, 1 + W] at their places; a record elsewhere is none."""
    start = keys[:1] + np.uint64(view) * keys[1:2] + rows.astype(np.uint64) * keys[2:3]
    total = words.astype(np.uint64) @ keys[3:] + start
    return np.maximum(total >> np.uint64(32), np.uint64(1)).astype(np.uint32)


@lru_cache(maxsize=16)
def _input_keys(count: int, device: torch.device) -> Any:
    return bits(0, "image", torch.arange(count, device=device))
