"""A recipe: the small YAML file that says everything about one training run."""

from __future__ import annotations

import hashlib
import json
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml

from dacycle.assimilators.exceptions import RecipeError

__all__ = [
    "KINDS",
    "AssimilatorRecipe",
    "ForecastRecipe",
    "NetworkRecipe",
    "OperatorRecipe",
    "Recipe",
    "Stage",
    "load_recipe",
    "network_size",
    "parse_recipe",
    "recipe_kind",
]

KINDS = ("forecast", "assimilator", "operator", "oi")
"""`forecast`, `assimilator`, `operator`: networks, by this package. `oi`: the ensemble of optimal interpolation, by
`background_error`."""


Size = TypeVar("Size")


@dataclass(frozen=True)
class Stage:
    """``epochs`` passes through the training years, each sample a rollout of ``steps`` six-hour steps."""

    steps: int
    epochs: int


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What every training run has.

    Attributes:
        kind: what is trained; decides the other entries.
        name, version, licence: recorded in the exported file.
        world: whose statistics, static fields and climatology are used, by name or folder.
        data: folder with the years (`data/2021/*.nc`, WeatherBench2 schema), relative to the working folder.
        training_years, validation_years: no year may be in both.
        network: widths and depths (`MiniSize`, `FnpSize`).
        batch: samples per update, of each process: there is one a GPU.
        learning_rate, weight_decay: AdamW's; the rate rises for `warm_up` updates and then falls along a cosine.
        average: decay per update of the running average of the weights, which is what is validated and exported.
        top_weight: weight of the levels above 200 hPa in the loss, against 1 below.
        precision: `float32`, or `bfloat16` for mixed precision where the processor has it.
        compile: compile the network with `torch.compile` (needs a C++ compiler on a CPU).
        threads: torch's threads on a CPU.
        seed: of the weights, the order of the samples, the noise and the observations.
    """

    kind: str
    name: str
    version: str
    world: str
    data: str
    training_years: list[int]
    validation_years: list[int]
    seed: int
    licence: str = "Apache-2.0"
    network: dict[str, int] = field(default_factory=dict)
    batch: int = 16
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    warm_up: int = 300
    average: float = 0.998
    top_weight: float = 0.3
    precision: str = "float32"
    compile: bool = False
    threads: int = 2

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def digest(self) -> str:
        """SHA-256 of everything that decides the result; where the data lies does not."""
        places = ("data", "backgrounds", "in_memory")
        content = {key: value for key, value in self.as_dict().items() if key not in places}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class ForecastRecipe(Recipe):
    """A network with the contract of a forecast model.

    Attributes:
        stages: the rollouts, in order; the learning rate falls through all of them together.
        noise: largest share of other samples' 6-h changes that perturbs the input frames; what else perturbs them grows
            with it (`ForecastTraining`).
        relaxation_days: time scale on which every step is drawn towards the climate; no part of training, in which the
            network would learn to undo it.
    """

    stages: list[Stage]
    noise: float = 0.1
    relaxation_days: float = 10.0

    @property
    def epochs(self) -> int:
        return sum(stage.epochs for stage in self.stages)

    def steps_at(self, epoch: int) -> int:
        """Length of the rollouts in an epoch, counted from 0."""
        for stage in self.stages:
            if epoch < stage.epochs:
                return stage.steps
            epoch -= stage.epochs
        return self.stages[-1].steps


@dataclass(frozen=True, kw_only=True)
class AssimilatorRecipe(Recipe):
    """A trained assimilator: first on errors of forecasts and of a first cycle, then in rounds in its own cycles.

    Attributes:
        method: the network, one of `assimilators.networks.METHODS`.
        model: the forecast model whose backgrounds are corrected, by name or file.
        backgrounds: folder of the store that `dacycle backgrounds` makes, or a list of them.
        observations: sources as in an experiment; what is drawn from the reference.
        epochs, epoch_samples: passes, and samples in each, every one with observations of its own.
        workers: processes that draw observations beside the training.
        in_memory: whether the training years' states are read at the start, and looked at for values that are not
            finite; else each is read when its turn comes. Backgrounds are never read as a whole.
        rounds: closed-loop rounds, trained on cycles of the network in training. A finished run goes on if there are
            more of them.
        round_epochs, round_learning_rate: of each round.
        validation_days: length of the cycles that a round is judged by.
        base: folder of a finished run, whose network is an adapter's base. It stays as it is in the first training,
            and is trained with the adapter in the rounds, which for a prior are in no closed loop.
    """

    method: str
    model: str
    backgrounds: str | list[str]
    observations: list[dict[str, Any]]
    epochs: int
    epoch_samples: int
    workers: int = 1
    in_memory: bool = True
    rounds: int = 1
    round_epochs: int = 4
    round_learning_rate: float = 5e-4
    validation_days: int = 12
    base: str = ""

    @property
    def stores(self) -> list[Path]:
        """The folders of the backgrounds."""
        return [Path(each) for each in ([self.backgrounds] if isinstance(self.backgrounds, str) else self.backgrounds)]


@dataclass(frozen=True, kw_only=True)
class OperatorRecipe(Recipe):
    """An observation operator for OLR and precipitation; ``epochs`` passes through the pairs of frames."""

    epochs: int


NetworkRecipe = ForecastRecipe | AssimilatorRecipe | OperatorRecipe


def network_size(size: type[Size], entries: dict[str, int]) -> Size:
    """A network's size, a dataclass, from a recipe's `network`. RecipeError where it has unknown entries."""
    try:
        return size(**entries)
    except TypeError:
        known = ", ".join(field.name for field in fields(cast(Any, size)))
        raise RecipeError(f"network: {entries} has an unknown entry; the entries are {known}") from None


# What YAML may hold for each annotation of Recipe; whole numbers count as floats too.
_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "str | list[str]": (str, list),
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "list[int]": (list,),
    "list[Stage]": (list,),
    "list[dict[str, Any]]": (list,),
    "dict[str, int]": (dict,),
}


def recipe_kind(path: Path | str) -> str:
    """What a recipe trains: its entry `kind`. Raises RecipeError."""
    kind = _read(Path(path)).get("kind")
    if not isinstance(kind, str):
        raise RecipeError(f"{path}: missing kind, which says what is trained: {', '.join(KINDS)}")
    return kind


def load_recipe(path: Path | str, data: str | None = None) -> NetworkRecipe:
    """Read and check a recipe of a network; `data` replaces the folder it names. Raises RecipeError."""
    content = _read(Path(path))
    if data is not None:
        content["data"] = data
    return parse_recipe(content, str(path))


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise RecipeError(f"{path}: there is no such recipe") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: not YAML: {error}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{path}: a recipe is a list of `key: value` entries")
    return content


def parse_recipe(content: dict[str, Any], source: str) -> NetworkRecipe:
    """A recipe from its entries; `source` is named in errors."""
    kinds: dict[Any, type[NetworkRecipe]] = {
        "forecast": ForecastRecipe,
        "assimilator": AssimilatorRecipe,
        "operator": OperatorRecipe,
    }
    if content.get("kind") not in kinds:
        raise RecipeError(f"{source}: kind is {content.get('kind')!r}, but must be {' or '.join(kinds)} here")
    recipe_type = kinds[content["kind"]]
    known = {f.name: f for f in fields(recipe_type)}
    unknown = sorted(set(content) - set(known))
    if unknown:
        raise RecipeError(f"{source}: unknown entry {', '.join(unknown)}; the entries are {', '.join(known)}")
    needed = [n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING]
    missing = [name for name in needed if name not in content]
    if missing:
        raise RecipeError(f"{source}: missing {', '.join(missing)}")
    for name, value in content.items():
        allowed = _TYPES[str(known[name].type)]
        if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
            raise RecipeError(f"{source}: {name} is {value!r}, but must be of type {known[name].type}")
    if recipe_type is ForecastRecipe:
        content = {**content, "stages": [_stage(item, source) for item in content["stages"]]}
    recipe = recipe_type(**content)
    _check(recipe, source)
    return recipe


def _stage(item: Any, source: str) -> Stage:
    wanted = {"steps", "epochs"}
    if not (isinstance(item, dict) and set(item) == wanted and all(type(v) is int and v > 0 for v in item.values())):
        raise RecipeError(f"{source}: a stage is {{steps: 1, epochs: 10}} with whole numbers above 0, not {item!r}")
    return Stage(**item)


def _check(recipe: NetworkRecipe, source: str) -> None:
    years = [*recipe.training_years, *recipe.validation_years]
    rules = {
        "years must be whole numbers": all(type(year) is int for year in years),
        "training_years and validation_years must not be empty": bool(
            recipe.training_years and recipe.validation_years
        ),
        "a year may be in training_years or validation_years once, not in both": len(set(years)) == len(years),
        "batch, threads and warm_up must be above 0": min(recipe.batch, recipe.threads, recipe.warm_up) > 0,
        "learning_rate must be above 0": recipe.learning_rate > 0,
        "average must be in [0, 1)": 0 <= recipe.average < 1,
        "top_weight and weight_decay must not be negative": min(recipe.top_weight, recipe.weight_decay) >= 0,
        "precision must be float32 or bfloat16": recipe.precision in ("float32", "bfloat16"),
    }
    if isinstance(recipe, ForecastRecipe):
        rules |= {
            "stages must not be empty": bool(recipe.stages),
            "relaxation_days must be above 0": recipe.relaxation_days > 0,
            "noise must not be negative": recipe.noise >= 0,
        }
    elif isinstance(recipe, OperatorRecipe):
        rules |= {"epochs must be above 0": recipe.epochs > 0}
    else:
        rules |= {
            "epochs, round_epochs and workers must be above 0": min(recipe.epochs, recipe.round_epochs, recipe.workers)
            > 0,
            "epoch_samples must be at least a batch": recipe.epoch_samples >= recipe.batch,
            "rounds must not be negative": recipe.rounds >= 0,
            "round_learning_rate must be above 0": recipe.round_learning_rate > 0,
            "backgrounds must be a folder, or a list of folders": bool(recipe.backgrounds)
            and all(isinstance(each, str) for each in recipe.backgrounds),
            "observations must not be empty": bool(recipe.observations),
            "every entry of observations is a mapping with a source": all(
                isinstance(entry, dict) and "source" in entry for entry in recipe.observations
            ),
        }
    broken = [rule for rule, holds in rules.items() if not holds]
    if broken:
        raise RecipeError(f"{source}: {'; '.join(broken)}")
