"""What names of images and of their folders mean: a class, an image, a format that is read elsewhere."""

from __future__ import annotations

from os.path import splitext

from distillctl.data.forms import one_form
from distillctl.data.image.files import SUFFIXES, shown

# Photographs and drawings that are not read here, by their suffixes.
FOREIGN = frozenset({
    *(".heic", ".heif", ".hif", ".avif", ".jxl", ".jp2", ".j2k", ".jpf", ".jpx", ".svg", ".svgz", ".pdf", ".psd", ".psb"),
    *(".ai", ".eps", ".ico", ".icns", ".tga", ".dds", ".exr", ".hdr", ".raw", ".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw"),
    *(".arw", ".srf", ".sr2", ".orf", ".rw2", ".raf", ".pef", ".srw", ".x3f", ".dcm", ".xcf"),
})  # fmt: skip
CONVERT = "a format that is not read here: convert to JPEG or PNG"


def class_name(folder: str) -> str:
    """The class that a folder's name stands for: printable, and the same from every file system."""
    return one_form(shown(folder))


def is_image(name: str) -> bool:
    return splitext(name)[1].lower() in SUFFIXES


def left_out(name: str) -> str:
    """What is said, after their number, of files that are no images by their names."""
    suffix = splitext(name)[1].lower()
    return f"{suffix} files were left out, {CONVERT}" if suffix in FOREIGN else "files that are not images were left out"
