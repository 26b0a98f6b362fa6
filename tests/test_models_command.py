"""`distillctl models taps=...` lists what can be tapped of any net, or says in a line why it cannot."""

import pytest

from distillctl.commands import models
from distillctl.config import ModelsConfig
from distillctl.errors import ConfigError


def listed(capsys: pytest.CaptureFixture[str], **keys: object) -> list[list[str]]:
    models.run(ModelsConfig(**keys), None)  # type: ignore[arg-type]
    return [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]


def test_short_names_come_with_their_modules_and_shapes(capsys):
    rows = listed(capsys, taps="resnet8x4")
    assert ["stage2", "stage2", "128", "x", "16", "x", "16"] in rows
    assert ["pooled", "what", "goes", "into", "classifier", "256"] in rows
    assert ["logits", "the", "answer", "10"] in rows


def test_modules_come_by_their_paths_up_to_the_limit(capsys):
    rows = listed(capsys, taps="resnet8x4", limit=3)
    paths = [row[0] for row in rows]
    assert ["conv", "32", "x", "32", "x", "32"] in rows
    assert "classifier" not in paths
    assert any(" ".join(row).startswith("3 of ") for row in rows)
    assert ["stage3.0.bn1", "256", "x", "8", "x", "8"] in listed(capsys, taps="resnet8x4", limit=100)


@pytest.mark.parametrize("search", ["stage2.0.conv", "STAGE2.*.conv?"])
def test_a_search_is_for_paths_of_modules(capsys, search):
    rows = listed(capsys, taps="resnet8x4", search=search)
    assert [row[0] for row in rows if row[0].startswith("stage")] == ["stage2.0.conv1", "stage2.0.conv2"]


def test_maps_with_their_channels_last_are_listed_as_they_are_caught(capsys):
    rows = listed(capsys, taps="swin_t", image_size=64, search="features.0.0")
    assert ["features.0.0", "96", "x", "16", "x", "16"] in rows
    assert ["features.0", "96", "x", "16", "x", "16"] in listed(capsys, taps="swin_t", image_size=64, limit=100)


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"taps": "resnt152"}, "taps=resnt152: no such model; did you mean resnet152?"),
        ({"taps": "vgg8", "image_size": 2}, "taps=vgg8: image too small: it cannot take 2 px; set image_size=32, or choose another net"),
        ({"taps": "resnet8", "search": "stage9"}, "search=stage9: resnet8 has no module with that in its path; did you mean stage"),
    ],
)
def test_what_cannot_be_listed_is_a_line(keys, line):
    with pytest.raises(ConfigError) as error:
        models.run(ModelsConfig(**keys), None)
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)
