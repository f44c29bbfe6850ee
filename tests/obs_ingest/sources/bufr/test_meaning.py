"""A value of a BUFR message counts only with everything that qualifies it."""

from itertools import product

import numpy as np
import pytest

from dacycle.obs_ingest.sources.bufr.synop import SynopBufr
from dacycle.obs_ingest.sources.bufr.temp import TempBufr
from dacycle.obs_ingest.window import Window
from tests.obs_ingest.sources.bufr.messages import PLACE, STATION, message

GOVERNED = "value of a statistic, a period or another time"
NOON = Window(np.datetime64("2024-01-02T12"))
CLOSING = {"short": [1] * 17, "delayed": [1] * 17}
WIND = {"windDirection": 90, "windSpeed": 5}


def read(folder, *messages, source=SynopBufr, window=NOON):
    path = folder / "messages.bufr"
    path.write_bytes(b"".join(messages))
    table, inventory = source(path).read(window)
    return dict(zip(table["variable"].astype(str), table["value"], strict=True)), inventory


def test_a_genuine_climat_is_no_synop(full_samples, tmp_path):
    content = (full_samples / "cases/bufr/20150705121512_ISCD01_LIIB_050000.bufr").read_bytes()
    june = Window(np.datetime64("2015-06-01T00"))
    got, inventory = read(tmp_path, content, window=june)
    assert (got, inventory.skipped) == ({}, {"international sub-category 20, not SYNOP": 1})
    # The same without its sub-category: the means are read as what they are.
    start = content.find(b"BUFR")
    got, inventory = read(tmp_path, content[: start + 19] + b"\xff" + content[start + 20 :], window=june)
    assert got == {}
    assert inventory.skipped[GOVERNED] > 30


def test_monthly_and_daily_means_are_counted_not_read(tmp_path):
    messages = []
    for template, statistic, edition in product((307071, 307073, 307074, 307075), (4, None), (3, 4)):
        values = {**PLACE, "#1#timePeriod": 24, "#1#airTemperature": 287.0}
        if template == 307074:  # which has no minute
            del values["#1#minute"]
        if statistic is not None:
            values["#1#firstOrderStatistics"] = statistic
        messages.append(message([template], values, edition=edition, delayed=[1] * 3))
    got, inventory = read(tmp_path, *messages)
    assert (got, inventory.skipped) == ({}, {GOVERNED: 16})


@pytest.mark.parametrize("statistic", [{"#1#firstOrderStatistics": 2}, {}, {"#30#timePeriod": -60}])
def test_the_statistics_of_the_hour_are_no_instants(tmp_path, statistic):
    values = {**PLACE, "#2#nonCoordinatePressure": 101500.0, "#2#airTemperature": 288.0, **statistic}
    got, inventory = read(tmp_path, message([307096], values, **CLOSING))
    assert (got, inventory.skipped) == ({}, {GOVERNED: 2})
    instants = {"#1#nonCoordinatePressure": 100000.0, "#1#airTemperature": 280.0}
    got, inventory = read(tmp_path, message([307096], {**values, **instants}, **CLOSING))
    assert got == {"t2m": pytest.approx(280.0), "ps": 100000.0}
    assert inventory.skipped == {}


CASES = (
    # An amount of the six hours before the report, however its period is written; not of other six hours.
    ([4025, 13011], {"#1#timePeriod": -360}, {"tp": 3.0}, 0),
    ([4024, 4024, 13011], {"#1#timePeriod": -6, "#2#timePeriod": 0}, {"tp": 3.0}, 0),
    ([4024, 4024, 13011], {"#1#timePeriod": -12, "#2#timePeriod": -6}, {}, 1),
    ([4024, 13011], {"#1#timePeriod": -12}, {}, 0),
    # A wind is a mean over ten minutes.
    ([8021, 4025, 11001, 11002], {"#1#timeSignificance": 2, "#1#timePeriod": -10}, {"u10": -5.0, "v10": 0.0}, 0),
    ([8021, 4025, 11001, 11002], {"#1#timeSignificance": 2, "#1#timePeriod": -60}, {}, 2),
    ([8023, 11001, 11002], {"#1#firstOrderStatistics": 2}, {}, 2),
    # Of a month, of another hour, of a forecast; an uncertainty; and after what governs has ended.
    ([4022, 12101], {"#1#timePeriod": -1}, {}, 1),
    ([4004, 12101], {"#2#hour": 6}, {}, 1),
    ([4015, 12101], {"#1#timeIncrement": -30}, {}, 1),
    ([8021, 12101], {"#1#timeSignificance": 4}, {}, 1),
    ([8092, 12101], {"#1#measurementUncertaintyExpression": 1}, {}, 1),
    (
        [8023, 12101, 8023, 12101],
        {"#1#firstOrderStatistics": 3},
        {"t2m": 280.0},
        0,
    ),
    ([4024, 10004, 4024, 12101], {"#1#timePeriod": -3, "#2#timePeriod": 0}, {"t2m": 280.0}, 0),
    # The time of a buoy's last position is not that of its values.
    ([8021, 4003, 8021, 12101], {"#1#timeSignificance": 26, "#2#day": 1}, {"t2m": 280.0}, 0),
)
"""Template, its values, those that are read, and how many are left out."""


def test_what_governs_a_value_decides_what_it_is(tmp_path):
    elements = {
        12101: {"airTemperature": 280.0}, 11001: WIND, 13011: {"totalPrecipitationOrTotalWaterEquivalent": 3.0},
    }  # fmt: skip
    messages = []
    for number, (template, values, _, _) in enumerate(CASES):
        for place, descriptor in enumerate(template):
            count = template[: place + 1].count(descriptor)
            values = {**{f"#{count}#{k}": v for k, v in elements.get(descriptor, {}).items()}, **values}
        messages.append(message([*STATION, *template], {**PLACE, **values, "#1#stationNumber": number}))
    path = tmp_path / "messages.bufr"
    path.write_bytes(b"".join(messages))
    table, inventory = SynopBufr(path).read(NOON)
    for number, (template, values, expected, _) in enumerate(CASES):
        rows = table[table["station"] == f"10{number:03d}"]
        got = dict(zip(rows["variable"].astype(str), rows["value"], strict=True))
        assert got == pytest.approx(expected, abs=1e-5), (template, values)
    assert inventory.skipped == {GOVERNED: sum(governed for *_, governed in CASES)}


def test_winds_of_a_series_are_of_their_own_times(tmp_path):
    """Ten minutes back, then a minute on in each repetition; afterwards it is the time of the report again."""
    template = [*STATION, 4015, 4065, 102000, 31001, 11001, 11002, 7032, 12101]
    values = {
        **PLACE, "#1#windDirection": 90, "#1#windSpeed": 5, "#1#timeIncrement": -3, "#2#timeIncrement": 1,
        "#1#airTemperature": 280.0,
        "#1#heightOfSensorAboveLocalGroundOrDeckOfMarinePlatform": 2.0,
    }  # fmt: skip
    got, inventory = read(tmp_path, message(template, values, delayed=[3]))
    assert got == {"t2m": pytest.approx(280.0)}
    assert inventory.skipped == {GOVERNED: 2}


def test_identifiers_of_every_kind_of_template(tmp_path):
    """A WIGOS identifier keeps its letters and zeros in a template without replication too."""
    place = {key: value for key, value in PLACE.items() if "Number" not in key}
    wigos = {
        "#1#wigosIdentifierSeries": 0, "#1#wigosIssuerOfIdentifier": 276, "#1#wigosIssueNumber": 0,
        "#1#wigosLocalIdentifierCharacter": "007",
    }  # fmt: skip
    for template, values, name in (
        ([301150, *STATION[1:], 12101], wigos, "0-276-0-007"),
        ([1011, *STATION[1:], 12101], {"#1#shipOrMobileLandStationIdentifier": "MOBI7"}, "MOBI7"),
    ):
        path = tmp_path / "messages.bufr"
        path.write_bytes(message(template, {**place, **values, "#1#airTemperature": 280.0}))
        table, _ = SynopBufr(path).read(NOON)
        assert table["station"].tolist() == [name]


def test_monthly_means_aloft_are_no_soundings(tmp_path):
    values = {**PLACE, "#1#pressure": 85000.0, "#1#airTemperature": 280.0}
    template = [*STATION, 104000, 31001, 7004, 8023, 12101, 12103]
    content = message(template, {**values, "#1#firstOrderStatistics": 4}, category=2, delayed=[1])
    got, inventory = read(tmp_path, content, source=TempBufr)
    assert (got, inventory.skipped) == ({}, {"no report of this kind": 1})
    content = message(template, values, category=2, delayed=[1], international=25)
    got, inventory = read(tmp_path, content, source=TempBufr)
    assert inventory.skipped == {"monthly means (international sub-category 25)": 1}
