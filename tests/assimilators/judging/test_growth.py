"""Growth of small errors, from pairs of runs and a model whose growth is known."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from dacycle.assimilators.judging import growth
from dacycle.assimilators.judging.growth import measure_growth
from dacycle.forecast_adapter.channels import CHANNEL_COUNT
from dacycle.forecast_adapter.worlds.reference import ReferenceDataError
from tests.worlds import GRID

STEPS = 4 * growth.TWIN_DAYS
SINE = np.sin(np.deg2rad(GRID.latitude))[:, None] * np.ones(GRID.shape[1])  # total wavenumber 1
SECTORAL = np.cos(np.deg2rad(GRID.latitude))[:, None] ** 8 * np.cos(8 * np.deg2rad(GRID.longitude))  # 8


class Runs:
    """Hold two pairs: the twin differs by a large wave that doubles in two days and one of wavenumber 8 in half."""

    def __init__(self, folder: Path) -> None:
        self.twin, self.grid = folder.name == "twin", GRID
        self.times = np.datetime64("2022-01-01T00") + 6 * np.arange(2 * STEPS)

    def array(self, time: np.datetime64) -> NDArray[np.float32]:
        k = int((time - self.times[0]) / np.timedelta64(6, "h"))
        state = np.full(GRID.shape, 100.0)
        if self.twin:
            pair, days = 1 + k // STEPS, (k % STEPS) / 4
            state = state + pair * (2 ** (days / 2) * SINE + 0.1 * 2**days * SECTORAL)
        return np.broadcast_to(state, (CHANNEL_COUNT, *GRID.shape)).astype(np.float32)


class Growing:
    """Double the departures from 100 in 4 days."""

    grid = GRID

    def forecast(self, previous: NDArray, current: NDArray, steps: int) -> Iterator[NDArray[np.float32]]:
        for _ in range(steps):
            current = 100 + (current - 100) * np.float32(2 ** (1 / 16))
            yield current


def test_doubling_times_by_scale_of_the_pairs_and_of_a_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(growth, "Reference", Runs)
    found = measure_growth(Growing(), tmp_path)
    assert found.pairs == 2
    nature, model = found.doubling_days(found.nature), found.doubling_days(found.model)
    np.testing.assert_allclose(nature[0], 2, rtol=1e-3)
    np.testing.assert_allclose(nature[1], 1, rtol=1e-2)
    np.testing.assert_allclose(model[:2], 4, rtol=1e-2)
    # Both begin a day after the perturbation; the sine has a mean square of 1/3.
    np.testing.assert_allclose(found.nature[0, 0], found.model[0, 0])
    np.testing.assert_allclose(found.nature[0, 0], np.sqrt(2) * 2 ** (0.75 / 2) / np.sqrt(3), rtol=1e-2)
    assert len(found.nature) == len(found.model) == 41  # ten days


def test_a_folder_whose_runs_are_no_pairs_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(growth, "TWIN_DAYS", 10)
    monkeypatch.setattr(growth, "Reference", Runs)
    with pytest.raises(ReferenceDataError, match=r"no pairs of 10 days.*nature-run FOLDER --pairs"):
        measure_growth(Growing(), tmp_path)
