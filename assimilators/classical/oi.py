"""Ensemble optimal interpolation: a static ensemble of forecast errors as the background error covariance.

Per grid column and in the space of the N members (Evensen 2003, doi:10.1007/s10236-003-0036-9; Oke et al. 2010,
doi:10.1007/s10236-009-0221-5), with the LETKF's localisation, which makes observations less certain with distance
(Hunt et al. 2007, doi:10.1016/j.physd.2006.11.008):

    w = ((N-1) I + Y^T R^-1 Y)^-1 Y^T R^-1 d,    x_a = x_b + X w

X are the members, Y = H X, d the departures. Members are errors of all 69 channels at once, so an observation of one
variable corrects the others according to the model's own errors: wind with geopotential, temperature with thickness.
OLR is compared with the regression in `olr`, where the ensemble's file holds one.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from dacycle.assimilators.base import Analysis, check_fits
from dacycle.assimilators.classical.background_error import BackgroundError, Tuning, shifted
from dacycle.assimilators.classical.localisation import Blocks, Surroundings, triangle, upper_squares
from dacycle.assimilators.classical.observed import check_fields, observed_cells
from dacycle.forecast_adapter.channels import GROUPS, NAMES
from dacycle.forecast_adapter.grid import Grid

if TYPE_CHECKING:
    from dacycle.forecast_adapter.worlds.world import World

__all__ = ["OptimalInterpolation", "load"]

_CHANNELS = len(NAMES)


class OptimalInterpolation:
    """Ensemble optimal interpolation on one grid.

    All observations in a cell have the same distance to a column. So Y^T R^-1 Y is formed once for each cell, and each
    column sums the cells within its reach, weighted by the localisation: one matrix product per row of the grid.

    Args:
        error: the static ensemble.
        tuning: in place of the ensemble's own.
        threads: threads of the matrix products; the same number gives the same bits.
    """

    name = "oi"

    def __init__(self, error: BackgroundError, tuning: Tuning | None = None, *, threads: int = 1) -> None:
        self.grid: Grid = error.grid
        self.world = error.world
        self.digest = error.digest
        self.tuning = tuning or error.tuning
        self.reach_km: float = self.tuning.distance_km
        inflation = self.tuning.inflation_by_channel()
        self.background_error_std: NDArray = error.std * inflation
        """(69,) SI: standard deviation of the background error, as quality control needs it."""
        members = error.members * inflation[:, None, None]
        self._olr = error.olr
        self.planes: tuple[str, ...] = () if error.olr is None else ("olr",)
        observed = members
        if error.olr is not None:
            # OLR depends on humidity most of all, so it has the inflation of humidity.
            olr = error.olr.members[:, None] * inflation[GROUPS["q"][0]]
            observed = np.concatenate([members, olr], axis=1, dtype=np.float32)
        size = len(observed)
        observed = shifted(observed, self.tuning.shift)
        # Degrees of freedom: the covariance is the mean of those of the members and of the shifted ones.
        self._freedom = len(observed) // size * (size - 1)
        # (cells, 69 + M, N): the numbers of one cell are contiguous.
        self._observed = np.ascontiguousarray(observed.reshape(*observed.shape[:2], -1).transpose(2, 1, 0))
        self._members = self._observed[:, :_CHANNELS]
        self._surroundings = Surroundings(self.grid, self.reach_km, self.tuning.block)
        self._blocks = Blocks(self.grid, self.tuning.block)
        _, self._both = triangle(len(observed))  # Y^T R^-1 Y is symmetric: only its upper triangle is summed over cells
        self._threads = threads
        self._pools = ThreadpoolController()

    def analyse(self, background: NDArray, values: NDArray, errors: NDArray) -> Analysis:
        """Correct B chains' backgrounds; see `base.Assimilator`. Planes beyond `self.planes` are not used.

        Beyond the reach of every observation the background is returned bit for bit. The diagnostics count, per chain,
        the observations used, the unused ones on further planes, and the cells within reach.

        Raises:
            AssimilatorError: arrays of other shapes, a negative error, an observed value or error that is not finite.
        """
        check_fields(self.name, self.grid, self.planes, background, values, errors)
        with self._pools.limit(limits=self._threads, user_api="blas"):
            chains = [self._analyse_one(*fields) for fields in zip(background, values, errors, strict=True)]
        states, reached = zip(*chains, strict=True)
        used = self._observed.shape[1]
        diagnostics = {
            "observations": [int(np.count_nonzero(chain[:used])) for chain in errors],
            "unused_observations": [int(np.count_nonzero(chain[used:])) for chain in errors],
            "cells_in_reach": list(reached),
        }
        return Analysis(np.stack(states), None, diagnostics)

    def _analyse_one(self, background: NDArray, values: NDArray, errors: NDArray) -> tuple[NDArray, int]:
        """Return the analysis of one chain, (69, H, W), and the number of cells within reach of an observation."""
        flat = background.reshape(_CHANNELS, -1)
        observed = observed_cells(background, values, errors, None if self._olr is None else self._olr.operator)
        Y = self._observed[observed.cells] * observed.precision[:, :, None]
        information, projected = upper_squares(Y), Y.transpose(0, 2, 1) @ observed.departures[:, :, None]
        state, reached = flat.copy(), 0
        for columns, (weights,) in self._blocks.rows(self._solve(observed.cells, information, projected[:, :, 0])):
            state[:, columns] += (self._members[columns] @ weights[:, :, None])[:, :, 0].T
            reached += int(weights.any(axis=1).sum())
        return state.reshape(background.shape), reached

    def _solve(self, cells: NDArray, information: NDArray, projected: NDArray) -> NDArray[np.float32]:
        """Return the members' weights at the centres of the blocks, 0 beyond reach of every observation.

        Args:
            cells: sorted flat indices of the C observed cells.
            information: (C, n), upper triangles of each cell's Y^T R^-1 Y.
            projected: (C, N), each cell's Y^T R^-1 d.

        Returns:
            (rows of blocks, columns of blocks, N).
        """
        members = self._members.shape[2]
        prior = self._freedom * np.eye(members)
        weights = np.zeros((*self._surroundings.shape, members), np.float32)
        for row in range(len(weights)):
            columns, near, localisation = self._surroundings.of_row(row, cells)
            # In double precision: with many precise observations the matrix is too badly conditioned for single.
            matrix = np.take(localisation @ information[near], self._both, axis=1).reshape(-1, members, members) + prior
            right = (localisation @ projected[near]).astype(np.float64)
            weights[row, columns] = np.linalg.solve(matrix, right[:, :, None])[:, :, 0]
        return weights


def load(path: Path, world: "World", threads: int = 1, tuning: Mapping[str, Any] | None = None) -> OptimalInterpolation:
    """Load optimal interpolation from a background error file that was made for this world.

    Args:
        path: the file.
        world: the world.
        threads: see `OptimalInterpolation`.
        tuning: settings in place of those that the file holds.

    Raises:
        AssimilatorError: the file is not one, or was made for another grid, world or set of channels.
    """
    error = BackgroundError.load(path)
    check_fits(path, grid=error.grid.name, world=error.world, channels=NAMES, target=world)
    return OptimalInterpolation(error, replace(error.tuning, **tuning or {}), threads=threads)
