"""Several processes are one run: the same numbers, one folder, one message when something happens to one of them."""

import contextlib
import multiprocessing
import os
import signal
import socket
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from processes import CEILING_S, SMALL, Attempt, checkpoint, differences, metrics, record, run, shell, steps, until
from torch import nn

from distillctl import batchnorm, ranks
from distillctl.errors import DataError, Interrupted, MachineError
from distillctl.ranks import judge

# full precision and a small step: what is left is the order in which numbers are added
TRAINING = ["pretrain", *SMALL, "pretrain.epochs=2", "trainer.precision=fp32", "optimizer.lr=0.0005", "trainer.log_every=1"]
LONG = [*TRAINING, "pretrain.epochs=400"]
TWO = "trainer.devices=2"


pytestmark = pytest.mark.usefixtures("logs")


@pytest.fixture(scope="module")
def one_and_two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISTILLCTL_TEST_LOGS", str(folder))
        for name, more in (("one", []), ("two", [TWO])):
            attempt = run(*TRAINING, *more, f"hydra.run.dir={folder / name}")
            assert attempt.code == 0, attempt.output
    return folder


def test_two_processes_take_the_steps_of_one(one_and_two):
    one, two = (metrics(one_and_two / name / "pretrain") for name in ("one", "two"))
    assert len(one) == len(two)
    for ours, theirs in zip(one, two, strict=True):
        assert ours.keys() == theirs.keys()
        if ours["kind"] == "step":
            assert (ours["step"], ours["lr"]) == (theirs["step"], theirs["lr"])
            assert theirs["loss"] == pytest.approx(ours["loss"], abs=1e-4)


def test_two_processes_end_with_the_weights_and_statistics_of_one(one_and_two):
    one, two = (checkpoint(one_and_two / name / "pretrain")["method"] for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-4, msg=name)


def ranks_of(parent: int) -> list[int]:
    """Its worker processes, in the order in which they were started."""
    with contextlib.suppress(OSError):
        children = map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split())
        return [child for child in children if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text()]
    return []


def in_its_stride(folder: Path) -> Attempt:
    attempt = Attempt(*LONG, TWO, f"hydra.run.dir={folder}", "trainer.save_every_s=0.2")
    attempt.until(lambda: steps(folder / "pretrain") > 0)
    assert len(ranks_of(attempt.pid)) == 2, attempt.output
    return attempt


def wait_for_the_end_of(pids: list[int]) -> None:
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), lambda: "a rank trains on without its parent", pause_s=0.05)


def test_where_one_rank_is_killed_the_other_ends_and_the_run_goes_on_later(tmp_path):
    folder = tmp_path / "run"
    attempt = in_its_stride(folder)
    workers = ranks_of(attempt.pid)
    os.kill(workers[1], signal.SIGKILL)
    assert attempt.wait() == 5, attempt.output
    wait_for_the_end_of(workers)
    assert attempt.problems == [
        "error: rank 1 was killed (SIGKILL), the others were ended; the last checkpoint is good, go on with resume=<run folder>"
    ]
    assert "Traceback" not in attempt.output
    assert record(folder)["status"] == "failed"
    reached = steps(folder / "pretrain")
    again = Attempt("pretrain", f"resume={folder}", TWO, "trainer.save_every_s=0.2")
    again.until(lambda: steps(folder / "pretrain") > reached)
    workers = ranks_of(again.pid)
    again.send(signal.SIGKILL)
    again.wait()
    wait_for_the_end_of(workers)


def test_the_parent_passes_on_that_it_was_asked_to_stop(tmp_path):
    folder = tmp_path / "run"
    attempt = in_its_stride(folder)
    workers, reached = ranks_of(attempt.pid), steps(folder / "pretrain")
    attempt.send(signal.SIGTERM)
    assert attempt.wait() == 143, attempt.output
    assert attempt.output.count("stopping:") == 1
    assert attempt.problems == [f"error: interrupted; go on with: distillctl pretrain resume={folder}"]
    wait_for_the_end_of(workers)
    assert record(folder)["status"] == "interrupted"
    assert steps(folder / "pretrain") > reached


def test_a_ctrl_c_before_the_ranks_have_handlers_is_not_lost_and_answered_once(tmp_path):
    attempt = Attempt(*LONG, TWO, f"hydra.run.dir={tmp_path / 'run'}")
    attempt.until(lambda: len(ranks_of(attempt.pid)) == 2)
    attempt.send_to_group(signal.SIGINT)
    assert attempt.wait() == 130, attempt.output
    assert attempt.output.count("stopping:") == 1
    assert len(attempt.problems) == 1, attempt.output
    assert attempt.problems[0].startswith("error: interrupted"), attempt.output


def test_what_is_wrong_for_all_ranks_is_said_once(tmp_path):
    attempt = run(*TRAINING, TWO, f"hydra.run.dir={tmp_path / 'run'}", "dataset=image_folder", f"dataset.root={tmp_path / 'nothing'}")
    assert attempt.code == 3, attempt.output
    assert len(attempt.problems) == 1, attempt.output
    assert "Traceback" not in attempt.output


def test_torchrun_makes_one_run_of_several_processes(tmp_path, one_and_two):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    found = shell(*launcher, "-m", "distillctl", *TRAINING, cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert found.returncode == 0, found.stderr
    (folder,) = (tmp_path / "outputs" / "pretrain").iterdir()
    assert record(folder)["status"] == "done"
    assert list(differences(checkpoint(folder / "pretrain")["method"], checkpoint(one_and_two / "two" / "pretrain")["method"])) == []


def test_a_port_that_is_taken_is_one_line(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        place = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        attempt = run(*TRAINING, f"hydra.run.dir={tmp_path / 'run'}", environment=place)
    assert attempt.code == 5, attempt.output
    assert attempt.problems == [f"error: port {port} is in use; pass another with torchrun --master-port, or set MASTER_PORT"]


class Spoilsport:
    """Ends the process that is torn down with it in hand."""

    def __del__(self, abort=os.abort):  # a name of its own: those of the module are gone by then
        abort()


def keep_a_spoilsport(config, folder):
    keep_a_spoilsport.kept = Spoilsport()
    print("did its work")
    return 0.5


def test_what_happens_as_python_is_torn_down_is_no_failure_of_a_rank(capfd):
    config = SimpleNamespace(trainer=SimpleNamespace(devices=2, device="cpu"))
    assert ranks.launch(keep_a_spoilsport, config, None) == 0.5
    assert capfd.readouterr().out.count("did its work") == 2


# who is believed, and how long the others are waited for


def test_nobody_waits_for_a_rank_whose_peer_was_killed(monkeypatch):
    """The grace is for ranks that were told why; one whose peer said nothing would sit in a collective for ever."""
    monkeypatch.setattr(ranks, "GRACE_S", 10 * CEILING_S)
    context = multiprocessing.get_context("forkserver")
    processes = [context.Process(target=time.sleep, args=(CEILING_S,), daemon=True) for _ in range(2)]
    for process in processes:
        process.start()
    pipes = [context.Pipe(duplex=False)[0] for _ in processes]
    os.kill(processes[1].pid, signal.SIGKILL)
    with pytest.raises(MachineError, match=r"rank 1 was killed \(SIGKILL\)"):
        ranks.watch_over(processes, pipes, lambda: False)
    assert processes[0].exitcode == -signal.SIGKILL, "it was waited for"


class Ended:
    def __init__(self, exitcode: int):
        self.exitcode = exitcode


def test_the_explanation_of_a_rank_beats_the_death_of_another():
    with pytest.raises(DataError, match="^a.png: truncated$") as error:
        judge([Ended(-9), Ended(3)], {1: ("user", DataError, (("a.png: truncated",), 3))}, 0)
    assert error.value.exit_code == 3


def test_an_interrupted_rank_keeps_its_signal():
    with pytest.raises(Interrupted) as error:
        judge([Ended(143), Ended(143)], {rank: ("user", Interrupted, ("interrupted", 143)) for rank in (0, 1)}, 0)  # noqa: C420
    assert error.value.exit_code == 143


def test_a_rank_that_only_lost_its_peer_is_not_blamed():
    with pytest.raises(MachineError, match=r"rank 1 was killed \(SIGKILL\)"):
        judge([Ended(1), Ended(-9)], {}, 1)


def test_a_crash_is_told_with_its_rank(capsys):
    with pytest.raises(MachineError, match="rank 1 failed: KeyError: 'x'; the others were ended"):
        judge([Ended(1), Ended(1)], {1: ("crash", "KeyError: 'x'", "Traceback ...")}, 0)
    assert "Traceback ..." in capsys.readouterr().err


# batch norm


def half(rank: int, port: int, folder: str, kind: str) -> None:
    """One rank's part of a batch of uneven pieces through a batch norm, forward and back."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    layer, batches, weights = joint(kind)
    layer = batchnorm.convert(nn.Sequential(layer))[0]
    assert type(layer) is batchnorm.SharedBatchNorm
    rows = slice(0, 5) if rank == 0 else slice(5, 8)
    results = []
    for batch in batches:
        mine = batch[rows].clone().requires_grad_()
        answer = layer(mine)
        (answer * weights[rows]).sum().backward()
        results.append((answer.detach(), mine.grad))
    gradients = [parameter.grad for parameter in layer.parameters()]
    layer.eval()
    torch.save((results, gradients, dict(layer.named_buffers()), layer(batches[0][rows]).detach()), Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def joint(kind: str):
    """The layer, three batches of mean far from zero, and weights that make a loss of the answers."""
    torch.manual_seed(1)
    layer = {"2d": nn.BatchNorm2d(3), "1d": nn.BatchNorm1d(3, momentum=None), "plain": nn.BatchNorm2d(3, affine=False)}[kind]
    if layer.affine:
        nn.init.normal_(layer.weight)
        nn.init.normal_(layer.bias)
    shape = (8, 3) if kind == "1d" else (8, 3, 4, 5)
    return layer.train(), [torch.randn(shape) * 2 + 10 for _ in range(3)], torch.randn(shape)


@pytest.mark.parametrize("kind", ["2d", "1d", "plain"])
def test_shared_batch_norm_is_batch_norm_of_the_joined_batch(kind, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    processes = [context.Process(target=half, args=(rank, port, str(tmp_path), kind)) for rank in range(2)]
    for process in processes:
        process.start()
    layer, batches, weights = joint(kind)
    expected = []
    for batch in batches:
        whole = batch.clone().requires_grad_()
        answer = layer(whole)
        (answer * weights).sum().backward()
        expected.append((answer.detach(), whole.grad))
    for process in processes:
        process.join(CEILING_S)
        assert process.exitcode == 0
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    close = {"rtol": 1e-5, "atol": 1e-5}
    for step, (answer, gradient) in enumerate(expected):
        torch.testing.assert_close(torch.cat([found[rank][0][step][0] for rank in range(2)]), answer, **close)
        torch.testing.assert_close(torch.cat([found[rank][0][step][1] for rank in range(2)]), gradient, **close)
    for number, parameter in enumerate(layer.parameters()):  # DDP adds what the ranks have
        torch.testing.assert_close(found[0][1][number] + found[1][1][number], parameter.grad, rtol=1e-4, atol=1e-4)
    layer.eval()
    for rank in range(2):
        for name, value in layer.named_buffers():
            torch.testing.assert_close(found[rank][2][name], value, **close)
    torch.testing.assert_close(torch.cat([found[0][3], found[1][3]]), layer(batches[0]).detach(), **close)
