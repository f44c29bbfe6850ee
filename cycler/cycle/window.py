"""What a method with a window needs of the cycles before: frames, backgrounds and superobs, as committed."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.assimilators.base import Assimilator, Past, has_window
from dacycle.cycler.archive.branches import Branch
from dacycle.cycler.archive.frames import StoredFrames
from dacycle.cycler.cycle.inputs import Inputs
from dacycle.cycler.experiment import STEP
from dacycle.obs_ingest.superobs import grid_observations

__all__ = ["with_past"]


def with_past(
    method: Assimilator,
    inputs: Inputs,
    past: Branch,
    frames: StoredFrames,
    time: pd.Timestamp,
    start: tuple[NDArray, NDArray],
    longest: bool = True,
) -> Assimilator:
    """Return the assimilator of a cycle, which knows its past if the method has a window; else the method itself.

    Args:
        method: the experiment's.
        inputs: of the experiment.
        past, frames: of the cycles before.
        time: of the cycle.
        start: the two frames (69, H, W) that its background comes from.
        longest: whether a window longer than 6 h may be used: not where the cycle begins from a background. Neither is
            it in the first cycle, before which there is none.
    """
    if not has_window(method):
        return method
    frames_of = inputs.experiment.frames or 0.0
    share = 0.0 if frames_of == "smoothed" else frames_of  # methods with members correct the older frame themselves
    first = time - method.steps * STEP
    if method.steps == 1 or not longest or first - STEP < past.times[0]:
        return method.with_past(Past(*start, share=share, bias=_bias(inputs, [time])))
    within = [time - k * STEP for k in range(method.steps - 1, 0, -1)]
    backgrounds = [past.state("background", at).values for at in within]
    observations = [_superobs(inputs, past, *cycle) for cycle in zip(within, backgrounds, strict=True)]
    bias = _bias(inputs, [*within, time])
    return method.with_past(Past(*frames.pair(first), observations, share, bias, backgrounds))


def _bias(inputs: Inputs, times: Sequence[pd.Timestamp]) -> list[NDArray]:
    """Return the mean error (69, H, W) of the steps to some times, where the experiment removes it."""
    bias = inputs.model_bias
    return [] if bias is None else [bias.at(np.datetime64(time, "h")) for time in times]


def _superobs(inputs: Inputs, past: Branch, time: pd.Timestamp, background: NDArray) -> tuple[NDArray, NDArray]:
    """Return values and errors (69 + M, H, W) of what a committed cycle with this background assimilated.

    Departures are those that it committed, so that a run that is killed and goes on gets the same.

    Raises:
        ArchiveError: its table is missing or damaged.
    """
    planes = inputs.assimilator.planes
    for _, table in past.departures_between(time, time):
        gridded = grid_observations(
            table, table["background"].to_numpy(), background, inputs.observation_grid, planes,
            inputs.world.statistics.std, inputs.experiment.error_table(),
        )  # fmt: skip
        return gridded.values, gridded.errors
    nothing = np.zeros((len(background) + len(planes), *background.shape[1:]), np.float32)
    return nothing, nothing
