"""What names of files and folders mean, whatever kind of samples they hold: a part of a set, something that is never read."""

from __future__ import annotations

import re
import unicodedata

# What people call the parts of a set, the most usual first: where a folder holds two of one part, the first of these is read.
PARTS = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "validate", "validating", "dev", "development", "eval", "evaluation"),
    "test": ("test", "testing", "tst", "holdout"),
}
BESIDE = "set|sets|data|dataset|texts?|sentences?|images?|imgs?|pictures?|photos?|split|folder|files?|samples?|seg|jpe?g|png"  # as in train_images, TestSet
YEAR = "(19|20)[0-9]{2}"  # as in val2017
SHAPE = re.compile(rf"(?:(?:{BESIDE}) )*(?P<part>[a-z]+?)(?: ?(?:{BESIDE}))*(?: ?{YEAR})?")

# What systems and programs put beside images: thumbnails, forks, waste; with all that begins with a dot never read.
HIDDEN = frozenset({
    *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "__macosx", "@eadir", "#recycle", "$recycle.bin"),
    *("thumbs", "_thumbs", "__thumbs", "thumbnails", "_thumbnails", "system volume information", "lost+found", "icon\r", "__pycache__"),
})  # fmt: skip


def part_of(name: str) -> tuple[str, int] | None:
    """Which part of a set a folder's name speaks of, in any case, and how usual the word is for it: 0 the most; None for other names."""
    words = " ".join(re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", name).casefold()))
    found = SHAPE.fullmatch(words)
    for part, names in PARTS.items():
        if found and found["part"] in names:
            return part, 2 * names.index(found["part"]) + (words != found["part"])
    return None


def is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in HIDDEN
