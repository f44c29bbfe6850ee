"""Say whether departures are as large as the errors that were assumed, and how much observations decide.

With d_b = O-B and d_a = O-A of the assimilated values of a source, variable and layer, their means over the run
subtracted, e the stated error, and < > the mean over values:

    s_o^2 = <d_a d_b>                  the observations' error, s_b^2 = <(d_b - d_a) d_b> that of the background
    chi^2 = <d_b^2> / (<e^2> + s_b^2)  1 where the errors are consistent
    DFS   = sum (d_b - d_a) d_a / e^2  degrees of freedom for signal, an estimate of tr(HK)

The first line (Desroziers et al. 2005, doi:10.1256/qj.05.108) and the last (Lupu et al. 2011, doi:10.1002/qj.747) hold
for optimal analyses with independent observation errors. Where a method has members, s_b of chi^2 is their spread, as
recorded over the globe, in place of what the increments say.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from dacycle.cycler.archive.record import CycleRecord
from dacycle.cycler.verification.cycles import LAYERS, layer_of
from dacycle.forecast_adapter.channels import CHANNELS, NAMES

__all__ = ["consistency", "spread_by_layer"]

_KEYS = ["source", "variable", "layer"]
_SUMS = [
    "compared", "error_squared", "o_b", "o_b_squared", "o_a", "o_b_o_a", "o_b_o_a_in_errors", "o_a_in_errors_squared",
]  # fmt: skip


def consistency(fits: pd.DataFrame, records: Sequence[CycleRecord]) -> pd.DataFrame:
    """Return one row per source, variable and layer of assimilated values.

    Args:
        fits: of `Verification`.
        records: of the same cycles.

    Returns:
        source, variable, layer -> `values` a cycle; `stated` error, and `estimated` s_o; `background` s_b by the
        increments, and `spread` of the members (NaN without); `chi_squared`; `dfs` a cycle, and its `share` of the
        number of values. SI units. An estimate whose square is negative is NaN.
    """
    used = fits[(fits["use"] == "assimilated") & (fits["compared"] > 0)]
    sums = used.groupby(_KEYS, as_index=False)[_SUMS].sum().astype(dict.fromkeys(_SUMS, float))
    cycles, n = max(1, fits["time"].nunique()), sums["compared"]
    stated = sums["error_squared"] / n
    mean_b, mean_a = sums["o_b"] / n, sums["o_a"] / n
    of_departures = sums["o_b_squared"] / n - mean_b**2
    estimated = sums["o_b_o_a"] / n - mean_a * mean_b
    by_increments = of_departures - estimated
    by_members = spread_by_layer(records)
    kinds = zip(sums["variable"], sums["layer"], strict=True)
    spread = pd.Series([by_members.get(kind, np.nan) for kind in kinds], dtype=float)
    background = spread.fillna(by_increments.clip(lower=0))
    order = ["surface", *LAYERS]
    table = pd.DataFrame(
        {
            **{name: sums[name] for name in _KEYS},
            "values": n / cycles,
            "stated": np.sqrt(stated),
            "estimated": _root(estimated),
            "background": _root(by_increments),
            "spread": np.sqrt(spread),
            "chi_squared": of_departures / (stated + background),
            "dfs": (sums["o_b_o_a_in_errors"] - sums["o_a_in_errors_squared"]) / cycles,
            "share": (sums["o_b_o_a_in_errors"] - sums["o_a_in_errors_squared"]) / n,
        }
    )
    return table.sort_values("layer", key=lambda names: names.map(order.index), kind="stable").sort_values(
        ["source", "variable"], kind="stable", ignore_index=True
    )


def _root(squared: pd.Series) -> pd.Series:
    return np.sqrt(squared.where(squared >= 0))


def spread_by_layer(records: Sequence[CycleRecord]) -> dict[tuple[str, str], float]:
    """Return the mean square spread of the backgrounds' members by variable and layer; nothing without members."""
    spreads = [record.background_spread for record in records if record.background_spread]
    if not spreads:
        return {}
    squares = np.square([[spread[name] for name in NAMES] for spread in spreads]).mean(axis=0)
    pressure = np.array([np.nan if c.level is None else 100.0 * c.level for c in CHANNELS])
    rows = pd.DataFrame({"variable": [c.variable for c in CHANNELS], "layer": layer_of(pressure), "square": squares})
    means = rows.groupby(["variable", "layer"])["square"].mean()
    return {(str(variable), str(layer)): float(mean) for (variable, layer), mean in means.items()}
