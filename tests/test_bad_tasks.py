"""What a user can get wrong about tasks one after another: one line with a way out, before anything is trained."""

from pathlib import Path

import numpy as np
import pytest
from mistakes import CHECKPOINT, DATA, USAGE, Row, check_refused, each
from PIL import Image

FAST = "lifelong student=resnet8 lifelong.epochs=1 trainer.device=cpu trainer.precision=fp32 trainer.threads=1 hydra.run.dir=out"


def folder(place: Path, classes: str, size: int = 8) -> None:
    random = np.random.default_rng(0)
    for part in ("train", "test"):
        for name in classes.split():
            (place / part / name).mkdir(parents=True)
            for number in range(6):
                Image.fromarray(random.integers(0, 255, (size, size, 3), dtype=np.uint8)).save(place / part / name / f"{number}.png")


def domains(place: Path) -> None:
    for name in "ab":
        folder(place / name, "ant bee")


def other_sizes(place: Path) -> None:
    folder(place / "a", "ant bee")
    folder(place / "b", "wasp fly", size=16)


def one_again(place: Path) -> None:
    folder(place / "a", "ant bee")
    folder(place / "b", "bee wasp")


def insects(place: Path) -> None:
    folder(place / "a", "ant bee wasp")


def one_class(place: Path) -> None:
    folder(place / "a", "ant")
    folder(place / "b", "ant")


def one_class_each(place: Path) -> None:
    folder(place / "a", "ant")
    folder(place / "b", "bee wasp")


NAMED = "expected how many tasks there are, or the classes of each, as in tasks=[[cat,dog],[ship,truck]]"
TWO = "lifelong.folders=[a,b] trainer.batch_size=4 memory.size=8"
ROWS = [
    # tasks
    Row("class in two tasks", "tasks=[[0,1],[1,2,3,4,5,6,7,8,9]]", USAGE, ("class 1 is in tasks 1 and 2; leave it in one of them",)),
    Row("class twice in a task", "tasks=[[0,0],[1,2,3,4,5,6,7,8,9]]", USAGE, ("class 0 is in tasks 1 and 1",)),
    Row("class in no task", "tasks=[[0,1],[2,3]]", USAGE, ("no task has the classes 4, 5, 6, 7, 8 and 1 more; add them to one",)),
    Row(
        "unknown class",
        "tasks=[[0,1,ten],[2,3,4,5,6,7,8,9]]",
        USAGE,
        ("task 1 has a class 'ten', which the data set has not", "known: 0, 1"),
    ),
    Row(
        "class with a typo",
        "dataset.root=a tasks=[[ant,be],[wasp]] trainer.batch_size=4",
        USAGE,
        ("task 1 has a class 'be'", "did you mean bee?"),
        insects,
    ),
    Row("one task", "tasks=1", USAGE, ("tasks=1: a sequence has two tasks or more; for one task: distillctl train",)),
    Row("no tasks", "tasks=[]", USAGE, ("tasks=[]: a sequence has two tasks or more",)),
    Row("negative tasks", "tasks=-2", USAGE, ("tasks=-2: a sequence has two tasks or more",)),
    Row(
        "tasks that do not divide", "tasks=3", USAGE, ("tasks=3: 10 classes are not divided by 3", "tasks=2 or 5 or 10", "lifelong.first=N")
    ),
    Row("more tasks than classes", "tasks=11", USAGE, ("tasks=11: the data set has 10 classes, and each task needs one",)),
    Row("tasks a word", "tasks=abc", USAGE, ("tasks=abc: " + NAMED,)),
    Row("tasks a fraction", "tasks=2.5", USAGE, ("tasks=2.5: " + NAMED,)),
    Row("tasks nothing", "tasks=null", USAGE, (NAMED,)),
    Row("task without classes", "tasks=[[]]", USAGE, ("tasks=[[]]: expected a list of classes for each task",)),
    Row("tasks without their brackets", "tasks=[0,1]", USAGE, ("tasks=[0, 1]: expected a list of classes for each task",)),
    Row("first task too large", "lifelong.first=9", USAGE, ("tasks=5: the data set has 10 classes", "lower tasks or lifelong.first")),
    Row("first task of nothing", "lifelong.first=0", USAGE, ("lifelong.first=0 must be >= 1",)),
    Row(
        "first task said twice",
        "tasks=[[0,1],[2,3,4,5,6,7,8,9]] lifelong.first=2",
        USAGE,
        ("lifelong.first=2: the classes of each task are given already; leave it out",),
    ),
    Row("order by a word", "lifelong.order_seed=abc", USAGE, ("lifelong.order_seed=abc: expected a whole number",)),
    Row("order by a negative number", "lifelong.order_seed=-1", USAGE, ("lifelong.order_seed=-1 must be >= 0",)),
    # strategies
    Row("unknown strategy", "strategy=derp", USAGE, ("strategy=derp: no such option; did you mean der",)),
    Row("negative alpha", "strategy.alpha=-1", USAGE, ("strategy.alpha=-1 must be >= 0",)),
    Row("alpha a word", "strategy.alpha=abc", USAGE, ("strategy.alpha=abc: expected a number",)),
    Row("alpha not a number", "strategy.alpha=nan", USAGE, ("strategy.alpha=nan must be a finite number",)),
    Row("unknown key of a strategy", "strategy.foo=1", USAGE, ("strategy.foo=1: unknown key; did you mean", "strategy.alpha")),
    Row("key of a strategy with a typo", "strategy.alpa=1", USAGE, ("strategy.alpa=1: unknown key; did you mean strategy.alpha?",)),
    Row("key of another strategy", "strategy=er strategy.alpha=1", USAGE, ("strategy.alpha=1: unknown key",)),
    Row("lwf over something else", "strategy=lwf strategy.over=x", USAGE, ("strategy.over=x must be one of new, seen, all",)),
    Row("ewc by other labels", "strategy=ewc strategy.labels=x", USAGE, ("strategy.labels=x must be one of model, true",)),
    Row("ewc of no samples", "strategy=ewc strategy.samples=0", USAGE, ("strategy.samples=0 must be >= 1",)),
    Row("ewc that grows", "strategy=ewc strategy.decay=2", USAGE, ("strategy.decay=2 must be in [0, 1]",)),
    Row("strategy of the system", "strategy._target_=os.system", USAGE, ("strategy._target_=os.system", "not in a trusted package")),
    Row("strategy that is a layer", "strategy._target_=torch.nn.Linear", USAGE, ("a subclass of Strategy is needed here",)),
    Row("no strategy", "~strategy", USAGE, ("strategy._target_ is not set: choose an option of the group strategy",)),
    Row(
        "icarl of a net without a linear classifier",
        "strategy=icarl student=squeezenet1_1 student.image_size=32",
        USAGE,
        ("student=squeezenet1_1: icarl answers by class means", "this net ends in none"),
    ),
    Row("lucir that ranks nothing", "strategy=lucir strategy.hardest=0", USAGE, ("strategy.hardest=0 must be >= 1",)),
    Row("lucir without a scale", "strategy=lucir strategy.scale=0", USAGE, ("strategy.scale=0 must be > 0",)),
    Row("podnet of no direction", "strategy=podnet strategy.proxies=0", USAGE, ("strategy.proxies=0 must be >= 1",)),
    Row("podnet of half a direction", "strategy=podnet strategy.proxies=1.5", USAGE, ("strategy.proxies=1.5: expected a whole number",)),
    Row(
        "podnet of a word of directions", "strategy=podnet strategy.proxies=abc", USAGE, ("strategy.proxies=abc: expected a whole number",)
    ),
    Row("podnet of no stage", "strategy=podnet strategy.stages=[]", USAGE, ("strategy.stages=[] names no tap",)),
    Row("podnet of stages that are a number", "strategy=podnet strategy.stages=3", USAGE, ("strategy.stages=3",)),
    Row("podnet of an unknown stage", "strategy=podnet strategy.stages=[stage9]", USAGE, ("it has no tap 'stage9'", "stage1")),
    Row(
        "lucir of a net without a linear classifier",
        "strategy=lucir student=squeezenet1_1 student.image_size=32",
        USAGE,
        ("student=squeezenet1_1: lucir answers by angles", "this net ends in none"),
    ),
    Row("podnet that selects otherwise", "strategy=podnet memory.select=balanced", USAGE, ("leave memory.select out",)),
    # what goes with what
    Row(
        "best epoch", "trainer.select=best", USAGE, ("trainer.select=best: the last epoch of each task counts", "leave trainer.select out")
    ),
    Row("beside what", "lifelong.beside=[x]", USAGE, ("x must be one of alone, sgd, joint; lifelong.beside=[] for none",)),
    Row("teacher of no name", "lifelong.update=both", USAGE, ("lifelong.update=both: name the teacher", "teacher=resnet20")),
    Row("unknown update", "lifelong.update=teacher", USAGE, ("lifelong.update=teacher: must be one of student, both",)),
    Row("unknown head", "lifelong.head=grow", USAGE, ("lifelong.head=grow: must be one of full, growing",)),
    Row(
        "teacher that nobody trains",
        "teacher=resnet20",
        USAGE,
        ("teacher=resnet20 is neither trained nor pretrained", "lifelong.update=both", "teacher.checkpoint=<run folder or file>"),
    ),
    Row("teacher missing", "teacher.checkpoint=nowhere", CHECKPOINT, ("teacher.checkpoint=nowhere: no such file",)),
    Row(
        "teacher of all classes for a head that grows",
        "dataset=digits teacher=resnet8 teacher.checkpoint=run lifelong.head=growing",
        USAGE,
        ("lifelong.head=growing has outputs for some classes, and the teacher for all; take lifelong.head=full",),
    ),
    Row("teacher of all tasks at once", "strategy=joint teacher=resnet14 lifelong.update=both", USAGE, ("leave out lifelong.update=both",)),
    Row(
        "loss without a teacher",
        "teacher=resnet14 lifelong.update=both loss=ce",
        USAGE,
        ("loss=ce: no term of it reads a teacher", "loss=kd"),
    ),
    Row(
        "teacher of icarl", "strategy=icarl teacher=resnet14 lifelong.update=both", USAGE, ("strategy=icarl", "would not read the teacher")
    ),
    Row(
        "teacher of lwf_mc", "dataset=digits strategy=lwf_mc teacher=resnet8 teacher.checkpoint=run", USAGE, ("would not read the teacher",)
    ),
    Row(
        "teacher of lucir", "strategy=lucir teacher=resnet14 lifelong.update=both", USAGE, ("strategy=lucir", "would not read the teacher")
    ),
    Row("lwf without a teacher's term", "strategy=lwf loss=ce", USAGE, ("loss",)),
    Row("no labels", "dataset.labels=false", USAGE, ("dataset.labels=false: tasks are learnt by labels; leave it out",)),
    Row("no epochs", "lifelong.epochs=0", USAGE, ("lifelong.epochs=0: nothing to train",)),
    # memory
    Row("memory smaller than the classes", "memory.size=9", USAGE, ("memory.size=9 is less than the 10 classes", "raise it")),
    Row("no memory", "memory.size=0", USAGE, ("memory.size=0 must be >= 1",)),
    Row("one kept sample a step", "memory.batch_size=1", USAGE, ("memory.batch_size=1 leaves less than 2 samples", "raise it")),
    Row("kept samples that are mixed", "dataset.augment.mixup=0.2", USAGE, ("dataset.augment.mixup: strategy=derpp keeps", "set it to 0")),
    Row("kept samples that are pasted", "dataset.augment.cutmix=1", USAGE, ("dataset.augment.cutmix: strategy=derpp keeps", "set it to 0")),
    Row("lwf of mixed samples", "strategy=lwf dataset.augment.mixup=0.2", USAGE, ("strategy=lwf reads one label of each sample",)),
    Row("lwf_mc of mixed samples", "strategy=lwf_mc dataset.augment.cutmix=1", USAGE, ("strategy=lwf_mc reads one label", "set it to 0")),
    Row("lwf of weighed classes", "strategy=lwf dataset.balance=class_weights", USAGE, ("take dataset.balance=oversample",)),
    Row("icarl of weighed classes", "strategy=icarl dataset.balance=class_weights", USAGE, ("take dataset.balance=oversample",)),
    Row("herding by hand", "memory.select=herding", USAGE, ("memory.select=herding: must be one of reservoir, balanced",)),
    Row(
        "icarl that selects otherwise",
        "strategy=icarl memory.select=balanced",
        USAGE,
        ("memory.select=balanced", "leave memory.select out"),
    ),
    Row("unknown key of the memory", "memory.sise=9", USAGE, ("memory.sise=9: unknown key; did you mean memory.size?",)),
    Row(
        "views cut out of files",
        "dataset.root=a trainer.batch_size=4 tasks=3 memory.size=8 dataset.augment.crop=resized dataset.in_memory=never",
        USAGE,
        ("dataset.augment.crop=resized", "dataset.augment.crop=pad or dataset.in_memory=always"),
        insects,
    ),
    # data
    Row(
        "batch larger than a task",
        "trainer.batch_size=400",
        USAGE,
        ("trainer.batch_size=400 is more than the 256 training images",),
    ),
    Row("batch larger than the set", "trainer.batch_size=5000", USAGE, ("trainer.batch_size=5000 is more than the 1294 training images",)),
    Row("one folder", "lifelong.folders=[a]", USAGE, ("a sequence has two tasks or more; name a folder for each",), domains),
    Row(
        "folder that is not there",
        "lifelong.folders=[a,nowhere] trainer.batch_size=4",
        DATA,
        ("lifelong.folders: nowhere: no such folder",),
        domains,
    ),
    Row("folders of other sizes", TWO, USAGE, ("lifelong.folders: a has images of 8 px and b of 16; set dataset.image_size",), other_sizes),
    Row("folders of one class in all", TWO, USAGE, ("lifelong.folders: all of them have one class, ant",), one_class),
    Row("folder of one class as the data set", "dataset.root=a trainer.batch_size=4", DATA, ("only one class, ant",), one_class),
    Row(
        "memory smaller than the classes of folders",
        "lifelong.folders=[a,b] trainer.batch_size=4 memory.size=2",
        USAGE,
        ("memory.size=2 is less than the 3 classes",),
        one_class_each,
    ),
    Row("folders and tasks", f"{TWO} tasks=2", USAGE, ("tasks and lifelong.folders both say", "leave one of them out"), domains),
    Row("folders and a root", f"{TWO} dataset.root=a", USAGE, ("dataset.root and lifelong.folders both say",), domains),
    Row("folders and a first task", f"{TWO} lifelong.first=1", USAGE, ("lifelong.first=1: the classes of each task are given",), domains),
    Row("lwf of domains", f"{TWO} strategy=lwf", USAGE, ("task 2 has classes of earlier ones", "take strategy.over=seen"), domains),
    Row("lwf of a class that comes again", f"{TWO} strategy=lwf", USAGE, ("task 2 has classes of earlier ones",), one_again),
    Row("lwf_mc of domains", f"{TWO} strategy=lwf_mc", USAGE, ("strategy=lwf_mc learns labels of new classes alone",), domains),
    Row("lucir of domains", f"{TWO} strategy=lucir", USAGE, ("strategy=lucir tells new classes from old ones by the task",), domains),
    Row("podnet of a class that comes again", f"{TWO} strategy=podnet", USAGE, ("take strategy=derpp, er or ewc",), one_again),
    Row("icarl of domains", f"{TWO} strategy=icarl", USAGE, ("strategy=icarl learns labels of new classes alone",), domains),
]


@each(ROWS)
def test_a_mistake_about_tasks_is_one_line_with_a_way_out(row: Row, tiny_run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("DISTILLCTL_DATA", raising=False)
    (tmp_path / "run").symlink_to(tiny_run)
    if row.prepare:
        row.prepare(tmp_path)
    check_refused(row, tmp_path, f"{FAST} {row.command}")
