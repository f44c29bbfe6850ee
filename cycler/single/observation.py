"""Assimilate one observation and return its increment: the single-observation experiment.

The increment shows how far an assimilator spreads an observation, and how it changes other variables and levels. The
observation passes through the same operator, superob and assimilator as in a cycle. The guards are left out, because
clipping humidity would add increments that the observation did not make.
"""

import re
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.assimilators.judging.evaluation import Influence, influence
from dacycle.cycler.archive.branches import Archive, ArchiveError
from dacycle.cycler.cycle.inputs import Inputs, cold_start, load_inputs
from dacycle.cycler.experiment import Experiment, ExperimentError, cycle_id
from dacycle.forecast_adapter.channels import CHANNELS, LEVELS, NAMES
from dacycle.forecast_adapter.grid import cells, interpolate_to_points
from dacycle.forecast_adapter.physics import GRAVITY
from dacycle.forecast_adapter.worlds.world import World
from dacycle.obs_ingest.errors.model import standard_error
from dacycle.obs_ingest.operators.columns import equivalents
from dacycle.obs_ingest.superobs import grid_observations
from dacycle.obs_ingest.table import LEVEL_VARIABLES, UNITS, VARIABLES, ObservationError, make_table, site_names

__all__ = ["Background", "Observation", "Response", "archived", "first_guess", "parse_quantity", "respond", "unit_of"]

_OBSERVABLE = ("t2m", "msl", "ps", "u10", "v10", *LEVEL_VARIABLES)
_FACTORS: dict[str, dict[str, float]] = {
    "K": {"K": 1.0},
    "Pa": {"Pa": 1.0, "hPa": 100.0},
    "m s-1": {"m/s": 1.0},
    "m2 s-2": {"m2/s2": 1.0, "gpm": GRAVITY},
    "kg kg-1": {"kg/kg": 1.0, "g/kg": 1e-3},
}


def unit_of(variable: str) -> str:
    """Return the SI unit of a variable; raise ObservationError where it has no observation operator."""
    if variable not in _OBSERVABLE:
        raise ObservationError(f"{variable!r} has no observation operator; {', '.join(_OBSERVABLE)} have one")
    return UNITS[variable]


def parse_quantity(text: str, unit: str, what: str) -> float:
    """Convert a number with its unit, such as `1.5K` or `-2 hPa`, to SI; a number without a unit is an error.

    Args:
        text: as typed.
        unit: the SI unit wanted, as in `table.UNITS`.
        what: name of the quantity, for the message.

    Raises:
        ObservationError: there is no number, or no unit that converts to `unit`.
    """
    factors = _FACTORS[unit]
    match = re.fullmatch(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(\S+)\s*", text)
    if match is None or match[2] not in factors:
        raise ObservationError(f"{what} is {text!r}; write it as a number with its unit: {' or '.join(factors)}")
    return float(match[1]) * factors[match[2]]


@dataclass(frozen=True)
class Observation:
    """Describe the observation by its difference from the background.

    Attributes:
        variable: one with an observation operator.
        latitude, longitude: degrees.
        departure: O-B, SI.
        pressure: Pa; None at the surface.
        error: one standard deviation, SI; None: the usual one of the variable (`errors.model.ERRORS`).
    """

    variable: str
    latitude: float
    longitude: float
    departure: float
    pressure: float | None = None
    error: float | None = None

    def __post_init__(self) -> None:
        aloft = self.variable in LEVEL_VARIABLES
        checks = [
            (abs(self.latitude) <= 90, f"latitude {self.latitude:g} is outside [-90, 90]"),
            (-180 <= self.longitude <= 360, f"longitude {self.longitude:g} is outside [-180, 360]"),
            (not aloft or self.pressure is not None, f"{self.variable} is aloft and needs a pressure"),
            (aloft or self.pressure is None, f"{self.variable} is at the surface and takes no pressure"),
            (self.error is None or 0 < self.error < np.inf, f"its error is {self.error}, not above 0"),
            (0 < abs(self.departure) < np.inf, f"its departure is {self.departure:g}"),
        ]
        for fulfilled, problem in checks:
            if not fulfilled:
                raise ObservationError(f"single observation: {problem}")


@dataclass(frozen=True, eq=False)
class Background:
    """Hold the state x_b (69, H, W), SI, at a time (UTC); `origin` says where it comes from."""

    time: pd.Timestamp
    state: NDArray[np.float32]
    origin: str


@dataclass(frozen=True, eq=False)
class Response:
    """Hold the increment of one observation.

    Attributes:
        observation: as given.
        error: its error as used, SI.
        background: the background of the analysis.
        increment: (69, H, W) analysis minus background, SI.
        row, column: the grid cell of the observation.
        channel: the channel observed there.
        left: O-A, SI.
        distance_km: the increment should be close to 0 beyond this distance.
        influences: by channel, peaks in SI.
    """

    observation: Observation
    error: float
    background: Background
    increment: NDArray[np.float64]
    row: int
    column: int
    channel: str
    left: float
    distance_km: float
    influences: dict[str, Influence]

    def table(self, std: NDArray) -> pd.DataFrame:
        """Return a row per channel, sorted by the peak in the world's standard deviations (`std`), largest first.

        Columns: channel, unit, peak (SI, signed), peak_sd, peak_away_km, half_peak_km, beyond (share of the peak).
        """
        rows = [
            {
                "channel": name,
                "unit": CHANNELS[i].unit,
                "peak": float(self.increment[i, reach.row, reach.column]),
                "peak_sd": reach.peak / float(std[i]),
                "peak_away_km": reach.away_km,
                "half_peak_km": reach.half_km,
                "beyond": reach.beyond,
            }
            for i, (name, reach) in enumerate(self.influences.items())
        ]
        return pd.DataFrame(rows).sort_values("peak_sd", ascending=False, kind="stable", ignore_index=True)


def _inputs(experiment: Experiment, threads: int) -> Inputs:
    """Load what an experiment runs with, but its sources, whose files need not be there."""
    return load_inputs(experiment.model_copy(update={"observations": (), "deny": ()}), threads)


def archived(
    experiment: Experiment, archive: Archive, name: str, time: pd.Timestamp | None, threads: int
) -> tuple[Inputs, Background]:
    """Load what an experiment runs with, and the background of a committed cycle; by default of the last one.

    Raises:
        ArchiveError: there is no such branch or cycle.
        ExperimentError: the branch is of another world.
    """
    inputs, branch = _inputs(experiment, threads), archive.branch(name)
    if (branch.experiment.world, branch.experiment.grid) != (experiment.world, experiment.grid):
        other = f"{branch.experiment.world} on {branch.experiment.grid}"
        raise ExperimentError(f"branch {name} is of world {other}, not {experiment.world} on {experiment.grid}")
    cycles = branch.times[2:]  # the first two are the cold start's, without a background
    if not len(cycles) or (time is not None and time not in cycles):
        span = f"{cycle_id(cycles[0])} to {cycle_id(cycles[-1])}" if len(cycles) else "none yet"
        raise ArchiveError(f"{archive.folder}: {name} has no cycle {time and cycle_id(time)}; it has {span}")
    time = cycles[-1] if time is None else time
    return inputs, Background(time, branch.state("background", time).values, f"{name} in {archive.folder}")


def first_guess(experiment: Experiment, time: pd.Timestamp | None, threads: int) -> tuple[Inputs, Background]:
    """Load what an experiment runs with, and the background of its first cycle if it started at `time`.

    Raises:
        ExperimentError: the cold start has no states for that time.
    """
    if experiment.cold_start.from_ is not None:
        raise ExperimentError(f"experiment {experiment.name} goes on from another one: give --archive for a background")
    moved = experiment.model_copy(update={"start": time or experiment.start})
    inputs = _inputs(moved, threads)
    before, previous = cold_start(inputs)
    state = next(iter(inputs.model.forecast(before[None], previous[None], 1)))[0]
    return inputs, Background(moved.start, state, f"{experiment.model} from the cold start")


def respond(
    inputs: Inputs, background: Background, observation: Observation, distance_km: float | None = None
) -> Response:
    """Assimilate one observation.

    Args:
        inputs: of the experiment.
        background: of the same grid.
        observation: what is observed.
        distance_km: beyond this the increment should be close to 0; None: the reach that the assimilator states.

    Raises:
        ObservationError: the observation has no operator there, or the assimilator makes no increment of it.
    """
    world, assimilator = inputs.world, inputs.assimilator
    distance = distance_km or getattr(assimilator, "reach_km", None)
    if distance is None:
        raise ObservationError(f"assimilator {assimilator.name} states no reach: say beyond which distance is far")
    table = _table(observation, background.time, world)
    background_equivalents = equivalents(table, background.state, world.grid, world.orography)
    if not np.isfinite(background_equivalents[0]):
        raise ObservationError(f"single observation: {_why_not(observation)}")
    error = observation.error or float(
        standard_error(observation.variable, background_equivalents, table["pressure"])[0]
    )
    table["value"], table["error"] = background_equivalents + observation.departure, error
    grid, on_grid = inputs.observation_grid, inputs.for_observations(background.state)
    gridded = grid_observations(table, background_equivalents, on_grid, grid, assimilator.planes, world.statistics.std)
    k, y, x = (int(i) for i in np.argwhere(gridded.errors > 0)[0])
    row, column = (int(i) for i in cells(world.grid, grid.latitude[y], grid.longitude[x]))
    analysis = assimilator.analyse(background.state[None], gridded.values[None], gridded.errors[None]).state[0]
    increment = analysis.astype(np.float64) - background.state
    if not increment.any():
        raise ObservationError(
            f"assimilator {assimilator.name} makes no increment of {observation.variable} at this place"
        )
    after = equivalents(table, analysis, world.grid, world.orography)
    influences = {
        name: influence(field, world.grid, row, column, distance) for name, field in zip(NAMES, increment, strict=True)
    }
    left = float(table["value"].iloc[0] - after[0])
    return Response(observation, error, background, increment, row, column, NAMES[k], left, distance, influences)


def _table(observation: Observation, time: pd.Timestamp, world: World) -> pd.DataFrame:
    """Return a table of one row, at the height of the model's ground; value and error are placeholders."""
    times, latitude, longitude = (np.array([x]) for x in (time, observation.latitude, observation.longitude))
    return make_table(
        time=times,
        period=0.0,
        received=times,
        site=site_names(latitude, longitude),
        station=pd.Categorical(["single"]),
        latitude=latitude,
        longitude=longitude,
        elevation=interpolate_to_points(world.orography, world.grid, latitude, longitude),
        pressure=np.nan if observation.pressure is None else observation.pressure,
        variable=np.array([VARIABLES.index(observation.variable)]),
        value=np.zeros(1),
        error=np.ones(1),
        source="single",
    )


def _why_not(observation: Observation) -> str:
    """Say why there is no H(x_b)."""
    pressure = observation.pressure
    if pressure is not None and not LEVELS[0] <= pressure / 100 <= LEVELS[-1]:
        return f"pressure {pressure / 100:g} hPa is outside {LEVELS[0]} to {LEVELS[-1]} hPa"
    place = f"{observation.latitude:g} {observation.longitude:g}"
    return f"{observation.variable} is not compared at {place}: beyond the last row of cells before a pole, or too high"
