"""Positions on the Earth: ways along great circles, and targets of even density."""

import numpy as np
from numpy.typing import NDArray

from dacycle.forecast_adapter.physics import EARTH_RADIUS_KM

__all__ = ["along", "degrees", "distances", "unit_vectors"]


def unit_vectors(latitude: NDArray, longitude: NDArray) -> NDArray[np.float64]:
    """Return the unit vectors (..., 3) of positions in degrees."""
    lat, lon = np.deg2rad(latitude), np.deg2rad(longitude)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)


def degrees(vectors: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return latitude and longitude (...) of unit vectors (..., 3), to 0.01 degrees, -180 to below 180."""
    latitude = np.rad2deg(np.arcsin(np.clip(vectors[..., 2], -1, 1)))
    longitude = np.rad2deg(np.arctan2(vectors[..., 1], vectors[..., 0]))
    return np.round(latitude, 2), (np.round(longitude, 2) + 180) % 360 - 180


def distances(start: NDArray, end: NDArray) -> NDArray[np.float64]:
    """Return the great-circle distances (...), km, between unit vectors (..., 3)."""
    return EARTH_RADIUS_KM * np.arccos(np.clip((start * end).sum(-1), -1, 1))


def along(start: NDArray, end: NDArray, km: NDArray, beside: NDArray | float = 0.0) -> NDArray[np.float64]:
    """Return the unit vectors (n, 3) on the great circles from start to end (n, 3), some way from the start.

    Args:
        start, end: unit vectors, neither equal nor opposite.
        km: (n,) the way from the start.
        beside: (n,) km to the left of the great circle.
    """
    left = np.cross(start, end)
    left = left / np.linalg.norm(left, axis=-1, keepdims=True)
    onwards = np.cross(left, start)
    angle = (np.asarray(km) / EARTH_RADIUS_KM)[:, None]
    aside = np.broadcast_to(np.asarray(beside, float) / EARTH_RADIUS_KM, len(start))[:, None]
    return (start * np.cos(angle) + onwards * np.sin(angle)) * np.cos(aside) + left * np.sin(aside)
