"""Tables of a period: made once, read as a source, and the same as reading the files."""

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from dacycle.obs_ingest.sources import ingested, ingesting
from dacycle.obs_ingest.sources.base import build_source
from dacycle.obs_ingest.sources.ingesting import ingest, total
from dacycle.obs_ingest.sources.surface import LOST, VALUES
from dacycle.obs_ingest.table import ObservationError
from dacycle.obs_ingest.window import Window
from tests.obs_ingest.sources.test_isd import NORWAY, write_csv

TIMES = np.arange(np.datetime64("2024-01-02T00", "h"), np.datetime64("2024-01-03T06", "h"), np.timedelta64(6, "h"))


def day(folder, day="02", name="a.csv", **cells):
    """Write a file with a report an hour."""
    folder.mkdir(exist_ok=True)
    return write_csv(folder / name, *({"DATE": f"2024-01-{day}T{hour:02}:00:00", **cells} for hour in range(24)))


def made(spec, folder, times=TIMES):
    """Return the analysis times of the windows that were made anew."""
    return [str(window.time) for window in ingest(spec, times, folder) if window.made]


def test_a_period_of_real_reports(shared, tmp_path):
    times = np.arange(np.datetime64("2016-02-01T00", "h"), np.datetime64("2016-02-08T00", "h"), np.timedelta64(6, "h"))
    spec = {"source": "isd", "path": str(shared / NORWAY), "latency": "2h"}
    windows = list(ingest(spec, times, tmp_path))
    reader = build_source({**spec, "cutoff": "3h"}, None, 0)
    tables = build_source({"source": "table", "path": str(tmp_path), "name": "isd", "cutoff": "3h"}, None, 0)
    late = []
    for time in times:
        expected, inventory = reader.read(Window(time, reader.cutoff))
        got, kept = tables.read(Window(time, tables.cutoff))
        for name in ("value", "error", "elevation"):  # single precision on disk
            expected[name] = expected[name].astype("float32").astype(float)
        assert_frame_equal(got, expected, check_categorical=False, check_dtype=False)
        assert (kept.found, kept.decoded, kept.late, kept.latency) == (
            inventory.found,
            inventory.decoded,
            inventory.late,
            inventory.latency,
        )
        late.append(kept.late)
    assert sum(late) > 0
    whole = total([window.inventory for window in windows])
    assert whole.found == whole.decoded == len(times) * 6
    lost = sum(whole.skipped.get(reason, 0) for reason in LOST.values())
    assert whole.decoded * len(VALUES) == sum(whole.values.values()) + whole.missing + lost
    assert whole.latency == 120


def test_what_is_there_is_not_made_again(tmp_path):
    day(tmp_path / "in")
    spec = {"source": "isd", "path": str(tmp_path / "in")}
    out = tmp_path / "out"
    assert len(made(spec, out)) == len(TIMES)
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert made(spec, out) == []
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
    (tmp_path / "in").rename(tmp_path / "elsewhere")
    assert made({**spec, "path": str(tmp_path / "elsewhere")}, out) == [], "where the files lie does not matter"


def test_only_windows_whose_files_changed_are_made_again(tmp_path):
    day(tmp_path / "in")
    spec = {"source": "isd", "path": str(tmp_path / "in")}
    made(spec, tmp_path / "out")
    day(tmp_path / "in", "03", "b.csv")
    assert made(spec, tmp_path / "out") == ["2024-01-03T00"], "the one window that both days reach into"
    day(tmp_path / "in", TMP="+0999,1")
    assert made(spec, tmp_path / "out") == [str(time) for time in TIMES]
    assert made({**spec, "latency": "1h"}, tmp_path / "out") == [str(time) for time in TIMES]


def test_another_version_makes_them_again(tmp_path, monkeypatch):
    day(tmp_path / "in")
    spec = {"source": "isd", "path": str(tmp_path / "in")}
    made(spec, tmp_path / "out")
    monkeypatch.setattr(ingesting.dacycle, "__version__", "99")
    assert len(made(spec, tmp_path / "out")) == len(TIMES)


def test_an_interrupted_run_goes_on(tmp_path, monkeypatch):
    day(tmp_path / "in")
    spec, out, write = {"source": "isd", "path": str(tmp_path / "in")}, tmp_path / "out", ingested.pq.write_table
    written = []

    def stop(content, part):
        write(content, part)
        written.append(part)
        if len(written) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(ingested.pq, "write_table", stop)
    with pytest.raises(KeyboardInterrupt):
        made(spec, out)
    assert sorted(path.name for path in out.iterdir()) == ["20240102T00.parquet", "20240102T06.parquet"]
    monkeypatch.undo()
    assert made(spec, out) == [str(time) for time in TIMES[2:]]


def test_a_damaged_table_is_made_again_and_never_read(tmp_path):
    day(tmp_path / "in")
    spec, out = {"source": "isd", "path": str(tmp_path / "in")}, tmp_path / "out"
    made(spec, out)
    path = out / "20240102T12.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    tables = build_source({"source": "table", "path": str(out), "cutoff": "none"}, None, 0)
    with pytest.raises(ObservationError, match=r"20240102T12\.parquet: cannot be read"):
        tables.read(Window(TIMES[2]))
    assert made(spec, out) == ["2024-01-02T12"]
    assert len(tables.read(Window(TIMES[2]))[0]) == 6 * 6
    with pytest.raises(ObservationError, match=r"source table: .*out has no window 20250101T00"):
        tables.read(Window(np.datetime64("2025-01-01T00")))


def test_a_parquet_file_of_something_else_is_refused(tmp_path):
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "20240102T12.parquet")
    tables = build_source({"source": "table", "path": str(tmp_path), "cutoff": "none"}, None, 0)
    with pytest.raises(ObservationError, match=r"20240102T12\.parquet: is not a table"):
        tables.read(Window(TIMES[2]))


def test_a_window_without_reports_is_a_table_without_rows(tmp_path):
    day(tmp_path / "in")
    (window,) = ingest({"source": "isd", "path": str(tmp_path / "in")}, np.array(["2030-01-01T00"], "M8[h]"), tmp_path)
    assert (window.inventory.found, window.inventory.files) == (0, [])
    table, inventory = build_source({"source": "table", "path": str(tmp_path)}, None, 0).read(Window(window.time))
    assert table.empty
    assert inventory.found == 0


def test_the_station_list_is_part_of_what_a_table_is_made_of(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/metar_20240102.txt").write_text("EGLL 021150Z 24008KT 9999 12/08 Q1012\n")
    network = tmp_path / "network.csv"
    network.write_text("station,latitude,longitude,elevation\nEGLL,51.48,-0.45,25\n")
    spec = {"source": "metar", "path": str(tmp_path / "in"), "network": str(network)}
    assert made(spec, tmp_path / "out", TIMES[2:3]) == ["2024-01-02T12"]
    assert made(spec, tmp_path / "out", TIMES[2:3]) == []
    network.write_text("station,latitude,longitude,elevation\nEGLL,51.5,-0.45,25\n")
    assert made(spec, tmp_path / "out", TIMES[2:3]) == ["2024-01-02T12"]


def test_sources_without_files_have_nothing_to_ingest(tmp_path):
    with pytest.raises(ObservationError, match="source stations: unknown option 'path'"):
        list(ingest({"source": "stations", "path": str(tmp_path)}, TIMES, tmp_path))


class TestGroups:
    """Files of single stations, read a group at a time."""

    @pytest.fixture
    def spec(self, tmp_path, monkeypatch):
        """Six stations in groups of two; one reports twice at some times."""
        monkeypatch.setattr(ingesting, "GROUP", 2 * day(tmp_path / "sample").stat().st_size)
        for number in range(6):
            place = {"STATION": f"0141{number}099999", "LATITUDE": f"{50 + number}.1", "TMP": f"+0{number}25,1"}
            day(tmp_path / "in", name=f"0141{number}099999.csv", **place)
        return {"source": "isd", "path": str(tmp_path / "in"), "latency": "1h"}

    def test_tables_are_those_of_all_files_together(self, spec, tmp_path, monkeypatch):
        said = []
        joined = list(ingest(spec, TIMES, tmp_path / "groups", said.append))
        assert said == ["group 1 of 3", "group 2 of 3", "group 3 of 3"]
        assert not (tmp_path / "groups/.parts").exists()
        monkeypatch.undo()
        together = list(ingest(spec, TIMES, tmp_path / "once"))
        for one, other in zip(joined, together, strict=True):
            assert (one.time, one.made) == (other.time, True)
            assert one.inventory.as_dict() == other.inventory.as_dict()
        for time in TIMES:
            one, other = (
                build_source({"source": "table", "path": str(tmp_path / name)}, None, 0).read(Window(time))[0]
                for name in ("groups", "once")
            )
            assert_frame_equal(one, other, check_categorical=False)

    def test_an_interrupted_run_goes_on_with_the_group(self, spec, tmp_path):
        def stop(sentence):
            if sentence.startswith("group 3"):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            list(ingest(spec, TIMES, tmp_path / "out", stop))
        parts = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/.parts").rglob("*.parquet")}
        assert len(parts) == 2 * len(TIMES)
        iterator = ingest(spec, TIMES, tmp_path / "out")
        next(iterator)
        assert {path: path.stat().st_mtime_ns for path in parts} == parts, "they are not made again"
        iterator.close()
        assert made(spec, tmp_path / "out") == [str(time) for time in TIMES[1:]]
        assert made(spec, tmp_path / "out") == []

    def test_a_changed_file_makes_the_tables_again(self, spec, tmp_path):
        assert len(made(spec, tmp_path / "out")) == len(TIMES)
        day(tmp_path / "in", name="01413099999.csv", TMP="+0300,1")
        assert len(made(spec, tmp_path / "out")) == len(TIMES)

    def test_a_group_that_cannot_be_read_is_counted(self, spec, tmp_path):
        for number in (0, 1, 4):
            (tmp_path / f"in/0141{number}099999.csv").write_text("no reports\n" * 60)
        windows = list(ingest(spec, TIMES, tmp_path / "out"))
        assert {window.inventory.unreadable for window in windows} == {3}
        assert {len(window.inventory.files) for window in windows} == {3}
        assert any("01410099999.csv: no column" in problem for problem in windows[0].inventory.problems)
        for path in (tmp_path / "in").iterdir():
            path.write_text("no reports\n" * 60)
        with pytest.raises(ObservationError, match="no column"):
            list(ingest(spec, TIMES, tmp_path / "out"))
