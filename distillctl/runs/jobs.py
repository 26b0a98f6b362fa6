"""The jobs of a sweep: which there will be, and whether each can run."""

from __future__ import annotations

from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf

from distillctl import compose
from distillctl.config import RunConfig, StreamConfig
from distillctl.errors import UserError


def expand(config: DictConfig) -> list[list[str]]:
    """The overrides of each job, as Hydra's basic sweeper will make them."""
    params = OmegaConf.to_container(config.hydra.sweeper.params) if config.hydra.sweeper.params else {}
    assert isinstance(params, dict)
    return compose.expanded([f"{key!s}={value}" for key, value in params.items()] + compose.typed_words(config.hydra))


def check_jobs(command: str, jobs: Sequence[Sequence[str]]) -> None:
    """Compose and check every job; raises all problems in one, of the kind of the first, each with the job that has it."""
    from hydra import compose as hydra_compose

    from distillctl.runs.check import Problems, check_components, check_deployment, check_weights, given_models
    from distillctl.runs.plan import plan
    from distillctl.runs.stream.check import check_stream

    found: list[UserError] = []
    where: dict[str, str] = {}
    models: set[str] = set()
    for number, overrides in enumerate(jobs):
        problems = Problems([])
        try:
            config = compose.typed(hydra_compose(command, list(overrides)))
            if isinstance(config, StreamConfig):
                problems.attempt(lambda config=config: check_stream(config))
            elif isinstance(config, RunConfig):
                check_components(config, problems)
                todo = None if problems.found else plan(config)
                used = repr(given_models(config))
                if used not in models:  # large files are read, so once is enough
                    check_weights(config, todo, problems)
                models.add(used)
                if todo is not None and not problems.found:
                    check_deployment(todo, config, problems)
        except Exception as error:
            explained = compose.explain(error, command, list(overrides))
            if explained is None:
                raise
            problems.found.append(explained)
        found += problems.found
        for line in (line for problem in problems.found for line in problem.problems):
            where.setdefault(line, f"job {number + 1} of {len(jobs)}")
    if found:
        raise type(found[0])(*(f"{line} ({job}; none was started)" for line, job in where.items()))
