"""Each strategy's loss in double precision, against the paper's formula in plain loops."""

import pytest
import torch
from lessons import (
    CE,
    FIRST,
    KD,
    LATER,
    Angled,
    Student,
    T,
    answering,
    batch,
    binary,
    cross_entropy,
    divergence,
    filled,
    gradients,
    herded,
    loss,
    memory,
    squared_distance,
    view_of,
)

from distillctl.loop import cut
from distillctl.strategies.angles import Angular
from distillctl.strategies.icarl import Icarl, LwfMc
from distillctl.strategies.lucir import Lucir
from distillctl.strategies.lwf import Lwf
from distillctl.strategies.memory import REPLAYED
from distillctl.strategies.podnet import Podnet
from distillctl.strategies.replay import Der, DerPlusPlus, Er
from distillctl.strategies.strategy import Joint, Strategy
from distillctl.strategies.task import Task
from distillctl.types import Batch

NEW = {"low": 3, "high": 5}  # the classes of the second of two tasks


def close(value: float):
    return pytest.approx(value, rel=1e-9, abs=1e-12)


def parts_add_up(terms) -> bool:
    return sum(part.item() for part in terms.parts.values()) == close(terms.loss.item())


def logits(net, inputs):
    with torch.no_grad():
        return net(inputs).logits


# ------------------------------------------------------------------------------------------------- labels alone


@pytest.mark.parametrize("kind", [Strategy, Joint])
def test_fine_tuning_is_the_cross_entropy_of_labels_over_the_whole_head(kind):
    student, came = Student(), batch(1)
    terms = kind(student, loss(), task=FIRST)(came)
    assert terms.loss.item() == close(CE * cross_entropy(logits(student, came.inputs), came.targets))
    assert list(terms.parts) == ["ce"]


def test_a_larger_teacher_adds_its_term_to_the_labels():
    student, teacher, came = Student(), Student(9), batch(1)
    terms = Strategy(student, loss(), answering(teacher), task=FIRST)(came)
    ours = logits(student, came.inputs)
    expected = CE * cross_entropy(ours, came.targets) + KD * divergence(ours, logits(teacher, came.inputs), T)
    assert terms.loss.item() == close(expected)
    assert parts_add_up(terms)


# ------------------------------------------------------------------------------------------------- replay


def seen_again(kept, came: Batch, number: int = 0) -> Batch:
    """What the memory shows at this step; its views are those of the stored samples."""
    replay = kept.draw(came, number)
    assert replay.share == 1
    at = [(kept.index == label).nonzero().item() for label in replay.batch.index]
    stored = kept.samples[at]
    assert torch.equal(replay.batch.inputs, view_of(stored, kept.index[at], REPLAYED + 2 * kept.steps + number))
    assert torch.equal(replay.batch.targets, kept.targets[at])
    return replay.batch._replace(plain=kept.logits[at])  # what was answered to them then


def test_er_is_one_mean_over_new_and_kept_samples_in_one_pass():
    student, came = Student(), batch(1, **NEW)
    kept = filled(memory(), student)
    old = seen_again(kept, came)
    student.asked.clear()
    terms = Er(student, loss(), task=LATER, memory=kept)(came)
    assert student.asked == [17]
    both = torch.cat([came.inputs, old.inputs]), torch.cat([came.targets, old.targets])
    assert terms.loss.item() == close(CE * cross_entropy(logits(student, both[0]), both[1]))
    assert parts_add_up(terms)


def test_er_asks_a_teacher_about_new_and_kept_samples_alike():
    student, teacher, came = Student(), Student(9), batch(1, **NEW)
    kept = filled(memory(), student)
    inputs = torch.cat([came.inputs, seen_again(kept, came).inputs])
    targets = torch.cat([came.targets, seen_again(kept, came).targets])
    terms = Er(student, loss(), answering(teacher), task=LATER, memory=kept)(came)
    ours = logits(student, inputs)
    assert terms.loss.item() == close(CE * cross_entropy(ours, targets) + KD * divergence(ours, logits(teacher, inputs), T))


def test_der_adds_the_squared_distance_from_the_logits_of_that_moment_in_a_pass_of_its_own():
    student = Student()
    kept, came = filled(memory(logits=True), Student(3)), batch(1, **NEW)
    old = seen_again(kept, came)
    terms = Der(student, loss(), task=LATER, memory=kept, alpha=0.3)(came)
    assert student.asked == [10, 7]
    own = CE * cross_entropy(logits(student, came.inputs), came.targets)
    assert terms.loss.item() == close(own + 0.3 * squared_distance(logits(student, old.inputs), old.plain))
    assert terms.parts["ce"].item() == close(own)
    assert parts_add_up(terms)


def test_derpp_adds_the_labels_of_a_second_draw_in_a_third_pass():
    student = Student()
    kept, came = filled(memory(logits=True), Student(3)), batch(1, **NEW)
    dark, hard = seen_again(kept, came), seen_again(kept, came, 1)
    assert set(dark.index.tolist()) != set(hard.index.tolist())
    terms = DerPlusPlus(student, loss(), task=LATER, memory=kept, alpha=0.2, beta=0.5)(came)
    assert student.asked == [10, 7, 7]
    expected = CE * cross_entropy(logits(student, came.inputs), came.targets)
    expected += 0.2 * squared_distance(logits(student, dark.inputs), dark.plain)
    expected += 0.5 * cross_entropy(logits(student, hard.inputs), hard.targets)
    assert terms.loss.item() == close(expected)
    assert parts_add_up(terms)


@pytest.mark.parametrize(("alpha", "beta", "passes"), [(0.0, 0.5, [10, 7]), (0.2, 0.0, [10, 7]), (0.0, 0.0, [10])])
def test_a_term_of_weight_zero_costs_no_pass(alpha, beta, passes):
    student, came = Student(), batch(1, **NEW)
    kept = filled(memory(logits=True), Student(3))
    DerPlusPlus(student, loss(), task=LATER, memory=kept, alpha=alpha, beta=beta)(came)
    assert student.asked == passes


def test_under_a_head_that_grew_the_distance_is_that_of_the_classes_of_that_moment():
    student, came = Student(), batch(1, **NEW)
    kept = filled(memory(logits=True), Student(3, classes=3))
    old = seen_again(kept, came)
    assert torch.equal(kept.widths[: kept.filled], torch.full((20,), 3))
    terms = Der(student, loss(), task=LATER, memory=kept, alpha=0.3)(came)
    distance = squared_distance(logits(student, old.inputs)[:, :3], old.plain[:, :3])
    assert terms.parts["memory logits"].item() == close(0.3 * distance)


@pytest.mark.parametrize("kind", [Er, Der, DerPlusPlus])
def test_before_anything_is_kept_a_step_is_fine_tuning(kind):
    student, came = Student(), batch(1, high=3)
    strategy = kind(student, loss(), task=FIRST, memory=memory(logits=kind.keeps_logits))
    assert strategy(came).loss.item() == close(CE * cross_entropy(logits(student, came.inputs), came.targets))


@pytest.mark.parametrize(("kind", "named"), [(Der, {"alpha": -1.0}), (DerPlusPlus, {"beta": -0.1}), (Der, {"alpha": float("nan")})])
def test_a_weight_below_zero_is_refused(kind, named):
    with pytest.raises(ValueError, match=next(iter(named))):
        kind(Student(), loss(), task=FIRST, memory=memory(logits=True), **named)


# ------------------------------------------------------------------------------------------------- distillation from the old net


@pytest.mark.parametrize(("over", "begin", "end"), [("new", 3, 5), ("seen", 0, 5), ("all", 0, 6)])
def test_lwf_tells_labels_apart_among_the_classes_that_are_named_and_learns_old_ones_from_the_old_net(over, begin, end):
    student, before, came = Student(classes=6), Student(3, classes=6), batch(1, **NEW)
    task = Task(2, 3, 3, 5, 6)  # a sixth class is yet to come
    terms = Lwf(student, loss(), task=task, old=answering(before), over=over)(came)
    ours, theirs = logits(student, came.inputs), logits(before, came.inputs)
    labels = CE * cross_entropy(ours[:, begin:end], came.targets - begin)
    old = KD * divergence(ours[:, :3], theirs[:, :3], T)
    assert terms.parts["ce"].item() == close(labels)
    assert terms.parts["old kd"].item() == close(old)
    assert terms.loss.item() == close(labels + old)


def test_lwf_in_the_first_task_has_labels_alone():
    student, came = Student(), batch(1, high=3)
    terms = Lwf(student, loss(), task=FIRST)(came)
    assert terms.loss.item() == close(CE * cross_entropy(logits(student, came.inputs)[:, :3], came.targets))


def test_lwf_asks_a_larger_teacher_about_all_classes_beside_the_old_net():
    student, before, teacher, came = Student(), Student(3), Student(9), batch(1, **NEW)
    terms = Lwf(student, loss(), answering(teacher), task=LATER, old=answering(before))(came)
    ours = logits(student, came.inputs)
    expected = CE * cross_entropy(ours[:, 3:], came.targets - 3) + KD * divergence(ours, logits(teacher, came.inputs), T)
    expected += KD * divergence(ours[:, :3], logits(before, came.inputs)[:, :3], T)
    assert terms.loss.item() == close(expected)


def test_the_old_net_may_have_a_head_of_the_old_classes_alone():
    student, before, came = Student(), Student(3, classes=3), batch(1, **NEW)
    ours, theirs = logits(student, came.inputs), logits(before, came.inputs)
    terms = Lwf(student, loss(), task=LATER, old=answering(before))(came)
    assert terms.parts["old kd"].item() == close(KD * divergence(ours[:, :3], theirs, T))
    terms = LwfMc(student, loss(), task=LATER, old=answering(before))(came)
    assert terms.loss.item() == close(binary(ours, theirs, came.targets, 3))


def test_lwf_mc_asks_each_class_by_itself():
    student, before, came = Student(), Student(3), batch(1, **NEW)
    terms = LwfMc(student, loss(), task=LATER, old=answering(before))(came)
    ours, theirs = logits(student, came.inputs), logits(before, came.inputs)
    assert terms.loss.item() == close(binary(ours, theirs, came.targets, 3))


def test_lwf_mc_has_no_question_about_classes_that_have_not_come():
    student, came = Student(), batch(1, high=3)
    terms = LwfMc(student, loss(), task=FIRST)(came)
    assert terms.loss.item() == close(binary(logits(student, came.inputs)[:, :3], None, came.targets, 0))
    terms.loss.backward()
    assert not student.net[2].weight.grad[3:].any()


def test_icarl_asks_the_same_of_new_samples_and_exemplars_in_one_mean():
    student, before, came = Student(), Student(3), batch(1, **NEW)
    kept = herded()
    replay = kept.draw(came).batch
    terms = Icarl(student, loss(), task=LATER, old=answering(before), memory=kept)(came)
    inputs, targets = torch.cat([came.inputs, replay.inputs]), torch.cat([came.targets, replay.targets])
    assert terms.loss.item() == close(binary(logits(student, inputs), logits(before, inputs), targets, 3))
    assert student.asked[0] == 17
    assert parts_add_up(terms)


def test_icarl_in_the_first_task_learns_labels_as_yes_or_no_of_each_class():
    student, came = Student(), batch(1, high=3)
    terms = Icarl(student, loss(), task=FIRST, memory=memory(select="herding"))(came)
    assert terms.loss.item() == close(binary(logits(student, came.inputs)[:, :3], None, came.targets, 0))


# ------------------------------------------------------------------------------------------------- pieces of a batch


def learner(kind, student):
    before = answering(type(student)(3))
    if kind.herds:
        return kind(student, loss(), task=LATER, old=before, memory=herded())
    if kind.replays:
        return kind(student, loss(), task=LATER, memory=filled(memory(logits=kind.keeps_logits), Student(3)))
    return kind(student, loss(), task=LATER, old=before)


@pytest.mark.parametrize("kind", [Strategy, Er, Der, DerPlusPlus, Lwf, LwfMc, Icarl, Lucir, Podnet])
@pytest.mark.parametrize("pieces", [2, 3])
def test_pieces_of_a_batch_have_the_gradient_of_the_whole(kind, pieces):
    whole, cut_up = (Angled() if issubclass(kind, Angular) else Student() for _ in range(2))
    came = batch(1, **NEW)
    learner(kind, whole)(came).loss.backward()
    strategy, value = learner(kind, cut_up), 0.0
    for piece in cut(came, pieces):
        share = len(piece.index) / len(came.index)
        terms = strategy(piece)
        (terms.loss * share).backward()
        value += terms.loss.item() * share
    assert value == close(learner(kind, whole)(came).loss.item())
    expected = gradients(whole)
    for name, found in gradients(cut_up).items():
        torch.testing.assert_close(found, expected[name], rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize("kind", [Er, Der, DerPlusPlus])
@pytest.mark.parametrize("select", ["reservoir", "balanced"])
def test_pieces_of_a_batch_leave_the_memory_of_the_whole(kind, select):
    found = []
    for pieces in (1, 3):
        student = Student()
        strategy = kind(student, loss(), task=FIRST, memory=memory(12, select=select, logits=kind.keeps_logits))
        for number in range(5):
            for piece in cut(batch(number, 11), pieces):
                strategy(piece)
            strategy.after_step()
        found.append(strategy.memory)
    whole, in_pieces = found
    assert whole.get_extra_state() == in_pieces.get_extra_state()
    assert whole.filled == 12
    for name, value in whole.named_buffers():
        torch.testing.assert_close(dict(in_pieces.named_buffers())[name], value, rtol=1e-6, atol=1e-6, msg=name)
    for name in ("inputs", "targets", "index", "widths"):
        assert torch.equal(whole.get_buffer(name), in_pieces.get_buffer(name))
