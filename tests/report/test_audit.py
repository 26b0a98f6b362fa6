"""Labels of a teacher are held against people's: in all, by class, and what is taken for what."""

import io

import numpy as np
import pytest

from distillctl.errors import DataError
from distillctl.report.audit import MOST_CONFUSIONS, show
from distillctl.report.console import Console
from distillctl.teachers.api.audit import Confusion, Share, audit, compared
from distillctl.teachers.api.outcome import How, Labelled, Spending
from distillctl.teachers.api.tokens import Usage

CLASSES = ["cat", "dog", "owl"]


def labelled(*given: str | None) -> Labelled:
    """A teacher that says so of rows 0, 1, ...; None where it gave up."""
    rows = np.full((len(given), 3), np.nan, np.float32)
    for place, name in enumerate(given):
        if name is not None:
            rows[place] = [0.8 if name == each else 0.1 for each in CLASSES]
    hows = [How("votes", 1, 1.0, False, None if name else "no answer") for name in given]
    return Labelled([f"row {place}" for place in range(len(given))], CLASSES, rows, hows, Spending(0, 0, Usage(), None, None))


def test_agreement_by_hand():
    teacher = labelled("cat", "cat", "dog", "dog", "dog", None, "owl")
    found = audit(teacher, {"row 0": "cat", "row 1": "cat", "row 2": "cat", "row 3": "dog", "row 4": "owl", "row 5": "owl"})
    assert found.agreement == Share(3, 5)
    assert found.given_up == 1
    assert [(each.name, each.recall, each.precision) for each in found.classes] == [
        ("cat", Share(2, 3), Share(2, 2)),
        ("dog", Share(1, 1), Share(1, 3)),
        ("owl", Share(0, 1), Share(0, 0)),
    ]
    assert found.confusions == (Confusion("cat", "dog", 1, ("row 2",)), Confusion("owl", "dog", 1, ("row 4",)))
    chance = (3 * 2 + 1 * 3 + 1 * 0) / 25
    assert found.kappa == pytest.approx((0.6 - chance) / (1 - chance))


def test_chance_alone_is_no_agreement():
    pairs = [
        (str(place), one, other) for place, (one, other) in enumerate([("cat", "cat"), ("cat", "dog"), ("dog", "cat"), ("dog", "dog")])
    ]
    assert compared(pairs, CLASSES, 0).kappa == 0
    assert np.isnan(compared([("a", "cat", "cat")], CLASSES, 0).kappa)


def test_wilsons_interval_by_hand():
    low, high = Share(8, 10).interval  # 0.490 to 0.943, as in tables of it
    assert (round(low, 3), round(high, 3)) == (0.490, 0.943)
    assert Share(10, 10).interval[1] == pytest.approx(1)
    assert Share(10, 10).interval[0] == pytest.approx(0.722, abs=1e-3)
    assert Share(0, 0).interval == (0, 1)


def test_the_most_frequent_confusions_come_first_with_examples():
    pairs = [(f"row {place}", "cat", "dog") for place in range(5)] + [("row 5", "dog", "owl")]
    found = compared(pairs, CLASSES, 0)
    assert [(each.human, each.teacher, each.count) for each in found.confusions] == [("cat", "dog", 5), ("dog", "owl", 1)]
    assert found.confusions[0].examples == ("row 0", "row 1", "row 2")


@pytest.mark.parametrize(
    ("human", "said"),
    [
        ({"row 9": "cat"}, "human label 'cat' of 'row 9': no text of that name; did you mean"),
        ({"row 0": "cta"}, r"human label 'cta' of 'row 0': no such class; did you mean cat\?"),
        ({"row 1": "cat"}, "none is of a text that the teacher has labelled"),
        ({}, "none is of a text that the teacher has labelled"),
    ],
)
def test_labels_that_cannot_be_compared_are_a_line(human: dict, said: str):
    with pytest.raises(DataError, match=said) as problem:
        audit(labelled("cat", None), human)
    assert len(problem.value.problems) == 1


def shown(found, monkeypatch: pytest.MonkeyPatch) -> str:
    out = io.StringIO()
    monkeypatch.setattr("sys.stdout", out)
    show(found, Console())
    return out.getvalue()


def test_people_see_agreement_classes_and_confusions(monkeypatch):
    text = shown(audit(labelled("cat", "dog", "dog", None), {"row 0": "cat", "row 1": "cat", "row 2": "dog", "row 3": "owl"}), monkeypatch)
    assert "agreement with people: 66.7 of 3 texts (95 %: 20.8 to 93.9), kappa 0.40; 1 more have no label of the teacher" in text
    lines = [line.split() for line in text.splitlines()]
    assert ["cat", "2", "50.0", "1", "100.0"] in lines
    assert ["owl", "0", "-", "0", "-"] in lines
    assert ["cat", "dog", "1", "row", "1"] in lines


def test_a_long_list_of_confusions_is_cut_and_says_so(monkeypatch):
    names = [f"c{place:02}" for place in range(20)]
    text = shown(compared([(name, name, names[0]) for name in names], names, 0), monkeypatch)
    assert f"confused, the {MOST_CONFUSIONS} most frequent of 19" in text
    assert "c10" in text.split("confused", 1)[1]
    assert "c11" not in text.split("confused", 1)[1]


def test_names_that_a_terminal_would_act_on_are_text(monkeypatch):
    assert "\x1b" not in shown(compared([("\x1b[2J", "cat", "dog")], CLASSES, 0), monkeypatch)
