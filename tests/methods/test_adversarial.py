"""Training on attacked images: who sees which image, what the total is, and what a user can get wrong."""

from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn

from distillctl.config import AttackConfig, check_attack
from distillctl.losses.logits import CrossEntropy, SoftTargets
from distillctl.losses.weighted import WeightedSum, build_loss
from distillctl.methods.adversarial import Adversarial
from distillctl.methods.attack import Pgd
from distillctl.models.adapter import Classifier
from distillctl.types import Batch, Output

CONF = Path(__file__).parents[2] / "conf"
METHODS = ("adversarial", "ard", "rslad")
PGD = Pgd(8 / 255, 2 / 255, 2)


class Student(nn.Module):
    """Linear, in float64; remembers what it was asked, and in which mode."""

    def __init__(self, classes: int = 4):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(12, classes, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
        self.asked: list[tuple[Tensor, bool]] = []

    def forward(self, images: Tensor) -> Output:
        self.asked.append((images.detach(), self.training))
        values = images.double() / 255 if images.dtype == torch.uint8 else images.double()
        return Output(values.flatten(1) @ self.weight, {})


class Teacher:
    """Fixed answers, which a gradient could reach if it were let."""

    def __init__(self, classes: int = 4):
        self.logits = torch.randn(5, classes, generator=torch.Generator().manual_seed(2), dtype=torch.float64).requires_grad_()
        self.asked: list[Batch] = []

    def __call__(self, batch: Batch) -> Output:
        self.asked.append(batch)
        return Output(self.logits, {})


class Fixed:
    """An attack that always finds the same images."""

    def __init__(self, found: Tensor):
        self.found = found

    def draws(self, batch: Batch) -> None:
        return None

    def perturb(self, model: nn.Module, images: Tensor, objective: object, draws: object) -> Tensor:
        return self.found


def batch() -> Batch:
    images = torch.randint(256, (5, 3, 2, 2), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return Batch(images, torch.arange(5) % 4, torch.arange(5), 0)


def file(group: str, name: str) -> dict:
    return yaml.safe_load((CONF / group / f"{name}.yaml").read_text())


def loss_of(method: str) -> WeightedSum:
    return build_loss(file("loss", "ce" if method == "adversarial" else method))


def made(method: str, **changed: object) -> Adversarial:
    node = {key: value for key, value in file("method", method)["method"].items() if key != "_target_"}
    return Adversarial(
        Student(), loss_of(method), None if method == "adversarial" else Teacher(), **{"attack": PGD, **node, **changed}
    ).train()


# ------------------------------------------------------------------------------------------------ the totals, by hand
def kl_by_hand(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    p, q = torch.exp(teacher / temperature), torch.exp(student / temperature)
    p, q = p / p.sum(1, keepdim=True), q / q.sum(1, keepdim=True)
    return sum(p[i, k] * (p[i, k].log() - q[i, k].log()) for i in range(len(p)) for k in range(p.shape[1])) / len(p) * temperature**2


def check_against(method: Adversarial, expected: Tensor) -> None:
    terms = method(batch())
    assert terms.loss.item() == pytest.approx(expected.item(), rel=1e-9)
    assert sum(terms.parts.values()).item() == pytest.approx(expected.item(), rel=1e-9)
    [found] = torch.autograd.grad(terms.loss, method.student.weight)
    [wanted] = torch.autograd.grad(expected, method.student.weight)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


def answers(method: Adversarial, worst: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of the attacked and of the clean images."""
    weight = method.student.weight
    return worst.double().flatten(1) @ weight, (batch().inputs.double() / 255).flatten(1) @ weight


@pytest.mark.parametrize("alpha", [1.0, 0.7])
def test_ard_by_hand(alpha):
    """The objective of Goldblum et al. 2020: (1 - alpha) CE(s(x), y) + alpha T² KL(t(x) ‖ s(x'))."""
    worst = torch.rand(5, 3, 2, 2, generator=torch.Generator().manual_seed(4))
    loss = WeightedSum({"ce": CrossEntropy(), "ard": SoftTargets(30.0)}, {"ce": 1 - alpha, "ard": alpha})
    method = Adversarial(Student(), loss, Teacher(), attack=Fixed(worst), attacked=["ard"])
    attacked, clean = answers(method, worst)
    own = -clean.softmax(1).log()[torch.arange(5), batch().targets].mean()
    check_against(method, alpha * kl_by_hand(method.teacher.logits.detach(), attacked, 30.0) + (1 - alpha) * own)


def test_rslad_by_hand():
    """The objective of Zi et al. 2021, with the weights of its code: 5/6 KL(t(x) ‖ s(x')) + 1/6 KL(t(x) ‖ s(x))."""
    worst = torch.rand(5, 3, 2, 2, generator=torch.Generator().manual_seed(4))
    method = made("rslad", attack=Fixed(worst))
    attacked, clean = answers(method, worst)
    teacher = method.teacher.logits.detach()
    check_against(method, 5 / 6 * kl_by_hand(teacher, attacked, 1.0) + 1 / 6 * kl_by_hand(teacher, clean, 1.0))


def test_rslad_divided_by_the_number_of_classes_is_the_authors_code():
    """Their KL is a mean over samples and classes, so the loss of the file is K = 4 times theirs."""
    worst = torch.rand(5, 3, 2, 2, generator=torch.Generator().manual_seed(4))
    loss = build_loss({name: node | {"reduction": "mean"} for name, node in file("loss", "rslad").items()})
    method = Adversarial(Student(), loss, Teacher(), attack=Fixed(worst), attacked=["rslad"], objective="kl")
    attacked, clean = answers(method, worst)
    p = method.teacher.logits.detach().softmax(1)
    mean = [(p * (p.log() - answer.softmax(1).log())).mean() for answer in (attacked, clean)]
    check_against(method, 5 / 6 * mean[0] + 1 / 6 * mean[1])


def test_adversarial_training_by_hand():
    worst = torch.rand(5, 3, 2, 2, generator=torch.Generator().manual_seed(4))
    method = made("adversarial", attack=Fixed(worst))
    check_against(method, -answers(method, worst)[0].softmax(1).log()[torch.arange(5), batch().targets].mean())


@pytest.mark.parametrize(("method", "gradient"), [("ard", "labels"), ("rslad", "teacher"), ("adversarial", "labels")])
def test_the_attack_ascends_what_the_method_says(method, gradient):
    """One step from the image itself, against the gradient written out: p_s - y, or p_s - p_t, through the weights."""
    made_one = made(method, attack=Pgd(8 / 255, 2 / 255, 1, random_start=False))
    data, weight = batch(), made_one.student.weight.detach()
    guess = ((data.inputs.double() / 255).flatten(1) @ weight).softmax(1)
    wanted = torch.eye(4, dtype=torch.float64)[data.targets] if gradient == "labels" else made_one.teacher.logits.detach().softmax(1)
    expected = (data.inputs / 255 + 2 / 255 * ((guess - wanted) @ weight.T).sign().float().view(5, 3, 2, 2)).clamp(0, 1)
    made_one(data)
    seen, training = made_one.student.asked[1]  # the first was the attack
    assert training
    torch.testing.assert_close(seen, expected, atol=1e-7, rtol=0)


# ------------------------------------------------------------------------------------------------ who sees what
@pytest.mark.parametrize("name", METHODS)
def test_it_is_attacked_in_eval_mode_and_trained_in_training_mode(name):
    method, data = made(name), batch()
    method(data)
    modes = [training for _, training in method.student.asked]
    assert modes == [False] * PGD.steps + [True] * (2 if name == "rslad" else 1)
    attacked = method.student.asked[PGD.steps][0]
    assert 0 < (attacked - data.inputs / 255).abs().max() <= PGD.eps
    if name == "rslad":
        assert torch.equal(method.student.asked[-1][0], data.inputs)


@pytest.mark.parametrize("name", ["ard", "rslad"])
def test_the_teacher_answers_clean_images_once_and_learns_nothing(name):
    method, data = made(name), batch()
    method(data).loss.backward()
    assert [seen is data for seen in method.teacher.asked] == [True]
    assert method.teacher.logits.grad is None
    assert method.student.weight.grad.abs().sum() > 0


def test_the_attack_leaves_no_gradient_behind():
    """What the optimizer sees is the loss's gradient alone."""
    one, other = made("rslad"), made("rslad", attack=Fixed(PGD.perturb(Student(), batch().inputs, lambda z: z.sum() * 0, None)))
    other.attack.found = one.attack.perturb(one.student, batch().inputs, one.ascended(batch(), one.teacher(batch())), PGD.draws(batch()))
    for method in (one, other):
        method(batch()).loss.backward()
    assert torch.equal(one.student.weight.grad, other.student.weight.grad)


def test_a_teacher_that_no_term_reads_is_not_asked():
    teacher = Teacher()
    Adversarial(Student(), loss_of("adversarial"), teacher, attack=PGD, attacked=["ce"])(batch())
    assert teacher.asked == []


def test_training_makes_a_net_hold_out_longer():
    """Two classes told apart by many faint pixels and by one strong one: only the strong one survives the attack."""
    source = torch.Generator().manual_seed(0)
    targets = torch.arange(64) % 2
    sign = (2 * targets - 1).view(-1, 1, 1, 1)
    images = 0.5 + 0.02 * sign + 0.05 * torch.randn(64, 3, 4, 4, generator=source)
    images[:, 0, 0, 0] = (0.5 + 0.3 * sign + 0.1 * torch.randn(64, 1, 1, 1, generator=source)).flatten()
    data = Batch(images.clamp(0, 1), targets, torch.arange(64), 0)
    attack = Pgd(0.08, 0.03, 5)
    held = {}
    for name in ("plain", "hard"):
        torch.manual_seed(0)
        net = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(48, 2)), (0.5,) * 3, (0.25,) * 3)
        method = Adversarial(net, loss_of("adversarial"), attack=attack if name == "hard" else Fixed(data.inputs), attacked=["ce"])
        steps = torch.optim.Adam(method.parameters(), lr=0.05)
        for _ in range(30):
            steps.zero_grad()
            method(data).loss.backward()
            steps.step()
        worst = attack.perturb(net, data.inputs, lambda logits: nn.functional.cross_entropy(logits, targets), attack.draws(data))
        held[name] = (net(worst).logits.argmax(1) == targets).float().mean().item()
    assert held["plain"] < 0.5 < 0.9 < held["hard"]


# ------------------------------------------------------------------------------------------------ what can be wrong
@pytest.mark.parametrize(
    ("changed", "texts"),
    [
        ({"attacked": ["rslda"]}, ("attacked=rslda", "did you mean rslad?")),
        ({"attacked": ["quux"]}, ("attacked=quux", "known: natural, rslad")),
        ({"attacked": []}, ("attacked=[]", "rslad, natural")),
        ({"objective": "mse"}, ("objective=mse", "ce or kl")),
    ],
)
def test_a_wrong_setting_is_named(changed, texts):
    with pytest.raises(ValueError, match="=") as problem:
        made("rslad", **changed)
    assert all(text in str(problem.value) for text in texts)


def test_an_objective_of_the_teacher_needs_one():
    with pytest.raises(ValueError, match="objective=kl needs a teacher"):
        made("adversarial", objective="kl")


@pytest.mark.parametrize("name", METHODS)
def test_an_option_attacks_a_term_that_its_loss_has(name):
    assert set(made(name).attacked) <= set(loss_of(name).terms)


COMPOSE = ("distill", "teacher.checkpoint=x")


@pytest.mark.parametrize("name", METHODS)
def test_an_option_brings_its_loss_and_the_attack(distillctl, tmp_path: Path, name):
    shown = yaml.safe_load(distillctl(*COMPOSE, f"method={name}", "--cfg", "job", cwd=tmp_path).out)
    assert shown["attack"] == file("attack", "pgd")
    assert shown["loss"] == file("loss", "ce" if name == "adversarial" else name)
    assert shown["method"] == file("method", name)["method"]


def test_what_is_typed_wins_over_what_an_option_brings(distillctl, tmp_path: Path):
    words = ("method=rslad", "loss=dkd", "attack=none", "attack.eps=0.02", "method.attacked=[dkd]", "method.objective=ce")
    shown = yaml.safe_load(distillctl(*COMPOSE, *words, "--cfg", "job", cwd=tmp_path).out)
    assert list(shown["loss"]) == ["ce", "dkd"]
    assert (shown["attack"]["name"], shown["attack"]["eps"]) == ("none", 0.02)
    assert (shown["method"]["attacked"], shown["method"]["objective"]) == (["dkd"], "ce")


@pytest.mark.parametrize(
    ("word", "texts"),
    [
        ("attack.eps=0", ("attack.eps=0.0 must be > 0",)),
        ("attack.eps=8", ("attack.eps=8.0", "[0, 1]", "8 of 255 is 0.0314")),
        ("attack.step=2", ("attack.step=2.0", "[0, 1]", "2 of 255 is 0.00784")),
        ("attack.step=0.05", ("attack.step=0.05 is more than attack.eps=0.0313725", "swapped?", "attack.step=0.00784")),
        ("attack.eps=8/255", ("attack.eps=8/255: expected a number",)),
        ("attack.steps=0", ("attack.steps=0 must be >= 1",)),
        ("attack=pdg", ("attack=pdg", "did you mean pgd?")),
        ("attack.epsilon=0.1", ("attack.epsilon=0.1: unknown key", "attack.eps")),
    ],
)
def test_a_wrong_attack_is_one_line(distillctl, tmp_path: Path, word, texts):
    finished = distillctl(*COMPOSE, "method=rslad", word, cwd=tmp_path)
    assert finished.code == 2
    assert len(finished.err.splitlines()) == 1
    assert all(text in finished.err for text in texts), finished.err


def test_a_single_step_may_be_longer_than_the_ball_is_wide():
    """Fast adversarial training: one step of 1.25 eps from a random start."""
    assert check_attack("attack", AttackConfig(name="pgd", step=10 / 255, steps=1)) == []
    assert len(check_attack("attack", AttackConfig(name="pgd", step=10 / 255, steps=2))) == 1
