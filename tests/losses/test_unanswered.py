"""Terms that read a teacher who knows some samples only: means over all samples, where one without an answer counts 0."""

import math
from pathlib import Path

import pytest
import torch
import yaml

from distillctl.losses.logits import CrossEntropy, SoftTargets, soft_targets
from distillctl.losses.refined import Curriculum
from distillctl.losses.weighted import WeightedSum, build_loss
from distillctl.methods.adversarial import Adversarial
from distillctl.methods.attack import Pgd
from distillctl.methods.distill import Distill
from distillctl.types import Batch, Output, Terms

B, K = 6, 4
KNOWN = torch.tensor([True, False, True, True, False, False])
LOSSES = sorted((Path(__file__).parents[2] / "conf" / "loss").glob("*.yaml"))


def loss_of(path: Path) -> WeightedSum:
    return build_loss(yaml.safe_load(path.read_text().replace("${seed}", "0")))


BY_ANSWERS = [path for path in LOSSES if (loss := loss_of(path)).needs_teacher and not loss.taps("teacher")]


def logits(seed: int) -> torch.Tensor:
    return 3 * torch.randn(B, K, generator=torch.Generator().manual_seed(seed))


def batch() -> Batch:
    return Batch(torch.zeros(B, 2), torch.arange(B) % K, torch.arange(B), 0)


def guide(answered: torch.Tensor | None, seed: int = 2) -> Output:
    """What is not answered is nonsense, which nobody may look at."""
    said = logits(seed)
    return Output(said if answered is None else said.masked_fill(~answered[:, None], torch.nan), {}, answered=answered)


def total(loss: WeightedSum, student: torch.Tensor, teacher: Output, of: Batch | None = None) -> Terms:
    loss.prepare(Output(student, {}), teacher, samples=B)
    return loss(Output(student, {}), teacher, of or batch())


def test_a_term_is_the_sum_over_answered_samples_by_the_number_of_all():
    student, loss = logits(1), WeightedSum({"kd": SoftTargets(2.0)}, {"kd": 1.0})
    p, q = ((values / 2).softmax(1) for values in (logits(2), student))
    gaps = (p * (p.log() - q.log())).sum(1) * 4
    assert total(loss, student, guide(KNOWN)).loss.item() == pytest.approx((gaps[0] + gaps[2] + gaps[3]).item() / 6, rel=1e-5)


def test_labels_go_on_counting_for_every_sample():
    student = logits(1)
    loss = WeightedSum({"ce": CrossEntropy(), "kd": SoftTargets(2.0)}, {"ce": 0.5, "kd": 1.0})
    parts = total(loss, student, guide(KNOWN)).parts
    own = -student.log_softmax(1)[torch.arange(B), torch.arange(B) % K]
    assert parts["ce"].item() == pytest.approx(0.5 * own.mean().item(), rel=1e-5)


def test_a_sample_without_an_answer_gets_no_gradient():
    student, loss = logits(1).requires_grad_(), WeightedSum({"kd": SoftTargets()}, {"kd": 1.0})
    total(loss, student, guide(KNOWN)).loss.backward()
    assert (student.grad[~KNOWN] == 0).all()
    assert (student.grad[KNOWN].abs().sum(1) > 0).all()


@pytest.mark.parametrize("path", BY_ANSWERS, ids=lambda path: path.stem)
def test_a_loss_never_looks_at_what_is_not_answered(path):
    student = logits(1).requires_grad_()
    terms = total(loss_of(path), student, guide(KNOWN))
    terms.loss.backward()
    assert math.isfinite(terms.loss.item())
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("path", BY_ANSWERS, ids=lambda path: path.stem)
def test_a_batch_without_any_answer_gives_zero_and_gradients_of_zero(path):
    student, loss = logits(1).requires_grad_(), loss_of(path)
    terms = total(loss, student, guide(torch.zeros(B, dtype=torch.bool)))
    taught = [name for name, term in loss.terms.items() if term.needs_teacher]
    assert [terms.parts[name].item() for name in taught] == [0.0] * len(taught)
    terms.loss.backward()
    assert student.grad.isfinite().all()


def test_parameters_of_a_term_have_a_gradient_of_zero_where_nothing_is_answered():
    term = Curriculum()
    total(WeightedSum({"ctkd": term}, {"ctkd": 1.0}), logits(1), guide(torch.zeros(B, dtype=torch.bool))).loss.backward()
    assert term.raw.grad.item() == 0.0


def test_pieces_of_a_batch_add_up_to_the_whole_wherever_it_is_cut():
    student, loss = logits(1), WeightedSum({"kd": SoftTargets()}, {"kd": 0.7})
    teacher, whole = guide(KNOWN), total(loss, student, guide(KNOWN)).loss.item()
    for at in range(1, B):
        found = 0.0
        for piece in (slice(None, at), slice(at, None)):
            told = Output(teacher.logits[piece], {}, answered=KNOWN[piece])
            one = Batch(batch().inputs[piece], batch().targets[piece], batch().index[piece], 0)
            found += loss(Output(student[piece], {}), told, one).loss.item() * len(one.index) / B
        assert found == pytest.approx(whole, rel=1e-5)


def test_a_teacher_who_knows_all_by_name_is_one_who_knows_all():
    student, loss = logits(1), WeightedSum({"kd": SoftTargets()}, {"kd": 1.0})
    every = torch.ones(B, dtype=torch.bool)
    assert total(loss, student, guide(every)).loss.item() == pytest.approx(total(loss, student, guide(None)).loss.item(), rel=1e-6)


def test_features_of_the_student_go_with_their_samples():
    class Reads(torch.nn.Module):
        needs_teacher = True

        def forward(self, student, teacher, batch):
            assert batch.index.tolist() == [0, 2, 3]
            assert student.features["pooled"].tolist() == [[0.0], [2.0], [3.0]]
            assert torch.equal(teacher.logits, logits(2)[KNOWN])
            return student.features["pooled"].sum()

    answer = Output(logits(1), {"pooled": torch.arange(float(B))[:, None]})
    assert WeightedSum({"reads": Reads()}, {"reads": 1.0})(answer, guide(KNOWN), batch()).loss.item() == pytest.approx(5.0 * 3 / 6)


def test_distilling_asks_the_teacher_once_and_counts_its_silence():
    student = torch.nn.Module()
    student.forward = lambda inputs: Output(logits(1), {})
    method = Distill(student, WeightedSum({"kd": SoftTargets()}, {"kd": 1.0}), lambda batch: guide(KNOWN))
    expected = soft_targets(logits(1)[KNOWN], logits(2)[KNOWN], 4.0).item() / 2
    assert method(batch()).loss.item() == pytest.approx(expected, rel=1e-5)


def test_an_attack_by_answers_leaves_what_nobody_answered_where_it_starts():
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.head = torch.nn.Linear(12, K)

        def forward(self, images):
            return Output(self.head(images.float().flatten(1)), {})

    torch.manual_seed(0)
    net, images = Net(), torch.rand(B, 3, 2, 2)
    loss = WeightedSum({"kd": SoftTargets()}, {"kd": 1.0})
    pgd = Pgd(0.1, 0.02, 2, random_start=False)
    method = Adversarial(net, loss, lambda batch: guide(KNOWN), attack=pgd, attacked=["kd"], objective="kl")
    told = Batch(images, torch.arange(B) % K, torch.arange(B), 0)
    worst = pgd.perturb(net, images, method.ascended(told, guide(KNOWN)), None)
    moved = (worst - images).abs().flatten(1).amax(1)
    assert (moved[~KNOWN] == 0).all()
    assert (moved[KNOWN] > 0).all()
    assert method(told).loss.isfinite()
    nothing = guide(torch.zeros(B, dtype=torch.bool))
    assert torch.equal(pgd.perturb(net, images, method.ascended(told, nothing), None), images)
