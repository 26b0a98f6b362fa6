"""Of texts memory holds a few dozen bytes a row, however long they are: they are laid out in files that are mapped."""

import subprocess
import sys
from pathlib import Path

import pytest
from texts import write_csv

ROWS, MOST_MIB = 200_000, 20  # of Python strings alone there would be 30 MiB and more

LOAD = """
import contextlib, ctypes, gc, sys
from distillctl.config import TextSetConfig
from distillctl.inputs.text import Texts

def anonymous():
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # what is free and not given back is no row
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")) / 1024

few = Texts.load(TextSetConfig(name="text", root=sys.argv[1]), None)
before = anonymous()
data, inputs = Texts.load(TextSetConfig(name="text", root=sys.argv[2]), None)
print(len(inputs.corpus), anonymous() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is told by /proc")
def test_two_hundred_thousand_rows_take_little_memory(tmp_path):
    lines = [
        (f"text {number} of some ninety characters that would be held by a string of Python, and by a list {number}", number % 2)
        for number in range(ROWS)
    ]
    many, few = write_csv(tmp_path / "many.csv", lines), write_csv(tmp_path / "few.csv", lines[:100])
    told = subprocess.run([sys.executable, "-c", LOAD, str(few), str(many)], capture_output=True, text=True, check=True).stdout
    rows, grown_mib = told.split()
    assert int(rows) == ROWS
    assert float(grown_mib) < MOST_MIB
