"""What became of a run's samples: the same as when it started, but for those that it ended by, which its user was told to mend or leave out.

run.json keeps under "excused" their names, and the fingerprints that the sets have whatever became of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

from distillctl import outputs
from distillctl.config import DatasetConfig
from distillctl.data.split import DataSet, Excused
from distillctl.entries import Malformed, open_mapping, texts
from distillctl.errors import BadSample, CheckpointError, DataError

KEY = "excused"


def excused_in(run: outputs.RunFolder | None) -> Excused | None:
    """The samples that earlier attempts of a run ended by. Raises CheckpointError where its record is not ours."""
    if run is None or run.record.get(KEY) is None:
        return None
    try:
        names = texts(open_mapping(run.record, KEY), "names")
    except Malformed as error:
        raise CheckpointError(f"{run.path / outputs.RUN_FILE}: not the record of a run ({error})") from None
    if any(PurePath(name).is_absolute() or ".." in PurePath(name).parts for name in names):
        raise CheckpointError(f"{run.path / outputs.RUN_FILE}: names a file outside the data set")
    return Excused(frozenset(names), bool(run.record[KEY].get("others")))


def excuse(run: outputs.RunFolder, problem: BadSample, config: DatasetConfig, sets: Sequence[DataSet]) -> None:
    """Write down, as a run ends by a sample, that it may go on whatever becomes of it. sets: that of "data" first, then "other_data"."""
    found = {name for data in sets if problem.file is not None and (name := data.name_of(problem.file)) is not None}
    if not found:
        return
    before = excused_in(run) or Excused(others=getattr(config, "on_bad_image", "") == "error")
    names = sorted(before.names | found)
    first, *others = (data.fingerprint_without(names) for data in sets)
    run.record[KEY] = {"names": names, "others": before.others, "data": first, "other_data": others}
    run.write()


def same_data_as_before(run: outputs.RunFolder, key: str, sets: Sequence[DataSet]) -> None:
    """A resumed run must not go on with other samples. key: where run.json keeps the fingerprint, of one set or of a list of them."""
    excused = excused_in(run)
    names = sorted(excused.names) if excused is not None else []
    one = key == "data"
    now = [data.fingerprint for data in sets]
    compared, before = (
        (now, run.record.get(key)) if excused is None else ([data.fingerprint_without(names) for data in sets], run.record[KEY].get(key))
    )
    if before not in (None, [], compared[0] if one else compared):
        raise DataError("dataset.root: the data set is not what it was when this run started; put it back, or start a new run")
    run.record[key] = now[0] if one else now
    run.write()
