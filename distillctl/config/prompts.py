"""What must hold of the keys that say what a model reads of a text: templates, examples in them, and words that stand for classes."""

from __future__ import annotations

from typing import Any

from distillctl.config.api import API
from distillctl.config.models import CAUSAL, ModelConfig

WORDS = "[' bad', ' terrible']"


def check_prompts(role: str, model: ModelConfig) -> list[str]:
    problems = check_causal(role, model) if model.name == CAUSAL else check_no_causal(role, model)
    usual = ModelConfig(name=model.name)
    for name in ("example_template", "examples_seed"):
        if getattr(model, name) != getattr(usual, name) and not model.examples:
            problems.append(f"{role}.{name} is about examples in the template, and {role}.examples=0; set that, or leave it out")
    if model.examples and model.template is None:
        problems.append(f'{role}.examples={model.examples}: no template says where they go; set {role}.template="{{examples}}{{text}}"')
    return problems


def check_no_causal(role: str, model: ModelConfig) -> list[str]:
    return [
        f"{role}.{name} belongs to {role}={CAUSAL}, and {role}={model.name}: leave one of them out"
        for name in ("verbalizer", "calibrate")
        if getattr(model, name) and not (name == "verbalizer" and model.name == API)
    ]


def check_causal(role: str, model: ModelConfig) -> list[str]:
    problems = []
    if model.model is None:
        problems.append(f"{role}={CAUSAL}: which one is not said; set {role}.model=<name on the hub or folder>")
    if model.template is None:
        problems.append(
            f"{role}={CAUSAL} goes on where a template ends, and there is none; set {role}.template='Review: {{text}} It was', "
            "a text with columns in braces, or a file that holds it"
        )
    if not model.verbalizer:
        problems.append(f"{role}={CAUSAL}: no words stand for the classes; set {role}.verbalizer.<class>={WORDS} for each of them")
    for name, off in (("checkpoint", None), ("file", None), ("new_head", False)):
        if getattr(model, name) != off:
            problems.append(f"{role}.{name}={getattr(model, name)}: {role}={CAUSAL} is the net of {role}.model as it is; leave it out")
    for name, given in model.verbalizer.items():
        key = f"{role}.verbalizer.{name}"
        words = words_of(given)
        if words is None:
            problems.append(f"{key}={given}: expected words, as in {key}={WORDS}")
        elif not words:
            problems.append(f"{key}={given}: no word stands for that class; give it one, as in {key}={WORDS}")
    return problems


def words_of(given: Any) -> list[str] | None:
    """The words of one class; one alone needs no list. None where it is neither."""
    words = [given] if isinstance(given, str) else given
    if not isinstance(words, list) or not all(isinstance(word, str) and word for word in words):
        return None
    return words
