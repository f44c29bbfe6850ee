"""Style the figures of reports: one set of colours for light and dark, readable units, daily means of long runs."""

from typing import TypeVar

import numpy as np
import pandas as pd

from dacycle.forecast_adapter.channels import readable, readable_variable

__all__ = [
    "COLOURS",
    "COMB",
    "DASHES",
    "PALETTE",
    "STATUSES",
    "USES",
    "css",
    "figure_css",
    "readable",
    "readable_variable",
    "reason_colour",
    "slug",
    "thin",
]

Table = TypeVar("Table", pd.Series, pd.DataFrame)

PALETTE: dict[str, tuple[str, str]] = {
    "analysis": ("#1f6fb2", "#62aeea"),
    "background": ("#c9631a", "#eb9a5c"),
    "free run": ("#767c85", "#a3aab4"),
    "reference": ("#2b8a6b", "#4fbf98"),
    "persistence": ("#97588c", "#cb97c2"),
    "climatology": ("#857732", "#c4b463"),
    "assimilated": ("#1f6fb2", "#62aeea"),
    "withheld": ("#2b8a6b", "#4fbf98"),
    "late": ("#b98f1f", "#e0bf62"),
    "rejected": ("#b8473f", "#e5857d"),
    "withheld_site": ("#2b8a6b", "#4fbf98"),
    "withheld_region": ("#4c9a80", "#8fd6ba"),
    "background_check": ("#b8473f", "#e5857d"),
    "buddy_check": ("#cf6a3c", "#ea9470"),
    "spatial_consistency": ("#d9a05f", "#e8bd8a"),
    "blacklisted": ("#4c4f57", "#9ba0ab"),
    "not_listed": ("#6f7480", "#b5bac4"),
    "after_cutoff": ("#b98f1f", "#e0bf62"),
    "denied": ("#7a6aa8", "#ab9ed3"),
    "duplicate": ("#8b9098", "#7d858f"),
    "gross_limits": ("#7d2f29", "#c46a63"),
    "station_height": ("#b97553", "#dba58a"),
    "no_operator": ("#4a8089", "#83bcc5"),
    "other reason": ("#9aa1a9", "#6f7882"),
    "ok": ("#2b8a6b", "#3fa582"),
    "degraded": ("#d9b44a", "#e0bf62"),
    "fallback": ("#b8473f", "#e5857d"),
    "shade 1": ("#8fb9dd", "#d5e8f8"),
    "shade 2": ("#5f9fd0", "#a3cdf0"),
    "shade 3": ("#1f6fb2", "#6fb2e8"),
    "shade 4": ("#174f80", "#4389c2"),
    "shade 5": ("#0d2f4d", "#2d6596"),
    "quiet": ("#8b9098", "#8b949e"),
    "far below": ("#1f4e9c", "#6aa5ff"),
    "below": ("#7fb0e0", "#3d6ea6"),
    "close": ("#b4b9c0", "#59616b"),
    "above": ("#eb9a78", "#a35a3c"),
    "far above": ("#a8281f", "#ff8a78"),
}
"""Every colour of a figure by name, on white and on black; the same in all figures."""

COLOURS = {
    name: PALETTE[name][0] for name in ("analysis", "background", "free run", "reference", "persistence", "climatology")
}
"""The colour of each curve on white."""
DASHES = {"free run": "6 2.5", "persistence": "2 2", "climatology": "7 2 2 2", "quiet": "4 2.5"}
"""Dashes keep curves apart without colour."""
USES = ("assimilated", "withheld", "late", "rejected")
STATUSES = ("ok", "degraded", "fallback")

COMB = 120
"""Above this number of cycles, counts are drawn as daily means: a source that reports twice a day looks like a comb."""

_PAGE = {
    "paper": ("#ffffff", "#14181d"),
    "ink": ("#22272e", "#e3e7ec"),
    "soft": ("#59616b", "#a7b0ba"),
    "line": ("#d9dde2", "#333b44"),
    "edge": ("#9aa1a9", "#5d6772"),
    "pale": ("#f5f7f9", "#1d232a"),
    "accent": ("#1a62a0", "#7cbcf2"),
    "good": ("#1a6b4e", "#5fcaa2"),
    "bad": ("#a33a31", "#f0958d"),
    "warn": ("#7a5a00", "#e6c463"),
    "better": ("#dcefe6", "#173a2e"),
    "worse": ("#f6dfdc", "#4a211d"),
}


def slug(name: str) -> str:
    """Return the name of the variable of a style sheet that holds a colour of `PALETTE`."""
    return "k-" + name.replace(" ", "-").replace("_", "-")


def reason_colour(reason: str) -> str:
    """Return the name of the colour of a reason; rarer reasons share one."""
    return reason if reason in PALETTE else "other reason"


def css() -> str:
    """Return the variables of a style sheet: colours on white, and those on black for readers who prefer dark."""
    pairs = {**_PAGE, **{slug(name): pair for name, pair in PALETTE.items()}}
    light, dark = (";".join(f"--{name}:{pair[i]}" for name, pair in pairs.items()) for i in (0, 1))
    return f":root{{{light}}}@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}"


def figure_css() -> str:
    """Return `css` and the classes of `charts`."""
    font = "system-ui,'Segoe UI',Helvetica,Arial,sans-serif"
    return (
        f"{css()}.t{{font:600 12px {font};fill:var(--ink)}}.n{{font:10.5px {font};fill:var(--soft)}}"
        ".g{stroke:var(--line);stroke-width:.7;fill:none}.a{stroke:var(--edge);fill:none}"
        ".l{fill:none;stroke-width:1.6;stroke-linejoin:round}.d{stroke-width:4;stroke-linecap:round;fill:none}"
        ".shade{fill:var(--pale)}.coast{fill:none;stroke:#30363d;stroke-width:.6;stroke-linejoin:round}"
        ".coast.far{stroke:var(--edge)}.rim{fill:none;stroke:var(--edge)}"
    )


def thin(table: Table, most: int = 400) -> Table:
    """Return series in time unchanged, or as daily means where there are more than `most` points.

    An incomplete day at either end is left out, as its mean would be one of a part of the day.
    """
    if len(table) <= most:
        return table
    days = table.resample("1D")
    whole = np.flatnonzero(days.size() == days.size().max())
    return days.mean().iloc[whole[0] : whole[-1] + 1]
