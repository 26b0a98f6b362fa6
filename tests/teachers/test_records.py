"""A record holds logits and features, of any size and number, and gives back what was put in, rounded once."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distillctl.teachers.records import DTYPES, Layout, by_name, layout_for
from distillctl.teachers.store import record_bytes

SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple)
VALUE_BYTES = {"fp16": 2, "fp32": 4}


@st.composite
def layouts(draw) -> Layout:
    features = draw(st.dictionaries(st.sampled_from(["pooled", "a.pooled", "b.pooled", "stage1", "net.3"]), SHAPES, max_size=3))
    classes = draw(st.integers(2, 9))
    top_k = draw(st.none() | st.integers(1, classes - 1))
    return layout_for(draw(st.integers(1, 3)), classes, draw(st.sampled_from(["fp16", "fp32"])), top_k, features)


def answer(layout: Layout, count: int, seed: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    logits = 9 * torch.randn(count, layout.teachers, layout.classes, generator=generator)
    return logits, {name: 30 * torch.randn(count, *shape, generator=generator) for name, shape in reversed(layout.features)}


@settings(max_examples=60, deadline=None)
@given(layouts(), st.integers(1, 4), st.integers(0, 2**31))
def test_logits_and_features_come_back_as_they_were_rounded(layout, count, seed):
    logits, features = answer(layout, count, seed)
    words = layout.encode(logits, features)
    assert words.shape == (count, layout.words)
    assert words.dtype == np.uint32
    kept = layout.decode_features(words)
    assert list(kept) == sorted(features)
    for name, values in features.items():
        assert kept[name].dtype == torch.float32
        assert torch.equal(kept[name], values.to(DTYPES[layout.dtype]).float())
    without = Layout(layout.teachers, layout.classes, layout.dtype, layout.top_k)
    assert torch.equal(layout.decode(words), without.decode(without.encode(logits)))
    assert layout.finite(words).all()
    again = layout.encode(logits, kept)
    assert np.array_equal(again, words)


@settings(max_examples=40, deadline=None)
@given(layouts())
def test_a_record_is_as_long_as_what_it_holds_in_whole_words(layout):
    numbers = sum(int(np.prod(shape)) for _, shape in layout.features)
    logits = layout.teachers * (layout.classes if layout.top_k is None else layout.top_k + 1)
    places = 0 if layout.top_k is None else layout.teachers * layout.top_k * 2
    held = (numbers + logits) * VALUE_BYTES[layout.dtype] + places
    assert 0 <= layout.words * 4 - held < 4
    assert layout.feature_bytes == numbers * VALUE_BYTES[layout.dtype]
    assert record_bytes(layout) == layout.words * 4 + 8


def test_the_features_of_a_layout_are_in_the_order_of_their_names():
    assert by_name({"b": [3, 2], "a": (5,)}) == (("a", (5,)), ("b", (3, 2)))
    assert layout_for(1, 10, "fp16", None, {"b": (1,), "a": (2,)}) == layout_for(1, 10, "fp16", None, {"a": (2,), "b": (1,)})


def test_a_map_is_kept_whatever_lies_next_to_what_in_memory():
    layout = layout_for(1, 2, "fp32", None, {"last": (3, 2, 2)})
    maps = torch.randn(4, 3, 2, 2)
    one, other = (
        layout.encode(torch.zeros(4, 1, 2), {"last": values}) for values in (maps, maps.contiguous(memory_format=torch.channels_last))
    )
    assert np.array_equal(one, other)


@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
def test_bf16_features_lose_nothing(dtype):
    layout, values = layout_for(1, 2, dtype, None, {"pooled": (50,)}), (9 * torch.randn(4, 50)).bfloat16()
    assert torch.equal(layout.decode_features(layout.encode(torch.zeros(4, 1, 2), {"pooled": values}))["pooled"], values.float())


@pytest.mark.parametrize(
    ("value", "dtype", "fits"), [(7e4, "fp16", False), (7e4, "fp32", True), (float("nan"), "fp32", False), (6e4, "fp16", True)]
)
def test_a_feature_that_does_not_fit_is_noticed(value, dtype, fits):
    layout, features = layout_for(1, 2, dtype, None, {"pooled": (5,)}), torch.ones(3, 5)
    features[1, 2] = value
    assert layout.finite(layout.encode(torch.zeros(3, 1, 2), {"pooled": features})).tolist() == [True, fits, True]


def test_one_record_alone_is_read_wherever_its_parts_begin():
    """More than 2^15 classes have places of 4 bytes, here behind 6 bytes of logits."""
    layout = layout_for(1, 40_000, "fp16", 2, {"pooled": (3,)})
    logits = torch.zeros(1, 1, 40_000)
    logits[0, 0, 39_999], logits[0, 0, 7] = 5, 3
    words = layout.encode(logits, {"pooled": torch.arange(3.0)[None]})
    assert layout.decode(words)[0, 0, [39_999, 7]].tolist() == [5, 3]
    assert layout.decode_features(words)["pooled"].tolist() == [[0, 1, 2]]


def test_a_feature_of_another_shape_is_refused():
    """Such as windows of an image, several to an image, side by side as if they were images."""
    layout = layout_for(1, 2, "fp32", None, {"pooled": (5,)})
    with pytest.raises(AssertionError, match="pooled"):
        layout.encode(torch.zeros(3, 1, 2), {"pooled": torch.zeros(12, 5)})
