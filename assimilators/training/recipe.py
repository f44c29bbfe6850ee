"""Recipes: the YAML file of a training run, which holds every setting of it.

`load_recipe` reads one and raises RecipeError with file, line and key of every mistake. The folder of a run keeps its
recipe in the same form.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

from dacycle.assimilators.base import current_name
from dacycle.assimilators.exceptions import RecipeError
from dacycle.common.configuration import NO_CHANGES, Number, Strict, read_checked, suggestion
from dacycle.forecast_adapter.models.frames import Frames
from dacycle.forecast_adapter.worlds.relaxation import RelaxationSettings

__all__ = [
    "AssimilatorRecipe",
    "ForecastRecipe",
    "NetworkRecipe",
    "OperatorRecipe",
    "Recipe",
    "RolloutStage",
    "load_recipe",
    "network_size",
    "recipe_kind",
]

Size = TypeVar("Size")


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Years = Annotated[list[int], Field(min_length=1)]
Folders = Annotated[list[str], Field(min_length=1), BeforeValidator(_listed)]


class RolloutStage(Strict):
    """Describe ``epochs`` passes through the training years, each sample a rollout of ``steps`` six-hour steps."""

    model_config = ConfigDict(strict=True)

    steps: int = Field(gt=0)
    epochs: int = Field(gt=0)


Word = Literal["solved", "published", "departures", "absolute", "removed", "kept", "odd", "none"]
"""What the entries of a network can be that are no numbers: the guidance of a diffusion, and the form of a feed-forward
method (`networks.blocks.departures.DepartureSize`)."""

YEARS_ENOUGH = 10
"""Training years from which errors are not mixed unless a recipe says so.

A training takes about 120,000 samples. Ten years of forecasts from 6 to 48 h hold as many errors, so that each is shown
about once, and cannot be memorised.
"""
MIXED = 0.75
"""Share of mixed errors with fewer years."""
CHAIN_DAYS = 12
"""Most days of a chain, unless a recipe says otherwise."""
LATER: dict[str, Any] = {
    "backgrounds_of": "",
    "chain_days": CHAIN_DAYS,
    "frames": None,
    "least_gain": 0.0,
    "mixed": MIXED,
    "optimiser": "adamw",
    "optional": [],
    "relaxation": None,
    "top_relaxation_days": None,
    "weights": "",
}
"""Entries that are younger than the first digests, with the values that those recipes had without a word of them."""


class Recipe(Strict):
    """Hold the settings that every training run has.

    Attributes:
        kind: what is trained; decides the other keys.
        name, version, licence: recorded in the exported file.
        world: whose statistics, static fields and climatology are used, by name or folder.
        data: folder with the years (`data/2021/*.nc`, WeatherBench2 schema), relative to the working folder.
        training_years, validation_years: no year may be in both.
        network: widths and depths (`MiniSize`, `FnpSize`).
        batch: samples per update in each process; there is one process a GPU.
        learning_rate, weight_decay: of AdamW; the rate rises for `warm_up` updates and then falls along a cosine.
        average: decay per update of the running average of the weights, which is what is validated and exported.
        top_weight: weight of the levels above 200 hPa in the loss, against 1 below.
        precision: `float32`, or `bfloat16` for mixed precision where the processor has it.
        compile: compile the network with `torch.compile` (needs a C++ compiler on a CPU).
        threads: threads of torch on a CPU.
        seed: of the weights, the order of the samples, the noise and the observations.
    """

    model_config = ConfigDict(strict=True)
    product: ClassVar[str]
    """What a run of this recipe makes, with its article."""

    kind: str
    name: str
    version: str
    world: str
    data: str
    training_years: Years
    validation_years: Years
    seed: int
    licence: str = "Apache-2.0"
    network: dict[str, int | Word] = Field(default_factory=dict)
    batch: int = Field(default=16, gt=0)
    learning_rate: Number = Field(default=2e-3, gt=0)
    weight_decay: Number = Field(default=0.05, ge=0)
    warm_up: int = Field(default=300, gt=0)
    average: Number = Field(default=0.998, ge=0, lt=1)
    top_weight: Number = Field(default=0.3, ge=0)
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: bool = False
    threads: int = Field(default=2, gt=0)

    @field_validator("training_years", "validation_years")
    @classmethod
    def _once(cls, years: list[int], info: ValidationInfo) -> list[int]:
        others = info.data.get("training_years", [])
        if len(set(years)) < len(years) or set(years) & set(others):
            raise ValueError("a year may be in training_years or validation_years once, not in both")
        return years

    def digest(self) -> str:
        """Return the SHA-256 of everything that decides the result; where the data lie does not."""
        content = self.model_dump(exclude={"data", "backgrounds", "in_memory"})
        content = {name: value for name, value in content.items() if name not in LATER or value != LATER[name]}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class ForecastRecipe(Recipe):
    """Hold the settings of a network with the contract of a forecast model.

    Attributes:
        stages: the rollouts, in order; the learning rate falls through all of them together.
        noise: largest share of other samples' 6-h changes that perturbs the input frames; the other perturbations of
            `ForecastTraining` grow with it.
        frames: that of the experiments which the network is for. With `both` it is trained on seamless pairs; with
            `newest` the older frame is disturbed by itself, because an increment is in the newer one alone.
        weights: a model with a network of the same size, by name or file, or the folder of a finished run, whose
            weights the training begins with; without it they are random. A network of greater `depth` begins with
            further blocks that change nothing.
        optimiser: `adamw`, or `muon`, in which the matrices learn by `MATRIX_RATE` times the learning rate, and they
            alone decay.
        relaxation_days: time scale on which every step is drawn towards the climate. It is no part of the training, in
            which the network would learn to undo it.
        top_relaxation_days: that of the levels above 200 hPa, as models have a sponge beneath their lid; default: the
            same.
    """

    product: ClassVar[str] = "a forecast model"

    kind: Literal["forecast"]
    stages: list[RolloutStage] = Field(min_length=1)
    noise: Number = Field(default=0.1, ge=0)
    frames: Frames = None
    weights: str = ""
    optimiser: Literal["adamw", "muon"] = "adamw"
    relaxation_days: Number = Field(default=10.0, gt=0)
    top_relaxation_days: Number | None = Field(default=None, gt=0)

    @property
    def epochs(self) -> int:
        """Epochs of all stages together."""
        return sum(stage.epochs for stage in self.stages)

    def steps_at(self, epoch: int) -> int:
        """Return the length of the rollouts in an epoch, counted from 0."""
        for stage in self.stages:
            if epoch < stage.epochs:
                return stage.steps
            epoch -= stage.epochs
        return self.stages[-1].steps


class AssimilatorRecipe(Recipe):
    """Hold the settings of a trained assimilator: a training on forecast errors, then rounds in its own cycles.

    Attributes:
        method: the network, one of `assimilators.networks.METHODS`.
        model: the forecast model that cycles in validation and in closed-loop rounds, by name or file.
        backgrounds: folders of the stores that `dacycle backgrounds` makes; one may be written without a list.
        backgrounds_of: the model that made them, where that is another: one on a finer grid, which the assimilator is
            to give increments to.
        observations: sources as in an experiment, drawn from the reference.
        epochs, epoch_samples: passes, and samples in each; every sample has observations of its own.
        workers: processes that draw observations beside the training.
        in_memory: read and check the training years' states at the start; else each state is read when it is needed.
            Backgrounds are never read as a whole.
        mixed: share of the samples whose error is a combination of two of other dates, so that no error is memorised;
            such an error does not depend on the flow. Default: 0 with `YEARS_ENOUGH` training years, else `MIXED`.
        frames, relaxation: as in an experiment: what the cycles of the rounds, of the validation and of the gate do
            with the older frame and with backgrounds.
        optional: those of the sources that every second sample, and every second chain of cycles, is without, all
            together: the file then serves networks with them and without.
        weights: a trained assimilator of the same method and size, by name or file, whose weights the training begins
            with: a shorter way to the errors of another model or other observations. Without it they are random.
        rounds: most closed-loop rounds, trained on cycles of the network in training; those of a prior, on errors of
            its cycles before the round. A finished run goes on if this number is raised.
        least_gain: a round whose cycled error is not lower than the best before by this share is the last; 0: all
            rounds are made.
        round_epochs, round_learning_rate: of each round.
        chain_days: most days of cycles that a chain of a round has; it begins anew in each epoch. Where the model damps
            errors little, those of cycles grow for months, and short chains do not show them. The cycles of a prior's
            rounds have `validation_days`.
        validation_days: length of the cycles that a round is judged by.
        base: folder of a finished run, whose network is an adapter's base. The base stays fixed in the first training.
            In the rounds it is trained with the adapter.
    """

    product: ClassVar[str] = "an assimilator"

    kind: Literal["assimilator"]
    method: str
    model: str
    backgrounds: Folders
    backgrounds_of: str = ""
    observations: list[dict[str, Any]] = Field(min_length=1)
    epochs: int = Field(gt=0)
    epoch_samples: int
    workers: int = Field(default=1, gt=0)
    in_memory: bool = True
    mixed: Number = Field(default=None, validate_default=True, ge=0, le=1)
    frames: Frames = None
    relaxation: RelaxationSettings | None = None
    optional: list[str] = Field(default_factory=list)
    weights: str = ""
    rounds: int = Field(default=1, ge=0)
    least_gain: Number = Field(default=0.0, ge=0, lt=1)
    round_epochs: int = Field(default=4, gt=0)
    round_learning_rate: Number = Field(default=5e-4, gt=0)
    chain_days: int = Field(default=CHAIN_DAYS, gt=0)
    validation_days: int = 12
    base: str = ""

    @field_validator("method")
    @classmethod
    def _by_its_present_name(cls, method: str) -> str:
        return current_name(method)

    @field_validator("observations")
    @classmethod
    def _with_sources(cls, observations: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if not all("source" in entry for entry in observations):
            raise ValueError("every entry is a mapping with a source, as in an experiment")
        return observations

    @field_validator("base")
    @classmethod
    def _begins_with_one(cls, base: str, info: ValidationInfo) -> str:
        if base and info.data.get("weights"):
            raise ValueError("an adapter begins with its base; leave out weights")
        return base

    @field_validator("optional")
    @classmethod
    def _of_the_sources(cls, optional: list[str], info: ValidationInfo) -> list[str]:
        names = [entry.get("name", entry["source"]) for entry in info.data.get("observations", [])]
        for name in set(optional) - set(names):
            raise ValueError(f"{name} is no source of the observations; they are {', '.join(names)}")
        return optional

    @field_validator("mixed", mode="before")
    @classmethod
    def _mixed_with_few_years(cls, mixed: Any, info: ValidationInfo) -> Any:
        if mixed is None:
            return 0.0 if len(info.data.get("training_years", [])) >= YEARS_ENOUGH else MIXED
        return mixed

    @field_validator("epoch_samples")
    @classmethod
    def _whole_batch(cls, samples: int, info: ValidationInfo) -> int:
        if samples < info.data.get("batch", 1):
            raise ValueError(f"must be at least one batch of {info.data['batch']}")
        return samples

    @property
    def stores(self) -> list[Path]:
        """The folders of the backgrounds."""
        return [Path(folder) for folder in self.backgrounds]

    @property
    def samples(self) -> int:
        """Samples of the whole training."""
        return self.samples_of(self.rounds)

    def samples_of(self, rounds: int) -> int:
        """Return the samples of the first training and of so many rounds."""
        return (self.epochs + rounds * self.round_epochs) * self.epoch_samples


class OperatorRecipe(Recipe):
    """Hold the settings of an observation operator; it makes ``epochs`` passes through the pairs of frames."""

    product: ClassVar[str] = "an observation operator"

    kind: Literal["operator"]
    epochs: int = Field(gt=0)


NetworkRecipe = ForecastRecipe | AssimilatorRecipe | OperatorRecipe
_TYPES: dict[str, type[NetworkRecipe]] = {
    "forecast": ForecastRecipe,
    "assimilator": AssimilatorRecipe,
    "operator": OperatorRecipe,
}


class _Kind(BaseModel):
    """Read the kind of a recipe and ignore its other keys."""

    kind: Literal["forecast", "assimilator", "operator", "oi", "3dvar", "bias"] = Field(
        description="what is trained: forecast, assimilator, operator, oi, 3dvar or bias"
    )


def recipe_kind(path: Path | str) -> str:
    """Return the `kind` of a recipe: that of a network, or `oi`, `3dvar` or `bias`, which are estimated.

    Raises:
        RecipeError: the file is no recipe; names file, line and key.
    """
    return read_checked(path, _Kind, "a recipe", RecipeError).kind


def load_recipe(path: Path | str, data: str | None = None, changes: Mapping[str, Any] = NO_CHANGES) -> NetworkRecipe:
    """Read and check the recipe of a network.

    Args:
        path: the YAML file.
        data: folder with the years, in place of the recipe's.
        changes: other values of the recipe's keys, such as {"seed": 2, "network.width": 64}.

    Raises:
        RecipeError: one line for each mistake, with file, line and key.
    """
    kind = recipe_kind(path)
    if kind not in _TYPES:
        raise RecipeError(f"{path}: its kind is {kind!r}, which trains no network; here it is {' or '.join(_TYPES)}")
    recipe = read_checked(path, _TYPES[kind], "a recipe", RecipeError, changes)
    return recipe if data is None else recipe.model_copy(update={"data": data})


def network_size(size: type[Size], entries: Mapping[str, int | str]) -> Size:
    """Return the size of a network, a dataclass, from a recipe's `network`.

    Raises:
        RecipeError: an entry is unknown (lists the known ones), or has a value that it cannot have.
    """
    known = [field.name for field in fields(cast(Any, size))]
    unknown = [name for name in entries if name not in known]
    if unknown:
        near = suggestion(unknown[0], known)
        hint = f" ({near[2:]})" if "did you mean" in near else ""
        raise RecipeError(f"network.{unknown[0]}: unknown entry{hint}; the entries are {', '.join(known)}")
    for field in fields(cast(Any, size)):
        wanted = "a whole number" if isinstance(field.default, int) else "a word"
        value = entries.get(field.name, field.default)
        if isinstance(value, str) != isinstance(field.default, str):
            raise RecipeError(f"network.{field.name}: {value!r} is not {wanted}")
    try:
        return size(**cast(Any, entries))
    except ValueError as error:
        raise RecipeError(f"network.{error}") from error
