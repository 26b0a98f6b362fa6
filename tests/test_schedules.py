"""Schedules by hand."""

import dataclasses
import math
import pathlib
import subprocess
import sys

import pytest

from distillctl.schedules import FIRST, Constant, Cosine, Linear, Schedule, Steps

EVERY = [Constant(), Cosine(5), Linear(5), Steps([0.5], warmup_epochs=5)]


def test_a_constant_is_the_configured_value():
    assert [Constant()(epoch, 10) for epoch in (0, 3.7, 10)] == [1.0, 1.0, 1.0]


def test_half_a_cosine_falls_from_1_to_final():
    schedule = Cosine()
    assert schedule(0, 10) == 1.0
    assert schedule(2.5, 10) == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert schedule(5, 10) == pytest.approx(0.5)
    assert schedule(10, 10) == pytest.approx(0)
    assert Cosine(final=0.2)(5, 10) == pytest.approx(0.6)
    assert Cosine(final=0.2)(10, 10) == pytest.approx(0.2)


def test_a_line_falls_from_1_to_final():
    assert [Linear()(epoch, 10) for epoch in (0, 2.5, 5, 10)] == pytest.approx([1, 0.75, 0.5, 0])
    assert [Linear(final=0.5)(epoch, 10) for epoch in (0, 5, 10)] == pytest.approx([1, 0.75, 0.5])


def test_a_line_may_rise_or_stay():
    assert [Linear(final=3)(epoch, 10) for epoch in (0, 5, 10)] == pytest.approx([1, 2, 3])
    assert [Linear(2, final=1)(epoch, 10) for epoch in (1, 2, 5, 10)] == pytest.approx([(1 + FIRST) / 2, 1, 1, 1])


def test_steps_fall_at_fractions_of_the_stage():
    schedule = Steps([0.5, 0.75], gamma=0.1)
    assert [schedule(epoch, 8) for epoch in (0, 3.99, 4, 5.99, 6, 8)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert [schedule(epoch, 80) for epoch in (39, 40, 60)] == pytest.approx([1, 0.1, 0.01])


@pytest.mark.parametrize("epochs", [10, 30, 90, 100, 240])
def test_a_milestone_falls_on_its_epoch_whatever_the_rounding(epochs):
    for milestone in range(1, epochs):
        schedule = Steps([milestone / epochs], gamma=0.5)
        assert (schedule(milestone - 0.01, epochs), schedule(milestone, epochs)) == (1.0, 0.5)


@pytest.mark.parametrize("schedule", [Cosine(5), Linear(5), Steps([0.9], warmup_epochs=5)], ids=repr)
def test_a_warm_up_rises_in_a_line_from_one_percent(schedule):
    assert [schedule(epoch, 20) for epoch in (0, 1, 2.5, 5)] == pytest.approx([0.01, 0.01 + 0.99 / 5, 0.505, 1])


def test_after_the_warm_up_the_rest_of_the_stage_is_the_whole_of_the_fall():
    assert Cosine(4)(12, 20) == pytest.approx(0.5)
    assert Linear(4)(12, 20) == pytest.approx(0.5)
    assert Linear(4)(20, 20) == 0.0


@pytest.mark.parametrize("schedule", [Cosine(50), Linear(50), Steps([0.99], warmup_epochs=50)], ids=repr)
def test_a_warm_up_longer_than_the_stage_takes_the_whole_stage(schedule):
    assert [schedule(epoch, 10) for epoch in (0, 5, 9.8)] == pytest.approx([FIRST, (1 + FIRST) / 2, FIRST + (1 - FIRST) * 0.98])


def test_a_milestone_within_the_warm_up_counts_too():
    assert Steps([0.25], gamma=0.5, warmup_epochs=5)(2.5, 10) == pytest.approx(0.5 * 0.505)


@pytest.mark.parametrize("schedule", EVERY, ids=repr)
@pytest.mark.parametrize("epochs", [1, 3, 10])
def test_every_step_but_the_end_moves(schedule, epochs):
    for step in range(epochs * 7):
        assert 0 < schedule(step / 7, epochs) <= 1


@pytest.mark.parametrize("schedule", EVERY, ids=repr)
def test_outside_the_stage_the_nearer_end_holds(schedule):
    assert schedule(-1, 10) == schedule(0, 10)
    assert schedule(11, 10) == schedule(10, 10)
    assert schedule(0, 0) == 1.0


@pytest.mark.parametrize("schedule", EVERY, ids=repr)
def test_a_schedule_is_a_frozen_value(schedule):
    assert isinstance(schedule, Schedule)
    assert dataclasses.replace(schedule) == schedule
    assert hash(dataclasses.replace(schedule)) == hash(schedule)
    with pytest.raises(dataclasses.FrozenInstanceError):
        schedule.warmup_epochs = 1


@pytest.mark.parametrize("kind", [Cosine, Linear, lambda **kwargs: Steps([0.5], **kwargs)], ids=["Cosine", "Linear", "Steps"])
def test_a_warm_up_before_the_start_is_refused(kind):
    with pytest.raises(ValueError, match="^warmup_epochs=-1 must be >= 0$"):
        kind(warmup_epochs=-1)
    for value in ("5", None, True, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"^warmup_epochs={value!r} must be a finite number$"):
            kind(warmup_epochs=value)


def test_other_values_out_of_range_are_refused():
    for kind in (Cosine, Linear):
        with pytest.raises(ValueError, match="^final=-0.1 must be >= 0$"):
            kind(final=-0.1)
    with pytest.raises(ValueError, match="^gamma=-1 must be >= 0$"):
        Steps([0.5], gamma=-1)
    for milestones in ([0], [1], [30, 60], [0.5, 1.5], ["0.5"], [math.nan]):
        with pytest.raises(ValueError, match="^milestones=.* must be fractions of the stage between 0 and 1"):
            Steps(milestones)
    for milestones in ([], [0.6, 0.3], [0.5, 0.5]):
        with pytest.raises(ValueError, match="^milestones=.* must be one or more rising fractions$"):
            Steps(milestones)


def test_schedules_come_without_torch():
    code = "import sys, distillctl.schedules; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=pathlib.Path(__file__).parents[1])
