"""The single-observation experiment as a command: its input, its output, and its errors."""

import base64
import io
import re
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from typer.testing import CliRunner

from dacycle.cycler.cli import app
from dacycle.cycler.experiment import write_experiment
from dacycle.cycler.single.observation import parse_quantity
from dacycle.forecast_adapter.grid import great_circle_km
from dacycle.obs_ingest.table import ObservationError
from tests.cycler import replays

DEMO = Path(__file__).parents[3] / "deploy/experiments/demo.yaml"
PLACE = {"latitude": 50.0, "longitude": 10.0}
REACH_KM = 3000.0  # of the packaged oi


def run(experiment, *more, status=0, **options):
    """Return the output of the command."""
    given = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    ended = CliRunner().invoke(app, ["single-observation", str(experiment), *given, *more], env={"COLUMNS": "160"})
    assert ended.exit_code == status, (ended.output, ended.exception)
    assert "Traceback" not in ended.output
    return " ".join(ended.output.split())


@pytest.fixture(scope="module")
def warmer(tmp_path_factory):
    """Assimilate, by oi, an observation 1 K warmer than the demonstration's first background, and one 1 K colder."""
    folder = tmp_path_factory.mktemp("single")
    experiment = folder / "oi.yaml"
    experiment.write_text(DEMO.read_text().replace("assimilator: fnp", "assimilator: oi"))
    aloft = {"variable": "t", "pressure": "500hPa", **PLACE}
    said = run(experiment, **aloft, departure="1K", out=folder / "plus")
    run(experiment, **aloft, departure="-1 K", out=folder / "minus")
    return folder, said


def test_the_increment_goes_towards_the_observation_and_flips_with_it(warmer):
    folder, said = warmer
    with xr.open_dataset(folder / "plus/increment.nc") as plus, xr.open_dataset(folder / "minus/increment.nc") as minus:
        at = plus.temperature.sel(level=500, time="2024-01-04T00").sel(PLACE, method="nearest")
        assert 0 < float(at) < 1
        for name in plus.data_vars:
            scale = float(abs(plus[name]).max())
            np.testing.assert_allclose(minus[name], -plus[name], atol=1e-3 * scale, err_msg=name)
        assert plus.geopotential.attrs["units"] == "m2 s-2"
        assert "increment" in plus.attrs["title"]
    left = float(re.search(r"O-B \+1, O-A \+([\d.]+) K", said).group(1))
    assert 0 < left < 1
    assert "cell 47.81 11.25" in said


def test_beyond_the_localisation_nothing_changes(warmer):
    folder, said = warmer
    with xr.open_dataset(folder / "plus/increment.nc") as found:
        away = great_circle_km(found.latitude, found.longitude, np.array(47.8125), np.array(11.25))
        for name in found.data_vars:
            assert float(abs(found[name].where(away > REACH_KM, 0)).max()) == 0, name
    assert re.search(r"half peak beyond .*within \(km\) 3000 km", said)
    assert re.search(r"t500 \(observed\) [\d.]+ K( [\d.]+){3} 0.0%", said)


def test_the_table_has_every_channel_and_agrees_with_the_field(warmer):
    folder, said = warmer
    table = pd.read_csv(folder / "plus/increment.csv").set_index("channel")
    assert len(table) == 69
    assert table["peak_sd"].is_monotonic_decreasing
    with xr.open_dataset(folder / "plus/increment.nc") as found:
        field = found.temperature.sel(level=500)[0]
        peak = float(field.max())
        assert table.loc["t500", "peak"] == pytest.approx(peak, rel=1e-4)
        assert abs(float(field.min())) < peak
    assert table.loc["t500", "half_peak_km"] < REACH_KM / 2
    assert table["beyond"].eq(0).all()
    assert "t500 (observed)" in said


def test_the_picture_is_drawn(warmer):
    folder, _ = warmer
    picture = (folder / "plus/increment.svg").read_text()
    assert picture.startswith("<svg")
    for said in ("t500, observed (K)", "t along 47.8 degrees", "at the observation"):
        assert said in picture
    images = re.findall(r"base64,\s*([A-Za-z0-9+/=\s]+)\"", picture)
    pixels = [matplotlib.image.imread(io.BytesIO(base64.b64decode(image)), format="png") for image in images]
    maps = [image for image in pixels if image.shape[0] > 100]
    assert len(maps) >= 6
    assert all(image[..., :3].std() > 0.02 for image in maps), "no map is of one colour"


@pytest.fixture
def nudged(world, tmp_path):
    """Run an experiment whose assimilator moves an observed cell by half of its departure; return file and archive."""
    content = replays.content(world.folder, world.model, tmp_path, end="2024-01-03T18")
    (tmp_path / "demo.yaml").write_text(write_experiment(content))
    ended = CliRunner().invoke(app, ["hindcast", str(tmp_path / "demo.yaml"), "--archive", str(tmp_path / "archive")])
    assert ended.exit_code == 0, ended.output
    return tmp_path / "demo.yaml", tmp_path / "archive"


def test_a_committed_cycle_gives_the_background(nudged, tmp_path):
    experiment, archive = nudged
    out = tmp_path / "out"
    options = {"variable": "msl", "departure": "-2hPa", "archive": archive, "beyond": 1000, "out": out, **PLACE}
    assert "20240103T18, background: demo in" in run(experiment, **options)
    assert "20240103T12, background: demo in" in run(experiment, **options, time="2024-01-03T12")
    with xr.open_dataset(out / "increment.nc") as found:
        changed = found.mean_sea_level_pressure.values
        assert np.count_nonzero(changed) == 1
        assert changed.min() == pytest.approx(-100, abs=0.1)
    assert "no cycle 20240110T00; it has 20240103T12 to 20240103T18" in run(
        experiment, **options, time="2024-01-10T00", status=2
    )
    assert "no experiment 'other'" in run(experiment, **options, branch="other", status=2)
    text = experiment.read_text()
    experiment.write_text(text.replace("assimilator: nudge", "assimilator: none"))
    assert "makes no increment" in run(experiment, **options, status=2)


def test_without_a_stated_reach_one_is_asked_for(nudged, tmp_path):
    experiment, archive = nudged
    options = {"variable": "t2m", "departure": "1K", "archive": archive, "out": tmp_path / "out", **PLACE}
    assert "states no reach: say beyond" in run(experiment, **options, status=2)
    assert not (tmp_path / "out").exists()


WRONG = [
    ({"variable": "t2n"}, "'t2n' has no observation operator"),
    ({"variable": "olr", "departure": "5W/m2"}, "'olr' has no observation operator"),
    ({"departure": "1"}, "write it as a number with its unit: K"),
    ({"departure": "1hPa"}, "write it as a number with its unit: K"),
    ({"departure": "0K"}, "its departure is 0"),
    ({"latitude": 91}, "latitude 91 is outside"),
    ({"longitude": 400}, "longitude 400 is outside"),
    ({"latitude": "nan"}, "latitude nan is outside"),
    ({"pressure": "500hPa"}, "at the surface and takes no pressure"),
    ({"variable": "t"}, "is aloft and needs a pressure"),
    ({"error": "-1K"}, "not above 0"),
    ({"time": "2024-01-04T03"}, "not a cycle time"),
    ({"time": "2031-01-04T00"}, "cold_start needs the reference at"),
    ({"variable": "t", "pressure": "10hPa"}, "pressure 10 hPa is outside 50 to 1000 hPa"),
    ({"latitude": 89.5}, "beyond the last row of cells before a pole"),
]


@pytest.mark.parametrize(("change", "message"), WRONG, ids=[message for _, message in WRONG])
def test_what_cannot_be_observed_is_refused_with_the_reason(change, message, world, tmp_path):
    content = replays.content(world.folder, world.model, tmp_path)
    (tmp_path / "demo.yaml").write_text(write_experiment(content))
    options = {"variable": "t2m", "departure": "1K", "out": tmp_path / "out", "beyond": 1000, **PLACE} | change
    assert message in run(tmp_path / "demo.yaml", **options, status=2)
    assert not (tmp_path / "out").exists()


def test_a_branch_needs_its_archive(tmp_path):
    options = {"variable": "t2m", "departure": "1K", "out": tmp_path, "branch": "demo", **PLACE}
    assert "give --archive as well" in run(DEMO, **options, status=2)


def test_quantities_are_converted_by_their_unit():
    assert parse_quantity("-2hPa", "Pa", "x") == -200
    assert parse_quantity("1.5 g/kg", "kg kg-1", "x") == pytest.approx(0.0015)
    assert parse_quantity("10gpm", "m2 s-2", "x") == pytest.approx(98.0665)
    with pytest.raises(ObservationError, match="K"):
        parse_quantity("1C", "K", "x")
