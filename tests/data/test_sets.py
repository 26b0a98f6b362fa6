"""A set is loaded whole, split as documented, or refused in one line that names the key or the place."""

import gzip
import hashlib
import io
import os
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from distillctl.config import ImageSetConfig
from distillctl.data.cutting import cut, shares
from distillctl.data.image import decoding, facts, folder, reading, sets
from distillctl.data.image.sets import Split, known, load
from distillctl.data.split import whole
from distillctl.errors import BadSample, ConfigError, DataError, MachineError

PARTS = ("train", "val", "test")


def picture(path, seed, edge=8, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = edge if isinstance(edge, tuple) else (edge, edge)
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(values).save(path, **options)
    return path


def make(root, **counts):
    """A folder of noise: make(root, train={"ant": 3}, test={"ant": 1}), or make(root, ant=3) for classes at the root."""
    seed = 0
    for name, count in counts.items():
        for label, number in count.items() if isinstance(count, dict) else [("", count)]:
            for place in range(number):
                seed += 1
                picture(root / name / label / f"{place:04}.png", seed)
    return root


def images(root, **config):
    return load(ImageSetConfig(name="image_folder", root=str(root), **config))


def refused(error=DataError, **config):
    with pytest.raises(error) as caught:
        load(ImageSetConfig(**({"name": "image_folder"} | config)))
    assert type(caught.value) in {error, *error.__subclasses__(), *BadSample.__subclasses__()}
    message = str(caught.value)
    assert "\n" not in message
    return message


def lengths(data):
    return tuple(len(getattr(data, part)) for part in PARTS)


def same(a, b):
    return a.fingerprint == b.fingerprint and all(
        torch.equal(getattr(a, p).index, getattr(b, p).index) and torch.equal(getattr(a, p).inputs, getattr(b, p).inputs) for p in PARTS
    )


# --- splits


@given(st.lists(st.integers(1, 50), min_size=1, max_size=12), st.data())
@settings(max_examples=60, deadline=None)
def test_shares_add_up_within_their_bounds(sizes, data):
    low = [min(1, n) for n in sizes]
    total = data.draw(st.integers(sum(low), sum(sizes)))
    counts = shares(sizes, total, low, sizes)
    assert sum(counts) == total
    assert all(at_least <= count <= at_most for at_least, count, at_most in zip(low, counts, sizes, strict=True))


def test_shares_are_proportional():
    assert shares([10, 20, 70], 10, [1, 1, 1], [10, 20, 70]) == [1, 2, 7]
    assert shares([1, 1, 98], 10, [1, 1, 1], [1, 1, 98]) == [1, 1, 8]


def source(*sizes):
    return whole([Path(str(n)) for n in range(sum(sizes))], torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)))


def test_a_cut_parts_the_samples_and_keeps_their_order_and_names():
    rest, part = cut(source(10, 20), 6, 2, "key")
    assert sorted(rest.index.tolist() + part.index.tolist()) == list(range(30))
    assert rest.index.tolist() == sorted(rest.index.tolist())
    assert part.targets.tolist() == [0, 0, 1, 1, 1, 1]
    assert part.inputs == [Path(str(n)) for n in part.index.tolist()]


def test_a_cut_follows_its_key_and_nothing_else():
    state = torch.get_rng_state()
    assert cut(source(10, 20), 6, 2, "key")[1].index.tolist() == cut(source(10, 20), 6, 2, "key")[1].index.tolist()
    assert cut(source(10, 20), 6, 2, "key")[1].index.tolist() != cut(source(10, 20), 6, 2, "other")[1].index.tolist()
    assert torch.equal(state, torch.get_rng_state())


# --- digits


def test_digits_are_the_real_ones():
    data = load(ImageSetConfig(name="digits"))
    assert lengths(data) == (1294, 144, 359)
    assert data.classes == tuple("0123456789")
    assert data.image_size == 8
    assert isinstance(data.train, Split)
    assert data.train.inputs.shape == (1294, 3, 8, 8)
    assert data.train.inputs.dtype == torch.uint8
    assert (data.train.inputs.min(), data.train.inputs.max()) == (0, 255)
    assert data.train.targets.dtype == data.train.index.dtype == torch.int64
    values = data.train.inputs.double() / 255
    torch.testing.assert_close(torch.tensor(data.mean).double(), values.mean((0, 2, 3)))
    torch.testing.assert_close(torch.tensor(data.std).double(), values.std((0, 2, 3), correction=0))
    indices = torch.cat([data.train.index, data.val.index, data.test.index])
    assert sorted(indices.tolist()) == list(range(1797))


def test_the_test_split_of_digits_is_this_one_for_ever():
    data = load(ImageSetConfig(name="digits"))
    assert hashlib.sha256(str(data.test.index.tolist()).encode()).hexdigest()[:16] == "cdfff1dec107f00d"


def test_seed_and_subset_change_train_and_val_but_never_test():
    plain = load(ImageSetConfig(name="digits"))
    assert same(plain, load(ImageSetConfig(name="digits")))
    for config in ({"split_seed": 1}, {"subset": 100}, {"val_fraction": 0.3}):
        other = load(ImageSetConfig(name="digits", **config))
        assert other.test.index.tolist() == plain.test.index.tolist()
        assert other.val.index.tolist() != plain.val.index.tolist()
        assert other.fingerprint != plain.fingerprint


def test_an_index_names_the_same_image_in_every_subset():
    plain, small = load(ImageSetConfig(name="digits")), load(ImageSetConfig(name="digits", subset=200, split_seed=3))
    pixels = {}
    for part in (plain.train, plain.val, plain.test):
        pixels.update(zip(part.index.tolist(), part.inputs, strict=True))
    for part in (small.train, small.val, small.test):
        assert all(torch.equal(pixels[i], image) for i, image in zip(part.index.tolist(), part.inputs, strict=True))


@pytest.mark.parametrize("subset", [20, 21, 999, 1438])
def test_a_subset_has_exactly_its_size_and_every_class(subset):
    data = load(ImageSetConfig(name="digits", subset=subset))
    assert len(data.train) + len(data.val) == subset
    assert len(data.train.targets.unique()) == len(data.val.targets.unique()) == 10


def test_a_smaller_subset_with_the_same_seed_is_part_of_a_larger_one():
    small, large = (load(ImageSetConfig(name="digits", subset=n)) for n in (100, 1000))
    indices = [set(d.train.index.tolist()) | set(d.val.index.tolist()) for d in (small, large)]
    assert len(indices[0] - indices[1]) <= 10  # shares of a class may round differently, by one


@pytest.mark.parametrize("subset", [1, 19, 1439, 10**9])
def test_an_impossible_subset_names_key_size_and_classes(subset):
    message = refused(name="digits", subset=subset)
    assert f"dataset.subset={subset}" in message
    assert "10 classes" in message
    assert "1438" in message


def test_another_size_is_made_by_resizing():
    data = load(ImageSetConfig(name="digits", image_size=16))
    assert data.image_size == 16
    assert data.train.inputs.shape[1:] == (3, 16, 16)
    assert data.fingerprint != load(ImageSetConfig(name="digits")).fingerprint


def test_nothing_is_seen_in_three_pixels():
    assert "dataset.image_size=3" in refused(ConfigError, name="digits", image_size=3)


def test_a_mistyped_name_gets_a_hint():
    assert "did you mean cifar10" in refused(ConfigError, name="cifar_10")
    assert known() == ("cifar10", "cifar100", "digits", "fashion_mnist", "mnist", "image_folder")


# --- official files


class PythonTwo(pickle._Pickler):
    """Writes text and bytes as Python 2 did, as the published CIFAR files have them."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_old(self, value):
        data = value.encode("latin1") if isinstance(value, str) else value
        self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
        self.memoize(value)

    def save_global(self, value, name=None):
        old = {"_reconstruct": b"cnumpy.core.multiarray\n_reconstruct\n", "ndarray": b"cnumpy\nndarray\n", "dtype": b"cnumpy\ndtype\n"}
        self.write(old[getattr(value, "__name__", name)])
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_old


def old_pickle(value):
    file = io.BytesIO()
    PythonTwo(file, protocol=2).dump(value)
    return file.getvalue()


def md5(content):
    return hashlib.md5(content).hexdigest()


def batch(seed, labels, key):
    pixels = np.random.default_rng(seed).integers(0, 256, (len(labels), 3072), dtype=np.uint8)
    return {"batch_label": f"batch {seed}", "data": pixels, key: list(labels), "filenames": [f"{seed}.png"]}


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """Small files in the official layout, and torchvision's table of checksums for them. Returns (root, files, table as written)."""
    from torchvision import datasets

    files = {f"data_batch_{n}": old_pickle(batch(n, list(range(10)) * 2, "labels")) for n in range(1, 6)}
    files["test_batch"] = old_pickle(batch(9, range(10), "labels"))
    files["batches.meta"] = old_pickle({"label_names": [f"class {n}" for n in range(10)], "num_vis": 3072})

    def publish():
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w:gz") as tar:
            for name, content in {**files, "readme.html": b"hello"}.items():
                info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            link = tarfile.TarInfo("cifar-10-batches-py/../../escaped")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc"
            tar.addfile(link)
        (tmp_path / "server").mkdir(exist_ok=True)
        (tmp_path / "server/cifar-10-python.tar.gz").write_bytes(archive.getvalue())
        monkeypatch.setattr(datasets.CIFAR10, "url", (tmp_path / "server/cifar-10-python.tar.gz").as_uri())
        monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", md5(archive.getvalue()))
        monkeypatch.setattr(datasets.CIFAR10, "train_list", [[f"data_batch_{n}", md5(files[f"data_batch_{n}"])] for n in range(1, 6)])
        monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", md5(files["test_batch"])]])
        monkeypatch.setattr(datasets.CIFAR10, "meta", dict(datasets.CIFAR10.meta, md5=md5(files["batches.meta"])))

    publish()
    root = tmp_path / "root"
    (root / "cifar-10-batches-py").mkdir(parents=True)
    for name, content in files.items():
        (root / "cifar-10-batches-py" / name).write_bytes(content)
    return root, files, publish


def test_cifar_files_are_read_in_order(cifar):
    root, files, _ = cifar
    data = load(ImageSetConfig(name="cifar10", root=str(root), download=False))
    assert lengths(data) == (90, 10, 10)
    assert data.classes == tuple(f"class {n}" for n in range(10))
    assert data.image_size == 32
    expected = np.concatenate([batch(n, list(range(10)) * 2, "labels")["data"] for n in range(1, 6)]).reshape(-1, 3, 32, 32)
    assert torch.equal(data.train.inputs, torch.from_numpy(expected)[data.train.index])
    assert data.test.targets.tolist() == list(range(10))


def test_cifar100_uses_the_fine_labels(tmp_path, monkeypatch):
    from torchvision import datasets

    train, test = (old_pickle(batch(n, list(range(100)) * 2, "fine_labels")) for n in (0, 1))
    meta = old_pickle({"fine_label_names": [f"fine {n}" for n in range(100)], "coarse_label_names": ["coarse"]})
    monkeypatch.setattr(datasets.CIFAR100, "train_list", [["train", md5(train)]])
    monkeypatch.setattr(datasets.CIFAR100, "test_list", [["test", md5(test)]])
    monkeypatch.setattr(datasets.CIFAR100, "meta", dict(datasets.CIFAR100.meta, md5=md5(meta)))
    (tmp_path / "cifar-100-python").mkdir()
    for name, content in (("train", train), ("test", test), ("meta", meta)):
        (tmp_path / "cifar-100-python" / name).write_bytes(content)
    data = load(ImageSetConfig(name="cifar100", root=str(tmp_path), download=False))
    assert lengths(data) == (100, 100, 200)  # one of each class at least, in validation
    assert data.classes[99] == "fine 99"


class Marker:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_code_in_a_cifar_batch_is_refused_by_its_checksum_and_not_run(cifar, tmp_path):
    root, _, _ = cifar
    (root / "cifar-10-batches-py/data_batch_3").write_bytes(pickle.dumps(Marker(tmp_path / "ran")))
    assert "data_batch_3" in refused(name="cifar10", root=str(root))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("member", ["data_batch_3", "batches.meta"])
def test_code_with_the_right_checksum_is_not_run_either(cifar, tmp_path, member):
    root, files, publish = cifar
    files[member] = pickle.dumps(Marker(tmp_path / "ran"))
    publish()
    (root / "cifar-10-batches-py" / member).write_bytes(files[member])
    assert member in refused(name="cifar10", root=str(root))
    assert not (tmp_path / "ran").exists()


def test_a_label_that_names_no_class_is_found(cifar):
    root, files, publish = cifar
    files["test_batch"] = old_pickle(batch(9, [0, 10], "labels"))
    publish()
    (root / "cifar-10-batches-py/test_batch").write_bytes(files["test_batch"])
    assert "10 classes" in refused(name="cifar10", root=str(root))


def test_cifar_is_downloaded_unpacked_and_found_again(cifar, tmp_path, monkeypatch):
    root, _, _ = cifar
    fresh = tmp_path / "fresh"
    data = load(ImageSetConfig(name="cifar10", root=str(fresh)))
    assert same(data, load(ImageSetConfig(name="cifar10", root=str(root), download=False)))
    left = sorted(str(path.relative_to(fresh)) for path in fresh.rglob("*") if path.is_file())
    batches = [f"cifar-10-batches-py/data_batch_{n}" for n in range(1, 6)]
    assert left == ["cifar-10-batches-py/batches.meta", *batches, "cifar-10-batches-py/test_batch", "cifar-10-python.tar.gz"]
    assert not (tmp_path / "escaped").exists()


def test_a_failed_download_says_what_to_do_and_leaves_nothing(cifar, tmp_path, monkeypatch):
    from torchvision import datasets

    monkeypatch.setattr(datasets.CIFAR10, "url", (tmp_path / "nowhere.tar.gz").as_uri())
    message = refused(MachineError, name="cifar10", root=str(tmp_path / "fresh"))
    assert message.startswith("could not download cifar10 (")
    assert f"put cifar-10-batches-py in {tmp_path / 'fresh'}, or use dataset=image_folder" in message
    assert list((tmp_path / "fresh").rglob("*")) == []


def test_a_download_with_other_bytes_is_removed(cifar, tmp_path):
    (tmp_path / "server/cifar-10-python.tar.gz").write_bytes(b"a login page")
    assert "not the published file" in refused(MachineError, name="cifar10", root=str(tmp_path / "fresh"))
    assert list((tmp_path / "fresh").rglob("*")) == []


def test_without_download_the_missing_folder_is_named(tmp_path):
    message = refused(name="cifar10", root=str(tmp_path), download=False)
    assert "cifar-10-batches-py" in message
    assert "dataset.download" in message


def idx(values):
    return bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def write_mnist(root, name, monkeypatch, zipped):
    from torchvision import datasets

    contents = {}
    for part, count in (("train", 40), ("t10k", 20)):
        pixels = np.random.default_rng(count).integers(0, 256, (count, 28, 28), dtype=np.uint8)
        contents[f"{part}-images-idx3-ubyte"] = idx(pixels)
        contents[f"{part}-labels-idx1-ubyte"] = idx((np.arange(count) % 10).astype(np.uint8))
    table, folder = [], root / name / "raw"
    folder.mkdir(parents=True)
    for file, content in contents.items():
        packed = gzip.compress(content, mtime=0)
        table.append((f"{file}.gz", md5(packed)))
        (folder / (f"{file}.gz" if zipped else file)).write_bytes(packed if zipped else content)
    monkeypatch.setattr(getattr(datasets, name), "resources", table)
    return folder


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(("name", "place"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_mnist_files_are_read_gzipped_or_not(tmp_path, monkeypatch, name, place, zipped):
    write_mnist(tmp_path, place, monkeypatch, zipped)
    data = load(ImageSetConfig(name=name, root=str(tmp_path), download=False))
    assert lengths(data) == (30, 10, 20)
    assert data.image_size == 28
    assert torch.equal(data.test.inputs[:, 0], data.test.inputs[:, 2])
    expected = np.random.default_rng(20).integers(0, 256, (20, 28, 28), dtype=np.uint8)
    assert torch.equal(data.test.inputs[:, 1], torch.from_numpy(expected))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_cut_mnist_file_is_refused(tmp_path, monkeypatch, zipped):
    folder = write_mnist(tmp_path, "MNIST", monkeypatch, zipped)
    file = sorted(folder.iterdir())[0]
    file.write_bytes(file.read_bytes()[:-5])
    assert file.name in refused(name="mnist", root=str(tmp_path))


# --- image folders


def test_train_and_test_folders_give_three_splits(tmp_path):
    data = images(make(tmp_path, train={"ant": 20, "bee": 10}, test={"ant": 3, "bee": 4}))
    assert lengths(data) == (27, 3, 7)
    assert data.classes == ("ant", "bee")
    assert data.image_size == 8
    assert isinstance(data.train.inputs, torch.Tensor)
    assert data.test.index.tolist() == list(range(7))
    assert data.notes == []


def test_val_is_the_test_split_where_there_is_no_other(tmp_path):
    data = images(make(tmp_path, train={"ant": 20, "bee": 10}, val={"ant": 3, "bee": 4}))
    assert lengths(data) == (27, 3, 7)
    assert any("val/ is the test split" in note for note in data.notes)


def test_three_folders_are_used_as_named(tmp_path):
    root = make(tmp_path, train={"ant": 20, "bee": 10}, val={"ant": 5, "bee": 5}, test={"ant": 3, "bee": 4})
    assert lengths(images(root)) == (30, 10, 7)
    subset = images(root, subset=12)
    assert lengths(subset) == (9, 3, 7)
    assert lengths(images(root, subset=40)) == (30, 10, 7)


def test_classes_at_the_root_are_cut_twice_and_the_test_split_knows_no_seed(tmp_path):
    make(tmp_path, ant=30, bee=20)
    data, other = images(tmp_path), images(tmp_path, split_seed=7)
    assert lengths(data) == (36, 4, 10)
    assert data.test.index.tolist() == other.test.index.tolist()
    assert data.val.index.tolist() != other.val.index.tolist()
    assert same(data, images(tmp_path))


def test_a_class_of_trains_is_no_training_split(tmp_path):
    data = images(make(tmp_path, bus=10, train=10))
    assert data.classes == ("bus", "train")


def test_the_fingerprint_follows_the_content_and_not_the_place(tmp_path):
    first, second = make(tmp_path / "a", ant=10, bee=10), make(tmp_path / "b", ant=10, bee=10)
    for memory in ("always", "never"):
        assert images(first, in_memory=memory).fingerprint == images(second, in_memory=memory).fingerprint
    before = images(first).fingerprint
    picture(first / "ant/0000.png", 999)
    assert images(first).fingerprint != before
    (second / "bee").rename(second / "wasp")
    assert images(second, in_memory="never").fingerprint != images(first, in_memory="never").fingerprint


def test_files_stay_on_disk_when_asked_or_when_large(tmp_path):
    make(tmp_path, ant=10, bee=10)
    small = images(tmp_path, in_memory="never")
    assert small.image_size == 8
    assert all(isinstance(path, Path) for path in small.train.inputs)
    assert small.mean == sets.IMAGENET_MEAN
    assert images(tmp_path, image_size=100).train.inputs[0] == small.train.inputs[0]
    assert images(tmp_path, image_size=100, in_memory="always").train.inputs.shape[1:] == (3, 100, 100)


def test_images_of_several_sizes_get_the_usual_one(tmp_path):
    make(tmp_path, ant=10, bee=10)
    picture(tmp_path / "bee/odd.png", 1, edge=(8, 9))
    data = images(tmp_path)
    assert data.image_size == 224
    assert isinstance(data.train.inputs, list)
    assert images(tmp_path, image_size=8).train.inputs.shape[1:] == (3, 8, 8)


def test_too_much_for_the_memory_is_said_before_it_is_tried(tmp_path, monkeypatch):
    make(tmp_path, ant=10, bee=10)
    monkeypatch.setattr(os, "sysconf", lambda name: 64)
    assert "dataset.in_memory=always" in refused(MachineError, root=str(tmp_path), in_memory="always")


def test_a_missing_root_is_named_with_its_key(tmp_path, monkeypatch):
    assert refused(root=str(tmp_path / "x")) == f"dataset.root={tmp_path / 'x'}: no such folder"
    (tmp_path / "file").touch()
    assert "not a folder" in refused(root=str(tmp_path / "file"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DISTILLCTL_DATA", raising=False)
    assert "dataset.root is not set; ./data: no such folder" in refused()
    monkeypatch.setenv("DISTILLCTL_DATA", str(tmp_path / "y"))
    assert "DISTILLCTL_DATA=" in refused()


def test_the_variable_names_the_root(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILLCTL_DATA", str(make(tmp_path, ant=10, bee=10)))
    assert len(load(ImageSetConfig(name="image_folder")).classes) == 2


@pytest.mark.parametrize("folders", [[], ["train"], ["train", "test"]])
def test_an_empty_root_says_what_was_expected(tmp_path, folders):
    for name in folders:
        (tmp_path / name).mkdir()
    message = refused(root=str(tmp_path))
    assert "no images under" in message
    assert f"expected {tmp_path}/train/CLASS/*.jpg" in message


def test_val_without_train_is_an_error(tmp_path):
    assert "no train folder" in refused(root=str(make(tmp_path, val={"ant": 3, "bee": 3})))


def test_one_class_is_not_enough(tmp_path):
    assert "only one class, ant" in refused(root=str(make(tmp_path, train={"ant": 5})))


@pytest.mark.parametrize("part", ["train", "test"])
def test_an_empty_class_folder_is_named(tmp_path, part):
    make(tmp_path, train={"ant": 5, "bee": 5}, test={"ant": 2, "bee": 2})
    for path in (tmp_path / part / "bee").iterdir():
        path.unlink()
    assert f"{part}/bee" in refused(root=str(tmp_path))


@pytest.mark.parametrize("part", ["val", "test"])
def test_a_class_that_train_lacks_is_an_error(tmp_path, part):
    make(tmp_path, train={"ant": 5, "bee": 5}, val={"ant": 2}, test={"ant": 2})
    picture(tmp_path / part / "wasp/1.png", 7)
    assert "wasp" in refused(root=str(tmp_path))


def test_a_class_missing_in_test_is_a_note_and_moves_no_other(tmp_path):
    data = images(make(tmp_path, train={"ant": 5, "bee": 5, "cat": 5}, test={"ant": 2, "cat": 2}))
    assert data.test.targets.tolist() == [0, 0, 2, 2]
    assert "test has no images of: bee" in data.notes


def test_a_class_too_small_to_split_is_named(tmp_path):
    assert "class bee has 2 images" in refused(root=str(make(tmp_path / "a", ant=9, bee=2)))
    assert "class bee has 1 image " in refused(root=str(make(tmp_path / "b", train={"ant": 9, "bee": 1}, test={"ant": 1})))
    assert lengths(images(make(tmp_path / "c", ant=9, bee=3))) == (8, 2, 2)


def test_hidden_and_other_files_are_left_out_and_counted(tmp_path):
    make(tmp_path, train={"ant": 5, "bee": 5}, test={"ant": 2, "bee": 2})
    picture(tmp_path / "train/.ipynb_checkpoints/1.png", 50)
    (tmp_path / "train/ant/._0001.png").write_bytes(b"resource fork")
    (tmp_path / "train/ant/Thumbs.db").touch()
    (tmp_path / "train/bee/labels.csv").touch()
    picture(tmp_path / "train/loose.png", 51)
    (tmp_path / "extra").mkdir()
    data = images(tmp_path)
    assert data.classes == ("ant", "bee")
    assert data.notes == [
        "1 files that are not images were left out",
        "3 hidden files or folders were left out",
        "1 images outside the class folders were left out",
        "folders that were not read: extra",
    ]


def spoil(root):
    """Three bad files among forty."""
    make(root, train={"ant": 20, "bee": 20}, test={"ant": 2, "bee": 2})
    (root / "train/ant/0003.png").write_bytes(b"")
    (root / "train/ant/0004.png").write_text("<html>")
    bad = root / "train/bee/0005.png"
    bad.write_bytes(bad.read_bytes()[:-60])
    return root


@pytest.mark.parametrize("memory", ["always", "never"])
def test_bad_images_are_skipped_counted_and_listed(tmp_path, memory):
    data = images(spoil(tmp_path), on_bad_image="skip", in_memory=memory)
    assert len(data.train) + len(data.val) == 37
    assert {3, 4, 25}.isdisjoint(data.train.index.tolist() + data.val.index.tolist())
    assert max(data.train.index.tolist() + data.val.index.tolist()) == 39
    assert any("3 of 40 images" in note for note in data.notes)
    assert sum(".png: " in note for note in data.notes) == 3


def test_bad_images_are_errors_by_default(tmp_path):
    spoil(tmp_path)
    assert "ant/0003.png: 0 bytes" in refused(root=str(tmp_path))
    (tmp_path / "train/ant/0003.png").unlink()
    message = refused(root=str(tmp_path))
    assert "ant/0004.png: HTML" in message
    assert "dataset.on_bad_image=skip" in message


def test_on_disk_only_empty_files_are_found_beforehand(tmp_path):
    spoil(tmp_path)
    assert "0 bytes" in refused(root=str(tmp_path), in_memory="never", image_size=8)
    (tmp_path / "train/ant/0003.png").unlink()
    assert len(images(tmp_path, in_memory="never", image_size=8).train) == 35


def test_more_than_a_tenth_bad_is_an_error_all_the_same(tmp_path):
    spoil(tmp_path)
    for n in range(10, 13):
        (tmp_path / f"train/ant/{n:04}.png").write_bytes(b"x")
    message = refused(root=str(tmp_path), on_bad_image="skip")
    assert "6 of 40" in message
    assert "10%" in message


def test_too_many_pixels_name_the_key(tmp_path):
    make(tmp_path, ant=10, bee=10)
    assert "dataset.max_pixels=63" in refused(root=str(tmp_path), max_pixels=63)


def test_links_are_followed_but_never_twice(tmp_path):
    make(tmp_path / "set", train={"ant": 5, "bee": 5}, test={"ant": 2, "bee": 2})
    (tmp_path / "set/train/ant/loop").symlink_to(".")
    (tmp_path / "set/train/ant/aaa").symlink_to("../bee")
    (tmp_path / "set/train/ant/up").symlink_to("../..")
    (tmp_path / "set/train/ant/self").symlink_to("self")
    picture(tmp_path / "elsewhere/more.png", 70)
    (tmp_path / "set/train/ant/more").symlink_to(tmp_path / "elsewhere")
    data = images(tmp_path / "set")
    targets = torch.cat([data.train.targets, data.val.targets])
    everything = torch.bincount(targets).tolist()
    assert everything[1] == 5
    assert any("links to folders already read" in note for note in data.notes)
    assert any("lead out of the folder" in note for note in data.notes)


def test_a_link_that_leads_nowhere_is_a_bad_image(tmp_path):
    make(tmp_path, ant=20, bee=20)
    (tmp_path / "ant/lost.png").symlink_to("nowhere")
    assert "ant/lost.png: no such file" in refused(root=str(tmp_path))
    assert any("1 of 41 images" in note for note in images(tmp_path, on_bad_image="skip").notes)


@pytest.mark.skipif(os.name != "posix" or os.uname().sysname == "Darwin", reason="names are text on this system")
def test_names_of_any_bytes_are_read_and_can_be_shown(tmp_path):
    make(tmp_path, ant=10, bee=10)
    os.rename(tmp_path / "bee", os.fsencode(tmp_path) + b"/b\xe9\xff")
    os.rename(tmp_path / "ant/0000.png", os.fsencode(tmp_path) + b"/ant/" + b"\xfe" * 200 + b".png")
    for memory in ("always", "never"):
        data = images(tmp_path, in_memory=memory)
        "".join([*data.classes, *data.notes]).encode("utf-8")
    os.truncate(os.fsencode(tmp_path) + b"/ant/" + b"\xfe" * 200 + b".png", 0)
    refused(root=str(tmp_path)).encode("utf-8")


@pytest.mark.parametrize("memory", ["always", "never"])
def test_the_same_image_in_train_and_test_is_noted(tmp_path, memory):
    make(tmp_path, train={"ant": 5, "bee": 5}, test={"ant": 2, "bee": 2})
    (tmp_path / "test/ant/0000.png").write_bytes((tmp_path / "train/bee/0001.png").read_bytes())
    data = images(tmp_path, in_memory=memory)
    assert data.notes == ["1 test images are in the training or validation split too"]


def test_duplicates_are_not_looked_for_in_a_million_files(monkeypatch):
    monkeypatch.setattr(facts, "MOST_HEADS", 2)
    parts = [[Path("a"), Path("b")], [], [Path("c")]]
    assert "not looked for" in facts.duplicate_files(parts, dict.fromkeys([Path("a"), Path("b"), Path("c")], 9))[0]


def test_conversions_are_counted(tmp_path):
    make(tmp_path, ant=10, bee=10)
    Image.new("L", (8, 8), 3).save(tmp_path / "ant/gray.png")
    Image.new("RGBA", (8, 8), (1, 2, 3, 4)).save(tmp_path / "ant/clear.png")
    assert images(tmp_path).notes == ["1 images were converted: gray", "1 images were converted: transparent"]


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    make(tmp_path, ant=10, bee=10)
    scan = os.scandir

    def scandir(path):
        if os.fspath(path).endswith("bee"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert "bee: permission denied" in refused(root=str(tmp_path))


def test_real_images_load_into_memory(tmp_path, real_data):
    archive = real_data / "cifar10-mini.zip"
    with zipfile.ZipFile(archive) as members:
        members.extractall(tmp_path, [name for name in members.namelist() if "/cat/" in name or "/dog/" in name])
    data = images(tmp_path)
    assert data.classes == ("cat", "dog")
    assert data.image_size == 32
    assert lengths(data) == (360, 40, 100)
    assert all(0.3 < mean < 0.6 for mean in data.mean)


# --- folders as people have them

LIKE = {"ant": 5, "bee": 5}


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("Training", None, "Testing"),
        ("TRAIN", "VAL", "TEST"),
        ("Train", "valid", "test"),
        ("train_images", "validation", "test_images"),
        ("training_set", None, "test_set"),
        ("trainset", "dev", "testset"),
        ("train2017", "val2017", None),
        ("Train", "Val", None),
        ("seg_train", None, "seg_test"),
    ],
)
def test_parts_are_known_by_the_names_that_people_use(tmp_path, train, val, test):
    held_out = {name: {"ant": 2, "bee": 2} for name in (val, test) if name}
    data = images(make(tmp_path, **{train: LIKE}, **held_out, other={"pictures": 2}))
    assert data.classes == ("ant", "bee")
    assert lengths(data) == ((10, 4, 4) if val and test else (8, 2, 4))
    assert "folders that were not read: other" in data.notes


def test_of_two_folders_for_a_part_the_usual_name_is_read_and_equals_are_refused(tmp_path):
    make(tmp_path, train=LIKE, val={"ant": 2}, dev={"ant": 3, "bee": 3}, test={"ant": 1})
    data = images(tmp_path)
    assert len(data.val) == 2
    assert any("not read: dev" in note for note in data.notes)
    make(tmp_path, Val={"ant": 1})
    assert "Val and val are both val folders; rename or remove one" in refused(root=str(tmp_path))


@pytest.mark.parametrize("names", [("Training", "Testing"), ("train", "test"), ("Training", "photos"), ("train_set", "bus", "car")])
def test_training_images_and_others_are_no_classes(tmp_path, names):
    for name in names:
        make(tmp_path, **{name: 5})
    message = refused(root=str(tmp_path))
    assert f"{names[0]}/CLASS/*.jpg" in message
    assert "dataset.labels=false" in message


def test_test_images_in_no_class_folders_are_left_out_and_said(tmp_path):
    data = images(make(tmp_path, train=LIKE, test=7))
    assert lengths(data) == (6, 2, 2)
    assert any("not read: test" in note for note in data.notes)


@pytest.mark.parametrize("inside", ["archive", "a/b c"])
def test_a_folder_that_an_archive_brought_along_is_entered(tmp_path, inside):
    make(tmp_path / inside, Training=LIKE, Testing={"ant": 2, "bee": 2})
    data = images(tmp_path)
    assert lengths(data) == (8, 2, 4)
    assert f"read: {tmp_path / inside}, all that {tmp_path} holds" in data.notes


def test_a_part_that_holds_itself_is_entered(tmp_path):
    data = images(make(tmp_path, **{"training_set/training_set": LIKE, "test_set/test_set": {"ant": 2, "bee": 2}}))
    assert data.classes == ("ant", "bee")


COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"


def test_class_names_in_two_unicode_forms_are_one_class(tmp_path):
    data = images(make(tmp_path, train={COMPOSED: 5, "bee": 5, DECOMPOSED: 4}, test={DECOMPOSED: 2, "bee": 1}))
    assert data.classes == ("bee", COMPOSED)
    assert data.test.targets.tolist() == [0, 1, 1]
    assert torch.bincount(torch.cat([data.train.targets, data.val.targets])).tolist() == [5, 9]
    assert any("other Unicode characters" in note for note in data.notes)


def test_thumbnails_and_what_systems_leave_are_never_read(tmp_path):
    make(tmp_path, ant=10, bee=10)
    names = (
        "__MACOSX/ant/._1.png",
        "ant/@eaDir/0001.png",
        "ant/.thumbs/1.png",
        "bee/Thumbnails/1.png",
        "$RECYCLE.BIN/1.png",
        "bee/._2.png",
    )
    for number, name in enumerate(names):
        picture(tmp_path / name, 90 + number)
    data = images(tmp_path)
    assert data.classes == ("ant", "bee")
    assert sum(lengths(data)) == 20
    assert "6 hidden files or folders were left out" in data.notes
    assert len(folder.images_below(tmp_path)[0]) == 20


def test_photos_in_other_formats_are_named_with_what_to_do(tmp_path):
    make(tmp_path, ant=10, bee=10)
    for name in ("ant/1.HEIC", "ant/2.heic", "bee/3.avif", "bee/notes.txt"):
        (tmp_path / name).write_bytes(b"1234ftypheic")
    notes = images(tmp_path).notes
    assert "2 .heic files were left out, a format that is not read here: convert to JPEG or PNG" in notes
    assert "1 .avif files were left out, a format that is not read here: convert to JPEG or PNG" in notes
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat/1.heic").write_bytes(b"x")
    assert "cat: no images in this class folder (1 .heic files were left out" in refused(root=str(tmp_path))


def measured(root, classes, learned=None, **config):
    return sets.load_to_measure(ImageSetConfig(name="image_folder", root=str(root), **config), classes, learned).by_classes(classes)


@pytest.mark.parametrize("place", [{"Test": {"cat": 3, "ant": 2}}, {"cat": 3, "ant": 2}, {"val": {"ant": 2}, "test": {"cat": 3}}])
@pytest.mark.parametrize("memory", ["always", "never"])
def test_a_folder_without_training_images_is_measured_whole_by_the_models_classes(tmp_path, place, memory):
    data = measured(make(tmp_path, **place), ["dog", "cat", "bee", "ant"], in_memory=memory, image_size=8)
    assert lengths(data) == (0, 0, 5)
    assert data.classes == ("dog", "cat", "bee", "ant")
    assert sorted(data.test.targets.tolist()) == [1, 1, 1, 3, 3]
    assert "nothing here is of the classes: dog, bee" in data.notes


def test_new_images_of_any_size_are_seen_as_the_model_sees_them(tmp_path):
    make(tmp_path, cat=3)
    picture(tmp_path / "cat/large.png", 70, edge=(90, 120))
    config = ImageSetConfig(name="image_folder", root=str(tmp_path))
    assert sets.load_to_measure(config, ["dog", "cat"], {}, size=16).test.inputs.shape == (4, 3, 16, 16)


def test_one_class_alone_can_be_measured(tmp_path):
    assert measured(make(tmp_path, cat=3), ["dog", "cat"]).test.targets.tolist() == [1, 1, 1]


def test_a_class_that_the_model_does_not_know_is_named(tmp_path):
    make(tmp_path, cat=3, wasp=2)
    with pytest.raises(DataError, match="the model knows no class wasp"):
        measured(tmp_path, ["dog", "cat"])


def test_what_a_model_learned_from_keeps_its_split_also_in_another_place(tmp_path):
    trained = images(make(tmp_path / "a", ant=10, bee=10))
    learned = {"name": "image_folder", "root": str(tmp_path / "a"), "fingerprint": trained.fingerprint}
    assert same(measured(tmp_path / "a", trained.classes, learned), trained)
    os.rename(tmp_path / "a", tmp_path / "b")
    assert same(measured(tmp_path / "b", trained.classes, learned), trained)
    picture(tmp_path / "b/ant/new.png", 99)
    assert lengths(measured(tmp_path / "b", trained.classes, learned)) == (0, 0, 21)


@pytest.mark.parametrize("part", ["val", "test"])
def test_a_bad_image_to_measure_by_is_found_before_training(tmp_path, part):
    make(tmp_path, train=LIKE, val=LIKE, test=LIKE)
    bad = tmp_path / part / "ant/0003.png"
    bad.write_bytes(bad.read_bytes()[:-60])
    message = refused(root=str(tmp_path), in_memory="never", image_size=8)
    assert f"{part}/ant/0003.png: " in message
    assert "mend or remove it, or set dataset.on_bad_image=skip" in message
    assert lengths(images(tmp_path, in_memory="never", image_size=8, on_bad_image="skip")) == tuple(10 - (part == name) for name in PARTS)


def test_a_truncated_jpeg_is_found_at_an_eighth_of_its_size(tmp_path):
    files = [picture(tmp_path / f"{n}.jpg", n, edge=256) for n in range(3)]
    files[1].write_bytes(files[1].read_bytes()[:-2000])
    assert list(decoding.checked(files, 10**6)) == [files[1]]


def test_what_was_decoded_is_remembered_until_a_file_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILLCTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(decoding, "WORTH_KEEPING_S", -1)
    files = [picture(tmp_path / f"{n}.png", n) for n in range(3)]
    files[1].write_bytes(b"no image")
    found = decoding.checked(files, 10**6)
    assert list(found) == [files[1]]
    with monkeypatch.context() as patched:
        patched.setattr(reading, "unreadable", None)  # a second look would be an error
        assert decoding.checked(files, 10**6) == found
    picture(files[1], 1)
    assert decoding.checked(files, 10**6) == {}
    (kept,) = [file for file in (tmp_path / "cache/decoded").iterdir() if file.read_text().strip() == "{}"]
    kept.write_text('{"0": ')
    assert decoding.checked(files, 10**6) == {}


def test_a_part_of_the_test_split_is_measured_on_and_training_is_as_before():
    whole = sets.load(ImageSetConfig(name="digits"))
    part = sets.load(ImageSetConfig(name="digits", test_subset=40))
    assert torch.equal(part.train.index, whole.train.index)
    assert torch.equal(part.val.index, whole.val.index)
    assert len(part.test) == 40
    assert set(part.test.index.tolist()) < set(whole.test.index.tolist())
    assert part.test.sizes(10) == [4] * 10


@pytest.mark.parametrize("wanted", [9, 360])
def test_a_part_of_the_test_split_has_every_class_and_is_a_part(wanted):
    with pytest.raises(DataError, match=rf"dataset.test_subset={wanted}: must be from 10 .* to 359"):
        sets.load(ImageSetConfig(name="digits", test_subset=wanted))
