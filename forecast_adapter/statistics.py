"""Normalisation statistics of a world: one mean and one standard deviation per channel."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dacycle.forecast_adapter.channels import CHANNEL_COUNT, NAMES

__all__ = ["Statistics"]


@dataclass(frozen=True, eq=False)
class Statistics:
    """Area-weighted global mean and standard deviation of each channel over a world's training years.

    Attributes:
        mean, std: (69,) float32, SI units; std > 0.
        world: the world that they belong to; files with the statistics of another world are refused.
        description: the data that they were computed from.
    """

    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    world: str
    description: str

    def __post_init__(self) -> None:
        if self.mean.shape != (CHANNEL_COUNT,) or self.std.shape != (CHANNEL_COUNT,):
            raise ValueError(
                f"statistics of {self.world} need {CHANNEL_COUNT} values, not {self.mean.shape}, {self.std.shape}"
            )
        bad = [
            name
            for name, m, s in zip(NAMES, self.mean, self.std, strict=True)
            if not (np.isfinite(m) and 0 < s < np.inf)
        ]
        if bad:
            raise ValueError(
                f"statistics of {self.world}: not finite or no positive standard deviation: {', '.join(bad)}"
            )

    def normalise(self, state: NDArray) -> NDArray:
        """Convert states (..., 69, H, W) in SI to zero mean and unit standard deviation."""
        return (state - self.mean[:, None, None]) / self.std[:, None, None]

    def denormalise(self, state: NDArray) -> NDArray:
        """Convert normalised states (..., 69, H, W) to SI: the inverse of `normalise`."""
        return state * self.std[:, None, None] + self.mean[:, None, None]

    def save(self, path: Path) -> None:
        """Write a netCDF file with `mean` and `std` by channel name."""
        attrs = {"world": self.world, "description": self.description}
        dataset = xr.Dataset({"mean": ("channel", self.mean), "std": ("channel", self.std)}, {"channel": NAMES}, attrs)
        dataset.to_netcdf(path, engine="h5netcdf")

    @classmethod
    def load(cls, path: Path) -> "Statistics":
        """Read a file that `save` wrote; channels are matched by name."""
        with xr.open_dataset(path, engine="h5netcdf") as dataset:
            dataset = dataset.sel(channel=NAMES).load()
        return cls(
            dataset["mean"].values.astype(np.float32),
            dataset["std"].values.astype(np.float32),
            str(dataset.attrs["world"]),
            str(dataset.attrs["description"]),
        )
