"""A labelling that is killed goes on where it was: nothing that was kept is asked again, and no money is forgotten."""

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from endpoints import CEILING_S, KEY, KEY_VARIABLE, Asking
from labeller import PRICES

from distillctl.teachers.api.ledger import FILE, look

TEXTS = [f"{'good' if place % 3 else 'dull'} text {place:03}" for place in range(20)]


def killed_at(asking: Asking, number: int, concurrency: int) -> None:
    """Start a labelling, and kill it once it has sent so many requests, of which the last ones get no answer."""
    reached, over, sent = threading.Event(), threading.Event(), itertools.count(1)

    def hold(text: str) -> None:
        mine = next(sent)
        if mine >= number:
            reached.set()
        if mine > number - concurrency:
            over.wait(CEILING_S)

    asking.server.before_answer = hold
    script = Path(__file__).with_name("labeller.py")
    words = [asking.server.url, str(asking.ledger), str(concurrency), "100", *TEXTS]
    # that of the checkout, wherever the tests are started
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (script.parents[3], script.parent))), KEY_VARIABLE: KEY}
    process = subprocess.Popen([sys.executable, str(script), *words], env=environment, stderr=subprocess.PIPE)
    try:
        while not reached.wait(0.05):
            assert process.poll() is None, process.stderr.read().decode()
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
        asking.server.before_answer = lambda text: None
        over.set()
    while asking.server.at_once:  # it answers those too whose asker is dead
        time.sleep(0.01)


@pytest.mark.parametrize("concurrency", [1, 4])
def test_what_was_kept_before_a_kill_is_not_asked_again(concurrency: int, asking: Asking):
    known = lost = 0
    for number in (6, 7):
        killed_at(asking, number, concurrency)
        book = look(asking.ledger)
        assert (len(book.answers), len(book.begun)) == (known + number - concurrency, lost + concurrency)
        known, lost = len(book.answers), len(book.begun)
    before = asking.server.asked.copy()
    found = asking(*TEXTS, prices=PRICES, ask="votes", votes=2, concurrency=concurrency)
    assert sum((asking.server.asked - before).values()) == len(TEXTS) - known
    assert found.probabilities.argmax(1).tolist() == [0 if "good" in text else 1 for text in TEXTS]
    assert sum(asking.server.asked.values()) - len(TEXTS) == 2 * concurrency  # those that were in flight when it was killed
    assert asking(*TEXTS, prices=PRICES, ask="votes", votes=2).spending.requests == 0


def test_a_killed_labelling_ends_as_one_that_never_was(asking: Asking, tmp_path: Path):
    killed_at(asking, 9, 3)
    found = asking(*TEXTS, prices=PRICES, ask="votes", votes=2)
    whole = Asking(asking.server, tmp_path / "whole")(*TEXTS, prices=PRICES, ask="votes", votes=2)
    np.testing.assert_array_equal(found.probabilities, whole.probabilities)


def test_no_money_is_forgotten_and_no_key_is_left(asking: Asking, tmp_path: Path):
    killed_at(asking, 5, 2)
    book = look(asking.ledger)
    assert len(book.begun) == 2
    prompt, answer = asking.server.tokens
    assert book.spent(PRICES.get) > (PRICES["m"].input * prompt + PRICES["m"].output * answer) / 1_000_000 > book.answered.money
    assert (asking.ledger / FILE).exists()
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and KEY.encode() in file.read_bytes()]
