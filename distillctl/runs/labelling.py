"""A run whose teacher is a model behind an endpoint: its answers to the training texts are fetched before any training, and teach as a file of answers does."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from distillctl import compose
from distillctl.config import TeacherConfig
from distillctl.config.api_rules import is_local
from distillctl.data.split import UNLABELLED
from distillctl.data.text.corpus import Corpus
from distillctl.data.text.sets import TextSet
from distillctl.data.text.template import Template, read_template
from distillctl.errors import ConfigError
from distillctl.inputs.text import Texts
from distillctl.paths import cache_folder
from distillctl.report.audit import show
from distillctl.report.console import Console
from distillctl.runs.bundle import Bundle
from distillctl.runs.prices import read_prices
from distillctl.teachers.answers.forms import from_probabilities
from distillctl.teachers.answers.table import Table
from distillctl.teachers.api import estimate, labelling
from distillctl.teachers.api.audit import audit
from distillctl.teachers.api.money import spelled
from distillctl.teachers.api.outcome import Labelled, Question, Spending
from distillctl.teachers.api.secret import Secret

USUAL = "Text: {text}\n\nWhich of these is it: {classes}?"  # what is asked where no template says it
CLASSES = "classes"
TELLS = 20  # lines of progress at most


@dataclass(frozen=True)
class Asked:
    """What would be asked: the training texts as prompts, and by whom. rows: of each question its sample's place, as `Split.index` counts."""

    questions: Sequence[Question]
    rows: Sequence[int]
    classes: Sequence[str]
    teacher: labelling.Teacher


def asked(bundle: Bundle, teacher: TeacherConfig, seed: int) -> Asked:
    """Raises ConfigError, before anything is sent."""
    inputs, train = bundle.inputs, bundle.data.train
    if not isinstance(inputs, Texts):
        raise ConfigError(f"teacher=api labels texts, and the data set has {inputs.noun}; write answers to a file: teacher=answers")
    template = template_of(teacher, inputs)
    rows: Any = train.inputs
    index = train.index.tolist()
    questions = [Question(f"row {place}", template.filled(inputs.corpus, row)) for place, row in zip(index, rows.tolist(), strict=True)]
    ledger = Path(teacher.ledger) if teacher.ledger else cache_folder(teacher.cache.dir) / "api"
    return Asked(questions, index, bundle.data.classes, labelling.Teacher(teacher, ledger, read_prices(teacher.prices), seed))


def template_of(teacher: TeacherConfig, inputs: Texts) -> Template:
    """What is asked of a text: {classes} stands for the names of the classes."""
    corpus: Corpus = inputs.corpus
    usual = USUAL if corpus.pair is None else USUAL.replace("{text}", "{text}\nSecond text: {pair}")
    return read_template(teacher.template or usual, "teacher.template", tuple(corpus.columns), {CLASSES: ", ".join(inputs.classes)})


def check_typed(teacher: TeacherConfig) -> None:
    """A key goes only where the command line says: a config from elsewhere could send it to anybody. Raises ConfigError."""
    if not Secret.of_environment(teacher.key_variable).given or is_local(urlsplit(teacher.url or "")):
        return
    words = compose.typed_words()
    if not words:  # called from Python, whose author says so
        return
    typed = {word.lstrip("+").partition("=")[0] for word in words}
    for name in ("url", *(("insecure_http",) if teacher.insecure_http else ())):
        if f"teacher.{name}" not in typed:
            raise ConfigError(
                f"teacher.{name}: no file says where the key in ${teacher.key_variable} is sent; type teacher.{name}={getattr(teacher, name)} on the command line, or unset the variable"
            )


def label(bundle: Bundle, teacher: TeacherConfig, seed: int, console: Console, stop: Any) -> Table:
    """The answers to all training texts, those of the ledger without asking again. Raises UserError; what was paid for is kept."""
    say = console.say
    check_typed(teacher)
    wanted = asked(bundle, teacher, seed)
    total = len(wanted.questions)

    def seen(done: int, all_: int, spending: Spending) -> None:
        if spending.requests and (done == all_ or done % max(1, all_ // TELLS) == 0):
            money = "" if spending.ledger_money is None else f", {spelled(spending.ledger_money)} in all"
            say(f"teacher: {done:,} of {all_:,} texts are labelled, {spending.requests:,} requests{money}")

    say(f"teacher: {teacher.model} at {teacher.url} labels {total:,} texts; answers are kept in {wanted.teacher.ledger}")
    found = labelling.label(wanted.questions, wanted.classes, wanted.teacher, say, seen, stop)
    good = found.answered
    if given_up := int((~good).sum()):
        say(f"teacher: {given_up:,} texts were given up, and have no answer")
    matched = float(np.mean([how.matched for how in found.hows if how.problem is None]))
    say(f"teacher: {matched:.1%} of what it said spoke of a class; the rest was left out")
    if human := labels_of_people(bundle, found):
        show(audit(found, human), console)
    values = np.ascontiguousarray(found.probabilities[good])
    samples = [row for row, is_good in zip(wanted.rows, good.tolist(), strict=True) if is_good]
    digest = hashlib.sha256(repr((teacher.url, teacher.model, samples)).encode() + values.tobytes()).hexdigest()
    return Table(
        f"teacher.model={teacher.model}",
        digest,
        "row",
        samples,
        tuple(wanted.classes),
        from_probabilities(values),
        False,
        partial(place_of, samples),
    )


def labels_of_people(bundle: Bundle, found: Labelled) -> dict[str, str]:
    """The classes that files give to labelled texts though training looks at none, by what these are called. Where it does, `answering.agreement` tells."""
    data = bundle.data
    if bundle.config.labels or not isinstance(data, TextSet) or data.told is None:
        return {}
    numbers = zip(found.keys, data.told[data.train.index].tolist(), found.answered.tolist(), strict=True)
    return {key: data.classes[number] for key, number, is_good in numbers if is_good and number != UNLABELLED}


def place_of(samples: Sequence[int], place: int) -> str:
    return f"row {samples[place]}"


def price(bundle: Bundle, teacher: TeacherConfig, seed: int) -> Iterator[str]:
    """What labelling would take, in lines; nothing is asked."""
    wanted = asked(bundle, teacher, seed)
    for told in estimate.estimates(wanted.questions, wanted.classes, wanted.teacher):
        money = (
            "" if told.money is None or told.most_money is None else f", {spelled(told.money)} of money, at most {spelled(told.most_money)}"
        )
        yield (
            f"by {told.way}: {told.prompts:,} different texts, {told.kept:,} of them answered already; {told.calls:,} calls, "
            f"{told.usage.prompt:,} tokens of prompts and {told.usage.answer:,} of answers{money} ({told.how})"
        )
        if told.ledger_money is not None:
            yield f"spent so far: {spelled(told.ledger_money)}"
