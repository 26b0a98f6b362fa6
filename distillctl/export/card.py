"""The model card beside an exported file: what it is, how good, how it is used and what is not known of it. What was not given is not said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from distillctl.export.licences import Origin, licence_note
from distillctl.export.markdown import code_block, plain, table
from distillctl.metrics.metric import METRICS
from distillctl.models.record import Record

SHARES = ("top1", "top5", "robust_top1", "agreement")  # whose standard error follows from n
SPLITS = {"train": "training", "val": "validation", "test": "test"}
MOST_NAMES = 20  # classes that are named in the card; labels.txt has all


@dataclass(frozen=True)
class Teacher:
    """Who taught. top1: on the same images as the student's figures; n: how many."""

    name: str
    top1: float | None = None
    n: int | None = None
    origin: Origin | None = None


@dataclass(frozen=True)
class Facts:
    """What is known of a file besides its record; what is None or empty is not known, and not said.

    file: its name. form: the `export` entry of its metadata: format, preprocess, precision, opset, parameters, macs.
    counts: samples by split (train, val, test). origin: where the student's own weights began.
    measured: figures of the file itself by a metric's key, on the `n` images of `split`; before: of the model that it was made from, on the same.
    verified: as `export.verify.Verification.to_json` gives it, with `tolerance`. runtime: what ran the file for both.
    beside: the names of the files that lie beside it. command: what makes all of it again, a word each or a line.
    """

    file: str
    form: Mapping[str, Any]
    size_bytes: int | None = None
    temperature: float | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    teacher: Teacher | None = None
    origin: Origin | None = None
    measured: Mapping[str, float] = field(default_factory=dict)
    before: Mapping[str, float] = field(default_factory=dict)
    n: int | None = None
    split: str = "test"
    verified: Mapping[str, Any] = field(default_factory=dict)
    runtime: str = ""
    hardware: str = ""
    beside: Sequence[str] = ()
    command: str = ""


def card(record: Record, facts: Facts) -> str:
    """README.md of a folder with an exported file, in Markdown."""
    sections = (
        ("", summary(record, facts)),
        ("Use", use(facts)),
        ("Inputs and outputs", interface(record, facts)),
        ("Preprocessing", preprocessing(record, facts)),
        ("Data", data(record, facts)),
        ("Teacher", teacher(facts)),
        ("Figures", figures(facts)),
        ("How it was verified", verification(facts)),
        ("Limits", limits(record, facts)),
        ("Licences", licences(facts)),
        ("Reproduce", reproduce(record, facts)),
    )
    title = f"# {plain(record.architecture.name)} for {classes_in_words(record)}"
    return "\n\n".join([title, *(f"## {head}\n\n{text}" if head else text for head, text in sections if text)]) + "\n"


def classes_in_words(record: Record) -> str:
    dataset = (record.dataset or {}).get("name")
    count = len(record.classes)
    return f"the {count:,} class{'es' if count > 1 else ''}" + (f" of {plain(dataset)}" if isinstance(dataset, str) else "")


def summary(record: Record, facts: Facts) -> str:
    form, architecture = facts.form, record.architecture
    library = {"cifar": "a net for small images", "own": "a net of its maker's own"}.get(architecture.source, f"of {architecture.source}")
    taught = f", distilled from {plain(facts.teacher.name)}" if facts.teacher else ""
    what = f"An image classifier for {classes_in_words(record)}: {plain(architecture.name)} ({library}){taught}."
    parameters, macs = form.get("parameters"), form.get("macs")
    rows = [
        ("file", plain(facts.file)),
        ("format", joined(plain(form.get("format") or ""), f"opset {plain(form['opset'])}" if form.get("opset") else "")),
        ("precision", plain(form.get("precision") or "")),
        ("size", f"{facts.size_bytes / 1e6:,.2f} MB" if facts.size_bytes is not None else ""),
        ("parameters", f"{parameters:,.0f}" if parameters else ""),
        ("multiply-accumulates an image", f"{macs:,.0f}" if macs else ""),
        ("SHA-256", record.sha256 if record.sha256.isalnum() else ""),
    ]
    names = [plain(name) for name in record.classes[:MOST_NAMES]]
    more = f" and {len(record.classes) - MOST_NAMES:,} more" if len(record.classes) > MOST_NAMES else ""
    return "\n\n".join(
        [what, table(("", ""), [row for row in rows if row[1]]), f"Classes, in the order of the outputs: {', '.join(names)}{more}."]
    )


def joined(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def use(facts: Facts) -> str:
    """The script, where there is one; what the other files are."""
    meanings = {
        "predict.py": "answers for images with onnxruntime, numpy and pillow alone",
        "labels.txt": "the names of the classes, a line each",
        "index.html": "the page that runs the model in a browser: `python -m http.server` in this folder, then open localhost:8000",
    }
    script = (
        code_block("pip install onnxruntime numpy pillow\npython predict.py image.jpg --top 3", "sh")
        if "predict.py" in facts.beside
        else ""
    )
    listed = "\n".join(f"- `{name}`: {meaning}" for name, meaning in meanings.items() if name in facts.beside)
    return "\n\n".join(part for part in (script, listed) if part)


def interface(record: Record, facts: Facts) -> str:
    size, count = record.preprocessing.get("image_size"), len(record.classes)
    takes = {
        "inside": ("`image`", "uint8", "[N, H, W, 3]", "upright RGB images of any one size"),
        "beside": ("`pixels`", "float32", f"[N, 3, {size}, {size}]", "RGB, cut, scaled and normalised as below"),
    }.get(str(facts.form.get("preprocess")))
    if takes is None:
        return ""
    scaled = f"softmax of the logits divided by {facts.temperature:.4g}" if facts.temperature is not None else "of each class"
    rows = (
        takes,
        ("`probabilities`", "float32", f"[N, {count}]", scaled),
        ("`logits`", "float32", f"[N, {count}]", "before the temperature"),
    )
    return table(
        ("", "type", "shape", ""), [(f"{kind} {row[0]}", *row[1:]) for kind, row in zip(("input", "output", "output"), rows, strict=True)]
    )


def preprocessing(record: Record, facts: Facts) -> str:
    """In the order of the steps; who does them."""
    told = record.preprocessing
    if not {"image_size", "resize", "mean", "std"} <= told.keys():
        return ""
    size, resize = told["image_size"], told["resize"]
    inside = facts.form.get("preprocess") == "inside"
    who = (
        "The file does this itself, of upright RGB pixels:" if inside else "Whoever runs the file does this first, with upright RGB pixels:"
    )
    cut = (
        f"the middle {size / resize:.4g} of the short edge, as a square, where that edge is longer than {size} px; else all of it"
        if resize != size
        else "the square in the middle, as wide as the short edge"
    )
    mean, std = (", ".join(f"{float(value):.6g}" for value in told[key]) for key in ("mean", "std"))
    return "\n".join(
        (
            who,
            "",
            f"1. {cut};",
            f"2. scaled to {size} x {size} px, bilinear with antialias (Pillow's `BILINEAR`);",
            f"3. divided by 255, then less the mean ({mean}) and divided by the deviation ({std}) of each channel.",
            "",
            "Before it: turned as the Exif block says, gray as RGB, 16 bits as 8, and what is transparent laid on white.",
        )
    )


def data(record: Record, facts: Facts) -> str:
    name = (record.dataset or {}).get("name")
    counts = [f"{facts.counts[split]:,} {words}" for split, words in SPLITS.items() if facts.counts.get(split)]
    fingerprint = (record.dataset or {}).get("fingerprint")
    lines = [
        f"Data set: {plain(name)}." if isinstance(name, str) else "",
        f"Images: {', '.join(counts)}." if counts else "",
        f"Fingerprint of the images and their order: `{fingerprint}`." if isinstance(fingerprint, str) and fingerprint.isalnum() else "",
    ]
    return "\n".join(filter(None, lines))


def teacher(facts: Facts) -> str:
    if facts.teacher is None:
        return ""
    told = facts.teacher
    if told.top1 is None:
        return f"{plain(told.name)}."
    return f"{plain(told.name)}: top-1 {share(told.top1, told.n)} %{f' on {told.n:,} images' if told.n else ''}."


def share(value: float, n: int | None) -> str:
    """In percent, with one standard error where it is known of how many; of all or none of them it cannot be told so."""
    return f"{100 * value:.2f}" + (f" ± {100 * (value * (1 - value) / n) ** 0.5:.2f}" if n and 0 < value < 1 else "")


def figures(facts: Facts) -> str:
    """A row a metric; those of the file itself, and where they are known those of the model before."""
    rows = []
    for metric in METRICS:
        values = [each.get(metric.key) for each in (facts.measured, facts.before)]
        if values[0] is None:
            continue
        shown = [
            "" if value is None else share(value, facts.n) if metric.key in SHARES else metric.cell({metric.key: value}) for value in values
        ]
        rows.append((metric.heading, *shown))
    if not rows:
        return ""
    of = f"{facts.n:,} {SPLITS.get(facts.split, facts.split)} images" if facts.n else f"{SPLITS.get(facts.split, facts.split)} images"
    by = f", run by {plain(facts.runtime)}" if facts.runtime else ""
    on = f"\n\nTimes were measured on {plain(facts.hardware)}." if facts.hardware else ""
    error = "; ± is one standard error" if facts.n and any(key in facts.measured for key in SHARES) else ""
    head = ("", "this file", "before export")
    width = 3 if any(row[2] for row in rows) else 2
    told = table(head[:width], [row[:width] for row in rows], numbers=True)
    return f"Of this very file{by}, on {of}{error}.\n\n{told}{on}"


def verification(facts: Facts) -> str:
    found = facts.verified
    if not found:
        return ""
    by = f" in {plain(facts.runtime)}" if facts.runtime else ""
    tops = ""
    if found.get("top1") is not None and found.get("top1_before") is not None:
        tops = f"; top-1 {share(found['top1_before'], None)} % before and {share(found['top1'], None)} % after"
    tolerance = f", of {found['tolerance']:g} that were allowed" if found.get("tolerance") is not None else ""
    return (
        f"The file was run back{by} on {found['n']:,} validation images and compared with the model that it was made from: the largest difference "
        f"of a logit is {found['max_error']:.2g}{tolerance}, and {100 * found['agreement']:.2f} % of the answers are the same{tops}."
    )


def limits(record: Record, facts: Facts) -> str:
    """What follows from what it is; nothing that nobody looked at."""
    told, measured = record.preprocessing, facts.measured
    lines = ["It answers with one of its classes whatever it is shown; an image of none of them gets a class and a probability too."]
    if "image_size" in told:
        lines.append(
            f"It sees the middle of an image at {told['image_size']} x {told['image_size']} px: what is outside of that, or too small for it, is not seen."
        )
    if measured:
        lines.append("Its figures are for images like those that it was measured on; for others they were not measured.")
    if measured and "robust_top1" not in measured:
        lines.append("How it answers images that were changed to mislead it was not measured.")
    if facts.n and facts.n < 1000 and measured:
        lines.append(f"It was measured on {facts.n:,} images only: differences of less than two standard errors mean little.")
    if facts.form.get("precision") not in (None, "", "fp32"):
        lines.append(
            f"Its numbers are {plain(facts.form['precision'])}: other hardware or another version of the runtime may round otherwise."
        )
    return "\n".join(f"- {line}" for line in lines)


def licences(facts: Facts) -> str:
    """Of weights; nothing where nobody knows where they began."""
    notes = []
    if facts.origin is not None:
        notes.append(licence_note(facts.origin, "The model", plain(facts.origin.name)))
    if facts.teacher is not None and facts.teacher.origin is not None:
        notes.append(licence_note(facts.teacher.origin, "The teacher", plain(facts.teacher.origin.name)))
    return "\n\n".join(notes)


def reproduce(record: Record, facts: Facts) -> str:
    if not facts.command:
        return ""
    versions = ", ".join(f"{plain(name)} {plain(version)}" for name, version in record.versions.items() if isinstance(version, str))
    seed = f"Seed {record.seed}. " if record.seed is not None else ""
    tail = f"\n\n{seed}{f'Versions: {versions}.' if versions else ''}".rstrip()
    return code_block(facts.command, "sh") + tail
