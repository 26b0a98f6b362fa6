"""When a drift is told, and that a detector which is fed again is the one that was saved."""

import pytest
import torch

from distillctl.runs.stream import detector as detectors
from distillctl.runs.stream.detector import Detector

pytest.importorskip("river")


def errors(rate: float, count: int, seed: int) -> list[float]:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(count, generator=generator) < rate).double().tolist()


def told(name: str, signal: list[float]) -> list[int]:
    found = Detector(name)
    return [place for place, value in enumerate(signal) if found.add(value)]


@pytest.mark.parametrize("name", ["adwin", "page_hinkley"])
def test_a_rise_of_errors_is_told_and_a_steady_rate_is_not(name: str):
    steady, rising = errors(0.1, 1000, 0), errors(0.1, 1000, 0) + errors(0.4, 600, 1)
    assert told(name, steady) == []
    places = told(name, rising)
    assert len(places) == 1
    assert 1000 < places[0] < 1350


def test_a_student_that_learns_is_no_drift():
    assert told("adwin", errors(0.6, 500, 0) + errors(0.1, 800, 1)) == []


@pytest.mark.parametrize("name", ["adwin", "page_hinkley"])
@pytest.mark.parametrize("cut", [1, 400, 1100, 1500])
def test_a_saved_detector_goes_on_as_if_it_had_not_been(name: str, cut: int):
    signal = errors(0.1, 1000, 0) + errors(0.5, 600, 1)
    first, second = Detector(name), Detector(name)
    before = [place for place, value in enumerate(signal[:cut]) if first.add(value)]
    second.load(first.state())
    after = [cut + place for place, value in enumerate(signal[cut:]) if second.add(value)]
    assert before + after == told(name, signal)
    assert second.inputs == whole(name, signal).inputs


def whole(name: str, signal: list[float]) -> Detector:
    found = Detector(name)
    for value in signal:
        found.add(value)
    return found


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(detectors, "MOST", 100)
    found = whole("adwin", errors(0.1, 1000, 0))
    assert len(found.inputs) < 100
    again = Detector("adwin")
    again.load(found.state())
    assert again.made.width == found.made.width
