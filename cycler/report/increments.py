"""Draw the increment of a single observation: maps around it, a section and a profile through it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from dacycle.cycler.report import drawing, maps, style
from dacycle.cycler.single.observation import Response
from dacycle.forecast_adapter.channels import CHANNELS, GROUPS, LEVELS, index
from dacycle.forecast_adapter.grid import Grid
from dacycle.forecast_adapter.physics import EARTH_RADIUS_KM

__all__ = ["azimuthal", "picture", "shown_channels"]

_MAPS = 6
_VARIABLES = {"z": "#1f6fb2", "q": "#2b8a6b", "u": "#d9772b", "v": "#a9719f", "t": "#b8473f"}

_MARK: dict[str, Any] = {"marker": "o", "markersize": 4, "color": "#ffd84a", "markeredgecolor": "#22272e"}


def picture(response: Response, grid: Grid, std: NDArray) -> Markup:
    """Draw the increment (SVG): six maps, a section along the latitude, the profile at the observation's cell.

    Args:
        response: the increment of the observation.
        grid: of the increment.
        std: (69,) the world's standard deviations, in which variables are compared.
    """
    channels = shown_channels(response, std)
    radius = float(np.clip(1.6 * response.distance_km, 2500, 9000))

    def draw(figure: Figure) -> None:
        layout = figure.add_gridspec(
            3, 3, left=0.06, right=0.95, top=0.95, bottom=0.06, hspace=0.22, wspace=0.2, height_ratios=[1.25, 1.25, 1]
        )
        for i, channel in enumerate(channels):
            _map(figure.add_subplot(layout[i // 3, i % 3]), response, channel, grid, radius)
        below = layout[2, :].subgridspec(1, 2, width_ratios=[2, 1], wspace=0.28)
        _section(figure.add_subplot(below[0]), response, _section_variable(response, std), grid, radius)
        _profile(figure.add_subplot(below[1]), response, std)

    observed = response.observation
    label = f"Increment of one observation of {observed.variable} at {observed.latitude:g} {observed.longitude:g}"
    return drawing.svg(draw, label, height=9.6)


def shown_channels(response: Response, std: NDArray) -> list[str]:
    """Return the observed channel and the most affected channel of every other variable, as many as there are maps."""
    best: dict[str, str] = {}
    for name in (response.channel, *response.table(std)["channel"]):
        best.setdefault(CHANNELS[index(name)].variable, name)
    return list(best.values())[:_MAPS]


def azimuthal(longitude: NDArray, latitude: NDArray, centre: tuple[float, float]) -> tuple[NDArray, NDArray]:
    """Return x, y (km) on the azimuthal equidistant projection, which keeps distances from the centre (lon, lat).

    Source: Snyder (1987), Map projections, USGS professional paper 1395, equations 22-4, 22-5 and 25-2.
    """
    lon, lat = np.deg2rad(longitude - centre[0]), np.deg2rad(latitude)
    lat0 = np.deg2rad(centre[1])
    cosine = np.sin(lat0) * np.sin(lat) + np.cos(lat0) * np.cos(lat) * np.cos(lon)
    angle = np.arccos(np.clip(cosine, -1, 1))
    stretch = EARTH_RADIUS_KM / np.sinc(np.minimum(angle, 0.99 * np.pi) / np.pi)  # sinc(x) is sin(pi x) / (pi x)
    return (
        stretch * np.cos(lat) * np.sin(lon),
        stretch * (np.cos(lat0) * np.sin(lat) - np.sin(lat0) * np.cos(lat) * np.cos(lon)),
    )


def _map(axes: Axes, response: Response, channel: str, grid: Grid, radius: float) -> None:
    factor, unit = style.readable(channel)
    centre = (float(grid.longitude[response.column]), float(grid.latitude[response.row]))
    x, y = azimuthal(*np.meshgrid(grid.longitude_bounds, grid.latitude_bounds), centre)
    inside = np.hypot(x, y) < 2 * radius
    drawn = inside[:-1, :-1] & inside[1:, :-1] & inside[:-1, 1:] & inside[1:, 1:]
    corners = [(slice(-1), slice(-1)), (slice(-1), slice(1, None)), (slice(1, None), slice(1, None)),
               (slice(1, None), slice(-1))]  # fmt: skip
    shapes = np.stack([np.stack([x[c], y[c]], axis=-1)[drawn] for c in corners], axis=1)
    field = factor * response.increment[index(channel)][drawn]
    shade = PolyCollection(list(shapes), array=field, cmap="RdBu_r", edgecolors="face", linewidths=0.2, rasterized=True)
    limit = factor * response.influences[channel].peak or 1.0
    shade.set_clim(-limit, limit)
    axes.add_collection(shade)
    _coast(axes, centre, radius)
    around = np.linspace(0, 2 * np.pi, 181)
    reach = response.distance_km
    axes.plot(reach * np.cos(around), reach * np.sin(around), color="#22272e", linewidth=0.7, linestyle=(0, (4, 3)))
    position = azimuthal(np.array(response.observation.longitude), np.array(response.observation.latitude), centre)
    axes.plot(*position, **_MARK)
    axes.set_xlim(-radius, radius)
    axes.set_ylim(-radius, radius)
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.set_title(f"{channel}{', observed' if channel == response.channel else ''} ({unit})")
    _bar(axes, shade)


def _coast(axes: Axes, centre: tuple[float, float], radius: float) -> None:
    x, y = azimuthal(*maps.coastlines(), centre)
    far = np.hypot(x, y) > 1.5 * radius
    axes.plot(np.where(far, np.nan, x), np.where(far, np.nan, y), color="#59616b", linewidth=0.5, rasterized=True)


def _bar(axes: Axes, shade: Any, width: float = 0.025) -> None:
    bar = axes.figure.colorbar(shade, cax=axes.inset_axes((1.02, 0.1, width, 0.8)))
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=2, labelsize=6.5)


def _section_variable(response: Response, std: NDArray) -> str:
    """Return the observed variable if it has levels, else the most affected variable with levels."""
    channels = [response.channel, *response.table(std)["channel"]]
    return next(CHANNELS[index(name)].variable for name in channels if CHANNELS[index(name)].level)


def _section(axes: Axes, response: Response, variable: str, grid: Grid, radius: float) -> None:
    """Draw a section from west to east through the observation's cell: distance along the parallel against pressure."""
    factor, unit = style.readable(f"{variable}500")
    east = (grid.longitude - grid.longitude[response.column] + 180) % 360 - 180
    order = np.argsort(east)
    x = np.deg2rad(east[order]) * EARTH_RADIUS_KM * np.cos(np.deg2rad(grid.latitude[response.row]))
    field = factor * response.increment[GROUPS[variable], response.row][:, order]
    limit = float(np.abs(field).max()) or 1.0
    colours: dict[str, Any] = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}
    shade = axes.pcolormesh(x, LEVELS, field, **colours, shading="nearest", rasterized=True)
    axes.set_xlim(-min(radius, float(-x[0])), min(radius, float(x[-1])))
    _pressure_axis(axes)
    if response.observation.pressure is not None:
        axes.plot(0, response.observation.pressure / 100, **_MARK)
    axes.set_xlabel("km to the east")
    axes.set_title(f"{variable} along {grid.latitude[response.row]:.1f} degrees ({unit})")
    _bar(axes, shade, width=0.012)


def _profile(axes: Axes, response: Response, std: NDArray) -> None:
    for variable, colour in _VARIABLES.items():
        members = GROUPS[variable]
        column = response.increment[members, response.row, response.column] / np.asarray(std)[members]
        axes.plot(column, LEVELS, color=colour, label=variable, marker="o", markersize=2)
    axes.axvline(0, color="#9aa1a9", linewidth=0.7)
    _pressure_axis(axes)
    axes.set_title("at the observation (standard deviations)")
    axes.legend(loc="best", handlelength=1, fontsize=7)


def _pressure_axis(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.set_ylim(1080, 46)
    ticks: Sequence[float] = (1000, 700, 500, 300, 200, 100, 50)
    drawing.plain(axes.yaxis, ticks)
