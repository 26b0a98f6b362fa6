"""What is said of the way from a trained student to a file that runs. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from distillctl.config.fields import number, option


@dataclass
class PruneConfig:
    """What is cut from a net, by what it is judged, and how much of it."""

    name: str = option("none", "none", "magnitude", "taylor", "bn_scale", "unstructured", decides="weights")
    """what is cut and by what it is judged, which the group sets"""
    ratio: float = number(0.5, decides="weights", above=0, high=0.99)
    """the share of channels that go, or of weights with prune=unstructured"""
    target_macs: Optional[float] = number(None, decides="weights", above=0)
    """instead of a ratio: the multiply-accumulates that stay, up to 1 as a share of the net's, beyond that a count"""
    scope: str = option("global", "global", "layer", decides="weights")
    """channels compete with those of the whole net, or each layer loses the same share"""
    steps: int = number(1, decides="weights", low=1, high=100)
    """in how many goes, with training in between"""
    samples: int = number(256, decides="weights", low=1)
    """training images that prune=taylor takes gradients of"""
