"""Products and squares whose gradients are written by hand: the gradients of the plain expressions, in the layout of the features."""

import pytest
import torch
from torch import Tensor

from distillctl.losses.sums import gram, products, squared_gap

LAYOUTS = {"channels first": torch.contiguous_format, "channels last": torch.channels_last}


def maps(seed: int, channels: int, layout: torch.memory_format = torch.contiguous_format) -> Tensor:
    drawn = torch.randn(2, channels, 3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return drawn.to(memory_format=layout).requires_grad_()


CASES = {
    "products": (
        lambda a, b: products(a.flatten(2), b.flatten(2)),
        lambda a, b: torch.einsum("bcn,bdn->bcd", a.flatten(2), b.flatten(2)),
        5,
    ),
    "gram": (lambda a, b: gram(a.flatten(2)), lambda a, b: torch.einsum("bcn,bdn->bcd", a.flatten(2), a.flatten(2)), 4),
    "gram of rows": (lambda a, b: gram(a.flatten(1)), lambda a, b: torch.einsum("bn,cn->bc", a.flatten(1), a.flatten(1)), 4),
    "squared gap": (squared_gap, lambda a, b: torch.einsum("bchw,bchw->c", a - b, a - b), 4),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_the_plain_expression(name, layout):
    ours, plain, width = CASES[name]
    found, wanted = ((maps(1, 4, layout), maps(2, width, layout)) for _ in range(2))
    weights = torch.randn(plain(*wanted).shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    torch.testing.assert_close(ours(*found), plain(*wanted), rtol=1e-12, atol=1e-12)
    (ours(*found) * weights).sum().backward()
    (plain(*wanted) * weights).sum().backward()
    for one, other in zip(found, wanted, strict=True):
        assert (one.grad is None) == (other.grad is None)
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("name", ["products", "gram", "squared gap"])
def test_a_gradient_lies_in_memory_as_the_map_does(name, layout):
    ours, _, width = CASES[name]
    one, other = maps(1, 4, layout), maps(2, width, layout)
    (gradient,) = torch.autograd.grad(ours(one, other).sum(), one)
    assert gradient.is_contiguous(memory_format=layout)


def test_no_gradient_is_made_for_a_map_that_wants_none():
    one, other = maps(1, 4), maps(2, 4).detach()
    for sums in (lambda: products(one.flatten(2), other.flatten(2)), lambda: squared_gap(one, other), lambda: squared_gap(other, one)):
        one.grad = None
        sums().sum().backward()
        assert one.grad is not None
        assert other.grad is None
