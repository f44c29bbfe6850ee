"""The static covariance of the background's error as a control-variable transform: its application, adjoint and file.

B = U U^T, and U turns independent variables v of variance 1, one for each harmonic and control variable, into an error
of the 69 channels (Derber and Bouttier 1999, doi:10.3402/tellusa.v51i2.12316):

1. for each total wavenumber, the square root of a full covariance matrix of the control variables: vertical
   correlations, those between variables, and by its variances the horizontal correlations, homogeneous and isotropic;
2. balance: geopotential, temperature, mean sea level pressure and temperature at 2 m get their regression on the linear
   balance of the streamfunction;
3. synthesis on the grid, with winds from streamfunction and velocity potential;
4. a factor for each channel and place, which gives the error its size there.

Control variables stand in the places of the channels, streamfunction for u and velocity potential for v.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dacycle.assimilators.base import AssimilatorError
from dacycle.assimilators.classical.olr import OlrOperator
from dacycle.assimilators.variational.harmonics import Harmonics
from dacycle.common.files import whole
from dacycle.common.foreign import reading
from dacycle.forecast_adapter.channels import GROUPS, NAMES, index
from dacycle.forecast_adapter.grid import Grid, get_grid

__all__ = ["MASS", "ROTATION", "Covariance"]

FORMAT = "dacycle variational covariance 1"

ROTATION = np.array([index("u10"), *GROUPS["u"]])
"""Places of the streamfunction, where channels have the wind from the west."""
DIVERGENCE = np.array([index("v10"), *GROUPS["v"]])
"""Places of the velocity potential, where channels have the wind from the south."""
MASS = np.array([index("t2m"), index("msl"), *GROUPS["z"], *GROUPS["t"]])
"""Places of what has a balanced part."""
SCALARS = np.array([k for k in range(len(NAMES)) if k not in {*ROTATION, *DIVERGENCE}])


@dataclass(frozen=True, eq=False)
class Covariance:
    """Hold the covariance of the background's error, of size 1: an experiment's inflation multiplies it.

    Attributes:
        roots: (N, 69, 69) float32, symmetric square root of the control variables' covariance at each total wavenumber.
        balance: (N, 28, 14) float32, regression of `MASS` on the linear balance of `ROTATION`.
        scale: (69, H, W) float32, SI: the factor of each channel and place.
        grid, world: of the covariance.
        olr: operator of OLR; None: OLR is not used.
        provenance: model and its digest, samples: recorded, not interpreted.
        digest: SHA-256 of the file it was read from, `""` if it was not.
    """

    roots: NDArray
    balance: NDArray
    scale: NDArray
    grid: Grid
    world: str
    olr: OlrOperator | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    digest: str = ""

    @cached_property
    def harmonics(self) -> Harmonics:
        """Return the transforms of its truncation, in the precision of the roots."""
        return Harmonics(self.grid, len(self.roots) - 1, self.roots.dtype.type)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(M, N, 2, 69): of the control variables; those of harmonics that do not exist change nothing."""
        return len(self.roots), len(self.roots), 2, len(NAMES)

    def apply(self, v: NDArray) -> NDArray:
        """Return U v, (69, H, W) SI, of control variables (M, N, 2, 69)."""
        waves = _by_wavenumber(self.roots, v)
        balanced = self.harmonics.balanced_mass(waves[..., ROTATION])
        waves[..., MASS] += _by_wavenumber(self.balance, balanced)
        x = np.empty_like(self.scale)
        x[ROTATION], x[DIVERGENCE] = self.harmonics.winds(waves[..., ROTATION], waves[..., DIVERGENCE])
        x[SCALARS] = self.harmonics.synthesis(waves[..., SCALARS])
        x *= self.scale
        return x

    def adjoint(self, x: NDArray) -> NDArray:
        """Return U^T x, (M, N, 2, 69), of fields (69, H, W)."""
        scaled = x * self.scale
        waves = np.empty(self.shape, self.roots.dtype)
        waves[..., SCALARS] = self.harmonics.synthesis_adjoint(scaled[SCALARS])
        rotation, waves[..., DIVERGENCE] = self.harmonics.winds_adjoint(scaled[ROTATION], scaled[DIVERGENCE])
        balanced = _by_wavenumber(self.balance.swapaxes(1, 2), waves[..., MASS])
        waves[..., ROTATION] = rotation + self.harmonics.balanced_mass_adjoint(balanced)
        return _by_wavenumber(self.roots.swapaxes(1, 2), waves) * self.harmonics.exists

    def variance(self, channel: int, row: int) -> float:
        """Return the variance of a channel, SI, in the first cell of a row."""
        point = np.zeros_like(self.scale)
        point[channel, row, 0] = 1
        return float(np.square(self.adjoint(point).astype(np.float64)).sum())

    def save(self, path: Path) -> None:
        """Write a netCDF file."""
        matrix = ("wavenumber", "control", "control_too")
        variables: dict[str, Any] = {
            "roots": (matrix, self.roots),
            "balance": (("wavenumber", "mass", "rotation"), self.balance),
            "scale": (("channel", "latitude", "longitude"), self.scale),
        }
        attributes: dict[str, Any] = {
            "format": FORMAT,
            "grid": self.grid.name,
            "world": self.world,
            "provenance": json.dumps(dict(self.provenance)),
        }
        if self.olr is not None:
            variables["olr_weights"] = ("predictor", self.olr.weights)
            attributes |= {"olr_constant": self.olr.constant, "olr_error": self.olr.error}
        coordinates = {"channel": NAMES, "latitude": self.grid.latitude, "longitude": self.grid.longitude}
        packed = {name: {"zlib": True, "complevel": 9} for name in ("roots", "scale")}
        with whole(path) as temporary:
            xr.Dataset(variables, coordinates, attributes).to_netcdf(temporary, engine="h5netcdf", encoding=packed)

    @classmethod
    def load(cls, path: Path) -> "Covariance":
        """Read what `save` wrote.

        Raises:
            AssimilatorError: there is no such file, or it is another kind of file, of other channels, or damaged.
        """
        if not path.is_file():
            raise AssimilatorError(
                f"{path}: there is no such file; `dacycle train` makes one of a recipe of kind 3dvar"
            )
        with reading(path, AssimilatorError):
            with xr.open_dataset(path, engine="h5netcdf", mask_and_scale=False) as file:
                dataset = file.load()
            if dataset.attrs.get("format") != FORMAT:
                raise AssimilatorError(f"{path}: not the covariance of a variational method ({FORMAT!r})")
            if list(dataset.channel.values) != NAMES:
                raise AssimilatorError(f"{path}: its channels are not the {len(NAMES)} of a state, in their order")
            roots, balance, scale = (dataset[name].values for name in ("roots", "balance", "scale"))
            if not all(np.isfinite(array).all() for array in (roots, balance, scale)):
                raise AssimilatorError(f"{path}: it has values that are not finite")
            olr = None
            if "olr_weights" in dataset:
                constant, error = (float(dataset.attrs[name]) for name in ("olr_constant", "olr_error"))
                olr = OlrOperator(dataset["olr_weights"].values, constant, error)
            return cls(
                roots,
                balance,
                scale,
                get_grid(dataset.attrs["grid"]),
                dataset.attrs["world"],
                olr,
                json.loads(dataset.attrs["provenance"]),
                hashlib.sha256(path.read_bytes()).hexdigest(),
            )


def _by_wavenumber(matrices: NDArray, waves: NDArray) -> NDArray:
    """Return matrices (N, K, C) times waves (M, N, 2, C), (M, N, 2, K)."""
    count, wavenumbers, phases, _ = waves.shape
    by_wavenumber = waves.swapaxes(0, 1).reshape(wavenumbers, count * phases, -1)
    product = by_wavenumber @ matrices.swapaxes(1, 2)
    return product.reshape(wavenumbers, count, phases, -1).swapaxes(0, 1)
