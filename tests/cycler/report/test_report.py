"""The report: one page that needs no other file, and names what is missing."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from dacycle.cycler.archive.branches import ArchiveError
from dacycle.cycler.archive.record import CycleRecord
from dacycle.cycler.cli.cycles.verify import app
from dacycle.cycler.report import figures, maps, tables
from dacycle.cycler.report.page import page, status_strip, write_report
from dacycle.cycler.verification.cycles import verify
from dacycle.cycler.verification.drift import make_forecasts, read_scores
from dacycle.forecast_adapter.channels import HEADLINE, NAMES, index
from dacycle.forecast_adapter.models.model import load_model
from dacycle.forecast_adapter.worlds.reference import Reference
from dacycle.obs_ingest.table import add_departures, empty_table
from tests.cycler.pages import Page
from tests.cycler.runs import make_run
from tests.worlds import make_world

CYCLES = 6
KINDS = ("background", "analysis")


@pytest.fixture(scope="module")
def run(tmp_path_factory, world, tiny):
    """Make a run with its free run and its forecasts, and a better one beside it."""
    model = load_model(world.model)
    folder = tmp_path_factory.mktemp("report") / "archive"
    make_run(folder, tiny, cycles=CYCLES, error=0.15, name="better", model_digest=model.digest)
    make_run(folder, tiny, cycles=CYCLES, error=0.8, name="run-free", model_digest=model.digest)
    branch = make_run(folder, tiny, cycles=CYCLES, model=str(world.model), model_digest=model.digest)
    for name in ("run", "better"):
        list(make_forecasts(branch.archive.branch(name), tiny, model))
    return branch


@pytest.fixture(scope="module")
def html(run, tiny):
    return page(run, tiny)


def test_the_page_stands_alone(html):
    found = Page(html)
    assert found.open == []
    outside = [r for r in found.references if not r.startswith(("#", "data:"))]
    assert outside == []
    assert not re.search(r"@import|url\((?!#)|<script", html)
    assert len(html) < 4e6
    inside = {r[1:] for r in found.references if r.startswith("#")}
    assert inside <= set(found.ids)
    assert len(found.ids) == len(set(found.ids))


def test_the_page_has_every_part(html):
    words = Page(html).words
    for part in ("Summary", "Errors against the reference", "Observations", "Fit to withheld sites", "Spectra",
                 "Drift of the forecasts", "Maps", "Global means", "The experiment"):  # fmt: skip
        assert part in words
    for figure in ("Error by region and level", "Zonal power of increments and errors", "Histograms of O-B and O-A"):
        assert figure in html
    for said in ("χ²", "DFS a cycle", "stations, withheld"):
        assert said in words
    for said in ("above 200 hPa", "free run", "persistence", "climatology", "southern extratropics", "O-B", "SHA-256"):
        assert said in words
    assert not re.search(r"\bnan\b|\binf\b", words, flags=re.IGNORECASE)


def test_the_summary_prints_the_run_s_own_numbers(html, run, tiny):
    errors = verify(run, tiny).errors
    row = re.search(r"<tr><td class=\"name\"><b>t850</b>.*?</tr>", html).group()
    cells = re.findall(r"<td[^>]*>(.*?)</td>", row)
    numbers = [re.sub(r"<.*?>", "", cell) for cell in cells]
    free = verify(run.archive.branch("run-free"), tiny).errors
    expected = [tables.rmse_of(free, "analysis", "t850")]
    expected += [tables.rmse_of(errors, kind, "t850") for kind in ("background", "analysis")]
    assert numbers[2:5] == [tables.number(value) for value in expected]


def test_it_is_written_into_the_branch_and_the_same_archive_gives_the_same_page(html, run, tiny):
    def unsigned(text):
        return re.sub(r"<time>.*?</time>", "", text)

    path = write_report(run, tiny)
    assert path == run.folder / "report" / "index.html"
    assert unsigned(path.read_text()) == unsigned(html)


def test_a_kept_sample_is_used_again_and_a_damaged_one_is_not(html, run, tiny, monkeypatch):
    path = run.folder / "verification" / "sample.npz"
    records = [record for record in run.records if record.status != "cold_start"]
    first = tables.sample_fields(run, tiny, records)
    path.write_bytes(path.read_bytes()[:200])
    again = tables.sample_fields(run, tiny, records)
    np.testing.assert_array_equal(first.increment, again.increment)
    monkeypatch.setattr(type(run), "headline_fields", None)
    kept = tables.sample_fields(run, tiny, records)
    np.testing.assert_array_equal(kept.errors["analysis"], first.errors["analysis"])
    np.testing.assert_array_equal(kept.powers["reference"], first.powers["reference"])


def test_spectra_of_increments_and_errors_and_profiles_by_region_are_those_of_the_states(run, tiny):
    records = [record for record in run.records if record.status != "cold_start"]
    powers, z500 = tables.sample_fields(run, tiny, records).powers, index("z500")
    found = dict.fromkeys(tables.SPECTRA, 0.0)
    for record in records:
        background, analysis = (run.state(kind, record.time).values[z500].astype(float) for kind in KINDS)
        truth = tiny.reference.array(np.datetime64(record.time, "h"))[z500]
        for name, field in zip(found, (analysis - background, background - truth, analysis - truth), strict=True):
            waves = np.abs(np.fft.rfft(field, axis=-1)[:, 3] / field.shape[-1]) ** 2
            found[name] += 2 * float(np.average(waves, weights=np.broadcast_to(tiny.grid.weights, field.shape)[:, 0]))
    for name, power in found.items():
        assert powers[name][HEADLINE.index("z500"), 3] == pytest.approx(power / len(records), rel=1e-4)
    errors, std = verify(run, tiny).errors, tiny.statistics.std
    drawn = figures.errors_by_region_and_level({"analysis": errors[errors["kind"] == "analysis"]}, std)
    tropics = next(chart for chart in drawn.panels if chart.title == "z, tropics").lines[0]
    expected = tables.rmse_of(errors, "analysis", "z500", "tropics") / std[z500]
    assert tropics.x[list(tropics.y).index(500)] == pytest.approx(expected)


def test_the_experiment_and_its_digests_are_printed(html, run):
    assert "fallbacks_in_a_row" in html
    record = run.records[-1]
    for key in ("experiment", "model", "assimilator"):
        assert record.digests[key] in html


def test_a_fallback_says_why_and_cannot_inject_markup():
    records = [
        CycleRecord(pd.Timestamp("2024-01-04T00"), "ok", {}),
        CycleRecord(pd.Timestamp("2024-01-04T06"), "fallback", {}, reason="increment <b>of</b> t850 & more"),
    ]
    strip = str(status_strip(records))
    assert strip.count("<rect") == 2
    assert "increment &lt;b&gt;of&lt;/b&gt; t850 &amp; more" in strip


def test_means_used_at_the_middle_of_their_period_are_marked_as_not_causal(html, tiny, tmp_path):
    daily = {"source": "olr_netcdf", "path": "olr.nc", "cutoff": "60h", "centred": True, "latency": "48h"}
    branch = make_run(tmp_path / "archive", tiny, cycles=2, observations=[daily])
    assert re.search(r"Not causal: values of olr_netcdf are used at the middle of the period", page(branch, tiny))
    assert "at the middle of the period" not in html


def test_without_forecasts_and_a_reference_the_page_says_so_and_the_observations_still_speak(tiny, tmp_path):
    make_world(tmp_path / "other", days=0)
    other = replace(tiny, reference=Reference(tmp_path / "other" / "reference"))
    branch = make_run(tmp_path / "archive", tiny, cycles=CYCLES, error=0.8)
    words = Page(page(branch, other)).words
    assert "No forecasts have been made yet: dacycle drift run" in words
    assert "errors cannot be given" in words
    assert "Fit to withheld sites" in words
    assert not re.search(r"\bnan\b", words, flags=re.IGNORECASE)


def test_where_the_reference_ends_after_one_cycle_there_are_errors_and_no_trend(tiny, tmp_path):
    make_world(tmp_path / "short", days=1)
    short = replace(tiny, reference=Reference(tmp_path / "short" / "reference"))
    branch = make_run(tmp_path / "archive", tiny, cycles=CYCLES, error=0.8)
    words = Page(page(branch, short)).words
    assert "Errors against the reference" in words
    assert "errors cannot be given" not in words
    assert not re.search(r"\bnan\b", words, flags=re.IGNORECASE)


def test_what_sources_found_and_could_not_read_is_printed(html):
    words = Page(html).words
    for said in ("Inventories of the sources", "Use of the values", "Number of sites in these maps", "withheld site"):
        assert said in words
    assert "temp.bufr, message 3: <truncated>" in words, "a file's name cannot inject markup"
    for label in ("Source sondes over time", "Maps of the sites used", "Histograms of O-B and O-A"):
        assert f'role="group" aria-label="{label}' in html


def test_a_run_whose_sources_never_had_anything_has_a_report_all_the_same(tiny, tmp_path, monkeypatch):
    nothing = add_departures(empty_table(), np.empty(0), np.empty(0))
    monkeypatch.setattr("tests.cycler.runs.departures", lambda *arguments: nothing)
    words = Page(page(make_run(tmp_path / "archive", tiny, cycles=2), tiny)).words
    assert "No cycle had an observation" in words
    assert "Inventories of the sources" in words


def test_a_run_without_a_cycle_has_no_report(tiny, tmp_path):
    branch = make_run(tmp_path / "archive", tiny, cycles=0)
    with pytest.raises(ArchiveError, match="dacycle hindcast"):
        page(branch, tiny)


def test_numbers_are_printed_to_three_digits_and_never_as_nan():
    printed = {0.0012345: "0.00123", 12345.6: "12,346", -3.14159: "−3.14", 0.0: "0", np.nan: "–", np.inf: "–"}
    assert {value: tables.number(value) for value in printed} == printed


def test_curves_are_means_over_the_same_starts():
    rows = [
        {"start": pd.Timestamp(start), "kind": "analysis", "lead": lead, "channel": "z500", "region": "globe",
         "mse": mse, "acc": 0.5}
        for start, leads in (("2024-01-01", (0, 12)), ("2024-01-02", (0,)))
        for lead, mse in zip(leads, (1.0, 4.0), strict=False)
    ]  # fmt: skip
    rows[-1]["mse"] = 100.0
    curves, starts = tables.drift_summary(pd.DataFrame(rows))
    assert starts == 1
    assert curves.set_index("lead")["rmse"].to_dict() == {0: 1.0, 12: 2.0}


def test_lead_time_is_lost_against_the_reference_started_forecast():
    """The forecast from the analyses has at 0 h the error that the other one has at 6 h, and so on."""
    rows = [
        {"start": pd.Timestamp("2024-01-01"), "kind": kind, "lead": lead, "channel": "z500", "region": "globe",
         "mse": (lead + later) ** 2.0, "acc": 0.5}
        for kind, later in (("analysis", 6.0), ("reference", 0.0))
        for lead in (0, 12, 24)
    ]  # fmt: skip
    curves, _ = tables.drift_summary(pd.DataFrame(rows))
    lost = curves.set_index(["kind", "lead"])["lost"]
    assert lost["analysis"].tolist()[:2] == pytest.approx([6.0, 6.0])
    assert np.isnan(lost["analysis", 24])
    assert lost["reference"].isna().all()


def test_forecasts_that_gain_mass_heat_and_water_show_it_in_their_global_means():
    """Each of two starts counts half; a third with scores of the headline channels alone is not counted."""
    gains = {"q": 0.001, "t": 2.0, "m": 50.0}  # by the first letter of a channel's name

    def scored(day: int, share: float, names: Sequence[str]) -> list[dict[str, Any]]:
        return [
            {"start": pd.Timestamp(f"2024-01-0{day}"), "kind": "analysis", "lead": lead, "channel": name,
             "region": region, "bias": share * lead / 24 * gains.get(name[0], 7.0)}
            for lead in (0, 24) for name in names for region in ("globe", "tropics")
        ]  # fmt: skip

    rows = tables.global_mean_rows(pd.DataFrame(scored(1, 0.5, NAMES) + scored(2, 1.5, NAMES) + scored(3, 9, HEADLINE)))
    found = {(row["quantity"], row["lead_hours"]): row["analysis"] for row in rows}
    assert found["mean sea-level pressure", 24] == pytest.approx(50)
    assert found["temperature", 24] == pytest.approx(2)
    assert found["column water", 24] == pytest.approx(0.001 * 95000 / 9.80665)
    assert {value for (_, lead), value in found.items() if lead == 0} == {0}
    assert all(np.isnan(row["reference"]) for row in rows)
    assert tables.global_mean_rows(pd.DataFrame(scored(3, 9, HEADLINE))) == []


def test_the_command_shows_lead_time_lost_and_global_means(run):
    command = ["drift", run.name, "--archive", str(run.archive.folder)]
    content = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    curves, _ = tables.drift_summary(read_scores(run))
    own = curves[(curves["kind"] == "analysis") & (curves["channel"] == "z500")].set_index("lead")["lost"]
    shown = {row["lead_hours"]: row["hours_lost"] for row in content["rmse"] if row["channel"] == "z500"}
    assert own.notna().any()
    assert shown == {lead: pytest.approx(lost) if lost == lost else None for lead, lost in own.items()}
    means = pd.DataFrame(content["global_means"])
    at_start = means[means["lead_hours"] == 0]
    assert (at_start["reference"] == 0).all()
    bias = read_scores(run).query("kind == 'analysis' and lead == 0 and channel == 'msl' and region == 'globe'")["bias"]
    assert at_start.set_index("quantity")["analysis"]["mean sea-level pressure"] == pytest.approx(bias.mean())
    printed = CliRunner().invoke(app, command).output
    assert "hours lost, day" in printed
    assert "column water (kg m-2)" in printed


def test_the_level_of_a_free_run_is_that_of_its_second_half():
    rows = [
        {"time": pd.Timestamp("2024-01-01") + i * pd.Timedelta("6h"), "kind": "analysis", "channel": channel,
         "region": "globe", "mse": (1.0 if i < 2 else 9.0)}
        for i in range(4)
        for channel in HEADLINE
    ]  # fmt: skip
    assert tables.free_run_level(pd.DataFrame(rows)) == dict.fromkeys(HEADLINE, 3.0)


def test_the_projection_keeps_areas():
    longitude, latitude = np.meshgrid(np.linspace(-180, 180, 73), np.linspace(-90, 90, 721))
    x, y = maps.equal_earth(longitude, latitude)
    dx, dy = np.diff(x, axis=1), np.diff(y, axis=0)
    area = (dx[1:] + dx[:-1]) / 2 * (dy[:, 1:] + dy[:, :-1]) / 2
    on_sphere = np.diff(np.sin(np.deg2rad(latitude)), axis=0)[:, 1:] * np.deg2rad(5)
    np.testing.assert_allclose(area[20:-20] / on_sphere[20:-20], 1, rtol=1e-3)


def test_coastlines_are_where_the_coasts_are():
    longitude, latitude = maps.coastlines()
    assert np.nanmin(longitude) >= -180
    assert np.nanmax(longitude) <= 180

    def nearest(lon, lat):
        return np.nanmin(np.hypot((longitude - lon) * np.cos(np.deg2rad(lat)), latitude - lat))

    assert nearest(-9.5, 38.7) < 0.6  # Lisbon
    assert nearest(18.5, -34.2) < 0.6  # the Cape of Good Hope
    assert nearest(85.0, 45.0) > 10  # far inland
    assert nearest(20.0, 49.0) > 4  # a border between countries is no coast


# --- commands ---------------------------------------------------------------------------------------------------------


def test_commands_work_from_the_shell(run, world, tmp_path, monkeypatch):
    shell, archive = CliRunner(), ["--archive", str(run.archive.folder)]
    drift = shell.invoke(app, ["drift", "run", *archive])
    assert drift.exit_code == 0, drift.output
    assert "z500" in drift.output
    report = shell.invoke(app, ["report", "run", *archive, "--out", str(tmp_path / "r.html")])
    assert report.exit_code == 0, report.output
    assert (tmp_path / "r.html").stat().st_size > 1e5
    picture = tmp_path / "errors.svg"
    stretch = ["--since", "20240102T06", "--until", "20240102T12", "--picture", str(picture)]
    scored = shell.invoke(app, ["scores", "run", *archive, *stretch])
    assert scored.exit_code == 0, scored.output
    assert "20240102T06 to 20240102T12" in scored.output
    assert shell.invoke(app, ["scores", "run", *archive, "--until", "20240102T06"]).exit_code == 0, "a single cycle"
    assert picture.read_text().startswith("<svg")
    long = shell.invoke(app, ["scores", "run", *archive, "--trend-days", "1"])
    assert "trend" in long.output, "a long stretch has its trend"
    assert "trend" not in scored.output
    nothing = shell.invoke(app, ["scores", "run", *archive, "--since", "20310101T00"])
    assert "no cycle from 20310101T00 to its last" in str(nothing.exception)
    compared = shell.invoke(app, ["compare", "run", "better", *archive], env={"COLUMNS": "160"})
    assert compared.exit_code == 0, compared.output
    assert "run too short" in compared.output
    assert "msl (hPa)" in compared.output
    assert "q700 (g/kg)" in compared.output
    assert len(read_scores(run)) > 0


def test_scores_of_two_runs_stand_side_by_side(run, tmp_path):
    picture = tmp_path / "picture.svg"
    arguments = [
        "scores",
        "run",
        "--archive",
        str(run.archive.folder),
        "--against",
        "better",
        "--picture",
        str(picture),
        "--json",
    ]
    printed = CliRunner().invoke(app, arguments, catch_exceptions=False).stdout
    errors = next(row["runs"] for row in json.loads(printed)["rmse"] if row["channel"] == "z500")
    assert errors["better"] < errors["analysis"] < errors["free run"]
    assert "better" in picture.read_text()
