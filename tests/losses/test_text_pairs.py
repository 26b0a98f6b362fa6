"""Losses on layers, of real pairs of small transformers: what a config file makes, through taps, on texts of different length."""

import math
from pathlib import Path

import pytest
import torch
import yaml
from test_tokens import attention_by_hand, hidden_by_hand, mean, relation_by_hand
from text_nets import net, tapped, texts

from distillctl.errors import ConfigError
from distillctl.losses.weighted import WeightedSum, build_loss
from distillctl.types import Batch, Output

LENGTHS = [6, 3, 4]
LOSSES = {"tinybert": {}, "pkd": {}, "minilmv2": {"relation_heads": 8}}
each = pytest.mark.parametrize("name", LOSSES)


def batch(lengths: list[int], upto: int | None = None) -> Batch:
    count = len(lengths)
    return Batch(texts(lengths, upto), torch.arange(count) % 3, torch.arange(count), 0)


def loss_of(name: str, **keys) -> WeightedSum:
    """The file's, with its label term, in double precision once it is prepared."""
    content = yaml.safe_load((Path(__file__).parents[2] / "conf/loss" / f"{name}.yaml").read_text())
    return build_loss({**content, name: {**content[name], **LOSSES[name], **keys}})


class Pair:
    """A student and a teacher, in double precision unless it is said, tapped for a loss that is ready to be computed."""

    def __init__(self, loss: WeightedSum, student, teacher, dtype: torch.dtype = torch.float64):
        self.loss, self.data = loss, batch(LENGTHS)
        self.student = tapped(student.to(dtype), loss.taps("student"))
        self.teacher = tapped(teacher.to(dtype), loss.taps("teacher"), "teacher").requires_grad_(False)
        torch.manual_seed(7)
        loss.prepare(*self.answers(self.data), samples=9)
        loss.to(dtype)

    def answers(self, data: Batch) -> tuple[Output, Output]:
        return self.student(data.inputs), self.teacher(data.inputs)

    def parts(self, data: Batch | None = None) -> dict[str, float]:
        data = data or self.data
        return {name: part.item() for name, part in self.loss(*self.answers(data), data).parts.items()}


def of_depths(name: str, student: int = 2, teacher: int = 4, **keys) -> Pair:
    """A narrow student and a wide teacher with as many heads."""
    return Pair(loss_of(name, **keys), net("Bert", student, width=16, seed=1), net("Bert", teacher, width=32, seed=2))


@each
def test_a_step_learns_from_the_teacher_and_leaves_it_alone(name):
    pair = of_depths(name)
    before = {key: value.clone() for key, value in pair.teacher.net.state_dict().items()}
    free = [*pair.student.parameters(), *pair.loss.parameters()]
    optimizer = torch.optim.Adam(free, lr=3e-3)
    seen = []
    for _ in range(8):
        total = pair.loss(*pair.answers(pair.data), pair.data).loss
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        seen.append(total.item())
    assert seen[-1] < 0.9 * seen[0], seen
    assert all(parameter.grad.abs().sum() > 0 for parameter in pair.loss.parameters())
    assert all(torch.equal(value, before[key]) for key, value in pair.teacher.net.state_dict().items())
    assert all(parameter.grad is None for parameter in pair.teacher.parameters())


@each
@pytest.mark.parametrize("family", ["Bert", "Roberta", "DistilBert"])
def test_how_far_a_batch_is_filled_up_changes_nothing(name, family):
    pair = Pair(loss_of(name), net(family, 2, width=16, seed=1), net(family, 4, width=32, seed=2))
    expected = pair.parts()
    for upto in (7, 15):
        found = pair.parts(batch(LENGTHS, upto))
        assert found[name] == pytest.approx(expected[name], abs=1e-12, rel=1e-12)


@each
@pytest.mark.parametrize("junk", [1e9, math.nan])
def test_what_padding_holds_reaches_neither_the_loss_nor_a_gradient(name, junk):
    pair = of_depths(name)
    found, gradients = [], []
    for value in (None, junk):
        answers = [answer if value is None else spoiled(answer, value) for answer in pair.answers(pair.data)]
        total = pair.loss(*answers, pair.data).loss
        pair.loss.zero_grad()
        total.backward()
        found.append(total.item())
        gradients.append([parameter.grad.clone() for parameter in pair.loss.parameters()])
    assert found[1] == pytest.approx(found[0], rel=1e-12)
    for clean, dirty in zip(*gradients, strict=True):
        torch.testing.assert_close(dirty, clean)


def spoiled(answer: Output, value: float) -> Output:
    """With this number wherever no token is; features are [B, T, ...], [B, L, T, ...], or one state a layer."""
    features = {}
    for name, values in answer.features.items():
        mask = answer.mask if name.endswith(".last") else answer.mask[:, None]
        if name != "cls_states":
            values = values.masked_fill(~mask.reshape(*mask.shape, *[1] * (values.ndim - mask.ndim)), value)
        features[name] = values
    return answer._replace(features=features)


@each
def test_a_texts_batch_mates_change_nothing(name):
    pair = of_depths(name)
    alone = []
    for row, length in enumerate(LENGTHS):
        data = batch(LENGTHS)
        one = {key: column[row : row + 1, :length] for key, column in data.inputs.items()}
        alone.append(pair.parts(Batch(one, data.targets[row : row + 1], data.index[row : row + 1], 0))[name])
    assert pair.parts()[name] == pytest.approx(mean(alone), rel=1e-12)


def test_tinybert_is_the_sum_of_its_terms_by_hand():
    weights = {"hidden": 0.5, "attention": 2.0, "prediction": 3.0, "temperature": 2.0}
    pair = of_depths("tinybert", **weights)
    term = pair.loss.terms["tinybert"]
    assert term.pairs == ((0, 0), (1, 2), (2, 4))
    inputs = pair.data.inputs
    with torch.no_grad():
        states = [model.net(**inputs, output_hidden_states=True).hidden_states for model in (pair.student, pair.teacher)]
        logits = [model.net(**inputs).logits.tolist() for model in (pair.student, pair.teacher)]
        w_e, w_h = (term.projections[name].weight.T for name in ("embeddings", "states"))
        expected = 0.5 * hidden_by_hand(states[0][0] @ w_e, states[1][0], LENGTHS)
        for ours, theirs in ((1, 2), (2, 4)):
            expected += 0.5 * hidden_by_hand(states[0][ours] @ w_h, states[1][theirs], LENGTHS)
            sides = []
            for model, hidden, layer in ((pair.student, states[0], ours), (pair.teacher, states[1], theirs)):
                attention = model.net.bert.encoder.layer[layer - 1].attention.self
                sides.append(tuple(part(hidden[layer - 1]).unflatten(2, (4, -1)) for part in (attention.query, attention.key)))
            expected += 2.0 * attention_by_hand(*sides, LENGTHS)
    crossings = []
    for z_s, z_t in zip(*logits, strict=True):
        powers = [[math.exp(value / 2.0) for value in row] for row in (z_s, z_t)]
        p_s, p_t = ([power / sum(row) for power in row] for row in powers)
        crossings.append(-sum(t * math.log(s) for s, t in zip(p_s, p_t, strict=True)))
    expected += 3.0 * 4 * mean(crossings)
    assert pair.parts()["tinybert"] == pytest.approx(expected, rel=1e-9)


def test_minilmv2_is_the_sum_of_its_relations_by_hand():
    pair = of_depths("minilmv2", teacher_layer=3)
    inputs = pair.data.inputs
    expected = 0.0
    with torch.no_grad():
        states = [model.net(**inputs, output_hidden_states=True).hidden_states for model in (pair.student, pair.teacher)]
        for role in ("query", "key", "value"):
            sides = []
            for model, hidden, layer in ((pair.student, states[0], 2), (pair.teacher, states[1], 3)):
                attention = model.net.bert.encoder.layer[layer - 1].attention.self
                sides.append(getattr(attention, role)(hidden[layer - 1]))
            expected += relation_by_hand(*sides, 8, LENGTHS)
    assert pair.parts()["minilmv2"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("layers", "theirs"), [("skip", [2, 4]), ("last", [4, 5]), ([[1, 6], [3, 1]], [6, 1])])
def test_pkd_is_the_gap_of_its_layers_by_hand(layers, theirs):
    pair = of_depths("pkd", student=3, teacher=6, layers=layers)
    ours = [1, 3] if isinstance(layers, list) else [1, 2]
    (project,) = pair.loss.terms["pkd"].projections
    squares = []
    with torch.no_grad():
        states = [model.net(**pair.data.inputs, output_hidden_states=True).hidden_states for model in (pair.student, pair.teacher)]
        for one, other in zip(ours, theirs, strict=True):
            for text in range(len(LENGTHS)):
                rows = [(states[0][one][text, 0] @ project.weight.T).tolist(), states[1][other][text, 0].tolist()]
                lengths = [math.sqrt(sum(value**2 for value in row)) for row in rows]
                squares += [(a / lengths[0] - b / lengths[1]) ** 2 for a, b in zip(*rows, strict=True)]
    assert pair.parts()["pkd"] == pytest.approx(100 * mean(squares), rel=1e-9)


def test_equal_widths_need_no_projection():
    for name in ("tinybert", "pkd"):
        pair = Pair(loss_of(name), net("Bert", 2, seed=1), net("Bert", 4, seed=2))
        assert list(pair.loss.parameters()) == []


def test_projections_are_no_part_of_what_ships():
    pair = of_depths("tinybert")
    assert pair.student.plain_state().keys() == net("Bert", 2, width=16).state_dict().keys()


def test_terms_of_weight_0_are_not_read():
    assert loss_of("tinybert", attention=0).taps("student") == ("hidden_states", "logits")
    assert loss_of("tinybert", hidden=0, prediction=0).taps("teacher") == ("score_queries", "score_keys")
    pair = of_depths("tinybert", hidden=0, prediction=0)
    assert list(pair.loss.parameters()) == []
    assert pair.parts()["tinybert"] > 0


def test_only_projections_that_are_used_are_made():
    pair = of_depths("tinybert", layers=[[1, 2], [2, 4]])
    assert list(pair.loss.terms["tinybert"].projections) == ["states"]


def test_relations_pass_between_nets_of_any_heads_widths_and_kinds():
    """A decoder whose keys are half as wide as its queries teaches an encoder with other heads."""
    pair = Pair(loss_of("minilmv2"), net("Bert", 1, heads=2, width=24, seed=1), net("Qwen2", 2, width=32, seed=2))
    total = pair.loss(*pair.answers(pair.data), pair.data).loss
    total.backward()
    assert total.isfinite()
    last = pair.student.net.bert.encoder.layer[-1].attention.self
    assert all(part.weight.grad.abs().sum() > 0 for part in (last.query, last.key, last.value))


def test_hidden_states_pass_from_a_decoder_where_attention_is_left_out():
    pair = Pair(loss_of("tinybert", attention=0), net("DistilBert", 2, width=16, seed=1), net("Llama", 4, seed=2))
    assert math.isfinite(pair.parts()["tinybert"])


# ---------------------------------------------------------------- what does not suit, in one line


def refused(said: str, make) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_other_heads_are_refused_with_the_way_out():
    refused(
        r"^loss\.tinybert\.attention=1\.0: attention is compared head by head, and the student has 2 heads where the teacher has 4 .*loss\.tinybert\.attention=0",
        lambda: Pair(loss_of("tinybert"), net("Bert", 2, heads=2), net("Bert", 4, heads=4)),
    )
    assert Pair(loss_of("tinybert", attention=0), net("Bert", 2, heads=2), net("Bert", 4, heads=4)).parts()["tinybert"] > 0


def test_relation_heads_that_do_not_divide_are_refused_with_some_that_do():
    student, teacher = net("Bert", 1, heads=2, width=24), net("Bert", 1, width=32)
    refused(
        r"^loss\.minilmv2\.relation_heads=48 does not divide the student's queries, which are 24 wide; take loss\.minilmv2\.relation_heads=8,",
        lambda: Pair(loss_of("minilmv2", relation_heads=48), student, teacher),
    )
    assert Pair(loss_of("minilmv2", relation_heads=8), student, teacher).parts()["minilmv2"] > 0


def test_a_teacher_layer_that_is_not_there_is_refused():
    refused(r"^teacher: tap queries\.7: its layers are 1 to 4$", lambda: of_depths("minilmv2", teacher_layer=7))


@pytest.mark.parametrize("name", ["tinybert", "minilmv2"])
def test_other_tokens_are_refused(name):
    """Texts of another number of tokens, and of the same number filled up otherwise."""
    pair = of_depths(name)
    student, teacher = pair.answers(pair.data)
    longer = pair.teacher(texts(LENGTHS, 8))
    refused(rf"^loss\.{name}: the student has 6 tokens where the teacher has 8", lambda: pair.loss(student, longer, pair.data))
    refused(rf"^loss\.{name}: the student has 6 tokens where the teacher has 8", lambda: pair.loss.prepare(student, longer, 9))
    shorter = pair.teacher(texts([6, 2, 4]))
    refused(rf"^loss\.{name}: student and teacher have texts of different length", lambda: pair.loss.prepare(student, shorter, 9))
    assert pair.loss.terms[name].reads_tokens


def test_patience_asks_for_no_equal_tokens():
    pair, fresh = of_depths("pkd"), loss_of("pkd")
    student, other = pair.student(pair.data.inputs), pair.teacher(texts([9, 2, 5], seed=4))
    fresh.prepare(student, other, 9)
    assert fresh.double()(student, other, pair.data).loss.isfinite()
    assert not fresh.terms["pkd"].reads_tokens


@pytest.mark.parametrize(
    ("name", "key", "value", "said"),
    [
        ("tinybert", "layers", "skip", r"^loss\.tinybert\.layers=skip must be auto or pairs"),
        ("tinybert", "hidden", -1, r"^loss\.tinybert\.hidden=-1 must be >= 0"),
        ("tinybert", "temperature", 0, r"^loss\.tinybert\.temperature=0 must be > 0"),
        ("pkd", "layers", [[1]], r"^loss\.pkd\.layers=\[\[1\]\] must be pairs"),
        ("minilmv2", "relation_heads", 0, r"^loss\.minilmv2\.relation_heads=0 must be >= 1"),
        ("minilmv2", "teacher_layer", "first", r"^loss\.minilmv2\.teacher_layer=first must be last or"),
        ("minilmv2", "teacher_layer", 0, r"^loss\.minilmv2\.teacher_layer=0 must be last or"),
    ],
)
def test_a_key_that_cannot_be_is_named(name, key, value, said):
    refused(said, lambda: loss_of(name, **{key: value}))


def test_answers_alone_are_another_loss():
    refused(r"hidden=0 and attention=0 leave answers alone, which is loss=soft_ce", lambda: loss_of("tinybert", hidden=0, attention=0))


# ---------------------------------------------------------------- losses that were made for maps and vectors

ON_MAPS = ["fitnet", "last_feature", "vid", "ofd", "sp", "fsp", "reviewkd"]


def conf(name: str, **keys) -> WeightedSum:
    content = yaml.safe_load((Path(__file__).parents[2] / "conf/loss" / f"{name}.yaml").read_text())
    node = {key: value for key, value in content[name].items() if not str(value).startswith("${")}
    return build_loss({name: {**node, **keys}})


@pytest.mark.parametrize("tap", ["pooled", "cls_states.last", "last"])
@pytest.mark.parametrize("name", ["rkd", "pkt", "cc", "crd"])
def test_losses_on_vectors_take_a_texts_pooled_state_its_first_token_or_the_mean_of_its_tokens(name, tap):
    more = {"negatives": 16} if name == "crd" else {}
    loss = conf(name, student=tap, teacher=tap, **more).eval()
    pair = Pair(loss, net("Bert", 2, width=16, seed=1), net("Bert", 4, seed=2), torch.float32)
    found, filled = pair.parts()[name], pair.parts(batch(LENGTHS, 11))[name]
    assert math.isfinite(found)
    assert filled == pytest.approx(found, rel=1e-4)


@pytest.mark.parametrize("tap", ["pooled", "cls_states.last"])
@pytest.mark.parametrize("name", ["fitnet", "vid", "ofd", "sp", "last_feature"])
def test_losses_on_maps_take_a_texts_vector_as_a_map_of_one_position(name, tap):
    pair = Pair(conf(name, student=tap, teacher=tap), net("Bert", 2, width=16, seed=1), net("Bert", 4, seed=2))
    assert math.isfinite(pair.parts()[name])


@pytest.mark.parametrize("name", ON_MAPS)
def test_losses_on_maps_refuse_tokens_in_one_line(name):
    taps = (
        {"student": ["last", "stage4"], "teacher": ["last", "stage4"]}
        if name in ("fsp", "reviewkd")
        else {"student": "last", "teacher": "last"}
    )
    refused(
        r"^tap last: its shape \(3, 6, 16\) is that of a text's tokens, and this loss compares maps or vectors; tap pooled",
        lambda: (lambda pair: pair.loss(*pair.answers(pair.data), pair.data))(
            Pair(conf(name, **taps), net("Bert", 4, width=16, seed=1), net("Bert", 4, seed=2))
        ),
    )


@pytest.mark.parametrize("tap", ["pooled", "last"])
@pytest.mark.parametrize("name", ["at", "nst"])
def test_losses_on_positions_refuse_texts_in_one_line(name, tap):
    pair = Pair(conf(name, student=tap, teacher=tap), net("Bert", 2, seed=1), net("Bert", 2, seed=2))
    refused(rf"^tap {tap}: this loss compares the positions of a map with each other, and texts have none; take loss=tinybert", pair.parts)


@pytest.mark.parametrize("name", ["rkd", "pkt"])
def test_losses_on_vectors_refuse_a_stack_of_layers_in_one_line(name):
    pair = Pair(conf(name, student="hidden_states", teacher="hidden_states"), net("Bert", 2, seed=1), net("Bert", 2, seed=2))
    refused(r"^a feature of shape \(3, 3, 6, 32\) of texts is neither a vector", pair.parts)
