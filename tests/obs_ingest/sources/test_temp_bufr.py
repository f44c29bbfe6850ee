"""Radiosondes in BUFR: a genuine file, and messages in the current templates."""

from collections import Counter

import eccodes
import numpy as np
import pandas as pd
import pytest

from dacycle.forecast_adapter.channels import LEVELS
from dacycle.forecast_adapter.physics import humidity_from_dewpoint
from dacycle.obs_ingest.errors.model import standard_error
from dacycle.obs_ingest.sources.base import build_source
from dacycle.obs_ingest.sources.bufr.temp import TempBufr
from dacycle.obs_ingest.sources.sounding import STANDARD, standard_levels
from dacycle.obs_ingest.table import LEVEL_VARIABLES, ObservationError, check_table
from dacycle.obs_ingest.window import Window

FILE, TIME = "obs/temp_global_2008120812.bufr", "2008-12-08T12"
LEVEL_REASONS = (
    "level below the station",
    "superadiabatic level",
    "level out of hydrostatic balance",
    "geopotential above a hydrostatic break",
)


def read(path, time=TIME, **options):
    return TempBufr(path, **options).read(Window(np.datetime64(time)))


def decoded(path):
    """Return the soundings of a file, as its messages have them."""
    every = []

    class Soundings(TempBufr):
        def records(self, reports):
            every.extend(reports)
            return super().records(reports)

    Soundings(path, tolerance=1.25).read(Window(np.datetime64(TIME)))  # of no other test, so that nothing is kept
    return every


@pytest.fixture(scope="module")
def genuine(shared):
    return read(shared / FILE)


def station(table, name, variable):
    """Return the values of a station's variable by pressure in hPa."""
    rows = table[(table["station"] == name) & (table["variable"] == variable)]
    return pd.Series(rows["value"].to_numpy(), (rows["pressure"] / 100).astype(int))


def test_the_genuine_file(genuine):
    table, inventory = genuine
    check_table(table, "temp")
    assert (inventory.found, inventory.decoded) == (420, 420)
    assert set(inventory.skipped) == set(LEVEL_REASONS)
    assert table["station"].nunique() == 417  # three soundings end at the ground
    assert set(table["pressure"]) == set(STANDARD)
    assert table.loc[table["variable"] == "q", "pressure"].min() == 20000
    assert inventory.values["t"] == 4929
    inukjuak = table[table["station"] == "71907"]
    assert set(inukjuak["latitude"]) == {58.47}
    assert set(inukjuak["elevation"]) == {26.0}
    assert set(inukjuak["time"]) == {pd.Timestamp("2008-12-08T12:00")}
    assert set(inukjuak["received"]) == {pd.Timestamp("2008-12-08T12:08:49")}
    assert station(table, "71907", "t")[[1000, 925, 850, 700]].tolist() == pytest.approx([259.7, 258.1, 253.1, 241.7])
    assert station(table, "71907", "z")[[1000, 925, 850, 700]].tolist() == [430, 6240, 12470, 26240]
    assert station(table, "71907", "u")[925] == pytest.approx(-5 * np.sin(np.deg2rad(275)))
    assert station(table, "71907", "v")[1000] == 0  # calm
    assert station(table, "71907", "q")[700] == pytest.approx(humidity_from_dewpoint(238.3, 70000))
    row = inukjuak[(inukjuak["variable"] == "t") & (inukjuak["pressure"] == 50000)].iloc[0]
    assert row["error"] == pytest.approx(standard_error("t", row["value"], 50000))


def test_nothing_below_a_station(genuine):
    """McMurdo, at 971 hPa that day, reports a geopotential of 1000 hPa, 219 m below the sea."""
    table, inventory = genuine
    assert station(table, "89664", "z").index.max() == 925
    assert inventory.skipped["level below the station"] >= 164


def test_inconsistent_soundings_and_only_those(genuine):
    """Few are rejected, and of the breaks in geopotential ECMWF had given nearly all a confidence of 10 %."""
    table, inventory = genuine
    assert inventory.skipped["superadiabatic level"] < 0.002 * 18742
    assert inventory.skipped["level out of hydrostatic balance"] < 0.004 * 4900
    assert station(table, "36870", "z").empty  # Almaty: 192 m between its height and its first geopotential
    assert len(station(table, "36870", "t")) == 11
    assert 100 not in station(table, "34731", "z")  # the layer up to it 93 m too thick
    assert 150 in station(table, "34731", "z")
    assert 250 not in station(table, "82678", "t")  # 231.3 K, and 198.9 K a little higher up
    assert 250 in station(table, "82678", "u")
    unaffected = table[table["variable"] == "z"].groupby("station", observed=True).size()
    assert (unaffected > 0).sum() >= 395


@pytest.mark.slow
def test_every_value_of_an_independent_reader(shared, genuine):
    """Each value that pdbufr reads on a mandatory level is in the table, or its level is rejected."""
    pdbufr = pytest.importorskip("pdbufr")
    table, inventory = genuine
    columns = ["pressure", "nonCoordinateGeopotential", "airTemperature", "dewpointTemperature"]
    columns += ["windDirection", "windSpeed", "verticalSoundingSignificance"]
    frame = pdbufr.read_bufr(str(shared / FILE), columns=("blockNumber", "stationNumber", *columns))
    name = frame["blockNumber"].astype(int) * 1000 + frame["stationNumber"].astype(int)
    frame["station"] = [f"{number:05d}" for number in name]
    assert frame["station"].nunique() == inventory.decoded
    surface = frame[frame["verticalSoundingSignificance"].astype(int) & 64 > 0].set_index("station")["pressure"]
    frame = frame[frame["pressure"] <= frame["station"].map(surface)]
    frame = frame[frame["pressure"].isin(STANDARD)].set_index(["station", "pressure"])
    wind = np.deg2rad(frame["windDirection"].where(frame["windSpeed"] > 0, 0.0))
    expected = {
        "z": frame["nonCoordinateGeopotential"],
        "t": frame["airTemperature"],
        "q": humidity_from_dewpoint(frame["dewpointTemperature"], frame.index.get_level_values("pressure")),
        "u": -frame["windSpeed"] * np.sin(wind),
        "v": -frame["windSpeed"] * np.cos(wind),
    }
    absent = Counter()
    for variable, values in expected.items():
        values = pd.Series(values, frame.index).dropna()
        if variable == "q":
            values = values[values.index.get_level_values("pressure") >= 20000]
        found = table[table["variable"] == variable].set_index(["station", "pressure"])["value"]
        both = values.index.intersection(found.index)
        assert found[both].to_numpy() == pytest.approx(values[both].to_numpy(), rel=1e-9, abs=1e-9)
        absent[variable] = len(values) - len(both)
    assert absent["u"] == absent["v"] == 0
    reported, rejected = 4862, inventory.skipped
    levels = rejected["superadiabatic level"] + rejected["level out of hydrostatic balance"]
    assert 0 < absent["t"] <= levels
    assert absent["q"] <= levels
    assert absent["z"] <= levels + rejected["geopotential above a hydrostatic break"] < 0.06 * reported


def test_levels_left_out_of_genuine_soundings_are_found_again(shared):
    """The errors of interpolation, in observation errors; what is linear in ln p of geopotential is far from that."""
    reports = decoded(shared / FILE)[::6]
    errors = {name: [] for name in LEVEL_VARIABLES}
    lines = []
    for report in reports:
        levels, elevation = report["levels"], report.get("elevation", np.nan)
        whole = standard_levels(levels, elevation, Counter())
        for k in range(1, len(LEVELS) - 1):
            keep = levels["pressure"] != STANDARD[k]
            if keep.all():
                continue
            part = standard_levels({name: values[keep] for name, values in levels.items()}, elevation, Counter())
            for name, found, truth in zip(LEVEL_VARIABLES, part[:, k], whole[:, k], strict=True):
                errors[name].append((found - truth) / standard_error(name, truth, STANDARD[k]))
            weight = np.log(STANDARD[k] / STANDARD[k - 1]) / np.log(STANDARD[k + 1] / STANDARD[k - 1])
            line = whole[0, k - 1] * (1 - weight) + whole[0, k + 1] * weight
            lines.append((line - whole[0, k]) / standard_error("z", 0.0, STANDARD[k]))
    size = {name: np.sqrt(np.nanmean(np.square(values))) for name, values in errors.items()}
    middle = {name: np.nanmedian(np.abs(values)) for name, values in errors.items()}
    assert size["z"] < 0.4
    assert np.sqrt(np.nanmean(np.square(lines))) > 1.5
    assert max(size["t"], size["q"]) < 0.75
    assert max(size["u"], size["v"]) < 1.0
    assert max(middle.values()) < 0.35
    assert np.isfinite(errors["z"]).mean() > 0.7


def test_600_hpa_is_no_mandatory_level_and_is_interpolated(genuine):
    table = genuine[0]
    found = table[table["pressure"] == 60000].groupby("variable", observed=True).size()
    assert found["t"] > 330
    assert found["z"] > 370
    assert found["u"] > 190  # fewer significant levels of wind
    heights = table[table["variable"] == "z"].pivot(index="station", columns="pressure", values="value")
    heights = heights[[70000, 60000, 50000]].dropna()
    assert len(heights) > 370
    assert ((heights[70000] < heights[60000]) & (heights[60000] < heights[50000])).all()


# Current templates, of which messages are made here: no genuine sample is at hand.

PROFILE = {  # hPa: geopotential height (gpm), temperature, dewpoint (K), direction, speed
    1000: (28, None, None, None, None),
    990: (112, 288.0, 280.0, 200, 4),
    925: (683, 284.0, 276.0, 210, 8),
    850: (1381, 279.0, 270.0, 220, 10),
    700: (2943, 270.0, 255.0, 240, 15),
    650: (3524, 266.0, 250.0, 245, 16),
    580: (4402, 260.5, 244.0, 250, 18),
    500: (5528, 254.0, 235.0, 260, 22),
    400: (7145, 241.0, 221.0, 270, 30),
}


def new_message(template, levels=3, shear=0, day=6, subsets=1, compressed=False):
    """Return a message to fill in, of the 12 UTC ascents of `day` September 2023."""
    handle = eccodes.codes_bufr_new_from_samples("BUFR4")
    header = {"masterTablesVersionNumber": 35, "dataCategory": 2, "internationalDataSubCategory": 4}
    header |= {"typicalYear": 2023, "typicalMonth": 9, "typicalDay": day, "typicalHour": 12, "typicalMinute": 0}
    header |= {"numberOfSubsets": subsets, "compressedData": int(compressed)}
    for key, value in header.items():
        eccodes.codes_set(handle, key, value)
    times = 1 if compressed else subsets
    eccodes.codes_set_array(handle, "inputExtendedDelayedDescriptorReplicationFactor", [levels] * times)
    eccodes.codes_set_array(handle, "inputDelayedDescriptorReplicationFactor", [shear] * times)
    eccodes.codes_set(handle, "unexpandedDescriptors", template)
    return handle


def packed(handle):
    eccodes.codes_set(handle, "pack", 1)
    message = eccodes.codes_get_message(handle)
    eccodes.codes_release(handle)
    return message


def encode(template, subsets=1, compressed=False, levels=PROFILE, day=6, change=lambda handle, subset: None):
    """Soundings launched at 11:17 from Lindenberg (10393), a level of wind shear after those of the sounding."""
    shear, times = 1, 1 if compressed else subsets
    handle = new_message(template, len(levels), shear, day, subsets, compressed)
    place = {"blockNumber": 10, "stationNumber": 393, "timeSignificance": 18, "latitude": 52.21, "longitude": 14.12}
    place |= {"year": 2023, "month": 9, "day": day, "hour": 11, "minute": 17, "second": 5}
    place |= {"heightOfStationGroundAboveMeanSeaLevel": 112, "heightOfBarometerAboveMeanSeaLevel": 115}
    for subset in range(times):
        for key, value in place.items():
            eccodes.codes_set(handle, f"#{subset + 1}#{key}", value)
        for k, (pressure, values) in enumerate(levels.items(), 1):
            rank, every = k + subset * len(levels), k + subset * (len(levels) + shear)
            eccodes.codes_set(handle, f"#{every}#pressure", pressure * 100)
            eccodes.codes_set(
                handle, f"#{every}#extendedVerticalSoundingSignificance", 1 << 17 if pressure == 990 else 0
            )
            eccodes.codes_set(handle, f"#{every}#latitudeDisplacement", 0.01 * k)
            names = ("nonCoordinateGeopotentialHeight", "airTemperature", "dewpointTemperature")
            for name, value in zip((*names, "windDirection", "windSpeed"), values, strict=True):
                if value is not None:
                    eccodes.codes_set(handle, f"#{rank}#{name}", value)
        for k in range(shear):
            eccodes.codes_set(handle, f"#{(subset + 1) * (len(levels) + shear) - k}#pressure", 40000)
        change(handle, subset)
    return packed(handle)


@pytest.mark.parametrize("template", [309052, 309057])
def test_current_templates(tmp_path, template):
    path = tmp_path / "temp.bufr"
    path.write_bytes(encode(template))
    table, inventory = read(path, "2023-09-06T12")
    check_table(table, "temp")
    assert (inventory.found, inventory.decoded) == (1, 1)
    assert inventory.skipped == {"level below the station": 1}
    assert set(table["station"]) == {"10393"}
    assert set(table["time"]) == {pd.Timestamp("2023-09-06T11:17")}  # the launch; the nominal time is 12 UTC
    assert set(table["latitude"]) == {52.21}  # the sonde drifts away
    assert set(table["elevation"]) == {112}
    assert station(table, "10393", "z")[[925, 850, 700, 500, 400]].tolist() == pytest.approx(
        [9.80665 * PROFILE[p][0] for p in (925, 850, 700, 500, 400)]
    )
    assert station(table, "10393", "t")[700] == 270
    assert station(table, "10393", "t")[600] == pytest.approx(266 - 5.5 * np.log(650 / 600) / np.log(650 / 580))
    assert station(table, "10393", "q")[850] == pytest.approx(humidity_from_dewpoint(270.0, 85000))
    assert station(table, "10393", "u")[400] == pytest.approx(30)
    assert station(table, "10393", "z")[600] == pytest.approx(9.80665 * 4143, abs=50)
    assert np.isnat(table["received"].to_numpy()).all()
    assert inventory.missing == 4 * 12 + 9 - 5 * 6  # of the levels above the ground those up to 400 hPa are there


@pytest.mark.parametrize("compressed", [False, True])
def test_several_soundings_in_one_message(tmp_path, compressed):
    def number(handle, subset):
        if compressed:
            eccodes.codes_set_array(handle, "#1#stationNumber", [393, 394, 395])
            eccodes.codes_set_array(handle, "#5#airTemperature", [270.0, 271.0, 272.0])
        else:
            eccodes.codes_set(handle, f"#{subset + 1}#stationNumber", 393 + subset)
            eccodes.codes_set(handle, f"#{subset * len(PROFILE) + 5}#airTemperature", 270.0 + subset)

    path = tmp_path / "temp.bufr"
    path.write_bytes(encode(309052, subsets=3, compressed=compressed, change=number))
    table, inventory = read(path, "2023-09-06T12")
    assert (inventory.found, inventory.decoded) == (3, 3)
    assert [station(table, name, "t")[700] for name in ("10393", "10394", "10395")] == [270, 271, 272]
    assert len(table) % 3 == 0


def test_a_station_may_be_a_ship_or_have_a_wigos_identifier(tmp_path):
    def ship(handle, subset):
        for key in ("blockNumber", "stationNumber"):
            eccodes.codes_set_missing(handle, f"#1#{key}")
        eccodes.codes_set(handle, "#1#shipOrMobileLandStationIdentifier", "DBLK")

    def wigos(handle, subset):
        ship(handle, subset)
        numbers = {"wigosIdentifierSeries": 0, "wigosIssuerOfIdentifier": 276, "wigosIssueNumber": 0}
        for key, value in (numbers | {"wigosLocalIdentifierCharacter": "LIN"}).items():
            eccodes.codes_set(handle, f"#1#{key}", value)

    (tmp_path / "a.bufr").write_bytes(encode(309052, change=ship))
    (tmp_path / "b.bufr").write_bytes(encode(309057, change=wigos))
    table, _ = read(tmp_path, "2023-09-06T12")
    assert set(table["station"]) == {"DBLK", "0-276-0-LIN"}


def test_wind_reports_descents_and_other_kinds_are_counted_and_left(shared, tmp_path):
    blind = {pressure: (height, None, None, 200, 5) for pressure, (height, *_) in PROFILE.items()}
    (tmp_path / "a.bufr").write_bytes(packed(new_message(309050)))
    (tmp_path / "b.bufr").write_bytes(encode(309052, levels=blind))
    (tmp_path / "c.bufr").write_bytes(packed(new_message(309056)))
    table, inventory = read(tmp_path, "2023-09-06T12")
    assert (inventory.found, inventory.decoded) == (3, 1)
    assert inventory.skipped["no report of this kind"] == 2
    assert set(table["variable"]) == {"u", "v", "z"}

    table, inventory = read(shared / "obs/synop_new_20200315.bufr", "2020-03-15T00")
    assert table.empty
    assert inventory.skipped == {"data category 0, not vertical soundings": inventory.found}


def test_a_template_of_another_shape_is_refused_by_name(tmp_path):
    """309055 has heights for pressures, and a temperature at the surface before those of its levels."""
    path = tmp_path / "other.bufr"
    path.write_bytes(packed(new_message(309055)))
    table, inventory = read(path, "2023-09-06T12")
    assert table.empty
    assert inventory.problems == [f"{path}, message 1: 0 values of pressure for 4 temperatures: no template of TEMP"]


def test_soundings_belong_to_the_window_of_their_launch(tmp_path):
    path = tmp_path / "temp.bufr"
    path.write_bytes(encode(309052, day=6) + encode(309052, day=7))
    source = TempBufr(path, latency="80min")
    for day in (6, 7):
        table, inventory = source.read(Window(np.datetime64(f"2023-09-{day:02d}T12")))
        assert set(table["time"]) == {pd.Timestamp(f"2023-09-{day:02d}T11:17")}
        assert (table["received"] - table["time"] == pd.Timedelta("80min")).all()
        assert (inventory.found, inventory.decoded) == (2, 1)
        assert inventory.skipped["header time far from the window"] == 1
    table, inventory = source.read(Window(np.datetime64("2023-09-06T06")))
    assert table.empty
    table, inventory = source.read(Window(np.datetime64("2023-09-06T15")))
    assert table.empty
    assert inventory.skipped["report outside the window"] == 1


def test_a_file_that_grows_is_read_again(tmp_path):
    path = tmp_path / "temp.bufr"
    path.write_bytes(encode(309052))
    source = build_source({"source": "temp_bufr", "path": str(path), "cutoff": "none"}, None, 0)
    window = Window(np.datetime64("2023-09-06T12"))
    assert source.read(window)[1].found == 1
    path.write_bytes(encode(309052) + encode(309057))
    assert source.read(window)[1].found == 2


def test_a_truncated_file_is_read_up_to_the_damage(shared, tmp_path):
    data = (shared / FILE).read_bytes()
    path = tmp_path / "cut.bufr"
    path.write_bytes(data[: len(data) // 20])
    table, inventory = read(path)
    assert inventory.decoded == inventory.found - 1 > 10
    assert inventory.skipped["damaged"] == 1
    assert inventory.problems == [f"{path}, message {inventory.found}: truncated or damaged"]
    check_table(table, "cut")


def test_damaged_messages_never_stop_the_others(shared, tmp_path):
    data = bytearray((shared / FILE).read_bytes()[:60000])
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(data), 200):
        data[place] = rng.integers(0, 256)
    path = tmp_path / "noise.bufr"
    path.write_bytes(bytes(data))
    table, inventory = read(path)
    check_table(table, "noise")
    assert inventory.skipped["damaged"] > 2
    assert inventory.decoded > 10
    values = (*LEVEL_REASONS, "level without pressure", "impossible temperature", "report outside the window")
    left = sum(count for reason, count in inventory.skipped.items() if reason not in values)
    assert inventory.found == inventory.decoded + left


def test_what_is_not_bufr_is_refused_by_name(tmp_path):
    path = tmp_path / "page.bufr"
    path.write_text("<html>503 Service Unavailable</html>")
    with pytest.raises(ObservationError, match=r"page\.bufr: no BUFR message"):
        read(path)
    with pytest.raises(ObservationError, match=r"no file .* at .*nowhere"):
        read(tmp_path / "nowhere")
