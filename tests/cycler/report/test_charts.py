"""Charts: lines where the numbers are, round ticks, the numbers as CSV, files and pages that any browser shows."""

import base64
import csv
import io
import re
import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest
from markupsafe import escape

from dacycle.cycler.report import maps
from dacycle.cycler.report.charts import Area, Chart, Figure, Line, _dates, _ticks
from dacycle.forecast_adapter.channels import HEADLINE
from dacycle.forecast_adapter.grid import get_grid

TIMES = pd.date_range("2024-01-04", periods=5, freq="6h")


def chart(**options):
    return Chart("z500 <m>", [Line("analysis", TIMES, [1.0, 2.0, np.nan, 4.0, 3.0], "analysis")], **options)


def test_a_line_is_where_its_numbers_are_and_is_broken_where_there_is_none():
    drawn = re.search(r'stroke:var\(--k-analysis\)" d="(.*?)"', chart(from_zero=True).body()).group(1)
    assert drawn.count("M") == 2
    points = np.array([[float(x) for x in p.split()] for p in re.findall(r"[ML]([\d. ]+)", drawn)])
    x, y = points.T
    assert np.diff(x)[0] == pytest.approx((x[2] - x[1]) / 2, abs=0.2), "the third of five is missing"
    steps = np.diff(y)
    assert steps[0] == pytest.approx(steps[1] / 2, abs=0.2), "1 to 2, then 2 to 4, upwards"
    assert steps[0] < 0


def test_an_area_fills_the_width_of_its_chart():
    times = pd.date_range("2024-01-04", periods=8, freq="6h")
    area = Area("assimilated", times, np.ones(8), np.zeros(8), np.ones(8), "assimilated")
    chart = Chart("values", areas=[area], size_=(500, 200), from_zero=True)
    x = [float(x) for x in re.findall(r"[ML]([\d.]+) ", re.search(r'fill:.*?d="(.*?)"', chart.body()).group(1))]
    assert max(x) - min(x) > 0.9 * 500


def test_ticks_are_round_and_between_the_limits():
    assert _ticks(0.0, 1.0, None, 4) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert _ticks(-33.0, 70.0, None, 4) == [0.0, 50.0]
    for low, high in ((980.3, 1039.1), (-1e-6, 2e-6), (3.0, 3.0), (0.0, 1e7)):
        ticks = _ticks(low, high, None, 4)
        assert len(ticks) <= 5
        assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in ticks)


@pytest.mark.parametrize(
    ("first", "last", "texts"),
    [
        ("2024-01-04T00", "2024-01-04T18", ["4 Jan", "06 h", "12 h", "18 h"]),
        ("2024-01-04T00", "2024-01-07T00", ["4 Jan", "5 Jan", "6 Jan", "7 Jan"]),
        ("2023-12-20T00", "2024-11-20T00", ["Jan 2024", "Apr 2024", "Jul 2024", "Oct 2024"]),
    ],
)
def test_dates_are_few_and_at_whole_hours_days_or_months(first, last, texts):
    low, high = ((pd.Timestamp(t) - pd.Timestamp(0)) / pd.Timedelta(days=1) for t in (first, last))
    marks = _dates(low, high, 4)
    found = [text for _, text in marks]
    assert found == texts or (len(found) <= 4 and found[0] in ("Jan 2024", "Mar 2024"))
    assert all(low <= day <= high for day, _ in marks)


def test_a_figure_says_its_numbers_to_those_who_do_not_see_it_and_as_csv():
    figure = Figure("Errors", [chart()], x_name="time")
    assert escape("z500 <m>: analysis from 1 to 4, at the end 3.") in figure.__html__()
    content = re.search(r"base64,([^\"]+)", figure.numbers()).group(1)
    rows = list(csv.reader(io.StringIO(base64.b64decode(content).decode())))
    assert rows[0] == ["panel", "line", "time", "value"]
    assert rows[2] == ["z500 <m>", "analysis", "2024-01-04T06", "2"]
    assert len(rows) == 1 + len(TIMES)


def test_a_figure_is_also_a_file_of_its_own():
    root = ET.fromstring(Figure("Errors", [chart(), chart(log_y=True)]).svg())
    assert root.attrib["aria-label"] == "Errors"
    assert len(root.findall("{http://www.w3.org/2000/svg}svg")) == 2


def test_a_map_shows_each_cell_where_it_lies():
    """The northern half is 1, the southern -1: the picture's upper half has one colour, the lower the other."""
    grid = get_grid("5.625deg")
    field = np.sign(grid.latitude)[:, None] * np.ones(grid.shape)
    sampled = maps._sampled(field, grid, smooth=False)
    half = sampled.shape[0] // 2
    assert np.nanmin(sampled[: half - 3]) == 1
    assert np.nanmax(sampled[half + 3 :]) == -1
    assert np.isnan(sampled[0, 0]), "outside the globe"
    east = np.where(grid.longitude < 180, 1.0, -1.0) * np.ones(grid.shape)
    for smooth in (False, True):
        drawn = maps._sampled(east, grid, smooth)
        assert drawn[half, 300] == 1, "Greenwich is in the middle, the east on the right"
        assert drawn[half, 100] == -1


def test_weather_maps_have_a_picture_each_and_name_their_units():
    grid = get_grid("5.625deg")
    rng = np.random.default_rng(1)
    analysis = 100000 + 1000 * rng.standard_normal((len(HEADLINE), *grid.shape))
    figure = maps.weather_maps(analysis, 0.01 * analysis - 1000, grid)
    html = figure.__html__()
    assert html.count("data:image/png;base64,") == 4
    assert "mean sea-level pressure (hPa)" in html
    for image in re.findall(r"data:image/png;base64,([^\"]+)", html):
        assert base64.b64decode(image).startswith(b"\x89PNG")
