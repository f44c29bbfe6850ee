"""The forecast that a cycle begins with: of one chain, or of the members of an ensemble around it.

A member is the state of the chain plus a perturbation. Perturbations belong to an analysis and are committed with it;
with `frames: smoothed` those of the older frame, too.
What is drawn depends on the experiment's seed and the cycle's time only, so that a cycle run again is the same.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.assimilators.base import Assimilator, EnsembleAssimilator, OlderFrame
from dacycle.cycler.archive.frames import StoredFrames
from dacycle.cycler.archive.members import MEMBERS, Smoothed, around
from dacycle.cycler.archive.writer import Writer
from dacycle.cycler.cycle.inputs import Inputs
from dacycle.cycler.experiment import STEP, Experiment, ExperimentError, cycle_id
from dacycle.forecast_adapter.models.frames import older_frame, with_increment
from dacycle.forecast_adapter.state import StateError, check_array

__all__ = ["Forecast", "forecast", "older_to_keep", "refuse_other_members", "with_members"]

_FIRST, _MODEL_ERROR, _OBSERVATIONS = range(3)
"""What is drawn."""
_REPLACED = 0.1
"""Share of the members that may be replaced in one cycle."""


@dataclass(frozen=True, eq=False)
class Forecast:
    """Hold the background of a cycle.

    Attributes:
        state: (69, H, W).
        members: (N, 69, H, W) perturbations of it; None without members.
        older: (N, 69, H, W) perturbations of the frame 6 h before, from which those were forecast.
        replaced: why members are not what the model forecast; empty where all are.
    """

    state: NDArray
    members: NDArray | None = None
    older: NDArray | None = None
    replaced: str = ""


def forecast(
    inputs: Inputs, frames: StoredFrames, older: NDArray, newer: NDArray, time: pd.Timestamp, afresh: bool
) -> Forecast:
    """Return the background at `time`.

    The mean error of the model is taken off, and a relaxation applied, where the experiment says so. A member that is
    not plausible gets the mean of the others, so that one of many does not cost the cycle its analysis.

    Args:
        inputs: of the experiment.
        frames: what is stored. Where it has no perturbations of the frames, the first ones are drawn.
        older, newer: (69, H, W) the frames of the chain.
        time: 6 h after the newer frame.
        afresh: draw new perturbations, whatever there is.

    Raises:
        ForecastError, StateError: the forecast is not finite or, with members, more than a tenth are not plausible.
    """
    method = inputs.assimilator
    if not isinstance(method, EnsembleAssimilator):
        return Forecast(_one(inputs, older, newer, time))
    experiment = inputs.experiment
    before, now = (None, None) if afresh else frames.perturbations(time - STEP)
    if before is None or now is None:
        first = method.first_members(_generator(experiment, time if afresh else experiment.start, _FIRST))
        before, now = (first, first) if now is None else (first, now)  # both of one ensemble
    forecasts = next(iter(inputs.model.forecast(around(older, before), around(newer, now), 1)))
    forecasts = inputs.corrected(forecasts, time)
    forecasts, replaced = _plausible(forecasts, inputs, time)
    mean, members = method.background(forecasts, _generator(experiment, time, _MODEL_ERROR))
    return Forecast(_one(inputs, older, newer, time) if method.controlled else mean, members, now, replaced)


def _plausible(forecasts: NDArray, inputs: Inputs, time: pd.Timestamp) -> tuple[NDArray, str]:
    """Return forecasts (N, 69, H, W) with the mean of the others in place of members that are not plausible, and why.

    Raises:
        StateError: they are more than `_REPLACED` of all.
    """
    failures: dict[int, StateError] = {}
    for number, state in enumerate(forecasts):
        try:
            check_array(
                state, inputs.world.grid, f"{inputs.experiment.name}, forecast of member {number + 1}, {cycle_id(time)}"
            )
        except StateError as error:
            failures[number] = error
    if len(failures) > _REPLACED * len(forecasts):
        raise StateError(f"{len(failures)} of {len(forecasts)} members: {next(iter(failures.values()))}")
    if not failures:
        return forecasts, ""
    kept = forecasts.copy()
    kept[list(failures)] = np.delete(forecasts, list(failures), axis=0).mean(axis=0)
    return kept, "; ".join(f"{error}: it got the mean of the others" for error in failures.values())


def _one(inputs: Inputs, older: NDArray, newer: NDArray, time: pd.Timestamp) -> NDArray:
    """Return the forecast (69, H, W) of one chain, which no other one in a batch can round differently."""
    return inputs.corrected(next(iter(inputs.model.forecast(older[None], newer[None], 1)))[0], time)


def refuse_other_members(inputs: Inputs, writer: Writer) -> None:
    """Raise ExperimentError where analyses before have another number of members, as after a fork: a branch has one."""
    method, kept = inputs.assimilator, writer.archive.states.times(writer.name, MEMBERS)
    if not isinstance(method, EnsembleAssimilator) or not len(kept):
        return
    newest = pd.Timestamp(kept[-1])
    members = writer.members(newest)
    if members is not None and len(members) != method.size:
        raise ExperimentError(
            f"experiment {writer.name}: ensemble.members is {method.size}, but the analysis {cycle_id(newest)} of its "
            f"past has {len(members)}; take as many"
        )


def with_members(inputs: Inputs, time: pd.Timestamp, background: Forecast) -> Assimilator:
    """Return the assimilator of a cycle with this background, which knows its members where there are some."""
    method = inputs.assimilator
    if background.members is None or not isinstance(method, EnsembleAssimilator):
        return method
    older = background.older if inputs.experiment.frames == "smoothed" else None
    return method.with_members(background.members, _generator(inputs.experiment, time, _OBSERVATIONS), older)


def older_to_keep(
    inputs: Inputs, previous: NDArray, background: Forecast, older: OlderFrame | None, newer: NDArray | None
) -> Smoothed | None:
    """Return the older frame of the next forecast, with its members, where it is to be kept; else None.

    It is kept with `frames: smoothed`, and where the frame before is no analysis of the branch.

    Args:
        inputs: of the experiment.
        previous: (69, H, W) the frame 6 h before the analysis, from which the background was forecast.
        background: of the cycle.
        older: what the analysis says of that frame; without it the frame stays as it was.
        newer: (69, H, W) the analysis, where the frame before is not in the branch.
    """
    share = inputs.experiment.frames
    if share != "smoothed" or background.older is None:
        if newer is None:
            return None
        kept = previous if share == "smoothed" else older_frame(previous, background.state, newer, share)
        return Smoothed(kept, background.older)
    if older is None:
        return Smoothed(previous, background.older)
    return Smoothed(with_increment(previous, older.increment), older.members)


def _generator(experiment: Experiment, time: pd.Timestamp, what: int) -> np.random.Generator:
    return np.random.default_rng([experiment.seed, int(time.timestamp()) // 3600, what])
