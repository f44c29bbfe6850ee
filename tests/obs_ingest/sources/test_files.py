"""The files of a source: one that cannot be read costs that file, and what each read had is recorded."""

import hashlib
import os

import numpy as np
import pandas as pd
import pytest

from dacycle.obs_ingest.sources.base import build_source
from dacycle.obs_ingest.sources.files import Files, Remembered
from dacycle.obs_ingest.table import ObservationError
from dacycle.obs_ingest.window import Window
from tests.obs_ingest.test_fuzz import FORMATS, PAGE

KINDS = ["isd csv", "ghcnh psv", "metar text", "bufr", "netcdf 4"]


def source(form, path, **options):
    return build_source({"source": form.source, "path": path, "cutoff": "none", **options}, None, 0)


@pytest.fixture(params=KINDS)
def folder(request, tmp_path):
    """Make a folder with a good file of a format and one that is a page of HTML."""
    form = FORMATS[request.param]
    form.make(tmp_path / form.file)
    (tmp_path / f"b{(tmp_path / form.file).suffix}").write_bytes(PAGE)
    return form, tmp_path


def test_an_unreadable_file_is_named_and_the_others_are_used(folder):
    form, path = folder
    window = Window(np.datetime64(form.time))
    table, inventory = source(form, str(path)).read(window)
    alone, expected = source(form, str(path / form.file)).read(window)
    assert len(table) == len(alone) > 0
    assert (inventory.found, inventory.decoded, inventory.skipped) == (
        expected.found,
        expected.decoded,
        expected.skipped,
    )
    assert inventory.unreadable == 1
    assert len(inventory.problems) == 1
    assert f"{path}/b" in inventory.problems[0]


def test_where_none_can_be_read_the_first_is_named(folder):
    form, path = folder
    (path / form.file).write_bytes(PAGE)
    with pytest.raises(ObservationError, match=rf"{form.file}: .*the 1 other files"):
        source(form, str(path)).read(Window(np.datetime64(form.time)))


def test_the_inventory_holds_what_was_read(folder):
    form, path = folder
    reader, window = source(form, str(path)), Window(np.datetime64(form.time))
    _, inventory = reader.read(window)
    content = (path / form.file).read_bytes()
    digests = {str(path / form.file): hashlib.sha256(content).hexdigest()[:16]}
    assert inventory.digests == digests
    assert inventory.files == list(digests)
    assert reader.inputs(window).items() >= digests.items()
    assert len(reader.inputs(window)) == 2, "the page may yet become a file of this window"
    far = Window(np.datetime64("1990-01-01T00"))
    assert str(path / form.file) not in reader.inputs(far)


def test_arrival_by_the_time_of_the_file(folder):
    form, path = folder
    written = np.datetime64(form.time, "s") + np.timedelta64(5, "h")
    os.utime(path / form.file, (written.astype(int),) * 2)
    reader = source(form, str(path), received="mtime")
    table, _ = reader.read(Window(np.datetime64(form.time)))
    assert set(table["received"]) == {pd.Timestamp(written)}
    _, inventory = reader.read(Window(np.datetime64(form.time), pd.Timedelta("4h")))
    assert inventory.late == len(table)
    _, inventory = reader.read(Window(np.datetime64(form.time), pd.Timedelta("5h")))
    assert inventory.late == 0


def test_options_that_contradict(tmp_path):
    with pytest.raises(ObservationError, match="latency or received, not both"):
        Files("isd", tmp_path, ["*.csv"], lambda path, window: True, latency="1h", received="mtime")
    with pytest.raises(ObservationError, match="received is 'ctime'"):
        Files("isd", tmp_path, ["*.csv"], lambda path, window: True, received="ctime")


def test_several_places(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        FORMATS["isd csv"].make(tmp_path / name / "a.csv")
    places = [str(tmp_path / "one"), str(tmp_path / "two/*.csv"), str(tmp_path / "two/a.csv"), str(tmp_path / "three")]
    _, inventory = source(FORMATS["isd csv"], places).read(Window(np.datetime64("2024-01-02T12")))
    assert inventory.files == [str(tmp_path / "one/a.csv"), str(tmp_path / "two/a.csv")]


def test_what_is_remembered_of_a_file(tmp_path):
    made = []

    def length(path):
        made.append(path)
        if path.stat().st_size > 3:
            raise ObservationError(f"{path}: too long")
        return path.stat().st_size

    remembered, path = Remembered(length), tmp_path / "a"
    for text in ("ab", "abcd", "abc"):
        path.write_text(text)
        for _ in range(2):
            if len(text) > 3:
                with pytest.raises(ObservationError, match="too long"):
                    remembered(path)
            else:
                assert remembered(path) == len(text)
    assert len(made) == 3
    remembered.forget(path)
    remembered(path)
    assert len(made) == 4
    path.unlink()
    with pytest.raises(ObservationError, match="a: cannot be read"):
        remembered(path)


def test_each_file_is_parsed_once_and_only_files_of_the_window_stay_in_memory(tmp_path, monkeypatch):
    from dacycle.obs_ingest.sources.text.isd import Isd
    from tests.obs_ingest.sources.test_isd import write_csv

    for hour in range(24):
        write_csv(tmp_path / f"{hour:02}.csv", {"DATE": f"2024-03-05T{hour:02}:00:00"})
    reader, parsed = Isd(tmp_path), []
    monkeypatch.setattr(reader, "parse", lambda path: parsed.append(path.name) or Isd.parse(reader, path))
    for _ in range(2):
        reader.read(Window(np.datetime64("2024-03-05T12")))
    assert sorted(parsed) == [f"{hour:02}.csv" for hour in range(24)], "each once"
    reader.read(Window(np.datetime64("2024-03-05T18")))
    assert len(parsed) == 24, "those of the window come from what is kept"
    in_memory = sorted(path.name for path in reader._parsed._results)
    assert in_memory == [f"{hour:02}.csv" for hour in range(16, 22)]
