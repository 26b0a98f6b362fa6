"""The layers of transformers' nets are found by name and number, and give what the library itself says that they compute."""

import copy
from dataclasses import dataclass

import pytest
import torch
from text_nets import CLASSES, ENCODERS, net, tapped, texts
from torch import nn

from distillctl.errors import ConfigError
from distillctl.losses.tinybert import attention_scores
from distillctl.models.fitting import head_names
from distillctl.models.layers import layers_of
from distillctl.models.taps import short_names, tap
from distillctl.models.trace import pixels

EVERY = (*ENCODERS, "Llama", "Qwen2", "GPT2", "DebertaV2")


@pytest.mark.parametrize("family", EVERY)
def test_hidden_states_are_those_that_the_library_gives(family):
    model, data = net(family, layers=4), texts([7, 3])
    mine = tapped(model, ["hidden_states", "hidden_states.0", "hidden_states.3", "last"])
    features = mine(data).features
    theirs = torch.stack(model(**data, output_hidden_states=True).hidden_states, dim=1)
    assert torch.equal(features["hidden_states"][:, :4], theirs[:, :4])  # behind a decoder's last layer the library has a norm
    assert torch.equal(features["hidden_states.0"], theirs[:, 0])
    assert torch.equal(features["hidden_states.3"], theirs[:, 3])
    assert torch.equal(features["hidden_states"][:, 4], features["last"])
    if family not in ("Llama", "Qwen2", "GPT2"):
        assert torch.equal(features["last"], theirs[:, 4])


@pytest.mark.parametrize("family", ENCODERS)
def test_the_scores_of_queries_and_keys_are_the_attention_that_the_library_gives(family):
    model, data = net(family, attn_implementation="eager"), texts([6, 6])
    features = tapped(model, ["score_queries", "score_keys"])(data).features
    theirs = model(**data, output_attentions=True).attentions
    for layer in range(2):
        scores = attention_scores(features["score_queries"][:, layer], features["score_keys"][:, layer])
        torch.testing.assert_close(scores.softmax(-1), theirs[layer])


@pytest.mark.parametrize("family", [*ENCODERS, "DebertaV2"])
def test_each_layers_queries_keys_and_values_are_what_its_projections_give(family):
    model = net(family)
    names = [f"{role}.{number}" for role in ("queries", "keys", "values") for number in (1, 2)]
    features = tapped(model, [*names, "hidden_states", "values"])(texts([5, 4])).features
    for number, layer in enumerate(layers_of(model).layers, start=1):
        for role, path in zip(("queries", "keys", "values"), layer.attention.projections, strict=True):
            expected = model.get_submodule(path)(features["hidden_states"][:, number - 1])
            torch.testing.assert_close(features[f"{role}.{number}"], expected)
    assert torch.equal(features["values"][:, 1], features["values.2"])


def test_keys_that_queries_share_are_as_wide_as_they_are():
    model = net("Qwen2")
    features = tapped(model, ["queries.last", "keys.last", "values.last"])(texts([5, 4])).features
    assert [features[f"{role}.last"].shape for role in ("queries", "keys", "values")] == [(2, 5, 32), (2, 5, 16), (2, 5, 16)]
    attention = layers_of(model).layers[0].attention
    assert (attention.heads, attention.key_heads, attention.head_width) == (4, 2, 8)


def test_heads_come_apart_as_they_lie():
    model = net("Bert")
    features = tapped(model, ["score_keys.2", "keys.2"])(texts([5, 4])).features
    assert features["score_keys.2"].shape == (2, 5, 4, 8)
    assert torch.equal(features["score_keys.2"][:, :, 1], features["keys.2"][:, :, 8:16])


@pytest.mark.parametrize("family", ENCODERS)
def test_the_state_of_the_first_token_is_its_hidden_state(family):
    features = tapped(net(family), ["cls_states", "cls_states.last", "hidden_states"])(texts([5, 4])).features
    assert torch.equal(features["cls_states"], features["hidden_states"][:, :, 0])
    assert torch.equal(features["cls_states.last"], features["hidden_states"][:, 2, 0])


@pytest.mark.parametrize("family", EVERY)
def test_pooled_is_what_the_classifier_sees(family):
    """Of nets too that make their classifier before the layers below it."""
    model, data = net(family), texts([5, 5])
    answer = tapped(model, ["pooled"])(data)
    head = model.get_submodule(head_names(model)[0].rpartition(".")[0])
    assert head.out_features == CLASSES
    logits = head(answer.features["pooled"])
    torch.testing.assert_close(logits if logits.ndim == 2 else logits[:, -1], answer.logits)


def test_stages_are_quarters_of_the_layers():
    known = short_names(net("DistilBert", layers=8), None)
    paths = [f"distilbert.transformer.layer.{number}" for number in (1, 3, 5, 7)]
    assert [known[f"stage{number}"].module for number in (1, 2, 3, 4)] == paths
    assert known["last"] == known["stage4"]
    assert "stage1" not in short_names(net("DistilBert", layers=3), None)


def test_a_net_within_another_module_has_the_same_taps():
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.text = net("Bert")

        def forward(self, **inputs):
            return self.text(**inputs)

    wrapped = Wrapped().eval()
    features = tapped(wrapped, ["hidden_states", "pooled"])(texts([5, 4])).features
    assert (features["hidden_states"].shape, features["pooled"].shape) == ((2, 3, 5, 32), (2, 32))


def test_planned_nets_without_numbers_have_the_same_taps():
    with torch.device("meta"):
        planned = net("Bert")
    assert set(tap(planned, ["score_keys", "pooled", "cls_states.1"], None, "student").points) == {"score_keys", "pooled", "cls_states.1"}


def test_a_copy_of_a_net_catches_stacks_for_itself():
    model = tapped(net("Bert"), ["queries"])
    twin = copy.deepcopy(model)
    assert twin(texts([5, 4])).features["queries"].shape == (2, 2, 5, 32)
    assert not model.taps.caught


def test_a_stack_passes_gradients_to_each_of_its_layers():
    model = tapped(net("Bert"), ["values"])
    model(texts([5, 4])).features["values"].square().sum().backward()
    for layer in layers_of(model.net).layers:
        assert model.net.get_submodule(layer.attention.projections[2]).weight.grad.abs().sum() > 0


@dataclass
class Wrapping:
    states: torch.Tensor


class Wraps(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.wrap = wrap

    def forward(self, x):
        return self.wrap(2 * x)


class Inside(nn.Module):
    def __init__(self, wrap, unwrap):
        super().__init__()
        self.body, self.unwrap, self.head = Wraps(wrap), unwrap, nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.unwrap(self.body(x)))


@pytest.mark.parametrize("kind", ["tensor", "tuple", "list", "dict", "ModelOutput"])
def test_what_a_module_wraps_its_answer_in_is_taken_off(kind):
    if kind == "ModelOutput":
        outputs = pytest.importorskip("transformers.modeling_outputs")
        wrap, unwrap = (lambda x: outputs.BaseModelOutput(last_hidden_state=x)), (lambda x: x.last_hidden_state)
    else:
        wrap = {"tensor": lambda x: x, "tuple": lambda x: (x, None), "list": lambda x: [x], "dict": lambda x: {"a": x, "b": None}}[kind]
        unwrap = {"tensor": lambda x: x, "dict": lambda x: x["a"]}.get(kind, lambda x: x[0])
    model = Inside(wrap, unwrap)
    taps = tap(model, ["body"], lambda device, dtype: torch.zeros(1, 4, device=device, dtype=dtype), "student")
    values = torch.randn(2, 4)
    model(values)
    assert torch.equal(taps.collect()["body"], 2 * values)


def test_what_goes_into_a_module_by_name_is_caught_too():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(4, 3)

        def forward(self, x):
            return self.head(input=x)

    model = Named()
    taps = tap(model, ["pooled"], lambda device, dtype: torch.zeros(1, 4, device=device, dtype=dtype), "student")
    values = torch.randn(2, 4)
    model(values)
    assert torch.equal(taps.collect()["pooled"], values)


REFUSED = [
    ("GPT2", {}, "queries.last", r"^student: tap queries: of gpt2 not supported, as transformer\.h\.1\.attn\.c_attn computes queries, keys and values in one layer"),
    ("Llama", {}, "score_keys", r"^student: tap score_keys: the attention of llama is not known .* loss\.tinybert\.attention=0 leaves attention out"),
    ("DebertaV2", {}, "score_queries", r"^student: tap score_queries: the attention of deberta-v2 is not known"),
    ("Llama", {}, "cls_states", r"^student: tap cls_states: the first token of llama sees no other"),
    ("Bert", {}, "hidden_states.9", r"^student: tap hidden_states\.9: its layers are 0 \(the embeddings\) to 2$"),
    ("Bert", {}, "queries.0", r"^student: tap queries\.0: its layers are 1 to 2$"),
    ("Bert", {}, "hidden_state", r"^student: it has no tap 'hidden_state'; did you mean hidden_states"),
    ("Albert", {"embedding_size": 16}, "hidden_states", r"it has no tap 'hidden_states': its 2 layers cannot be told apart: albert shares their weights.*take a loss on logits"),
]  # fmt: skip


@pytest.mark.parametrize(("family", "more", "name", "said"), REFUSED, ids=lambda value: value if isinstance(value, str) else "")
def test_what_a_net_has_not_got_is_told_in_one_line(family, more, name, said):
    with pytest.raises(ConfigError, match=said) as caught:
        tap(net(family, **more), [name], lambda device, dtype: torch.zeros(1, 4, dtype=torch.int64, device=device), "student")
    assert "\n" not in str(caught.value)


def test_a_net_with_an_encoder_and_a_decoder_says_so():
    transformers = pytest.importorskip("transformers")
    sizes = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = transformers.BartConfig(vocab_size=50, d_model=16, encoder_ffn_dim=16, decoder_ffn_dim=16, **sizes)
    with pytest.raises(ConfigError, match="bart has an encoder and a decoder"):
        tap(
            transformers.BartForSequenceClassification(config),
            ["hidden_states"],
            lambda device, dtype: torch.zeros(1, 4, dtype=torch.int64, device=device),
            "student",
        )


def test_a_net_of_another_library_has_no_layers_of_texts():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    with pytest.raises(
        ConfigError, match=r"^student: it has no tap 'queries.last': it is no net of the transformers library; take a loss on logits"
    ):
        tap(model, ["queries.last"], pixels(8), "student")
