"""The training run of an assimilator: on errors of forecasts, then in closed-loop rounds.

Beside what every run's folder holds (`training.folder`):
    round-0/        learning curve and checkpoint of the training on the first data
    round-1/ ...    the same for each round
    rounds.csv      cycled error in the validation year of what each round made, and whether it was accepted
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import lightning
import numpy as np
import torch
from numpy.typing import NDArray

from dacycle.assimilators.exceptions import DataError, RecipeError, TrainingError
from dacycle.assimilators.networks import METHODS
from dacycle.assimilators.networks.adapter import Adapted
from dacycle.assimilators.networks.blocks.base import Constants
from dacycle.assimilators.sampling.backgrounds import (
    CYCLED,
    Backgrounds,
    held_out,
    months_of,
    read_store,
    systematic_error,
    year_times,
)
from dacycle.assimilators.sampling.cycles import cycled_errors
from dacycle.assimilators.sampling.observing import Observing, observing_of
from dacycle.assimilators.training.assimilation import (
    PREFETCH,
    AssimilationTraining,
    TorchAssimilator,
    typical_errors,
)
from dacycle.assimilators.training.closed_loop import ClosedLoop
from dacycle.assimilators.training.data import check_complete, load_states, preload, season_weights
from dacycle.assimilators.training.folder import (
    check_folder,
    load_average,
    read_constants,
    read_record,
    write_record,
)
from dacycle.assimilators.training.loop import checkpoint_of, minutes_of, run_epochs
from dacycle.assimilators.training.module import Training
from dacycle.assimilators.training.prior import PriorTraining
from dacycle.assimilators.training.recipe import AssimilatorRecipe, network_size
from dacycle.assimilators.training.samples import Samples
from dacycle.forecast_adapter.channels import HEADLINE, NAMES, index
from dacycle.forecast_adapter.grid import Grid
from dacycle.forecast_adapter.models.mini import static_planes
from dacycle.forecast_adapter.models.model import load_model
from dacycle.forecast_adapter.physics import humidity_from_dewpoint
from dacycle.forecast_adapter.worlds.reference import Reference
from dacycle.forecast_adapter.worlds.world import World, load_world

__all__ = [
    "accepted_round",
    "fit_assimilator",
    "load_network",
    "network_of",
    "read_assimilator_run",
    "run_assimilator",
    "train_assimilator",
]

HELD_OUT_STARTS = 12
EXACT = 0.5  # error of idealised observations, in units of the backgrounds'
KEPT = 16  # states in a process's memory, where not all are
PLANE_STATES = 100  # by which planes are normalised, and their operator is fitted


def train_assimilator(recipe: AssimilatorRecipe, folder: Path, say: Callable[[str], None] = print) -> Path:
    """Train what the recipe says in `folder`; resumes a run of the same recipe. Returns the accepted checkpoint.

    Raises:
        RecipeError: another recipe's run is in the folder, or method or size are unknown.
        DataError: the years or the backgrounds are incomplete, not finite, on another grid or of another model.
        TrainingError: the loss is no longer a number.
    """
    check_folder(recipe, folder)
    world = load_world(recipe.world)
    backgrounds = _checked_store(recipe, world)
    say(f"{len(backgrounds.times)} backgrounds; reading {recipe.data}")
    reference = Reference(recipe.data, kept=None if recipe.in_memory else KEPT)
    look = preload if recipe.in_memory else check_complete
    for year in recipe.training_years:
        look(reference, year_times(year), world.grid)
    observing = observing_of(world, reference, recipe.observations)
    return fit_assimilator(recipe, folder, observing, backgrounds, _held_out(recipe, world), say)


def fit_assimilator(
    recipe: AssimilatorRecipe,
    folder: Path,
    observing: Observing,
    backgrounds: Backgrounds,
    held: Samples,
    say: Callable[[str], None] = print,
) -> Path:
    """`train_assimilator` on data already in memory: the truth is the reference of `observing`'s world."""
    check_folder(recipe, folder)
    torch.set_num_threads(recipe.threads)
    lightning.seed_everything(recipe.seed, verbose=False)
    world = observing.world
    constants = _constants(world, backgrounds)
    samples = (recipe.epochs + recipe.rounds * recipe.round_epochs) * recipe.epoch_samples
    write_record(
        recipe, folder, world, constants, network_of(recipe, world.grid, constants), backgrounds.digest(), samples
    )
    for number in range(recipe.rounds + 1):
        _fit(recipe, folder, number, backgrounds, observing, held, say)
        _judge(recipe, folder, number, held.observing, say)
    return checkpoint_of(folder / f"round-{accepted_round(folder)}")


def network_of(recipe: AssimilatorRecipe, grid: Grid, constants: Constants) -> Any:
    """The network of a recipe, with fresh weights. RecipeError where method or size are unknown, or the grid unfit."""
    if recipe.method not in METHODS:
        raise RecipeError(f"method: {recipe.method!r} is unknown; the methods are {', '.join(METHODS)}")
    if any(count % 2 for count in grid.shape) or np.abs(grid.latitude).max() == 90:
        raise RecipeError(
            f"world: its grid is {grid.name}, but networks need an even number of rows and columns, none at a pole: "
            "1.40625deg, or ROWSxCOLUMNS such as 120x240"
        )
    method = METHODS[recipe.method]
    network = method.network(grid, constants, network_size(method.size, recipe.network))
    if method.loss is None and recipe.rounds and not isinstance(network, Adapted):
        raise RecipeError(f"rounds: {recipe.method} learns from errors alone, in no closed loop; it must be 0")
    if isinstance(network, Adapted) != bool(recipe.base):
        raise RecipeError(f"base: {recipe.method} has none" if recipe.base else f"base: {recipe.method} needs one")
    return network


def load_network(folder: Path, number: int, sizes: Mapping[str, int] = MappingProxyType({})) -> Any:
    """The network that a round of a run made, in evaluation mode.

    Args:
        sizes: entries of the recipe's `network` to change, such as the steps of an iterative method.

    Raises:
        RecipeError: with such sizes the network has other weights than those of the run, or they are unknown.
    """
    recipe, _ = read_record(folder)
    if not isinstance(recipe, AssimilatorRecipe):
        raise TrainingError(f"{folder}: a run of kind {recipe.kind}, not of an assimilator")
    constants = Constants(**read_constants(folder))
    changed = replace(recipe, network={**recipe.network, **sizes})
    network = network_of(changed, load_world(recipe.world).grid, constants)
    try:
        load_average(network, checkpoint_of(folder / f"round-{number}"))
    except RuntimeError as error:
        with_sizes = f" with {dict(sizes)}" if sizes else ""
        raise RecipeError(f"{folder}: its weights are not those of its recipe's network{with_sizes}") from error
    return network.eval()


def run_assimilator(folder: Path, world: World, sizes: Mapping[str, int]) -> TorchAssimilator:
    """What a run has made so far, before it is exported; see `load_network`. RecipeError if for another world."""
    _, record = read_record(folder)
    if record["world"] != world.name:
        raise RecipeError(f"{folder}: it is trained for the world {record['world']!r}, this is {world.name!r}")
    return TorchAssimilator(load_network(folder, accepted_round(folder), sizes), world.grid, world.name)


def read_assimilator_run(folder: Path) -> tuple[AssimilatorRecipe, dict[str, Any], Any]:
    """Recipe, record and accepted network of a run. TrainingError where no round is finished."""
    recipe, record = read_record(folder)
    network = load_network(folder, accepted_round(folder))  # refuses other kinds of runs
    assert isinstance(recipe, AssimilatorRecipe)
    record["rounds"] = _rounds(folder)
    record["minutes"] = round(sum(minutes_of(curve.parent) for curve in sorted(folder.glob("round-*/curve.csv"))))
    return recipe, record, network


def accepted_round(folder: Path) -> int:
    """The round whose network has the least cycled error so far."""
    return _best_before(folder, len(_rounds(folder)))


def _best_before(folder: Path, number: int) -> int:
    accepted = [int(row["round"]) for row in _rounds(folder)[:number] if row["accepted"] == "yes"]
    if not accepted:
        raise TrainingError(f"{folder}: no round is finished yet; see `dacycle train`")
    return accepted[-1]


def _held_out(recipe: AssimilatorRecipe, world: World) -> Samples:
    """Samples of the validation year: forecasts from times spread over it, the whole network observed."""
    reference = Reference(Path(recipe.data) / str(recipe.validation_years[0]))
    backgrounds = held_out(load_model(recipe.model), reference, world, HELD_OUT_STARTS)
    order, nothing = np.arange(len(backgrounds.times)), np.zeros(len(NAMES), np.float32)
    observing = observing_of(world, reference, recipe.observations)
    return Samples(backgrounds, observing, order, recipe.seed, nothing, whole=True)


def _checked_store(recipe: AssimilatorRecipe, world: World) -> Backgrounds:
    """The backgrounds of the training years: of the recipe's model, and of every month."""
    for folder in recipe.stores:
        absent = [month for month in months_of(recipe.training_years) if not (folder / f"{month}.nc").exists()]
        if absent:
            raise DataError(
                f"{folder}: no backgrounds of {absent[0]} ({len(absent)} months missing); see `dacycle backgrounds`"
            )
    backgrounds = read_store(recipe.stores, world, recipe.training_years)
    where = ", ".join(map(str, recipe.stores))
    if (backgrounds.leads == CYCLED).all():
        raise DataError(f"{where}: backgrounds of cycles alone; those of forecasts are needed too")
    if backgrounds.model != load_model(recipe.model).digest:
        raise DataError(f"{where}: backgrounds of another model than {recipe.model}; see `dacycle backgrounds`")
    return backgrounds


def _constants(world: World, backgrounds: Backgrounds) -> Constants:
    """Statistics of the world, of the backgrounds' errors, and of the planes."""
    times = _some_times(backgrounds)
    planes = _planes(world.reference, times)
    planes[:, 0] = np.log1p(planes[:, 0])
    return Constants(
        mean=world.statistics.mean,
        std=world.statistics.std,
        error=typical_errors(backgrounds, world.grid.weights),
        plane_mean=planes.mean((0, 2, 3)),
        plane_std=planes.std((0, 2, 3)),
        static=static_planes(world.grid.latitude, world.orography, world.land_fraction),
        season=season_weights([load_states(world.reference, times, world.grid, world.statistics)]),
        bias=systematic_error(backgrounds).astype(np.float32),
    )


def _some_times(backgrounds: Backgrounds) -> NDArray[np.datetime64]:
    """About `PLANE_STATES` times of the training years, in all seasons."""
    times = np.unique(backgrounds.times)
    return times[:: max(len(times) // PLANE_STATES, 1)]


def _planes(reference: Reference, times: NDArray[np.datetime64]) -> NDArray[np.float32]:
    """(n, 3, H, W) the true tp6h, olr and q2m."""
    surface = [reference.surface(time) for time in times]
    humidity = [humidity_from_dewpoint(fields["td2m"].values, fields["ps"].values) for fields in surface]
    planes = zip(surface, humidity, strict=True)
    return np.stack([np.stack([f["tp6h"].values, f["olr"].values, q]) for f, q in planes]).astype(np.float32)


def _fit_planes(network: Any, world: World, backgrounds: Backgrounds, seed: int, say: Callable[[str], None]) -> None:
    """Fit what the network compares planes with to the truth."""
    times = _some_times(backgrounds)
    states = np.stack([world.statistics.normalise(world.reference.array(time)) for time in times])
    planes = torch.from_numpy(_planes(world.reference, times))
    left = network.fit_planes(torch.from_numpy(states), planes, seed)
    pairs = zip(network.planes, left.tolist(), strict=True)
    say("of the planes' standard deviations unexplained: " + ", ".join(f"{name} {share:.2f}" for name, share in pairs))


def _begin_with(network: Adapted, base: str) -> None:
    """Give an adapter the base that a run has made. RecipeError where it is of another method or size."""
    _, _, trained = read_assimilator_run(Path(base))
    try:
        network.begin_with(trained)
    except RuntimeError as error:
        raise RecipeError(f"base: {base} is of another method, or of another size than `network` says") from error


def _fit(
    recipe: AssimilatorRecipe,
    folder: Path,
    number: int,
    backgrounds: Backgrounds,
    observing: Observing,
    held: Samples,
    say: Callable[[str], None],
) -> None:
    """Train one round: the first from fresh weights, the others in the closed loop from the accepted ones."""
    constants = Constants(**read_constants(folder))
    lightning.seed_everything(recipe.seed, verbose=False)
    network = network_of(recipe, observing.world.grid, constants)
    epochs, rate = recipe.epochs, recipe.learning_rate
    if isinstance(network, Adapted):
        network.freeze_base(not number)
        if not number:
            _begin_with(network, recipe.base)
    elif not number and not checkpoint_of(folder / "round-0").exists():
        _fit_planes(network, observing.world, backgrounds, recipe.seed, say)
    if number:
        epochs, rate = recipe.round_epochs, recipe.round_learning_rate
        load_average(network, checkpoint_of(folder / f"round-{_best_before(folder, number)}"))

    def drawn(epoch: int) -> Samples:
        generator = np.random.default_rng([recipe.seed, number, epoch])
        order = np.resize(generator.permutation(len(backgrounds.times)), recipe.epoch_samples)
        seed = 1000 * (1000 * recipe.seed + number) + epoch
        return Samples(backgrounds, observing, order, seed, EXACT * constants.error)

    def samples(epoch: int) -> Samples | ClosedLoop:
        found = drawn(epoch)
        return ClosedLoop(found, recipe.model, recipe.batch * (PREFETCH * recipe.workers + 1)) if number else found

    loss, area = METHODS[recipe.method].loss, observing.world.grid.weights
    module: Training = (
        PriorTraining(network, recipe, area, drawn, held, epochs, rate)
        if loss is None
        else AssimilationTraining(network, loss, recipe, area, samples, held, epochs, rate)
    )
    run_epochs(module, folder / f"round-{number}", epochs, say)


def _judge(
    recipe: AssimilatorRecipe, folder: Path, number: int, observing: Observing, say: Callable[[str], None]
) -> None:
    """Cycle through parts of the validation year with what a round made, and accept it if nothing before was better."""
    rows = _rounds(folder)
    if len(rows) > number:
        return
    say(f"cycling with round {number}")
    world = observing.world
    assimilator = TorchAssimilator(load_network(folder, number), world.grid, world.name)
    model = load_model(recipe.model, recipe.threads)
    errors = cycled_errors(assimilator, model, observing, recipe.seed, recipe.validation_days)
    typical = read_constants(folder)["error"] * world.statistics.std
    overall = float(np.mean([errors.analysis[name] / typical[index(name)] for name in HEADLINE]))
    best = min((float(row["cycled_error"]) for row in rows), default=np.inf)
    row = {
        "round": number,
        "cycled_error": f"{overall:.4f}",
        "accepted": "yes" if overall < best else "no",
        **{name: f"{errors.analysis[name]:.4g}" for name in HEADLINE},
    }
    part = folder / ".rounds.csv.part"
    with part.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        writer.writeheader()
        writer.writerows([*rows, row])
    part.replace(folder / "rounds.csv")
    say(", ".join(f"{name} {value}" for name, value in row.items()))


def _rounds(folder: Path) -> list[dict[str, str]]:
    """What is known of the rounds finished so far, in order."""
    path = folder / "rounds.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
