"""Every config composes, every range holds, and whatever is typed becomes a config or one line."""

import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import hydra
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from distillctl import compose, config
from distillctl.errors import ConfigError, UserError, did_you_mean, nearest, one_slip

CONF = Path(__file__).parent.parent / "conf"
RECIPES = CONF.parent / "recipes"
OPTIONS = sorted(set(CONF.glob("*/*.yaml")) - {CONF / "dataset/recorded.yaml"})  # which needs a record: test_which_data.py
NEEDED = {
    "evaluate": ["checkpoint=x", "dataset=digits"],
    "predict": ["checkpoint=x", "inputs=[x.png]"],
    "export": ["checkpoint=x", "dataset=digits"],
    "compress": ["checkpoint=x", "dataset=digits", "export.format=onnx"],
}
REFUSED = {"quantize=qat": {"export"}}  # which trains nothing


def examples(count: int) -> settings:
    """The same examples every time, and no clock: the machine may be busy."""
    return settings(max_examples=count, deadline=None, derandomize=True, database=None)


pytestmark = pytest.mark.usefixtures("composing")


def composed(command: str, *overrides: str) -> Any:
    return compose.typed(hydra.compose(command, [*NEEDED.get(command, []), *overrides]))


def said(command: str, *overrides: str) -> UserError | None:
    """The line that a user would read; None where all is well. Any other exception is one too many."""
    try:
        composed(command, *overrides)
    except Exception as error:
        explained = compose.explain(error, command, list(overrides))
        if explained is None:
            raise
        return explained
    return None


# ------------------------------------------------------------------------------------------------ what is there
@pytest.mark.parametrize("command", sorted(config.SCHEMAS))
def test_every_command_composes(command: str):
    assert type(composed(command)) is config.SCHEMAS[command]


@pytest.mark.parametrize("file", OPTIONS, ids=lambda file: f"{file.parent.name}={file.stem}")
def test_every_option_composes(file: Path):
    """With the widest and with the narrowest command that has its group."""
    group = file.parent.name
    commands = [command for command in config.SCHEMAS if group in compose.group_names(command)]
    if file.stem == "autoattack":  # it measures, and does not train
        assert "does not train" in str(said(commands[0], f"{group}={file.stem}"))
        commands = ["evaluate"]
    assert commands, f"no command has the group {group}"
    for command in {commands[0], commands[-1]} - REFUSED.get(f"{group}={file.stem}", set()):
        assert said(command, f"{group}={file.stem}") is None


@pytest.mark.parametrize("file", sorted(RECIPES.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_recipe_composes(file: Path):
    for command in compose.commands_of(file.stem, default="train"):
        assert said(command, f"recipe={file.stem}") is None


def test_a_recipe_says_which_command_it_is_for():
    said_of = str(said("train", "recipe=lifelong_cifar10_small"))
    assert said_of == "recipe=lifelong_cifar10_small: made for distillctl lifelong, and train lacks what it sets"
    assert "lifelong_cifar10_small" not in compose.group_names("train")["recipe"]
    assert "lifelong_cifar10_small" in compose.group_names("lifelong")["recipe"]


@pytest.mark.parametrize("name", sorted(compose.options("student")))
def test_every_featured_model_is_an_option_of_every_role(name: str):
    source = compose.ModelNames("distillctl", "models://")
    for role in compose.ROLES:
        assert source.is_config(f"{role}/{name}.yaml")
        assert source.load_config(f"{role}/{name}.yaml").config.name == name


def test_a_model_by_any_name_composes():
    assert composed("train", "student=vit_tiny_patch16_224.augreg_in21k").student.name == "vit_tiny_patch16_224.augreg_in21k"
    assert composed("train", "student=own", "student._target_=mine.Net").student.source == "own"


@pytest.mark.parametrize("file", OPTIONS, ids=lambda file: f"{file.parent.name}={file.stem}")
def test_every_option_says_in_its_first_line_what_it_is_for(file: Path):
    first = file.read_text().splitlines()[0]
    assert first.startswith("# ") or file.parent.name in ("optimizer", "schedule", "tracker"), first


# ------------------------------------------------------------------------------------------------ ranges
def scalars(schema: type, prefix: str = "") -> Iterator[tuple[str, type, bool, dict[str, Any]]]:
    """Every scalar of a schema: key, type, whether null is allowed, rules."""
    hints = get_type_hints(schema)
    for entry in fields(schema):
        hint, key = hints[entry.name], prefix + entry.name
        if is_dataclass(hint):
            yield from scalars(config.ImageSetConfig if hint is config.DatasetConfig else hint, key + ".")
            continue
        choices = [kind for kind in get_args(hint) if kind is not type(None)]
        kind = choices[0] if choices and type(None) in get_args(hint) else hint
        if kind in (int, float, bool, str):
            yield key, kind, kind is not hint, dict(entry.metadata)


def out_of_range(kind: type, rules: dict[str, Any]) -> list[Any]:
    found: list[Any] = []
    if rules.get("low") is not None:
        found.append(kind(rules["low"] - 1))
    if rules.get("above") is not None:
        found += [kind(rules["above"]), kind(rules["above"] - 1)]
    if rules.get("high") is not None:
        found.append(kind(rules["high"] + 1))
    if rules.get("choices"):
        found.append("quux")
    if kind is float:
        found += [float("nan"), float("inf"), float("-inf")]
    return found


LIMITED = sorted({(key, value) for schema in config.SCHEMAS.values() for key, kind, _, rules in scalars(schema) for value in out_of_range(kind, rules)}, key=repr)  # fmt: skip


@pytest.mark.parametrize(("key", "value"), LIMITED)
def test_a_value_out_of_its_range_is_named(key: str, value: Any):
    schema = next(schema for schema in config.SCHEMAS.values() if key in {name for name, *_ in scalars(schema)})
    node = OmegaConf.structured(schema)
    if "dataset" in node:
        node.dataset = OmegaConf.structured(config.ImageSetConfig)
    for needed in OmegaConf.missing_keys(node):
        OmegaConf.update(node, needed, ["x"] if needed == "inputs" else "x")
    OmegaConf.update(node, key, value)
    problems = config.check(OmegaConf.to_object(node))
    assert [problem for problem in problems if problem.startswith((f"{key}={value} must be", f"{key}={value}: must be"))]


def test_every_number_has_a_limit():
    free = {key for schema in config.SCHEMAS.values() for key, kind, _, rules in scalars(schema) if kind in (int, float) and not rules}
    assert not free


def test_limits_themselves_are_allowed():
    assert config.broken_rule("x", 0.5, {"above": 0, "high": 0.5}) is None
    assert config.broken_rule("x", 0, {"low": 0, "high": 1}) is None
    assert config.broken_rule("x", None, {"low": 1}) is None


# ------------------------------------------------------------------------------------------------ fuzz
TRAIN = {key: (kind, nullable, rules) for key, kind, nullable, rules in scalars(config.TrainConfig)}
# what depends on another key is tested by itself
LINKED = re.compile(
    r"(teacher|student)\..*|trainer\.(batch_size|accumulate|devices)|(pretrain|distill|finetune)\.epochs|dataset\.(name|shots|labels)|resume"
    r"|(distill|finetune)\.(train|stages|adversarial|lora\..*|prompt\..*)|generations|ensemble_generations|(quantize|export|prune)\..*|attack\.(eps|step|name)"
    r"|dataset\.balance"
)
FREE = sorted(key for key in TRAIN if not LINKED.fullmatch(key))


@st.composite
def valid(draw: st.DrawFn, key: str) -> str:
    kind, nullable, rules = TRAIN[key]
    if nullable and draw(st.booleans()):
        return f"{key}=null"
    if rules.get("choices"):
        return f"{key}={draw(st.sampled_from(rules['choices']))}"
    if kind is bool:
        return f"{key}={str(draw(st.booleans())).lower()}"
    if kind is str:
        return f"{key}={draw(st.from_regex(r'[a-z][a-z0-9_]{0,9}', fullmatch=True))}"
    low = rules.get("low") if rules.get("low") is not None else rules.get("above", 0)
    high = rules.get("high") or 1000
    if kind is int:
        return f"{key}={draw(st.integers(low, high))}"
    return f"{key}={draw(st.floats(low, high, exclude_min=rules.get('above') is not None, allow_subnormal=False))!r}"


@pytest.mark.slow
@examples(20)
@given(data=st.data(), keys=st.lists(st.sampled_from(FREE), min_size=1, max_size=12, unique=True))
def test_whatever_is_within_its_ranges_composes(data: st.DataObject, keys: list[str]):
    overrides = [data.draw(valid(key)) for key in keys]
    assert said("train", *overrides) is None


@st.composite
def broken(draw: st.DrawFn) -> tuple[str, str]:
    key = draw(st.sampled_from(sorted(key for key in TRAIN if TRAIN[key][0] is not str or TRAIN[key][2].get("choices"))))
    kind, _, rules = TRAIN[key]
    values = [*map(str, out_of_range(kind, rules)), *(["abc", "[1]", "{a:1}"] if kind is not str else [])]
    return key, draw(st.sampled_from(values + (["2.5"] if kind is int else [])))


@pytest.mark.slow
@examples(30)
@given(mistake=broken())
def test_one_broken_value_is_named_with_its_key(mistake: tuple[str, str]):
    key, value = mistake
    problem = said("train", f"{key}={value}")
    assert isinstance(problem, ConfigError)
    assert problem.exit_code == 2
    assert key in str(problem)
    assert len(str(problem).splitlines()) == 1


LETTERS = "abcdefghijklmnopqrstuvwxyz_"


@st.composite
def slip(draw: st.DrawFn, key: str) -> str:
    """One edit of a key, anywhere in it."""
    position, letter = draw(st.integers(0, len(key) - 1)), draw(st.sampled_from(LETTERS))
    swapped = key[:position] + key[position + 1 : position + 2] + key[position] + key[position + 2 :]
    edits = [key[:position] + key[position + 1 :], key[:position] + letter + key[position + 1 :], key[:position] + letter + key[position:]]
    return draw(st.sampled_from([*edits, swapped]))


@examples(400)
@given(data=st.data())
def test_a_slip_of_one_letter_is_understood(data: st.DataObject):
    known = compose.known_keys("train")
    key = data.draw(st.sampled_from(known))
    typo = data.draw(slip(key))
    if typo and typo not in known and not typo.startswith("hydra"):
        offered = re.findall(r"[\w.]+", compose.unknown_key(typo, "1", "train").partition("did you mean ")[2])
        rivals = [name for name in known if one_slip(typo, name)]
        assert key in offered or len(rivals) > 3 or ".args." in typo


@pytest.mark.slow
@examples(20)
@given(data=st.data())
def test_a_slip_on_the_command_line_is_understood(data: st.DataObject):
    """The same through Hydra, so that its own message is read right."""
    key = data.draw(st.sampled_from([name for name in compose.known_keys("train") if "." in name]))
    typo = data.draw(slip(key))
    if re.fullmatch(r"[a-z][a-z_.]*[a-z]", typo) and ".." not in typo and typo not in compose.known_keys("train"):
        problem = said("train", f"{typo}=1")
        assert isinstance(problem, ConfigError)
        assert f"{typo}=1" in str(problem)
        assert key in str(problem)


SYNTAX = "=+~[]{}()$:,'\"\\ .@/|*#%&;-_0123456789aeinftlrsu\n\t"


@pytest.mark.slow
@examples(50)
@given(word=st.text(SYNTAX, max_size=12))
def test_whatever_word_is_typed_there_is_a_line_for_it(word: str):
    problem = said("models", word)
    assert problem is None or str(problem)


@pytest.mark.slow
@examples(50)
@given(
    key=st.sampled_from(["seed", "search", "source", "classes", "debug", "student", "hydra.run.dir"]), value=st.text(SYNTAX, max_size=10)
)
def test_whatever_value_is_typed_there_is_a_line_for_it(key: str, value: str):
    problem = said("models", f"{key}={value}")
    assert problem is None or str(problem)


# ------------------------------------------------------------------------------------------------ suggestions
def test_the_nearest_name_comes_first():
    assert nearest("resnt20", ["resnet20", "resnet110", "vgg8"])[0] == "resnet20"
    assert nearest("quux", ["resnet20", "vgg8"]) == []
    assert did_you_mean("quux", ["b", "a", "a"]) == "known: a, b"


@pytest.mark.parametrize("typo", ["sed", "seeed", "sead", "esed"])
def test_a_slip_is_a_letter_less_more_other_or_swapped(typo: str):
    assert one_slip(typo, "seed")


@pytest.mark.parametrize("other", ["se", "dees", "feet", "seed.x"])
def test_two_letters_are_no_slip(other: str):
    assert not one_slip(other, "seed")


def test_a_variable_that_holds_no_secret_can_be_read(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DISTILLCTL_DATA", "/somewhere")
    assert composed("train", "dataset.root=${oc.env:DISTILLCTL_DATA}").dataset.root == "/somewhere"
    monkeypatch.delenv("SLURM_TMPDIR", raising=False)
    assert composed("train", "dataset.root=${oc.env:SLURM_TMPDIR,other}").dataset.root == "other"


def test_the_shown_config_is_not_changed_by_reading_it():
    before = hydra.compose("train", ["seed=3"])
    text = OmegaConf.to_yaml(before)
    compose.typed(before)
    assert OmegaConf.to_yaml(before) == text


def test_to_prepare_twice_costs_nothing(monkeypatch: pytest.MonkeyPatch):
    compose.prepare()
    monkeypatch.setattr("hydra.core.plugins.Plugins.register", lambda *_: pytest.fail("registered again"))
    compose.prepare()


def test_a_schema_is_not_changed_by_what_is_composed_of_it():
    assert composed("train", "trainer.batch_size=7", "dataset.views=3").trainer.batch_size == 7
    assert composed("train").trainer.batch_size == config.AUTO
    assert composed("train").dataset.views is None
