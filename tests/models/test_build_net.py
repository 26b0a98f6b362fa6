"""From a model's configuration to a net."""

import dataclasses
import socket

import pytest
import torch
from omegaconf import OmegaConf

from distillctl.config import ModelConfig
from distillctl.config.rules import check_model
from distillctl.errors import CheckpointError, ConfigError, MachineError
from distillctl.inputs.image import Images
from distillctl.models import published
from distillctl.models.net import build_net, plan_net
from distillctl.models.obtain import check_obtainable, obtain


def one_line(error: pytest.ExceptionInfo) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "config",
    [ModelConfig(name="resnet8"), {"name": "resnet8"}, OmegaConf.structured(ModelConfig(name="resnet8"))],
    ids=["class", "dict", "omega"],
)
def test_a_config_may_be_a_dataclass_a_mapping_or_omegaconf(config):
    net = build_net(config, 10, 32)
    assert (net.source, net.name, net.input_size, net.mean, net.std) == ("cifar", "resnet8", 32, None, None)
    assert net.module(torch.rand(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("name", ["resnet8", "mobilenet_v3_small", "test_resnet"])
def test_random_weights_depend_on_the_global_generator_alone(name):
    states = []
    for _ in range(2):
        torch.manual_seed(5)
        states.append(build_net({"name": name}, 10, 32).module.state_dict())
    assert all(torch.equal(tensor, states[1][entry]) for entry, tensor in states[0].items())


def test_a_plan_costs_no_weights_and_no_random_numbers():
    state = torch.get_rng_state()
    for name in ("resnet152", "regnet_y_32gf"):
        net = plan_net({"name": name}, 10, 32)
        assert all(parameter.is_meta for parameter in net.module.parameters())
    assert torch.equal(state, torch.get_rng_state())


def test_a_plan_has_the_names_and_shapes_of_the_net():
    for name in ("mobilenet_v3_small", "regnet_y_400mf"):
        plan, net = plan_net({"name": name}, 10, 32), build_net({"name": name}, 10, 32)
        assert dataclasses.replace(plan, module=net.module) == net
        shapes = {entry: tensor.shape for entry, tensor in plan.module.state_dict().items()}
        assert shapes == {entry: tensor.shape for entry, tensor in net.module.state_dict().items()}


@pytest.mark.parametrize("name", ["inception_v3", "googlenet"])
def test_auxiliary_heads_are_off(name):
    module = plan_net({"name": name, "stem": "large"}, 10, 96).module.train()
    assert module(torch.zeros(2, 3, 96, 96, device="meta")).shape == (2, 10)


@pytest.mark.parametrize("size", [64, 96])
def test_larger_images_keep_the_large_stem(size):
    net = plan_net({"name": "resnet18"}, 10, size)
    assert (net.stem, net.edits) == ("large", ())


def test_the_stem_follows_the_resolution_of_the_model_and_not_of_the_data():
    net = plan_net({"name": "resnet18", "image_size": 96}, 10, 32)
    assert (net.stem, net.input_size) == ("large", 96)


# --- arguments


@pytest.mark.parametrize(
    ("name", "args"),
    [("wrn-16-1", {"drop_rate": 0.3}), ("mobilenet_v3_small", {"width_mult": 0.5}), ("test_vit", {"drop_path_rate": 0.1})],
)
def test_arguments_reach_the_net(name, args):
    assert plan_net({"name": name, "args": args}, 10, 32).args.items() >= args.items()


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("timm:resnet18", {"dorp_rate": 0.1}, r"^student\.args\.dorp_rate=0\.1: .*did you mean drop_rate"),
        ("mobilenet_v3_small", {"dorpout": 0.1}, r"^student\.args\.dorpout=0\.1: .*did you mean dropout"),
        ("resnet20", {"width": 2}, r"^student\.args\.width=2: .*it takes none"),
        ("mobilenet_v3_small", {"dropout": "a"}, r"^student\.args\.dropout=a: must be a number"),
        ("mobilenet_v3_small", {"dropout": 3}, r"^student\.args: .*dropout=3"),
        ("resnet18", {"zero_init_residual": 3}, r"^student\.args\.zero_init_residual=3: must be true or false"),
        ("resnet18", {"norm_layer": "x"}, r"^student\.args: .*norm_layer='x'"),
        ("resnet18", {"num_classes": 3}, r"^student\.args\.num_classes=3: the data set decides that"),
        ("timm:resnet18", {"checkpoint_path": "/x"}, r"^student\.args\.checkpoint_path=/x: set student\.checkpoint"),
        ("timm:resnet18", {"pretrained_cfg": {"file": "/x"}}, r"set student\.pretrained=true instead"),
        ("timm:resnet18", {"features_only": True}, r"a plain classifier is built"),
    ],
)
def test_an_argument_that_cannot_be_is_refused_with_its_key(name, args, message):
    source, _, plain = name.rpartition(":")
    with pytest.raises(ConfigError, match=message) as error:
        build_net({"name": plain, "source": source or "auto", "args": args}, 10, 32)
    one_line(error)


# --- sizes


@pytest.mark.parametrize(("name", "size"), [("alexnet", 8), ("inception_v3", 8), ("maxvit_t", 32), ("levit_128s", 32)])
def test_an_image_that_is_too_small_is_told_the_size_that_works(name, size):
    with pytest.raises(ConfigError, match=rf"^teacher={name}: image too small: .* {size} px; set teacher\.image_size=\d+") as error:
        plan_net({"name": name}, 10, size, "teacher")
    works = int(one_line(error).partition("image_size=")[2].partition(",")[0])
    plan_net({"name": name, "image_size": works}, 10, size)


# --- published weights


def test_the_cifar_nets_have_no_published_weights():
    with pytest.raises(
        ConfigError, match=r"no weights of the CIFAR net vgg13 .* teacher\.source=torchvision .* teacher\.checkpoint=<file>"
    ):
        build_net({"name": "vgg13", "pretrained": True}, 10, 32, "teacher")


def test_another_number_of_classes_names_both_and_the_way_out():
    with pytest.raises(ConfigError, match=r"resnet18 know 1000 classes, the data set has 10; .*teacher\.new_head=true pretrain\.epochs=N"):
        build_net({"name": "resnet18", "pretrained": True}, 10, 32, "teacher")


def test_a_tag_that_does_not_exist_is_answered_with_those_that_do():
    with pytest.raises(ConfigError, match=r"resnet18\.a9_in1k: no such weights; did you mean resnet18\.a"):
        plan_net({"name": "resnet18.a9_in1k", "pretrained": True, "new_head": True}, 10, 32)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty download folder, and no network."""

    def no_network(*_args, **_kwargs):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    for variable in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.upper(), raising=False)
    return tmp_path


def cached(hub, name: str) -> str:
    folder = hub / "checkpoints"
    folder.mkdir()
    return folder / published._torchvision_weights(name).url.rpartition("/")[2]


def test_without_a_network_the_message_says_where_the_file_goes(hub):
    with pytest.raises(MachineError, match=r"^could not download the weights of squeezenet1_1 \(.*Name or service not known\)") as error:
        build_net({"name": "squeezenet1_1", "pretrained": True}, 1000, 32, "teacher")
    assert f"put the file in {hub}/checkpoints/squeezenet1_1-" in one_line(error)
    assert "or set teacher.checkpoint=<file>" in str(error.value)


def test_without_a_network_timm_fails_at_once_and_in_one_line(hub, monkeypatch):
    monkeypatch.setattr(published, "_cached_timm", lambda described: None)
    with pytest.raises(
        MachineError, match=r"weights of test_resnet .*fetch https://huggingface\.co/timm/test_resnet.*teacher\.checkpoint=<file>"
    ) as error:
        build_net({"name": "test_resnet", "pretrained": True}, 1000, 32, "teacher")
    one_line(error)


def test_a_downloaded_file_is_used(hub):
    torch.manual_seed(1)
    weights = build_net({"name": "squeezenet1_1", "stem": "large"}, 1000, 224).module.state_dict()
    torch.save(weights, cached(hub, "squeezenet1_1"))
    net = build_net({"name": "squeezenet1_1", "pretrained": True}, 1000, 32)
    assert all(torch.equal(tensor, weights[entry]) for entry, tensor in net.module.state_dict().items())
    assert (net.input_size, net.stem, net.edits) == (224, "large", ())
    assert net.mean == (0.485, 0.456, 0.406)


def test_a_new_head_keeps_all_but_the_classifier(hub):
    torch.manual_seed(1)
    weights = build_net({"name": "squeezenet1_1", "stem": "large"}, 1000, 224).module.state_dict()
    torch.save(weights, cached(hub, "squeezenet1_1"))
    for classes in (10, 1000):
        net = build_net({"name": "squeezenet1_1", "pretrained": True, "new_head": True, "stem": "small"}, classes, 32)
        assert net.edits == (("features.0", "stride 1"), ("features.2", "identity"))
        state = net.module.state_dict()
        changed = {
            entry for entry in weights if state[entry].shape != weights[entry].shape or not torch.equal(state[entry], weights[entry])
        }
        assert {"classifier.1.weight"} <= changed <= {"classifier.1.weight", "classifier.1.bias"}


def test_a_damaged_download_is_named(hub):
    file = cached(hub, "squeezenet1_1")
    file.write_bytes(b"PK\x03\x04 half of it")
    with pytest.raises(CheckpointError, match=r"truncated or damaged; delete the file"):
        build_net({"name": "squeezenet1_1", "pretrained": True}, 1000, 32)


def test_a_downloaded_timm_file_is_used_with_the_classes_and_size_asked_for(hub, monkeypatch):
    from safetensors.torch import save_file

    torch.manual_seed(1)
    weights = build_net({"name": "test_vit", "stem": "large"}, 1000, 160).module.state_dict()
    save_file(weights, hub / "model.safetensors")
    monkeypatch.setattr(published, "_cached_timm", lambda described: str(hub / "model.safetensors"))
    net = build_net({"name": "test_vit", "pretrained": True, "new_head": True, "image_size": 96}, 10, 32)
    state = net.module.state_dict()
    assert state["head.weight"].shape[0] == 10
    assert torch.equal(state["blocks.0.attn.qkv.weight"], weights["blocks.0.attn.qkv.weight"])
    assert net.args == {"img_size": 96}


def saved_weights(path, name: str, **options) -> str:
    import timm
    import torchvision

    make = timm.create_model if options.pop("timm", False) else torchvision.models.get_model
    torch.save(make(name, num_classes=2, **options).state_dict(), path)
    return str(path)


def obtained(checkpoint: str, size: int = 32, **settings):
    inputs = Images(("a", "b"), size, (0.1, 0.2, 0.3), (0.3, 0.3, 0.3))
    config = ModelConfig(checkpoint=checkpoint, **settings)
    line = check_obtainable(config, inputs, "student")
    return obtain(config, inputs, "student", seed=0), line


def test_a_file_with_the_common_stem_brings_it_to_small_images(tmp_path):
    file = saved_weights(tmp_path / "r.pt", "resnet18")
    found, line = obtained(file, name="resnet18", source="torchvision")
    assert (found.net.stem, found.net.edits) == ("large", ())
    assert torch.equal(found.net.module.conv1.weight, torch.load(file)["conv1.weight"])
    assert line == "student.stem=large, as student.checkpoint has it"


def test_a_file_with_the_small_stem_keeps_it(tmp_path):
    inputs = Images(("a", "b"), 32, (0.1, 0.2, 0.3), (0.3, 0.3, 0.3))
    small = obtain(ModelConfig(name="resnet18", source="torchvision"), inputs, "student", seed=0)
    torch.save(small.net.module.state_dict(), tmp_path / "s.pt")
    found, line = obtained(str(tmp_path / "s.pt"), name="resnet18", source="torchvision")
    assert (found.net.stem, line) == ("small", "")
    assert found.net.module.conv1.kernel_size == (3, 3)


def test_a_stem_that_is_asked_for_stays(tmp_path):
    file = saved_weights(tmp_path / "r.pt", "resnet18")
    with pytest.raises(CheckpointError, match="only kernels differ"):
        obtained(file, name="resnet18", source="torchvision", stem="small")


def test_a_timm_net_from_a_file_has_timm_s_mean_and_deviation(tmp_path):
    file = saved_weights(tmp_path / "v.pt", "vit_tiny_patch16_224", timm=True)
    found, _ = obtained(file, 224, name="vit_tiny_patch16_224", source="timm")
    assert found.inputs.record()["mean"] == found.inputs.record()["std"] == [0.5, 0.5, 0.5]
    fresh = obtain(
        ModelConfig(name="vit_tiny_patch16_224", source="timm"), Images(("a", "b"), 224, (0.1, 0.2, 0.3), (0.3,) * 3), "student", 0
    )
    assert fresh.inputs.record()["mean"] == pytest.approx([0.1, 0.2, 0.3])


def test_mean_and_deviation_can_be_given(tmp_path):
    file = saved_weights(tmp_path / "r.pt", "resnet18")
    found, _ = obtained(file, name="resnet18", source="torchvision", mean=[0.5, 0.25, 0], std=[1, 0.5, 0.25])
    assert found.inputs.record()["mean"] == [0.5, 0.25, 0]
    assert found.classifier.std.flatten().tolist() == [1, 0.5, 0.25]


@pytest.mark.parametrize(
    ("key", "values", "said"),
    [("mean", [0.5], "three numbers"), ("mean", [123.7, 116.3, 103.5], "divide by 255"), ("std", [0.2, 0, 0.2], "more than 0"), ("std", [-1.0] * 3, "more than 0")],
)  # fmt: skip
def test_a_mean_that_cannot_be_is_one_line(key, values, said):
    [problem] = check_model("student", ModelConfig(name="resnet8", **{key: values}))
    assert problem.startswith(f"student.{key}={values}: three numbers")
    assert said in problem
