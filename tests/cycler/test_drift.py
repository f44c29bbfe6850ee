"""Forecasts from committed analyses: what they start from, their scores, and going on after anything."""

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from dacycle.cycler import drift
from dacycle.cycler.archive import Archive, ArchiveError
from dacycle.cycler.drift import KINDS, due, forecasts, make_forecasts, read_scores
from dacycle.cycler.verification import verify
from dacycle.forecast_adapter import scores
from dacycle.forecast_adapter.channels import HEADLINE, index
from dacycle.forecast_adapter.models import load_model
from dacycle.forecast_adapter.reference import Reference
from dacycle.forecast_adapter.worlds import load_world
from tests.cycler.runs import START, make_run
from tests.worlds import DAMPING, make_model, make_world, profile

CYCLES, STARTS = 6, [START + pd.Timedelta(hours=12) * n for n in range(3)]


@pytest.fixture(scope="module")
def tiny(world):
    return load_world(world.folder)


@pytest.fixture(scope="module")
def model(world):
    return load_model(world.model)


@pytest.fixture(scope="module")
def cycled(tmp_path_factory, tiny, model):
    """A run without forecasts; tests work on copies of it."""
    folder = tmp_path_factory.mktemp("cycled") / "archive"
    return make_run(folder, tiny, cycles=CYCLES, model_digest=model.digest)


@pytest.fixture
def run(cycled, tmp_path):
    shutil.copytree(cycled.archive.folder, tmp_path / "archive")
    return Archive(tmp_path / "archive").branch(cycled.name)


@pytest.fixture(scope="module")
def done(cycled, tmp_path_factory, tiny, model):
    """The run with all its forecasts, only to read."""
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
    mean, _ = profile()
    fields = forecasts(done).sel(time=STARTS[1])
    assert fields["lead"].values.tolist() == [0, 12, 24, 36]
    analysis = done.state("analysis", STARTS[1]).values
    for name in HEADLINE:
        i = index(name)
        for lead in fields["lead"].values:
            steps = int(lead) // 6
            expected = mean[i] + DAMPING**steps * (np.roll(analysis[i], steps, axis=-1) - mean[i])
            np.testing.assert_allclose(fields[name].sel(lead=lead), expected, rtol=2e-5, atol=1e-6)


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
    np.testing.assert_allclose(joined["mse_x"], joined["mse_y"], rtol=1e-5)


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


def test_scores_grow_with_the_reference(run, done, tiny, model, tmp_path):
    make_world(tmp_path / "short", days=2)  # until 3 January 00 UTC
    short = replace(tiny, reference=Reference(tmp_path / "short" / "reference"))
    assert list(make_forecasts(run, short, model)) == STARTS
    reached = read_scores(run).groupby("start")["lead"].max()
    assert reached.tolist() == [24, 12, 0]
    assert due(run, short) == []
    fields = forecasts(run).load()
    assert list(make_forecasts(run, tiny, model)) == STARTS
    assert files(run) == files(done)
    assert forecasts(run).load().identical(fields)


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
