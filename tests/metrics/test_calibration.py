"""The temperature: what it must find, what it must not make worse, and where there is none to find."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss

from distillctl.metrics import calibration, quality

INF = math.inf


def drawn(n: int = 4000, k: int = 6, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [n, k] and labels that are drawn by their softmax: calibrated as they are."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, k, generator=generator, dtype=torch.float64)
    return logits, torch.multinomial(logits.softmax(1), 1, generator=generator).squeeze(1)


@pytest.mark.parametrize("temperature", [0.1, 0.4, 1.0, 2.5, 10.0])
def test_a_known_temperature_is_found_again(temperature):
    """To the last bits a multiple of that of the calibrated logits, which is 1 but for the labels' noise."""
    logits, targets = drawn()
    own = calibration.fit_temperature(logits, targets)
    assert own == pytest.approx(1, abs=0.05)
    assert calibration.fit_temperature(temperature * logits, targets) == pytest.approx(temperature * own, rel=1e-9)


def test_no_other_temperature_has_a_lower_likelihood():
    logits, targets = drawn(300)
    found = calibration.fit_temperature(3 * logits, targets)
    best = log_loss(targets, (3 * logits / found).softmax(1), labels=range(6))
    for other in torch.linspace(0.5, 8, 200).tolist():
        assert best <= log_loss(targets, (3 * logits / other).softmax(1), labels=range(6)) + 1e-12


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 12), st.integers(1, 6), st.integers(0, 1000), st.sampled_from([0.01, 1.0, 30.0]))
def test_it_never_costs_likelihood_on_what_it_was_fitted_on(n, k, seed, scale):
    generator = torch.Generator().manual_seed(seed)
    logits = (scale * torch.randn(n, k, generator=generator)).half().float()
    targets = torch.randint(k, (n,), generator=generator)
    found = calibration.fit_temperature(logits, targets)
    assert calibration.LOWEST <= found <= calibration.HIGHEST
    before, after = (quality.negative_log_likelihood(logits.double() / t, targets) for t in (1.0, found))
    assert after <= before + 1e-12 * max(before, 1)


@pytest.mark.parametrize(
    ("logits", "targets", "expected"),
    [
        ([[1.0], [2.0]], [0, 0], 1.0),  # a single class
        ([[2.0, 0.0], [0.0, 1.0]], [0, 1], 1.0),  # all right: the likelihood rises for ever
        ([[2.0, 2.0], [1.0, 1.0]], [0, 1], 1.0),  # all alike
        ([[math.nan, 0.0], [INF, 0.0], [-INF, -INF]], [0, 1, 0], 1.0),  # no answer at all
        ([[0.0, -INF]], [1], 1.0),  # the target is ruled out: infinite at any temperature
        ([[0.0, 4.0], [4.0, 0.0]], [0, 1], calibration.HIGHEST),  # all wrong: the flatter the better
    ],
    ids=["one class", "separated", "flat", "no answers", "ruled out", "all wrong"],
)
def test_where_there_is_nothing_to_find(logits, targets, expected):
    assert calibration.fit_temperature(torch.tensor(logits), torch.tensor(targets)) == pytest.approx(expected)


def test_rows_that_say_nothing_are_left_out():
    logits, targets = drawn(200)
    bad = torch.tensor([[math.nan, 0, 0, 0, 0, 0], [-INF, 0, 0, 0, 0, 0]], dtype=torch.float64)
    more = calibration.fit_temperature(torch.cat([logits, bad]), torch.cat([targets, torch.tensor([0, 0])]))
    assert more == pytest.approx(calibration.fit_temperature(logits, targets), rel=1e-12)


def test_a_class_that_is_ruled_out_costs_nothing():
    logits, targets = drawn(200)
    wider = torch.cat([logits, torch.full((200, 1), -INF)], 1)
    assert calibration.fit_temperature(wider, targets) == pytest.approx(calibration.fit_temperature(logits, targets), rel=1e-9)


def test_pieces_change_nothing(monkeypatch):
    logits, targets = drawn(200)
    whole = calibration.fit_temperature(logits, targets)
    monkeypatch.setattr(quality, "ELEMENTS_AT_ONCE", 6 * 7)
    assert calibration.fit_temperature(logits, targets) == pytest.approx(whole, rel=1e-9)


def test_overconfident_logits_are_calibrated_by_other_samples():
    logits, targets = drawn(2000)
    over = 4 * logits
    found = calibration.scaled_measures(over[:1000], targets[:1000], over[1000:], targets[1000:])
    assert found["temperature"] == pytest.approx(4, rel=0.1)
    assert found["ece_scaled"] < 0.5 * quality.expected_calibration_error(over[:1000], targets[:1000])
    assert found["nll_scaled"] < quality.negative_log_likelihood(over[:1000], targets[:1000])


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(ValueError, match="empty"):
        calibration.fit_temperature(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))
