"""Images without labels: what is read, what is held out, and where class names come from."""

import numpy as np
import pytest
import torch
from PIL import Image

from distillctl.config import AugmentConfig, ImageSetConfig
from distillctl.data.image.augment import Augment
from distillctl.data.image.loader import ImageLoader, ReadOptions
from distillctl.data.image.sets import load
from distillctl.data.loader import Place
from distillctl.data.split import UNLABELLED
from distillctl.errors import DataError

TEACHER = ("ant", "bee", "cat")


def fill(root, **counts):
    """Noise: fill(root, train=5) for root/train/0000.png ..., fill(root, test__ant=2) for root/test/ant/..., fill(root, _=3) for root itself."""
    seed = 0
    for place, count in counts.items():
        folder = root.joinpath(*(name for name in place.split("__") if name != "_"))
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            seed += 1
            pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number:04}.png")
    return root


def images(root, classes=TEACHER, **config):
    return load(ImageSetConfig(name="image_folder", root=str(root), labels=False, **config), classes)


def sizes(data):
    return len(data.train), len(data.val), len(data.test)


def known(data):
    return data.train.labelled, data.val.labelled, data.test.labelled


@pytest.mark.parametrize("place", ["_", "train", "night__0", "train__2024"])
def test_training_images_lie_anywhere(tmp_path, place):
    data = images(fill(tmp_path, **{place: 20}))
    assert sum(sizes(data)) == 20
    assert sizes(data) == (14, 2, 4)
    assert known(data) == (False, False, False)
    assert set(data.train.targets.tolist()) == {UNLABELLED}
    assert data.classes == TEACHER


def test_names_of_folders_of_training_images_mean_nothing(tmp_path):
    one = images(fill(tmp_path / "one", monday=10, tuesday=10))
    assert one.classes == TEACHER
    assert sum(sizes(one)) == 20
    assert not one.train.labelled


def test_folders_named_val_and_test_are_held_out_and_labelled(tmp_path):
    data = images(fill(tmp_path, _=10, val__ant=2, val__bee=2, val__cat=1, test__ant=1, test__bee=3, test__cat=2))
    assert sizes(data) == (10, 5, 6)
    assert known(data) == (False, True, True)
    assert data.val.targets.tolist() == [0, 0, 1, 1, 2]
    assert data.test.targets.tolist() == [0, 1, 1, 1, 2, 2]


def test_a_validation_split_cut_out_of_train_has_no_labels(tmp_path):
    data = images(fill(tmp_path, train__x=20, test__ant=1, test__bee=3, test__cat=2))
    assert sizes(data) == (18, 2, 6)
    assert known(data) == (False, False, True)


def test_val_alone_is_the_test_split(tmp_path):
    data = images(fill(tmp_path, train=20, val__ant=1, val__bee=3, val__cat=2))
    assert sizes(data) == (18, 2, 6)
    assert known(data) == (False, False, True)
    assert "val/ is the test split; a validation split is cut out of train/" in data.notes


def test_held_out_images_may_have_no_labels_either(tmp_path):
    data = images(fill(tmp_path, _=10, test=4))
    assert sizes(data) == (9, 1, 4)
    assert known(data) == (False, False, False)


def test_targets_follow_the_teachers_classes_and_their_order(tmp_path):
    fill(tmp_path, _=10, test__ant=1, test__cat=2)
    data = images(tmp_path, ("cat", "bee", "ant"))
    assert data.classes == ("cat", "bee", "ant")
    assert sorted(data.test.targets.tolist()) == [0, 0, 2]
    assert "test has no images of: bee" in data.notes


def test_without_a_teachers_record_the_test_folders_name_the_classes(tmp_path):
    fill(tmp_path, _=10, test__ant=1, test__cat=2, val__dog=1)
    data = images(tmp_path, None)
    assert data.classes == ("ant", "cat", "dog")
    assert data.test.targets.tolist() == [0, 1, 1]
    assert data.val.targets.tolist() == [2]


def test_folders_that_the_teacher_does_not_know_are_the_sets_own_classes(tmp_path):
    assert images(fill(tmp_path, _=10, test__ant=1, test__owl=1)).classes == ("ant", "owl")


def test_subsets_of_images_without_labels(tmp_path):
    fill(tmp_path, _=40, val__ant=4, val__bee=4, val__cat=2, test__ant=1)
    data = images(tmp_path, subset=20)
    assert sizes(data) == (16, 4, 1)
    assert set(data.val.targets.tolist()) == {0, 1, 2}
    assert sum(sizes(images(tmp_path, subset=2 + 3))) == 5 + 1


def test_equal_files_give_equal_splits_and_labels_change_the_fingerprint(tmp_path):
    fill(tmp_path, ant=10, bee=10)
    one, again, other = images(tmp_path), images(tmp_path), images(tmp_path, split_seed=1)
    labelled = load(ImageSetConfig(name="image_folder", root=str(tmp_path)))
    assert one.fingerprint == again.fingerprint
    assert len({one.fingerprint, other.fingerprint, labelled.fingerprint}) == 3


def test_files_that_stay_on_disk_need_no_labels_either(tmp_path):
    data = images(fill(tmp_path, _=12, test__ant=3), in_memory="never")
    assert isinstance(data.train.inputs, list)
    assert known(data) == (False, False, True)
    assert len({data.fingerprint, images(tmp_path, in_memory="never", split_seed=1).fingerprint}) == 2


def test_digits_keep_their_splits_and_forget_the_labels_of_train_and_val():
    plain, bare = load(ImageSetConfig(name="digits")), load(ImageSetConfig(name="digits", labels=False))
    for part in ("train", "val", "test"):
        assert torch.equal(getattr(plain, part).index, getattr(bare, part).index)
        assert torch.equal(getattr(plain, part).inputs, getattr(bare, part).inputs)
    assert known(plain) == (True, True, True)
    assert known(bare) == (False, False, True)
    assert torch.equal(plain.test.targets, bare.test.targets)
    assert plain.classes == bare.classes
    assert plain.fingerprint != bare.fingerprint


# --- mixing


def batch(**augment):
    data = load(ImageSetConfig(name="digits", labels=False, subset=100))
    loader = ImageLoader(data.train, Augment(AugmentConfig(pad=1, **augment), 8, 10, 0), 16, 0, Place(torch.device("cpu")), ReadOptions(8))
    return next(loader(0))


def test_mixed_images_are_the_same_with_and_without_labels():
    data = load(ImageSetConfig(name="digits", subset=100))
    augment = Augment(AugmentConfig(pad=1, mixup=1.0, cutmix=1.0), 8, 10, 0)
    labelled = next(ImageLoader(data.train, augment, 16, 0, Place(torch.device("cpu")), ReadOptions(8))(0))
    assert torch.equal(labelled.inputs, batch(mixup=1.0, cutmix=1.0).inputs)


@pytest.mark.parametrize("augment", [{"mixup": 1.0}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}])
def test_mixed_targets_are_no_numbers_that_a_loss_could_learn_from(augment):
    found = batch(**augment)
    assert found.targets.shape == (15, 10)
    assert found.targets.isnan().all()


def test_unmixed_targets_name_no_class():
    assert batch().targets.tolist() == [UNLABELLED] * 15


# --- refused


def refused(root, classes=TEACHER, **config):
    with pytest.raises(DataError) as caught:
        images(root, classes, **config)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_nothing_names_the_classes(tmp_path):
    message = refused(fill(tmp_path, _=10), None)
    assert str(tmp_path) in message
    assert "teacher.checkpoint" in message
    assert "test/CLASS" in message


def test_a_folder_without_images(tmp_path):
    (tmp_path / "train").mkdir()
    fill(tmp_path, test__ant=1)
    assert f"no images under {tmp_path / 'train'}" in refused(tmp_path)


def test_too_few_images_to_be_split(tmp_path):
    assert "there are 2 images to be split into 3 parts" in refused(fill(tmp_path, _=2))


def test_a_folder_that_is_not_there(tmp_path):
    assert "no such folder" in refused(tmp_path / "nowhere")


def test_a_broken_image_is_named(tmp_path):
    fill(tmp_path, _=30)
    (tmp_path / "bad.png").write_bytes(b"")
    assert "bad.png: 0 bytes" in refused(tmp_path)
    assert sum(sizes(images(tmp_path, on_bad_image="skip"))) == 30


def test_images_without_class_folders_are_told_of_the_key(tmp_path):
    with pytest.raises(DataError, match=r"dataset\.labels=false"):
        load(ImageSetConfig(name="image_folder", root=str(fill(tmp_path, _=10))))
