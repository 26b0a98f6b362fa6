"""What would make the steps fail that cut, export and quantise, found before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator

from distillctl import extras
from distillctl.compress.prune import check_prunable
from distillctl.config import CAUSAL, CompressConfig, ExportStepConfig, PruneConfig, QuantizeConfig
from distillctl.errors import CheckpointError, ConfigError, UserError
from distillctl.export.web.runtime import runtime_files
from distillctl.formats import format_of
from distillctl.formats.format import Form
from distillctl.inputs.contract import Contract
from distillctl.models.file_net import is_run, named
from distillctl.models.obtain import planned, source_of
from distillctl.models.shipping import read_record
from distillctl.paths import as_path
from distillctl.runs import unlabelled
from distillctl.runs.bundle import Bundle
from distillctl.runs.sources import Given, start_from
from distillctl.runs.steps import Plan, Step, Transform, Verify

BY_CHANNELS = ("magnitude", "taylor", "bn_scale")


def check_libraries(step: Transform) -> None:
    """Whether all is installed that a step takes, and what it is told of goes with that. Raises MachineError and ConfigError."""
    keys = step.settings
    if isinstance(keys, PruneConfig):
        if keys.name in BY_CHANNELS and not extras.is_installed("torch_pruning"):
            raise extras.missing(f"prune={keys.name}", "torch-pruning", "prune")
    elif isinstance(keys, QuantizeConfig):
        if keys.name == "qat":
            extras.require("quantize=qat", ("torchao",), "qat")
        if keys.name == "openvino":
            extras.require("quantize=openvino", ("nncf",), "openvino")
    elif isinstance(keys, ExportStepConfig) and step.does == "export":
        kind, asked = format_of("onnx" if keys.format == "web" else keys.format), f"export.format={keys.format}"
        kind.check_can_write(asked)
        if not kind.elsewhere:
            kind.check_can_run(asked)
        kind.check_form(Form(keys.preprocess, keys.opset))
        if keys.format == "web":
            if keys.preprocess != "inside":
                raise ConfigError("export.format=web: the page gives images as they are; leave export.preprocess=beside out")
            assert keys.web_runtime is not None
            runtime_files(as_path(keys.web_runtime))


def check_learners(plan: Plan) -> None:
    """A file that another runtime runs cannot learn, nor does a language model that answers by its words. Raises ConfigError."""
    for step in plan.todo:
        if isinstance(step.model, Given) and step.model.model.name == CAUSAL:
            raise ConfigError(
                f"{step.model.key}={CAUSAL}: it teaches as it is, and {step.name} would train it; distillctl distill learns by it"
            )
        check_begins_with_weights(step, f"cannot learn, and {step.name} would train it")


def check_begins_with_weights(step: Step | Transform, why: str) -> None:
    """why: what an exported file is, that it cannot be what the step begins with."""
    if isinstance(step.model, Given) and is_run(source_of(step.model.model, step.model.key)[0]):
        setting, given = named(step.model.model, step.model.key)
        raise ConfigError(f"{setting}={given}: an exported file {why}; give the .safetensors that it was made from")


def check_floats(plan: Plan) -> None:
    """A file that another runtime runs is neither cut nor written again. Raises ConfigError."""
    for step in plan.transforms:
        check_begins_with_weights(step, f"is ready, and {step.name} begins with weights")
        if isinstance(step.settings, Verify):
            check_compared(step, step.settings.file)


def check_compared(step: Transform, given: str) -> None:
    """Whether there is a file by that name which says what it is. Raises CheckpointError."""
    assert isinstance(step.model, Given)
    file = as_path(given)
    try:
        if is_run(file) and file.exists() and read_record(file, "verify") is None:
            raise CheckpointError(
                f"verify={given}: a file without a record of distillctl; distillctl evaluate model=onnx checkpoint={given} measures it"
            )
        source_of(start_from(step.model.model, file), "verify")
    except UserError as error:
        raise type(error)(str(error).replace("verify.checkpoint=", "verify=")) from None


def check_training_for_int8(plan: Plan) -> None:
    """The net is a graph then, of which logits alone can be read. Raises ConfigError."""
    for step in plan.todo:
        if not step.for_int8:
            continue
        within = step.taps("student")
        if within:
            raise ConfigError(
                f"quantize=qat: the loss or the method reads {', '.join(within)} of the student, and a net that is trained for int8 "
                "gives logits alone; take a loss on logits, as loss=kd, or quantize=static"
            )
        if step.peers():
            raise ConfigError("quantize=qat: a student is trained for int8 alone, without method.peers; take method=distill")


def check_labels(plan: Plan, config: CompressConfig) -> None:
    """Steps that learn from labels, where the data have none. Raises ConfigError."""
    for step in plan.steps:
        if isinstance(step, Step) and step.teacher is None and not step.skipped and not config.dataset.labels:
            raise ConfigError(
                f"{unlabelled.OFF}: {step.name} learns from labels where nobody teaches; give a teacher, teacher.checkpoint=<run folder or file>"
            )


def check_cut(plan: Plan, step: Transform, bundle: Bundle) -> None:
    """Whether a net can be cut as `prune` says, and what is looked at for that is there. Raises ConfigError."""
    keys: PruneConfig = step.settings
    if keys.name == "taylor" and not bundle.data.train.labelled:
        raise ConfigError(f"prune=taylor takes gradients by labels, and the training {bundle.inputs.noun} have none; take prune=magnitude")
    if keys.name != "unstructured" and step.part[0] == 1:
        check_net_cut(plan, step, keys, bundle.inputs)


def check_net_cut(plan: Plan, step: Transform, keys: PruneConfig, inputs: Contract) -> None:
    model = plan.base(step.model)
    net = planned(model, source_of(model, step.role)[1], inputs, step.role)
    if net.source == "transformers":
        raise ConfigError(
            f"prune={keys.name}: {net.name} ships as the transformers library opens it, which has no net that was cut; take prune=unstructured"
        )
    check_prunable(net, inputs.seen_by(net).net_example, keys)


def written(plan: Plan) -> Iterator[Transform]:
    """The steps that leave files for other runtimes."""
    return (step for step in plan.transforms if isinstance(step.settings, (ExportStepConfig, QuantizeConfig)) and not step.skipped)


def cuts(plan: Plan) -> Iterator[Transform]:
    return (step for step in plan.transforms if step.does == "prune" and not step.skipped)
