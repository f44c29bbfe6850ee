"""Draw with matplotlib, to inline SVG in the page's own font: single observations and benchmarks.

The figures of reports are drawn by `charts`, which is faster and knows light and dark.
"""

import hashlib
import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from dacycle.cycler.report.style import COLOURS

__all__ = ["legend", "line", "panels", "plain", "svg"]

LINES = {"free run": (0, (5, 1.5)), "persistence": (0, (1, 1.2)), "climatology": (0, (4, 1.2, 1, 1.2))}
"""The dashes of curves, by their names in `COLOURS`."""
IN_A_ROW = 6
"""Most entries in a row of a legend."""
_RASTER_DPI = 190
_LEFT = 0.5  # inches left of the first column of panels
_INK, _FAINT = "#22272e", "#d9dde2"
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8,
    "axes.edgecolor": "#9aa1a9",
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _FAINT,
    "grid.linewidth": 0.6,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.titlecolor": _INK,
    "xtick.color": "#59616b",
    "ytick.color": "#59616b",
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "lines.linewidth": 1.3,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "path.simplify_threshold": 0.3,
}


def svg(draw: Callable[[Figure], None], label: str, height: float, width: float = 10.6) -> Markup:
    """Draw on a figure of width x height inches; return it as inline SVG that fills the width of its container.

    The same drawing gives the same text, byte for byte. `label` is the text for screen readers.
    """
    with rc_context(_STYLE | {"svg.hashsalt": label}):
        figure = Figure(figsize=(width, height), dpi=_RASTER_DPI)
        draw(figure)
        buffer = io.StringIO()
        # savefig would draw everything twice, for layouts that are not used here.
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r' id="image[0-9a-f]+"', "", text)  # made from the content, so that two images may share an id
    # Ids are unique within a figure, but must be unique within the page.
    mark = hashlib.sha256(label.encode()).hexdigest()[:6]
    text = re.sub(r'\bid="', f'id="{mark}-', text)
    text = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{mark}-", text)
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, 'Segoe UI', Helvetica, Arial, sans-serif", text)
    text = re.sub(r' width="[^"]+pt"', "", re.sub(r' height="[^"]+pt"', "", text, count=1), count=1)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    return Markup(text.replace("<svg", f'<svg role="img" aria-label="{Markup.escape(label)}"', 1))


def panels(
    figure: Figure,
    count: int,
    columns: int = 3,
    between: float = 0.47,
    gap: float = 0.46,
    top: float = 0.46,
    bottom: float = 0.3,
    **options: Any,
) -> list[Axes]:
    """Return `count` axes in rows of `columns`, with room for a legend above; spare axes are removed.

    The margins (between columns, between rows, above, below) are in inches. They are fixed, because matplotlib's own
    layout takes longer than the rest of a report.
    """
    width, height = figure.get_size_inches()
    rows = -(-count // columns)
    left, right = _LEFT, 0.08
    across = (width - left - right - between * (columns - 1)) / columns
    down = (height - top - bottom - gap * (rows - 1)) / rows
    margins = {
        "left": left / width,
        "right": 1 - right / width,
        "top": 1 - top / height,
        "bottom": bottom / height,
        "wspace": between / across,
        "hspace": gap / down,
    }
    ratios = options.pop("height_ratios", None)
    grid = {**margins, "height_ratios": ratios} if ratios else margins
    axes = list(np.atleast_1d(figure.subplots(rows, columns, gridspec_kw=grid, **options)).ravel())
    for spare in axes[count:]:
        spare.remove()
    return axes[:count]


def plain(axis: Axis, ticks: Sequence[float]) -> None:
    """Label a logarithmic axis with plain numbers at the given ticks."""
    axis.set_major_locator(FixedLocator(list(ticks)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def legend(figure: Figure, axes: Axes) -> None:
    """Draw one legend above all panels, from the lines of one of them."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        anchor = (_LEFT / figure.get_size_inches()[0], 1.0)
        rows = -(-len(labels) // IN_A_ROW)
        options = {"ncols": -(-len(labels) // rows), "handlelength": 2.2, "columnspacing": 1.6, "borderaxespad": 0.1}
        figure.legend(handles, labels, loc="upper left", bbox_to_anchor=anchor, borderpad=0.1, **options)


def line(axes: Axes, x: Any, y: Any, name: str, label: str | None = None, **options: Any) -> None:
    """Draw a line in the colour and style of its name."""
    style: dict[str, Any] = {"color": COLOURS.get(name), "linestyle": LINES.get(name, "-")} | options
    axes.plot(x, y, label=label or name, **style)
