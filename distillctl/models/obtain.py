"""The model that a role's config asks for, ready to answer samples of the data set: built, and with its weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from distillctl import inputs as kinds
from distillctl.build import build, find_class
from distillctl.config import FILE, ModelConfig
from distillctl.data.forms import one_form
from distillctl.draws import seed_of
from distillctl.errors import CheckpointError, ConfigError, first_line
from distillctl.inputs.contract import Contract
from distillctl.models import catalogue
from distillctl.models.adapter import Adapter
from distillctl.models.edits import apply_edits, change_of
from distillctl.models.file_net import WEIGHTS, check_known, file_net, is_meant, is_run, named, remark
from distillctl.models.fitting import left_over, load_weights, match_names
from distillctl.models.locate import locate
from distillctl.models.net import SMALL, Net, rebuild
from distillctl.models.pruned import PRUNED
from distillctl.models.published import triple
from distillctl.models.record import Record
from distillctl.models.shipping import read_record
from distillctl.models.taps import LOGITS, tap
from distillctl.models.trace import trace
from distillctl.models.weights import read_weights
from distillctl.types import Inputs, count

SPARE = 2**20  # weights that a net may make besides those that its file holds
UNCUT = 2**28  # and one that was pruned, which is built whole before it is cut: a gigabyte


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
    if is_run(file):
        check_no_taps(config, taps, key)
    classifier.taps = tap(net.module, taps, seen.net_example, key) if taps and not is_run(file) else None
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
    tap(net.module, taps, inputs.seen_by(net).net_example, key)
    if record is not None or file is None:
        return ""
    stem = (
        f"{key}.stem=large, as {key}.checkpoint has it"
        if net.stem == "large" and inputs.size and inputs.size < SMALL and net.source != "own"
        else ""
    )
    return "; ".join(filter(None, (stem, fill(net, file, config, key))))


def check_no_taps(config: ModelConfig, taps: Sequence[str], key: str) -> None:
    """Nothing can be read within a file. Raises ConfigError."""
    within = [name for name in taps if name != LOGITS]
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


def from_record(record: Record, config: ModelConfig, inputs: Contract, key: str) -> Net:
    """The architecture as it was, with as many classes as are asked for now."""
    architecture = record.architecture
    source, name, edits = architecture.source, config._target_ or architecture.name, architecture.edits
    args = {**architecture.args, **config.args}
    where = f"{key}.checkpoint={config.checkpoint}"
    try:
        spare = UNCUT if any(isinstance(change_of(edit.became), PRUNED) for edit in edits) else SPARE
        with parameters_within(weights_in(locate(str(config.checkpoint), key, f"{key}.checkpoint")), spare):
            if source == "own":
                module = own_of_record(name, args, config, len(inputs.classes), key)
                apply_edits(module, edits)
            else:
                module = rebuild(source, architecture.name, len(inputs.classes), architecture.args, edits, key, added=config.args)
    except CheckpointError as error:
        raise CheckpointError(f"{where}: {error}") from None
    theirs = kinds.from_record(record)
    if theirs.kind != inputs.kind:
        raise CheckpointError(f"{where} takes {theirs.noun}, and the data set has {inputs.noun}; give a {key} of these")
    size = config.image_size or architecture.image_size or inputs.size
    told = record.preprocessing
    mean, std = (triple(getattr(config, name) or told.get(name)) for name in ("mean", "std"))
    return Net(module, source, name, architecture.stem, edits, args, mean, std, size)


def weights_in(file: Path) -> int:
    """How many a file can hold at most."""
    try:
        return file.stat().st_size
    except OSError as error:
        raise CheckpointError(f"cannot be read ({error.strerror})") from None


@contextlib.contextmanager
def parameters_within(count: int, spare: int = SPARE) -> Iterator[None]:
    """Refuse to make a net of many more than so: a record may ask for more layers, or wider ones, than any machine has room for.

    Nets make some that they drop again, so four times as many may be made. Raises CheckpointError, within the builder of the net.
    """
    made, most = 0, 4 * count + spare

    def weigh(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal made
        made += parameter.numel()
        if made > most:
            raise CheckpointError("it describes a net of more weights than the file holds")

    hook = register_module_parameter_registration_hook(weigh)
    try:
        yield
    finally:
        hook.remove()


def own_of_record(name: str, args: Mapping[str, Any], config: ModelConfig, classes: int, key: str) -> nn.Module:
    """A class of the user's own with what its record gives it. Raises CheckpointError where it is not trusted, or cannot be built."""
    node = {**args, "_target_": name}
    try:
        find_class(node, nn.Module, key)
    except ConfigError as error:
        if config._target_:
            raise
        raise CheckpointError(f"its record names a class ({error})") from None
    try:
        return build(node, nn.Module, key, num_classes=classes)
    except Exception as error:  # a record may give it anything, and the class may object in any way
        if config.args:
            raise
        raise CheckpointError(f"its record describes no {name} that can be built ({first_line(error)[:200]})") from None


def own_net(config: ModelConfig, inputs: Contract, key: str) -> Net:
    """A class of the user's own: it is given `num_classes` and `<role>.args`, and inputs as their kind prepares them: images are normalised by the data set."""
    module = build({"_target_": config._target_, **config.args}, nn.Module, key, num_classes=len(inputs.classes))
    mean, std, size = triple(config.mean), triple(config.std), config.image_size or inputs.size
    net = Net(module, "own", str(config._target_), "large", (), dict(config.args), mean, std, size)
    problem = trace(module, inputs.seen_by(net).net_example)[1]
    if problem is not None:
        side = f" of {net.input_size} px" if net.input_size else ""
        raise ConfigError(f"{key}._target_={config._target_}: it cannot take {inputs.noun}{side} ({problem})")
    return net


def sorted_by(key: str, config: ModelConfig) -> str:
    """The other way out, of a teacher."""
    return f", or let an ensemble sort them: teacher=ensemble teacher.members.a.checkpoint={config.checkpoint}" if key == "teacher" else ""


def check_classes(record: Record, ours: Sequence[str], config: ModelConfig, where: str, key: str) -> None:
    """Count, names and order of the classes: equal numbers with another order would train in silence towards nonsense."""
    theirs = record.classes
    if len(theirs) != len(ours):
        raise CheckpointError(f"{where} knows {len(theirs)} classes, the data set has {len(ours)}; give a {key} of these classes")
    pairs = zip(map(one_form, theirs), map(one_form, ours), strict=True)
    other = next(((place, a, b) for place, (a, b) in enumerate(pairs) if a != b), None)
    if other is None or config.ignore_class_names:
        return
    place, a, b = other
    if sorted(map(one_form, theirs)) == sorted(map(one_form, ours)):
        raise CheckpointError(
            f"{where}: its classes are the data set's in another order (class {place} is {a!r}, the data set's is {b!r}); give a {key} of this order{sorted_by(key, config)}"
        )
    ways = ["dataset=recorded is the data that it learned from", f"{key}.new_head=true learns these classes"]
    if (record.dataset or {}).get("name") in (None, "image_folder"):  # what the classes of a published set mean is known
        ways.append(f"{key}.ignore_class_names=true if they mean the same")
    raise CheckpointError(f"{where}: its class {place} is {a!r}, the data set's is {b!r}; {', '.join(ways[:-1])}, or {ways[-1]}")
