"""The forecast that a cycle begins with: of one chain, or of the members of an ensemble around it.

A member is the state of the chain plus a perturbation. Perturbations belong to an analysis and are committed with it.
What is drawn depends on the experiment's seed and the cycle's time only, so that a cycle run again is the same.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.assimilators.base import Assimilator, EnsembleAssimilator
from dacycle.cycler.archive.branches import Writer
from dacycle.cycler.archive.members import around
from dacycle.cycler.cycle.inputs import Inputs
from dacycle.cycler.experiment import STEP, Experiment, ExperimentError, cycle_id
from dacycle.forecast_adapter.state import check_array

__all__ = ["forecast", "refuse_other_members", "with_members"]

_FIRST, _MODEL_ERROR, _OBSERVATIONS = range(3)
"""What is drawn."""


def forecast(
    inputs: Inputs, writer: Writer, older: NDArray, newer: NDArray, time: pd.Timestamp, afresh: bool
) -> tuple[NDArray, NDArray | None]:
    """Return the background at `time`, (69, H, W), and the perturbations of its members, (N, 69, H, W) or None.

    Args:
        inputs: of the experiment.
        writer: holds the perturbations of the frames; where it has none, the first ones are drawn.
        older, newer: (69, H, W) the frames of the chain.
        time: 6 h after the newer frame.
        afresh: draw new perturbations, whatever there is.

    Raises:
        ForecastError, StateError: the forecast is not finite or, with members, one of them is not plausible.
    """
    method = inputs.assimilator
    if not isinstance(method, EnsembleAssimilator):
        return _one(inputs, older, newer), None
    experiment = inputs.experiment

    def perturbations(at: pd.Timestamp) -> NDArray:
        kept = None if afresh else writer.members(at)
        if kept is not None:
            return kept
        return method.first_members(_generator(experiment, time if afresh else experiment.start, _FIRST))

    before, now = around(older, perturbations(time - 2 * STEP)), around(newer, perturbations(time - STEP))
    forecasts = next(iter(inputs.model.forecast(before, now, 1)))
    for number, state in enumerate(forecasts, 1):
        check_array(state, inputs.world.grid, f"{experiment.name}, forecast of member {number}, {time:%Y-%m-%dT%H}")
    mean, found = method.background(forecasts, _generator(experiment, time, _MODEL_ERROR))
    return _one(inputs, older, newer) if method.controlled else mean, found


def _one(inputs: Inputs, older: NDArray, newer: NDArray) -> NDArray:
    """Return the forecast (69, H, W) of one chain, which no other one in a batch can round differently."""
    return next(iter(inputs.model.forecast(older[None], newer[None], 1)))[0]


def refuse_other_members(inputs: Inputs, writer: Writer) -> None:
    """Raise ExperimentError where the newest analysis has another number of members, as after a fork."""
    method, newest = inputs.assimilator, writer.times[-1]
    members = writer.members(newest) if isinstance(method, EnsembleAssimilator) else None
    if members is not None and isinstance(method, EnsembleAssimilator) and len(members) != method.size:
        raise ExperimentError(
            f"experiment {writer.name}: ensemble.members is {method.size}, but the analysis {cycle_id(newest)} that it "
            f"goes on from has {len(members)}; take as many"
        )


def with_members(inputs: Inputs, time: pd.Timestamp, perturbations: NDArray | None) -> Assimilator:
    """Return the assimilator of a cycle whose background has these perturbations, which are None without members."""
    method = inputs.assimilator
    if perturbations is None or not isinstance(method, EnsembleAssimilator):
        return method
    return method.with_members(perturbations, _generator(inputs.experiment, time, _OBSERVATIONS))


def _generator(experiment: Experiment, time: pd.Timestamp, what: int) -> np.random.Generator:
    return np.random.default_rng([experiment.seed, int(time.timestamp()) // 3600, what])
