"""The archive: what readers see, who may write, forks and rewinds, and damage that is named instead of read."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import dacycle
from dacycle.cycler.archive.branches import Archive, ArchiveError, open_experiment
from dacycle.cycler.archive.record import CycleRecord
from dacycle.cycler.archive.writer import write
from dacycle.cycler.cycle.replay import run_due_cycles
from dacycle.cycler.experiment import STEP
from tests.cycler import replays


@pytest.fixture(scope="module")
def content(world, tmp_path_factory):
    return replays.content(world.folder, world.model, tmp_path_factory.mktemp("experiment"))


@pytest.fixture(scope="module")
def finished(content, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "archive"
    run_due_cycles(replays.experiment(content), Archive(folder, create=True))
    return folder


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """Return a copy of the finished run, to change."""
    return Path(shutil.copytree(finished, tmp_path / "archive"))


def tip(archive: Path, name: str = "demo") -> str:
    return next(Archive(archive).states.commits(name)).id


def test_an_experiment_opens_as_xarray_and_pandas(finished):
    demo = dacycle.open(finished, "demo")
    assert demo.experiment.name == "demo"
    assert demo.analysis["geopotential"].dims == ("time", "level", "latitude", "longitude")
    assert demo.analysis["2m_temperature"].attrs["units"] == "K"
    assert len(demo.analysis.time) == 6
    assert len(demo.background.time) == 4
    assert isinstance(demo.cycles.index, pd.DatetimeIndex)
    assert set(demo.cycles.status) == {"cold_start", "ok"}
    one = demo.analysis["temperature"].sel(time=replays.LAST, level=850)
    np.testing.assert_array_equal(one, demo.state("analysis", replays.LAST).sel(channel="t850"))


def test_times_are_stored_as_hours_and_each_state_in_its_own_checksummed_chunk(finished):
    import zarr

    archive = Archive(finished)
    root = zarr.open_group(archive.states._repository.readonly_session("demo").store, mode="r")
    assert root["analysis/time"].dtype == np.int64
    assert root["analysis/time"].attrs["units"] == "hours since 1970-01-01"
    for group in ("analysis", "background", "cycles"):
        for name, array in root[group].arrays():
            assert any("crc32c" in type(codec).__name__.lower() for codec in array.compressors), name
            assert len(array.shape) == 1 or group == "cycles" or array.chunks[0] == 1


def test_a_time_cannot_be_appended_twice(run, content):
    archive = Archive(run)
    before = tip(run)
    with write(archive, replays.experiment(content)) as writer:
        state = writer.state("analysis", replays.LAST).values
        departures = writer.departures([replays.LAST]).drop(columns="cycle")
        with pytest.raises(ArchiveError, match="the next cycle of demo is 2024-01-04 12:00:00"):
            writer.commit_cycle(state, state, departures, CycleRecord(replays.LAST, "ok", {}), {})
    times = pd.DatetimeIndex([replays.LAST])
    again = xr.Dataset({"record": ("time", np.array(["{}"], object))}, {"time": times})
    with pytest.raises(ArchiveError, match="cycles already goes to 2024-01-04T06; cannot append 2024-01-04T06"):
        archive.states.append("demo", {"cycles": again}, "twice")
    assert tip(run) == before


def test_what_a_writer_keeps_of_its_commits_is_what_is_read(run, content):
    experiment = replays.experiment(content)
    archive = Archive(run)
    archive.rewind("demo", replays.LAST - 3 * STEP)
    with write(archive, experiment) as writer:
        for time in (replays.LAST - 2 * STEP, replays.LAST - STEP, replays.LAST):
            before = writer.frame(time - STEP)
            analysis = before.astype(np.float64) + 1e-9  # float32 is stored, and kept
            table = writer.departures([replays.LAST - 3 * STEP]).drop(columns="cycle")
            writer.commit_cycle(before, analysis, table, CycleRecord(time, "ok", {"model": "x"}, uses={"late": 1}), {})
            reader = open_experiment(run, "demo")
            for kept in (time - STEP, time):
                assert writer.frame(kept).tobytes() == reader.state("analysis", kept).values.tobytes()
                assert writer.frame(kept).dtype == np.float32
                assert not writer.frame(kept).flags.writeable
            assert writer.recent_records(28) == reader.recent_records(28)
            assert writer.recent_records(2) == reader.recent_records(2)
            assert writer.next_time == reader.next_time
    assert open_experiment(run, "demo").damaged() == []


def test_a_second_writer_is_refused_and_told_who_writes(run, content):
    experiment = replays.experiment(content)
    with (
        write(Archive(run), experiment),
        pytest.raises(ArchiveError, match=r"experiment demo is being written by process \d+ on "),
        write(Archive(run), experiment),
    ):
        pass
    with write(Archive(run), experiment):
        pass


def test_another_branch_may_be_written_at_the_same_time(run, content):
    other = replays.experiment(content | {"name": "other"})
    with write(Archive(run), replays.experiment(content)):
        assert len(run_due_cycles(other, Archive(run), limit=1)) == 1


def test_a_changed_experiment_is_refused_with_the_keys_that_differ(run, content):
    before = tip(run)
    changed = replays.experiment(content | {"seed": 2, "guards": content["guards"] | {"increment_limit": 3}})
    with pytest.raises(ArchiveError) as caught:
        run_due_cycles(changed, Archive(run))
    assert "guards.increment_limit: 20.0 at its first cycle, now 3.0" in str(caught.value)
    assert "seed: 1 at its first cycle, now 2" in str(caught.value)
    assert "dacycle fork" in str(caught.value)
    assert tip(run) == before
    assert open_experiment(run, "demo").experiment.seed == 1


def test_a_flipped_byte_is_named_with_array_and_time(run):
    chunks = sorted((run / "states.icechunk/chunks").iterdir(), key=lambda path: path.stat().st_size)
    broken = bytearray(chunks[-1].read_bytes())
    broken[len(broken) // 2] ^= 0x10
    chunks[-1].write_bytes(broken)
    complaints = open_experiment(run, "demo").damaged()
    assert len(complaints) == 1
    assert " at 2024-01-0" in complaints[0]
    assert any(f"{group}/" in complaints[0] for group in ("analysis", "background"))
    assert "rewind" in complaints[0]


def test_damaged_or_missing_departures_are_named(run):
    folder = run / "branches/demo/departures"
    (folder / "20240103T12.parquet").write_bytes(b"PAR1")
    (folder / "20240103T18.parquet").unlink()
    complaints = open_experiment(run, "demo").damaged()
    assert "20240103T12.parquet is damaged" in complaints[0]
    assert "20240103T18.parquet is missing" in complaints[1]
    assert len(complaints) == 2


def test_files_of_cycles_that_were_not_committed_are_not_read(run):
    folder = run / "branches/demo/departures"
    shutil.copy(folder / "20240104T06.parquet", folder / "20240104T12.parquet")
    departures = open_experiment(run, "demo").departures()
    assert departures.cycle.max() == replays.LAST
    with pytest.raises(ArchiveError, match="no committed cycle 20240104T12"):
        open_experiment(run, "demo").departures([replays.LAST + STEP])


def test_rewound_and_run_again_it_is_the_same(run, content):
    whole = replays.everything(run)
    Archive(run).rewind("demo", replays.START)
    branch = open_experiment(run, "demo")
    assert branch.times[-1] == replays.START
    assert [path.stem for path in (run / "branches/demo/departures").iterdir()] == ["20240103T12"]
    run_due_cycles(replays.experiment(content), Archive(run))
    assert replays.everything(run) == whole


def test_a_rewind_needs_a_cycle_of_the_experiment(run):
    with pytest.raises(ArchiveError, match="demo has no committed cycle 20250101T00"):
        Archive(run).rewind("demo", pd.Timestamp("2025-01-01"))
    with pytest.raises(ArchiveError, match="demo begins at 20240103T06"):
        Archive(run).rewind("demo", replays.START - 2 * STEP)


def test_a_fork_shares_the_past_and_keeps_it_when_its_donor_changes(run, content):
    start = replays.START + 2 * STEP
    changes = {"name": "no-wind", "start": f"{start:%Y-%m-%dT%H}", "deny": ["u10", "v10"]}
    forked = replays.experiment(content | changes | {"cold_start": {"from": "demo@20240103T18"}})
    run_due_cycles(forked, Archive(run))
    Archive(run).rewind("demo", replays.START - STEP)

    fork = open_experiment(run, "no-wind")
    assert list(fork.times) == list(pd.date_range(replays.START - 2 * STEP, replays.LAST, freq=STEP))
    assert fork.damaged() == []
    assert list(fork.cycles.experiment.dropna().unique()) == ["demo", "no-wind"]
    used = fork.departures().groupby("cycle").apply(lambda t: ((t.variable == "u10") & (t.use == "assimilated")).any())
    assert used.tolist() == [True, True, False, False]
    with pytest.raises(ArchiveError, match="no-wind begins at 20240103T18"):
        Archive(run).rewind("no-wind", replays.START)


def test_taking_the_lock_does_not_fork_and_a_fork_has_only_the_files_of_the_past_it_shares(run, content):
    changes = {"name": "fork", "start": "2024-01-04T00", "cold_start": {"from": "demo@20240103T18"}}
    forked, archive = replays.experiment(content | changes), Archive(run)
    drift = run / "branches/demo/drift"
    drift.mkdir()
    for name in ("20240103T12", "20240104T00"):
        (drift / f"{name}.parquet").write_bytes(b"scores of this start")
    with write(archive, forked) as writer:
        assert archive.branches() == ["demo"]
        assert writer.next_time is None
        writer.fork()
        assert writer.next_time == replays.START + 2 * STEP
    assert archive.branches() == ["demo", "fork"]
    folder = run / "branches/fork"
    assert sorted(p.name for p in (folder / "departures").iterdir()) == ["20240103T12.parquet", "20240103T18.parquet"]
    assert [p.name for p in (folder / "drift").iterdir()] == ["20240103T12.parquet"]


def test_what_a_killed_writer_left_under_a_temporary_name_goes_with_the_next_one(run, content):
    folder = run / "branches/demo/departures"
    before = sorted(folder.iterdir())
    (folder / ".20240104T12.4711.part.parquet").write_bytes(b"half a")
    with write(Archive(run), replays.experiment(content)):
        assert sorted(folder.iterdir()) == before


def test_a_fork_from_a_cycle_that_is_not_there_is_refused(run, content):
    changes = {"name": "late", "start": "2024-01-05T00", "end": "2024-01-06T00"}
    forked = replays.experiment(content | changes | {"cold_start": {"from": "demo@20240104T18"}})
    with pytest.raises(ArchiveError, match="demo has no committed cycle 20240104T18"):
        run_due_cycles(forked, Archive(run))
    assert Archive(run).branches() == ["demo"]


def test_what_is_no_archive_is_not_made_into_one_by_reading(tmp_path):
    with pytest.raises(ArchiveError, match=r"no archive at .*nothing; give --archive"):
        open_experiment(tmp_path / "nothing", "demo")
    assert not (tmp_path / "nothing").exists()


def test_an_unknown_experiment_is_refused_with_those_there_are(finished):
    with pytest.raises(ArchiveError, match=r"no experiment 'dome' here \(there are: demo\)"):
        open_experiment(finished, "dome")
