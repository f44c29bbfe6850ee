"""The protocol of the assimilation methods, and how one is found by its name or its file.

A packaged method has the name of its file in `assimilators/weights/`: `oi.nc` is `oi`. The suffix of a file decides
what loads it (`LOADERS`). A method that needs no file is made known by `register`.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from dacycle.common.errors import DacycleError
from dacycle.forecast_adapter.channels import NAMES
from dacycle.forecast_adapter.grid import Grid

if TYPE_CHECKING:
    from dacycle.assimilators.ensemble.settings import EnsembleSettings
    from dacycle.assimilators.variational.settings import VariationalSettings
    from dacycle.forecast_adapter.models.model import ForecastModel
    from dacycle.forecast_adapter.worlds.world import World
    from dacycle.obs_ingest.operators.learned import LearnedOperator

__all__ = [
    "ENSEMBLE_METHODS",
    "LOADERS",
    "VARIATIONAL_METHODS",
    "Analysis",
    "Assimilator",
    "AssimilatorError",
    "EnsembleAssimilator",
    "FreeRun",
    "OlderFrame",
    "Past",
    "WindowAssimilator",
    "check_fits",
    "current_name",
    "has_window",
    "known_assimilators",
    "load_assimilator",
    "packaged_assimilators",
    "register",
    "removes_model_bias",
]

logger = logging.getLogger(__name__)

WEIGHTS = Path(__file__).parent / "weights"

LOADERS: dict[str, str] = {
    ".nc": "classical.oi",
    ".onnx": "trained.network",
}
"""Suffix of an assimilator's file, and the module whose `load(path, world, threads)` reads it, imported when needed."""

ENSEMBLE_METHODS = ("hybrid", "letkf")
"""Methods that need an ensemble from cycle to cycle; `ensemble.filters` loads them. Others may have one, too."""

VARIATIONAL_METHODS = ("3dvar", "4dvar")
"""Methods that minimise a cost function; `variational.methods` loads them."""

RENAMED = {"sda": "diffusion", "slam": "latent-diffusion"}
"""Former names of methods, which are still understood.

They were those of papers (arXiv 2306.10574, 2404.06665) from whose defining parts the methods depart.
"""


@cache
def current_name(name: str) -> str:
    """Return a method's name, or the present one where it is a former name; say so once."""
    if name not in RENAMED:
        return name
    logger.info("the method %s is now called %s; the former name is still understood", name, RENAMED[name])
    return RENAMED[name]


class AssimilatorError(DacycleError, ValueError):
    """Say which assimilator is unknown, does not fit the world, or was given malformed input."""


@dataclass(frozen=True, eq=False)
class OlderFrame:
    """Hold what the observations of an analysis say of the frame 6 h before it, in a chain with members.

    Attributes:
        increment: (69, H, W) float32, SI.
        members: (N, 69, H, W) float32, SI: perturbations of the members in that frame, after the analysis.
    """

    increment: NDArray
    members: NDArray


@dataclass(frozen=True)
class Analysis:
    """Hold the result of an assimilator.

    Attributes:
        state: (B, 69, H, W) float32, SI: the analysis, before guards and clipping.
        spread: (B, 69, H, W) float32, SI: posterior standard deviation, or None where the method has none.
        diagnostics: of the method, by name; sequences have one entry per chain.
        members: (B, N, 69, H, W) float32, SI: perturbations of the members of each chain, or None where the method has
            none.
        doubts: per chain, what is wrong with an analysis that may be used; empty where nothing is, or for all chains.
        older: per chain, the frame before, of a method that was given the members there; empty for all others.
    """

    state: NDArray
    spread: NDArray | None = None
    diagnostics: dict[str, Any] = field(default_factory=dict)
    members: NDArray | None = None
    doubts: Sequence[str] = ()
    older: Sequence[OlderFrame] = ()


class Assimilator(Protocol):
    """Turn background and gridded observations into an analysis.

    Attributes:
        name: as in the experiment.
        grid: of all its fields.
        world: name of the world whose errors or training data it was made from.
        digest: SHA-256 of its file, `""` where it has none.
        planes: the observation planes that it takes beyond the 69 channels, in order.
    """

    @property
    def name(self) -> str: ...
    @property
    def grid(self) -> Grid: ...
    @property
    def world(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def planes(self) -> tuple[str, ...]: ...

    def analyse(self, background: NDArray, values: NDArray, errors: NDArray) -> Analysis:
        """Correct B chains' backgrounds.

        Args:
            background: (B, 69, H, W) float32, SI.
            values: (B, 69 + M, H, W): observed values, SI; M further planes as in `planes`.
            errors: same shape: one standard deviation, > 0 exactly where a value was observed.
        """
        ...


@runtime_checkable
class EnsembleAssimilator(Assimilator, Protocol):
    """Carry an ensemble from cycle to cycle: the state of a chain and N perturbations of it, (N, 69, H, W) SI.

    A cycle forecasts the members, takes `background` of the forecasts, and analyses it by the assimilator that
    `with_members` returns; its analysis holds the perturbations of the next cycle as `members`.

    Attributes:
        size: N.
        controlled: whether the chain goes its own way, as without members; else its background is the mean of their
            forecasts.
    """

    @property
    def size(self) -> int: ...
    @property
    def controlled(self) -> bool: ...

    def first_members(self, generator: np.random.Generator) -> NDArray:
        """Return the perturbations of both frames where there are none yet."""
        ...

    def background(self, forecasts: NDArray, generator: np.random.Generator) -> tuple[NDArray, NDArray]:
        """Return the background (69, H, W) and its perturbations, of members' forecasts (N, 69, H, W)."""
        ...

    def with_members(
        self, perturbations: NDArray, generator: np.random.Generator, older: NDArray | None = None
    ) -> Assimilator:
        """Return the assimilator of one chain whose background has these perturbations, which draws by `generator`.

        With `older`, the perturbations 6 h before from which they were forecast, the analysis of a filter corrects that
        frame too; other methods have no weights for it.
        """
        ...


def removes_model_bias(method: Assimilator) -> bool:
    """Return whether a method takes the model's mean error off the background itself, or the method inside it does."""
    inner = getattr(method, "inner", None)
    return removes_model_bias(inner) if inner is not None else bool(getattr(method, "removes_model_bias", False))


@dataclass(frozen=True, eq=False)
class Past:
    """Hold what comes before an analysis, for a method with a window.

    Attributes:
        older, newer: (69, H, W) SI: the two frames of the start, 6 h apart, the newer one at the start of the window.
        observations: values and errors (69 + M, H, W) of each analysis time inside the window, oldest first; the window
            has one step more.
        share: of a correction of the newer frame that the older one gets, as an experiment's `frames` says.
        bias: (69, H, W) SI of each step: the mean error that is taken off its forecast; empty: none is.
        backgrounds: (69, H, W) SI of the cycle of each of `observations`.
    """

    older: NDArray
    newer: NDArray
    observations: Sequence[tuple[NDArray, NDArray]] = ()
    share: float = 0.0
    bias: Sequence[NDArray] = ()
    backgrounds: Sequence[NDArray] = ()


@runtime_checkable
class WindowAssimilator(Assimilator, Protocol):
    """Use what comes before an analysis, in a window whose end it is.

    Attributes:
        steps: of 6 h in the window, 0 where the method has none; a past with fewer makes it shorter.
    """

    @property
    def steps(self) -> int: ...

    def with_past(self, past: Past) -> Assimilator:
        """Return the assimilator of one chain with this past."""
        ...


def has_window(method: Assimilator) -> TypeGuard[WindowAssimilator]:
    """Return whether a method uses what comes before an analysis."""
    return isinstance(method, WindowAssimilator) and method.steps > 0


@dataclass(frozen=True)
class FreeRun:
    """Assimilate nothing: the analysis is the background."""

    grid: Grid
    world: str
    name: str = "none"
    digest: str = ""
    planes: tuple[str, ...] = ()

    def analyse(self, background: NDArray, values: NDArray, errors: NDArray) -> Analysis:
        """Return the background, whatever was observed."""
        return Analysis(background)


Loader = Callable[["World", int], Assimilator]
_METHODS: dict[str, Loader] = {}


def register(name: str, load: Loader) -> None:
    """Make a method without a file known as `name`; `load(world, threads)` builds it."""
    _METHODS[name] = load


register("none", lambda world, threads: FreeRun(world.grid, world.name))


def packaged_assimilators() -> dict[str, Path]:
    """Return the files of the packaged methods by name."""
    return {path.stem: path for path in sorted(WEIGHTS.glob("*")) if path.suffix in LOADERS}


def known_assimilators() -> list[str]:
    """Return the names that `load_assimilator` understands, sorted."""
    return sorted({*_METHODS, *ENSEMBLE_METHODS, *VARIATIONAL_METHODS, *packaged_assimilators()})


def load_assimilator(
    name_or_file: str | Path,
    world: "World",
    threads: int = 1,
    ensemble: "EnsembleSettings | None" = None,
    tuning: Mapping[str, Any] | None = None,
    variational: "VariationalSettings | None" = None,
    model: "ForecastModel | None" = None,
    operator: "LearnedOperator | None" = None,
) -> Assimilator:
    """Load the assimilator of that name, or of that file, for a world.

    Args:
        name_or_file: what the experiment names.
        world: whose states it corrects.
        threads: of its products; another number rounds differently.
        ensemble: settings of a filter's members, or of those that another method is to have.
        tuning: settings (`classical.background_error.Tuning`) in place of those of a file of background errors.
        variational: settings of a method that minimises a cost function.
        model: for 4dvar, whose cost function has a forecast in it.
        operator: for a method that takes OLR through a learned operator.

    Raises:
        AssimilatorError: the name is unknown (lists the known ones), the file does not exist or is of an unknown kind,
            or it was made for another grid, world or set of channels (says what differs).
    """
    name = current_name(str(name_or_file))
    path = packaged_assimilators().get(name, Path(name_or_file))
    if tuning is not None and path.suffix != ".nc":
        raise AssimilatorError(f"tuning goes with oi, or another file of background errors, not with {name}")
    if name in ENSEMBLE_METHODS:
        filters = import_module("dacycle.assimilators.ensemble.filters")
        of_members: Assimilator = filters.load(name, world, ensemble, threads, operator)
        return of_members
    if ensemble is not None:
        perturbed = import_module("dacycle.assimilators.ensemble.perturbed")
        single = load_assimilator(name, world, threads, None, tuning, variational, model, operator)
        of_analyses: Assimilator = perturbed.load(single, world, ensemble)
        return of_analyses
    if name in VARIATIONAL_METHODS:
        methods = import_module("dacycle.assimilators.variational.methods")
        of_cost: Assimilator = methods.load(name, world, variational, threads, model, operator)
        return of_cost
    if name in _METHODS:
        return _METHODS[name](world, threads)
    if not path.is_file():
        known = ", ".join(known_assimilators())
        raise AssimilatorError(f"there is no assimilator {name!r}: neither a file nor one of the known names ({known})")
    if path.suffix not in LOADERS:
        suffixes = ", ".join(sorted(LOADERS))
        raise AssimilatorError(f"{path}: an assimilator's file ends in one of {suffixes}, not in {path.suffix!r}")
    settings = () if tuning is None else (tuning,)
    load = import_module(f"dacycle.assimilators.{LOADERS[path.suffix]}").load
    loaded: Assimilator = load(path, world, threads, *settings)
    return loaded


def check_fits(path: Path, *, grid: str, world: str, channels: list[str], target: "World") -> None:
    """Check that the grid, world and channels of a file are those of the world that it is to run in.

    Raises:
        AssimilatorError: one of them differs; names the file and everything that differs.
    """
    differences = []
    if grid != target.grid.name:
        differences.append(f"its grid is {grid}, the world's {target.grid.name}")
    if world != target.name:
        differences.append(f"it was made for the world {world!r}, this is {target.name!r}")
    if channels != NAMES:
        different = sorted(set(NAMES) ^ set(channels))
        differences.append(
            f"its channels differ in {', '.join(different)}" if different else "its channels are in another order"
        )
    if differences:
        raise AssimilatorError(f"{path} does not fit: {'; '.join(differences)}")
