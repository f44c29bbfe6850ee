"""The inputs of an experiment, loaded once and checked to belong together before anything runs."""

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from glob import glob
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.assimilators.base import Assimilator, AssimilatorError, load_assimilator, removes_model_bias
from dacycle.assimilators.incremental import Incremental
from dacycle.cycler.experiment import STEP, Experiment, ExperimentError, cycle_id
from dacycle.forecast_adapter.grid import Grid, GridError, conservative_average, get_grid, regridding
from dacycle.forecast_adapter.models.fengwu import RELEASES
from dacycle.forecast_adapter.models.model import ForecastModel, ModelFileError, OnnxForecastModel, load_model
from dacycle.forecast_adapter.state import StateError
from dacycle.forecast_adapter.states.products import open_states
from dacycle.forecast_adapter.worlds.model_bias import ModelBias, ModelBiasError, bias_file
from dacycle.forecast_adapter.worlds.reference import ReferenceDataError
from dacycle.forecast_adapter.worlds.relaxation import Relaxation
from dacycle.forecast_adapter.worlds.world import World, WorldError, load_world
from dacycle.obs_ingest.operators.learned import LearnedOperator, load_operator
from dacycle.obs_ingest.quality.control import Checks
from dacycle.obs_ingest.sources.base import Source, build_source, error_kind
from dacycle.obs_ingest.table import VARIABLES, ObservationError

__all__ = ["Inputs", "absent_files", "cold_start", "cold_start_times", "load_inputs"]


@dataclass(frozen=True)
class Inputs:
    """Hold an experiment with its world, forecast model, assimilator, learned operator, sources and their checks.

    `model_bias` is the mean error of the model, where the experiment removes it, and `relaxation` that of backgrounds,
    where it has one.
    """

    experiment: Experiment
    world: World
    model: ForecastModel
    assimilator: Assimilator
    sources: tuple[Source, ...]
    operator: LearnedOperator | None
    checks: Checks
    model_bias: ModelBias | None = None
    relaxation: Relaxation | None = None

    def corrected(self, forecasts: NDArray, time: pd.Timestamp) -> NDArray:
        """Return forecasts (..., 69, H, W) of one step to `time` as backgrounds.

        They are without the mean error if it is removed, and drawn towards climate where there is a relaxation.
        """
        at, bias = np.datetime64(time, "h"), self.model_bias
        unbiased = forecasts if bias is None else bias.removed(forecasts, at)
        return unbiased if self.relaxation is None else self.relaxation(unbiased, at)

    def waiting(self, longer: pd.Timedelta) -> "Inputs":
        """Return the inputs of a cycle that is run so much later, which takes what has come since, too."""
        sources = tuple(copy(source) for source in self.sources)
        for source in sources:
            source.cutoff = None if source.cutoff is None else source.cutoff + longer
        return replace(self, sources=sources)

    @property
    def observation_grid(self) -> Grid:
        """Return the grid on which the assimilator is given observations."""
        return self.assimilator.inner.grid if isinstance(self.assimilator, Incremental) else self.assimilator.grid

    def for_observations(self, state: NDArray) -> NDArray:
        """Return a state (69, H, W) of the world's grid on the grid of the observations."""
        source, target = self.world.grid, self.observation_grid
        return state if target.matches(source) else conservative_average(state, source, target)

    @property
    def positions(self) -> list[tuple[float, float]]:
        """Return latitude and longitude of all sites on the lists of those sources that have one."""
        lists = [getattr(source, "positions", ()) for source in self.sources]
        return [(round(float(a), 4), round(float(b) % 360, 4)) for sites in lists for a, b in sites]

    @property
    def moving(self) -> list[str]:
        """Return the names of the sources whose places change from cycle to cycle: of ships, aircraft, motion vectors.

        Their withheld places are not remembered: they would soon fill the lanes and the surroundings of airports.
        """
        return [spec.name for spec in self.experiment.observations if error_kind(spec.model_dump())]

    @property
    def mismatch(self) -> str:
        """Return what is wrong with the pairing of model and world; empty if the model was made for the world."""
        model, world = self.model, self.world
        if world.takes(model.world):
            return ""
        kind = f", whose reference is {world.reference_kind}" if world.reference_kind else ""
        return f"model {model.name} was made for {model.world!r}, not for the world {world.name!r}{kind}"

    @property
    def digests(self) -> dict[str, str]:
        """Return the SHA-256 of the experiment and of the files that it uses."""
        files = {"operator": self.operator, "model_bias": self.model_bias}
        return {
            "experiment": self.experiment.digest,
            "model": self.model.digest,
            "assimilator": self.assimilator.digest,
        } | {key: file.digest for key, file in files.items() if file is not None}


def load_inputs(experiment: Experiment, threads: int = 1, like: Inputs | None = None) -> Inputs:
    """Load what an experiment names.

    Args:
        experiment: the experiment.
        threads: threads of model and assimilator; other numbers round differently.
        like: inputs of another experiment with as many threads; what both name alike is not loaded again.

    Raises:
        ExperimentError: something is unknown, unreadable, of another grid or of another world; the message names it.
    """
    name = experiment.name
    try:
        world = load_world(experiment.world)
        same = _Same(like, experiment)
        model = same("model", lambda: load_model(experiment.model, threads))
        operator = same("operator", lambda: load_operator(experiment.operator, world, threads))
        assimilator = same("assimilator", lambda: _load_assimilator(experiment, world, model, operator, threads))
        sources = same("sources", lambda: _build_sources(experiment, world))
        checks = experiment.quality.checks()
        bias = same("model_bias", lambda: _load_bias(model) if experiment.model_bias else None)
    except (WorldError, GridError, ModelFileError, ModelBiasError, AssimilatorError, ObservationError) as error:
        raise ExperimentError(f"experiment {name}: {error}") from error
    inputs = Inputs(
        experiment,
        world,
        model,
        assimilator,
        sources,
        operator,
        checks,
        bias,
        Relaxation.of(world, experiment.relaxation),
    )
    problems = [
        *_mixed(inputs),
        *_unpaired(inputs),
        *_bias_twice(inputs),
        *_unknown_denials(inputs),
        *_unknown_errors(inputs),
        *_uncovered(inputs),
    ]
    if problems:
        raise ExperimentError("\n".join(f"experiment {name}: {problem}" for problem in problems))
    return inputs


_DEPEND_ON: dict[str, tuple[str, ...]] = {
    "model": ("model",),
    "assimilator": (
        *("world", "model", "operator", "assimilator"),
        *("ensemble", "tuning", "variational", "assimilation_grid"),
    ),
    "operator": ("world", "operator"),
    "sources": ("world", "observations", "seed"),
    "model_bias": ("model", "model_bias"),
}
"""The keys of an experiment that decide each of its inputs."""

Loaded = TypeVar("Loaded")


@dataclass(frozen=True)
class _Same:
    """Take inputs of another experiment where the keys that decide them are alike."""

    like: Inputs | None
    experiment: Experiment

    def __call__(self, name: str, load: Callable[[], Loaded]) -> Loaded:
        keys, like = _DEPEND_ON[name], self.like
        if like is None or any(getattr(like.experiment, key) != getattr(self.experiment, key) for key in keys):
            return load()
        loaded: Loaded = getattr(like, name)
        return loaded


def _build_sources(experiment: Experiment, world: World) -> tuple[Source, ...]:
    specs = [source.model_dump(mode="json") for source in experiment.observations]
    return tuple(build_source(spec, world, experiment.seed) for spec in specs)


def _load_assimilator(
    experiment: Experiment, world: World, model: ForecastModel, operator: LearnedOperator | None, threads: int
) -> Assimilator:
    """Return the assimilator on the world's grid, if need be with increments from a coarser grid."""
    load = partial(
        load_assimilator,
        experiment.assimilator,
        threads=threads,
        tuning=None if experiment.tuning is None else experiment.tuning.model_dump(exclude_none=True),
        variational=experiment.variational,
    )
    if experiment.assimilation_grid in (None, world.grid.name):
        return load(world=world, ensemble=experiment.members, model=model, operator=operator)
    return Incremental(load(world=world.on(get_grid(experiment.assimilation_grid))), world.grid)


def _load_bias(model: ForecastModel) -> ModelBias:
    """Return the mean error of a model, from the file beside its own.

    Raises:
        ModelBiasError: there is none, or it was made from forecasts of another model.
    """
    if not isinstance(model, OnnxForecastModel):
        raise ModelBiasError(f"model_bias: model {model.name} has no file, beside which its mean error would be")
    path = bias_file(model.path)
    bias = ModelBias.load(path)
    if bias.model != model.digest or not bias.grid.matches(model.grid):
        raise ModelBiasError(f"{path}: is the mean error of another model than {model.name}; make it anew")
    return bias


def _bias_twice(inputs: Inputs) -> list[str]:
    """Return a problem where the assimilator removes the model's mean error, which the cycle has removed before it."""
    if inputs.model_bias is None or not removes_model_bias(inputs.assimilator):
        return []
    return [
        f"model_bias: {inputs.assimilator.name} removes the model's mean error itself, and it would be removed twice; "
        "leave model_bias out"
    ]


def _unpaired(inputs: Inputs) -> list[str]:
    """Return a problem where the model was made for other states than those of the reference."""
    mismatch = inputs.mismatch
    if not mismatch or inputs.experiment.unpaired_model:
        return []
    kind = inputs.world.reference_kind
    better = [name for name, release in RELEASES.items() if kind and release.made_for == kind]
    instead = f"; for it there is {' or '.join(better)}" if better else ""
    return [f"{mismatch}{instead}. To run it all the same, say `unpaired_model: true`, which is recorded"]


def _mixed(inputs: Inputs) -> list[str]:
    """Return problems where model or assimilator belong to another grid or world."""
    experiment, world = inputs.experiment, inputs.world
    networks: dict[str, ForecastModel | Assimilator] = {"model": inputs.model, "assimilator": inputs.assimilator}
    grids = {"world": world.grid.name, **{key: network.grid.name for key, network in networks.items()}}
    problems = [
        f"grid is {experiment.grid}, but the {key}'s is {grid}"
        for key, grid in grids.items()
        if grid != experiment.grid
    ]
    if inputs.assimilator.world != world.name:
        name, other = inputs.assimilator.name, inputs.assimilator.world
        problems.append(f"assimilator {name} carries the statistics of world {other!r}, not of {world.name!r}")
    return problems


def _unknown_denials(inputs: Inputs) -> list[str]:
    """Return problems where an entry of `deny` would deny nothing."""
    names = [source.name for source in inputs.sources]
    if len(names) != len(set(names)):
        return [f"observations: two sources have one name ({', '.join(names)}); give them a `name` each"]
    deniable = {*names, *VARIABLES, *(f"{name}:{variable}" for name in names for variable in VARIABLES)}
    return [
        f"deny: {name!r} is no source ({', '.join(names)}), variable ({', '.join(VARIABLES)}) or SOURCE:VARIABLE"
        for name in inputs.experiment.deny
        if name not in deniable
    ]


def _unknown_errors(inputs: Inputs) -> list[str]:
    """Return problems where `errors` names a source that the experiment has not."""
    names = [source.name for source in inputs.sources]
    return [
        f"errors: {key!r} is of no source of this experiment ({', '.join(names)})"
        for key in inputs.experiment.errors or {}
        if ":" in key and key.rpartition(":")[0] not in names
    ]


def _uncovered(inputs: Inputs) -> list[str]:
    """Return a problem where the reference lacks times that the cold start needs."""
    needed = _reference_times(inputs.experiment)
    missing = inputs.world.reference.missing([np.datetime64(time, "h") for time in needed])
    if not missing:
        return []
    listed = ", ".join(str(time) for time in missing)
    return [f"cold_start needs the reference at {listed}; {inputs.world.reference.absence(missing[0])}"]


def absent_files(experiment: Experiment) -> dict[str, str]:
    """Return a sentence for each source that has none of its files: a run would continue without that source."""
    absent = {}
    for source in experiment.observations:
        options = source.model_extra or {}
        path = options.get("path")
        if isinstance(path, str) and "://" not in path and not Path(path).is_dir() and not glob(path, recursive=True):
            name = options.get("name", source.source)
            absent[name] = f"source {name}: there is no {Path(path).absolute()}" + _how_to_simulate(experiment)
    return absent


def _how_to_simulate(experiment: Experiment) -> str:
    """Return how observations are simulated; empty in a world whose observations are real."""
    try:
        simulated = not load_world(experiment.world).reference_kind
    except WorldError:
        return ""
    hint = "; if it is to hold simulated observations, `dacycle simulate EXPERIMENT.yaml` makes them"
    return hint if simulated else ""


def cold_start_times(experiment: Experiment) -> tuple[pd.Timestamp, pd.Timestamp]:
    """Return the two times before the first cycle."""
    return experiment.start - 2 * STEP, experiment.start - STEP


def _reference_times(experiment: Experiment) -> tuple[pd.Timestamp, ...]:
    lag = experiment.cold_start.lagged
    if lag is None:
        return ()
    last = experiment.start - STEP - lag
    return last - STEP, last


def cold_start(inputs: Inputs) -> NDArray[np.float32]:
    """Return the two frames (2, 69, H, W), SI, that precede the first cycle.

    Raises:
        ExperimentError: what `cold_start.state` names lacks a time or a field, or holds an implausible one.
    """
    start = inputs.experiment.cold_start
    times = [np.datetime64(time, "h") for time in cold_start_times(inputs.experiment)]
    if start.lagged is not None:
        return _lagged(inputs, start.lagged)
    if start.state is not None:
        return _from_product(inputs, start.state, times[1:] * 2 if start.one_frame else times)
    return np.stack([inputs.world.climatology.at(time) for time in times])


def _lagged(inputs: Inputs, lag: pd.Timedelta) -> NDArray[np.float32]:
    """Return the last two frames of a forecast of length `lag` that starts from the reference."""
    try:
        frames = [
            inputs.world.reference.array(np.datetime64(t, "h"))[None] for t in _reference_times(inputs.experiment)
        ]
    except ReferenceDataError as error:
        raise ExperimentError(f"experiment {inputs.experiment.name}: cold_start: {error}") from error
    forecast = [state[0] for state in inputs.model.forecast(frames[0], frames[1], lag // STEP)]
    return np.stack(forecast[-2:])


def _from_product(inputs: Inputs, path: str, times: list[np.datetime64]) -> NDArray[np.float32]:
    try:
        source, grid = open_states(path), inputs.world.grid
        if regridding(source.grid, grid) == "bilinear":
            shape = " x ".join(map(str, source.grid.shape))
            raise StateError(f"{path}: a grid of {shape} is coarser than {grid.name}; a start needs one as fine")
        return np.stack([source.state(time, grid).values for time in times])
    except StateError as error:
        needs = " and ".join(cycle_id(pd.Timestamp(time)) for time in dict.fromkeys(times))
        where = f"experiment {inputs.experiment.name}: cold_start.state (needs {needs})"
        raise ExperimentError(f"{where}: {error}") from error
