"""Compute the scores of forecasts lead by lead, and store them in one Parquet file per start.

    branches/NAME/drift/START.parquet       kind, lead, channel, region -> mse, mae, bias, acc

The metadata of a file hold the fingerprint of the analyses that its forecast started from, and the marks of the
reference's states that it was scored against. A file with another fingerprint counts as missing, and so do scores
against a state that the reference holds no longer in that form.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dacycle.common.files import stamp, write_whole
from dacycle.cycler.archive.branches import ArchiveError, Branch
from dacycle.cycler.archive.sealed_tables import read_sealed_table, seal_table
from dacycle.cycler.experiment import STEP, cycle_id
from dacycle.forecast_adapter import scores
from dacycle.forecast_adapter.channels import NAMES
from dacycle.forecast_adapter.worlds.world import World

__all__ = [
    "COLUMNS",
    "KINDS",
    "current",
    "has_scores",
    "is_whole",
    "join",
    "kept_leads",
    "read_scores_of",
    "score",
    "score_states",
    "scored_leads",
    "with_marks",
    "write_scores",
]

KINDS = ("analysis", "reference", "persistence", "climatology")
"""Kinds of forecasts: started from the analyses, started from the reference, and two that need no model."""

_SCORES = ("mse", "mae", "bias", "acc")
COLUMNS = ("kind", "lead", "channel", "region", *_SCORES)

_MADE_FROM = b"dacycle.made_from"
_MARKS = b"dacycle.reference"
_BEFORE = -(STEP // pd.Timedelta(hours=1))


def score_states(
    world: World, start: np.datetime64, states: Iterable[tuple[int, Mapping[str, NDArray]]]
) -> pd.DataFrame:
    """Score forecast states (69, H, W) by lead (hours) and kind: a row per channel and region.

    Leads come one at a time, each with all its kinds; the reference holds them.
    """
    keys: list[tuple[str, int]] = []
    values: list[NDArray] = []
    for lead, kinds in states:
        truth, climatology = world.reference.array(start + lead), world.climatology.at(start + lead)
        for kind, found in scores.error_scores(kinds, truth, climatology, world.grid).items():
            keys.append((kind, lead))
            values.append(found.astype(np.float32))
    if not keys:
        return pd.DataFrame(columns=list(COLUMNS))
    regions = list(scores.REGIONS)
    rows, columns = len(NAMES) * len(regions), np.stack(values, axis=1).reshape(len(_SCORES), -1)
    channel, region = np.repeat(np.arange(len(NAMES)), len(regions)), np.tile(np.arange(len(regions)), len(NAMES))
    table = {
        "kind": pd.Categorical.from_codes(np.repeat([KINDS.index(kind) for kind, _ in keys], rows), KINDS),
        "lead": np.repeat(np.array([lead for _, lead in keys], np.int16), rows),
        "channel": pd.Categorical.from_codes(np.tile(channel, len(keys)), NAMES),
        "region": pd.Categorical.from_codes(np.tile(region, len(keys)), regions),
    }
    return pd.DataFrame(table | dict(zip(_SCORES, columns, strict=True)))


def score(world: World, start: np.datetime64, lead: int, kind: str, state: NDArray) -> pd.DataFrame:
    """Score one forecast state (69, H, W) at a lead (hours) that the reference holds: a row per channel and region."""
    return score_states(world, start, [(lead, {kind: state})])


def join(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Return one table, sorted by lead and then by kind in the order of KINDS."""
    filled = [table for table in tables if len(table)]
    if not filled:
        return pd.DataFrame(columns=list(COLUMNS))
    return pd.concat(filled, ignore_index=True).sort_values(["lead", "kind"], kind="stable", ignore_index=True)


def write_scores(branch: Branch, world: World, start: pd.Timestamp, frame: pd.DataFrame, made_from: str) -> None:
    """Store the scores of a start; `made_from` is the fingerprint of the cycles that it started from."""
    table = with_marks(pa.Table.from_pandas(frame, preserve_index=False), world, start)
    table = table.replace_schema_metadata({**table.schema.metadata, _MADE_FROM: made_from.encode()})
    write_whole(_path(branch, start), seal_table(table))


def with_marks(table: pa.Table, world: World, start: pd.Timestamp) -> pa.Table:
    """Return scores by `lead` whose metadata say which states of the reference they were made with."""
    marks = {lead: _mark(world, start, lead) for lead in (_BEFORE, 0, *_leads(table))}
    return table.replace_schema_metadata({**(table.schema.metadata or {}), _MARKS: json.dumps(marks).encode()})


def current(table: pa.Table, world: World, start: pd.Timestamp) -> pa.Table:
    """Return the rows of scores, stored `with_marks`, that were made with the states that the reference holds now.

    A state that the reference has lost since counts as the same.
    """
    then = json.loads((table.schema.metadata or {}).get(_MARKS, b"{}"))

    def same(lead: int) -> bool:
        return _mark(world, start, lead) in ("", then.get(str(lead)))

    if not (same(_BEFORE) and same(0)):  # persistence and the forecast from the reference start from these
        return table.slice(0, 0)
    left_out = [lead for lead in _leads(table) if not same(lead)]
    return table.filter(~pc.field("lead").isin(left_out)) if left_out else table


def _mark(world: World, start: pd.Timestamp, lead: int) -> str:
    return world.reference.mark(np.datetime64(start, "h") + lead)


def _leads(table: pa.Table) -> list[int]:
    return [int(lead) for lead in table["lead"].unique().to_pylist()]


def has_scores(branch: Branch, start: pd.Timestamp) -> bool:
    """Return whether there is a file with scores of a start; which analyses they are of is not looked at."""
    return _path(branch, start).is_file()


def kept_leads(branch: Branch, start: pd.Timestamp) -> set[int]:
    """Return the leads with scores in the file of a start, of whatever analyses; a file that stays is read once.

    Raises:
        ArchiveError: the file is damaged.
    """
    path = _path(branch, start)
    return set(_leads_in(path, stamp(path), branch.scores_remedy))


@lru_cache(maxsize=1024)
def _leads_in(path: Path, written: object, remedy: str) -> frozenset[int]:
    return frozenset(read_sealed_table(path, remedy, ["lead"])["lead"].unique().to_pylist())


def scored_leads(branch: Branch, start: pd.Timestamp, made_from: str, world: World | None = None) -> set[int] | None:
    """Return the leads with scores of a start; None where there are no scores, or scores of other analyses.

    With a world, only scores against the states that its reference holds now count.

    Raises:
        ArchiveError: the file is damaged.
    """
    table = _read(branch, start, made_from, ["lead"])
    if table is None:
        return None
    return set(_leads(table if world is None else current(table, world, start)))


def is_whole(branch: Branch, start: pd.Timestamp, made_from: str, leads: NDArray, world: World) -> bool:
    """Return whether the current scores of a start have all leads, kinds and channels. Raises as `scored_leads`."""
    table, rows = _read(branch, start, made_from, ["lead"]), len(leads) * len(KINDS) * len(NAMES) * len(scores.REGIONS)
    return table is not None and table.num_rows == rows and current(table, world, start).num_rows == rows


def read_scores_of(branch: Branch, start: pd.Timestamp, made_from: str) -> pa.Table:
    """Read the scores of a start.

    Raises:
        ArchiveError: the file is missing, damaged, or belongs to other analyses.
    """
    table = _read(branch, start, made_from)
    if table is None:
        raise ArchiveError(
            f"{_path(branch, start)}: the scores of {branch.name} are missing or another run's; "
            "run `dacycle drift` again"
        )
    return table


def _read(branch: Branch, start: pd.Timestamp, made_from: str, columns: Sequence[str] | None = None) -> pa.Table | None:
    """Return the stored scores of a start; None where there are none, or those of other analyses."""
    path = _path(branch, start)
    if not path.is_file():
        return None
    table = read_sealed_table(path, branch.scores_remedy, columns)
    return table if (table.schema.metadata or {}).get(_MADE_FROM) == made_from.encode() else None


def _path(branch: Branch, start: pd.Timestamp) -> Path:
    return branch.folder / "drift" / f"{cycle_id(start)}.parquet"
