"""Draw maps on an equal-area projection, with coastlines from the package."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from dacycle.cycler.report import style
from dacycle.forecast_adapter.channels import HEADLINE
from dacycle.forecast_adapter.grid import Grid, conservative_average, get_grid

__all__ = ["coastlines", "equal_earth", "error_maps", "increment_maps", "outline"]

_DRAWN = get_grid("1.5deg")


def increment_maps(mean: NDArray, rms: NDArray, grid: Grid) -> Markup:
    """Draw the mean and RMS increment (6, H, W) of the headline channels."""
    columns = [("mean increment", mean, "RdBu_r", True), ("RMS increment", rms, "YlGnBu", False)]
    return _sheet("Increment maps", columns, grid)


def error_maps(background: NDArray, analysis: NDArray, grid: Grid) -> Markup:
    """Draw the RMSE (6, H, W) of the analyses, and its change from the backgrounds' (blue: lower, red: higher)."""
    columns = [
        ("RMSE", analysis, "YlOrBr", False),
        ("change of RMSE", analysis - background, "RdBu_r", True),
    ]
    return _sheet("Error maps", columns, grid)


def _sheet(label: str, columns: Sequence[tuple[str, NDArray, str, bool]], grid: Grid) -> Markup:
    """Draw six channels, two to a row, each with one map per column."""
    if grid.shape[0] > _DRAWN.shape[0]:  # a finer grid takes long to draw and cannot be seen
        columns = [(title, conservative_average(f, grid, _DRAWN), map_, signed) for title, f, map_, signed in columns]
        grid = _DRAWN

    def draw(figure: Figure) -> None:
        margins = {"left": 0, "right": 0.96, "top": 0.96, "bottom": 0.01, "wspace": 0.2, "hspace": 0.16}
        axes_grid = figure.subplots(3, 4, gridspec_kw=margins)
        for i, channel in enumerate(HEADLINE):
            factor, unit = style.readable(channel)
            for j, (title, fields, colours, signed) in enumerate(columns):
                axes = axes_grid[i % 3, 2 * (i // 3) + j]
                _map(axes, factor * fields[i], grid, colours, signed)
                axes.set_title(f"{channel}, {title} ({unit})")

    return style.svg(draw, label, height=4.7)


def _map(axes: Axes, field: NDArray, grid: Grid, colours: str, signed: bool) -> None:
    """Draw a field on the Equal Earth projection; the colours end at the 99th percentile by area."""
    limit = _quantile(np.abs(field), grid.weights, 0.99) or 1.0
    low = -limit if signed else 0.0
    east = np.concatenate([grid.longitude_bounds[grid.longitude_bounds <= 180], [180.0]])
    west = np.concatenate([[180.0], grid.longitude_bounds[grid.longitude_bounds > 180]])
    edges = np.unique(np.concatenate([west - 360, east]))
    column = np.searchsorted(grid.longitude_bounds, (edges[1:] + edges[:-1]) / 2 % 360, side="right") - 1
    x, y = equal_earth(*np.meshgrid(edges, grid.latitude_bounds))
    shade = axes.pcolormesh(x, y, field[:, column % grid.shape[1]], cmap=colours, vmin=low, vmax=limit, rasterized=True)
    outline(axes)
    bar = axes.figure.colorbar(shade, cax=axes.inset_axes((1.0, 0.1, 0.025, 0.8)))
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=2, labelsize=6.5)


def outline(axes: Axes, colour: str = "#30363d") -> None:
    """Draw the coasts and the rim of the Equal Earth projection."""
    coast = equal_earth(*coastlines())
    axes.plot(*coast, color=colour, linewidth=0.4, rasterized=True)
    rim = np.linspace(-90, 90, 91)
    around = equal_earth(np.concatenate([0 * rim - 180, 0 * rim + 180]), np.concatenate([rim, rim[::-1]]))
    axes.fill(*around, fill=False, edgecolor="#9aa1a9", linewidth=0.7)
    axes.set_aspect("equal")
    axes.set_axis_off()


def _quantile(values: NDArray, weights: NDArray, share: float) -> float:
    """Return the value below which this share of the weights lies."""
    order = np.argsort(values, axis=None)
    cumulated = np.cumsum(weights.ravel()[order])
    return float(values.ravel()[order][np.searchsorted(cumulated, share * cumulated[-1])])


def equal_earth(longitude: NDArray, latitude: NDArray) -> tuple[NDArray, NDArray]:
    """Return x, y of degrees on the Equal Earth projection.

    Source: Savric, Patterson and Jenny (2019), doi:10.1080/13658816.2018.1504949.
    """
    angle = np.arcsin(np.sqrt(3) / 2 * np.sin(np.deg2rad(latitude)))
    a = (1.340264, -0.081106, 0.000893, 0.003796)
    square = angle**2
    stretch = 9 * a[3] * square**4 + 7 * a[2] * square**3 + 3 * a[1] * square + a[0]
    x = 2 / np.sqrt(3) * np.deg2rad(longitude) * np.cos(angle) / stretch
    y = angle * (a[3] * square**4 + a[2] * square**3 + a[1] * square + a[0])
    return x, y


@lru_cache
def coastlines() -> tuple[NDArray, NDArray]:
    """Return longitude and latitude (degrees) of the coasts, lines separated by NaN (data/make_coastlines.py)."""
    with np.load(Path(__file__).parent / "data/coastlines.npz") as stored:
        return stored["longitude"].astype(float), stored["latitude"].astype(float)
