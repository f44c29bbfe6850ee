"""Observations of one cycle: read through windows and cutoffs, checked, counted, put on the grid, compared."""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from dacycle.cycler.cycle.inputs import Inputs
from dacycle.cycler.experiment import Experiment
from dacycle.obs_ingest.errors.station_bias import StationBias
from dacycle.obs_ingest.operators.columns import equivalents
from dacycle.obs_ingest.quality import control as quality
from dacycle.obs_ingest.sources.base import Inventory
from dacycle.obs_ingest.superobs import GriddedObservations, grid_observations
from dacycle.obs_ingest.table import (
    REASONS,
    USES,
    VARIABLES,
    ObservationError,
    add_departures,
    concatenate,
    to_arrow,
)
from dacycle.obs_ingest.window import Window

__all__ = ["Observed", "collect", "with_departures"]

LONGEST = 24
"""Hours that a mean or sum may cover to be compared with the states of several cycles."""

Watch = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True)
class Observed:
    """The observations of a cycle.

    Attributes:
        table: n rows after quality control, those not assimilated too.
        background: (n,) H(x_b), NaN where there is no operator.
        gridded: superobs of the assimilated rows.
        inventories: what each source found, by its name.
        failures: sentences about sources that could not be read.
        remarks: sentences about sources of which some files could not be read.
        digest: SHA-256 of the table as read, before quality control.
        earlier: the states before the cycle's frames that means and sums over more than 6 h are compared with.
    """

    table: pd.DataFrame
    background: NDArray[np.float64]
    gridded: GriddedObservations
    inventories: dict[str, dict[str, Any]]
    failures: list[str]
    remarks: list[str]
    digest: str
    earlier: Sequence[NDArray] = ()

    def counts(self) -> dict[str, dict[str, Any]]:
        """Numbers of values: `uses`, `reasons`, and `variables` by variable and use."""
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
    time: pd.Timestamp,
    previous: NDArray,
    background: NDArray,
    background_error: float,
    watch: Watch,
    bias: StationBias | None = None,
    states: Callable[[int], Sequence[NDArray]] = lambda _: (),
) -> Observed:
    """Everything that the sources have for a cycle, decided on against its background.

    A source that cannot be read costs the cycle that source, not the cycle: its complaint is in `failures`. A file that
    cannot be read costs it that file, which `remarks` says and the inventory names.

    Args:
        inputs: of the experiment.
        time: the analysis time.
        previous, background: (69, H, W) the analysis 6 h before, and x_b.
        background_error: standard deviation that the background check assumes, in the world's of each channel.
        watch: takes the time of the stages.
        bias: of the stations, taken off their values before anything is judged.
        states: gives the analyses before `previous`, every 6 h, oldest first: at most so many as it is asked for.

    Raises:
        ReferenceDataError: simulated observations cannot be drawn, the reference lacks a time.
    """
    world, experiment, operator = inputs.world, inputs.experiment, inputs.operator
    when = np.datetime64(time, "h")
    tables, inventories, failures, remarks = [], {}, [], []
    with watch("observations"):
        for source in inputs.sources:
            try:
                table, inventory = source.read(Window(when, source.cutoff))
                tables.append(table)
            except ObservationError as error:
                inventory = Inventory(source.name, problems=[str(error)])
                failures.append(f"source {source.name} could not be read: {error}")
            if inventory.unreadable:
                remarks.append(f"source {source.name}: unreadable files: {inventory.unreadable}")
            inventories[source.name] = inventory.as_dict()
        table = concatenate(tables)
        digest = _digest(table)
    if bias is not None:
        table = bias.remove(table)
    assumed = experiment.error_table()
    earlier = states(_states_before(table, experiment)) if operator is not None else ()
    with watch("quality"):
        first_guess = equivalents(table, previous, background, world.grid, world.orography, operator, earlier)
        learned_error = None
        if operator is not None:
            learned_error = operator.background_error(table, previous, background, background_error, earlier)
        table = quality.check(
            assumed.restate(table),
            Window(when),
            first_guess,
            background_error * world.statistics.std,
            world.grid,
            world.orography,
            cutoffs={source.name: source.cutoff for source in inputs.sources},
            deny=experiment.deny,
            share=experiment.withhold,
            planes=inputs.assimilator.planes,
            checks=inputs.checks,
            learned_error=learned_error,
        )
    with watch("superobs"):
        gridded = grid_observations(
            table, first_guess, inputs.for_observations(background), inputs.observation_grid,
            inputs.assimilator.planes, world.statistics.std, assumed,
        )  # fmt: skip
    return Observed(table, first_guess, gridded, inventories, failures, remarks, digest, earlier)


def with_departures(observed: Observed, inputs: Inputs, previous: NDArray, analysis: NDArray) -> pd.DataFrame:
    """The table with H(x_b), H(x_a), O-B and O-A of every row.

    Args:
        observed: of the cycle.
        inputs: of the experiment.
        previous, analysis: (69, H, W) the analysis 6 h before, and x_a.
    """
    world = inputs.world
    after = equivalents(
        observed.table, previous, analysis, world.grid, world.orography, inputs.operator, observed.earlier
    )
    return add_departures(observed.table, observed.background, after)


def _states_before(table: pd.DataFrame, experiment: Experiment) -> int:
    """How many states before the cycle's two frames the longest mean of OLR or sum of precipitation needs.

    None where a source centres its means on the analysis time: half of their period is still to come.
    """
    if any(getattr(source, "centred", False) for source in experiment.observations):
        return 0
    over = table["variable"].isin(["tp", "olr"]).to_numpy() & (table["period"].to_numpy() <= LONGEST)
    return int(table["period"].to_numpy()[over].max(initial=6) // 6) - 1


def _digest(table: pd.DataFrame) -> str:
    content = to_arrow(table).drop_columns(["use", "reason"])  # nothing is decided yet
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, content.schema) as writer:
        writer.write_table(content)
    return hashlib.sha256(sink.getvalue()).hexdigest()
