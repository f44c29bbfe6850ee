"""The background's own error as a run finds it, and what the background check makes of it."""

from functools import partial
from itertools import islice

import numpy as np
import pandas as pd
import pytest

from dacycle.forecast_adapter.channels import NAMES, index
from dacycle.forecast_adapter.models.model import load_model
from dacycle.forecast_adapter.state import STEP
from dacycle.forecast_adapter.worlds.world import load_world
from dacycle.obs_ingest.operators.columns import equivalents
from dacycle.obs_ingest.quality import control as quality
from dacycle.obs_ingest.quality.background_error import BANDS, BackgroundError, first_guess
from dacycle.obs_ingest.sources.base import build_source
from dacycle.obs_ingest.table import REASONS, concatenate
from dacycle.obs_ingest.window import Window
from tests.obs_ingest.helpers import everywhere, observations


def departures(error, n=400, seed=0, wrong=0.0):
    """Return a table of t2m with errors of 1 K, and departures whose background has these errors south and north."""
    rng = np.random.default_rng(seed)
    latitude = rng.uniform(-90, 90, n)
    table = observations("t2m", 280.0, latitude=latitude, longitude=np.linspace(0, 359, n), error=1.0)
    true = np.where(latitude < 0, *error)
    departure = rng.normal(0, np.hypot(1.0, true)) + np.where(rng.random(n) < wrong, 20.0, 0.0)
    return table, departure


def found(error, cycles, guess=2.0, **options):
    estimate = everywhere(np.full(len(NAMES), guess))
    for seed in range(cycles):
        table, departure = departures(error, seed=seed, **options)
        estimate = estimate.after(table, departure, estimate.at_rows(table))
    return estimate.std


@pytest.mark.parametrize("error", [(0.7, 2.0), (4.0, 1.0)])
@pytest.mark.parametrize("wrong", [0.0, 0.02])
def test_the_estimate_finds_the_error_of_each_band_whatever_gross_errors_there_are(error, wrong):
    std = found(error, 60, wrong=wrong)
    away = [0, 1, 4, 5]  # from the equator, where the error is interpolated between the two
    assert std[index("t2m")][away] == pytest.approx(np.repeat(error, 2), rel=0.25)
    others = np.delete(std[: len(NAMES)], index("t2m"), axis=0)
    assert (others == 2.0).all()  # nothing was compared with them


def test_rejected_values_count_so_that_no_estimate_shuts_out_what_contradicts_it():
    estimate = everywhere(np.full(len(NAMES), 0.1))
    for seed in range(40):
        table, departure = departures((5.0, 5.0), seed=seed)
        code = np.full(len(table), REASONS.index("background_check"))
        rejected = table.assign(reason=pd.Categorical.from_codes(code, dtype=table["reason"].dtype))
        estimate = estimate.after(rejected, departure, estimate.at_rows(table))
    assert estimate.std[index("t2m")] == pytest.approx(np.full(len(BANDS), 5.0), rel=0.3)


def test_an_error_that_is_stated_too_large_does_not_make_the_estimate_vanish():
    table, departure = departures((0.0, 0.0))
    estimate = everywhere(np.full(len(NAMES), 1.0))
    for _ in range(50):
        estimate = estimate.after(table, departure / 10, estimate.at_rows(table))
    assert estimate.std[index("t2m")] == pytest.approx(np.full(len(BANDS), 0.5))


def test_without_observations_the_estimate_stays():
    table, _ = departures((1.0, 1.0))
    estimate = everywhere(np.full(len(NAMES), 1.0))
    for rows in (slice(0), slice(None)):
        none = estimate.after(table[rows], np.full(len(table[rows]), np.nan), estimate.at_rows(table[rows]))
        assert (none.std == estimate.std).all()


def test_a_record_holds_the_estimate():
    std = BackgroundError(np.random.default_rng(0).uniform(1e-8, 1e4, (len(NAMES) + 2, len(BANDS))))
    again = BackgroundError.from_dict(std.as_dict())
    np.testing.assert_allclose(again.std, std.std, rtol=1e-3)
    assert again.as_dict() == std.as_dict()


def backgrounds(count):
    """Yield world, time and background of the packaged model's forecasts of a day, six hours apart."""
    world, model = load_world("demonstration"), load_model("mini")
    for time in world.reference.times[4 : 4 + count]:
        frames = [world.reference.array(when)[None] for when in (time - STEP, time)]
        forecast = next(islice(model.forecast(*frames, 4), 3, None))
        yield world, time + 4 * STEP, forecast[0]


def test_gross_errors_are_rejected_and_good_values_are_kept():
    """Of 8 to 25 standard errors, planted in one value in fifty, with backgrounds of 24 h."""
    sources = ("stations", "sondes")
    generator, error = np.random.default_rng(0), None
    passed, lost = [], []
    for world, time, state in backgrounds(12):
        made = [build_source({"source": name, "cutoff": "none", "gross_rate": 0.0}, world, 1) for name in sources]
        table, window = concatenate([source.read(Window(time))[0] for source in made]), Window(time, None)
        planted = generator.random(len(table)) < 0.02
        size = generator.uniform(8, 25, len(table)) * generator.choice([-1, 1], len(table))
        table["value"] += np.where(planted, size * table["error"], 0.0)
        model = equivalents(table, state, world.grid, world.orography)
        at_rows = partial(quality.background_at_rows, table, model, grid=world.grid, orography=world.orography)
        selection = quality.Selection(share=0, checks=quality.CYCLE_CHECKS)
        if error is None:
            error = quality.first_estimate(first_guess(world, time), table, window, at_rows, selection)
        background = at_rows(error)
        checked = quality.check(table, window, background, selection)
        error = error.after(checked, table["value"].to_numpy() - model, background.error)
        meant = checked["variable"].isin(["z", "t", "msl", "t2m"]).to_numpy() & np.isfinite(model)
        passed.append((checked["use"] == "assimilated").to_numpy()[planted & meant])
        lost.append((checked["reason"] == "background_check").to_numpy()[~planted & np.isfinite(model)])
    assert np.concatenate(passed).mean() < 0.02
    assert np.concatenate(lost).mean() < 0.002
