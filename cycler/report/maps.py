"""Draw maps on an equal-area projection, with coastlines from the package."""

import base64
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup, escape
from numpy.typing import NDArray

from dacycle.cycler.report import style
from dacycle.cycler.report.charts import Figure, line_path
from dacycle.forecast_adapter.channels import HEADLINE
from dacycle.forecast_adapter.grid import Grid, conservative_average, get_grid

__all__ = [
    "coast_definition",
    "coastlines",
    "equal_earth",
    "error_maps",
    "increment_maps",
    "increments_of_cycle",
    "site_map",
    "weather_maps",
]

_DRAWN = get_grid("1.5deg")
_WIDTH, _TOP = 260.0, 20.0
_RIM = (2.70663, 1.31737)
"""Half the width and half the height of the Equal Earth projection of the unit sphere."""
_HEIGHT = _WIDTH * _RIM[1] / _RIM[0]
_PIXELS = 440

_COLOURS = {
    "signed": "053061 2166ac 4393c3 92c5de d1e5f0 f7f7f7 fddbc7 f4a582 d6604d b2182b 67001f",
    "amount": "ffffd9 edf8b1 c7e9b4 7fcdbb 41b6c4 1d91c0 225ea8 253494 081d58",
    "error": "ffffe5 fff7bc fee391 fec44f fe9929 ec7014 cc4c02 993404 662506",
    "weather": "4575b4 74add1 abd9e9 e0f3f8 ffffbf fee090 fdae61 f46d43 d73027",
}
"""Stops of the colour scales (ColorBrewer's RdBu, YlGnBu, YlOrBr and RdYlBu)."""
_SHADES = 60
_WEATHER = {"msl": ("mean sea-level pressure", 4.0), "z500": ("geopotential at 500 hPa", 600.0)}
"""Name and step of the isolines, in readable units."""


@dataclass
class _Map:
    """A map with a field, or with dots at sites."""

    title: str
    said: str
    image: str = ""
    bar: tuple[str, float, float] | None = None
    dots: Sequence[tuple[str, float, str]] = ()
    names: Sequence[tuple[str, str]] = ()

    def size(self) -> tuple[float, float]:
        return _WIDTH, _TOP + _HEIGHT + (24 if self.bar else 4)

    def description(self) -> str:
        return self.said

    def rows(self) -> Iterable[tuple[Any, ...]]:
        return ()

    def entries(self) -> Iterable[tuple[str, str, str]]:
        return ((name, colour, "dot") for name, colour in self.names)

    def body(self) -> str:
        parts = [f'<text class="t" x="2" y="12">{escape(self.title)}</text>']
        if self.image:
            parts.append(
                f'<image x="0" y="{_TOP:g}" width="{_WIDTH:g}" height="{_HEIGHT:.1f}" preserveAspectRatio="none" '
                f'href="data:image/png;base64,{self.image}"/>'
            )
        far = ' style="--coast:var(--edge)"' if not self.image else ""
        parts.append(f'<use href="#coasts" y="{_TOP:g}"{far}/>')
        for path, width, colour in self.dots:
            paint = f"stroke:var(--{style.slug(colour)});stroke-width:{width:g}"
            parts.append(f'<path class="d" style="{paint}" transform="translate(0 {_TOP:g})" d="{path}"/>')
        if self.bar:
            parts.append(_bar(*self.bar))
        return "".join(parts)


def coast_definition() -> Markup:
    """Return the coasts and the rim of the globe, which a page defines once and every map refers to."""
    coast, rim = line_path(*_place(*equal_earth(*coastlines()))), np.linspace(-90, 90, 61)
    edge = _place(*equal_earth(np.concatenate([0 * rim - 180, 0 * rim + 180]), np.concatenate([rim, rim[::-1]])))
    around = "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(*edge, strict=True))
    return Markup(
        '<svg aria-hidden="true" class="definitions"><defs><g id="coasts">'
        f'<path class="coast" d="{coast}"/><path class="rim" d="M{around}Z"/></g></defs></svg>'
    )


def increment_maps(mean: NDArray, rms: NDArray, grid: Grid) -> Figure:
    """Draw the mean and RMS increment (6, H, W) of the headline channels."""
    columns = [("mean increment", mean, "signed"), ("RMS increment", rms, "amount")]
    return _sheet("Increment maps", columns, grid)


def error_maps(background: NDArray, analysis: NDArray, grid: Grid) -> Figure:
    """Draw the RMSE (6, H, W) of the analyses, and its change from the backgrounds' (blue: lower, red: higher)."""
    return _sheet(
        "Error maps", [("RMSE", analysis, "error"), ("change of RMSE", analysis - background, "signed")], grid
    )


def increments_of_cycle(increment: NDArray, grid: Grid) -> Figure:
    """Draw the increment (6, H, W) of the headline channels in one cycle."""
    return _sheet("Increments of the cycle", [("increment", increment, "signed")], grid)


def weather_maps(analysis: NDArray, increment: NDArray, grid: Grid) -> Figure:
    """Draw msl and z500 of an analysis with isolines, each beside its increment; both are (6, H, W), headline, SI."""
    maps = []
    for channel, (name, step) in _WEATHER.items():
        i = HEADLINE.index(channel)
        factor, unit = style.readable(channel)
        maps.append(_field_map(f"{name} ({unit})", factor * analysis[i], grid, "weather", step))
        maps.append(_field_map(f"its increment ({unit})", factor * increment[i], grid, "signed"))
    return Figure("Last analysis and its increment", maps, columns=4)


def site_map(title: str, sites: pd.DataFrame) -> _Map:
    """Draw sites as dots: columns latitude, longitude, `colour` (of `style.PALETTE`), `name` of it, `size`."""
    x, y = _place(
        *equal_earth((sites["longitude"].to_numpy(float) + 180) % 360 - 180, sites["latitude"].to_numpy(float))
    )
    placed = sites.assign(x=np.round(2 * x) / 2, y=np.round(2 * y) / 2).drop_duplicates(["x", "y", "colour", "size"])
    dots = [
        ("".join(f"M{a:g} {b:g}h0" for a, b in zip(group["x"], group["y"], strict=True)), float(size), str(colour))
        for (size, colour), group in placed.groupby(["size", "colour"], sort=False)
    ]
    names = list(dict.fromkeys(zip(sites["name"], sites["colour"], strict=True)))
    counts = sites["name"].value_counts()
    said = f"{title}: a map of {len(sites)} sites; " + ", ".join(f"{n} {name}" for name, n in counts.items()) + "."
    return _Map(title, said, dots=dots, names=names)


def _sheet(label: str, columns: Sequence[tuple[str, NDArray, str]], grid: Grid) -> Figure:
    """Draw six channels, one map per column for each."""
    maps = []
    for i, channel in enumerate(HEADLINE):
        factor, unit = style.readable(channel)
        maps += [_field_map(f"{channel}, {title} ({unit})", factor * f[i], grid, scale) for title, f, scale in columns]
    return Figure(label, maps, columns=4)


def _field_map(title: str, field: NDArray, grid: Grid, scale: str, step: float | None = None) -> _Map:
    """Draw a field; the colours end at the 99th percentile by area, or are bands between isolines `step` apart."""
    if grid.shape[0] > _DRAWN.shape[0]:  # a finer grid takes long to draw and cannot be seen
        field, grid = conservative_average(field[None], grid, _DRAWN)[0], _DRAWN
    drawn = _sampled(field, grid, smooth=step is not None)
    if step is None:
        high = _quantile(np.abs(field), grid.weights, 0.99) or 1.0
        low = -high if scale == "signed" else 0.0
        shades = 1 + np.clip((drawn - low) / (high - low) * _SHADES, 0, _SHADES - 1)
        lines = np.zeros(drawn.shape, bool)
    else:
        low, high = step * np.floor(np.nanmin(drawn) / step), step * np.ceil(np.nanmax(drawn) / step)
        bands = np.floor((drawn - low) / step)
        shades = 1 + (bands + 0.5) * step / (high - low) * _SHADES
        lines = np.zeros(drawn.shape, bool)
        for axis in (0, 1):
            change = np.diff(bands, axis=axis)
            lines |= np.insert(np.nan_to_num(change) != 0, 0, False, axis=axis)
    outside = ~np.isfinite(drawn)
    codes = np.where(lines, _SHADES + 1, np.nan_to_num(shades)).astype(np.uint8)
    codes[outside] = 0
    image = base64.b64encode(_png(codes, [*_scale(scale), (70, 74, 82)])).decode()
    mean = float(np.average(field, weights=np.broadcast_to(grid.weights, field.shape)))
    said = f"{title}: a map; from {field.min():.4g} to {field.max():.4g}, global mean {mean:.3g}."
    return _Map(title, said.replace("-", "−"), image=image, bar=(scale, low, high))


def _bar(scale: str, low: float, high: float) -> str:
    left, width, top = 48.0, _WIDTH - 96, _TOP + _HEIGHT + 4
    colours = _scale(scale)[::4]
    step = width / len(colours)
    boxes = "".join(
        f'<rect x="{left + i * step:.1f}" y="{top:.1f}" width="{step + 0.4:.1f}" height="6" '
        f'fill="#{r:02x}{g:02x}{b:02x}"/>'
        for i, (r, g, b) in enumerate(colours)
    )
    texts = [(low, left, "end", -5), (high, left + width, "start", 5)]
    labels = "".join(
        f'<text class="n" x="{x + shift:.1f}" y="{top + 7:.1f}" text-anchor="{anchor}">{_number(value)}</text>'
        for value, x, anchor, shift in texts
    )
    return boxes + labels


def _number(value: float) -> str:
    return (f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}").replace("-", "−")


@lru_cache
def _scale(name: str) -> list[tuple[int, int, int]]:
    stops = np.array([[int(stop[i : i + 2], 16) for i in (0, 2, 4)] for stop in _COLOURS[name].split()], float)
    at = np.linspace(0, len(stops) - 1, _SHADES)
    mixed = np.stack([np.interp(at, np.arange(len(stops)), stops[:, i]) for i in range(3)], axis=1)
    return [(int(r), int(g), int(b)) for r, g, b in mixed.round()]


def _png(codes: NDArray[np.uint8], colours: Sequence[tuple[int, int, int]]) -> bytes:
    """Return a picture (H, W) as PNG; code 0 is transparent, code i has colour i - 1."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width = codes.shape
    rows = b"".join(b"\0" + row.tobytes() for row in codes)
    palette = bytes((0, 0, 0)) + b"".join(bytes(colour) for colour in colours)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0))
        + chunk(b"PLTE", palette)
        + chunk(b"tRNS", b"\0")
        + chunk(b"IDAT", zlib.compress(rows, 9))
        + chunk(b"IEND", b"")
    )


def _place(x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
    """Return positions on a map of `_WIDTH` from the projection's coordinates."""
    return (x / _RIM[0] + 1) / 2 * _WIDTH, (1 - y / _RIM[1]) / 2 * _HEIGHT


def _sampled(field: NDArray, grid: Grid, smooth: bool) -> NDArray:
    """Return a field (H, W) at the pixels of a map; NaN outside the globe."""
    latitude, longitude = _pixels()
    if not smooth:
        row = np.searchsorted(-grid.latitude_bounds, -latitude, side="right") - 1
        column = np.searchsorted(grid.longitude_bounds, np.nan_to_num(longitude) % 360, side="right") - 1
        values = field[np.clip(row, 0, grid.shape[0] - 1), column % grid.shape[1]]
    else:
        row = np.interp(-latitude, -grid.latitude, np.arange(grid.shape[0]))
        column = (np.nan_to_num(longitude) % 360 - grid.longitude[0]) / (grid.longitude[1] - grid.longitude[0])
        top, left = np.floor(row).astype(int), np.floor(column).astype(int)
        down, right = row - top, column - left
        below = np.minimum(top + 1, grid.shape[0] - 1)
        near, far = left % grid.shape[1], (left + 1) % grid.shape[1]
        values = (1 - down) * ((1 - right) * field[top, near] + right * field[top, far])
        values = values + down * ((1 - right) * field[below, near] + right * field[below, far])
    return np.where(np.isfinite(longitude), values, np.nan)


@lru_cache
def _pixels() -> tuple[NDArray, NDArray]:
    """Return latitude and longitude (degrees) of the pixels of a map; longitude is NaN outside the globe."""
    height = round(_PIXELS * _RIM[1] / _RIM[0])
    y = _RIM[1] * (1 - 2 * (np.arange(height) + 0.5) / height)
    x = _RIM[0] * (2 * (np.arange(_PIXELS) + 0.5) / _PIXELS - 1)
    parallels = np.linspace(-90, 90, 3601)
    latitude = np.interp(y, equal_earth(0 * parallels, parallels)[1], parallels)
    half, _ = equal_earth(0 * latitude + 180, latitude)
    longitude = 180 * x[None, :] / half[:, None]
    return np.repeat(latitude[:, None], _PIXELS, axis=1), np.where(np.abs(longitude) <= 180, longitude, np.nan)


def _quantile(values: NDArray, weights: NDArray, share: float) -> float:
    """Return the value below which this share of the weights lies."""
    order = np.argsort(values, axis=None)
    cumulated = np.cumsum(weights.ravel()[order])
    return float(values.ravel()[order][np.searchsorted(cumulated, share * cumulated[-1])])


def equal_earth(longitude: NDArray, latitude: NDArray) -> tuple[NDArray, NDArray]:
    """Return x, y of positions (degrees, arrays of one shape) on the Equal Earth projection, in radii of the Earth.

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
