"""Forecasts from committed analyses: their frames, their scores, and how they continue after interruptions."""

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from typer.testing import CliRunner

from dacycle.cycler.archive.branches import Archive, ArchiveError
from dacycle.cycler.cli import app
from dacycle.cycler.experiment import STEP, load_experiment
from dacycle.cycler.operations.service import Service
from dacycle.cycler.report import tables
from dacycle.cycler.verification import drift
from dacycle.cycler.verification.cycles import verify
from dacycle.cycler.verification.drift import KINDS, due, fill_in, forecasts, make_forecasts, read_scores, unverified
from dacycle.forecast_adapter import scores
from dacycle.forecast_adapter.channels import GROUPS, HEADLINE, index
from dacycle.forecast_adapter.models.model import load_model
from dacycle.forecast_adapter.worlds.reference import Reference, write_times
from dacycle.forecast_adapter.worlds.world import load_world
from tests.conftest import TinyWorld
from tests.cycler.runs import START, make_run
from tests.cycler.tiny import write_experiment
from tests.worlds import forecast_by_hand, make_model, make_world

CYCLES, STARTS = 6, [START + pd.Timedelta(hours=12) * n for n in range(3)]


@pytest.fixture(scope="module")
def model(world):
    return load_model(world.model)


@pytest.fixture(scope="module")
def cycled(tmp_path_factory, tiny, model):
    """Make a run without forecasts; tests work on copies of it."""
    folder = tmp_path_factory.mktemp("cycled") / "archive"
    return make_run(folder, tiny, cycles=CYCLES, model_digest=model.digest)


@pytest.fixture
def run(cycled, tmp_path):
    shutil.copytree(cycled.archive.folder, tmp_path / "archive")
    return Archive(tmp_path / "archive").branch(cycled.name)


@pytest.fixture(scope="module")
def done(cycled, tmp_path_factory, tiny, model):
    """Return the run with all its forecasts, only to read."""
    folder = tmp_path_factory.mktemp("done") / "archive"
    shutil.copytree(cycled.archive.folder, folder)
    branch = Archive(folder).branch(cycled.name)
    assert list(make_forecasts(branch, tiny, model)) == STARTS
    return branch


def test_cycles_committed_meanwhile_do_no_harm(tmp_path, tiny, model, monkeypatch):
    """Forecasts run beside the chain: between one look at its records and the next it may have gone on."""
    folder, options = tmp_path / "archive", {"model_digest": model.digest}
    run = make_run(folder, tiny, cycles=3, **options)
    asked = drift.due

    def and_then_more(*arguments):
        make_run(folder, tiny, cycles=CYCLES, **options)
        return asked(*arguments)

    monkeypatch.setattr(drift, "due", and_then_more)
    assert list(make_forecasts(run, tiny, model)) == STARTS


def files(branch):
    return {path.name: path.read_bytes() for path in sorted((branch.folder / "drift").glob("*.parquet"))}


def test_forecasts_start_from_the_analyses(done, tiny):
    fields = forecasts(done).sel(time=STARTS[1])
    assert fields["lead"].values.tolist() == [0, 12, 24, 36]
    frames = [done.state("analysis", STARTS[1] - STEP).values, done.state("analysis", STARTS[1]).values]
    for lead in fields["lead"].values:
        expected = forecast_by_hand(*frames, int(lead) // 6)
        for name in HEADLINE:
            np.testing.assert_allclose(fields[name].sel(lead=lead), expected[index(name)], rtol=2e-5, atol=1e-5)


def test_forecasts_take_the_older_frame_as_the_experiment_says(tmp_path, tiny, model):
    branch = make_run(tmp_path / "archive", tiny, cycles=3, model_digest=model.digest, frames="both")
    start = list(make_forecasts(branch, tiny, model))[-1]
    older, newer = (branch.state("analysis", time).values for time in (start - STEP, start))
    older = older + newer - branch.state("background", start).values
    older[GROUPS["q"]] = np.maximum(older[GROUPS["q"]], 0)
    made, expected = forecasts(branch).sel(time=start, lead=12), forecast_by_hand(older, newer, 2)
    for name in HEADLINE:
        np.testing.assert_allclose(made[name], expected[index(name)], rtol=2e-5, atol=1e-5)


def test_scores_at_the_start_are_the_analysis_errors(done, tiny):
    start = read_scores(done)
    start = start[(start["lead"] == 0) & (start["kind"] == "analysis")]
    errors = verify(done, tiny).errors
    joined = start.astype({"channel": str, "region": str}).merge(
        errors[errors["kind"] == "analysis"],
        left_on=["start", "channel", "region"],
        right_on=["time", "channel", "region"],
    )
    assert len(joined) == len(STARTS) * 69 * 4
    for score in ("mse", "mae"):
        np.testing.assert_allclose(joined[f"{score}_x"], joined[f"{score}_y"], rtol=1e-5)
    np.testing.assert_allclose(joined["bias_x"], joined["bias_y"], rtol=1e-4, atol=1e-4)


def test_persistence_and_climatology_are_those_of_the_reference(done, tiny):
    table = read_scores(done)
    when = np.datetime64(STARTS[0], "h")
    truth = tiny.reference.array(when + 24)
    for kind, field in (("persistence", tiny.reference.array(when)), ("climatology", tiny.climatology.at(when + 24))):
        expected = scores.mse(field, truth, tiny.grid)
        at = (table["start"] == STARTS[0]) & (table["kind"] == kind) & (table["lead"] == 24)
        np.testing.assert_allclose(table.loc[at, "mse"].to_numpy().reshape(expected.shape), expected, rtol=1e-5)


def test_the_reference_started_forecast_is_better_and_begins_without_error(done):
    globe = read_scores(done).query("region == 'globe' and channel == 'z500'")
    errors = globe.pivot_table(index="lead", columns="kind", values="mse", observed=True)
    assert set(errors.columns) == set(KINDS)
    assert errors.loc[0, "reference"] == errors.loc[0, "persistence"] == 0
    assert (errors["reference"] < errors["analysis"]).all()
    assert (errors.loc[12:, "reference"] < errors.loc[12:, "climatology"]).all()


def test_the_reference_started_forecast_takes_both_frames_of_the_reference(done, tiny):
    when = [np.datetime64(STARTS[1] + shift, "h") for shift in (-STEP, pd.Timedelta(0))]
    forecast = forecast_by_hand(*(tiny.reference.array(time) for time in when), 2)
    expected = scores.mse(forecast, tiny.reference.array(when[1] + 12), tiny.grid)
    rows = read_scores(done).query("kind == 'reference' and lead == 12")
    rows = rows[rows["start"] == STARTS[1]]
    np.testing.assert_allclose(rows["mse"].to_numpy().reshape(expected.shape), expected, rtol=1e-3)


def test_anomalies_are_from_the_climatology_of_the_valid_time(done, tiny):
    when = np.datetime64(STARTS[0], "h")
    truth, forecast = tiny.reference.array(when + 24), forecasts(done).sel(time=STARTS[0], lead=24)
    rows = read_scores(done).query("kind == 'analysis' and lead == 24 and region == 'globe'")
    rows = rows[rows["start"] == STARTS[0]].set_index("channel")["acc"]

    def correlation(name, season):
        climate, weights = tiny.climatology.at(season)[index(name)], np.cos(np.radians(tiny.grid.latitude))[:, None]
        ours, theirs = forecast[name].values - climate, truth[index(name)] - climate
        return (weights * ours * theirs).sum() / np.sqrt((weights * ours**2).sum() * (weights * theirs**2).sum())

    for name in HEADLINE:
        assert rows[name] == pytest.approx(correlation(name, when + 24), abs=5e-6), name
        assert abs(rows[name] - correlation(name, when)) > 5e-5, name


def test_an_interrupted_run_goes_on_and_ends_in_the_same_files(run, done, tiny, model):
    making = make_forecasts(run, tiny, model)
    assert next(making) == STARTS[0]
    making.close()
    assert due(run, tiny) == STARTS[1:]
    assert list(make_forecasts(run, tiny, model)) == STARTS[1:]
    assert due(run, tiny) == []
    assert list(make_forecasts(run, tiny, model)) == []
    assert files(run) == files(done)
    assert forecasts(run).identical(forecasts(done))


def test_two_processes_do_not_make_the_same_forecasts(run, tiny, model):
    making = make_forecasts(run, tiny, model)
    next(making)
    with pytest.raises(ArchiveError, match="run/drift is being written"):
        next(make_forecasts(run, tiny, model))
    making.close()


def test_the_chain_can_be_written_while_forecasts_are_made(run, tiny, model):
    making = make_forecasts(run, tiny, model)
    next(making)
    make_run(run.archive.folder, tiny, cycles=CYCLES + 1, model_digest=model.digest)
    assert list(making) == STARTS[1:]
    assert due(run, tiny) == [START + pd.Timedelta(hours=36)]


def test_forecasts_from_analyses_that_were_taken_back_are_made_again(run, done, tiny, model):
    list(make_forecasts(run, tiny, model))
    run.archive.rewind(run.name, START)
    assert read_scores(run)["start"].unique().tolist() == [STARTS[0]]
    make_run(run.archive.folder, tiny, cycles=CYCLES, error=0.9, model_digest=model.digest)
    assert due(run, tiny) == STARTS[1:]
    assert list(make_forecasts(run, tiny, model)) == STARTS[1:]
    assert len(forecasts(run).time) == len(STARTS)
    old, new = (read_scores(b).query("kind == 'analysis' and lead == 0") for b in (done, run))
    ratio = new["mse"].to_numpy() / old["mse"].to_numpy()
    first = (new["start"] == STARTS[0]).to_numpy()
    assert (ratio[first] == 1).all()
    assert (ratio[~first] > 4).all()


def test_a_forecast_is_made_again_where_only_its_older_frame_has_changed(run, tiny, model):
    list(make_forecasts(run, tiny, model))
    run.archive.rewind(run.name, START)
    for cycles, options in ((2, {"error": 0.9}), (CYCLES, {})):  # the second cycle differs, those after it do not
        make_run(run.archive.folder, tiny, cycles=cycles, model_digest=model.digest, **options)
    assert list(make_forecasts(run, tiny, model)) == STARTS[1:]
    frames = [run.state("analysis", STARTS[1] - STEP).values, run.state("analysis", STARTS[1]).values]
    expected = forecast_by_hand(*frames, 2)[index("t850")]
    np.testing.assert_allclose(forecasts(run)["t850"].sel(time=STARTS[1], lead=12), expected, rtol=2e-5)


def test_scores_of_other_analyses_count_as_missing(run, tiny, model):
    list(make_forecasts(run, tiny, model))
    folder = run.folder / "drift"
    shutil.copy(folder / "20240103T00.parquet", folder / "20240102T12.parquet")
    with pytest.raises(ArchiveError, match=r"20240102T12\.parquet: the scores of run are missing or another run's"):
        read_scores(run)
    assert due(run, tiny) == [STARTS[1]]


def test_a_start_whose_older_frame_the_reference_lacks_has_no_reference_started_forecast(
    run, world, tiny, model, tmp_path
):
    (path,) = (world.folder / "reference").glob("*.nc")
    with xr.open_dataset(path, engine="h5netcdf") as whole:
        write_times(whole.sel(time=slice(START, None)).load(), tmp_path / "late/2024-01-02.nc")
    late = replace(tiny, reference=Reference(tmp_path / "late"))
    assert list(make_forecasts(run, late, model)) == STARTS
    assert due(run, late) == []
    kinds = read_scores(run).groupby("start")["kind"].unique()
    assert "reference" not in set(kinds[STARTS[0]])
    assert set(kinds[STARTS[1]]) == set(KINDS)


@pytest.fixture(scope="module")
def short(tiny, tmp_path_factory):
    """Worlds whose reference ends after so many days."""
    folder = tmp_path_factory.mktemp("short")
    for days in (1, 2, 3):
        make_world(folder / f"{days}", days=days)
    return {days: replace(tiny, reference=Reference(folder / f"{days}/reference")) for days in (1, 2, 3)}


class TestLateReference:
    """Live, the reference comes days after the forecast; the short ones here are the long one's first days."""

    @pytest.fixture
    def early(self, run, short, model):
        """Return the run with forecasts that were made when the reference ended after two days."""
        assert list(make_forecasts(run, short[2], model)) == STARTS
        return run

    def headline(self, branch):
        """Return the scores that need only the stored fields."""
        table = read_scores(branch)
        table = table[table["channel"].isin(HEADLINE) & (table["kind"] != "reference")]
        return table.reset_index(drop=True)

    def test_kept_forecasts_are_scored_without_a_model_bit_for_bit(self, early, done, short, tiny):
        assert read_scores(early).groupby("start")["lead"].max().tolist() == [24, 12, 0]
        assert list(fill_in(early, short[2])) == []
        assert list(fill_in(early, short[3])) == STARTS  # to 4 January 00 UTC
        assert read_scores(early).groupby("start")["lead"].max().tolist() == [36, 36, 24]
        assert unverified(early) == {STARTS[2]: 1}
        assert list(fill_in(early, tiny)) == [STARTS[2]]
        assert unverified(early) == {}
        pd.testing.assert_frame_equal(self.headline(early), self.headline(done), check_exact=True)

    def test_then_every_channel_is_scored_as_if_the_reference_had_been_there(self, early, done, short, tiny, model):
        fields = forecasts(early).load()
        assert sorted(make_forecasts(early, short[3], model)) == STARTS
        assert list(make_forecasts(early, short[3], model)) == []
        assert files(early) != files(done)
        assert due(early, tiny) == [STARTS[2]]
        assert list(make_forecasts(early, tiny, model)) == [STARTS[2]]
        assert files(early) == files(done)
        assert forecasts(early).load().identical(fields)

    def test_the_forecast_does_not_depend_on_a_reference_beside_it(self, run, done, short, tiny, model):
        """Made without any reference, and scored later: the same fields, and in the end the same files."""
        list(make_forecasts(run, short[1], model))
        assert forecasts(run).load().identical(forecasts(done).load())
        assert list(make_forecasts(run, tiny, model)) == STARTS
        assert files(run) == files(done)

    def test_cut_short_nothing_is_lost(self, early, done, tiny, monkeypatch):
        before, filling = files(early), fill_in(early, tiny)
        assert next(filling) == STARTS[0]
        filling.close()
        assert {name for name, content in files(early).items() if content != before[name]} == {"20240102T00.parquet"}

        def no_space(*_: object) -> None:
            raise OSError("no space left")

        with monkeypatch.context() as broken:
            broken.setattr("os.replace", no_space)
            with pytest.raises(OSError, match="no space"):
                list(fill_in(early, tiny))
        assert len(read_scores(early)["start"].unique()) == len(STARTS)
        assert list(fill_in(early, tiny)) == STARTS[1:]
        pd.testing.assert_frame_equal(self.headline(early), self.headline(done), check_exact=True)

    def test_damaged_scores_stop_it_and_damaged_fields_are_not_scored(self, early, tiny):
        path = early.folder / "drift" / "20240102T12.parquet"
        content = bytearray(path.read_bytes())
        content[len(content) // 3] ^= 0xFF
        path.write_bytes(bytes(content))
        with pytest.raises(ArchiveError, match=r"20240102T12\.parquet"):
            list(fill_in(early, tiny))

    def test_a_fork_fills_in_the_forecasts_that_it_shares(self, early, short, tiny):
        fork = make_run(
            early.archive.folder, tiny, cycles=CYCLES, model_digest="m", name="fork", start="2024-01-02T18",
            cold_start={"from": "run@20240102T12"},
        )  # fmt: skip
        theirs = files(early)
        assert list(fill_in(fork, tiny)) == STARTS[:2]
        assert files(early) == theirs
        assert list(fill_in(early, tiny)) == STARTS

    def test_the_summary_compares_the_same_starts(self, early, tiny, model):
        """Reference-started forecasts of some starts alone are not set against all starts' forecasts."""
        list(fill_in(early, tiny))
        making = make_forecasts(early, tiny, model)
        assert next(making) == STARTS[0]
        making.close()
        curves, starts = tables.drift_summary(read_scores(early))
        assert starts == 1
        assert set(curves["kind"]) == set(KINDS)

    def test_the_command_scores_and_says_what_waits(self, world, run, short, model, tmp_path):
        folder = tmp_path / "world"
        shutil.copytree(world.folder, folder)
        shutil.rmtree(folder / "reference")
        shutil.copytree(short[2].reference.folder, folder / "reference")
        path = run.folder / "experiment.yaml"
        text = path.read_text().replace(str(world.folder), str(folder))
        path.write_text(text[: text.index("# sha256")])  # an experiment's own file has no digest
        list(make_forecasts(run, load_world(folder), model))
        command = ["verify", run.name, "--archive", str(run.archive.folder)]
        said = CliRunner().invoke(app, command).output
        assert "5 of 6 verified" in said
        assert "6 leads of 3 starts wait" in said
        # The reference grows in a folder that this process has already read.
        with xr.open_dataset(next((world.folder / "reference").glob("*.nc")), engine="h5netcdf") as whole:
            write_times(whole.sel(time=slice("2024-01-03T06", None)).load(), folder / "reference/2024-01-03.nc")
        said = CliRunner().invoke(app, command).output
        assert "6 of 6 verified" in said
        assert "none waits for it; new scores of 20240102T00, 20240102T12, 20240103T00" in " ".join(said.split())


def test_a_live_run_verifies_what_the_reference_has_gained_when_it_wakes(world, tmp_path):
    folder = tmp_path / "world"
    shutil.copytree(world.folder, folder)
    (path,) = (folder / "reference").glob("*.nc")
    with xr.open_dataset(path, engine="h5netcdf") as file:
        whole = file.load()
    write_times(whole.sel(time=slice(None, "2024-01-03T12")), path)
    live = load_experiment(write_experiment(tmp_path, TinyWorld(world.name, folder, world.model)))
    archive, now = Archive(tmp_path / "archive", create=True), pd.Timestamp("2024-01-04")
    Service(live, archive).run_due(now)
    branch = archive.branch(live.name)
    assert unverified(branch) == {pd.Timestamp("2024-01-03"): 1}
    write_times(whole.sel(time=slice("2024-01-03T18", "2024-01-04T00")), folder / "reference/2024-01-03.nc")
    Service(live, archive, forecasts=False).run_due(now)
    assert unverified(branch) == {}
    assert set(read_scores(branch).query("lead == 24")["channel"]) == set(HEADLINE)
    Service(live, archive).run_due(now)
    assert read_scores(branch).query("lead == 24")["channel"].nunique() == 69


def test_without_a_reference_forecasts_are_made_and_not_scored(run, tiny, model, tmp_path):
    make_world(tmp_path / "other", days=0)
    other = replace(tiny, reference=Reference(tmp_path / "other" / "reference"))
    assert list(make_forecasts(run, other, model)) == STARTS
    assert read_scores(run).empty
    assert len(forecasts(run).time) == len(STARTS)
    assert due(run, other) == []


def test_a_fork_does_not_make_the_forecasts_of_the_past_it_shares(run, tiny, model):
    list(make_forecasts(run, tiny, model))
    fork = make_run(
        run.archive.folder, tiny, cycles=CYCLES, model_digest=model.digest, error=0.6,
        name="fork", start="2024-01-02T18", cold_start={"from": "run@20240102T12"},
    )  # fmt: skip
    assert due(fork, tiny) == [STARTS[2]]
    assert list(make_forecasts(fork, tiny, model)) == [STARTS[2]]
    ours, theirs = read_scores(fork), read_scores(run)
    shared = STARTS[:2]
    pd.testing.assert_frame_equal(ours[ours["start"].isin(shared)], theirs[theirs["start"].isin(shared)])
    ours, theirs = (t.query("kind == 'analysis' and lead == 0").set_index("start")["mse"] for t in (ours, theirs))
    assert ours[STARTS[2]].sum() > 3 * theirs[STARTS[2]].sum()


def test_another_model_is_refused(run, tiny, tmp_path):
    other = load_model(make_model(tmp_path / "other.onnx", scale=0.5))
    with pytest.raises(ArchiveError, match="forecast model of digest"):
        next(make_forecasts(run, tiny, other))
    assert due(run, tiny) == STARTS


def test_damaged_scores_are_named_and_not_used(run, tiny, model):
    list(make_forecasts(run, tiny, model))
    path = run.folder / "drift" / "20240102T12.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(ArchiveError, match=r"20240102T12\.parquet"):
        read_scores(run)
    path.unlink()
    with pytest.raises(ArchiveError, match=r"20240102T12\.parquet"):
        read_scores(run)
    assert list(make_forecasts(run, tiny, model)) == [STARTS[1]]
    assert len(read_scores(run)["start"].unique()) == len(STARTS)


def test_no_forecasts_yet(cycled, tiny):
    assert read_scores(cycled).empty
    assert due(cycled, tiny) == STARTS
    with pytest.raises(ArchiveError, match="dacycle drift"):
        forecasts(cycled)


class TestOtherReference:
    """The world has the same name and another reference: what was scored against the first one does not count."""

    @pytest.fixture
    def other(self, tiny, tmp_path):
        make_world(tmp_path / "other", days=5, seed=7)
        return replace(tiny, reference=Reference(tmp_path / "other/reference"))

    @pytest.fixture
    def scored(self, run, tiny, model):
        """Return the run with all its forecasts, scored against the first reference."""
        assert list(make_forecasts(run, tiny, model)) == STARTS
        return run

    def test_forecasts_are_scored_anew(self, cycled, scored, tiny, other, model, tmp_path, caplog):
        assert due(scored, other) == STARTS
        assert read_scores(scored, other).empty
        assert "dacycle drift run" in caplog.text
        assert list(make_forecasts(scored, other, model)) == STARTS
        shutil.copytree(cycled.archive.folder, tmp_path / "fresh")
        fresh = Archive(tmp_path / "fresh").branch(cycled.name)
        list(make_forecasts(fresh, other, model))
        assert files(scored) == files(fresh)
        assert due(scored, other) == []
        assert list(make_forecasts(scored, tiny, model)) == STARTS

    def test_without_a_model_the_headline_is(self, scored, other, model):
        assert list(fill_in(scored, other)) == STARTS
        filled = read_scores(scored, other)
        assert set(filled["channel"]) == set(HEADLINE)
        list(make_forecasts(scored, other, model))
        whole = read_scores(scored, other)
        of_both = whole[whole["channel"].isin(HEADLINE) & (whole["kind"] != "reference")].reset_index(drop=True)
        pd.testing.assert_frame_equal(filled, of_both, check_exact=True)

    def test_one_corrected_state_counts_at_its_lead_alone(self, scored, tiny, tmp_path):
        (path,) = (tiny.folder / "reference").glob("*.nc")
        corrected = xr.load_dataset(path, engine="h5netcdf")
        when = STARTS[0] + pd.Timedelta(hours=24)
        corrected["specific_humidity"].loc[{"time": when}] *= 1.01
        write_times(corrected, tmp_path / "corrected" / path.name)
        world = replace(tiny, reference=Reference(tmp_path / "corrected"))
        left = read_scores(scored, world).groupby("start")["lead"].unique()
        assert left[STARTS[0]].tolist() == [0, 12, 36]
        assert left[STARTS[1]].tolist() == [0, 24, 36]
        assert STARTS[2] not in left, "it is the start of the third forecast"

    def test_scores_stay_where_the_reference_was_cut_short(self, scored, tiny, short):
        pd.testing.assert_frame_equal(read_scores(scored, short[1]), read_scores(scored))
        assert due(scored, short[1]) == []
