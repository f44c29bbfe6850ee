"""`dacycle analyse`: one analysis from files, on a real pair and on drawn observations, and its errors."""

import re
from pathlib import Path

import eccodes
import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import Result
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial import cKDTree
from typer.testing import CliRunner

from dacycle.assimilators.classical.isotropic import ErrorStatistics
from dacycle.cycler.cli import app
from dacycle.cycler.single.surface_analysis import Analyser
from dacycle.forecast_adapter.grid import great_circle_km
from dacycle.forecast_adapter.states.points import PointFields, positions, read_points
from dacycle.obs_ingest.sources.bufr.synop import SynopBufr
from dacycle.obs_ingest.table import ObservationError, concatenate, from_arrow, to_arrow
from dacycle.obs_ingest.window import Window
from tests.obs_ingest.helpers import TIME, observations

GRIB = "grid/ecmwf_fc48_2t_N160_valid_2018112012.grib"
BUFR = "obs/synop_europe_2018112012.bufr"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["analyse", *map(str, arguments)])


def failed(result: Result, *words: str) -> None:
    """Exit status 2 and one line of error that holds all `words`."""
    assert result.exit_code == 2, result.output
    text = " ".join(re.sub(r"[│╭╰╮╯─]", " ", result.output).split())
    assert "Traceback" not in text
    for word in words:
        assert word in text


@pytest.fixture(scope="module")
def made(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """Analyse a 48-h forecast and SYNOPs, as a user does."""
    folder = tmp_path_factory.mktemp("pair")
    result = run(
        *("--background", shared / GRIB, "--observations", shared / BUFR, "--out", folder / "a.grib"),
        *("--increments", folder / "i.grib", "--hold-back", 0.2, "--splits", 2),
    )
    assert result.exit_code == 0, result.output
    return folder, result


class TestRealPair:
    def test_stations_that_were_held_back_are_nearer(self, shared: Path) -> None:
        background = read_points(shared / GRIB)
        table, _ = SynopBufr(shared / BUFR).read(Window(background.time))
        tries = [Analyser(background, table).hold_back(0.2, f"try {i}").scores("t2m", "withheld") for i in range(2)]
        for scores in tries:
            assert 200 < scores.number < 350
            assert scores.o_a_rms < 0.82 * scores.o_b_rms
            assert scores.o_b_rms <= 1.03 * scores.raw_rms
            assert abs(scores.o_a_mean) < abs(scores.o_b_mean)

    def test_files_belong_together(self, shared: Path, made: tuple[Path, Result]) -> None:
        folder, _ = made
        background, analysis, increment = (
            read_points(shared / GRIB).values["t2m"],
            read_points(folder / "a.grib"),
            codes(folder / "i.grib"),
        )
        assert sorted(p.name for p in folder.iterdir()) == ["a.departures.parquet", "a.grib", "i.grib"]
        assert_allclose(analysis.values["t2m"] - background, increment, atol=2e-3)
        table = from_arrow(pq.read_table(folder / "a.departures.parquet"), "departures")
        assert len(table) == 9454  # every value of the file but winds without a direction, whatever became of it
        t2m = table[table["variable"] == "t2m"]
        assert len(t2m) == 1471
        used = t2m[t2m["use"] == "assimilated"]
        assert 1300 < len(used) < 1471
        assert_allclose(used["o_b"] - used["o_a"], used["analysis"] - used["background"], atol=1e-3)
        others = table[table["variable"] != "t2m"]
        assert set(others["use"]) == {"rejected"}
        assert others["o_b"].isna().all()
        # o_a is that of the file: H of the increment, by the nearest points and their distances
        points, stations = (
            positions(analysis.latitude, analysis.longitude),
            positions(used["latitude"], used["longitude"]),
        )
        distance, nearest = cKDTree(points).query(stations, k=4)
        weight = 1 / distance**2
        there = (weight * increment[nearest]).sum(axis=1) / weight.sum(axis=1)
        assert_allclose(used["o_b"] - there, used["o_a"], atol=5e-3)

    def test_far_away_the_background_stays(self, shared: Path, made: tuple[Path, Result]) -> None:
        """South America is beyond the reach of European stations; GRIB packs it anew, no more."""
        background, analysis = read_points(shared / GRIB), read_points(made[0] / "a.grib")
        far = (background.latitude < 0) & (abs(background.longitude - 300) < 30)
        assert far.sum() > 3000
        assert_allclose(analysis.values["t2m"][far], background.values["t2m"][far], atol=2e-3)
        assert abs(codes(made[0] / "i.grib")[far]).max() < 1e-3

    def test_what_is_printed(self, made: tuple[Path, Result]) -> None:
        text = " ".join(made[1].output.split())
        for words in (
            "1507 of 1507 messages decoded",
            "rejected: station_height",
            "length (km)",
            "K/km, fitted to the departures",
            "the model's orography is not known",
            "share 0.2, seed 1",
            "mean",
        ):
            assert words in text

    def test_a_table_of_ingest_does_as_well_as_its_files(self, shared: Path, tmp_path: Path) -> None:
        """And errors given are taken: a background without error is not corrected."""
        table, _ = SynopBufr(shared / BUFR).read(Window(np.datetime64("2018-11-20T12")))
        pq.write_table(to_arrow(table), tmp_path / "synop.parquet")
        result = run(
            *(
                "--background",
                shared / GRIB,
                "--observations",
                tmp_path / "synop.parquet",
                "--out",
                tmp_path / "a.grib",
            ),
            *("--background-error", 1e-6, "--observation-error", 1, "--length", 80, "--lapse-rate", 0),
        )
        assert result.exit_code == 0, result.output
        assert_allclose(
            read_points(tmp_path / "a.grib").values["t2m"], read_points(shared / GRIB).values["t2m"], atol=1e-3
        )
        assert "0.00 K/km, as given" in result.output

    def test_refusals(self, shared: Path, tmp_path: Path) -> None:
        out, page, table = tmp_path / "a.grib", tmp_path / "page.grib", tmp_path / "page.parquet"
        for path in (page, table):
            path.write_text("<html>503 Service Unavailable</html>")
        grib, bufr = ("--background", shared / GRIB), ("--observations", shared / BUFR)
        other_day = ("--observations", shared / "obs/synop_dwd_20210516T1150.bufr")
        failed(run(*grib, *other_day, "--out", out), "synop_dwd_20210516T1150.bufr", "no value in the window")
        failed(run("--background", page, *bufr, "--out", out), "page.grib", "it is a web page")
        failed(run(*grib, "--observations", table, "--out", out), "page.parquet", "cannot be read")
        failed(run(*grib, "--observations", tmp_path / "no.bufr", "--out", out), "no.bufr", "no such file")
        failed(run(*grib, *bufr, "--out", out, "--channel", "msl"), "msl is not there; it holds t2m")
        failed(run(*grib, *bufr, "--out", out, "--length", 80), "go together")
        failed(run(*grib, *bufr, "--out", out, "--orography", shared / GRIB), "holds no orography")
        failed(run(*grib, *bufr, "--out", out, "--time", "2018-11-21T00"), "nothing is valid at")
        assert not out.exists()

    def test_orography_in_the_file_of_the_background(self, shared: Path, tmp_path: Path) -> None:
        background = tmp_path / "with_ground.grib"
        with open(shared / GRIB, "rb") as file:
            ground = eccodes.codes_clone(message := eccodes.codes_grib_new_from_file(file))
        eccodes.codes_set(ground, "paramId", 129)
        eccodes.codes_set_values(ground, np.full(eccodes.codes_get_size(ground, "values"), 3000.0))
        with open(background, "wb") as file:
            for each in (message, ground):
                eccodes.codes_write(each, file)
        result = run(
            *("--background", background, "--observations", shared / BUFR, "--out", tmp_path / "a.grib"),
            *("--background-error", 2, "--observation-error", 1, "--length", 5, "--lapse-rate", 6),
        )
        assert result.exit_code == 0, result.output
        text = " ".join(result.output.split())
        assert "above the ground of with_ground.grib" in text
        assert "t2m: errors are correlated over 5 km only" in text

    def test_errors_that_cannot_be_estimated_are_proposed(self, shared: Path, tmp_path: Path) -> None:
        table, _ = SynopBufr(shared / BUFR).read(Window(np.datetime64("2018-11-20T12")))
        pq.write_table(to_arrow(table[table["variable"] == "t2m"].head(60)), tmp_path / "few.parquet")
        files = (
            "--background",
            shared / GRIB,
            "--observations",
            tmp_path / "few.parquet",
            "--out",
            tmp_path / "a.grib",
        )
        result = run(*files, "--lapse-rate", 6)
        failed(result, "are too few to estimate errors from", "usual are --channel t2m --background-error 2")
        proposed = re.search(r"usual are (.*)", " ".join(result.output.split()))
        assert proposed is not None
        assert run(*files, "--lapse-rate", 6, *proposed[1].split()).exit_code == 0

    def test_stricter_checks(self, shared: Path, tmp_path: Path) -> None:
        (tmp_path / "list.csv").write_text("station,variable\n40270,t2m\n10033,t2m\n")
        files = ("--background", shared / GRIB, "--observations", shared / BUFR, "--out", tmp_path / "a.grib")
        result = run(*files, "--buddy-check", 3, "--blacklist", tmp_path / "list.csv")
        assert result.exit_code == 0, result.output
        table = from_arrow(pq.read_table(tmp_path / "a.departures.parquet"), "departures")
        reasons = table[table["variable"] == "t2m"].groupby("reason", observed=True).size()
        assert reasons["blacklisted"] == 2
        assert 3 < reasons["buddy_check"] < 20
        assert f"rejected: buddy_check {reasons['buddy_check']}" in " ".join(result.output.split())
        used = table[(table["variable"] == "t2m") & (table["use"] == "assimilated")]
        assert (abs(used["height_difference"]) <= 500).all()
        assert used["height_difference"].std() > 50
        failed(run(*files, "--whitelist", shared / BUFR), "synop_europe_2018112012.bufr", "is not in UTF-8")

    def test_observations_of_other_variables_only(self, shared: Path, tmp_path: Path) -> None:
        background = read_points(shared / GRIB)
        table, _ = SynopBufr(shared / BUFR).read(Window(background.time))
        with pytest.raises(ObservationError, match=r"none of \d+ observations .* for t2m \(\d+ no_operator"):
            Analyser(background, table[table["variable"] == "ps"]).analyse()


def codes(path: Path) -> np.ndarray:
    """Read the values of a file's only message, with ecCodes alone."""
    with path.open("rb") as file:
        message = eccodes.codes_grib_new_from_file(file)
        values = eccodes.codes_get_values(message)
        assert eccodes.codes_grib_new_from_file(file) is None
    eccodes.codes_release(message)
    return values


LATITUDE, LONGITUDE = (a.ravel() for a in np.meshgrid(np.arange(90, -91, -2.0), np.arange(0, 360, 2.0), indexing="ij"))
GIVEN = ErrorStatistics(background_error=2.0, observation_error=1.0, length_km=200.0, reach_km=800.0)


def flat(**values: float) -> PointFields:
    full = {name: np.full(len(LATITUDE), value) for name, value in values.items()}
    return PointFields(Path("flat"), TIME, LATITUDE, LONGITUDE, full)


class TestOneObservation:
    """A field without features on a 2-degree grid."""

    def test_its_increment(self) -> None:
        """Of 3 K at a grid point, 4 / (4 + 1) stay there; beyond the reach, and in other channels, nothing changes."""
        background = flat(t2m=280.0, msl=1e5)
        table = observations("t2m", 283.0, latitude=50.0, longitude=10.0)
        made = Analyser(background, table, lapse_rate=0.0, statistics=GIVEN).analyse()
        assert list(made.values) == ["t2m"]
        increment = made.values["t2m"] - 280
        distance = great_circle_km(LATITUDE, LONGITUDE, np.array(50.0), np.array(10.0))
        assert increment[distance == 0] == pytest.approx(2.4)
        assert increment.max() == increment[distance == 0]
        assert (increment[distance > 801] == 0).all()
        assert (increment[distance < 700] > 0).all()
        assert made.table["o_a"].tolist() == pytest.approx([0.6])

    def test_its_time_and_its_error(self) -> None:
        """Three hours away its variance is doubled, as in a cycle."""
        table = observations("u10", 3.0, latitude=50.0, longitude=10.0, minutes=180)
        made = Analyser(flat(u10=0.0), table, statistics=GIVEN).analyse()
        assert made.values["u10"].max() == pytest.approx(3 * 4 / (4 + 1), rel=1e-6)
        early = observations("u10", 3.0, latitude=50.0, longitude=60.0)
        both = Analyser(flat(u10=0.0), concatenate([table, early]), statistics=GIVEN).analyse()
        errors = both.table["error"].to_numpy()
        assert errors[0] / errors[1] == pytest.approx(2**0.5)

    def test_gross_errors_and_late_places(self) -> None:
        table = observations("t2m", [283.0, 320.0, 400.0], latitude=[50, 52, 54], longitude=10.0)
        table = concatenate([table, observations("t2m", 270.0, latitude=20.0, longitude=10.0, minutes=400)])
        made = Analyser(flat(t2m=280.0), table, lapse_rate=0.0, statistics=GIVEN).analyse()
        assert made.table["reason"].tolist() == ["", "background_check", "gross_limits", "outside_window"]
        assert made.values["t2m"].max() == pytest.approx(282.4)
        assert np.isfinite(made.table["o_b"]).all()

    def test_a_station_that_is_held_back_is_not_used(self) -> None:
        rng = np.random.default_rng(2)
        latitude, longitude = rng.uniform(30, 60, 300), rng.uniform(0, 60, 300)
        table = observations("msl", 1e5 + rng.normal(0, 100, 300), latitude=latitude, longitude=longitude, error=80.0)
        statistics = ErrorStatistics(100.0, 50.0, 200.0, 800.0)
        made = Analyser(flat(msl=1e5), table, statistics=statistics).hold_back(0.3, "salt")
        held = (made.table["use"] == "withheld").to_numpy()
        assert 50 < held.sum() < 130
        changed = table.assign(value=np.where(held, table["value"] + 300, table["value"]))
        again = Analyser(flat(msl=1e5), changed, statistics=statistics).hold_back(0.3, "salt")
        assert_array_equal(again.values["msl"], made.values["msl"])
        other = Analyser(flat(msl=1e5), table, statistics=statistics).hold_back(0.3, "another")
        assert (other.table["use"] != made.table["use"]).any()


def test_no_observation_at_all() -> None:
    table = observations("t2m", [280.0])
    with pytest.raises(ObservationError, match="no observation in the window"):
        Analyser(flat(t2m=280.0), table.iloc[:0])


def test_help_has_an_example() -> None:
    result = run("--help")
    assert result.exit_code == 0
    assert "Example: dacycle analyse" in " ".join(result.output.split())
