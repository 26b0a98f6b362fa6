"""A method on two processes takes the steps that it takes on one."""

import pytest
from processes import metrics, run, run_on_two_ranks
from test_options import MORE, QUICK

SMOOTH = ["student=resnet8", "distill.epochs=1", "optimizer.lr=0.0005", "schedule=constant", "trainer.log_every=1"]
# one of each kind: peers, two players, an average that follows
METHODS = ("mutual", "critic", "self")


pytestmark = pytest.mark.usefixtures("logs")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISTILLCTL_TEST_LOGS", str(folder))
        attempt = run("pretrain", "teacher=resnet8", "pretrain.epochs=2", *QUICK, f"hydra.run.dir={folder / 'teacher'}")
        assert attempt.code == 0, attempt.output
    return folder / "teacher"


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_take_the_steps_of_one(name, teacher, tmp_path):
    given = [f"method={name}", f"teacher.checkpoint={teacher}", *QUICK, *SMOOTH, *MORE.get(f"method/{name}", [])]
    attempts = [run("distill", *given, f"hydra.run.dir={tmp_path / 'one'}")]
    attempts += run_on_two_ranks("distill", *given, f"hydra.run.dir={tmp_path / 'two'}")
    assert [attempt.code for attempt in attempts] == [0, 0, 0], [attempt.output for attempt in attempts]
    one, two = ([line for line in metrics(tmp_path / name / "distill") if line["kind"] == "step"] for name in ("one", "two"))
    assert len(one) == len(two) >= 4
    for ours, theirs in zip(one, two, strict=True):
        assert theirs["loss"] == pytest.approx(ours["loss"], rel=2e-4), (ours, theirs)
