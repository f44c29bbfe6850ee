"""The mean error of one step of a forecast model, by place, season and hour: its file, and its removal.

A model's mean error recurs in every cycle and adds up where nothing is observed, so that it is better removed from the
background than left to the observations (Dee 2005, doi:10.1256/qj.05.137). It is estimated from forecasts of training
years (`assimilators.sampling.model_bias`) and stands in a file beside the model's, `MODEL.bias.nc`.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dacycle.common.errors import DacycleError
from dacycle.common.files import whole
from dacycle.common.foreign import reading
from dacycle.forecast_adapter.channels import GROUPS, NAMES
from dacycle.forecast_adapter.grid import Grid, get_grid
from dacycle.forecast_adapter.worlds.world import ANNUAL_TERMS, DAILY_TERMS, climatology_basis

__all__ = ["ModelBias", "ModelBiasError", "bias_file"]

_FORMAT = "dacycle model bias 1"
_HUMIDITY = GROUPS["q"]


class ModelBiasError(DacycleError, ValueError):
    """Say which file of a model's mean error is missing, damaged, or of another model."""


def bias_file(model: Path) -> Path:
    """Return the file that holds the mean error of the model in this file."""
    return model.with_suffix(".bias.nc")


@dataclass(frozen=True, eq=False)
class ModelBias:
    """Hold the mean error (forecast minus truth) that one step of a model adds.

    Attributes:
        coefficients: (5 or 14, 69, H, W) float32, SI, of `worlds.world.climatology_basis`.
        grid: of the model.
        model: digest of the model.
        years: of the forecasts that it was estimated from.
        name: of the file.
        digest: SHA-256 of the file, `""` where it was not read from one.
    """

    coefficients: NDArray[np.float32]
    grid: Grid
    model: str
    years: tuple[int, ...] = ()
    name: str = ""
    digest: str = field(default="", repr=False)

    def at(self, time: np.datetime64) -> NDArray[np.float32]:
        """Return the mean error (69, H, W), SI, of a step that ends at `time`."""
        daily = len(self.coefficients) > ANNUAL_TERMS
        return np.tensordot(climatology_basis(np.array([time]), daily)[0], self.coefficients, 1)

    def removed(self, forecasts: NDArray, time: np.datetime64) -> NDArray[np.float32]:
        """Return forecasts (..., 69, H, W), SI, of one step that ends at `time` without it; humidity is at least 0."""
        corrected: NDArray[np.float32] = forecasts - self.at(time)
        humidity = corrected[..., _HUMIDITY, :, :]
        np.maximum(humidity, 0, out=humidity)
        return corrected

    def save(self, path: Path) -> None:
        """Write a netCDF file; the coefficients are rounded to half precision, in units of each channel's largest."""
        largest = np.abs(self.coefficients).max(axis=(0, 2, 3))
        unit = np.where(largest > 0, largest, 1).astype(np.float32)
        scaled = (self.coefficients / unit[:, None, None]).astype(np.float16)
        dims = ("term", "channel", "latitude", "longitude")
        variables: Mapping[str, Any] = {"coefficients": (dims, scaled), "unit": ("channel", unit)}
        coordinates = {"channel": NAMES, "latitude": self.grid.latitude, "longitude": self.grid.longitude}
        attributes = {"format": _FORMAT, "grid": self.grid.name, "model": self.model, "years": list(self.years)}
        encoding = {"coefficients": {"zlib": True, "complevel": 9}}
        with whole(path) as temporary:
            xr.Dataset(variables, coordinates, attributes).to_netcdf(temporary, engine="h5netcdf", encoding=encoding)

    @classmethod
    def load(cls, path: Path) -> "ModelBias":
        """Read what `save` wrote.

        Raises:
            ModelBiasError: there is no such file, it is of another kind, or of other channels.
        """
        if not path.is_file():
            raise ModelBiasError(f"{path}: there is no such file; `dacycle train` makes it of a recipe of `kind: bias`")
        with reading(path, ModelBiasError):
            with xr.open_dataset(path, engine="h5netcdf", mask_and_scale=False) as file:
                dataset = file.load()
            if dataset.attrs.get("format") != _FORMAT or list(dataset.channel.values) != NAMES:
                raise ModelBiasError(f"{path}: not the mean error of a forecast model ({_FORMAT!r})")
            unit = dataset["unit"].values[:, None, None]
            coefficients = dataset["coefficients"].values.astype(np.float32) * unit
            grid = get_grid(dataset.attrs["grid"])
            if (
                len(coefficients) not in (ANNUAL_TERMS, ANNUAL_TERMS + DAILY_TERMS)
                or not np.isfinite(coefficients).all()
            ):
                raise ModelBiasError(f"{path}: its coefficients are of another basis, or not finite; make it anew")
            return cls(
                coefficients,
                grid,
                str(dataset.attrs["model"]),
                tuple(int(year) for year in np.atleast_1d(dataset.attrs["years"])),
                path.name,
                hashlib.sha256(path.read_bytes()).hexdigest(),
            )
