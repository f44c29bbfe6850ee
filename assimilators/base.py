"""The protocol of the assimilation methods, and how one is found by its name or its file.

A method's name is the name of its file in `assimilators/weights/`: `oi.nc` is `oi`. What loads a file is chosen by its
suffix (`register_suffix`); a method that needs no file registers under its name (`register`).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from numpy.typing import NDArray

from dacycle.common.errors import DacycleError
from dacycle.forecast_adapter.channels import NAMES
from dacycle.forecast_adapter.grid import Grid

if TYPE_CHECKING:
    from dacycle.forecast_adapter.worlds.world import World

__all__ = [
    "Analysis",
    "Assimilator",
    "AssimilatorError",
    "FreeRun",
    "check_fits",
    "known_assimilators",
    "load_assimilator",
    "packaged_assimilators",
    "register",
    "register_suffix",
]

WEIGHTS = Path(__file__).parent / "weights"


class AssimilatorError(DacycleError, ValueError):
    """An assimilator is unknown, its file unusable in this world, or its input malformed; the message says which."""


@dataclass(frozen=True)
class Analysis:
    """What an assimilator returns.

    Attributes:
        state: (B, 69, H, W) float32, SI: the analysis, not yet guarded or clipped.
        spread: (B, 69, H, W) float32, SI: posterior standard deviation, or None where the method has none.
        diagnostics: what the method has to say of itself, by name; sequences have one entry per chain.
    """

    state: NDArray
    spread: NDArray | None = None
    diagnostics: dict[str, Any] = field(default_factory=dict)


class Assimilator(Protocol):
    """A method that turns background and gridded observations into an analysis.

    Attributes:
        name: as in the experiment.
        grid: the grid of all its fields.
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


@dataclass(frozen=True)
class FreeRun:
    """No assimilation: the analysis is the background."""

    grid: Grid
    world: str
    name: str = "none"
    digest: str = ""
    planes: tuple[str, ...] = ()

    def analyse(self, background: NDArray, values: NDArray, errors: NDArray) -> Analysis:
        """The background itself, whatever was observed."""
        return Analysis(background)


Loader = Callable[["World", int], Assimilator]
FileLoader = Callable[[Path, "World", int], Assimilator]
_METHODS: dict[str, Loader] = {}
_SUFFIXES: dict[str, FileLoader] = {}


def register(name: str, load: Loader) -> None:
    """Make a method without a file of its own known as `name`; `load(world, threads)` builds it."""
    _METHODS[name] = load


def register_suffix(suffix: str, load: FileLoader) -> None:
    """Have files with this suffix, in `weights/` or given by their path, loaded by `load(path, world, threads)`."""
    _SUFFIXES[suffix] = load


register("none", lambda world, threads: FreeRun(world.grid, world.name))


def packaged_assimilators() -> dict[str, Path]:
    """The files of the packaged methods by name."""
    files = sorted(WEIGHTS.glob("*")) if WEIGHTS.is_dir() else []
    return {path.stem: path for path in files if path.suffix in _SUFFIXES}


def known_assimilators() -> list[str]:
    """Names that `load_assimilator` understands, sorted."""
    return sorted({*_METHODS, *packaged_assimilators()})


def load_assimilator(name_or_file: str | Path, world: "World", threads: int = 1) -> Assimilator:
    """The assimilator of that name, or of that file, for a world.

    Raises:
        AssimilatorError: an unknown name (lists the known ones), a file that is absent or of an unknown kind, or one
            that was made for another grid, world or set of channels (says what differs).
    """
    name = str(name_or_file)
    if name in _METHODS:
        return _METHODS[name](world, threads)
    path = packaged_assimilators().get(name, Path(name_or_file))
    if not path.is_file():
        known = ", ".join(known_assimilators())
        raise AssimilatorError(f"there is no assimilator {name!r}: neither a file nor one of the known names ({known})")
    if path.suffix not in _SUFFIXES:
        kinds = ", ".join(sorted(_SUFFIXES))
        raise AssimilatorError(f"{path}: an assimilator's file ends in one of {kinds}, not in {path.suffix!r}")
    return _SUFFIXES[path.suffix](path, world, threads)


def check_fits(path: Path, *, grid: str, world: str, channels: list[str], target: "World") -> None:
    """Refuse a file whose grid, world or channels are not those of the world it is to run in.

    Raises:
        AssimilatorError: naming the file and everything that differs.
    """
    differences = []
    if grid != target.grid.name:
        differences.append(f"its grid is {grid}, the world's {target.grid.name}")
    if world != target.name:
        differences.append(f"it was made for the world {world!r}, this is {target.name!r}")
    if channels != NAMES:
        other = sorted(set(NAMES) ^ set(channels))
        differences.append(
            f"its channels differ in {', '.join(other)}" if other else "its channels are in another order"
        )
    if differences:
        raise AssimilatorError(f"{path} does not fit: {'; '.join(differences)}")
