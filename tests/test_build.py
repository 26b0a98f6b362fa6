"""What a `_target_` may name: classes of trusted packages that are of the kind asked for, and nothing that runs anything."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from distillctl.build import build, find_class, fits, fraction, positive, trusted
from distillctl.errors import ConfigError
from distillctl.losses.weighted import build_loss
from distillctl.methods.distill import Method
from distillctl.schedules import Schedule

RUNS_CODE = [
    *("os.system", "os.popen", "subprocess.Popen", "subprocess.run", "builtins.eval", "builtins.exec", "posix.system", "pty.spawn"),
    *("importlib.import_module", "runpy.run_path", "timeit.timeit", "pickle.load", "pickle.loads", "shutil.rmtree", "webbrowser.open"),
    *("pathlib.Path.write_text", "pathlib.Path", "numpy.load", "joblib.load", "yaml.unsafe_load", "logging.os.system"),
    *("torch.load", "torch.save", "torch.hub.load", "torch.hub.load_state_dict_from_url", "torch.utils.cpp_extension.load"),
    *("torch.jit.load", "torch.compile", "torch.package.PackageImporter", "torch.utils.model_zoo.load_url"),
    *("timm.create_model", "torchvision.models.get_model", "torchvision.datasets.MNIST", "hydra.utils.instantiate", "hydra.utils.call"),
]
ALIASES = [
    *("torch.nn.os.system", "torch.nn.torch.load", "torch.nn.modules.torch.hub.load", "torch.nn.functional.torch.load"),
    *("torch.nn.modules.module.torch.load", "torch.nn.modules.module.os.system", "torch.optim.torch.load", "torch.nn.init.math.sqrt"),
    *("torch.nn.functional.relu", "torch.nn.functional.importlib.import_module", "torch.nn.init.normal_", "torch.nn.utils.clip_grad_norm_"),
    *("distillctl.cli.main", "distillctl.cli.os.system", "distillctl.cli.importlib.import_module", "distillctl.outputs.subprocess.run"),
    *("distillctl.models.weights.pickle.loads", "distillctl.models.weights.torch.load", "distillctl.build.importlib.import_module"),
    *("distillctl.data.image.download", "distillctl.models.obtain.obtain", "distillctl.runs.sweep.SweepReport"),
]
NOT_A_PATH = [
    "",
    "SGD",
    "torch.nn.",
    ".torch.nn.ReLU",
    "torch..nn",
    "torch.nn.Re LU",
    "torch/nn/ReLU",
    "torch.nn.ReLU()",
    None,
    3,
    ["torch.nn.ReLU"],
    {"a": 1},
]
KINDS = [nn.Module, torch.optim.Optimizer, Schedule, Method]


@pytest.fixture(autouse=True)
def _nobody_is_trusted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("DISTILLCTL_TRUST", raising=False)


@pytest.fixture
def no_import(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is imported by name from here on."""
    asked: list[str] = []

    def refuse(name: str, *_: Any) -> Any:
        asked.append(name)
        raise AssertionError(f"{name} was imported")

    monkeypatch.setattr("distillctl.build.importlib.import_module", refuse)
    return asked


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("path", RUNS_CODE)
def test_what_runs_code_is_refused_before_anything_is_imported(path: str, kind: type, no_import: list[str]):
    with pytest.raises(ConfigError, match="not in a trusted package"):
        build({"_target_": path, "command": "touch marker"}, kind, "place")
    assert no_import == []


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("path", ALIASES)
def test_an_alias_inside_a_trusted_package_is_refused(path: str, kind: type):
    with pytest.raises(ConfigError, match=r"place\._target_="):
        find_class({"_target_": path}, kind, "place")


@pytest.mark.parametrize("path", NOT_A_PATH, ids=repr)
def test_what_is_no_path_of_a_class_is_refused(path: Any):
    with pytest.raises(ConfigError, match=r"place\._target_"):
        find_class({"_target_": path}, nn.Module, "place")


@pytest.mark.parametrize("prefix", ["torch.nnn.ReLU", "torch.nn_evil.ReLU", "distillctl_evil.Net", "torch.optimum.SGD"])
def test_a_package_that_begins_like_a_trusted_one_is_another(prefix: str, no_import: list[str]):
    with pytest.raises(ConfigError, match="not in a trusted package"):
        find_class({"_target_": prefix}, nn.Module, "place")
    assert no_import == []


@pytest.mark.parametrize(
    "path", ["distillctl.compose.sources.FileConfigSource", "distillctl.compose.sources.ConfigSource", "distillctl.runs.sweep.Callback"]
)
def test_a_class_that_lives_elsewhere_is_refused_whatever_name_leads_to_it(path: str):
    with pytest.raises(ConfigError, match="lives in hydra"):
        find_class({"_target_": path}, object, "place")


def test_a_class_of_another_kind_is_refused():
    with pytest.raises(ConfigError, match="this is the class Module; a subclass of Optimizer is needed"):
        find_class({"_target_": "torch.nn.Module"}, torch.optim.Optimizer, "optimizer")


def test_a_function_is_refused_by_name():
    with pytest.raises(ConfigError, match="this is a function"):
        find_class({"_target_": "torch.nn.functional.relu"}, nn.Module, "loss.x")


def test_advice_to_trust_is_given_for_other_packages_alone():
    with pytest.raises(ConfigError, match="--trust mine"):
        find_class({"_target_": "mine.losses.Mine"}, nn.Module, "loss.mine")
    with pytest.raises(ConfigError) as refused:
        find_class({"_target_": "torch.nn.functional.relu"}, nn.Module, "loss.mine")
    assert "--trust" not in str(refused.value)


def test_a_target_inside_an_argument_stays_data():
    node = {"_target_": "torch.nn.Sequential", "args": {"_target_": "os.system", "command": "touch marker"}}
    with pytest.raises(ConfigError):
        build(node, nn.Module, "place")
    assert not Path("marker").exists()


def test_other_words_for_a_target_are_unknown_arguments():
    for word in ("target", "_partial_", "_args_", "_recursive_", "_convert_"):
        with pytest.raises(ConfigError, match=f"optimizer.{word}=.*: unknown key"):
            build({"_target_": "torch.optim.SGD", "lr": 0.1, word: "os.system"}, torch.optim.Optimizer, "optimizer", [])


def test_a_class_is_built_with_its_arguments():
    layer = build({"_target_": "torch.nn.Linear", "in_features": 2}, nn.Linear, "layer", out_features=3)
    assert layer.weight.shape == (3, 2)


def test_an_unknown_argument_is_named_with_the_nearest():
    with pytest.raises(ConfigError, match=r"^layer\.in_feature=2: unknown key; did you mean in_features\?"):
        build({"_target_": "torch.nn.Linear", "in_feature": 2, "out_features": 2}, nn.Linear, "layer")


def test_a_missing_argument_is_named():
    with pytest.raises(ConfigError, match=r"^layer\.out_features is not set: pass layer\.out_features="):
        build({"_target_": "torch.nn.Linear", "in_features": 2}, nn.Linear, "layer")


def test_an_argument_of_another_type_is_named():
    with pytest.raises(ConfigError, match=r"^layer\.in_features=many: expected a whole number"):
        build({"_target_": "torch.nn.Linear", "in_features": "many", "out_features": 2}, nn.Linear, "layer")


def test_what_a_constructor_refuses_is_named_with_its_value():
    parameters = [nn.Parameter(torch.zeros(1))]
    with pytest.raises(ConfigError, match=r"^optimizer\.momentum=-1: Invalid momentum value: -1"):
        build({"_target_": "torch.optim.SGD", "lr": 0.1, "momentum": -1}, torch.optim.Optimizer, "optimizer", parameters)
    with pytest.raises(ConfigError, match=r"^optimizer: Nesterov momentum requires"):
        build({"_target_": "torch.optim.SGD", "lr": 0.1, "nesterov": True}, torch.optim.Optimizer, "optimizer", parameters)


def test_a_loss_without_terms_is_refused():
    with pytest.raises(ConfigError, match="loss is empty"):
        build_loss({})


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (1, int, True), (True, int, False), (1.5, int, False), (1, float, True), ("1", float, False), (None, int | None, True),
        ([1, 2], Sequence[int], True), ([1, "a"], Sequence[int], False), ((0.9, 0.99), tuple[float, float], True), ("a", bool, False),
    ],
)  # fmt: skip
def test_values_are_judged_by_annotations(value: Any, hint: Any, expected: bool):
    assert fits(value, hint) is expected


def test_ranges():
    assert positive(temperature=2.0) == 2.0
    assert fraction(share=1) == 1
    for wrong in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="temperature="):
            positive(temperature=wrong)
        with pytest.raises(ValueError, match="share="):
            fraction(share=wrong - 0.5)


# ------------------------------------------------------------------------------------------------ --trust
PACKAGE = """
from pathlib import Path
import torch
from torch import nn

Path("imported").touch()

class Net(nn.Module):
    def __init__(self, num_classes: int, width: int = 4):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(width, num_classes)

    def forward(self, images):
        return self.head(self.body(images))
"""


@pytest.fixture
def own_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`ours/net.py` in the folder that the command runs in."""
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours/__init__.py").write_text("")
    (tmp_path / "ours/net.py").write_text(PACKAGE)
    for name in ("ours", "ours.net"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def test_a_package_of_ones_own_trains_with_trust(own_package: Path, distillctl, tiny: tuple[str, ...], monkeypatch: pytest.MonkeyPatch):
    options = [*tiny, "baseline=false", "student=own", "student._target_=ours.net.Net", "+student.args.width=6", "hydra.run.dir=run"]
    finished = distillctl("train", *options, "--trust", "ours", cwd=own_package)
    assert finished.code == 0, finished.err
    record = json.loads((own_package / "run/distill/student.json").read_text())
    assert record["architecture"]["name"] == "ours.net.Net"
    assert record["architecture"]["args"] == {"width": 6}
    assert "DISTILLCTL_TRUST" not in os.environ


def test_without_trust_it_is_not_even_imported(own_package: Path, distillctl, tiny: tuple[str, ...]):
    finished = distillctl("train", *tiny, "student=own", "student._target_=ours.net.Net", cwd=own_package)
    assert finished.code == 2
    assert "--trust ours" in finished.err
    assert not (own_package / "imported").exists()


def test_trust_is_not_a_key_of_a_file(own_package: Path, distillctl, tiny: tuple[str, ...], monkeypatch: pytest.MonkeyPatch):
    """Neither a config of one's own, nor an override, nor a variable can give what only the flag gives."""
    (own_package / "mine/student").mkdir(parents=True)
    target = "name: own\nsource: own\n_target_: ours.net.Net\n"
    for extra in ("trust: [ours]\n", ""):
        (own_package / "mine/student/mine.yaml").write_text(target + extra)
        finished = distillctl("train", "--config-dir", "mine", *tiny, "student=mine", cwd=own_package)
        assert finished.code == 2
    monkeypatch.setenv("DISTILLCTL_TRUST", "ours")
    monkeypatch.syspath_prepend(own_package)  # as if it were installed
    own = ["student=own", "student._target_=ours.net.Net"]
    for override, reason in (
        ("+trust=ours", "+trust=ours: unknown key"),
        ("+hydra.job.env_set.DISTILLCTL_TRUST=ours", "--trust PACKAGE on the command line alone"),
        ("seed=1", "--trust ours"),
    ):
        finished = distillctl("train", *tiny, *own, override, cwd=own_package)
        assert finished.code == 2
        assert reason in finished.err
        assert not (own_package / "imported").exists()


def test_trust_names_packages_and_not_prefixes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DISTILLCTL_TRUST", "our")
    assert trusted()[-1] == "our"
    with pytest.raises(ConfigError, match="not in a trusted package"):
        find_class({"_target_": "ours.net.Net"}, nn.Module, "student")


# ------------------------------------------------------------------------------------------------ secrets
def test_secrets_of_the_environment_are_nowhere_in_a_run_folder(
    distillctl, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    secret = "correct-horse-battery-staple"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    monkeypatch.setenv("WANDB_API_KEY", secret)
    finished = distillctl("evaluate", f"checkpoint={tiny_run}", "trainer.device=cpu", "hydra.run.dir=out", cwd=tmp_path)
    assert finished.code == 0, finished.err
    refused = distillctl("evaluate", "checkpoint=${oc.env:WANDB_API_KEY}", "hydra.run.dir=out2", cwd=tmp_path)
    assert refused.code == 2
    assert secret not in refused.err + refused.out + finished.err + finished.out
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert files
    assert not [file for file in files if secret.encode() in file.read_bytes()]
