"""Which variables of the environment a config may read. No torch here."""

from __future__ import annotations

import os
from typing import Any

from distillctl.errors import ConfigError

SECRET_FREE_VARIABLES = ("DISTILLCTL_DATA", "HOME", "USER", "SLURM_JOB_ID", "SLURM_TMPDIR", "TMPDIR")


def read_variable(name: str, default: Any = None) -> Any:
    """`${oc.env:NAME}` for names that hold no secret: a config from elsewhere must not read tokens."""
    if name not in SECRET_FREE_VARIABLES:
        raise ConfigError(f"${{oc.env:{name}}} is not allowed; known: {', '.join(SECRET_FREE_VARIABLES)}")
    value = os.environ.get(name, default)
    if value is None:
        raise ConfigError(f"${{oc.env:{name}}}: the variable {name} is not set")
    return value
