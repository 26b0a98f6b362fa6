"""The step that cuts a net, structured or single weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from distillctl.compress.prune import prune as cut
from distillctl.compress.sparsity import sparsify
from distillctl.config import PruneConfig
from distillctl.metrics.metric import count
from distillctl.models.record import Parents, Record
from distillctl.runs.artifact import Work
from distillctl.runs.ship import first_record, ship_net


def prune(work: Work) -> dict[str, Any]:
    """Cut the model, and ship what is left as any other."""
    keys: PruneConfig = work.step.settings
    found = sparse(work, keys) if keys.name == "unstructured" else structured(work, keys)
    model = work.model
    known = model.record
    record: Record = replace(
        first_record(work.session, work.bundle, model, work.step.role, work.step.name),
        parents=Parents(known.parents.teacher if known else None, known.sha256 if known else None),
    )
    written = ship_net(work.folder, work.step.role, model.classifier.plain_state(), record, model.net, model.inputs)
    return {"sha256": written.sha256, **found}


def structured(work: Work, keys: PruneConfig) -> dict[str, Any]:
    """Channels and heads."""
    model, say = work.model, work.session.console.say
    step, _ = work.step.part
    samples = work.training(keys.samples) if keys.name == "taylor" else None
    done = cut(model.net, model.inputs.net_example, keys, classifier=model.classifier, batches=samples, step=step)
    work.keep(replace(model, net=done.net))
    share = done.macs / done.macs_before
    say(
        f"{work.step.name}: {done.ratio:.0%} of the channels that can go are cut, {count(done.macs_before)} to {count(done.macs)} MACs ({share:.0%}), "
        f"{count(done.parameters_before)} to {count(done.parameters)} parameters"
    )
    for line in done.said:
        say(line)
    return {"macs": done.macs, "macs_before": done.macs_before, "parameters": done.parameters, "parameters_before": done.parameters_before}


def sparse(work: Work, keys: PruneConfig) -> dict[str, Any]:
    """Single weights; in several steps the share of zeros grows by as much in each."""
    step, steps = work.step.part
    found = sparsify(work.model.net.module, keys.ratio * step / steps)
    work.session.console.say(
        f"{work.step.name}: {found.share:.0%} of the weights are zero; the file has {found.file_bytes / 1e6:.2f} MB, "
        f"and {found.gzip_bytes / 1e6:.2f} MB by gzip; {found.said}"
    )
    return {"sparsity": found.to_json()}
