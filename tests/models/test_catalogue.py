"""Names: found without torch, resolved in order, and helped along when mistyped."""

import re
import subprocess
import sys

import pytest

from distillctl.errors import ConfigError
from distillctl.models import catalogue
from distillctl.models.catalogue import ALIASES, CIFAR, FEATURED, SOURCES, model_names, resolve


def test_listing_and_resolving_import_no_library():
    code = (
        "import sys; from distillctl.models import catalogue; catalogue.model_names(); catalogue.resolve('resnet152');"
        "print([m for m in ('torch', 'torchvision', 'timm') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_scan_finds_what_the_libraries_register():
    import timm
    import torchvision

    assert set(model_names("torchvision")) == set(torchvision.models.list_models(torchvision.models))
    assert set(model_names("timm")) == set(timm.list_models())


@pytest.mark.parametrize(
    ("name", "source", "answer"),
    [
        ("resnet20", "auto", ("cifar", "resnet20")),
        ("vgg13", "auto", ("cifar", "vgg13")),
        ("vgg13", "torchvision", ("torchvision", "vgg13")),
        ("resnet50", "auto", ("torchvision", "resnet50")),
        ("resnet50", "timm", ("timm", "resnet50")),
        ("resnet50.a1_in1k", "auto", ("timm", "resnet50.a1_in1k")),
        ("vit_tiny_patch16_224", "auto", ("timm", "vit_tiny_patch16_224")),
        ("mobilenetv2", "auto", ("torchvision", "mobilenet_v2")),
        ("mobilenetv3_small", "auto", ("torchvision", "mobilenet_v3_small")),
        ("shufflenet_v2", "auto", ("torchvision", "shufflenet_v2_x1_0")),
        ("wrn-16-2", "auto", ("cifar", "wrn_16_2")),
        ("ResNet18", "auto", ("torchvision", "resnet18")),
    ],
)
def test_a_name_resolves(name, source, answer):
    assert resolve(name, source) == answer


def test_a_mistyped_name_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match=r"^teacher=resnt152: no such model; did you mean resnet152\?$"):
        resolve("resnt152", key="teacher")


def test_a_name_like_no_other_is_answered_with_the_well_known():
    with pytest.raises(ConfigError, match="known: .*bert_tiny") as error:
        resolve("zzzzzz")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["hf-hub:timm/resnet18", "hf_hub:x", "local-dir:/tmp/x", "timm/resnet18", "..\\x"])
def test_hubs_and_folders_have_a_key_of_their_own(name):
    with pytest.raises(ConfigError, match=re.escape(f"of the hub or of a folder, is student=transformer student.model={name}")):
        resolve(name)


@pytest.mark.parametrize("source", ["own", "hub"])
def test_a_source_without_names_is_refused(source):
    with pytest.raises(ConfigError, match=f"student.source={source}"):
        resolve("resnet18", source)


def test_a_library_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(catalogue, "_registered_in", lambda package: frozenset())
    with pytest.raises(ConfigError, match="timm is not installed"):
        resolve("resnet18", "timm")
    with pytest.raises(ConfigError, match="timm, which has many more, is not installed"):
        resolve("resnet18")


def test_the_first_source_owns_a_shared_name():
    everything = model_names()
    assert everything["vgg13"] == "cifar"
    assert everything["resnet50"] == "torchvision"
    assert set(everything.values()) == set(SOURCES)


@pytest.mark.parametrize("name", [*FEATURED, *ALIASES])
def test_what_is_offered_exists(name):
    resolve(name)


def test_the_cifar_nets_are_offered():
    assert set(CIFAR) <= set(FEATURED)
