"""Ensemble optimal interpolation: a static ensemble of forecast errors as the background error covariance.

Per grid column and in the space of the N members (Evensen 2003, doi:10.1007/s10236-003-0036-9; Oke et al. 2010,
doi:10.1007/s10236-009-0221-5), with the LETKF's localisation, which makes observations less certain with distance
(Hunt et al. 2007, doi:10.1016/j.physd.2006.11.008):

    w = ((N-1) I + Y^T R^-1 Y)^-1 Y^T R^-1 d,    x_a = x_b + X w

X are the members, Y = H X, d the departures. Members are errors of all 69 channels at once, so an observation of one
variable corrects the others according to the model's own errors: wind with geopotential, temperature with thickness.
OLR is compared with the regression in `olr`, where the ensemble's file holds one.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from dacycle.assimilators.base import Analysis, AssimilatorError, check_fits
from dacycle.assimilators.classical.background_error import BackgroundError, Tuning
from dacycle.forecast_adapter.channels import GROUPS, NAMES
from dacycle.forecast_adapter.grid import Grid, great_circle_km

if TYPE_CHECKING:
    from dacycle.forecast_adapter.worlds.world import World

__all__ = ["OptimalInterpolation", "gaspari_cohn", "load"]

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
        # (cells, 69 + M, N): the numbers of one cell are contiguous.
        self._observed = np.ascontiguousarray(observed.reshape(*observed.shape[:2], -1).transpose(2, 1, 0))
        self._members = self._observed[:, :_CHANNELS]
        self._localisation = _localisation_table(self.grid, self.reach_km)
        # Y^T R^-1 Y is symmetric: only its upper triangle is summed over cells.
        self._upper, self._both = _triangle(len(members))
        self._threads = threads
        self._pools = ThreadpoolController()

    def analyse(self, background: NDArray, values: NDArray, errors: NDArray) -> Analysis:
        """Correct B chains' backgrounds; see `base.Assimilator`. Planes beyond `self.planes` are not used.

        Beyond the reach of every observation the background is returned bit for bit. The diagnostics count, per chain,
        the observations used, the unused ones on further planes, and the cells within reach.

        Raises:
            AssimilatorError: arrays of other shapes, a negative error, an observed value or error that is not finite.
        """
        self._check(background, values, errors)
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

    def _check(self, background: NDArray, values: NDArray, errors: NDArray) -> None:
        chains, shape = len(background), self.grid.shape
        if background.shape != (chains, _CHANNELS, *shape):
            raise AssimilatorError(f"oi: background is {background.shape}, not {(chains, _CHANNELS, *shape)}")
        used = self._observed.shape[1]
        if values.shape != errors.shape or values[:, :used].shape != (chains, used, *shape):
            raise AssimilatorError(
                f"oi: values {values.shape} and errors {errors.shape} must both be {(chains, f'{used} + M', *shape)}"
            )
        wrong = ~(np.isfinite(errors) & (errors >= 0)) | ((errors > 0) & ~np.isfinite(values))
        if wrong.any():
            channel = int(np.argwhere(wrong)[0, 1])
            name = NAMES[channel] if channel < _CHANNELS else f"further plane {channel - _CHANNELS}"
            raise AssimilatorError(
                f"oi: {name} has an observed value or an error that is not finite, or a negative error"
            )

    def _analyse_one(self, background: NDArray, values: NDArray, errors: NDArray) -> tuple[NDArray, int]:
        """Return the analysis of one chain, (69, H, W), and the number of cells within reach of an observation."""
        flat = background.reshape(_CHANNELS, -1)
        equivalents, error = self._equivalents(background), self._errors(errors)
        cells = np.flatnonzero(error.any(axis=0))
        error = error[:, cells].T
        precision = np.divide(1, error, out=np.zeros(error.shape, np.float32), where=error > 0)
        departures = values[: len(equivalents)].reshape(equivalents.shape)[:, cells].T - equivalents[:, cells].T
        # Selected, not multiplied by 0: values in unobserved places, NaN included, must change nothing.
        departures = np.where(error > 0, departures, 0).astype(np.float32) * precision
        Y = self._observed[cells] * precision[:, :, None]
        transposed = Y.transpose(0, 2, 1)
        information, projected = transposed @ Y, transposed @ departures[:, :, None]
        reached, weights = self._solve(cells, information, projected[:, :, 0])
        state = flat.copy()
        state[:, reached] += (self._members[reached] @ weights[:, :, None])[:, :, 0].T
        return state.reshape(background.shape), len(reached)

    def _equivalents(self, background: NDArray) -> NDArray:
        """Return H(x_b) in every cell, (69 + M, H W): the channels and, where it is used, OLR."""
        if self._olr is not None:
            background = np.concatenate([background, self._olr.operator(background)[None]])
        return background.reshape(len(background), -1)

    def _errors(self, errors: NDArray) -> NDArray:
        """Return observation errors (69 + M, H W), with the operator's in OLR's; 0 where nothing was observed."""
        error = errors[: self._observed.shape[1]].reshape(self._observed.shape[1], -1)
        if self._olr is not None:
            error = error.copy()
            error[-1] = np.where(error[-1] > 0, np.hypot(error[-1], self._olr.operator.error), 0)
        return error

    def _solve(self, cells: NDArray, information: NDArray, projected: NDArray) -> tuple[NDArray, NDArray]:
        """Return the columns within reach of an observation, and the members' weights there.

        Args:
            cells: sorted flat indices of the C observed cells.
            information: (C, N, N), each cell's Y^T R^-1 Y.
            projected: (C, N), each cell's Y^T R^-1 d.

        Returns:
            (n,) flat indices, and (n, N) float32.
        """
        width, members = self.grid.shape[1], self._members.shape[2]
        prior = (members - 1) * np.eye(members)
        reached, weights = [np.zeros(0, int)], [np.zeros((0, members))]
        information = np.take(information.reshape(len(cells), members**2), self._upper, axis=1)
        for row in range(self.grid.shape[0]):
            near, localisation = self._reach(row, cells)
            columns = np.flatnonzero(localisation.any(axis=1))
            localisation = localisation[columns]
            # In double precision: with many precise observations the matrix is too badly conditioned for single.
            matrix = np.take(localisation @ information[near], self._both, axis=1).reshape(-1, members, members) + prior
            right = (localisation @ projected[near]).astype(np.float64)
            reached.append(row * width + columns)
            weights.append(np.linalg.solve(matrix, right[:, :, None])[:, :, 0])
        return np.concatenate(reached), np.concatenate(weights).astype(np.float32)

    def _reach(self, row: int, cells: NDArray) -> tuple[slice, NDArray]:
        """Return the observed cells in rows near enough to this one, and their localisation at its columns, (W, n)."""
        width = self.grid.shape[1]
        rows = np.flatnonzero(self._localisation[row].any(axis=1))
        near = slice(*np.searchsorted(cells, (rows[0] * width, (rows[-1] + 1) * width)))
        cell_rows, cell_columns = np.divmod(cells[near], width)
        turn = (cell_columns[None, :] - np.arange(width)[:, None]) % width
        return near, self._localisation[row][cell_rows, turn]


def gaspari_cohn(distance: NDArray, reach: float) -> NDArray:
    """Return the fifth-order piecewise rational correlation of Gaspari and Cohn.

    It is 1 at distance 0, 5/24 at half the reach, and exactly 0 from the reach on (Gaspari and Cohn 1999,
    doi:10.1002/qj.49712555417, equation 4.10, with c = reach / 2).

    Args:
        distance: in any unit.
        reach: in the same unit; may be infinite, then the correlation is 1 everywhere.
    """
    r = 2 * np.abs(np.asarray(distance, np.float64)) / reach
    inner = 1 + r**2 * (-5 / 3 + r * (5 / 8 + r * (1 / 2 - r / 4)))
    far = np.maximum(r, 1)
    outer = 4 - 2 / (3 * far) + far * (-5 + far * (5 / 3 + far * (5 / 8 + far * (-1 / 2 + far / 12))))
    return np.where(r <= 1, inner, np.where(r < 2, np.maximum(outer, 0), 0))


def _triangle(size: int) -> tuple[NDArray, NDArray]:
    """Return the indices that take the upper triangle out of a flat symmetric matrix, and those that restore it.

    Returns:
        (n,) indices of the upper triangle in the flat (size, size) matrix; (size * size,) indices into the triangle.
    """
    rows, columns = np.triu_indices(size)
    positions = np.empty((size, size), int)
    positions[rows, columns] = positions[columns, rows] = np.arange(len(rows))
    return rows * size + columns, positions.ravel()


def _localisation_table(grid: Grid, reach_km: float) -> NDArray:
    """Return (H, H, W) float32: the localisation of rows i and j at each difference of columns, which is periodic."""
    latitude = np.asarray(grid.latitude, float)
    turn = np.asarray(grid.longitude, float) - grid.longitude[0]
    distance = great_circle_km(latitude[:, None, None], np.zeros(1), latitude[None, :, None], turn)
    return gaspari_cohn(distance, reach_km).astype(np.float32)


def load(path: Path, world: "World", threads: int = 1) -> OptimalInterpolation:
    """Load optimal interpolation from a background error file that was made for this world.

    Raises:
        AssimilatorError: the file is not one, or was made for another grid, world or set of channels.
    """
    error = BackgroundError.load(path)
    check_fits(path, grid=error.grid.name, world=error.world, channels=NAMES, target=world)
    return OptimalInterpolation(error, threads=threads)
