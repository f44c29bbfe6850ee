"""Ships, buoys, aircraft and motion vectors as messages of WMO BUFR, edition 4: the inverse of their sources.

Ships have template 308009, buoys 315008, aircraft 311010, motion vectors 310077. Values have the resolution of the
templates: 0.01 K, 10 Pa, 0.1 m/s and whole degrees; an aircraft's pressure is a flight level in whole metres.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.forecast_adapter.physics import standard_altitude
from dacycle.obs_ingest.simulation.bufr_message import Identity, bulletins, instants, message, reports_of, wind
from dacycle.obs_ingest.simulation.motion_vectors import seen_by

__all__ = ["encode_aircraft", "encode_marine", "encode_motion_vectors"]

_MARINE = ("t2m", "td2m", "msl", "u10", "v10")
_CONFIDENCE = 90  # per cent, of every motion vector
_INFRARED = 1  # BUFR table 002023: the motion of clouds in the infrared
_MEAN, _TEN_MINUTES = 2, -10  # of a wind
_SHIPS = {"dataCategory": 1, "internationalDataSubCategory": 0, "dataSubCategory": 170, "rdbType": 1}
_BUOYS = {"dataCategory": 1, "internationalDataSubCategory": 25, "dataSubCategory": 27, "rdbType": 1}
_AIRCRAFT = {"dataCategory": 4, "internationalDataSubCategory": 0, "dataSubCategory": 144, "rdbType": 4}
_VECTORS = {"dataCategory": 5, "internationalDataSubCategory": 0, "dataSubCategory": 87, "rdbType": 3}

_Elements = Callable[[pd.DataFrame, NDArray], dict[str, Any]]


def encode_marine(table: pd.DataFrame) -> bytes:
    """Encode the reports of ships and buoys at one time; a station of seven digits is a buoy.

    Args:
        table: t2m, td2m, msl, u10, v10, with the times of receipt.

    Raises:
        ObservationError: another variable is in it, a wind lacks a component, or a value is beyond what BUFR can hold.
    """
    buoys = table["station"].astype(str).str.fullmatch(r"\d{7}").to_numpy()
    return _encode(table[~buoys], _MARINE, _SHIPS, 308009, _ship) + _encode(
        table[buoys], _MARINE, _BUOYS, 315008, _buoy
    )


def encode_aircraft(table: pd.DataFrame) -> bytes:
    """Encode the reports of aircraft at one time.

    Args:
        table: u, v, t with the times of receipt.

    Raises:
        ObservationError: as `encode_marine`.
    """
    return _encode(table, ("u", "v", "t"), _AIRCRAFT, 311010, _flight)


def encode_motion_vectors(table: pd.DataFrame) -> bytes:
    """Encode motion vectors of one time, each of the satellite that sees its place.

    Args:
        table: u, v with the times of receipt.

    Raises:
        ObservationError: as `encode_marine`.
    """
    return _encode(table, ("u", "v"), _VECTORS, 310077, _vector)


def _encode(
    table: pd.DataFrame, names: tuple[str, ...], head: dict[str, Any], template: int, elements: _Elements
) -> bytes:
    """Return compressed messages, one for each bulletin, of the reports that have these variables."""
    if not len(table):
        return b""
    key = table.groupby(["station", "site", "pressure"], observed=True, dropna=False).ngroup().to_numpy()
    first, values = reports_of(table, names, key)
    reports, messages = table.iloc[first], []
    for which, arrival in bulletins(reports["received"]):
        identity: Identity = instants(reports[which])
        shape = {"compressedData": 1} | _REPLICATIONS[template]
        messages.append(
            message(head | shape, [template], identity, arrival, elements(reports[which], values[:, which]))
        )
    return b"".join(messages)


_REPLICATIONS: dict[int, dict[str, list[int]]] = {
    308009: {"inputDelayedDescriptorReplicationFactor": [0]},
    315008: {
        "inputShortDelayedDescriptorReplicationFactor": [0] * 7,
        "inputDelayedDescriptorReplicationFactor": [0] * 4,
    },
    311010: {
        "inputShortDelayedDescriptorReplicationFactor": [0] * 6,
        "inputDelayedDescriptorReplicationFactor": [0] * 2,
    },
    310077: {"inputDelayedDescriptorReplicationFactor": [0] * 4},
}
"""Parts of each template that are not repeated: clouds, waves, turbulence, single pairs of images."""


def _ship(reports: pd.DataFrame, values: NDArray) -> dict[str, Any]:
    names = {"#1#shipOrMobileLandStationIdentifier": reports["station"].to_numpy(str)}
    return names | _surface(values) | {"#1#timeSignificance": _MEAN, "#8#timePeriod": _TEN_MINUTES}


def _buoy(reports: pd.DataFrame, values: NDArray) -> dict[str, Any]:
    numbers = {"#1#marineObservingPlatformIdentifier": reports["station"].astype(str).astype(int).to_numpy()}
    return numbers | _surface(values) | {"#1#timeSignificance": _MEAN, "#1#timePeriod": _TEN_MINUTES}


def _surface(values: NDArray) -> dict[str, Any]:
    t2m, td2m, msl, u10, v10 = values
    direction, speed = wind(u10, v10)
    return {
        "#1#pressureReducedToMeanSeaLevel": msl,
        "#1#airTemperature": t2m,
        "#1#dewpointTemperature": td2m,
        "#1#windDirection": direction,
        "#1#windSpeed": speed,
    }


def _flight(reports: pd.DataFrame, values: NDArray) -> dict[str, Any]:
    u, v, t = values
    direction, speed = wind(u, v)
    return {
        "#1#aircraftRegistrationNumberOrOtherIdentification": reports["station"].to_numpy(str),
        "#1#second": 0,
        "#1#flightLevel": np.rint(standard_altitude(reports["pressure"].to_numpy(float))),
        "#1#windDirection": direction,
        "#1#windSpeed": speed,
        "#1#airTemperature": t,
    }


def _vector(reports: pd.DataFrame, values: NDArray) -> dict[str, Any]:
    u, v = values
    direction, speed = wind(u, v)
    return {
        "#1#satelliteIdentifier": seen_by(reports["latitude"].to_numpy(), reports["longitude"].to_numpy()),
        "#1#satelliteDerivedWindComputationMethod": _INFRARED,
        "#1#second": 0,
        "#1#pressure": reports["pressure"].to_numpy(float),
        "#1#windDirection": direction,
        "#1#windSpeed": speed,
        "#1#u": u,
        "#1#v": v,
        "#1#percentConfidence": _CONFIDENCE,
    }
