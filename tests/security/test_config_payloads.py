"""Configs, recipes and words that try to run code or to write elsewhere: none does, each is refused in one line."""

from pathlib import Path

import pytest
from payloads import EVIL_MODULE, OPEN, RUN, TOUCH, Payload, Sandbox

MODELS = "models search=zzz --config-dir mine"
TRAIN = "train --config-dir mine recipe=evil --cfg job"
GLOBAL = "# @package _global_\n"
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))
LOGGING = "{{version: 1, root: {{handlers: [h]}}, handlers: {{h: {{{what}}}}}}}"
BY_FACTORY = LOGGING.format(what="'()': subprocess.Popen, args: [touch, MARKER]")
BY_CLASS = LOGGING.format(what="class: logging.FileHandler, filename: MARKER")
BY_EXTERNAL = LOGGING.format(what="class: logging.StreamHandler, stream: 'ext://evil.Callback'")


def recipe(name: str, text: str, words: str = "train --config-dir mine recipe=evil", **more: object) -> Payload:
    files = {"mine/recipe/evil.yaml": GLOBAL + text, "evil.py": EVIL_MODULE} | more.pop("files", {})  # type: ignore[operator]
    return Payload(f"recipe: {name}", words, files, **more)  # type: ignore[arg-type]


RECIPES = [
    recipe("a callback that runs a program", f"hydra:\n  callbacks:\n    evil: {RUN}\n"),
    recipe("a callback that opens a file", f"hydra:\n  callbacks:\n    evil: {OPEN}\n"),
    recipe("a callback that is built of another", f"hydra:\n  callbacks:\n    evil: {TOUCH}\n"),
    recipe("a callback of a module that lies here", "hydra:\n  callbacks:\n    evil: {_target_: evil.Callback}\n"),
    recipe("the callback that ships, with another inside", f"hydra:\n  callbacks:\n    sweep:\n      x: {RUN}\n"),
    recipe("a logging factory", f"hydra:\n  job_logging: {BY_FACTORY}\n"),
    recipe("a logging class that writes", f"hydra:\n  job_logging: {BY_CLASS}\n"),
    recipe("a logging stream from elsewhere", f"hydra:\n  job_logging: {BY_EXTERNAL}\n"),
    recipe("Hydra's own log in a sweep", f"hydra:\n  hydra_logging: {BY_FACTORY}\n", "train -m --config-dir mine recipe=evil seed=0,1"),
    recipe("a variable that gives trust", "hydra:\n  job:\n    env_set: {DISTILLCTL_TRUST: os}\n"),
    recipe("a variable of the linker", "hydra:\n  job:\n    env_set: {LD_PRELOAD: MARKER}\n"),
    recipe("a variable that is copied", "hydra:\n  job:\n    env_copy: [NO_SUCH_VARIABLE]\n"),
    recipe("a run folder elsewhere", "hydra:\n  run:\n    dir: OUTSIDE/run\n"),
    recipe("a run folder above", "hydra:\n  run:\n    dir: ../outside/run\n"),
    recipe("a sweep folder elsewhere", "hydra:\n  sweep:\n    dir: OUTSIDE/run\n", "train -m --config-dir mine recipe=evil seed=0,1"),
    recipe(
        "a job's folder above", "hydra:\n  sweep:\n    subdir: ../../../outside/run\n", "train -m --config-dir mine recipe=evil seed=0,1"
    ),
    recipe("the folder of configs elsewhere", "hydra:\n  output_subdir: OUTSIDE/x\n"),
    recipe("another working folder", "hydra:\n  job:\n    chdir: true\n  run:\n    dir: OUTSIDE\n"),
    recipe("a launcher", "hydra:\n  mode: MULTIRUN\n  launcher:\n    _target_: evil.Callback\n"),
    recipe("a sweeper", f"hydra:\n  mode: MULTIRUN\n  sweeper: {RUN}\n"),
    recipe("a sweeper's words", "hydra:\n  mode: MULTIRUN\n  sweeper:\n    params: {hydra.run.dir: OUTSIDE, +x@hydra.callbacks: y}\n"),
    recipe("a search path", "hydra:\n  searchpath: ['pkg://evil']\n"),
    recipe("the name of the job", "hydra:\n  job:\n    name: ../../outside/x\n  job_logging: null\n"),
    recipe("a launcher by its name", "defaults:\n  - override /hydra/launcher: joblib\n"),
    recipe(
        "a log config by its name",
        "defaults:\n  - override /hydra/job_logging: evil\n",
        files={"mine/hydra/job_logging/evil.yaml": BY_FACTORY},
    ),
    recipe(
        "callbacks by their name", "defaults:\n  - override /hydra/callbacks: e\n", files={"mine/hydra/callbacks/e.yaml": f"e: {RUN}\n"}
    ),
    recipe("callbacks that are added", "defaults:\n  - /hydra/callbacks: e\n", files={"mine/hydra/callbacks/e.yaml": f"e: {RUN}\n"}),
    recipe("a package", "defaults:\n  - /other@hydra.callbacks.e: o\n", files={"mine/other/o.yaml": RUN}),
    recipe("a package from the root", "defaults:\n  - /other@_global_.hydra.callbacks.e: o\n", files={"mine/other/o.yaml": RUN}),
    recipe("a config of a package", "defaults:\n  - /o@hydra.callbacks.e\n", files={"mine/o.yaml": RUN}),
    recipe("a package in a header", "defaults:\n  - /other: o\n", files={"mine/other/o.yaml": f"# @package hydra.callbacks.e\n{RUN}\n"}),
    recipe(
        "a package by a file's name",
        "defaults:\n  - /o/hydra\n",
        files={"mine/o/hydra.yaml": f"# @package _global_._name_\ncallbacks: {{e: {RUN}}}\n"},
    ),
    recipe(
        "a package by a folder's name",
        "defaults:\n  - /hydra/e\n",
        files={"mine/hydra/e.yaml": f"# @package hydra\ncallbacks: {{e: {RUN}}}\n"},
    ),
    recipe(
        "another config that names Hydra", "defaults:\n  - /o@_global_\n", files={"mine/o.yaml": f"hydra:\n  callbacks:\n    e: {RUN}\n"}
    ),
    recipe("a key with dots", "hydra.run.dir: OUTSIDE/run\n"),
    recipe("an escaped key", '"\\x68ydra":\n  run:\n    dir: OUTSIDE/run\n'),
    recipe("a config elsewhere by its path", "defaults:\n  - /OUTSIDE/other\n"),
    recipe("a config above", "defaults:\n  - ../../../outside/other\n"),
    recipe("an option above", "defaults:\n  - override /optimizer: ../../../outside/other\n"),
    recipe("a Python object", "seed: !!python/object/apply:os.system ['touch MARKER']\n"),
    recipe("a Python name", "seed: !!python/name:evil.Callback\n"),
    recipe("aliases without end", BOMB),
    recipe("a file without end", f"tracker:\n  project: {'x' * 3_000_000}\n"),
    recipe("brackets without end", f"tracker:\n  project: {'[' * 20_000}\n"),
    recipe("a secret of the environment", "tracker:\n  project: ${oc.env:SECRET}\n", environment={"SECRET": "secret"}),
    recipe("a secret, decoded", "tracker:\n  project: '${oc.decode:${oc.env:SECRET}}'\n", environment={"SECRET": "secret"}),
    recipe("a value that is itself", "tracker:\n  project: ${tracker.project}\n"),
    recipe("values in a circle", "tracker:\n  project: ${dataset.root}\ndataset:\n  root: ${tracker.project}\n"),
    recipe("brackets of interpolations", f"tracker:\n  project: '{'${oc.decode:' * 500}x{'}' * 500}'\n"),
    recipe(
        "values that double",
        "teacher:\n  args:\n    a0: xxxxxxxxxxxxxxxx\n"
        + "".join(f"    a{n}: ${{teacher.args.a{n - 1}}}${{teacher.args.a{n - 1}}}\n" for n in range(1, 40)),
    ),
    recipe("defaults that are a number", "defaults: 5\n"),
    recipe("defaults that are a mapping", "defaults: {a: b}\n"),
    recipe("defaults of lists", "defaults:\n- [a]\n"),
    recipe("defaults of mappings", "defaults:\n- /optimizer: {a: b}\n"),
    recipe("defaults of numbers", "defaults:\n- 3\n"),
    recipe("no mapping", "- a\n- b\n"),
    recipe("binary rubbish", "\x00\x01\x02"),
]


def component(name: str, group: str, text: str) -> Payload:
    words = f"train --config-dir mine {group}=evil --plan"
    return Payload(f"{group}: {name}", words, {f"mine/{group}/evil.yaml": text, "evil.py": EVIL_MODULE})


COMPONENTS = [
    component("a program", "optimizer", "_target_: subprocess.run\nargs: [touch, MARKER]\n"),
    component("a class of a module that lies here", "optimizer", "_target_: evil.Callback\n"),
    component("a function behind a trusted package", "optimizer", "_target_: torch.optim.optimizer.os.system\n"),
    component("a module of a trusted package", "schedule", "_target_: distillctl.cli.main\n"),
    component("an object as an argument", "optimizer", f"_target_: torch.optim.SGD\nlr: {TOUCH}\n"),
    component("arguments by position", "optimizer", "_target_: torch.optim.SGD\n_args_: [MARKER]\nlr: 0.1\n"),
    component("what is half called", "optimizer", "_target_: torch.optim.SGD\n_partial_: true\nlr: 0.1\n"),
    component("a name with code in it", "loss", "evil:\n  _target_: \"evil.__import__('os').system\"\n  weight: 1\n"),
    component("a term of a module that lies here", "loss", "evil:\n  _target_: evil.Callback\n  weight: 1\n"),
    component("a method", "method", "_target_: evil.Callback\n"),
    component("Hydra's keys in a component", "optimizer", f"{GLOBAL}hydra:\n  callbacks:\n    e: {RUN}\n"),
    component("a student", "student", "name: own\nsource: own\n_target_: evil.Callback\n"),
]

BEHIND = "hydra._internal.core_plugins.bash_completion"
CALLBACK = "hydra.callbacks.e={_target_:subprocess.run,args:[touch,MARKER]}"
TYPED = [
    Payload("typed: a callback", f"models search=zzz +{CALLBACK}"),
    Payload("typed: a callback by its key", "models search=zzz +hydra.callbacks.e._target_=evil.Callback", {"evil.py": EVIL_MODULE}),
    Payload("typed: a callback, forced", f"models search=zzz ++{CALLBACK}"),
    Payload(
        "typed: a callback of another key",
        "models search=zzz +x={_target_:evil.Callback} +hydra.callbacks.e=${x}",
        {"evil.py": EVIL_MODULE},
    ),
    Payload("typed: a target of another key", "models search=zzz +hydra.callbacks.e._target_=${search}"),
    Payload("typed: a launcher", "models -m search=a,b hydra.launcher._target_=evil.Callback", {"evil.py": EVIL_MODULE}),
    Payload("typed: a sweeper", "models -m search=a,b hydra.sweeper._target_=evil.Callback", {"evil.py": EVIL_MODULE}),
    Payload(
        "typed: a log",
        "models search=zzz ++hydra.job_logging={version:1,root:{handlers:[h]},handlers:{h:{'()':subprocess.Popen,args:[touch,MARKER]}}}",
    ),
    Payload(
        "typed: a log's stream",
        "models search=zzz ++hydra.job_logging={version:1,root:{handlers:[h]},handlers:{h:{class:logging.StreamHandler,stream:'ext://evil.Callback'}}}",
        {"evil.py": EVIL_MODULE},
    ),
    Payload("typed: a file's callbacks", f"{MODELS} +other@hydra.callbacks.e=o", {"mine/other/o.yaml": RUN}),
    Payload("typed: a file's callbacks by the group", f"{MODELS} hydra/callbacks=e", {"mine/hydra/callbacks/e.yaml": f"e: {RUN}\n"}),
    Payload("typed: a file's log", f"{MODELS} hydra/job_logging=e", {"mine/hydra/job_logging/e.yaml": BY_FACTORY}),
    Payload(
        "typed: configs of a module that lies here",
        "models search=zzz hydra.searchpath=[pkg://evil]",
        {"evil.py": EVIL_MODULE, "evil/__init__.py": EVIL_MODULE},
    ),
    Payload("typed: a pickled config", "models --experimental-rerun evil.pickle", {"evil.pickle": "cos\nsystem\n(S'touch MARKER'\ntR."}),
    Payload("typed: another folder of configs", "models --config-path mine", {"mine/models.yaml": f"hydra:\n  callbacks:\n    e: {RUN}\n"}),
    Payload("typed: another config", "models --config-name evil"),
    Payload("typed: a program behind a package on the list", f"models search=zzz +hydra.callbacks.e._target_={BEHIND}.os.system"),
    Payload("typed: a launcher behind it", f"models -m search=a,b hydra.launcher._target_={BEHIND}.os.system"),
    Payload("typed: a function of a package on the list", f"models search=zzz +hydra.callbacks.e._target_={BEHIND}.BashCompletion.help"),
    Payload(
        "typed: a pickled config, as one completes",
        "-sc --experimental-rerun=evil.pickle install=bash",
        {"evil.pickle": "cos\nsystem\n(S'touch MARKER'\ntR."},
    ),
    Payload(
        "typed: another folder of configs, as one completes", "-sc --config-path mine install=bash", {"mine/train.yaml": f"x: {RUN}\n"}
    ),
    Payload("typed: completion for a shell that is a path", "-sc install=../evil"),
    Payload(
        "typed: a run folder by the value of a file",
        "pretrain --config-dir mine recipe=evil hydra.run.dir=${oc.select:tracker.project}",
        {"mine/recipe/evil.yaml": f"{GLOBAL}tracker:\n  project: ../outside/run\n"},
    ),
    Payload("typed: a run folder by a name that leads there", "models search=.. hydra.run.dir=${hydra.job.name} hydra.job.name=${search}"),
    Payload("typed: a run folder that is itself", "models search=x hydra.run.dir=${hydra.job.name} hydra.job.name=${hydra.run.dir}"),
    Payload("typed: a sweep without end", "pretrain -m seed=range(0,1000000000)"),
    Payload("typed: a product without end", f"pretrain -m seed=range(0,1000) trainer.threads={','.join(map(str, range(1, 99)))}"),
    Payload("file: a number without end", "train mine.yaml", {"mine.yaml": f"seed: {'9' * 5000}\n"}),
    Payload("file: a list without end", "train mine.yaml", {"mine.yaml": f"loss: {{a: [{'1,' * 50_000}]}}\n"}),
    Payload("file: a key with a package", "train mine.yaml", {"mine.yaml": "optimizer@hydra.callbacks.e: sgd\n"}),
    Payload("file: a merge key", "train mine.yaml", {"mine.yaml": "<<: {hydra: {run: {dir: OUTSIDE}}}\n"}),
    Payload("typed: trust in a path", "train --trust ../outside"),
    Payload(
        "typed: a config that hides the one that ships",
        MODELS,
        {"mine/models.yaml": f"hydra:\n  callbacks:\n    e: {RUN}\n"},
        harmless=True,
    ),
    Payload(
        "typed: defaults that hide those that ship",
        MODELS,
        {"mine/hydra_defaults.yaml": f"{GLOBAL}hydra:\n  callbacks:\n    e: {RUN}\n"},
        harmless=True,
    ),
    Payload("typed: Hydra's config", MODELS, {"mine/hydra/config.yaml": f"callbacks:\n  e: {RUN}\n"}, harmless=True),
    Payload(
        "typed: what Hydra's config names",
        MODELS,
        {
            "mine/hydra/callbacks/default.yaml": f"e: {RUN}\n",
            "mine/hydra/env/default.yaml": f"# @package _global_\nhydra:\n  callbacks:\n    e: {RUN}\n",
        },
        harmless=True,
    ),
]


@pytest.mark.parametrize("payload", [*RECIPES, *COMPONENTS, *TYPED], ids=lambda payload: payload.name)
def test_nothing_in_a_config_runs_or_writes_elsewhere(payload: Payload, distillctl, tmp_path: Path):
    sandbox = Sandbox(tmp_path)
    words = sandbox.lay_out(payload)
    finished = distillctl(*words, cwd=sandbox.work, env=payload.environment)
    sandbox.check(payload, finished.code, finished.err)
    assert "secret" not in finished.out.replace("SECRET", "")
