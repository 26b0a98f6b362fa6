"""Write the folder of a web page: the page, the model, its labels and the runtime. Nothing in it is fetched from elsewhere."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distillctl import extras
from distillctl.entries import Malformed, open_mapping
from distillctl.errors import CheckpointError, ConfigError, MachineError
from distillctl.export.web.runtime import runtime_files
from distillctl.files import parse_json, read_bytes
from distillctl.models.record import size
from distillctl.models.shipping import METADATA
from distillctl.state import write_atomically
from distillctl.terminal import visible

PAGE = ("index.html", "style.css", "app.js", "worker.js", "classifier.js", "pixels.js", "icon.svg")
TITLE = "What is in this image?"


def write_web(
    folder: Path, model_file: Path, classes: Sequence[str], runtime_folder: Path, title: str = TITLE, description: str = ""
) -> list[Path]:
    """All files of the page, in the order they were written; files of these names are replaced, others stay.

    model_file: ONNX that takes `image` (`export.preprocess=inside`), so that the page has nothing to scale or to normalise.
    runtime_folder: what npm made of onnxruntime-web. title, description: what the page says above the images, as text.
    Raises ConfigError about the runtime and the form of the model, CheckpointError about a file that is none, MachineError where nothing can be written.
    """
    runtime = runtime_files(runtime_folder)
    content, seen = model_content(model_file, len(classes))
    here = Path(__file__).parent / "page"
    files = {name: (here / name).read_bytes() for name in PAGE}
    words = {"TITLE": title, "DESCRIPTION": description}
    page = files["index.html"].decode()
    files["index.html"] = re.sub(r"\{\{(\w+)\}\}", lambda found: html.escape(visible(words[found[1]], lines=False)), page).encode()
    labels = {"title": title, "classes": [visible(name, lines=False) for name in classes], "preprocessing": seen}
    files |= {"labels.json": json.dumps(labels, ensure_ascii=True, indent=1).encode(), "model.onnx": content, **runtime}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MachineError(f"{folder}: cannot be made ({error.strerror})") from None
    for name, each in files.items():
        write_atomically(folder / name, [each])
    return [folder / name for name in files]


def model_content(file: Path, classes: int) -> tuple[bytes, dict[str, int]]:
    """The bytes of a model that the page can run, and how it cuts images: {image_size, resize}. Raises ConfigError or CheckpointError."""
    try:
        content = read_bytes(file)
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror})") from None
    model = parsed(file, content)
    if [each.name for each in model.graph.input] != ["image"]:
        raise ConfigError(
            f"export.format=web needs a model that cuts and scales images itself, as {file} does not: set export.preprocess=inside"
        )
    if any(each.data_location == each.EXTERNAL for each in model.graph.initializer):
        raise CheckpointError(f"{file}: its weights lie in another file, which a page cannot find; export it anew as one file")
    shapes = {each.name: [one.dim_value for one in each.type.tensor_type.shape.dim] for each in model.graph.output}
    if "probabilities" not in shapes:
        raise CheckpointError(f"{file}: it has no output `probabilities`; export it with distillctl")
    if shapes["probabilities"][-1:] != [classes]:
        raise CheckpointError(f"{file}: its probabilities have the shape {shapes['probabilities']}, and {classes} classes are named")
    return content, cut_of(file, model)


def cut_of(file: Path, model: Any) -> dict[str, int]:
    """What the metadata of a model say of its preprocessing. Raises CheckpointError."""
    try:
        [told] = [each.value for each in model.metadata_props if each.key == METADATA]
        seen = open_mapping(parse_json(told), "preprocessing")
        return {key: size(seen, key, inside="preprocessing.") for key in ("image_size", "resize")}
    except (Malformed, ValueError, AttributeError) as error:
        reason = error if isinstance(error, Malformed) else "no JSON, or none at all"
        raise CheckpointError(f"{file}: its metadata does not say how it cuts images ({reason}); export it with distillctl") from None


def parsed(file: Path, content: bytes) -> Any:
    """An ONNX model. Raises MachineError without the library, CheckpointError for what is none."""
    try:
        import onnx
    except ImportError:
        raise extras.missing("export.format=web", "onnx", "onnx") from None
    try:
        model = onnx.load_model_from_string(content)
    except Exception:  # protobuf's own errors
        model = None
    if model is None or not model.graph.node:
        raise CheckpointError(f"{file}: no ONNX file, or a damaged one")
    return model
