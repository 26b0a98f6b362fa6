"""YAML that anybody may have written: read within limits, before anything is made of it. No torch here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from distillctl.files import read_text

SIZE_LIMIT = 2**20  # bytes; a whole config has some five thousand
DEPTH_LIMIT = 40
VALUES_LIMIT = 5000  # keys among them; to read as many again takes Hydra some seconds
NUMBER_WITHOUT_END = re.compile(r"[+-]?[\d_]{1000,}")
REFERENCE_LIMIT = 8  # of `${...}` in one value


def read(file: Path) -> str:
    """The text of a YAML file that is no bomb: of a limited size and depth, without aliases. Raises ValueError and OSError."""
    text = read_text(file, SIZE_LIMIT)
    depth = values = 0
    try:
        for token in yaml.scan(text, Loader=yaml.SafeLoader):
            if isinstance(
                token, (yaml.FlowSequenceStartToken, yaml.FlowMappingStartToken, yaml.BlockSequenceStartToken, yaml.BlockMappingStartToken)
            ):
                depth += 1
            elif isinstance(token, (yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken, yaml.BlockEndToken)):
                depth -= 1
            if isinstance(token, (yaml.AliasToken, yaml.AnchorToken)):
                raise ValueError("holds aliases; write the value out")
            if isinstance(token, yaml.TagToken):
                raise ValueError(f"holds the tag {''.join(filter(None, token.value))}; leave it out")
            values += isinstance(token, yaml.ScalarToken)
            if values > VALUES_LIMIT:
                raise ValueError(f"holds more than {VALUES_LIMIT:,} keys and values")
            if isinstance(token, yaml.ScalarToken) and NUMBER_WITHOUT_END.fullmatch(token.value):
                raise ValueError(f"a number has {len(token.value):,} digits")
            if isinstance(token, yaml.ScalarToken) and token.value.count("${") > REFERENCE_LIMIT:
                raise ValueError(f"a value has more than {REFERENCE_LIMIT} ${{...}}")
            if depth > DEPTH_LIMIT:
                raise ValueError("nested too deeply")
    except yaml.YAMLError as error:
        raise ValueError(wrong(error)) from None
    return text


def load(file: Path) -> Any:
    """What such a file says, as plain data. Raises ValueError and OSError."""
    try:
        return yaml.safe_load(read(file))
    except yaml.YAMLError as error:
        raise ValueError(wrong(error)) from None


def wrong(error: Exception) -> str:
    """What YAML says of a text, in one line."""
    mark = getattr(error, "problem_mark", None)
    said = getattr(error, "problem", None) or str(error)
    return f"no YAML ({f'line {mark.line + 1}: ' if mark else ''}{' '.join(said.split())[:200]})"
