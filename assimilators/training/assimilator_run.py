"""The training run of an assimilator: on errors of forecasts, then in rounds on those of its own cycles.

Its folder holds, beside the files of every run (`training.folder`):
    round-0/        learning curve and checkpoint of the training on forecast errors
    round-1/ ...    the same for each closed-loop round; of a prior also the errors of its cycles
    rounds.csv      error of each round's network in cycles of the validation year, and whether it was accepted
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import lightning
import numpy as np
import torch
from numpy.typing import NDArray

from dacycle.assimilators.base import load_assimilator
from dacycle.assimilators.exceptions import DataError, RecipeError, TrainingError
from dacycle.assimilators.networks import METHODS
from dacycle.assimilators.networks.adapter import Adapted
from dacycle.assimilators.networks.blocks.base import Constants
from dacycle.assimilators.networks.blocks.departures import DepartureSize
from dacycle.assimilators.networks.blocks.planes import UPDATES
from dacycle.assimilators.networks.weights import begin_with_file
from dacycle.assimilators.sampling.backgrounds import (
    CYCLED,
    Backgrounds,
    held_out,
    joined,
    months_of,
    read_store,
    systematic_error,
    within_years,
    year_times,
)
from dacycle.assimilators.sampling.cycled_backgrounds import Cycling, make_chains
from dacycle.assimilators.sampling.cycles import DROPPED, LAG, cycled_errors
from dacycle.assimilators.sampling.observing import Observing, observing_of
from dacycle.assimilators.sampling.planes import planes_in, true_planes
from dacycle.assimilators.training.assimilation import (
    PREFETCH,
    AssimilationTraining,
    TorchAssimilator,
    cycled_model,
    takes_recent,
    typical_errors,
)
from dacycle.assimilators.training.closed_loop import EVERY, ClosedLoop
from dacycle.assimilators.training.data import check_complete, hour_weights, load_states, preload, season_weights
from dacycle.assimilators.training.folder import (
    begin_run,
    check_folder,
    load_average,
    read_constants,
    read_record,
    read_record_of,
    read_rows,
    write_record,
    write_rows,
)
from dacycle.assimilators.training.loop import checkpoint_of, minutes_of, run_epochs
from dacycle.assimilators.training.module import Training
from dacycle.assimilators.training.prior import PriorTraining
from dacycle.assimilators.training.recipe import AssimilatorRecipe, network_size
from dacycle.assimilators.training.samples import Samples
from dacycle.forecast_adapter.channels import HEADLINE, NAMES, PLANES, index
from dacycle.forecast_adapter.grid import Grid
from dacycle.forecast_adapter.models.mini import static_planes
from dacycle.forecast_adapter.models.model import load_model
from dacycle.forecast_adapter.state import STEP
from dacycle.forecast_adapter.worlds.reference import Reference
from dacycle.forecast_adapter.worlds.relaxation import Relaxation
from dacycle.forecast_adapter.worlds.world import World, load_world

__all__ = [
    "accepted_round",
    "build_network",
    "fit_assimilator",
    "load_round",
    "read_assimilator_run",
    "run_assimilator",
    "train_assimilator",
]

logger = logging.getLogger(__name__)

HELD_OUT_STARTS = 12
"""Forecasts of the validation year whose backgrounds a training is validated with."""
EXACT = 0.5
"""Error of idealised observations, in units of the backgrounds' usual error."""
KEPT = 16
"""States in the memory of a process, where the recipe says `in_memory: false`."""
PLANE_STATES = 100
"""States that planes are normalised by, and that their operator is fitted to."""


def train_assimilator(recipe: AssimilatorRecipe, folder: Path) -> Path:
    """Train the assimilator of a recipe in `folder`, or resume its run. Returns the accepted checkpoint.

    Raises:
        RecipeError: another recipe's run is in the folder, or method or size are unknown.
        DataError: the years or the backgrounds are incomplete, not finite, on another grid or of another model.
        AssimilatorError: the file whose weights the training begins with is missing, or of another world.
        TrainingError: the loss is no longer a number.
    """
    check_folder(recipe, folder)
    world = load_world(recipe.world)
    if recipe.weights:
        load_assimilator(recipe.weights, world)  # before all the data are read
    backgrounds = _checked_store(recipe, world)
    logger.info("%d backgrounds; reading %s", len(backgrounds.times), recipe.data)
    reference = Reference(recipe.data, kept=None if recipe.in_memory else KEPT)
    years = (*recipe.training_years, *recipe.validation_years)
    planes = planes_in(reference, reference.times_of(years))
    check = preload if recipe.in_memory else check_complete
    for year in recipe.training_years:
        check(reference, year_times(year), world.grid)
    observing = observing_of(world, reference, recipe.observations, planes, recipe.optional)
    return fit_assimilator(recipe, folder, observing, backgrounds, _held_out(recipe, world, planes))


def fit_assimilator(
    recipe: AssimilatorRecipe,
    folder: Path,
    observing: Observing,
    backgrounds: Backgrounds,
    validation: Samples,
    operator_updates: int = UPDATES,
) -> Path:
    """Train as `train_assimilator` does, on data already in memory.

    Args:
        recipe: its settings.
        folder: of the run.
        observing: draws observations from the reference of its world, which is the truth; its planes are trained with.
        backgrounds: of the training years.
        validation: samples of the validation year.
        operator_updates: of the operator that the network compares planes with.
    """
    begin_run(recipe, folder)
    constants = _constants(observing, backgrounds)
    network = build_network(recipe, observing.world.grid, constants, observing.planes)
    write_record(
        recipe, folder, observing.world, constants, network, backgrounds.digest(), recipe.samples, observing.planes
    )
    rounds = _Rounds(recipe, folder, observing, backgrounds, validation, operator_updates)
    for number in range(recipe.rounds + 1):
        if _gained_little(folder, number, recipe.least_gain):
            logger.info("round %d gained less than %g: the last", number - 1, recipe.least_gain)
            break
        rounds.train(number)
        rounds.judge(number)
    return checkpoint_of(folder / f"round-{accepted_round(folder)}")


def build_network(
    recipe: AssimilatorRecipe, grid: Grid, constants: Constants, planes: tuple[str, ...] = tuple(PLANES)
) -> Any:
    """Return the network of a recipe for some observation planes, with fresh weights.

    Raises:
        RecipeError: method or size are unknown, or the grid is unfit.
    """
    if recipe.method not in METHODS:
        raise RecipeError(f"method: {recipe.method!r} is unknown; the methods are {', '.join(METHODS)}")
    if any(count % 2 for count in grid.shape) or np.abs(grid.latitude).max() == 90:
        raise RecipeError(
            f"world: its grid is {grid.name}, but networks need an even number of rows and columns, none at a pole: "
            "1.40625deg, or ROWSxCOLUMNS such as 120x240"
        )
    method = METHODS[recipe.method]
    network = method.network(grid, constants, network_size(method.size, recipe.network), planes)
    if isinstance(network, Adapted) != bool(recipe.base):
        raise RecipeError(f"base: {recipe.method} has none" if recipe.base else f"base: {recipe.method} needs one")
    return network


def load_round(folder: Path, number: int, sizes: Mapping[str, int | str] = MappingProxyType({})) -> Any:
    """Return the network that a round of a run made, in evaluation mode.

    Args:
        folder: of the run.
        number: of the round.
        sizes: entries of the recipe's `network` to change, such as the steps of an iterative method.

    Raises:
        RecipeError: a size is unknown, or decides the shape of weights.
    """
    recipe, record = read_record_of(AssimilatorRecipe, folder)
    constants = Constants(**read_constants(folder))
    planes = tuple(record.get("planes", PLANES))
    changed = recipe.model_copy(update={"network": {**recipe.network, **sizes}})
    network = build_network(changed, load_world(recipe.world).grid, constants, planes)
    try:
        load_average(network, checkpoint_of(folder / f"round-{number}"))
    except RuntimeError as error:
        with_sizes = f" with {dict(sizes)}" if sizes else ""
        raise RecipeError(f"{folder}: its weights are not those of its recipe's network{with_sizes}") from error
    return network.eval()


def run_assimilator(folder: Path, world: World, sizes: Mapping[str, int | str]) -> TorchAssimilator:
    """Return the accepted network of a run, not yet exported, as an assimilator; `sizes` as in `load_round`.

    Raises:
        RecipeError: the run is for another world.
    """
    _, record = read_record(folder)
    if record["world"] != world.name:
        raise RecipeError(f"{folder}: it is trained for the world {record['world']!r}, this is {world.name!r}")
    return TorchAssimilator(load_round(folder, accepted_round(folder), sizes), world.grid, world.name)


def read_assimilator_run(folder: Path) -> tuple[AssimilatorRecipe, dict[str, Any], Any]:
    """Return recipe, record and accepted network of a run. Raises TrainingError where no round is finished."""
    recipe, record = read_record_of(AssimilatorRecipe, folder)
    network = load_round(folder, accepted_round(folder))
    record["rounds"] = _finished_rounds(folder)
    record["samples"] = recipe.samples_of(len(record["rounds"]) - 1)
    record["minutes"] = round(sum(minutes_of(curve.parent) for curve in sorted(folder.glob("round-*/curve.csv"))))
    return recipe, record, network


def accepted_round(folder: Path) -> int:
    """Return the number of the round whose network has the least error in cycles so far."""
    return _best_before(folder, len(_finished_rounds(folder)))


def _best_before(folder: Path, number: int) -> int:
    accepted = [int(row["round"]) for row in _finished_rounds(folder)[:number] if row["accepted"] == "yes"]
    if not accepted:
        raise TrainingError(f"{folder}: no round is finished yet; see `dacycle train`")
    return accepted[-1]


def _gained_little(folder: Path, number: int, least: float) -> bool:
    """Whether the round before a number lowered the cycled error of all before it by less than a share."""
    errors = [float(row["cycled_error"]) for row in _finished_rounds(folder)[:number]]
    return least > 0 and len(errors) > 1 and errors[-1] > (1 - least) * min(errors[:-1])


def _finished_rounds(folder: Path) -> list[dict[str, str]]:
    """Return the rows of `rounds.csv`, in order."""
    return read_rows(folder / "rounds.csv")


def _held_out(recipe: AssimilatorRecipe, world: World, planes: tuple[str, ...]) -> Samples:
    """Return samples of the validation year: forecasts from times spread over it, all of the network observed."""
    reference = Reference(Path(recipe.data) / str(recipe.validation_years[0]))
    backgrounds = held_out(load_model(recipe.model), reference, world, HELD_OUT_STARTS)
    order, unused = np.arange(len(backgrounds.times)), np.zeros(len(NAMES), np.float32)
    observing = observing_of(world, reference, recipe.observations, planes, recipe.optional)
    return Samples(backgrounds, observing, order, recipe.seed, unused, whole=True)


def _checked_store(recipe: AssimilatorRecipe, world: World) -> Backgrounds:
    """Return the backgrounds of the training years. DataError where a month is missing or the model is another."""
    for folder in recipe.stores:
        missing = [month for month in months_of(recipe.training_years) if not (folder / f"{month}.nc").exists()]
        if missing:
            raise DataError(
                f"{folder}: no backgrounds of {missing[0]} ({len(missing)} months missing); see `dacycle backgrounds`"
            )
    backgrounds = read_store(recipe.stores, world, recipe.training_years)
    folders = ", ".join(map(str, recipe.stores))
    if (backgrounds.leads == CYCLED).all():
        raise DataError(f"{folders}: backgrounds of cycles alone; those of forecasts are needed too")
    maker = recipe.backgrounds_of or recipe.model
    if backgrounds.model != load_model(maker).digest:
        raise DataError(f"{folders}: backgrounds of another model than {maker}; see `dacycle backgrounds`")
    return backgrounds


def _constants(observing: Observing, backgrounds: Backgrounds) -> Constants:
    """Return the statistics of the world, of the backgrounds' errors and of the planes."""
    world, times = observing.world, _some_times(backgrounds)
    states = [load_states(world.reference, times, world.grid, world.statistics)]
    season = season_weights(states)
    hour = hour_weights(states, season, world.land_fraction)
    planes = true_planes(world, times, observing.planes)
    is_rain = [plane == "tp6h" for plane in observing.planes]
    planes[:, is_rain] = np.log1p(planes[:, is_rain])
    return Constants(
        mean=world.statistics.mean,
        std=world.statistics.std,
        error=typical_errors(backgrounds, world.grid.weights),
        plane_mean=planes.mean((0, 2, 3)),
        plane_std=planes.std((0, 2, 3)),
        static=static_planes(world.grid.latitude, world.orography, world.land_fraction),
        season=season,
        hour=hour,
        bias=systematic_error(backgrounds, daily=hour is not None).astype(np.float32),
    )


def _some_times(backgrounds: Backgrounds) -> NDArray[np.datetime64]:
    """Return about `PLANE_STATES` times of the training years, in all seasons, and at all hours: every n-th, n odd."""
    times = np.unique(backgrounds.times)
    return times[:: len(times) // PLANE_STATES | 1]


@lru_cache(maxsize=1)
def _cycling(run: Path, number: int, data: str) -> Cycling:
    """Return what makes chains with a round of a run in its training years; loaded once a process."""
    recipe, record = read_record_of(AssimilatorRecipe, run)
    world = load_world(recipe.world)
    observing = observing_of(world, Reference(data), recipe.observations, tuple(record["planes"]), recipe.optional)
    method = TorchAssimilator(load_round(run, number), world.grid, world.name)
    torch.set_num_threads(recipe.threads if recipe.workers == 1 else 1)
    return Cycling(method, cycled_model(recipe, world), observing)


def _begin_with(network: Adapted, base: str) -> None:
    """Give an adapter the network of a run as its base. RecipeError where it is of another method, size or form."""
    _, _, trained = read_assimilator_run(Path(base))
    try:
        network.begin_with(trained)
    except RuntimeError as error:
        raise RecipeError(f"base: {base} is of another method, or of another size than `network` says") from error
    for name in (field.name for field in fields(DepartureSize) if hasattr(trained.size, field.name)):
        theirs, ours = getattr(trained.size, name), getattr(network.size, name)
        if theirs != ours:
            raise RecipeError(f"base: {base} was trained with network.{name} {theirs!r}, and this recipe has {ours!r}")


@dataclass(frozen=True)
class _Rounds:
    """Train and judge the rounds of a run; attributes as the arguments of `fit_assimilator`."""

    recipe: AssimilatorRecipe
    folder: Path
    observing: Observing
    backgrounds: Backgrounds
    validation: Samples
    operator_updates: int

    def train(self, number: int) -> None:
        """Train one round: the first from fresh weights, the others in the closed loop from the accepted ones."""
        recipe, area = self.recipe, self.observing.world.grid.weights
        constants = Constants(**read_constants(self.folder))
        lightning.seed_everything(recipe.seed, verbose=False)
        network = self._initial_network(number, constants)
        recent = takes_recent(network)
        epochs, rate = (
            (recipe.round_epochs, recipe.round_learning_rate) if number else (recipe.epochs, recipe.learning_rate)
        )

        loss, first = METHODS[recipe.method].loss, len(self.backgrounds.times)
        backgrounds = self._with_own_cycles(number) if number and loss is None else self.backgrounds

        def open_loop(epoch: int) -> Samples:
            generator = np.random.default_rng([recipe.seed, number, epoch])
            order = np.resize(generator.permutation(first), recipe.epoch_samples)
            if len(backgrounds.times) > first:
                own = first + generator.permutation(len(backgrounds.times) - first)
                order[1::EVERY] = np.resize(own, len(order[1::EVERY]))
            seed = self._seed(number) + epoch
            return Samples(backgrounds, self.observing, order, seed, EXACT * constants.error, mixed=recipe.mixed)

        def samples(epoch: int) -> Samples | ClosedLoop:
            others = open_loop(epoch)
            ahead = recipe.batch * (PREFETCH * recipe.workers + 1)
            if number == 0:
                return others
            relaxation = Relaxation.of(self.observing.world, recipe.relaxation)
            return ClosedLoop(others, recipe.model, ahead, 4 * recipe.chain_days, recipe.frames, relaxation, recent)

        module: Training = (
            PriorTraining(network, recipe, area, open_loop, self.validation, epochs, rate)
            if loss is None
            else AssimilationTraining(network, loss, recipe, area, samples, self.validation, epochs, rate)
        )
        run_epochs(module, self.folder / f"round-{number}", epochs)

    def _seed(self, number: int) -> int:
        """Return the first of a thousand seeds of a round."""
        return 1000 * (1000 * self.recipe.seed + number)

    def _with_own_cycles(self, number: int) -> Backgrounds:
        """Return the backgrounds, and those of cycles with the network that a round of a prior begins with.

        There are as many cycles as a closed loop would have, in chains as long as those that judge the round.
        """
        recipe, world, folder = self.recipe, self.observing.world, self.folder / f"round-{number}/cycles"
        cycles = 4 * recipe.validation_days
        chains = -(-recipe.round_epochs * recipe.epoch_samples // (EVERY * (cycles - DROPPED)))
        starts = np.unique(self.backgrounds.times)
        whole = within_years(world.reference, starts - (LAG + 2) * STEP, starts + (cycles - 1) * STEP)
        if not whole.any():
            raise DataError(f"{world.reference.folder}: too short for chains of {cycles} cycles")
        starts = starts[whole][np.linspace(0, whole.sum() - 1, chains).astype(int)]
        cycling = partial(_cycling, self.folder, _best_before(self.folder, number), recipe.data)
        make_chains(cycling, folder, starts, cycles, self._seed(number), recipe.workers)
        return joined([self.backgrounds, read_store(folder, world)])

    def _initial_network(self, number: int, constants: Constants) -> Any:
        """Return the network that a round begins with."""
        network = build_network(self.recipe, self.observing.world.grid, constants, self.observing.planes)
        if isinstance(network, Adapted):
            network.freeze_base(number == 0)
            if number == 0:
                _begin_with(network, self.recipe.base)
        elif number == 0 and self.recipe.weights:
            begin_with_file(network, load_assimilator(self.recipe.weights, self.observing.world))
        elif number == 0 and self.observing.planes and not checkpoint_of(self.folder / "round-0").exists():
            self._fit_operator(network)
        if number:
            load_average(network, checkpoint_of(self.folder / f"round-{_best_before(self.folder, number)}"))
        return network

    def _fit_operator(self, network: Any) -> None:
        """Fit the operator that the network compares planes with to the truth."""
        world, times = self.observing.world, _some_times(self.backgrounds)
        states = np.stack([world.statistics.normalise(world.reference.array(time)) for time in times])
        planes = torch.from_numpy(true_planes(world, times, self.observing.planes))
        unexplained = network.fit_planes(torch.from_numpy(states), planes, self.recipe.seed, self.operator_updates)
        shares = ", ".join(
            f"{name} {share:.2f}" for name, share in zip(network.planes, unexplained.tolist(), strict=True)
        )
        logger.info("of the planes' standard deviations unexplained: %s", shares)

    def judge(self, number: int) -> None:
        """Cycle through parts of the validation year with the network of a round; accept it if none was better."""
        recipe, observing = self.recipe, self.validation.observing
        world, rows = observing.world, _finished_rounds(self.folder)
        if len(rows) > number:
            return
        logger.info("cycling with round %d", number)
        assimilator = TorchAssimilator(load_round(self.folder, number), world.grid, world.name)
        cycled = cycled_model(recipe, world, recipe.threads)
        errors = cycled_errors(assimilator, cycled, observing, recipe.seed, recipe.validation_days)
        typical = read_constants(self.folder)["error"] * world.statistics.std
        overall = float(np.mean([errors.analysis[name] / typical[index(name)] for name in HEADLINE]))
        best = min((float(row["cycled_error"]) for row in rows), default=np.inf)
        row = {
            "round": str(number),
            "cycled_error": f"{overall:.4f}",
            "accepted": "yes" if overall < best else "no",
            **{name: f"{errors.analysis[name]:.4g}" for name in HEADLINE},
        }
        write_rows(self.folder / "rounds.csv", [*rows, row])
        logger.info("%s", ", ".join(f"{name} {value}" for name, value in row.items()))
