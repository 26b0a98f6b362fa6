"""Which layer of a student learns from which layer of a teacher. Layers are counted from 1; 0 is the embeddings."""

from __future__ import annotations

from collections.abc import Sequence

from distillctl.errors import ConfigError

Pairs = tuple[tuple[int, int], ...]
Choice = str | Pairs  # how layers are paired: by a word, or as somebody says


def chosen_pairs(layers: str | Sequence[Sequence[int]], words: Sequence[str], lowest: int = 0) -> Choice:
    """A config's `layers`: one of the words, or pairs [student, teacher] of layers from `lowest` on. Raises ValueError as `build` wants it."""
    if isinstance(layers, str):
        if layers in words:
            return layers
        raise ValueError(f"layers={layers} must be {', '.join(words)} or pairs as [[1,2],[2,4]]")
    found = [tuple(pair) if isinstance(pair, Sequence) and not isinstance(pair, str) else () for pair in layers]
    if not found or not all(len(pair) == 2 and all(type(each) is int and each >= lowest for each in pair) for pair in found):
        raise ValueError(f"layers={as_given(layers)} must be pairs [student, teacher] of layers, each >= {lowest}, as [[1,2],[2,4]]")
    return tuple((student, teacher) for student, teacher in found)


def spread(student: int, teacher: int, key: str, upto: int | None = None) -> Pairs:
    """Layer l of L_s with layer l · L_t / L_s of L_t, for l = 1 to `upto`. Raises ConfigError where the student has no L_t / L_s layers' worth."""
    wanted = range(1, (student if upto is None else upto) + 1)
    if teacher % student:
        near = tuple((layer, max(1, (2 * layer * teacher + student) // (2 * student))) for layer in wanted)
        raise ConfigError(
            f"{key}.layers: the student's {student} layers are no even part of the teacher's {teacher}; say which go together, "
            f"as in {key}.layers={as_given(near)}"
        )
    return tuple((layer, layer * teacher // student) for layer in wanted)


def check_pairs(pairs: Pairs, student: int, teacher: int, key: str) -> Pairs:
    """Raises ConfigError that names the first layer that one of the two has not got."""
    for pair in pairs:
        for role, layer, last in (("student", pair[0], student), ("teacher", pair[1], teacher)):
            if layer > last:
                raise ConfigError(
                    f"{key}.layers={as_given(pairs)}: the {role} has {last} layers, and no layer {layer}; give {role} layers up to {last}"
                )
    return pairs


def as_given(layers: Sequence[Sequence[int]]) -> str:
    """As a command line spells it."""
    return "[" + ",".join(f"[{','.join(map(str, pair))}]" if isinstance(pair, (list, tuple)) else str(pair) for pair in layers) + "]"
