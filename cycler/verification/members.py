"""Forecasts of an ensemble's members, and how well their spread tells their error, by lead.

    branches/NAME/drift/START-members.parquet       lead, channel, region -> mse, variance, crps, ranks

A run with members makes them where its experiment sets `drift.members`. Only these scores of the headline channels are
kept: `mse` of the members' mean, `variance` of the members, the fair CRPS, and `ranks`, the share of the area where the
truth has each rank among the members. They are made with the forecasts of the chain itself (`drift`), whose scores are
those of the control. Members have no samples of the model's error after their start.
"""

import json
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from dacycle.common.arrow import to_pandas
from dacycle.common.files import write_whole
from dacycle.cycler.archive.branches import Branch
from dacycle.cycler.archive.frames import StoredFrames
from dacycle.cycler.archive.members import MEMBERS, around
from dacycle.cycler.archive.record import CycleRecord
from dacycle.cycler.archive.sealed_tables import read_sealed_table, seal_table
from dacycle.cycler.experiment import STEP, cycle_id
from dacycle.cycler.verification.drift_scores import current, with_marks
from dacycle.forecast_adapter import scores
from dacycle.forecast_adapter.channels import HEADLINE, index
from dacycle.forecast_adapter.grid import Grid
from dacycle.forecast_adapter.models.model import ForecastModel
from dacycle.forecast_adapter.worlds.world import World

__all__ = [
    "are_wanted",
    "make_scores",
    "rank_shares",
    "read_scores_of_members",
    "score_members",
    "spread_over_error",
    "summary",
]

_KEY = b"dacycle.members"
"""In a file's metadata: what its scores were made from, and of how many members."""


def are_wanted(
    branch: Branch, world: World, start: pd.Timestamp, made_from: str, leads: Sequence[int], all_leads: bool
) -> bool:
    """Return whether forecasts of members are due at a start.

    Args:
        branch: of the run.
        world: its world.
        start: of the forecast.
        made_from: fingerprint of the cycles that it starts from.
        leads: hours that the reference holds.
        all_leads: whether they are all that the experiment asks for; then scores of fewer are made again.

    Raises:
        ArchiveError: the scores of the start are damaged.
    """
    if branch.experiment.drift.members is None or not leads:
        return False
    there = set(branch.archive.states.times(branch.name, MEMBERS))
    if not {np.datetime64(time, "h") for time in (start - STEP, start)} <= there:
        return False  # the members of the first cycle are drawn, not kept
    table = _read(branch, start, made_from)
    if table is None:
        return True
    is_current = current(table, world, start).num_rows == table.num_rows
    return not is_current or (all_leads and set(table["lead"].unique().to_pylist()) != set(leads))


def make_scores(
    branch: Branch, world: World, model: ForecastModel, start: pd.Timestamp, made_from: str, leads: Sequence[int]
) -> None:
    """Forecast the first `drift.members` members from a start, score them at `leads` (hours), and keep the scores."""
    stored, count = StoredFrames(branch), branch.experiment.drift.members
    frames = []
    for frame, perturbations in zip(stored.pair(start), stored.perturbations(start), strict=True):
        assert perturbations is not None  # `are_wanted` has seen that they are kept
        frames.append(around(frame, perturbations[:count]))
    previous, current = frames
    steps = chain([current], model.forecast(previous, current, int(leads[-1]) // 6))
    states = ((6 * step, state) for step, state in enumerate(steps) if 6 * step in leads)
    frame = score_members(world, np.datetime64(start, "h"), states)
    table = with_marks(pa.Table.from_pandas(frame, preserve_index=False), world, start)
    table = table.replace_schema_metadata({**table.schema.metadata, _KEY: _made(branch, made_from)})
    write_whole(_path(branch, start), seal_table(table))


def score_members(world: World, start: np.datetime64, states: Iterable[tuple[int, NDArray]]) -> pd.DataFrame:
    """Score members (M, 69, H, W) at each lead (hours) that the reference holds: a row per channel and region."""
    channels, tables = [index(name) for name in HEADLINE], []
    for lead, state in states:
        members, truth = state[:, channels], world.reference.array(start + lead)[channels]
        shares = rank_shares(members, truth, world.grid)
        columns = {
            "mse": scores.mse(members.mean(axis=0, dtype=np.float64), truth, world.grid),
            "variance": scores.region_means(members.var(axis=0, ddof=1, dtype=np.float64), world.grid),
            "crps": scores.region_means(scores.ensemble_crps(members, truth), world.grid),
        }
        found = pd.DataFrame({name: values.ravel().astype(np.float32) for name, values in columns.items()})
        found["ranks"] = list(shares.reshape(-1, len(members) + 1).astype(np.float32))
        found.insert(0, "lead", np.int16(lead))
        found.insert(1, "channel", np.repeat(HEADLINE, len(scores.REGIONS)))
        found.insert(2, "region", np.tile(list(scores.REGIONS), len(HEADLINE)))
        tables.append(found)
    return pd.concat(tables, ignore_index=True)


def rank_shares(members: NDArray, truth: NDArray, grid: Grid) -> NDArray[np.float64]:
    """Return the share of the area (C, region, N + 1) where the truth has each rank among the members.

    The rank is the number of members below it. Where the spread is right, each is as frequent (Hamill 2001,
    doi:10.1175/1520-0493(2001)129<0550:IORHFV>2.0.CO;2).

    Args:
        members: (N, C, H, W).
        truth: (C, H, W).
        grid: of both.
    """
    below = (members < truth).sum(axis=0)
    return np.stack([scores.region_means(below == rank, grid) for rank in range(len(members) + 1)], axis=-1)


def read_scores_of_members(branch: Branch, sources: dict[pd.Timestamp, str]) -> pd.DataFrame:
    """Read the scores of the members' forecasts: start, lead, channel, region -> mse, variance, crps, ranks.

    Args:
        branch: of the run.
        sources: the starts, each with the fingerprint of the cycles it starts from.

    Raises:
        ArchiveError: a file is damaged.
    """
    if branch.experiment.drift.members is None:
        return pd.DataFrame()
    found = [(start, _read(branch, start, made_from)) for start, made_from in sources.items()]
    frames = [to_pandas(table).assign(start=start) for start, table in found if table is not None]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def summary(of_members: pd.DataFrame, of_control: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the global scores by channel and lead, means over the starts that both tables hold at the lead.

    Values are in the channel's SI unit: `rmse` of the members' mean, `spread`, their ratio (with the factor of a finite
    ensemble, Fortin et al. 2014, doi:10.1175/JHM-D-14-0008.1: 1 where the spread is right), `crps`, `rmse_control` and
    `mae_control`, which is the control's CRPS, and `ranks`.
    """
    if of_members.empty:
        return []
    keys, rows = ["start", "channel", "lead"], []
    control = of_control[(of_control["kind"] == "analysis") & (of_control["region"] == "globe")]
    control = control[[*keys, "mse", "mae"]].astype({"channel": str})
    joined = of_members[of_members["region"] == "globe"].merge(control, on=keys, suffixes=("", "_control"))
    for (channel, lead), found in joined.groupby(["channel", "lead"]):
        ranks = np.mean(np.stack(found["ranks"].tolist()), axis=0)
        members = len(ranks) - 1
        means = found[["mse", "variance", "crps", "mse_control", "mae"]].mean().to_dict()
        variance = means["variance"] * (members + 1) / members
        rows.append(
            {
                "channel": channel,
                "lead_hours": int(lead),
                "starts": len(found),
                "members": members,
                "rmse": float(np.sqrt(means["mse"])),
                "rmse_control": float(np.sqrt(means["mse_control"])),
                "spread": float(np.sqrt(means["variance"])),
                "spread_over_error": float(np.sqrt(variance / means["mse"])) if means["mse"] else float("nan"),
                "crps": float(means["crps"]),
                "mae_control": float(means["mae"]),
                "ranks": [float(share) for share in ranks],
            }
        )
    return sorted(rows, key=lambda row: (HEADLINE.index(row["channel"]), row["lead_hours"]))


def spread_over_error(records: Sequence[CycleRecord], errors: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Return by channel the spread of members over the error of `background` and `analysis`, over the globe.

    Args:
        records: of the cycles; without members they have no spread, and the result is empty.
        errors: of cycles, as `verification.cycles.verify` finds them; only its times count.
    """
    times = set(errors["time"])
    with_members = {r.time: r for r in records if r.time in times and r.background_spread and r.analysis_spread}
    globe = errors[(errors["region"] == "globe") & errors["time"].isin(with_members)]
    found: dict[str, dict[str, float]] = {}
    for kind in ("background", "analysis") if with_members else ():
        spreads = [getattr(record, f"{kind}_spread") for record in with_members.values()]
        mse = globe[globe["kind"] == kind].groupby("channel", observed=True)["mse"].mean()
        for channel in HEADLINE:
            variance = np.mean([spread[channel] ** 2 for spread in spreads])
            found.setdefault(channel, {})[kind] = float(np.sqrt(variance / mse[channel]))
    return found


def _read(branch: Branch, start: pd.Timestamp, made_from: str) -> pa.Table | None:
    """Return the kept scores of a start; None where there are none, or those of other analyses or members."""
    path = _path(branch, start)
    if not path.is_file():
        return None
    table = read_sealed_table(path, branch.scores_remedy)
    return table if (table.schema.metadata or {}).get(_KEY) == _made(branch, made_from) else None


def _made(branch: Branch, made_from: str) -> bytes:
    return json.dumps({"made_from": made_from, "members": branch.experiment.drift.members}).encode()


def _path(branch: Branch, start: pd.Timestamp) -> Path:
    return branch.folder / "drift" / f"{cycle_id(start)}-members.parquet"
