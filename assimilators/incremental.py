"""Incremental analyses: a method on a coarse grid corrects a background on a finer one.

The background is averaged down conservatively, the method analyses that, and only its *increment* is brought back up,
bilinearly, and added (Courtier, Thépaut and Hollingsworth 1994, doi:10.1002/qj.49712051912, without the outer loops).
Scales that the coarse grid does not hold stay the background's: to the last bit where nothing was observed.
"""

from dataclasses import dataclass

from numpy.typing import NDArray

from dacycle.assimilators.base import Analysis, Assimilator, AssimilatorError
from dacycle.forecast_adapter.grid import Grid, bilinear, conservative_average

__all__ = ["Incremental"]


@dataclass(frozen=True)
class Incremental:
    """An assimilator for states on `grid` that is made of one on a coarser grid.

    Attributes:
        inner: the method.
        grid: of backgrounds and analyses; observations come on `inner.grid`.
    """

    inner: Assimilator
    grid: Grid

    def __post_init__(self) -> None:
        if self.inner.grid.spacing <= self.grid.spacing:
            raise AssimilatorError(
                f"assimilator {self.inner.name} is on {self.inner.grid.name}, not coarser than {self.grid.name}: only "
                "increments of a coarser grid are brought up"
            )

    @property
    def name(self) -> str:
        """The method's."""
        return self.inner.name

    @property
    def world(self) -> str:
        """The method's."""
        return self.inner.world

    @property
    def digest(self) -> str:
        """The method's."""
        return self.inner.digest

    @property
    def planes(self) -> tuple[str, ...]:
        """The method's."""
        return self.inner.planes

    def analyse(self, background: NDArray, values: NDArray, errors: NDArray) -> Analysis:
        """See `Assimilator.analyse`; background and analysis on `grid`, values and errors on `inner.grid`."""
        coarse = conservative_average(background, self.grid, self.inner.grid)
        found = self.inner.analyse(coarse, values, errors)
        state = bilinear(found.state - coarse, self.inner.grid, self.grid)
        state += background
        spread = None if found.spread is None else bilinear(found.spread, self.inner.grid, self.grid)
        return Analysis(state, spread, found.diagnostics)
