"""Read the file of prices that `teacher.prices` names."""

from __future__ import annotations

from distillctl.compose import yaml_files
from distillctl.errors import ConfigError
from distillctl.paths import as_path
from distillctl.teachers.api.money import Price, prices_of


def read_prices(file: str | None) -> dict[str, Price] | None:
    """Prices of a million tokens, by model; None where no file is named. YAML, of which JSON is a part. Raises ConfigError."""
    if file is None:
        return None
    try:
        content = yaml_files.load(as_path(file))
    except OSError as error:
        raise ConfigError(f"teacher.prices={file}: cannot be read ({error.strerror}); pass a YAML or JSON file") from None
    except ValueError as error:
        raise ConfigError(f"teacher.prices={file}: {error}") from None
    return prices_of(content, file)
