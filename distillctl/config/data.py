"""What is said of data: where they are, how they are divided and augmented. A kind of data has its schema in DATA_KINDS. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from omegaconf import MISSING

from distillctl.config.fields import branch, number, option, value


@dataclass
class AugmentConfig:
    """How a training image becomes a view of itself; everything off means the image as it is."""

    crop: str = option("pad", "none", "pad", "resized", decides="answers")
    """pad: a shifted window; resized: a random part, scaled; none: the image as it is"""
    pad: Optional[int] = number(None, decides="answers", low=0)
    """pixels that the window may be shifted by; null: an eighth of the image"""
    flip: float = number(0.5, decides="answers", low=0, high=1)
    """the probability of a mirrored image"""
    policy: str = option("none", "none", "randaugment", "trivialaugment", decides="answers")
    """random changes of colour and shape"""
    num_ops: int = number(2, decides="answers", low=1)
    """changes an image, of randaugment"""
    magnitude: int = number(9, decides="answers", low=0, high=30)
    """their strength, of randaugment"""
    erasing: float = number(0.0, decides="answers", low=0, high=1)
    """the probability of a black box"""
    mixup: float = number(0.0, decides="answers", low=0)
    """alpha of the Beta distribution that mixing shares are drawn from; 0: none"""
    cutmix: float = number(0.0, decides="answers", low=0)
    """alpha of the area that comes from a second image; 0: none"""


@dataclass
class DatasetConfig:
    """What any kind of data has: where it is, how it is split, how many views of it there are."""

    name: str = value(MISSING, decides="answers")
    """the data set, which the group sets"""
    root: Optional[str] = value(None, decides="cost", path=True)
    """the folder; null: $DISTILLCTL_DATA, else data"""
    download: bool = value(True, decides="cost")
    """fetch what is published and not there yet"""
    subset: Optional[int] = number(None, decides="answers", low=1)
    """training images that are used; null: all"""
    test_subset: Optional[int] = number(None, decides="weights", low=1)
    """test images that are measured on; null: all"""
    shots: Optional[int] = number(None, decides="answers", low=1)
    """training images a class; null: all"""
    balance: str = option("none", "none", "oversample", "class_weights", decides="answers")
    """classes of very different size: none; as many samples of each in an epoch; or labels that weigh by class"""
    labels: bool = value(True, decides="answers")
    """false: training images have no labels, or they are not looked at"""
    val_fraction: float = number(0.1, decides="answers", above=0, high=0.5)
    """the share of the training images that is held out, where there is no validation split"""
    test_fraction: float = number(0.2, decides="answers", above=0, high=0.5)
    """the share that is held out for testing, where there is no test split"""
    split_seed: int = number(0, decides="answers", low=0, high=2**32 - 1)
    """what those shares are drawn by"""
    view_seed: Optional[int] = number(None, decides="answers", low=0, high=2**32 - 1)
    """what augmentation is drawn by; null: the run's seed"""
    views: Optional[int] = number(None, decides="answers", low=1)
    """augmented views of each image, which epochs take in turn; null: a new one each epoch"""
    workers: Optional[int] = number(None, decides="cost", low=0)
    """processes that read and augment; null: by the machine"""
    timeout_s: int = number(300, decides="cost", low=1)
    """seconds after which a worker that says nothing is given up"""


@dataclass
class ImageSetConfig(DatasetConfig):
    """An image set, and how it is read and augmented."""

    image_size: Optional[int] = number(None, decides="answers", low=1, high=4096)
    """pixels of the square that images are brought to; null: as the set has them"""
    on_bad_image: str = option("error", "error", "skip", decides="cost")  # its fingerprint says which are left out
    """an unreadable image ends the run before it trains, or is left out"""
    max_pixels: int = number(50_000_000, decides="cost", low=1)
    """larger images are refused: they may be bombs"""
    in_memory: str = option("auto", "auto", "always", "never", decides="answers")
    """whether images are decoded once and held; auto: where they fit"""
    augment: AugmentConfig = branch(AugmentConfig, decides="answers")


@dataclass
class TextAugmentConfig:
    """How a training text becomes a view of itself; everything off means the text as it is, to which a teacher answers once."""

    mask: float = number(0.0, decides="answers", low=0, high=1)
    """the probability that a word is replaced by the tokenizer's mask"""
    drop: float = number(0.0, decides="answers", low=0, high=1)
    """the probability that a word is left out"""


@dataclass
class TextSetConfig(DatasetConfig):
    """Texts with a class each, or pairs of texts: a file, a folder of files, or a set of the `datasets` library; and how they are cut into tokens."""

    hub: Optional[str] = value(None, decides="answers")
    """a set by its name on the Hugging Face hub, in place of dataset.root"""
    hub_config: Optional[str] = value(None, decides="answers")
    """which of its configurations, as sst2 of glue"""
    text: Optional[str] = value(None, decides="answers")
    """the column of texts; null: found by the usual names (text, sentence, ...)"""
    pair: Optional[str] = value(None, decides="answers")
    """the column of second texts, where a sample is a pair; null: found by the usual names, else none; '': none, whatever columns there are"""
    label: Optional[str] = value(None, decides="answers")
    """the column of labels, words or numbers; null: found by the usual names (label, class, ...)"""
    class_names: Optional[list[str]] = value(None, decides="answers")
    """names in place of labels that are numbers, in their order: class_names=[negative,positive]"""
    delimiter: Optional[str] = value(None, decides="answers")
    """what separates columns; null: found"""
    encoding: Optional[str] = value(None, decides="answers")
    """of text files; null: found"""
    groups: Optional[str] = value(None, decides="answers")
    """what stays on one side of a split: a column whose equal values belong together, or contained: texts that stand in others word for word"""
    max_tokens: int = number(128, decides="answers", low=4, high=100_000)
    """longer texts are cut, and counted"""
    vocab_size: int = number(8000, decides="answers", low=260, high=1_000_000)
    """entries of the tokenizer that is trained on the training texts, for nets that bring none"""
    lowercase: bool = value(False, decides="answers")
    """whether that tokenizer takes all letters for small ones"""
    bucket: int = number(50, decides="weights", low=0)
    """batches whose texts are sorted by length among each other, so that few positions are filled up; 0: none"""
    augment: TextAugmentConfig = branch(TextAugmentConfig, decides="answers")


# The schemas of `dataset`, as options of the group dataset/kind. A file in conf/dataset whose data are no images begins with
# `defaults: [override kind@_here_: NAME]`; one that says nothing is an image set.
DATA_KINDS: dict[str, type[DatasetConfig]] = {"images": ImageSetConfig, "texts": TextSetConfig}
