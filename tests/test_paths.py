"""Paths as people give them: a home is found, and what only looks like one is a name."""

from pathlib import Path

import pytest

from distillctl.compose.literal import unquoted
from distillctl.compose.recorded import holds
from distillctl.paths import as_path, cache_folder
from distillctl.runs.sweep_folder import absolute

NOBODY = "~nobody-of-this-name/set"


def test_the_home_of_a_user_that_there_is_not_is_a_name():
    assert as_path("~/set") == Path.home() / "set"
    assert as_path(NOBODY) == Path(NOBODY)
    assert unquoted(absolute(NOBODY)) == str(Path.cwd() / NOBODY)
    assert not holds("cifar10", NOBODY)


@pytest.mark.parametrize(
    ("key", "variable", "place"),
    [
        (None, None, Path("outputs/.cache")),
        (None, "", Path("outputs/.cache")),
        (None, "~/kept", Path.home() / "kept"),
        ("here", "~/kept", Path("here")),
        ("~/here", None, Path.home() / "here"),
    ],
)
def test_caches_are_where_the_key_says_then_the_variable(monkeypatch, key, variable, place):
    monkeypatch.delenv("DISTILLCTL_CACHE", raising=False)
    if variable is not None:
        monkeypatch.setenv("DISTILLCTL_CACHE", variable)
    assert cache_folder(key) == place
