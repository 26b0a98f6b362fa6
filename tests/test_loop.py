"""The training loop: gradients, averages, schedules, what is looked at when, and what a run does not depend on."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from distillctl.errors import Diverged
from distillctl.loop import FitSettings, Watch, backward, cut, fit
from distillctl.losses.logits import CrossEntropy
from distillctl.losses.weighted import WeightedSum
from distillctl.methods.distill import Distill, Method
from distillctl.runtime import Runtime
from distillctl.schedules import Constant, Cosine
from distillctl.training import Ema, Training
from distillctl.types import Batch, Output, Terms

CPU = Runtime(torch.device("cpu"), torch.float32)
FLAT = Constant()


class Student(nn.Module):
    """Logits of flat inputs; batch norm only where asked, since it sees pieces and not batches."""

    def __init__(self, *middle: nn.Module):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 8), *middle, nn.Tanh(), nn.Linear(8, 4))

    def forward(self, inputs: Tensor) -> Output:
        return Output(self.net(inputs.float()), {})


def method(*middle: nn.Module) -> Distill:
    torch.manual_seed(7)
    return Distill(Student(*middle), WeightedSum({"ce": CrossEntropy()}, {"ce": 1.0})).train()


def batch(number: int, size: int = 10) -> Batch:
    generator = torch.Generator().manual_seed(number)
    return Batch(torch.randn(size, 6, generator=generator), torch.randint(0, 4, (size,), generator=generator), torch.arange(size), 0)


def training(of: Method | None = None, lr: float = 0.1, ema: float = 0.0, scaler=None, kind=torch.optim.SGD) -> Training:
    of = method() if of is None else of
    optimizers = {player: kind(of.trainable(player), lr=lr) for player in of.players}
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            group["initial_lr"] = lr
    return Training(of, optimizers, scaler or CPU.scaler(), Ema(of.student, ema) if ema else None)


def plan(epochs=2, batches=5, schedule=FLAT, **more) -> FitSettings:
    return FitSettings(epochs, batches, batch_size=10, seed=3, schedule=schedule, **more)


def run(state: Training, what: FitSettings, runtime=CPU, batches=None, after_step=None, save=None, stop=None) -> Training:
    def after_epoch(state: Training, parts: dict[str, float]) -> bool:
        state.history.append({"epoch": state.epoch, **parts})
        return True

    fit(
        state,
        batches or (lambda epoch, first: (batch(100 * epoch + number) for number in range(first, what.batches_per_epoch))),
        what,
        runtime,
        after_step=after_step or (lambda report: None),
        after_epoch=after_epoch,
        save=save or (lambda state: None),
        asked_to_stop=stop or (lambda: False),
    )
    return state


def weights(state: Training) -> Tensor:
    return torch.cat([value.flatten() for value in state.method.state_dict().values()]).double()


# gradients


@pytest.mark.parametrize("pieces", [1, 2, 3, 4, 10])
def test_pieces_leave_the_gradient_of_the_whole_batch(pieces):
    whole, cut_up = method().double(), method().double()
    double = batch(1)._replace(inputs=batch(1).inputs.double())
    for student in (whole.student, cut_up.student):
        student.forward = lambda inputs, net=student.net: Output(net(inputs), {})
    torch.nn.functional.cross_entropy(whole.student(double.inputs).logits.float(), double.targets).backward()
    parts = backward(cut_up, "student", double, training(cut_up), plan(accumulate=pieces), CPU)
    for one, other in zip(whole.parameters(), cut_up.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-5, atol=1e-7)
    assert parts["ce"].item() == pytest.approx(whole(double).loss.item(), rel=1e-5)


def test_a_batch_is_cut_into_pieces_equal_up_to_one_sample():
    pieces = cut(batch(1), 3)
    assert [len(piece.index) for piece in pieces] == [4, 3, 3]
    assert torch.equal(torch.cat([piece.inputs for piece in pieces]), batch(1).inputs)
    assert [len(piece.index) for piece in cut(batch(1, size=2), 3)] == [1, 1]


def test_accumulating_trains_like_the_big_batch():
    one, other = run(training(), plan()), run(training(), plan(accumulate=3))
    torch.testing.assert_close(weights(one), weights(other), rtol=1e-5, atol=1e-6)
    assert one.step == other.step == 10
    assert one.samples == 100


def test_the_gradient_norm_is_clipped_over_all_parameters():
    loose, tight = training(lr=1.0), training(lr=1.0)
    before = weights(loose)
    run(loose, plan(1, 1, clip_norm=1e6))
    run(tight, plan(1, 1, clip_norm=0.01))
    moved, allowed = weights(loose) - before, weights(tight) - before
    assert moved.norm() > 0.02
    assert allowed.norm().item() == pytest.approx(0.01, rel=1e-3)
    torch.testing.assert_close(allowed / allowed.norm(), moved / moved.norm(), rtol=1e-3, atol=1e-5)


# schedule, average, players


def test_the_schedule_reaches_the_optimizer_at_every_step():
    seen = []

    class Noting(torch.optim.SGD):
        def step(self, closure=None):
            seen.append([group["lr"] for group in self.param_groups])
            return super().step(closure)

    student = method()
    optimizer = Noting(
        [{"params": student.student.net[0].parameters(), "lr": 0.4}, {"params": student.student.net[2].parameters(), "lr": 0.1}]
    )
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    schedule = Cosine(warmup_epochs=0.5)
    run(Training(student, {"student": optimizer}, CPU.scaler()), plan(2, 5, schedule))
    factors = [schedule(step / 5, 2) for step in range(10)]
    assert seen == [[0.4 * factor, 0.1 * factor] for factor in factors]
    assert len({*map(tuple, seen)}) > 5


def test_the_average_is_what_a_hand_computes():
    state, states = training(method(nn.BatchNorm1d(8)), ema=0.9), []
    shadow = {name: value.clone().double() for name, value in state.method.student.state_dict().items()}
    run(state, plan(2, 5, log_every=1), after_step=lambda report: states.append(copy.deepcopy(state.method.student.state_dict())))
    assert len(states) == 10
    for number, now in enumerate(states, start=1):
        decay = min(0.9, (1 + number) / (10 + number))
        for name, value in now.items():
            shadow[name] = decay * shadow[name] + (1 - decay) * value.double() if value.is_floating_point() else value
    assert state.ema.updates == 10
    for name, value in state.ema.weights.items():
        torch.testing.assert_close(value.double(), shadow[name].double(), rtol=1e-5, atol=1e-6)
    assert state.ema.weights["net.1.num_batches_tracked"] == 10


class Duel(Method):
    """Two nets that each learn to answer like the other, and one of them the labels as well."""

    players = ("first", "second")

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.student, self.other = Student(), Student()

    def trainable(self, player):
        return list((self.student if player == "first" else self.other).parameters())

    def forward(self, batch, player):
        mine, theirs = (self.student, self.other) if player == "first" else (self.other, self.student)
        loss = (mine(batch.inputs).logits - theirs(batch.inputs).logits.detach()).square().mean()
        return Terms(loss, {player: loss.detach()})


def test_two_players_each_have_an_optimizer_and_take_turns():
    state, reports = training(Duel()), []
    by_hand = Duel()
    run(state, plan(1, 4, log_every=2), after_step=reports.append)
    losses = []
    for number in range(4):
        for player in by_hand.players:
            loss = by_hand(batch(number), player).loss
            losses.append(loss.item())
            gradients = torch.autograd.grad(loss, by_hand.trainable(player))
            with torch.no_grad():
                for parameter, gradient in zip(by_hand.trainable(player), gradients, strict=True):
                    parameter -= 0.1 * gradient
    expected = torch.cat([value.flatten() for value in by_hand.state_dict().values()]).double()
    torch.testing.assert_close(weights(state), expected)
    assert reports[-1].step == 4
    assert reports[-1].parts == pytest.approx({"first": (losses[4] + losses[6]) / 2, "second": (losses[5] + losses[7]) / 2}, rel=1e-5)
    assert state.history[0]["first"] == pytest.approx(sum(losses[::2]) / 4, rel=1e-5)


# a loss that is no number


class Breaking(nn.Module):
    """Cross-entropy until the n-th batch, then NaN or inf."""

    needs_teacher = False

    def __init__(self, at: int, value: float):
        super().__init__()
        self.left, self.value = at, value

    def forward(self, student, teacher, batch):
        self.left -= 1
        loss = student.logits.float().square().mean()
        return loss * self.value if self.left == 0 else loss


def breaking(at: int, value: float = math.nan) -> Training:
    torch.manual_seed(7)
    loss = WeightedSum({"ce": CrossEntropy(), "odd": Breaking(at, value)}, {"ce": 1.0, "odd": 1.0})
    return training(Distill(Student(), loss).train(), ema=0.9)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_before_the_step(value):
    state, saved, seen = breaking(8, value), [], {}

    def batches(epoch, first):
        for number in range(first, 5):
            if epoch * 5 + number == 7:  # what is there when the eighth batch is asked for
                seen["weights"], seen["ema"] = weights(state), copy.deepcopy(state.ema.state())
            yield batch(number)

    with pytest.raises(Diverged, match=r"loss is (nan|inf) at epoch 2 step 8 \(odd\)") as error:
        run(state, plan(), batches=batches, save=lambda state: saved.append(state.step))
    assert error.value.exit_code == 6
    assert torch.equal(weights(state), seen["weights"])
    assert state.ema.updates == seen["ema"]["updates"] == 7
    assert saved == [5]
    assert state.step == 7


def on_a_gpu(monkeypatch, log_every: int) -> None:
    """Watch as it is where looking costs a sync."""
    fresh = Watch.__init__

    def changed(self, state, what, runtime):
        fresh(self, state, what, runtime)
        self.every = log_every

    monkeypatch.setattr(Watch, "__init__", changed)


def test_where_looking_is_dear_a_broken_loss_is_found_before_anything_is_saved(monkeypatch):
    on_a_gpu(monkeypatch, 20)
    state, saved = breaking(7), []
    with pytest.raises(Diverged, match="epoch 2 step 7"):
        run(
            state,
            plan(3, 5, save_every_s=0),
            save=lambda state: (saved.append(state.step), [value.isfinite().all() for value in weights(state)]),
        )
    assert max(saved) == 6
    assert saved == [1, 2, 3, 4, 5, 6]


def test_the_host_waits_for_the_device_at_log_steps_only(monkeypatch):
    on_a_gpu(monkeypatch, 4)
    moments, state = [], training()

    class Counting(Runtime):
        def mean(self, values):
            moments.append((state.step, len(values)))
            return values

    run(state, plan(1, 10, log_every=4), Counting(torch.device("cpu"), torch.float32))
    # the eighth step's loss is looked at before that step is taken, when seven are done
    assert moments == [(1, 1), (4, 3), (7, 4), (10, 2)]


# half precision


class FakeScaler:
    """Scales by 8 and skips every third step, as after an overflow; counts what it is asked."""

    def __init__(self):
        self.factor, self.calls, self.unscaled, self.count = 8.0, [], False, 0

    def scale(self, loss):
        return loss * self.factor

    def unscale_(self, optimizer):
        assert not self.unscaled
        self.unscaled = True
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad /= self.factor

    def step(self, optimizer):
        if not self.unscaled:
            self.unscale_(optimizer)
        self.count += 1
        if self.count % 3:
            optimizer.step()
        self.calls.append("step")

    def update(self):
        self.unscaled, self.calls = False, [*self.calls, "update"]
        self.factor = 8.0 if self.count % 2 else 4.0

    def state_dict(self):
        return {"factor": self.factor, "count": self.count}

    def load_state_dict(self, state):
        self.factor, self.count = state["factor"], state["count"]


@pytest.mark.parametrize("clip_norm", [None, 0.05])
def test_a_scaled_loss_trains_as_an_unscaled_one_but_for_the_steps_it_skips(clip_norm):
    scaler = FakeScaler()
    state = run(training(scaler=scaler), plan(1, 2, clip_norm=clip_norm))
    plain = run(training(), plan(1, 2, clip_norm=clip_norm))
    torch.testing.assert_close(weights(state), weights(plain), rtol=1e-5, atol=1e-6)
    assert scaler.calls == ["step", "update"] * 2
    run(state, plan(2, 1))
    assert scaler.count == 3
    torch.testing.assert_close(weights(state), weights(plain), rtol=1e-5, atol=1e-6)  # the third was skipped


def test_the_real_scaler_survives_a_round_trip():
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)
    state = run(training(scaler=scaler), plan(1, 5))
    assert state.state()["scaler"]["scale"] == 2.0**11
    other = training(scaler=torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3))
    other.load(copy.deepcopy(state.state()))
    assert other.state()["scaler"] == state.state()["scaler"]
    assert torch.equal(weights(run(other, plan(2, 5))), weights(run(state, plan(2, 5))))


# what a run does not depend on


@pytest.mark.parametrize(("log_every", "save_every_s"), [(1, 300.0), (3, 300.0), (20, 0.0), (7, 0.0)])
def test_weights_and_history_do_not_depend_on_when_we_look_or_save(log_every, save_every_s):
    one = run(training(method(nn.Dropout(0.5)), ema=0.9), plan(2, 5))
    other = run(training(method(nn.Dropout(0.5)), ema=0.9), plan(2, 5, log_every=log_every, save_every_s=save_every_s))
    assert torch.equal(weights(one), weights(other))
    assert one.history == other.history
    assert all(torch.equal(value, other.ema.weights[name]) for name, value in one.ema.weights.items())


def test_history_holds_the_means_of_whole_epochs_and_reports_those_since_the_last():
    losses, reports = [], []
    run(training(), plan(2, 5, log_every=1), after_step=lambda report: losses.append(report.parts["ce"]))
    state = run(training(), plan(2, 5, log_every=3), after_step=reports.append)
    assert [entry["ce"] for entry in state.history] == [sum(losses[:5]) / 5, sum(losses[5:]) / 5]
    assert [report.step for report in reports] == [1, 3, 5, 6, 9, 10]
    means = [losses[0], sum(losses[1:3]) / 2, sum(losses[3:5]) / 2, losses[5], sum(losses[6:9]) / 3, losses[9]]
    assert [report.parts["ce"] for report in reports] == pytest.approx(means, rel=1e-12)


def test_dropout_is_a_function_of_the_step_and_not_of_what_was_drawn_before():
    one = training(method(nn.Dropout(0.5)))
    other = training(method(nn.Dropout(0.5)))
    run(one, plan(1, 5))

    def drawing(epoch, first):
        for number in range(first, 5):
            torch.rand(number + 1)
            yield batch(number)

    run(other, plan(1, 5), batches=drawing)
    assert torch.equal(weights(one), weights(other))


# leaving


def test_a_stop_saves_once_and_leaves_after_the_step():
    saved, state = [], training()
    run(state, plan(2, 5), save=lambda state: saved.append((state.epoch, state.batch, state.step)), stop=lambda: state.step >= 3)
    assert saved == [(0, 3, 3)]
    run(state, plan(2, 5), save=lambda state: saved.append((state.epoch, state.batch, state.step)), stop=lambda: state.step >= 5)
    assert saved[1:] == [(1, 0, 5)]
    assert len(state.history) == 1


def test_where_no_batch_can_be_had_what_was_done_is_saved_first():
    saved, state = [], training()

    def ending(epoch, first):
        yield from (batch(number) for number in range(first, 3))
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        run(state, plan(2, 5), batches=ending, save=lambda state: saved.append((state.epoch, state.batch)))
    assert saved == [(0, 3)]


def test_a_fault_of_the_step_itself_saves_nothing():
    saved = []
    with pytest.raises(ZeroDivisionError):
        run(training(), plan(2, 5), after_step=lambda report: 1 / 0, save=saved.append)
    assert saved == []


# ------------------------------------------------------------------------------------------------ batches of other sizes, and an end within an epoch
SIZES = (10, 6, 6)


def uneven(epoch: int, first: int):
    return (batch(100 * epoch + number, SIZES[number]) for number in range(first, len(SIZES)))


def test_a_smaller_batch_counts_as_a_whole_one():
    state, whole, small = training(), method(), batch(1, 6)
    state.batch = 1
    parts = backward(state.method, "student", small, state, plan(batches=3, sizes=SIZES, accumulate=3), CPU)
    torch.nn.functional.cross_entropy(whole.student(small.inputs).logits, small.targets).backward()
    for mine, theirs in zip(state.method.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-5, atol=1e-6)
    assert parts["ce"].item() == pytest.approx(whole(small).loss.item(), rel=1e-5)
    assert run(training(), plan(epochs=2, batches=3, sizes=SIZES), batches=uneven).samples == 44


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_run_that_ends_within_an_epoch_resumes_bitwise(accumulate):
    def settings():
        return plan(epochs=3, batches=3, sizes=SIZES, steps=7, schedule=Cosine(), accumulate=accumulate)

    whole = run(training(ema=0.9), settings(), batches=uneven)
    assert (whole.step, whole.epoch, len(whole.history)) == (7, 3, 3)  # the epoch that is cut short is measured like any other
    for stop in range(1, 7):
        state, steps = training(ema=0.9), []
        run(state, settings(), batches=uneven, stop=lambda steps=steps, stop=stop: steps.append(0) or len(steps) >= stop)
        taken_up = training(ema=0.9)
        taken_up.load(copy.deepcopy(state.state()))
        run(taken_up, settings(), batches=uneven)
        assert torch.equal(weights(taken_up), weights(whole))
        assert taken_up.history == whole.history


def test_the_schedule_ends_where_the_steps_do():
    rates = []
    run(training(), plan(epochs=2, batches=5, steps=6, schedule=Cosine(), log_every=1), after_step=lambda report: rates.append(report.lr))
    assert rates == pytest.approx([0.1 * (1 + math.cos(math.pi * step / 6)) / 2 for step in range(6)])


def test_where_time_is_short_the_schedule_follows_the_clock_and_the_epoch_that_it_ends_is_measured():
    rates, moments = [], iter([0.0, 0.25, 0.5, 0.75, 1.0])
    settings = plan(epochs=10, batches=5, schedule=Cosine(), log_every=1, gone=lambda: next(moments))
    state = training()
    fit(
        state,
        lambda epoch, first: (batch(number) for number in range(first, 5)),
        settings,
        CPU,
        after_step=lambda report: rates.append(report.lr),
        after_epoch=lambda state, parts: state.history.append(parts) or False,
        save=lambda state: None,
        asked_to_stop=lambda: False,
    )
    assert rates == pytest.approx([0.1 * (1 + math.cos(math.pi * gone)) / 2 for gone in (0, 0.25, 0.5, 0.75)])
    assert (state.step, len(state.history), state.batch) == (4, 1, 0)
