"""Real SYNOP reports in BUFR."""

import eccodes
import numpy as np
import pandas as pd
import pytest

from dacycle.forecast_adapter.channels import NAMES
from dacycle.forecast_adapter.grid import get_grid
from dacycle.obs_ingest.sources.base import build_source
from dacycle.obs_ingest.sources.bufr.synop import SynopBufr
from dacycle.obs_ingest.table import ObservationError, check_table
from dacycle.obs_ingest.window import Window
from tests.obs_ingest.helpers import checked

EUROPE, GLOBAL, GERMANY = (
    ("synop_europe_2018112012.bufr", "2018-11-20T12"),
    ("synop_global_2018110212.bufr", "2018-11-02T12"),
    ("synop_dwd_20210516T1150.bufr", "2021-05-16T12"),
)


def read(path, time, **options):
    return SynopBufr(path, **options).read(Window(np.datetime64(time)))


@pytest.fixture(scope="module")
def europe(shared):
    return read(shared / "obs" / EUROPE[0], EUROPE[1])


def test_the_european_file(europe):
    table, inventory = europe
    check_table(table, "europe")
    assert (inventory.found, inventory.decoded) == (1507, 1507)
    assert inventory.skipped == {"wind without a direction": 22}  # 11 winds from 0 degrees, 9 of them below 3 m/s
    assert inventory.values["t2m"] == 1471
    amman = table[table["station"] == "40270"].set_index("variable")
    assert amman.loc["t2m", "value"] == pytest.approx(295.4)
    assert amman.loc["td2m", "value"] == pytest.approx(281.5)
    assert amman.loc["msl", "value"] == 102050
    assert amman.loc["ps", "value"] == 93200
    assert amman.loc["t2m", ["latitude", "longitude", "elevation"]].tolist() == pytest.approx([31.98, 35.98, 779])
    assert amman.loc["u10", "value"] == pytest.approx(-3 * np.sin(np.deg2rad(20)))
    assert amman.loc["v10", "value"] == pytest.approx(-3 * np.cos(np.deg2rad(20)))
    assert amman.loc["t2m", "received"] == pd.Timestamp("2018-11-20T11:44:39")


def test_precipitation_is_the_six_hour_amount(europe):
    rain = europe[0][europe[0]["variable"] == "tp"]
    assert set(rain["period"]) == {6.0}
    assert rain["value"].min() == 0
    assert len(rain) == 1054


def test_rows_belong_to_the_window_and_the_rest_is_accounted_for(shared, europe):
    table, inventory = read(shared / "obs" / EUROPE[0], "2018-11-20T18")
    assert table.empty
    assert inventory.decoded == 0
    table, inventory = read(shared / "obs" / EUROPE[0], "2018-11-25T00")
    assert table.empty
    assert inventory.found == 0
    assert inventory.files == []


@pytest.mark.slow
def test_the_global_file_and_its_gross_errors(full_samples):
    table, inventory = read(full_samples / "obs" / GLOBAL[0], GLOBAL[1])
    assert (inventory.found, inventory.decoded) == (15824, 7867)
    companions = {"additional data (sub-category 2)": 4894, "additional data (sub-category 4)": 3018}
    winds, versions = {"wind without a direction": 158}, {"superseded by a later version": 45}
    assert inventory.skipped == {**companions, **versions, **winds}
    assert inventory.values["tp"] == 4258
    assert table["latitude"].min() == -90
    speed = np.hypot(*(table.loc[table["variable"] == name, "value"].to_numpy() for name in ("u10", "v10")))
    assert speed.max() == pytest.approx(349, abs=0.5)
    assert table.loc[table["variable"] == "t2m", "value"].max() == pytest.approx(372.2, abs=0.1)

    grid = get_grid("1.5deg")
    window = Window(np.datetime64(GLOBAL[1]))
    result = checked(table, window, table["value"].to_numpy(), np.ones(len(NAMES)), grid, np.zeros(grid.shape), share=0)
    assert len(result) == len(table)
    absurd = result[(abs(result["value"]) > 200) & result["variable"].isin(["u10", "v10"])]
    hot = result[(result["variable"] == "t2m") & (result["value"] > 370)]
    assert absurd["station"].tolist() == ["89666", "89666"]  # both components of 349 m/s, in Antarctica
    assert hot["station"].tolist() == ["67201"]
    for rows in (absurd, hot):
        assert set(rows["reason"]) == {"gross_limits"}

    # Duplicates, counted by ecCodes from the messages and by pandas from the table.
    fields = ("latitude", "longitude", "airTemperatureAt2M", "blockNumber", "stationNumber")
    reports = pd.DataFrame(unpacked(full_samples / "obs" / GLOBAL[0], fields), columns=fields).round(2)
    sound = reports[reports["airTemperatureAt2M"].between(180, 335)]
    again = sound.duplicated(["latitude", "longitude"])
    assert (len(sound), again.sum()) == (7802, 68)
    assert sound.duplicated(["blockNumber", "stationNumber"]).sum() == 25  # the others share a place with another one
    duplicate = result["reason"] == "duplicate"
    assert (duplicate & (result["variable"] == "t2m")).sum() == 68 - 25  # of one station the last version is left
    plausible = result[result["reason"] != "gross_limits"]
    assert duplicate.sum() == plausible.duplicated(["site", "variable", "period"]).sum() == 259


def unpacked(path, fields):
    """Read these fields of all reports of sub-categories 1 and 3, with ecCodes alone."""
    with path.open("rb") as file:
        while (message := eccodes.codes_bufr_new_from_file(file)) is not None:
            if eccodes.codes_get(message, "dataSubCategory") in (1, 3):
                eccodes.codes_set(message, "skipExtraKeyAttributes", 1)
                eccodes.codes_set(message, "unpack", 1)
                yield [eccodes.codes_get(message, name) for name in fields]
            eccodes.codes_release(message)


def test_german_messages_with_many_subsets(shared):
    table, inventory = read(shared / "obs" / GERMANY[0], GERMANY[1])
    check_table(table, "germany")
    # Reports in 44 messages, as the headers say.
    assert (inventory.found, inventory.decoded, inventory.skipped) == (1031, 1031, {})
    counts = inventory.values
    assert (counts["msl"], counts["ps"], counts["u10"]) == (185, 204, 292)  # as pdbufr's reader finds
    helgoland = table[abs(table["latitude"] - 54.17497) < 1e-4].set_index("variable")
    assert helgoland.loc["t2m", "value"] == pytest.approx(285.65)  # 293.85 K is the sensor at 5 cm
    assert helgoland.loc["msl", "value"] == 99970
    assert helgoland.loc["t2m", "time"] == pd.Timestamp("2021-05-16T11:50")
    assert np.isnat(table["received"].to_numpy()).all()


def test_newer_templates_and_the_period_of_their_precipitation(shared):
    table, inventory = read(shared / "obs/synop_new_20200315.bufr", "2020-03-15T00")
    assert inventory.decoded == 3
    mangareva = table[table["station"] == "91948"].set_index("variable")
    assert mangareva.loc["t2m", "value"] == pytest.approx(300.45)
    assert (table["variable"] == "tp").sum() == 3


def test_stations_without_a_wmo_number_have_their_wigos_identifier(shared):
    table, _ = read(shared / "obs/synop_wigos.bufr", "2025-01-09T00")
    assert table["station"].str.match(r"0-705-0-\w+").all()
    assert "tp" not in set(table["variable"])  # only 10-minute amounts


def test_agreement_with_an_independent_reader(shared):
    pdbufr = pytest.importorskip("pdbufr")
    path = shared / "obs/synop_new_20200315.bufr"
    table, _ = read(path, "2020-03-15T00")
    frame = pdbufr.read_bufr(str(path), reader="synop").set_index("stnid")
    names = {"t2m": "t2m", "td2m": "td2m", "msl": "mslp", "ps": "pressure", "tp": "precipitation_6h"}
    for _, row in table[table["variable"].isin(names)].iterrows():
        assert row["value"] == pytest.approx(frame.loc[row["station"], names[row["variable"]]])


def test_a_stated_latency_fills_unknown_receipt_times(shared):
    table, inventory = read(shared / "obs/synop_wigos.bufr", "2025-01-09T00", latency="50min")
    assert ((table["received"] - table["time"]) == pd.Timedelta("50min")).all()
    assert inventory.latency == 50


def test_folders_and_patterns(shared, tmp_path):
    source = (shared / "obs/synop_new_20200315.bufr").read_bytes()
    for name in ("a.bufr", "b.bufr"):
        (tmp_path / name).write_bytes(source)
    for path in (tmp_path, tmp_path / "*.bufr"):
        _, inventory = read(path, "2020-03-15T00")
        assert inventory.decoded == 6
        assert len(inventory.files) == 2


def test_the_path_is_the_experiments(shared):
    path = shared / "obs/synop_wigos.bufr"
    source = build_source({"source": "synop_bufr", "path": str(path), "cutoff": "none"}, None, 0)
    table, _ = source.read(Window(np.datetime64("2025-01-09T00")))
    assert set(table["source"]) == {"synop_bufr"}


def test_a_truncated_file_is_read_up_to_the_damage(shared, tmp_path):
    data = (shared / "obs" / EUROPE[0]).read_bytes()
    path = tmp_path / "cut.bufr"
    path.write_bytes(data[: len(data) // 10])
    _, inventory = read(path, EUROPE[1])
    assert inventory.decoded == inventory.found - 1 > 100
    assert inventory.skipped["damaged"] == 1
    assert inventory.problems == [f"{path}, message {inventory.found}: truncated or damaged"]


def test_damaged_messages_never_stop_the_others(shared, tmp_path):
    data = bytearray((shared / "obs" / EUROPE[0]).read_bytes()[:60000])
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(data), 400):
        data[place] = rng.integers(0, 256)
    path = tmp_path / "noise.bufr"
    path.write_bytes(bytes(data))
    table, inventory = read(path, EUROPE[1])
    assert inventory.skipped["damaged"] > 5
    assert inventory.decoded > 20
    assert len(inventory.problems) <= 20
    check_table(table, "noise")


def test_what_is_not_bufr_is_refused_by_name(tmp_path):
    path = tmp_path / "page.bufr"
    path.write_text("<html>503 Service Unavailable</html>")
    with pytest.raises(ObservationError, match=r"page\.bufr: no BUFR message"):
        read(path, "2024-01-01T00")
    with pytest.raises(ObservationError, match=r"no file .* at .*nowhere"):
        read(tmp_path / "nowhere", "2024-01-01T00")
