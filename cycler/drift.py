"""Drift: forecasts from committed analyses, and how their errors grow with lead.

Beside the forecast from the analyses stand one from the reference itself (the model's own error), persistence
of the reference, and climatology. Forecasts start from what is committed and are never needed by the chain,
so they are made whenever there is time for them, in order, one commit per start:

    forecasts.icechunk          group forecasts: headline channels by start and lead; group starts: what each
    was made from branches/NAME/drift/        START.parquet: scores by kind, lead, channel and region

A start counts if it is committed *and* its two analyses are still the ones in the archive: after a rewind the
starts that followed are made again. Scores are remade when the reference has grown to hold more of their
leads.
"""

import io
import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import xarray as xr
from numpy.typing import NDArray

from dacycle.cycler.archive import ArchiveError, Branch, Record, write_whole
from dacycle.cycler.experiment import STEP, cycle_id, parse_donor
from dacycle.cycler.verification import fingerprint
from dacycle.forecast_adapter import scores
from dacycle.forecast_adapter.channels import CHANNELS, HEADLINE, NAMES, index
from dacycle.forecast_adapter.models import ForecastModel
from dacycle.forecast_adapter.worlds import World

__all__ = ["KINDS", "LEAD_STEP", "due", "forecasts", "make_forecasts", "read_scores"]

LEAD_STEP = 12
"""Hours between the leads that are kept and scored, from 0; the model itself steps 6 hours."""

KINDS = ("analysis", "reference", "persistence", "climatology")
"""Forecasts scored: started from the analyses, started from the reference, and the two that need no model."""

_MADE_FROM = b"dacycle.made_from"


def make_forecasts(branch: Branch, world: World, model: ForecastModel) -> Iterator[pd.Timestamp]:
    """Make what is due, in order, and yield each start once it is on disk; may be stopped at any time.

    Raises:
        ArchiveError: another process makes this branch's forecasts, a state is damaged, or the model is not the one
            that the run was made with.
    """
    with branch.archive.lock(f"{branch.name}/drift"):
        _prepare(branch)
        # First: cycles may be committed meanwhile, so what is read after it knows at least as many.
        starts = due(branch, world)
        sources, committed = _sources(branch), _committed(branch)
        models = {record["time"]: record["digests"]["model"] for record in branch.records}
        for start in starts:
            if models[cycle_id(start)] != model.digest:
                raise ArchiveError(
                    f"{branch.archive.folder}: cycle {cycle_id(start)} of {branch.name} ran with a forecast model of "
                    f"digest {models[cycle_id(start)][:12]}, but {model.name} is {model.digest[:12]}; put that one back"
                )
            fields, table = _forecast(branch, world, model, start)
            _write_scores(branch, start, table, sources[start])
            if start not in committed:
                groups = {"forecasts": fields, "starts": _start_dataset(start, sources[start], model)}
                time = {"time": cycle_id(start)}
                branch.archive.forecasts.append(branch.name, groups, f"forecast {cycle_id(start)}", time)
            yield start


def due(branch: Branch, world: World) -> list[pd.Timestamp]:
    """Starts whose forecast is not made yet, or whose scores lack leads that the reference now holds."""
    sources, committed = _sources(branch), _committed(branch)
    scored = {start: _verified_leads(branch, start, made_from) for start, made_from in sources.items()}
    return [s for s in sources if s not in committed or scored[s] < len(_verifiable(branch, world, s))]


def read_scores(branch: Branch) -> pd.DataFrame:
    """Scores of all forecasts: start, kind, lead (hours), channel, region -> mse, mae, bias, acc.

    Leads that the reference does not hold have no row. acc is NaN where an anomaly is zero everywhere.

    Raises:
        ArchiveError: the file of a committed start is missing, damaged or another run's.
    """
    sources = _sources(branch)
    tables = [_read_scores(branch, start, sources[start]) for start in sorted(_committed(branch))]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["start", *_COLUMNS])


def forecasts(branch: Branch) -> xr.Dataset:
    """Headline channels of all forecasts by `time` (their start) and `lead` (hours), read when used.

    Raises:
        ArchiveError: no forecast has been made.
    """
    store, starts = branch.archive.forecasts, sorted(_committed(branch))
    if not starts or branch.name not in store.branches():
        raise ArchiveError(
            f"{branch.archive.folder}: {branch.name} has no forecasts; make them with `dacycle drift {branch.name}`"
        )
    return store.dataset(branch.name, "forecasts").sel(time=starts)


# --- which starts
# ------------------------------------------------------------------------------------------------


def leads(branch: Branch) -> NDArray[np.int64]:
    """Leads kept, in hours: 0, 12, ... to the experiment's."""
    return np.arange(0, branch.experiment.drift.lead // pd.Timedelta(hours=1) + 1, LEAD_STEP)


def _sources(branch: Branch) -> dict[pd.Timestamp, str]:
    """The starts an experiment asks for, each with the fingerprint of the two cycles it goes out from."""
    records: dict[pd.Timestamp, Record] = {pd.Timestamp(r["time"]): r for r in branch.records}
    hours = branch.experiment.drift.starts
    return {
        time: fingerprint([records[time - STEP], record])
        for time, record in records.items()
        if record["status"] != "cold_start" and time.hour in hours and time - STEP in records
    }


def _committed(branch: Branch) -> set[pd.Timestamp]:
    """Starts whose forecast is in the archive and was made from the analyses that are there now.

    A forked experiment that has made none of its own has those of the past it shares: of its donor's, the
    ones whose scores it was given when it was forked.
    """
    store, name = branch.archive.forecasts, branch.name
    own = name in store.branches()
    if not own and branch.experiment.cold_start.from_ is not None:
        name, _ = parse_donor(branch.experiment.cold_start.from_)
    if name not in store.branches() or not len(store.times(name, "starts")):
        return set()
    sources = _sources(branch)
    made = [json.loads(text) for text in store.column(name, "starts", "record")]
    starts = {pd.Timestamp(m["time"]) for m in made if sources.get(pd.Timestamp(m["time"])) == m["made_from"]}
    return starts if own else {s for s in starts if _verified_leads(branch, s, sources[s]) >= 0}


def _prepare(branch: Branch) -> None:
    """Begin the branch of forecasts, or take back those made from analyses that are no longer there."""
    store = branch.archive.forecasts
    if branch.name not in store.branches():
        store.create_branch(branch.name, _shared_past(branch))
    good = _committed(branch)
    made = pd.DatetimeIndex(store.times(branch.name, "starts").astype("datetime64[s]"))
    stale = [start for start in made if start not in good]
    # The store grows in order of time: an earlier start that was never made also takes back what follows it.
    skipped = [start for start in _sources(branch) if len(made) and start < made[-1] and start not in made]
    if stale or skipped:
        first = cycle_id(min([*stale, *skipped]))
        before = next(c for c in store.commits(branch.name) if c.metadata.get("time", "") < first)
        store.reset(branch.name, str(before.id))


def _shared_past(branch: Branch) -> str | None:
    """The commit that a forked experiment's forecasts go on from, if its donor has any."""
    origin = branch.experiment.cold_start.from_
    if origin is None:
        return None
    donor, time = parse_donor(origin)
    store = branch.archive.forecasts
    if donor not in store.branches():
        return None
    return next(str(c.id) for c in store.commits(donor) if c.metadata.get("time", "") <= cycle_id(time))


def _verifiable(branch: Branch, world: World, start: pd.Timestamp) -> list[int]:
    """Leads that can be scored: those whose valid time the reference holds."""
    return [int(h) for h in leads(branch) if np.datetime64(start, "h") + int(h) in world.reference]


# --- one forecast
# ------------------------------------------------------------------------------------------------


def _forecast(
    branch: Branch, world: World, model: ForecastModel, start: pd.Timestamp
) -> tuple[xr.Dataset, pd.DataFrame]:
    """Run the model from the analyses, and from the reference beside it; headline fields and scores."""
    times = [np.datetime64(start - STEP, "h"), np.datetime64(start, "h")]
    frames = [[branch.state("analysis", pd.Timestamp(time)).values] for time in times]
    if all(time in world.reference for time in times):
        for frame, time in zip(frames, times, strict=True):
            frame.append(world.reference.array(time))
    previous, current = (np.stack(frame).astype(np.float32) for frame in frames)
    kept, verifiable = leads(branch), _verifiable(branch, world, start)
    headline = [index(name) for name in HEADLINE]
    fields, tables = [], []
    steps = model.forecast(previous, current, int(kept[-1]) // 6)
    for lead, states in enumerate(chain([current], steps)):  # one lead at a time in memory, whatever the grid
        if 6 * lead not in kept:
            continue
        fields.append(states[0, headline])
        if 6 * lead in verifiable:
            tables.append(_score(world, times[1], 6 * lead, states))
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(_COLUMNS))
    return _field_dataset(branch, start, kept, np.stack(fields)), table


_COLUMNS = ("kind", "lead", "channel", "region", "mse", "mae", "bias", "acc")


def _score(world: World, start: np.datetime64, lead: int, states: NDArray) -> pd.DataFrame:
    """Scores at one lead of states (1 or 2, 69, H, W) and of the forecasts that need no model."""
    truth, climatology = world.reference.array(start + lead), world.climatology.at(start + lead)
    compared = dict(zip(KINDS, states, strict=False))
    if start in world.reference:
        compared["persistence"] = world.reference.array(start)
    compared["climatology"] = climatology
    regions = list(scores.REGIONS)
    tables = [
        pd.DataFrame(
            {
                "kind": pd.Categorical([kind] * len(NAMES) * len(regions), categories=KINDS),
                "lead": np.int16(lead),
                "channel": pd.Categorical(np.repeat(NAMES, len(regions)), categories=NAMES),
                "region": pd.Categorical(np.tile(regions, len(NAMES)), categories=regions),
                "mse": scores.mse(state, truth, world.grid).ravel().astype(np.float32),
                "mae": scores.mae(state, truth, world.grid).ravel().astype(np.float32),
                "bias": scores.bias(state, truth, world.grid).ravel().astype(np.float32),
                "acc": scores.anomaly_correlation(state, truth, climatology, world.grid).ravel().astype(np.float32),
            }
        )
        for kind, state in compared.items()
    ]
    return pd.concat(tables, ignore_index=True)


def _field_dataset(branch: Branch, start: pd.Timestamp, kept: NDArray, fields: NDArray) -> xr.Dataset:
    dims = ("time", "lead", "latitude", "longitude")
    variables = {
        name: (dims, fields[None, :, i], {"units": CHANNELS[index(name)].unit}) for i, name in enumerate(HEADLINE)
    }
    coordinates = {
        "time": [start],
        "lead": ("lead", kept, {"long_name": "lead in hours"}),
        "latitude": ("latitude", branch.grid.latitude, {"units": "degrees_north"}),
        "longitude": ("longitude", branch.grid.longitude, {"units": "degrees_east"}),
    }
    return xr.Dataset(variables, coordinates)


def _start_dataset(start: pd.Timestamp, made_from: str, model: ForecastModel) -> xr.Dataset:
    record = {"time": cycle_id(start), "made_from": made_from, "model": model.name, "digest": model.digest}
    text = np.array([json.dumps(record, sort_keys=True)], dtype=object)
    return xr.Dataset({"record": ("time", text)}, {"time": [start]})


# --- scores on disk
# ------------------------------------------------------------------------------------------------


def _path(branch: Branch, start: pd.Timestamp) -> Path:
    return branch.folder / "drift" / f"{cycle_id(start)}.parquet"


def _write_scores(branch: Branch, start: pd.Timestamp, frame: pd.DataFrame, made_from: str) -> None:
    table = pa.Table.from_pandas(frame, preserve_index=False)
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), _MADE_FROM: made_from.encode()})
    content = io.BytesIO()
    pq.write_table(table, content, compression="zstd", write_page_checksum=True)
    write_whole(_path(branch, start), content.getvalue())


def _verified_leads(branch: Branch, start: pd.Timestamp, made_from: str) -> int:
    """How many leads the scores of a start hold; -1 where there are none, or they are of other analyses."""
    path = _path(branch, start)
    if not path.is_file() or pq.read_schema(path).metadata.get(_MADE_FROM) != made_from.encode():
        return -1
    return len(pq.read_table(path, columns=["lead"])["lead"].unique())


def _read_scores(branch: Branch, start: pd.Timestamp, made_from: str) -> pd.DataFrame:
    path = _path(branch, start)
    if _verified_leads(branch, start, made_from) < 0:
        raise ArchiveError(
            f"{path}: the scores of {branch.name} are missing or another run's; run `dacycle drift` again"
        )
    try:
        table = pq.read_table(path, page_checksum_verification=True).to_pandas()
    except (OSError, pa.ArrowInvalid) as error:
        raise ArchiveError(f"{path} is damaged ({error}); delete it and run `dacycle drift` again") from error
    table.insert(0, "start", start)
    return table
