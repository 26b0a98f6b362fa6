"""What tests share."""

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
from commands import TINY, Finished, call

# Two threads that spin for small tensors are slower than one beside other work, and data workers are forked from this process.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# The same examples every time, and no clock: the machine may be busy. `--hypothesis-profile=default` looks for others.
hypothesis.settings.register_profile("fixed", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("fixed")

# They start processes or train again and again. Begun first, they leave the small files to the end, and workers side by side end together.
SLOW = (
    "test_ranks.py", "test_resume.py", "test_options.py", "test_terminal.py", "test_manual.py", "test_cli.py",
    "test_bad_input.py", "test_reuse.py", "test_cached.py", "test_ensemble_runs.py", "test_finetune.py",
    "test_methods_on_ranks.py", "test_unlabelled_runs.py", "test_simkd.py", "test_state.py", "test_another_kind.py",
    "test_api.py", "test_docs.py", "test_wheel.py", "test_robust_runs.py", "test_checks.py", "test_folding.py",
    "test_build.py", "test_filling.py", "test_outputs.py", "test_resume_payloads.py", "test_working_directory.py",
    "test_which_data.py", "test_claiming.py", "test_sweeps.py", "test_requeue.py", "test_mended.py", "test_predict_script.py", "test_web_page.py",
    "test_answer_runs.py", "test_deploying.py", "test_exporting.py", "test_onnx_teacher.py", "test_predict_exported.py", "test_prune.py", "test_budget_runs.py", "test_resume_files.py",
    "test_bad_files.py", "test_training_for_int8.py", "test_quantizer_choice.py", "test_layers_that_hurt.py", "test_static_files.py",
    "test_stream_kills.py", "test_killed_labelling.py", "test_stream_runs.py", "test_bad_streams.py",
    "test_onnx.py", "test_torch_export.py", "test_engine.py", "test_evaluate.py", "test_weights_alone.py", "test_sparsity.py",
    "test_lifelong_resumed.py", "test_lifelong.py", "test_bad_tasks.py", "test_causal.py", "test_prompts.py", "test_virtual_tokens.py",
    "test_lifelong_resumed.py", "test_lifelong.py", "test_bad_tasks.py", "test_text_memory.py",
    "test_text_options.py", "test_text_runs.py", "test_text_shipped.py", "test_bad_texts.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: SLOW.index(item.path.name) if item.path.name in SLOW else len(SLOW))
    for item in items:
        if item.path.name in SLOW and not item.get_closest_marker("quick"):
            item.add_marker("slow")


def pytest_collection_finish() -> None:
    gc.freeze()  # what is there by now stays; to look through it again and again is a tenth of what tests that compose configs take


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images and sentences, which a fresh clone does not have."""
    folder = os.environ.get("DISTILLCTL_TEST_DATA")
    if not folder:
        pytest.skip("no real data: DISTILLCTL_TEST_DATA names no folder")
    assert Path(folder).is_dir(), f"DISTILLCTL_TEST_DATA={folder}: no such folder"
    return Path(folder)


@pytest.fixture(scope="session")
def distillctl() -> Callable[..., Finished]:
    """`distillctl("train", "seed=1", cwd=folder)`."""
    return call


@pytest.fixture(scope="module")
def composing() -> Iterator[None]:
    """Configs of this project can be composed by `hydra.compose`."""
    import hydra
    from hydra.core.global_hydra import GlobalHydra

    from distillctl import compose

    compose.prepare()
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(compose.conf_dir()), version_base="1.3"):
        yield


@pytest.fixture(scope="session")
def tiny() -> tuple[str, ...]:
    """The overrides of a run of seconds."""
    return TINY


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished `distillctl train` on digits. Tests copy what they change."""
    place = tmp_path_factory.mktemp("tiny")
    finished = call("train", *TINY, "baseline=false", "hydra.run.dir=run", cwd=place)
    assert finished.code == 0, finished.err
    return place / "run"


@pytest.fixture
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the processes of `processes.Attempt` write what they say."""
    (tmp_path / "logs").mkdir()
    monkeypatch.setenv("DISTILLCTL_TEST_LOGS", str(tmp_path / "logs"))
