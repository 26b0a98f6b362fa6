"""What of two nets' layers does not suit a loss is told by how they are built, on the meta device, in the line that training would end with."""

from pathlib import Path

import pytest
import torch
import yaml
from text_nets import ENCODERS, net, tapped, texts

from distillctl.errors import ConfigError
from distillctl.losses.weighted import build_loss
from distillctl.models.stand_in import TOKENS, stand_in
from distillctl.runs.layer_pairs import check_layers


def planned(family: str, *sizes: int, **more):
    with torch.device("meta"):
        return net(family, *sizes, **more)


def loss_of(*names: str, **keys):
    found = {}
    for name in names:
        found |= yaml.safe_load((Path(__file__).parents[2] / "conf/loss" / f"{name}.yaml").read_text())
        found[name] |= keys
    return build_loss(found)


@pytest.mark.parametrize("family", [*ENCODERS, "Qwen2", "DebertaV2"])
def test_stand_ins_are_shaped_as_what_is_caught(family):
    plain = ["hidden_states", "hidden_states.1", "queries.last", "keys", "values.1"]
    names = [*plain, "cls_states", "cls_states.last"] if family != "Qwen2" else plain
    names += ["score_queries", "score_keys.1"] if family in ENCODERS else []
    caught = tapped(net(family), names)(texts([TOKENS])).features
    assert {name: values.shape for name, values in stand_in(planned(family), names).items()} == {
        name: values.shape for name, values in caught.items()
    }


@pytest.mark.parametrize("name", ["tinybert", "pkd", "minilmv2"])
def test_nets_that_suit_pass(name):
    loss = loss_of(name)
    check_layers(loss, planned("Bert", 2, width=48), planned("Roberta", 4, width=96))
    assert not list(loss.parameters())  # a copy was sized, and the loss is as fresh as before


REFUSED = [
    ("tinybert", ("Bert", 2, 2), ("Bert", 4, 4), r"^loss\.tinybert\.attention=1\.0: .* 2 heads where the teacher has 4"),
    ("tinybert", ("Bert", 3), ("Bert", 4), r"^loss\.tinybert\.layers: the student's 3 layers are no even part of the teacher's 4"),
    ("tinybert", ("Bert", 2), ("Llama", 4), r"^tap score_queries: the attention of llama is not known"),
    ("minilmv2", ("Bert", 1), ("Bert", 1), r"^loss\.minilmv2\.relation_heads=48 does not divide the student's queries, which are 32 wide"),
    ("pkd", ("Bert", 1), ("Bert", 4), r"^loss\.pkd\.layers=skip leaves out the student's last layer"),
]


@pytest.mark.parametrize(("name", "student", "teacher", "said"), REFUSED, ids=lambda value: value if isinstance(value, str) else "")
def test_nets_that_do_not_suit_are_told_before_any_number_is_computed(name, student, teacher, said):
    with pytest.raises(ConfigError, match=said):
        check_layers(loss_of("kd", name), planned(*student), planned(*teacher))


def test_losses_on_other_taps_are_left_alone():
    check_layers(loss_of("kd", "fitnet"), torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
