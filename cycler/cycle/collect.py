"""Observations of one cycle, once they are read: checked, counted, put on the grid, compared.

`run_cycle.run_cycle` calls `collect` before the analysis and `with_departures` after it.
"""

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.cycler.archive.frames import StoredFrames
from dacycle.cycler.cycle.inputs import Inputs
from dacycle.cycler.cycle.readings import Reading, Readings
from dacycle.cycler.experiment import Experiment
from dacycle.obs_ingest.errors.station_bias import StationBias
from dacycle.obs_ingest.operators.columns import equivalents
from dacycle.obs_ingest.operators.learned import LearnedFields
from dacycle.obs_ingest.quality import control as quality
from dacycle.obs_ingest.quality.background_error import BackgroundError, first_guess
from dacycle.obs_ingest.quality.withheld import chosen_sites
from dacycle.obs_ingest.superobs import GriddedObservations, grid_observations
from dacycle.obs_ingest.table import REASONS, USES, VARIABLES, add_departures
from dacycle.obs_ingest.window import Window

__all__ = ["Observed", "collect", "with_departures"]

LONGEST = 24
"""The longest period, in hours, of a mean or sum that is compared with the states of several cycles."""

Position = tuple[float, float]
Watch = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True)
class Observed:
    """The observations of a cycle.

    Attributes:
        table: n rows after quality control, with those that are not assimilated.
        background_equivalents: (n,) H(x_b), NaN where there is no operator.
        background_error: of the background, as quality control assumed it.
        next_error: the estimate of it after this cycle, which the next one assumes.
        gridded: superobs of the assimilated rows.
        new_sites: latitude and longitude of withheld sites that neither a list nor a past cycle names.
        reading: what the sources had.
        intervals: fields of a learned operator for the six hours before the analysis time and for those before them,
            newest first; none without an operator.
    """

    table: pd.DataFrame
    background_equivalents: NDArray[np.float64]
    background_error: BackgroundError
    next_error: BackgroundError
    gridded: GriddedObservations
    new_sites: list[Position]
    reading: Reading
    intervals: Sequence[LearnedFields] = ()

    def counts(self) -> dict[str, dict[str, Any]]:
        """Count values: `uses`, `reasons`, and `variables` by variable and use."""
        use, reason, variable = (self.table[name].array.codes for name in ("use", "reason", "variable"))
        by_variable = np.zeros((len(VARIABLES), len(USES)), int)
        np.add.at(by_variable, (variable, use), 1)
        return {
            "uses": dict(zip(USES, by_variable.sum(0).tolist(), strict=True)),
            "reasons": {
                name: n
                for name, n in zip(REASONS, np.bincount(reason, minlength=len(REASONS)).tolist(), strict=True)
                if n and name
            },
            "variables": {
                name: dict(zip(USES, row.tolist(), strict=True))
                for name, row in zip(VARIABLES, by_variable, strict=True)
                if row.any()
            },
        }


def collect(
    inputs: Inputs,
    readings: Readings,
    time: pd.Timestamp,
    frames: StoredFrames,
    background: NDArray,
    background_error: BackgroundError | None,
    watch: Watch,
    seen: Collection[Position] = (),
    bias: StationBias | None = None,
) -> Observed:
    """Check the observations of a cycle against its background.

    Args:
        inputs: of the experiment.
        readings: of its sources.
        time: the analysis time.
        frames: the stored analyses; those from 6 h before the analysis time backwards are read, where an operator needs
            them.
        background: (69, H, W) x_b.
        background_error: of the background, as the cycles before have found it; None: it is estimated from the
            departures of this cycle.
        watch: measures the time of each stage.
        seen: latitude and longitude of the withheld sites of past cycles.
        bias: of the stations, subtracted from their values before quality control.

    Raises:
        ReferenceDataError: simulated observations cannot be drawn because the reference lacks a time.
    """
    world, experiment, operator = inputs.world, inputs.experiment, inputs.operator
    when = np.datetime64(time, "h")
    with watch("observations"):
        reading = readings.of(inputs, time)
    table = reading.table
    if bias is not None:
        table = bias.remove(table)
    assumed = experiment.error_table()
    states = [] if operator is None else [*frames.before(time, _intervals(table, experiment)), background]
    with watch("quality"):
        intervals = [] if operator is None else operator.intervals(states)
        background_equivalents = equivalents(table, background, world.grid, world.orography, intervals)
        selection = quality.Selection(
            cutoffs={source.name: source.cutoff for source in inputs.sources},
            deny=experiment.deny,
            share=experiment.withhold,
            network=np.array([*inputs.positions, *seen], float).reshape(-1, 2),
            regions=experiment.withhold_regions or 0.0,
            planes=inputs.assimilator.planes,
            checks=inputs.checks,
        )
        table, window = assumed.with_equivalents(assumed.restate(table), background_equivalents), Window(when)
        at_rows = partial(_at_rows, inputs, table, background_equivalents, intervals)
        if background_error is None:
            guess = first_guess(world, when)
            background_error = quality.first_estimate(guess, table, window, at_rows, selection)
        expected = at_rows(background_error)
        table = quality.check(table, window, expected, selection)
        departures = table["value"].to_numpy() - background_equivalents
        next_error = background_error.after(table, departures, expected.error)
    with watch("superobs"):
        gridded = grid_observations(
            table, background_equivalents, inputs.for_observations(background), inputs.observation_grid,
            inputs.assimilator.planes, world.statistics.std, assumed,
        )  # fmt: skip
    known = {*inputs.positions, *seen}
    standing = table[~table["source"].isin(inputs.moving)]
    chosen = [(latitude, longitude) for latitude, longitude in chosen_sites(standing, experiment.withhold).tolist()]
    return Observed(
        table,
        background_equivalents,
        background_error,
        next_error,
        gridded,
        [position for position in chosen if position not in known],
        reading,
        intervals,
    )


def _at_rows(
    inputs: Inputs,
    table: pd.DataFrame,
    background_equivalents: NDArray,
    intervals: Sequence[LearnedFields],
    error: BackgroundError,
) -> quality.BackgroundAtRows:
    """Return what quality control needs of the background at the rows, for an error of the background."""
    grid, operator = inputs.world.grid, inputs.operator
    learned = None if operator is None else operator.background_error(table, intervals, error.planes(grid))
    return quality.background_at_rows(table, background_equivalents, error, grid, inputs.world.orography, learned)


def with_departures(observed: Observed, inputs: Inputs, previous: NDArray, analysis: NDArray) -> pd.DataFrame:
    """Return the table with H(x_b), H(x_a), O-B and O-A of every row.

    Args:
        observed: of the cycle.
        inputs: of the experiment.
        previous, analysis: (69, H, W) the analysis 6 h before, and x_a.
    """
    world, operator = inputs.world, inputs.operator
    # Only the newest interval ends at the analysis; the others are the same as for the background.
    intervals = [] if operator is None else [operator(previous, analysis), *observed.intervals[1:]]
    analysis_equivalents = equivalents(observed.table, analysis, world.grid, world.orography, intervals)
    return add_departures(observed.table, observed.background_equivalents, analysis_equivalents)


def _intervals(table: pd.DataFrame, experiment: Experiment) -> int:
    """Return how many intervals of 6 h the longest mean of OLR or sum of precipitation covers.

    It is 1 where a source centres its means on the analysis time, because half of their period is still to come.
    """
    if any(getattr(source, "centred", False) for source in experiment.observations):
        return 1
    period = table["period"].to_numpy()
    compared = table["variable"].isin(["tp", "olr"]).to_numpy() & (period <= LONGEST)
    return int(period[compared].max(initial=6) // 6)
