"""Layers are paired as the papers pair them, and a pairing that cannot be is told with one that can."""

import pytest

from distillctl.errors import ConfigError
from distillctl.losses.pairing import check_pairs, chosen_pairs, spread
from distillctl.losses.patient import Patient, last_layers
from distillctl.losses.tinybert import TinyBert


def test_four_layers_learn_from_every_third_of_twelve():
    assert spread(4, 12, "loss.tinybert") == ((1, 3), (2, 6), (3, 9), (4, 12))


def test_six_patient_layers_skip_every_second_of_twelve_or_take_those_before_the_last():
    assert Patient("skip").paired(6, 12) == ((1, 2), (2, 4), (3, 6), (4, 8), (5, 10))
    assert Patient("last").paired(6, 12) == ((1, 7), (2, 8), (3, 9), (4, 10), (5, 11))


def test_as_many_layers_are_paired_one_by_one():
    assert spread(3, 3, "loss.tinybert") == ((1, 1), (2, 2), (3, 3))
    assert last_layers(3, 3, "loss.pkd") == ((1, 1), (2, 2))


def test_layers_that_do_not_go_into_the_teachers_are_told_with_the_nearest_that_do():
    with pytest.raises(ConfigError) as caught:
        spread(4, 6, "loss.tinybert")
    assert str(caught.value) == (
        "loss.tinybert.layers: the student's 4 layers are no even part of the teacher's 6; say which go together, "
        "as in loss.tinybert.layers=[[1,2],[2,3],[3,5],[4,6]]"
    )
    assert check_pairs(((1, 2), (2, 3), (3, 5), (4, 6)), 4, 6, "loss.tinybert")


def test_a_deeper_student_is_told_the_nearest_too():
    with pytest.raises(ConfigError, match=r"as in loss\.tinybert\.layers=\[\[1,1\],\[2,1\],\[3,2\]\]$"):
        spread(3, 2, "loss.tinybert")
    with pytest.raises(ConfigError, match=r"loss\.pkd\.layers=last: the teacher has 2 layers, fewer than the student's 3"):
        last_layers(3, 2, "loss.pkd")


def test_one_patient_layer_has_none_before_its_last():
    for layers in ("skip", "last"):
        with pytest.raises(ConfigError, match=rf"loss\.pkd\.layers={layers} leaves out .* as in loss\.pkd\.layers=\[\[1,4\]\]$"):
            Patient(layers).paired(1, 4)
    assert Patient([[1, 4]]).paired(1, 4) == ((1, 4),)


@pytest.mark.parametrize(
    ("pair", "said"), [([3, 1], "the student has 2 layers, and no layer 3"), ([1, 9], "the teacher has 4 layers, and no layer 9")]
)
def test_a_layer_that_is_not_there_is_named(pair, said):
    with pytest.raises(ConfigError, match=said):
        check_pairs(chosen_pairs([[1, 1], pair], ()), 2, 4, "loss.pkd")


@pytest.mark.parametrize("layers", [[], [[1]], [[1, 2, 3]], [[1, -1]], [1, 2], [[1, "2"]], [[True, 1]], ["12"], [[1.0, 2]], "middle"])
def test_what_is_no_pairing_is_refused_as_it_was_given(layers):
    with pytest.raises(ValueError, match=r"^layers=.*must be"):
        chosen_pairs(layers, ("auto",))


def test_embeddings_go_with_embeddings_and_have_no_attention():
    assert TinyBert([[0, 0], [2, 4]]).layers == ((0, 0), (2, 4))
    with pytest.raises(ValueError, match=r"^layers=\[\[0,3\]\]: 0 is the embeddings"):
        TinyBert([[0, 3]])
    with pytest.raises(ValueError, match=r"^layers=\[\[0,0\]\]: embeddings have no attention"):
        TinyBert([[0, 0]])
    assert TinyBert([[0, 0]], attention=0).layers == ((0, 0),)
