"""Rows of kept forecasts' scores at observations, in readable units, for the report and the command line."""

from typing import Any

import numpy as np
import pandas as pd

from dacycle.cycler.archive.branches import Branch
from dacycle.cycler.report import style
from dacycle.cycler.verification.at_observations import at_observations, by_lead
from dacycle.forecast_adapter.channels import HEADLINE
from dacycle.forecast_adapter.worlds.world import World

__all__ = ["SHOWN_LEADS", "observation_rows", "observation_table"]

SHOWN_LEADS = (0, 24, 72, 120, 240)
"""Hours of lead in tables that do not show all."""

_SIZES = ("rms", "observation_error", "error", "against_reference", "reference_error")


def observation_rows(branch: Branch, world: World) -> list[dict[str, Any]]:
    """Return a row per channel, source, region and lead: what `verification.at_observations.by_lead` does, with units.

    Raises:
        ArchiveError: no forecast has been made, or a departure table is damaged.
    """
    errors = by_lead(at_observations(branch, world))
    order = errors["channel"].map({name: i for i, name in enumerate(HEADLINE)})
    errors = errors.assign(order=order).sort_values(["order", "source", "region", "lead"])
    rows = []
    for row in errors.to_dict("records"):
        factor, unit = style.readable(row["channel"])
        names = {name: row[name] for name in ("channel", "source", "region")}
        counts = {"lead_hours": int(row["lead"]), "starts": int(row["starts"]), "n": int(row["n"])}
        rows.append({**names, "unit": unit, **counts, **{name: factor * float(row[name]) for name in _SIZES}})
    return rows


def observation_table(rows: list[dict[str, Any]], region: str = "globe") -> tuple[list[int], list[dict[str, Any]]]:
    """Return the shown leads, and a row per channel and source with a cell for each of them.

    A cell holds the error at the observations, the difference from the reference there, and the number of observations.
    """
    of_region = pd.DataFrame([row for row in rows if row["region"] == region])
    if of_region.empty:
        return [], []
    leads = [lead for lead in SHOWN_LEADS if (of_region["lead_hours"] == lead).any()]
    table = []
    for (channel, source), found in of_region.groupby(["channel", "source"], sort=False):
        by = found.set_index("lead_hours")
        cells = [
            tuple(by.loc[lead, ["error", "against_reference", "n"]]) if lead in by.index else (np.nan, np.nan, 0)
            for lead in leads
        ]
        table.append({"channel": channel, "source": source, "unit": found["unit"].iloc[0], "cells": cells})
    return leads, table
