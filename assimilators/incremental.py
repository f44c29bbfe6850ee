"""Incremental analyses: a method on a coarse grid corrects a background on a finer one.

The background is averaged conservatively to the coarse grid and analysed there. Only the *increment* is interpolated
back, bilinearly, and added (Courtier, Thépaut and Hollingsworth 1994, doi:10.1002/qj.49712051912, without the outer
loops). Scales below the coarse grid's remain those of the background: to the last bit where nothing was observed.
"""

from dataclasses import dataclass

from numpy.typing import NDArray

from dacycle.assimilators.base import Analysis, Assimilator, AssimilatorError, has_window
from dacycle.forecast_adapter.grid import Grid, bilinear, conservative_average

__all__ = ["Incremental"]


@dataclass(frozen=True)
class Incremental:
    """Make an assimilator for states on `grid` of a method on a coarser grid.

    Attributes:
        inner: the method.
        grid: of backgrounds and analyses; observations are on `inner.grid`.
    """

    inner: Assimilator
    grid: Grid

    def __post_init__(self) -> None:
        if self.inner.grid.spacing <= self.grid.spacing:
            raise AssimilatorError(
                f"assimilator {self.inner.name} is on {self.inner.grid.name}, not coarser than {self.grid.name}: only "
                "increments of a coarser grid are brought up"
            )
        if has_window(self.inner):
            raise AssimilatorError(
                f"assimilator {self.inner.name} needs the cycles before, which are on {self.grid.name}, on "
                f"{self.inner.grid.name}; leave out assimilation_grid"
            )

    @property
    def name(self) -> str:
        """Name of the method."""
        return self.inner.name

    @property
    def world(self) -> str:
        """World of the method."""
        return self.inner.world

    @property
    def digest(self) -> str:
        """Digest of the method."""
        return self.inner.digest

    @property
    def planes(self) -> tuple[str, ...]:
        """Planes of the method."""
        return self.inner.planes

    def analyse(self, background: NDArray, values: NDArray, errors: NDArray) -> Analysis:
        """Correct backgrounds on `grid` with values and errors on `inner.grid`; see `Assimilator.analyse`."""
        coarse = conservative_average(background, self.grid, self.inner.grid)
        analysis = self.inner.analyse(coarse, values, errors)
        state = bilinear(analysis.state - coarse, self.inner.grid, self.grid)
        state += background
        spread = None if analysis.spread is None else bilinear(analysis.spread, self.inner.grid, self.grid)
        return Analysis(state, spread, analysis.diagnostics)
