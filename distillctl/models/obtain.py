"""The model that a role's config asks for, ready to answer samples of the data set: built, and with its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from distillctl.build import build
from distillctl.config import CAUSAL, FILE, ModelConfig
from distillctl.draws import seed_of
from distillctl.errors import CheckpointError, ConfigError, first_line
from distillctl.inputs.contract import Contract
from distillctl.models import catalogue
from distillctl.models.adapter import Adapter
from distillctl.models.classes import check_classes
from distillctl.models.file_net import WEIGHTS, check_known, file_net, is_meant, is_run, named, remark
from distillctl.models.fitting import left_over, load_weights, match_names
from distillctl.models.locate import locate
from distillctl.models.net import SMALL, Net
from distillctl.models.published import triple
from distillctl.models.record import Record
from distillctl.models.recorded import from_record
from distillctl.models.shipping import read_record
from distillctl.models.taps import LOGITS, tap
from distillctl.models.trace import trace
from distillctl.models.weights import read_weights
from distillctl.types import Inputs, count


@dataclass(frozen=True)
class Obtained:
    """A model, how to build it again, its inputs as it sees them, and the record of its weights where it has one."""

    classifier: Adapter
    net: Net
    inputs: Contract
    record: Record | None
    weights: Path | None


def obtain(config: ModelConfig, inputs: Contract, key: str, seed: int, *, weights: bool = True, taps: Sequence[str] = ()) -> Obtained:
    """Build the model `config` describes and load its checkpoint or published weights.

    Fresh weights depend on `seed` and the role alone: the student is the same with and without a teacher. With
    `weights=False` only the architecture is taken; `taps` names the features that its answers hold. Raises ConfigError and CheckpointError that begin with `key`.
    """
    file, record = source_of(config, key)
    torch.manual_seed(seed_of(seed, "initialisation", key))
    if file is not None and is_run(file):
        net = file_net(config, file, record, inputs, key)
    elif record is not None:
        net = from_record(record, config, inputs, key)
    elif config.source == "own":
        net = own_net(config, inputs, key)
    else:
        net = inputs.build(with_stem(config, file, inputs, key), key)
    if file is not None and weights:
        if record is not None and not config.new_head:
            check_classes(record, inputs.classes, config, "{}={}".format(*named(config, key)), key)
        if not is_run(file):
            fill(net, file, config, key)
    classifier = inputs.adapt(net)
    classifier.outputs = len(inputs.classes)
    seen = inputs.seen_by(classifier)
    if answers_alone(config, file):
        check_no_taps(config, taps, key)
    classifier.taps = tap(net.module, taps, seen.net_example, key) if taps and not answers_alone(config, file) else None
    return Obtained(classifier, net, seen, record, file)


def check_obtainable(config: ModelConfig, inputs: Contract, key: str, taps: Sequence[str] = ()) -> str:
    """Find before any training what would make `obtain` fail, without memory or download. Returns what of a file of weights is left over, in a line."""
    file, record = source_of(config, key)
    if record is not None:
        if not config.new_head:
            check_classes(record, inputs.classes, config, "{}={}".format(*named(config, key)), key)
        if not taps and not is_run(file):
            return ""
    net = planned(config, record, inputs, key)
    if is_run(file):
        check_no_taps(config, taps, key)
        return remark(net, config, key)
    if config.name == CAUSAL:
        from distillctl.models.text import verbalizer

        check_no_taps(config, taps, key)
        return verbalizer.remark(config, net, inputs.classes, key)
    tap(net.module, taps, inputs.seen_by(net).net_example, key)
    if record is not None or file is None:
        return ""
    stem = (
        f"{key}.stem=large, as {key}.checkpoint has it"
        if net.stem == "large" and inputs.size and inputs.size < SMALL and net.source != "own"
        else ""
    )
    return "; ".join(filter(None, (stem, fill(net, file, config, key))))


def answers_alone(config: ModelConfig, file: Path | None) -> bool:
    """Whether nothing can be read of a model but its answer."""
    return is_run(file) or config.name == CAUSAL


def check_no_taps(config: ModelConfig, taps: Sequence[str], key: str) -> None:
    """Nothing can be read within a file, or of a language model that may pass over a text several times. Raises ConfigError."""
    within = [name for name in taps if name != LOGITS]
    if within and config.name == CAUSAL:
        raise ConfigError(f"{key}={CAUSAL}: it answers with logits alone, and {', '.join(within)} of it is read; take a loss on logits")
    if within:
        setting, given = named(config, key)
        raise ConfigError(
            f"{setting}={given}: an exported file answers with logits alone, and {', '.join(within)} of it is read; {WEIGHTS}, or take a loss on logits"
        )


def check_answers(config: ModelConfig, inputs: Contract, samples: Inputs, key: str) -> None:
    """Whether a net of the user's own answers a few samples with finite logits [B, K], measured as it is and while it learns.

    Raises ConfigError in one line. Nets of libraries are known to.
    """
    model = obtain(config, inputs, key, seed=0).classifier
    named = f"{key}={model.net.__class__.__name__}" if config._target_ is None else f"{key}._target_={config._target_}"
    try:
        with torch.no_grad():
            logits = model.eval()(samples).logits
            model.train()(samples)
    except Exception as error:  # a net may object to its inputs in any way it likes
        raise ConfigError(f"{named}: {first_line(error)[:300]}") from None
    if len(logits) != count(samples):
        raise ConfigError(f"{named}: it answers {count(samples)} samples with {len(logits)} rows")
    if not torch.isfinite(logits).all():
        raise ConfigError(
            f"{named}: its answers are not finite numbers before any training; look at its first weights and at what it divides by"
        )


def is_own(config: ModelConfig, key: str) -> bool:
    """Whether a model is a class of the user's own."""
    file, record = source_of(config, key)
    if is_run(file):
        return False
    return config.source == "own" or (record is not None and record.architecture.source == "own")


def fill(net: Net, file: Path, config: ModelConfig, key: str) -> str:
    """Load a file of weights into a net. Returns what the net has no place for, in a line; empty where there is none. Raises CheckpointError."""
    setting = f"{key}.checkpoint"
    weights = read_weights(file, setting, net.module.state_dict())
    left = left_over(load_weights(net.module, weights, setting, file, name=net.name, new_head=config.new_head))
    return f"{setting}={config.checkpoint}: {net.name} has no place for {left}; left out" if left else ""


def planned(config: ModelConfig, record: Record | None, inputs: Contract, key: str) -> Net:
    """The architecture alone, its weights worth nothing: on the meta device where there is no record of it."""
    file = source_of(config, key)[0]
    if file is not None and is_run(file):
        return file_net(config, file, record, inputs, key)
    if record is not None:
        return from_record(record, config, inputs, key)
    return own_net(config, inputs, key) if config.source == "own" else inputs.plan(with_stem(config, file, inputs, key), key)


def with_stem(config: ModelConfig, file: Path | None, inputs: Contract, key: str) -> ModelConfig:
    """With stem=auto and a file of weights: the common stem where the file has its kernels, though the images are small."""
    if file is None or config.stem != "auto":
        return config
    for stem in ("auto", "large"):
        asked = replace(config, stem=stem)
        net = inputs.plan(asked, key)
        if stem == "auto":
            changed = tuple(f"{edit.module}." for edit in net.edits)
            if not changed:
                return config
        own = net.module.state_dict()
        given, _ = match_names(read_weights(file, f"{key}.checkpoint", own), own)
        if all(given[entry].shape == own[entry].shape for entry in own if entry.startswith(changed) and entry in given):
            return asked
    return config


def source_of(config: ModelConfig, key: str) -> tuple[Path | None, Record | None]:
    """File and record of a checkpoint; both None where the config gives none."""
    setting, given = named(config, key)
    if given is None:
        if config.name == FILE:
            raise ConfigError(
                f"{key}={FILE}: a file that another framework exported can teach and be measured alone; name a model: {key}=resnet20"
            )
        if config.name == "recorded":
            raise ConfigError(f"{key}.checkpoint is not set: pass {key}.checkpoint=<run folder or file>, or name a model: {key}=resnet20")
        return None, None
    file = locate(given, key, setting)
    if is_meant(config):
        check_known(config, file, key)
        return file, read_record(file, setting)
    record = read_record(file, setting)
    if record is None:
        if is_run(file) and file.exists():
            way = f"{key}={FILE}" if key == "model" else f"{key}={FILE} {key}.file=..."
            raise CheckpointError(f"{setting}={given}: a file without a record of distillctl; take it as it is: {way}")
        read_weights(file, setting)  # what is wrong with the file itself comes before what it lacks
        if config.name == "recorded":
            raise CheckpointError(f"{setting}={given}: no record beside it says what it is; name its architecture: {key}=<model>")
        return file, None
    architecture = record.architecture
    if config.name != "recorded" and config.source != "own":
        asked = catalogue.resolve(config.name, config.source, key)
        if asked != (architecture.source, architecture.name):
            raise CheckpointError(f"{setting}={given} holds {architecture.name}, but {key}={config.name}; pass {key}={architecture.name}")
    return file, record


def own_net(config: ModelConfig, inputs: Contract, key: str) -> Net:
    """A class of the user's own: it is given `num_classes` and `<role>.args`, and inputs as their kind prepares them: images are normalised by the data set."""
    module = build({"_target_": config._target_, **config.args}, nn.Module, key, num_classes=len(inputs.classes))
    mean, std, size = triple(config.mean), triple(config.std), config.image_size or inputs.size
    net = Net(module, "own", str(config._target_), "large", (), dict(config.args), mean, std, size, inputs.reader_for(config, key))
    problem = trace(module, inputs.seen_by(net).net_example)[1]
    if problem is not None:
        side = f" of {net.input_size} px" if net.input_size else ""
        raise ConfigError(f"{key}._target_={config._target_}: it cannot take {inputs.noun}{side} ({problem})")
    return net
