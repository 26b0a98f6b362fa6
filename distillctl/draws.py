"""Draw random numbers as a pure function of what can be named: a seed, a stream, a view, a sample.

The generator is counter-based: every name is added to the state as a multiple of an odd constant, and the state goes through the finalizer
of SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators", section 3, variant 13 of Stafford). Only 64-bit
integer arithmetic and exactly rounded float64 operations are used, so that the CPU and CUDA draw equal bits whatever the batch. The values
are pinned by tests: cached answers of a teacher are found by them.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from functools import lru_cache
from hashlib import blake2b

import torch
from torch import Tensor

_WORD = 2**64
_STEP = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio, odd
_MIXERS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_LAST_SHIFT = 31

_QUANTILES = 1024  # pieces of the inverse CDF of the Beta distribution
_RESOLUTION = 2**40  # its values are multiples of 1 / _RESOLUTION: coarser than what two C libraries may disagree about


def seed_of(*names: int | str) -> int:
    """A seed of 63 bits for `torch.manual_seed` and the like: `seed_of(seed, "student")`."""
    return _digest(names) >> 1


def bits(seed: int, stream: str, *names: int | Tensor) -> Tensor:
    """int64 draws, all 64 bits random; tensors among the names (integers) broadcast to the shape of the result and give its device."""
    number = _stream_key(int(seed), stream)
    drawn: Tensor | None = None
    for name in names:
        if drawn is None:
            if isinstance(name, Tensor):
                drawn = _mixed(name.long() * _signed(_STEP) + _signed(number))
            else:
                number = _mixed_number(number + _STEP * int(name))
        elif isinstance(name, Tensor):
            drawn = _mixed(drawn.add(name.long(), alpha=_signed(_STEP)))
        else:
            drawn = _mixed(drawn + _signed(_STEP * int(name)))
    return torch.tensor(_signed(number)) if drawn is None else drawn


def uniform(seed: int, stream: str, *names: int | Tensor) -> Tensor:
    """float64 draws in [0, 1): multiples of 2^-53, which every device represents exactly."""
    return _shifted_right(bits(seed, stream, *names), 11).double() * 2.0**-53


def integers(high: int | Tensor, seed: int, stream: str, *names: int | Tensor) -> Tensor:
    """int64 draws in [0, high), with 1 <= high < 2^31; a tensor of bounds broadcasts with the names.

    The upper 32 bits are scaled: no value is more than high / 2^32 likelier than another.
    """
    assert isinstance(high, Tensor) or 1 <= high < 2**31, high
    return (_shifted_right(bits(seed, stream, *names), 32) * high) >> 32


def permutation(n: int, seed: int, stream: str, *names: int) -> Tensor:
    """The numbers 0 to n - 1 in a drawn order, int64 [n]; equal keys, if they ever occur, stay in order."""
    return bits(seed, stream, *names, torch.arange(n)).argsort(stable=True)


def beta(alpha: float, seed: int, stream: str, *names: int | Tensor) -> Tensor:
    """float64 draws from Beta(alpha, alpha), in [2^-40, 1 - 2^-40].

    A uniform draw goes through the inverse CDF, linear between 1025 tabulated quantiles: the CDF is off by less than 1/1024 wherever it
    is not cut off (what an alpha far below 0.1 would draw closer to 0 or 1 than 2^-40 comes out at that bound).
    """
    drawn = bits(seed, stream, *names)
    piece = _shifted_right(drawn, 54)
    within = (_shifted_right(drawn, 11) & (2**43 - 1)).double() * 2.0**-43
    table = _beta_quantiles(float(alpha), drawn.device)
    low, high = table[piece], table[piece + 1]
    # separate operations, each rounded once: a fused multiply-add would differ between devices
    return low + (high - low) * within


def _digest(names: tuple[int | str, ...]) -> int:
    words = (repr(name if isinstance(name, str) else int(name)) for name in names)
    return int.from_bytes(blake2b("\n".join(words).encode(), digest_size=8).digest(), "little")


@lru_cache(maxsize=1024)
def _stream_key(seed: int, stream: str) -> int:
    return _digest((seed, stream))


def _signed(number: int) -> int:
    """The int64 with the same 64 bits."""
    number %= _WORD
    return number - _WORD if number >= _WORD // 2 else number


def _shifted_right(words: Tensor, count: int) -> Tensor:
    """A logical shift: `>>` on int64 repeats the sign, which the mask removes."""
    return (words >> count).bitwise_and_(2 ** (64 - count) - 1)


def _mixed(words: Tensor) -> Tensor:
    """SplitMix64's finalizer; owns and changes its argument."""
    for count, factor in _MIXERS:
        words = words.bitwise_xor_(_shifted_right(words, count)).mul_(_signed(factor))
    return words.bitwise_xor_(_shifted_right(words, _LAST_SHIFT))


def _mixed_number(number: int) -> int:
    """The same on a plain integer, unsigned."""
    number %= _WORD
    for count, factor in _MIXERS:
        number = (number ^ (number >> count)) * factor % _WORD
    return number ^ (number >> _LAST_SHIFT)


@lru_cache(maxsize=16)
def _beta_quantiles(alpha: float, device: torch.device) -> Tensor:
    """float64 [1025], the quantiles of Beta(alpha, alpha) at 0, 1/1024, ... 1; plain Python, where no vectorised approximation decides."""
    half: list[int] = [1]
    for piece in range(1, _QUANTILES // 2):
        level = piece / _QUANTILES
        half.append(bisect_left(range(_RESOLUTION // 2), level, lo=half[-1], key=lambda k: _beta_cdf(alpha, k / _RESOLUTION)))
    quantiles = [*half, _RESOLUTION // 2, *(_RESOLUTION - k for k in reversed(half))]
    return torch.tensor([k / _RESOLUTION for k in quantiles], dtype=torch.float64, device=device)


def _beta_cdf(alpha: float, share: float) -> float:
    """The regularised incomplete beta function I(alpha, alpha) at 0 <= share <= 1/2.

    DLMF 8.17.8, x^a (1-x)^b / (a B(a, b)) times the sum of (a+b)_n / (a+1)_n x^n: all terms are positive, and each is at most half the one
    before in the long run.
    """
    if share <= 0:
        return 0.0
    term, total, n = 1.0, 1.0, 0
    while term > 1e-16 * total:
        term *= (2 * alpha + n) / (alpha + 1 + n) * share
        total += term
        n += 1
    log_front = alpha * math.log(share * (1 - share)) - math.log(alpha) - 2 * math.lgamma(alpha) + math.lgamma(2 * alpha)
    return math.exp(log_front) * total
