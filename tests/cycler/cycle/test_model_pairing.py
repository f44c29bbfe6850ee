"""Cycles with networks that a user has brought, and by increments from a coarser grid."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

from dacycle.common.configuration import parse_value, write_yaml
from dacycle.common.errors import DacycleError
from dacycle.cycler.archive.branches import Archive
from dacycle.cycler.cli import app
from dacycle.cycler.cycle.inputs import load_inputs
from dacycle.cycler.cycle.replay import run_due_cycles
from dacycle.cycler.experiment import STEP, ExperimentError, write_experiment
from dacycle.cycler.operations.doctor import check_experiment
from dacycle.forecast_adapter.models.double import add_double
from dacycle.forecast_adapter.models.model import load_model
from dacycle.forecast_adapter.states.files import write_states
from dacycle.forecast_adapter.statistics import Statistics
from dacycle.forecast_adapter.worlds.reference import Reference
from tests.cycler import replays

NAME = "double-5.625deg"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DACYCLE_HOME", str(tmp_path / "home"))


@pytest.fixture
def era5(world, tmp_path: Path) -> Path:
    """Return the tiny world under another name, its reference said to be ERA5."""
    return renamed(world, tmp_path / "laptop", "era5")


def renamed(world, folder: Path, reference: str) -> Path:
    folder.mkdir()
    for path in world.folder.iterdir():
        if path.name not in ("world.yaml", "statistics.nc"):
            (folder / path.name).symlink_to(path)
    own = Statistics.load(world.folder / "statistics.nc")
    Statistics(own.mean, own.std, folder.name, own.description).save(folder / "statistics.nc")
    described = {"name": folder.name, "grid": "5.625deg", "reference": reference}
    (folder / "world.yaml").write_text(write_yaml(described))
    return folder


def test_a_brought_network_cycles_and_the_analysis_is_what_is_cycled(era5, tmp_path):
    add_double("5.625deg", "era5")
    archive = Archive(tmp_path / "archive", create=True)
    content = replays.content(era5, Path(NAME), tmp_path)
    cycles = run_due_cycles(replays.experiment(content), archive, limit=2)
    assert [cycle.record.status for cycle in cycles] == ["ok", "ok"]
    assert cycles[0].record.unpaired_model is None
    branch, model, time = archive.branch("demo"), load_model(NAME), cycles[1].time
    frames = [branch.state("analysis", time - lag).values[None] for lag in (2 * STEP, STEP)]
    background = branch.state("background", time).values
    np.testing.assert_array_equal(background, next(model.forecast(*frames, 1))[0])
    first_guess = branch.state("background", time - STEP).values[None]
    assert np.abs(next(model.forecast(frames[0], first_guess, 1))[0] - background).max() > 0.1


def test_a_model_of_another_kind_of_states_is_refused_and_can_be_insisted_on(era5, tmp_path):
    add_double("5.625deg", "operational")
    content = replays.content(era5, Path(NAME), tmp_path)
    with pytest.raises(
        ExperimentError, match=r"made for 'operational', not for .*laptop.*era5; .*fengwu-v1.*unpaired_model"
    ):
        load_inputs(replays.experiment(content))
    archive = Archive(tmp_path / "archive", create=True)
    (cycle,) = run_due_cycles(replays.experiment(content | {"unpaired_model": True}), archive, limit=1)
    assert "made for 'operational'" in cycle.record.unpaired_model


def test_a_key_that_is_not_used_leaves_an_experiments_digest_alone(world, tmp_path):
    content = replays.content(world.folder, world.model, tmp_path)
    assert not {"unpaired_model", "assimilation_grid"} & replays.experiment(content).as_dict().keys()


@pytest.mark.parametrize("product", ["start.nc", "start.zarr"])
def test_one_state_can_stand_for_both_frames_and_is_marked(world, tmp_path, product):
    reference, file = Reference(world.folder / "reference"), tmp_path / "start.nc"
    last = np.datetime64(replays.START - STEP, "h")
    write_states(file, [reference.state(last)], {})
    if product == "start.zarr":  # a store as WeatherBench2 publishes them
        with xr.open_dataset(file) as found:
            file = tmp_path / product
            found.load().to_zarr(file)
    content = replays.content(world.folder, world.model, tmp_path)
    both = replays.experiment(content | {"cold_start": {"state": str(file)}})
    with pytest.raises(ExperimentError, match="20240103T00 and 20240103T06"):
        run_due_cycles(both, Archive(tmp_path / "two", create=True), limit=1)
    archive = Archive(tmp_path / "one", create=True)
    started = content | {"cold_start": {"state": str(file), "one_frame": True}}
    run_due_cycles(replays.experiment(started), archive, limit=1)
    branch = archive.branch("demo")
    before, now = (branch.state("analysis", time).values for time in branch.times[:2])
    np.testing.assert_array_equal(before, now)
    assert [record.frame for record in branch.records] == ["one state stands for both"] * 2 + [None]


def test_a_cycle_by_increments_from_a_coarser_grid(world, tmp_path):
    content = replays.content(world.folder, world.model, tmp_path, assimilation_grid="16x32")
    archive = Archive(tmp_path / "archive", create=True)
    (cycle,) = run_due_cycles(replays.experiment(content), archive, limit=1)
    assert cycle.record.status == "ok"
    branch = archive.branch("demo")
    analysis, background = (branch.state(group, cycle.time).values for group in ("analysis", "background"))
    assert analysis.shape == (69, 32, 64)
    assert np.abs(analysis - background)[2].max() > 0.1
    assert analysis[17:30].min() >= 0
    departures = branch.departures([cycle.time])
    used = departures[(departures.use == "assimilated") & (departures.variable == "t2m")]
    assert used.o_a.std() < used.o_b.std()
    assert set(cycle.record.thickness_imbalance) >= {"50-100", "925-1000"}


def test_increments_come_from_a_coarser_grid_only(world, tmp_path):
    content = replays.content(world.folder, world.model, tmp_path, assimilation_grid="64x128")
    with pytest.raises(ExperimentError, match=r"nudge is on 64x128, not coarser than 5\.625deg"):
        load_inputs(replays.experiment(content))
    with pytest.raises(ExperimentError, match="unknown grid '7deg'"):
        load_inputs(replays.experiment(content | {"assimilation_grid": "7deg"}))


def test_doctor_names_everything_that_this_machine_lacks(tmp_path):
    content = replays.content(tmp_path / "nowhere", Path("fengwu-v1"), tmp_path)
    content["observations"] = [{"source": "synop_bufr", "path": str(tmp_path / "feed/*.bufr"), "cutoff": "3h"}]
    file = tmp_path / "demo.yaml"
    file.write_text(write_experiment(content))
    found = {f.subject: f for f in check_experiment(file, tmp_path / "archive") if f.level == "wrong"}
    assert set(found) == {"world", "model", "source synop_bufr"}
    assert "CC BY-NC-SA" in found["model"].text


@pytest.mark.parametrize("name", ["fengwu-1.40625deg", "hindcast-2024", "live"])
def test_the_experiments_for_fengwu_are_sound(name):
    """They name what is on no machine by itself; doctor says of each what it is."""
    file = Path(__file__).resolve().parents[3] / f"deploy/experiments/{name}.yaml"
    lacks = {f.subject for f in check_experiment(file, Path("archive")) if f.level == "wrong"}
    assert lacks >= {"world", "model", "assimilator"}


GENUINE = {
    "live": {"stations": "obs/synop_europe_2018112012.bufr", "sondes": "obs/temp_global_2008120812.bufr"},
    "hindcast-2024": {"stations": "obs/isd_014160-99999-2016.gz", "olr": "olr/noaa_olr_2p5deg_20080125_with_uvh.nc"},
}
"""Genuine files for the sources of an experiment; a source without one here is left out."""


@pytest.mark.parametrize(
    ("name", "kind", "start", "seen"),
    [
        ("live", "operational", "2018-11-20T12", {"stations": 1000, "sondes": 0}),
        ("live", "operational", "2008-12-08T12", {"stations": 0, "sondes": 1000}),
        ("hindcast-2024", "era5", "2016-01-04T12", {"stations": 1, "olr": 0}),
        ("hindcast-2024", "era5", "2008-01-26T00", {"stations": 0, "olr": 1000}),
    ],
)
def test_the_experiments_for_fengwu_run_on_genuine_observations(world, shared, tmp_path, name, kind, start, seen):
    """Their sources, guards and increments between grids; what cannot be had here are the weights and the reference."""
    replays.register_doubles()
    file = Path(__file__).resolve().parents[3] / f"deploy/experiments/{name}.yaml"
    content = parse_value(file.read_text(), "a file of the test", DacycleError)
    content["observations"] = [source for source in content["observations"] if source["name"] in GENUINE[name]]
    for source in content["observations"]:
        source["path"] = str(shared / GENUINE[name][source["name"]])
        if source["source"] == "table":  # as the head of the file says
            period = ["--since", "2016-01-04T12", "--until", "2016-01-04T12", "--out", str(tmp_path / "isd")]
            ingested = CliRunner().invoke(app, ["ingest", "isd", source["path"], *period])
            assert ingested.exit_code == 0, ingested.output
            source["path"] = str(tmp_path / "isd")
        if source["name"] == "olr":  # the file says little of itself
            source |= {"variable": "o", "stamp": "start", "period": "24h", "units": "W m-2"}
    content |= {
        "world": str(renamed(world, tmp_path / "laptop", kind)), "grid": "5.625deg", "start": start, "end": start,
        "cold_start": {"climatology": True}, "model": add_double("5.625deg", kind).name, "assimilator": "nudge",
        "assimilation_grid": "16x32", "drift": {"free_run": False},
    }  # fmt: skip
    archive = Archive(tmp_path / "archive", create=True)
    (cycle,) = run_due_cycles(replays.experiment(content), archive, limit=1)
    departures = archive.branch(name).departures([cycle.time])
    for source, least in seen.items():
        count = (departures.source == source).sum()
        assert count >= least if least else count == 0
    analysis, background = (
        archive.branch(name).state(group, cycle.time).values for group in ("analysis", "background")
    )
    assert (np.abs(analysis - background).max() > 0.1) == (cycle.record.status == "ok")
