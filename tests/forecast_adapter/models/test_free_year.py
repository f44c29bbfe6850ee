"""A year of `mini-2` without analyses: alone, and with the relaxation that its cycles have (docs/mini.md).

python -m pytest -m trial -n0 -s tests/forecast_adapter/models/test_free_year.py     # two minutes of processor time
"""

import numpy as np
import pytest

from dacycle.forecast_adapter.channels import HEADLINE, index
from dacycle.forecast_adapter.models.model import load_model
from dacycle.forecast_adapter.state import STEP, check_array
from dacycle.forecast_adapter.worlds.relaxation import Relaxation, RelaxationSettings
from dacycle.forecast_adapter.worlds.world import load_world

STEPS, MONTH = 1440, 120


@pytest.mark.trial
@pytest.mark.parametrize("relaxed", [False, True])
def test_a_year_stays_plausible_and_with_the_relaxation_it_keeps_climate_and_seasons(relaxed: bool) -> None:
    world, model = load_world("demonstration"), load_model("mini-2")
    settings = RelaxationSettings(tropics="8d", elsewhere="17d") if relaxed else None
    relaxation = Relaxation.of(world, settings)
    channels = [index(name) for name in HEADLINE]
    time = world.reference.times[9]
    older, newer = (world.reference.array(time - lag * STEP)[None] for lag in (1, 0))
    states, climate = [], []
    for _ in range(STEPS):
        time += STEP
        older, newer = newer, next(iter(model.forecast(older, newer, 1)))
        if relaxation is not None:
            newer = relaxation(newer, time)
        check_array(newer[0], world.grid, f"a year of mini-2, {time}")
        states.append(newer[0, channels])
        climate.append(world.climatology.at(time)[channels])
    months, usual = (np.reshape(x, (-1, MONTH, *states[0].shape)).mean(axis=1) for x in (states, climate))
    off = ((months - usual).mean(axis=0) * world.grid.weights).mean(axis=(1, 2)) / world.statistics.std[channels]
    t2m = HEADLINE.index("t2m")
    distances = (np.square(months[:, None, t2m] - usual[None, :, t2m]) * world.grid.weights).mean(axis=(2, 3))
    nearest = distances.argmin(axis=1)
    print(f"\nrelaxed: {relaxed}; global means off (sd): {dict(zip(HEADLINE, off.round(3), strict=True))}; {nearest}")
    if relaxed:
        assert np.abs(off).max() < 0.1
        assert np.abs((nearest - np.arange(len(nearest)) + 6) % 12 - 6).max() <= 1
