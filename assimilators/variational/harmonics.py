"""Spherical harmonics on a regular grid: synthesis of scalars and of winds, their adjoints, and least-squares analysis.

A field is the sum over m and n of (c cos(m lambda) + s sin(m lambda)) P_mn(sin phi), where the P_mn are normalised so
that each harmonic has an area-weighted mean square of 1. Coefficients (M, N, 2, C) hold c and s of C fields by zonal
wavenumber m and total wavenumber n; those with n < m do not exist and are ignored. Winds come from streamfunction and
velocity potential on the unit sphere, u = -d psi/d phi + 1/cos(phi) d chi/d lambda and v = 1/cos(phi) d psi/d lambda +
d chi/d phi (Daley 1991, Atmospheric Data Analysis, chapter 7). Adjoints are transposes of the same matrices, so that
they are exact.
"""

from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.special import assoc_legendre_p_all

from dacycle.forecast_adapter.grid import Grid

__all__ = ["Harmonics"]

_RANK = 1e-3
"""Singular values below this share of the largest one are left out of the analysis: rows do not resolve them."""


class Harmonics:
    """Transforms between harmonics with total wavenumbers up to `truncation` and a grid without poles.

    Args:
        grid: the grid.
        truncation: the largest total wavenumber; at most half the number of columns less 1.
        dtype: of the transforms.
    """

    def __init__(self, grid: Grid, truncation: int, dtype: type = np.float32) -> None:
        self.grid, self.size = grid, truncation + 1
        values, slopes = _legendre(grid, truncation)
        orders = np.arange(self.size)
        cosine = np.cos(np.deg2rad(grid.latitude))[None, :, None]
        # (M, H, N) each: of a scalar, of its slope along a meridian, and along a parallel.
        self._scalar: NDArray = values.astype(dtype)
        self._meridional: NDArray = slopes.astype(dtype)
        self._zonal: NDArray = (orders[:, None, None] * values / cosine).astype(dtype)
        angle = np.outer(orders, np.deg2rad(grid.longitude))
        self._waves: NDArray = np.concatenate([np.cos(angle), np.sin(angle)]).astype(dtype)  # (2M, W)
        self.exists = (orders[:, None] <= orders[None, :])[:, :, None, None]
        """(M, N, 1, 1): whether there is such a harmonic."""

    def synthesis(self, coefficients: NDArray) -> NDArray:
        """Return fields (C, H, W) of coefficients (M, N, 2, C)."""
        return self._along_rows(self._product(self._scalar, coefficients))

    def synthesis_adjoint(self, fields: NDArray) -> NDArray:
        """Return the adjoint of `synthesis`, (M, N, 2, C), of fields (C, H, W)."""
        return self._product(self._scalar.swapaxes(1, 2), self._along_rows_adjoint(fields))

    def winds(self, psi: NDArray, chi: NDArray) -> tuple[NDArray, NDArray]:
        """Return u and v (C, H, W) of coefficients (M, N, 2, C) of streamfunction and velocity potential."""
        u = -self._product(self._meridional, psi) + self._product(self._zonal, _turned(chi))
        v = self._product(self._zonal, _turned(psi)) + self._product(self._meridional, chi)
        return self._along_rows(u), self._along_rows(v)

    def winds_adjoint(self, u: NDArray, v: NDArray) -> tuple[NDArray, NDArray]:
        """Return the adjoint of `winds`, twice (M, N, 2, C), of two fields (C, H, W)."""
        along_u, along_v = self._along_rows_adjoint(u), self._along_rows_adjoint(v)
        meridional, zonal = self._meridional.swapaxes(1, 2), self._zonal.swapaxes(1, 2)
        psi = -self._product(meridional, along_u) - _turned(self._product(zonal, along_v))
        chi = -_turned(self._product(zonal, along_u)) + self._product(meridional, along_v)
        return psi, chi

    def analysis(self, fields: NDArray) -> NDArray:
        """Return the coefficients (M, N, 2, C) that fit fields (C, H, W) best, in area-weighted least squares."""
        return self._product(self._inverse_scalar, self._along_rows_adjoint(fields) * self._per_wave)

    def analysis_of_winds(self, u: NDArray, v: NDArray) -> tuple[NDArray, NDArray]:
        """Return streamfunction and velocity potential, (M, N, 2, C) each, that fit winds (C, H, W) best."""
        along_u, along_v = (self._along_rows_adjoint(wind) * self._per_wave for wind in (u, v))
        # psi and turned chi solve one real system with u and turned v.
        right = np.concatenate([along_u, _turned(along_v)], axis=1)
        solved = self._product(self._inverse_winds, right)
        return solved[:, : self.size], -_turned(solved[:, self.size :])

    def balanced_mass(self, psi: NDArray) -> NDArray:
        """Return b with laplace(b) = div(sin(phi) grad(psi)), linear balance, as coefficients like those of psi."""
        below, above = self._balance
        b = np.zeros_like(psi)
        b[:, 1:] += below[:, 1:] * psi[:, :-1]
        b[:, :-1] += above[:, :-1] * psi[:, 1:]
        return b

    def balanced_mass_adjoint(self, b: NDArray) -> NDArray:
        """Return the adjoint of `balanced_mass`."""
        below, above = self._balance
        psi = np.zeros_like(b)
        psi[:, :-1] += below[:, 1:] * b[:, 1:]
        psi[:, 1:] += above[:, :-1] * b[:, :-1]
        return psi

    @cached_property
    def _balance(self) -> tuple[NDArray, NDArray]:
        """Return the factors (M, N, 1, 1) of psi at n-1 and n+1 in b at n; b has no mean."""
        m, n = np.meshgrid(np.arange(self.size), np.arange(self.size + 1), indexing="ij")
        epsilon = np.sqrt(np.maximum(n**2 - m**2, 0) / (4 * n**2 - 1.0))
        order = np.arange(1, self.size)
        below, above = np.zeros((2, self.size, self.size))
        below[:, 1:] = epsilon[:, 1:-1] * (order - 1) / order
        above[:, 1:] = epsilon[:, 2:] * (order + 2) / (order + 1)
        dtype = self._scalar.dtype
        return below[:, :, None, None].astype(dtype), above[:, :, None, None].astype(dtype)

    def _product(self, table: NDArray, waves: NDArray) -> NDArray:
        """Return the matrix product along the second axis of (M, K, 2, C)."""
        count, _, phases, fields = waves.shape
        return (table @ waves.reshape(count, -1, phases * fields)).reshape(count, -1, phases, fields)

    def _along_rows(self, waves: NDArray) -> NDArray:
        """Return fields (C, H, W) of waves (M, H, 2, C)."""
        count, rows, _, fields = waves.shape
        by_row = waves.transpose(3, 1, 2, 0).reshape(fields * rows, 2 * count)
        return (by_row @ self._waves).reshape(fields, rows, -1)

    def _along_rows_adjoint(self, fields: NDArray) -> NDArray:
        """Return the adjoint of `_along_rows`."""
        count, rows, columns = fields.shape
        waves = fields.reshape(count * rows, columns) @ self._waves.T
        return np.ascontiguousarray(waves.reshape(count, rows, 2, self.size).transpose(3, 1, 2, 0))

    @property
    def _per_wave(self) -> NDArray:
        """Return (M, 1, 1, 1): the adjoint along rows times this is their inverse."""
        factor = np.full(self.size, 2 / self.grid.shape[1], self._scalar.dtype)
        factor[0] /= 2
        return factor[:, None, None, None]

    @cached_property
    def _inverse_scalar(self) -> NDArray:
        return self._weighted_inverse(self._scalar)

    @cached_property
    def _inverse_winds(self) -> NDArray:
        """Return the inverse (M, 2N, 2H) of the system that gives u and turned v of psi and turned chi."""
        meridional, zonal = self._meridional, self._zonal
        return self._weighted_inverse(np.block([[-meridional, zonal], [-zonal, meridional]]))

    def _weighted_inverse(self, table: NDArray) -> NDArray:
        """Return the area-weighted pseudoinverse of each (M, R, K), whose R rows go through the latitudes."""
        root = np.resize(np.sqrt(self.grid.weights[:, 0]), table.shape[1])
        inverse = np.linalg.pinv(table.astype(np.float64) * root[:, None], rcond=_RANK) * root
        return inverse.astype(table.dtype)


def _turned(waves: NDArray) -> NDArray:
    """Return (s, -c) of (c, s): the phases of the derivative along a parallel, over m."""
    return np.stack([waves[:, :, 1], -waves[:, :, 0]], axis=2)


def _legendre(grid: Grid, truncation: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return P_mn at the rows, and its derivative by latitude, (M, H, N) each; 0 where n < m."""
    latitude = np.deg2rad(np.asarray(grid.latitude, float))
    # (N, 2 T + 1, H), normalised to an integral of 1 over sin(phi).
    values, slopes = assoc_legendre_p_all(truncation, truncation, np.sin(latitude), norm=True, diff_n=1)
    orders = slice(0, truncation + 1)
    factor = np.full((truncation + 1, 1, 1), 2.0)
    factor[0] = np.sqrt(2)
    values, slopes = (x[:, orders].transpose(1, 2, 0) * factor for x in (values, slopes * np.cos(latitude)))
    return values, slopes
