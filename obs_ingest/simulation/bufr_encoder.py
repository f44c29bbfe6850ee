"""Observation tables as messages of WMO BUFR, edition 4: the inverse of the sources `synop_bufr` and `temp_bufr`.

Stations become SYNOPs (template 307080), sondes TEMPs (309052), each with its WIGOS identifier (301150). Values have
the resolution of the templates: 0.01 K, 10 Pa, 0.1 m/s and whole degrees, 0.1 kg/m2, 1 gpm.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.forecast_adapter.physics import GRAVITY, dewpoint
from dacycle.obs_ingest.simulation.bufr_message import Identity, bulletins, instants, message, reports_of, wind
from dacycle.obs_ingest.table import LEVEL_VARIABLES

__all__ = ["encode_synops", "encode_temps"]

_SURFACE = ("t2m", "td2m", "msl", "u10", "v10", "tp")
_DRIEST = 1e-12  # kg/kg; the least humidity that is written as a dewpoint
_STANDARD_LEVEL = 1 << 16  # in the extended vertical sounding significance
_SYNOP = {"dataCategory": 0, "dataSubCategory": 170, "rdbType": 1}
_TEMP = {"dataCategory": 2, "dataSubCategory": 109, "rdbType": 5}


def encode_synops(table: pd.DataFrame) -> bytes:
    """Encode the reports of surface stations at one time, one message for each bulletin.

    Args:
        table: t2m, td2m, msl, u10, v10 and 6-h tp of stations, with the times of receipt.

    Raises:
        ObservationError: another variable is in it, a wind lacks a component, or a value is beyond what BUFR can hold.
    """
    first, values = reports_of(table, _SURFACE, table["station"].array.codes)
    stations = table.iloc[first]
    identity = _identification(stations)
    identity["#1#heightOfStationGroundAboveMeanSeaLevel"] = stations["elevation"].to_numpy()
    return b"".join(
        _synops(_rows(identity, which), values[:, which], arrival) for which, arrival in bulletins(stations["received"])
    )


def encode_temps(table: pd.DataFrame) -> bytes:
    """Encode the soundings of one time, one message for each.

    The height of the station is left out: a simulated sounding begins above the model's ground, which is not at the
    height of the station, and readers compare the lowest thickness with that. No humidity is below 1e-12.

    Args:
        table: z, q, u, v, t of stations at any pressures, with the times of receipt.

    Raises:
        ObservationError: as `encode_synops`.
    """
    pressure = table["pressure"].to_numpy()
    levels, level = np.unique(-pressure, return_inverse=True)  # from the ground up
    first, values = reports_of(
        table, LEVEL_VARIABLES, table["station"].array.codes.astype(np.int64) * len(levels) + level
    )
    lowest = np.nonzero(np.diff(table["station"].array.codes[first], prepend=-1))[0]
    stations = table.iloc[first[lowest]]
    identity = _identification(stations)
    received = stations["received"].to_numpy().astype("datetime64[s]").astype(np.int64)
    soundings = zip(np.split(pressure[first], lowest[1:]), np.split(values, lowest[1:], axis=1), strict=True)
    return b"".join(
        _temp(_rows(identity, slice(k, k + 1)), at, of_levels, int(received[k]))
        for k, (at, of_levels) in enumerate(soundings)
    )


def _identification(stations: pd.DataFrame) -> Identity:
    """Return identifier, time and position of n reports, by BUFR key (n,).

    A name of five digits is a WMO block and station number, any other a local WIGOS identifier without an issuer.
    """
    names = stations["station"].astype(str)
    number = names.where(names.str.fullmatch(r"\d{5}")).astype(float).to_numpy()
    identity = {
        "blockNumber": number // 1000,
        "stationNumber": number % 1000,
        **{f"wigos{part}": np.zeros(len(names)) for part in ("IdentifierSeries", "IssuerOfIdentifier", "IssueNumber")},
        "wigosLocalIdentifierCharacter": names.where(np.isnan(number), "").to_numpy(str),
    }
    return {f"#1#{key}": values for key, values in identity.items()} | instants(stations)


def _rows(identity: Identity, which: NDArray[np.bool_] | slice) -> Identity:
    return {key: values[which] for key, values in identity.items()}


def _synops(identity: Identity, values: NDArray, received: int) -> bytes:
    """Return the compressed message of a bulletin: n reports, values (6, n)."""
    t2m, td2m, msl, u10, v10, tp = values
    direction, speed = wind(u10, v10)
    elements = {
        "#1#pressureReducedToMeanSeaLevel": msl,
        "#1#heightOfSensorAboveLocalGroundOrDeckOfMarinePlatform": 2.0,
        "#1#airTemperature": t2m,
        "#1#dewpointTemperature": td2m,
        "#4#timePeriod": -6,  # hours, of the first of two amounts of precipitation
        "#1#totalPrecipitationOrTotalWaterEquivalent": tp,
        "#7#heightOfSensorAboveLocalGroundOrDeckOfMarinePlatform": 10.0,
        "#10#timePeriod": -10,  # minutes, of the wind
        "#1#windDirection": direction,
        "#1#windSpeed": speed,
    }
    shape = {"compressedData": 1, "inputDelayedDescriptorReplicationFactor": [0, 0]}  # no layers of cloud
    return message(_SYNOP | shape, [301150, 307080], identity, received, elements)


def _temp(identity: Identity, pressure: NDArray, values: NDArray, received: int) -> bytes:
    """Return the message of a sounding: n levels, values (5, n)."""
    z, q, u, v, t = values
    direction, speed = wind(u, v)
    elements = {
        "#1#timeSignificance": 18,  # the time is that of the launch
        "extendedVerticalSoundingSignificance": np.full(len(pressure), _STANDARD_LEVEL),
        "pressure": pressure,
        "nonCoordinateGeopotentialHeight": np.rint(z / GRAVITY),
        "airTemperature": t,
        "dewpointTemperature": dewpoint(np.maximum(q, _DRIEST), pressure),
        "windDirection": direction,
        "windSpeed": speed,
    }
    shape = {
        "inputExtendedDelayedDescriptorReplicationFactor": [len(pressure)],
        "inputDelayedDescriptorReplicationFactor": [0],  # no wind shear
    }
    return message(_TEMP | shape, [301150, 309052], identity, received, elements)
