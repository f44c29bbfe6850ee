"""Draw charts as SVG: every panel is a picture of its own, which the page sets in as many columns as fit.

Colours are variables of the style sheet (`style.css`), so that one drawing serves light, dark and paper. A figure can
also give its numbers as CSV, and itself as one SVG file that needs no style sheet.
"""

import base64
import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd
from markupsafe import Markup, escape
from numpy.typing import NDArray

from dacycle.cycler.report import style

__all__ = ["Area", "Chart", "Figure", "Line", "Panel", "line_path"]

_TOP, _RIGHT, _BOTTOM = 22.0, 8.0, 19.0
_LETTER = 5.9  # mean width of a letter at the size of the text on axes
_MINUS = "−"


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
        name: its text in the legend.
        x, y: numbers, or times for `x`.
        colour: a name in `style.PALETTE`; its dashes are those of `style.DASHES`.
        dots: mark every value with a dot.
        steps: draw a step for each value; `x` are then the edges, one more than `y`.
    """

    name: str
    x: Any
    y: Any
    colour: str
    dots: bool = False
    steps: bool = False


@dataclass(frozen=True)
class Area:
    """A filled band between two rows of values; `upper` is the upper edge of a stack, `y` what this one adds."""

    name: str
    x: Any
    y: Any
    lower: Any
    upper: Any
    colour: str


class Panel(Protocol):
    """One picture of a figure."""

    title: str

    def size(self) -> tuple[float, float]:
        """Return width and height of the picture's coordinates."""
        ...

    def body(self) -> str:
        """Return the SVG elements inside the picture."""
        ...

    def description(self) -> str:
        """Return the picture in a sentence, for those who do not see it."""
        ...

    def rows(self) -> Iterable[tuple[Any, ...]]:
        """Yield the numbers: name of the line, x, y."""
        ...

    def entries(self) -> Iterable[tuple[str, str, str]]:
        """Yield what the legend explains: name, colour, and `line`, `dot` or `area`."""
        ...


@dataclass
class Chart:
    """A chart of lines and areas with two axes.

    Attributes:
        title: above the chart.
        lines, areas: drawn in order, areas first; an area is also a line for legend and numbers.
        size_: width and height.
        x_label, y_label: names of the axes; none if empty.
        from_zero: the vertical axis begins at zero.
        log_x, log_y: logarithmic axes.
        x_range, y_range: limits; None: those of the values.
        x_ticks, y_ticks: where numbers stand; None: at round values.
        level: a horizontal line (y, colour).
            shaded: a band (low, high) of the vertical axis.
        bare: no numbers on the vertical axis.
        note: a text in place of lines.
    """

    title: str
    lines: Sequence[Line] = ()
    areas: Sequence[Area] = ()
    size_: tuple[float, float] = (340, 160)
    x_label: str = ""
    y_label: str = ""
    from_zero: bool = False
    log_x: bool = False
    log_y: bool = False
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    x_ticks: Sequence[float] | None = None
    y_ticks: Sequence[float] | None = None
    level: tuple[float, str] | None = None
    shaded: tuple[float, float] | None = None
    bare: bool = False
    note: str = ""

    def size(self) -> tuple[float, float]:
        return self.size_

    def entries(self) -> Iterable[tuple[str, str, str]]:
        yield from ((line.name, line.colour, "line") for line in self.lines)
        yield from ((area.name, area.colour, "area") for area in self.areas)

    def rows(self) -> Iterable[tuple[Any, ...]]:
        for part in self._parts():
            x = pd.Index(part.x)
            x = x.strftime("%Y-%m-%dT%H") if isinstance(x, pd.DatetimeIndex) else x
            for at, value in zip(x, np.asarray(part.y, float), strict=False):
                yield part.name, at, f"{value:.6g}"

    def description(self) -> str:
        parts = []
        for part in self._parts():
            y = np.asarray(part.y, float)
            y = y[np.isfinite(y)]
            if len(y):
                low, high, last = (_text(value, 3) for value in (y.min(), y.max(), y[-1]))
                parts.append(f"{part.name} from {low} to {high}, at the end {last}")
        return f"{self.title}: {'; '.join(parts) or self.note or 'no values'}."

    def body(self) -> str:
        frame = self._frame()
        parts = [f'<text class="t" x="2" y="12">{escape(self.title)}</text>']
        if self.shaded:
            upper, lower = sorted(float(frame.y(value)) for value in self.shaded)
            top, depth = max(upper, _TOP), min(lower, frame.bottom) - max(upper, _TOP)
            across = frame.right - frame.left
            parts.append(
                f'<rect class="shade" x="{frame.left:.1f}" y="{top:.1f}" width="{across:.1f}" height="{depth:.1f}"/>'
            )
        parts += self._axes(frame)
        parts += [f'<path style="fill:{_colour(area.colour)}" d="{_outline(frame, area)}Z"/>' for area in self.areas]
        if self.level is not None:
            at = f"M{frame.left:.1f} {float(frame.y(self.level[0])):.1f}H{frame.right:.1f}"
            parts.append(f'<path class="l" style="{_stroke(self.level[1])}" d="{at}"/>')
        for line in self.lines:
            parts += self._line(frame, line)
        if self.note:
            middle = f'x="{self.size_[0] / 2:.1f}" y="{self.size_[1] / 2:.1f}" text-anchor="middle"'
            parts.append(f'<text class="n" {middle}>{escape(self.note)}</text>')
        parts.append(f'<path class="a" d="M{frame.left:.1f} {_TOP:.1f}V{frame.bottom:.1f}H{frame.right:.1f}"/>')
        return "".join(parts)

    def _frame(self) -> "_Frame":
        """Return limits, ticks and places of the axes."""
        width, height = self.size_
        xs = [_numbers(line.x) for line in self.lines] + [_numbers(area.x) for area in self.areas]
        ys = [np.asarray(line.y, float) for line in self.lines]
        ys += [np.asarray(edge, float) for area in self.areas for edge in (area.lower, area.upper)]
        if self.level is not None:
            ys.append(np.array([self.level[0]]))
        x_low, x_high = self.x_range or _range(xs, self.log_x, margin=0.0 if self.areas else 0.02)
        y_low, y_high = self.y_range or _range(ys, self.log_y, margin=0.06, zero=self.from_zero)
        y_ticks = [] if self.bare else _ticks(y_low, y_high, self.y_ticks, 4)
        longest = max([len(text) for text in _texts(y_ticks)], default=0)
        left, right = 8 + _LETTER * longest + (14 if self.y_label else 0), width - _RIGHT
        bottom = height - _BOTTOM - (13 if self.x_label else 0)
        if any(isinstance(pd.Index(part.x), pd.DatetimeIndex) for part in self._parts()):
            marks = _dates(x_low, x_high, max(2, int((width - left) / 62)))
        else:
            x_ticks = _ticks(x_low, x_high, self.x_ticks, max(2, int((width - left) / 48)))
            marks = list(zip(x_ticks, _texts(x_ticks), strict=True))
        return _Frame(
            _Scale(x_low, x_high, left, right, self.log_x),
            _Scale(y_low, y_high, bottom, _TOP, self.log_y),
            marks,
            list(zip(y_ticks, _texts(y_ticks), strict=True)),
            left,
            right,
            bottom,
        )

    def _parts(self) -> "list[Line | Area]":
        return [*self.lines, *self.areas]

    def _axes(self, frame: "_Frame") -> Iterator[str]:
        """Yield grid lines, numbers and names of the axes."""
        width, height = self.size_
        for tick, text in frame.y_marks:
            y = float(frame.y(tick))
            yield f'<path class="g" d="M{frame.left:.1f} {y:.1f}H{frame.right:.1f}"/>'
            yield f'<text class="n" x="{frame.left - 5:.1f}" y="{y + 3.5:.1f}" text-anchor="end">{text}</text>'
        for tick, text in frame.x_marks:
            x = float(frame.x(tick))
            beyond = x + _LETTER * len(text) / 2 > width - 1
            anchor, at = ("end", width - 1) if beyond else ("middle", x)
            yield f'<path class="g" d="M{x:.1f} {_TOP:.1f}V{frame.bottom:.1f}"/>'
            yield f'<text class="n" x="{at:.1f}" y="{frame.bottom + 14:.1f}" text-anchor="{anchor}">{text}</text>'
        if self.x_label:
            at = (frame.left + frame.right) / 2
            place = f'x="{at:.1f}" y="{height - 3:.1f}" text-anchor="middle"'
            yield f'<text class="n" {place}>{escape(self.x_label)}</text>'
        if self.y_label:
            turned = f'transform="translate(10 {(frame.bottom + _TOP) / 2:.1f}) rotate(-90)"'
            yield f'<text class="n" {turned} text-anchor="middle">{escape(self.y_label)}</text>'

    def _line(self, frame: "_Frame", line: Line) -> Iterator[str]:
        x, y = _numbers(line.x), np.asarray(line.y, float)
        if line.steps:
            x, y = np.repeat(x, 2)[1:-1], np.repeat(y, 2)
        # A value far outside the limits is drawn just outside, as drawing programs refuse huge numbers.
        across, down = frame.x(x), np.clip(frame.y(y), _TOP - 40, self.size_[1] + 40)
        yield f'<path class="l" style="{_stroke(line.colour)}" d="{line_path(across, down)}"/>'
        if line.dots or len(x) == 1:
            dots = "".join(f"M{a:.1f} {b:.1f}h0" for a, b in zip(across, down, strict=True) if np.isfinite(b))
            yield f'<path class="d" style="stroke:{_colour(line.colour)}" d="{dots}"/>'


@dataclass
class Figure:
    """Panels with one legend.

    Attributes:
        label: what the figure shows, for screen readers and as the name of its numbers.
        panels: in the order of reading.
        columns: panels in a row on a wide page; fewer where the page is narrow.
    """

    label: str
    panels: Sequence[Panel]
    columns: int = 3
    legend: bool = True
    x_name: str = "x"

    def __html__(self) -> str:
        """Return the figure for a page: legend, panels in a grid, a link to the numbers."""
        least = {1: 420, 2: 320, 3: 260, 4: 215, 5: 170, 6: 150}[self.columns]
        shown = [
            f'<svg role="img" viewBox="0 0 {width:g} {height:g}" class="panel" aria-label="{escape(text)}">'
            f"{panel.body()}</svg>"
            for panel in self.panels
            for (width, height), text in [(panel.size(), panel.description())]
        ]
        return (
            f'<div class="figure" role="group" aria-label="{escape(self.label)}">{self._legend()}'
            f'<div class="panels" style="--least:{least}px;--columns:{self.columns}">{"".join(shown)}</div></div>'
        )

    def svg(self) -> str:
        """Return the figure as one SVG file with its own colours."""
        sizes = [panel.size() for panel in self.panels]
        across, down = max(w for w, _ in sizes) + 14, max(h for _, h in sizes) + 8
        columns = min(self.columns, len(self.panels))
        rows = -(-len(self.panels) // columns)
        parts, x = [], 4.0
        for name, colour, kind in self._names():
            parts.append(f'<g transform="translate({x:.0f} 2)">{_key(colour, kind)}</g>')
            parts.append(f'<text class="n" x="{x + 27:.0f}" y="12">{escape(name)}</text>')
            x += 45 + _LETTER * len(name)
        for i, (panel, (width, height)) in enumerate(zip(self.panels, sizes, strict=True)):
            left, top = across * (i % columns) + 4, down * (i // columns) + 24
            parts.append(
                f'<svg x="{left:g}" y="{top:g}" width="{width:g}" height="{height:g}">'
                f"<title>{escape(panel.description())}</title>{panel.body()}</svg>"
            )
        width, height = max(across * columns, x), down * rows + 26
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" role="img" '
            f'aria-label="{escape(self.label)}" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
            f'height="{height:g}"><style>{style.figure_css()}svg{{background:var(--paper)}}</style>{"".join(parts)}</svg>'
        )

    def numbers(self) -> Markup:
        """Return a link that saves the figure's numbers as CSV; nothing where a figure has none."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("panel", "line", self.x_name, "value"))
        rows = [(panel.title, *row) for panel in self.panels for row in panel.rows()]
        if not rows:
            return Markup()
        writer.writerows(rows)
        content = base64.b64encode(text.getvalue().encode()).decode()
        name = "".join(c if c.isalnum() else "-" for c in self.label.lower())
        return Markup('<a class="numbers" download="{}.csv" href="data:text/csv;base64,{}">numbers (CSV)</a>').format(
            name, content
        )

    def _names(self) -> list[tuple[str, str, str]]:
        return list(dict.fromkeys(entry for panel in self.panels for entry in panel.entries())) if self.legend else []

    def _legend(self) -> str:
        keys = "".join(
            f'<li><svg aria-hidden="true" viewBox="0 0 22 12">{_key(colour, kind)}</svg>{escape(name)}</li>'
            for name, colour, kind in self._names()
        )
        return f'<ul class="legend">{keys}</ul>' if keys else ""


def _key(colour: str, kind: str) -> str:
    if kind == "area":
        return f'<rect x="6" y="1" width="10" height="10" rx="2" style="fill:{_colour(colour)}"/>'
    if kind == "dot":
        return f'<circle cx="11" cy="6" r="4" style="fill:{_colour(colour)}"/>'
    return f'<path class="l" style="{_stroke(colour)}" d="M0 6H22"/>'


def _colour(name: str) -> str:
    return f"var(--{style.slug(name)})"


def _stroke(name: str) -> str:
    dashes = style.DASHES.get(name)
    return f"stroke:{_colour(name)}" + (f";stroke-dasharray:{dashes}" if dashes else "")


# --- scales and ticks -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Scale:
    """Places numbers of an axis on the picture."""

    low: float
    high: float
    start: float
    end: float
    log: bool

    def __call__(self, values: Any) -> NDArray:
        with np.errstate(divide="ignore", invalid="ignore"):
            at = np.asarray(values, float)
            low, high = self.low, self.high
            if self.log:
                at, low, high = np.log10(at), float(np.log10(low)), float(np.log10(high))
            placed: NDArray = self.start + (at - low) / ((high - low) or 1.0) * (self.end - self.start)
        return placed


@dataclass(frozen=True)
class _Frame:
    """Holds the axes of a chart: scales, ticks with their texts, and where the picture of the lines ends."""

    x: _Scale
    y: _Scale
    x_marks: Sequence[tuple[float, str]]
    y_marks: Sequence[tuple[float, str]]
    left: float
    right: float
    bottom: float


def _numbers(x: Any) -> NDArray:
    """Return positions as numbers; times are days since 1970."""
    values = pd.Index(x)
    if isinstance(values, pd.DatetimeIndex):
        return (values - pd.Timestamp(0)) / pd.Timedelta(days=1)
    return values.to_numpy(float)


def _range(arrays: Sequence[NDArray], log: bool, margin: float, zero: bool = False) -> tuple[float, float]:
    joined = np.concatenate([np.asarray(array, float) for array in arrays]) if arrays else np.empty(0)
    values = joined[np.isfinite(joined)]
    if log:
        values = values[values > 0]
    if not len(values):
        return (1.0, 10.0) if log else (0.0, 1.0)
    low, high = float(values.min()), float(values.max())
    if log:
        return low / (1 + margin), high * (1 + margin)
    if zero:
        return min(0.0, low), (high + margin * (high - min(0.0, low))) or 1.0
    room = margin * (high - low) if high > low else 0.05 * abs(high) or 0.5
    return low - room, high + room


def _ticks(low: float, high: float, asked: Sequence[float] | None, most: int) -> list[float]:
    """Return the asked or else at most `most` + 1 round numbers between two limits (in any order)."""
    low, high = sorted((low, high))
    if asked is not None:
        return [tick for tick in asked if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
    rough = (high - low) / most
    power = 10.0 ** np.floor(np.log10(rough)) if rough > 0 else 1.0
    step = power * next((m for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9)), 10)
    first = np.ceil(low / step - 1e-9)
    return [float(round(step * (first + i), 12)) for i in range(int((high - step * first) / step + 1e-9) + 1)]


def _texts(ticks: Sequence[float]) -> list[str]:
    return [_text(tick, 6) for tick in ticks]


def _text(value: float, digits: int) -> str:
    if abs(value) >= 10000:
        return f"{value:,.0f}".replace("-", _MINUS)
    return f"{value:.{digits}g}".replace("-", _MINUS)


def _dates(low: float, high: float, most: int) -> list[tuple[float, str]]:
    """Return at most `most` times (days since 1970) between two, with texts such as `4 Jan`, `06 h` or `Mar 2024`."""
    first, last = (pd.Timestamp(0) + pd.Timedelta(days=day) for day in (low, high))
    for hours in (3, 6, 12, 24, 48, 96, 168, 336):
        times = pd.date_range(first.floor("D"), last, freq=f"{hours}h")
        times = times[times >= first]
        if len(times) <= most:
            break
    else:
        for months in (1, 2, 3, 6, 12, 24, 60, 120):
            times = pd.date_range(first.floor("D").replace(day=1), last, freq=f"{months}MS")
            times = times[times >= first]
            if len(times) <= most:
                break
        return [(_day(time), f"{time:%b %Y}") for time in times]
    return [(_day(time), f"{time.day} {time:%b}" if time.hour == 0 else f"{time:%H} h") for time in times]


def _day(time: pd.Timestamp) -> float:
    return float((time - pd.Timestamp(0)) / pd.Timedelta(days=1))


def _outline(frame: _Frame, area: Area) -> str:
    x = np.concatenate([_numbers(area.x), _numbers(area.x)[::-1]])
    y = np.concatenate([np.asarray(area.upper, float), np.asarray(area.lower, float)[::-1]])
    return line_path(frame.x(x), frame.y(y))


def line_path(x: NDArray, y: NDArray) -> str:
    """Return a path through points; it is broken where a value is not finite."""
    parts, down = [], False
    for a, b in zip(x.tolist(), y.tolist(), strict=True):
        if not np.isfinite(b):
            down = False
            continue
        parts.append(f"{'L' if down else 'M'}{a:.1f} {b:.1f}")
        down = True
    return "".join(parts)
