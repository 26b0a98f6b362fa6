"""What is said of a model: its architecture and weights, and of a teacher how it answers. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

from omegaconf import MISSING

from distillctl.config.api import API, ApiConfig
from distillctl.config.fields import branch, number, option, value


@dataclass
class ModelConfig:
    """An architecture and where its weights come from; the teacher and the student are each one of these."""

    name: str = value(MISSING, decides="weights")
    """the architecture, which the group sets; recorded: what the checkpoint's record says"""
    source: str = option("auto", "auto", "cifar", "torchvision", "timm", "text", "transformers", "own", decides="weights")
    """whose net of that name is meant"""
    _target_: Optional[str] = value(None, decides="weights")
    """one's own class, where the source is own"""
    pretrained: bool = value(False, decides="weights")
    """begin with the weights that torchvision or timm publish"""
    checkpoint: Optional[str] = value(None, decides="weights", path=True)
    """begin with these weights: a run's folder, a stage's folder, or a file"""
    file: Optional[str] = value(None, decides="weights", path=True)
    """a net that another framework exported, as it is: an ONNX file, which can teach and be measured, and cannot learn; with teacher=answers a file of answers"""
    model: Optional[str] = value(None, decides="weights")
    """of transformer and causal_lm: a net of the transformers library, by its name on the hub or by its folder"""
    tokenizer: Optional[str] = value(None, decides="weights")
    """how texts become tokens: a folder, a tokenizer.json or a name on the hub; null: the net's own, else one that is trained on the training texts"""
    template: Optional[str] = value(None, decides="weights")
    """what the net reads of a text, with columns in braces, as in \"{hint} {text}\"; or a file that holds it; null: the text, or the pair"""
    examples: int = number(0, decides="weights", low=0, high=10_000)
    """training texts with their labels that stand where the template has {examples}, as many of each class as can be"""
    example_template: str = value("{text}\\n{label}\\n\\n", decides="weights")
    """what each of them looks like, with columns in braces; {label} is the name of its class, of causal_lm the first word that stands for it"""
    examples_seed: int = number(0, decides="weights", low=0, high=2**32 - 1)
    """what they are drawn by"""
    verbalizer: dict[str, Any] = branch(dict, decides="weights")
    """of causal_lm: the words that stand for each class, as in {negative: [\" bad\", \" terrible\"], positive: [\" good\"]}"""
    calibrate: bool = value(False, decides="weights")
    """of causal_lm: take from its scores those of the template filled with texts that say nothing"""
    max_tokens: Optional[int] = number(None, decides="weights", low=4, high=100_000)
    """longer texts are cut for this net; null: dataset.max_tokens"""
    new_head: bool = value(False, decides="weights")
    """take all but the classifier from the weights, for other classes"""
    stem: str = option("auto", "auto", "small", "large", decides="weights")
    """the net's first layers: small for images under 64 px, large as published; auto: by the images"""
    image_size: Optional[int] = number(None, decides="weights", low=1)
    """pixels that the net is given, where they differ from the data set's"""
    mean: Optional[list[float]] = value(None, decides="weights")
    """what is taken from the three channels of images in [0, 1]; null: as the weights were trained, else as the data set has it"""
    std: Optional[list[float]] = value(None, decides="weights")
    """what they are then divided by; null: as with mean"""
    args: dict[str, Any] = branch(dict, decides="weights")
    """arguments of the net's constructor, as in +student.args.drop_rate=0.1"""
    ignore_class_names: bool = value(False, decides="weights")
    """the weights' classes may be called otherwise than the data set's"""


ENSEMBLE = "ensemble"  # the teacher that is several
FILE = "onnx"  # the model that is a file, whoever exported it
ANSWERS = "answers"  # the teacher that is no model: somebody's answers to training samples, in a file
TOLD = (ANSWERS, API)  # teachers whose answers to the training samples are there before any training
CAUSAL = "causal_lm"  # the teacher that answers by the words which a language model would go on with


@dataclass
class MemberConfig(ModelConfig):
    """One of several teachers; its checkpoint alone is enough."""

    name: str = value("recorded", decides="weights")
    """the architecture; recorded: what the checkpoint's record says"""


@dataclass
class CacheConfig:
    """Answers of the teacher that are kept on the disk, for views that come again."""

    mode: str = option("auto", "off", "auto", "fill", "require", decides="answers")
    """off: ask at every step; auto: keep where views come again; fill: keep whatever is asked; require: read alone, or fail"""
    dir: Optional[str] = value(None, decides="cost", path=True)
    """where answers are kept; null: $DISTILLCTL_CACHE, else outputs/.cache"""
    dtype: str = option("fp16", "fp16", "fp32", decides="answers")
    """the precision of what is kept"""
    features: str = option("vectors", "vectors", "none", "all", decides="answers")
    """which of the features that are read are kept: vectors [B, C], all (maps and tokens too), or none"""
    top_k: Optional[int] = number(None, decides="answers", low=1)
    """classes that are kept of each answer; null: all, and of more than 256 the 16 likeliest"""
    trust_group: bool = value(False, decides="cost")
    """in a folder that is shared: believe what other users wrote, answers and teachers"""
    shared: bool = value(False, decides="answers")
    """other runs see the same views by this teacher; set in a sweep whose jobs do"""


@dataclass
class TeacherConfig(ApiConfig, ModelConfig):
    """One model, or with teacher=ensemble several, and how their answers become one; with teacher=api one that is asked over the network."""

    members: dict[str, Any] = branch(dict, decides="answers")
    """with teacher=ensemble: its models by name, as in teacher.members.c=vgg8"""
    combine: str = option(
        *("mean_probability", "mean_probability", "mean_logit", "mean_loss", "confidence", "entropy", "fixed"), decides="answers"
    )
    """how several answers become one"""
    weights: dict[str, float] = branch(dict, decides="answers")
    """of members, for combine=fixed; 1 for those that are not named"""
    temperature: Optional[float] = number(None, decides="answers", above=0)
    """at which probabilities are mixed; null: that of the loss"""
    fold_batchnorm: bool = value(True, decides="answers")
    """fold batch norm into the convolutions before it: faster, the same answers up to rounding"""
    micro_batch: Optional[int] = number(None, decides="answers", low=1)
    """images that the teacher answers at once; null: a whole batch"""
    answers: str = option("auto", "auto", "logits", "probabilities", decides="answers")
    """with teacher=answers: what a column of a class holds; auto: probabilities where each sample's are >= 0 and sum to 1"""
    confidence: Optional[float] = number(None, decides="answers", above=0, high=1)
    """with teacher=answers: the probability of a label that comes without one; null: 1"""
    cache: CacheConfig = branch(CacheConfig, decides="answers")
