"""A run that ended by a bad image goes on when what it advised was done: the image is mended, removed, or left out."""

import pytest
from data.test_sets import make, picture
from processes import record

import distillctl
from distillctl.data.image import sets
from distillctl.errors import BadSample, DataError

LIKE = {"ant": 12, "bee": 12}
WORDS = (
    "teacher=resnet8",
    "dataset=image_folder",
    "dataset.image_size=8",
    "dataset.in_memory=never",
    "dataset.workers=0",
    "trainer.batch_size=8",
    "trainer.device=cpu",
    "trainer.threads=1",
    "trainer.save_every_s=0.001",
    "pretrain.epochs=2",
)
WAYS = ("mended", "removed", "skipped")


def follow(advice, file):
    """Do what was advised; the words that the resumed run needs for it."""
    if advice == "mended":
        picture(file, 99, edge=11)
    if advice == "removed":
        file.unlink()
    return ["dataset.on_bad_image=skip"] if advice == "skipped" else []


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """A function that starts a run which ends by a bad image of a part: the file, and the run's folder."""

    def start(part, layout=None):
        root = make(tmp_path / "set", **(layout or {"train": LIKE, "val": LIKE, "test": LIKE}))
        file = root / part / "ant/0003.png"
        file.write_bytes(file.read_bytes()[:-60])
        experiment = distillctl.configure("pretrain", f"dataset.root={root}", *WORDS)
        with monkeypatch.context() as patched:
            patched.setattr(sets, "checked", lambda files, pixels: {})  # as if it broke right after that
            with pytest.raises(BadSample, match=r"0003.png.*mend or remove it"):
                distillctl.run(experiment, tmp_path / "run")
        return file, tmp_path / "run"

    return start


@pytest.mark.parametrize("advice", WAYS)
@pytest.mark.parametrize("part", ["train", "test"])
def test_a_run_that_ended_by_a_bad_image_goes_on_as_advised(broken, capsys, part, advice):
    file, run = broken(part)
    assert record(run)["excused"]["names"] == [f"{part}/ant/0003.png"]
    summary = distillctl.resume(run, *follow(advice, file))
    assert record(run)["status"] == "done"
    assert summary["rows"][0]["n"] == 24 - (part == "test" and advice != "mended")
    assert f"this run ended by: {part}/ant/0003.png" in "".join(capsys.readouterr())


@pytest.mark.parametrize("advice", WAYS)
def test_another_image_that_changed_is_still_refused(broken, advice):
    file, run = broken("train")
    words = follow(advice, file)
    picture(file.with_name("0005.png"), 7, edge=12)
    with pytest.raises(DataError, match="not what it was when this run started"):
        distillctl.resume(run, *words)


def test_a_run_whose_advice_was_not_followed_ends_by_the_same_image_before_it_trains(broken):
    _, run = broken("train")
    with pytest.raises(BadSample, match=r"train/ant/0003.png.*mend or remove it"):
        distillctl.resume(run)


@pytest.mark.parametrize("advice", WAYS)
def test_all_others_keep_their_places(tmp_path, advice):
    """Where parts are cut out of one folder, one image less would give others."""
    root = make(tmp_path, **LIKE)
    config = {"name": "image_folder", "root": str(root), "in_memory": "never", "image_size": 8}
    before = sets.load(sets.ImageSetConfig(**config))
    name = before.name_of(before.train.inputs[2])
    follow(advice, root / name)
    if advice == "skipped":
        (root / name).write_bytes(b"no image")
    now = sets.load(
        sets.ImageSetConfig(**config, on_bad_image="skip" if advice == "skipped" else "error"), None, sets.Excused(frozenset({name}), True)
    )
    assert [len(now.train), now.val.inputs, now.test.inputs] == [len(before.train), before.val.inputs, before.test.inputs]
    assert now.train.index.tolist() == before.train.index.tolist()
    others = [place for place in range(len(before.train)) if place != 2]
    assert now.train.take(others).inputs == before.train.take(others).inputs
    assert (now.train.inputs[2] == root / name) == (advice == "mended")
    assert now.train.inputs[2].parent == (root / name).parent
    assert now.fingerprint_without([name]) == before.fingerprint_without([name])
    assert now.fingerprint != before.fingerprint


def test_a_record_that_names_files_elsewhere_is_refused(broken):
    file, run = broken("train")
    place = run / "run.json"
    place.write_text(place.read_text().replace('"train/ant/0003.png"', '"../../secret.png"'))
    follow("mended", file)
    with pytest.raises(distillctl.errors.CheckpointError, match="outside the data set"):
        distillctl.resume(run)
