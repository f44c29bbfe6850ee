"""Attributes of the CF conventions for the datasets that dacycle writes, so that other tools know what they hold.

The names of variables are WeatherBench2's; two of them begin with a digit, which CF advises against and allows.
"""

from collections.abc import Mapping

import xarray as xr

from dacycle import __version__
from dacycle.forecast_adapter.channels import WB2_NAMES

__all__ = ["described", "global_attributes"]

CONVENTIONS = "CF-1.10"  # the first versions of CF have no whole numbers of 64 bits, as times are here

_COORDINATES = {
    "latitude": {"standard_name": "latitude", "units": "degrees_north", "axis": "Y"},
    "longitude": {"standard_name": "longitude", "units": "degrees_east", "axis": "X"},
    "level": {"standard_name": "air_pressure", "units": "hPa", "axis": "Z", "positive": "down"},
    "time": {"standard_name": "time", "axis": "T"},
    "prediction_timedelta": {"standard_name": "forecast_period", "long_name": "time since the start of the forecast"},
}
_START = {"standard_name": "forecast_reference_time", "long_name": "start of the forecast", "axis": "T"}

# By WeatherBench2's name: standard name, unit, and what the standard name does not say.
_VARIABLES = {
    WB2_NAMES["u10"]: ("eastward_wind", "m s-1", "eastward wind at 10 m"),
    WB2_NAMES["v10"]: ("northward_wind", "m s-1", "northward wind at 10 m"),
    WB2_NAMES["t2m"]: ("air_temperature", "K", "air temperature at 2 m"),
    WB2_NAMES["msl"]: ("air_pressure_at_mean_sea_level", "Pa", "air pressure at mean sea level"),
    WB2_NAMES["z"]: ("geopotential", "m2 s-2", "geopotential"),
    WB2_NAMES["q"]: ("specific_humidity", "kg kg-1", "specific humidity"),
    WB2_NAMES["u"]: ("eastward_wind", "m s-1", "eastward wind"),
    WB2_NAMES["v"]: ("northward_wind", "m s-1", "northward wind"),
    WB2_NAMES["t"]: ("air_temperature", "K", "air temperature"),
    "total_precipitation_6hr": ("lwe_thickness_of_precipitation_amount", "m", "precipitation of the 6 h before"),
    "outgoing_longwave_radiation": ("toa_outgoing_longwave_flux", "W m-2", "outgoing longwave, mean of the 6 h before"),
    "2m_dewpoint_temperature": ("dew_point_temperature", "K", "dewpoint at 2 m"),
    "surface_pressure": ("surface_air_pressure", "Pa", "air pressure at the surface"),
    "geopotential_at_surface": ("geopotential", "m2 s-2", "geopotential of the ground"),
    "land_sea_mask": ("land_area_fraction", "1", "fraction of land"),
}


def described(dataset: xr.Dataset) -> xr.Dataset:
    """Return a dataset with CF's attributes on the variables and coordinates that are known; its own ones stay."""
    dataset = dataset.copy(deep=False)
    known = {name: {"standard_name": n, "units": u, "long_name": text} for name, (n, u, text) in _VARIABLES.items()}
    known |= _COORDINATES | ({"time": _START} if "prediction_timedelta" in dataset.coords else {})
    for name, attributes in known.items():
        if name in dataset.variables:
            dataset[name].attrs = attributes | dataset[name].attrs
    return dataset


def global_attributes(attributes: Mapping[str, str]) -> dict[str, str]:
    """Return a file's attributes with the conventions that it follows and what wrote it.

    The history has no clock time, which CF only recommends: the same command writes the same bytes.
    """
    return {"Conventions": CONVENTIONS, "history": f"written by dacycle {__version__}", **attributes}
