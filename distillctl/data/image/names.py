"""What names of files and folders mean: a part of a set, something that is never read, a format that is read elsewhere."""

from __future__ import annotations

import re
import unicodedata
from os.path import splitext

from distillctl.data.forms import one_form
from distillctl.data.image.files import SUFFIXES, shown

# What people call the parts of a set, the most usual first: where a folder holds two of one part, the first of these is read.
PARTS = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "validate", "validating", "dev", "development", "eval", "evaluation"),
    "test": ("test", "testing", "tst", "holdout"),
}
BESIDE = "set|sets|data|dataset|images?|imgs?|pictures?|photos?|split|folder|files?|samples?|seg|jpe?g|png"  # as in train_images, TestSet
YEAR = "(19|20)[0-9]{2}"  # as in val2017
SHAPE = re.compile(rf"(?:(?:{BESIDE}) )*(?P<part>[a-z]+?)(?: ?(?:{BESIDE}))*(?: ?{YEAR})?")

# What systems and programs put beside images: thumbnails, forks, waste; with all that begins with a dot never read.
HIDDEN = frozenset({
    *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "__macosx", "@eadir", "#recycle", "$recycle.bin"),
    *("thumbs", "_thumbs", "__thumbs", "thumbnails", "_thumbnails", "system volume information", "lost+found", "icon\r", "__pycache__"),
})  # fmt: skip

# Photographs and drawings that are not read here, by their suffixes.
FOREIGN = frozenset({
    *(".heic", ".heif", ".hif", ".avif", ".jxl", ".jp2", ".j2k", ".jpf", ".jpx", ".svg", ".svgz", ".pdf", ".psd", ".psb"),
    *(".ai", ".eps", ".ico", ".icns", ".tga", ".dds", ".exr", ".hdr", ".raw", ".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw"),
    *(".arw", ".srf", ".sr2", ".orf", ".rw2", ".raf", ".pef", ".srw", ".x3f", ".dcm", ".xcf"),
})  # fmt: skip
CONVERT = "a format that is not read here: convert to JPEG or PNG"


def part_of(name: str) -> tuple[str, int] | None:
    """Which part of a set a folder's name speaks of, in any case, and how usual the word is for it: 0 the most; None for other names."""
    words = " ".join(re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", name).casefold()))
    found = SHAPE.fullmatch(words)
    for part, names in PARTS.items():
        if found and found["part"] in names:
            return part, 2 * names.index(found["part"]) + (words != found["part"])
    return None


def class_name(folder: str) -> str:
    """The class that a folder's name stands for: printable, and the same from every file system."""
    return one_form(shown(folder))


def is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in HIDDEN


def is_image(name: str) -> bool:
    return splitext(name)[1].lower() in SUFFIXES


def left_out(name: str) -> str:
    """What is said, after their number, of files that are no images by their names."""
    suffix = splitext(name)[1].lower()
    return f"{suffix} files were left out, {CONVERT}" if suffix in FOREIGN else "files that are not images were left out"
