"""Make forecasts from committed analyses, and score how their errors grow with lead: the drift.

The forecast from the analyses is scored beside a forecast from the reference (the model's own error), persistence of
the reference, and climatology. The cycle never needs these forecasts. They are made in order of their start, whenever
there is time, with one commit per start:

    forecasts.icechunk      group `forecasts`: headline channels by start and lead
                            group `starts`: the analyses and the model that each start was made from
    branches/NAME/drift/    START.parquet: scores by kind, lead, channel and region
                            START-members.parquet: those of members, of a run that has some; see `members`
    shared/drift/           scores of the other three, which all runs of the archive share; see `shared`

A start counts if it is committed *and* its two analyses are still those in the archive. After a rewind, the starts that
followed are therefore made again.

In a live run the reference comes days later. The forecast is made and stored without it. As the reference grows,
`fill_in` scores the stored fields, which needs no model. Once the reference holds all leads of a start, the forecast is
run again, together with one from the reference, and every channel is scored. The scores are then the same as if the
reference had been there from the beginning. Where the reference has other states than the scores were made with, they
are made again in the same way.
"""

import json
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from dacycle.common.arrow import to_pandas
from dacycle.cycler.archive.branches import ArchiveError, Branch
from dacycle.cycler.archive.frames import StoredFrames
from dacycle.cycler.archive.record import CycleRecord
from dacycle.cycler.experiment import STEP, cycle_id, parse_donor
from dacycle.cycler.verification import members
from dacycle.cycler.verification.cycles import fingerprint
from dacycle.cycler.verification.drift_scores import (
    COLUMNS,
    KINDS,
    current,
    has_scores,
    is_whole,
    join,
    kept_leads,
    read_scores_of,
    score_states,
    scored_leads,
    write_scores,
)
from dacycle.cycler.verification.shared import forecast_states, shared_scores, simple_states, try_shared_scores
from dacycle.forecast_adapter.channels import CHANNELS, HEADLINE, index
from dacycle.forecast_adapter.models.model import ForecastModel
from dacycle.forecast_adapter.worlds.world import World

__all__ = [
    "KINDS",
    "LEAD_STEP",
    "Due",
    "Made",
    "commit_forecasts",
    "due",
    "fill_in",
    "forecasts",
    "make_forecasts",
    "make_one",
    "member_scores",
    "newest_scores",
    "read_scores",
    "unmade",
    "unverified",
    "verifiable_leads",
]

logger = logging.getLogger(__name__)

LEAD_STEP = 12
"""Hours between the leads that are stored and scored, from 0; the model itself steps 6 hours."""
_SEARCHED = pd.Timedelta(days=100)
"""How far back the newest verified forecast is looked for: a reference may come months later."""


@dataclass(frozen=True)
class Due:
    """A start whose forecast is due.

    Attributes:
        start: its time.
        made_from: fingerprint of the two cycles that it starts from.
        digest: of the model that the run had there.
        chain, members: whether the forecast of the chain is due, and those of members.
    """

    start: pd.Timestamp
    made_from: str
    digest: str
    chain: bool
    members: bool


@dataclass(frozen=True, eq=False)
class Made:
    """What was made of a start; its scores are on disk.

    Attributes:
        due: the start.
        fields: (leads, 6, H, W) of the headline channels; None where the forecast of the chain was not due.
        model: name of the model.
    """

    due: Due
    fields: NDArray[np.float32] | None
    model: str


def make_forecasts(branch: Branch, world: World, model: ForecastModel) -> Iterator[pd.Timestamp]:
    """Make and score the forecasts that are due, in order, and yield each start once it is on disk.

    It may be stopped at any time.

    Raises:
        ArchiveError: another process makes this branch's forecasts, a state is damaged, or the model is not that of
            the run.
    """
    yield from commit_forecasts(branch, world, lambda starts: (make_one(branch, world, model, one) for one in starts))


def commit_forecasts(
    branch: Branch, world: World, make: Callable[[Sequence[Due]], Iterator[Made]]
) -> Iterator[pd.Timestamp]:
    """Commit the forecasts that are due as `make` makes them, in order. Yields and raises as `make_forecasts`."""
    with branch.archive.lock(f"{branch.name}/drift"):
        _prepare(branch)
        yield from _fill_in(branch, world, skipped=_due(branch, world, _sources(branch)))
        # Cycles may be committed meanwhile: the records read below hold at least those that `due` has seen.
        starts = due(branch, world)
        sources = _sources(branch)
        of_chain, committed = set(_due(branch, world, sources)), _committed(branch, sources)
        models = {record.time: record.digests["model"] for record in branch.records}
        of_members = {start for start in starts if _members_are_due(branch, world, start, sources[start])}
        asked = [Due(s, sources[s], models[s], s in of_chain, s in of_members) for s in starts]
        for made in make(asked):
            start = made.due.start
            if start not in committed and made.fields is not None:
                fields = _field_dataset(branch, start, leads(branch), made.fields)
                groups = {"forecasts": fields, "starts": _start_dataset(made)}
                metadata = {"time": cycle_id(start)}
                branch.archive.forecasts.append(branch.name, groups, f"forecast {cycle_id(start)}", metadata)
            yield start


def make_one(branch: Branch, world: World, model: ForecastModel, one: Due) -> Made:
    """Make and score the forecasts of a start, and write the scores; its fields are not committed yet.

    Raises:
        ArchiveError: a state is damaged, or the model is not that of the run.
    """
    start, fields = one.start, None
    if one.digest != model.digest:
        raise ArchiveError(
            f"{branch.archive.folder}: cycle {cycle_id(start)} of {branch.name} ran with a forecast model of "
            f"digest {one.digest[:12]}, but {model.name} is {model.digest[:12]}; put that one back"
        )
    if one.chain:
        fields, scores_of_start = _forecast(branch, world, model, start)
        write_scores(branch, world, start, scores_of_start, one.made_from)
    if one.members:
        members.make_scores(branch, world, model, start, one.made_from, verifiable_leads(branch, world, start))
    return Made(one, fields, model.name)


def due(branch: Branch, world: World) -> list[pd.Timestamp]:
    """Return the starts whose forecast is not made yet, has no scores, or can now be scored at all leads.

    Forecasts of members count as well, where the experiment asks for them.
    """
    sources = _sources(branch)
    of_members = {s for s, found in sources.items() if _members_are_due(branch, world, s, found)}
    return sorted(of_members.union(_due(branch, world, sources)))


def _members_are_due(branch: Branch, world: World, start: pd.Timestamp, made_from: str) -> bool:
    leads_there, all_leads = verifiable_leads(branch, world, start), _is_covered(branch, world, start)
    return members.are_wanted(branch, world, start, made_from, leads_there, all_leads)


def _due(branch: Branch, world: World, sources: Mapping[pd.Timestamp, str]) -> list[pd.Timestamp]:
    """Return the starts at which the forecast of the chain is due."""
    committed, restarts = _committed(branch, sources), set(branch.restarts)
    return [
        start
        for start, made_from in sources.items()
        if start in restarts  # else its states were removed
        and (
            start not in committed
            or scored_leads(branch, start, made_from) is None
            or (_is_covered(branch, world, start) and not is_whole(branch, start, made_from, leads(branch), world))
        )
    ]


def unmade(branch: Branch) -> list[pd.Timestamp]:
    """Return the starts that an experiment asks for and whose forecast is still to be made, in order.

    Those whose states retention removed cannot be made. No record is read, as `_made` says.
    """
    restarts = branch.restarts.difference(branch.times[:2])
    wanted = restarts[restarts.hour.isin(branch.experiment.drift.starts)]
    return list(wanted.difference(_made(branch)))


def fill_in(branch: Branch, world: World) -> Iterator[pd.Timestamp]:
    """Score stored forecasts at the leads that the reference now holds, without running the model.

    The scores are those of the headline channels, of the forecasts from the analyses, persistence and climatology. Each
    start is yielded once its scores are on disk. It may be stopped at any time.

    Raises:
        ArchiveError: another process makes this branch's forecasts, or fields or scores are damaged.
    """
    with branch.archive.lock(f"{branch.name}/drift"):
        yield from _fill_in(branch, world, skipped=[])


def unverified(branch: Branch) -> dict[pd.Timestamp, int]:
    """Return the number of leads without scores of each stored forecast; starts with all scores are left out."""
    sources, count = _sources(branch), len(leads(branch))
    committed = sorted(_committed(branch, sources))
    missing = {s: count - len(scored_leads(branch, s, sources[s]) or ()) for s in committed}
    return {start: number for start, number in missing.items() if number}


def read_scores(branch: Branch, world: World | None = None, newest: int | None = None) -> pd.DataFrame:
    """Read the scores of all forecasts, or of the `newest` starts.

    With a world, scores against other states than its reference holds now are left out, with a warning.

    Columns are start, kind, lead (hours), channel, region -> mse, mae, bias, acc.
    A lead that the reference does not hold has no row. A lead that was filled in has rows of the headline channels
    only, and none of the reference-started forecast. acc is NaN where an anomaly is zero everywhere.

    Raises:
        ArchiveError: the file of a committed start is missing, damaged, or belongs to other analyses.
    """
    sources = _sources(branch)
    starts = sorted(_committed(branch, sources))[-newest if newest else None :]
    tables, outdated = [], 0
    for start in starts:
        table = read_scores_of(branch, start, sources[start])
        counting = table if world is None else current(table, world, start)
        outdated += counting.num_rows < table.num_rows
        if counting.num_rows:
            tables.append(to_pandas(counting))
            tables[-1].insert(0, "start", start)
    if world is not None and outdated:
        logger.warning(
            "%s: the scores of %d forecasts are against another reference than that of %s now, and are left out; "
            "`dacycle drift %s` makes them again",
            *(branch.name, outdated, world.name, branch.name),
        )
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["start", *COLUMNS])


def newest_scores(branch: Branch, wanted: Collection[int]) -> pd.DataFrame:
    """Read the scores at some leads (hours), each of the newest start that is verified there; at most 100 days back.

    Columns are those of `read_scores`. What is read does not grow with the length of the run.

    Raises:
        ArchiveError: a file is damaged, or belongs to other analyses.
    """
    made, left, found = _made(branch), set(wanted).intersection(leads(branch).tolist()), []
    for start in made[made >= made.max() - _SEARCHED][::-1]:
        there = left & kept_leads(branch, start)
        if there:
            made_from = fingerprint(branch.records_between(start - STEP, start))
            table = to_pandas(read_scores_of(branch, start, made_from))
            found.append(table[table["lead"].isin(there)].assign(start=start))
            left -= there
        if not left:
            break
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=["start", *COLUMNS])


def member_scores(branch: Branch) -> pd.DataFrame:
    """Read the scores of the members' forecasts; see `members.read_scores_of_members`. Empty where there are none."""
    return members.read_scores_of_members(branch, _sources(branch))


def forecasts(branch: Branch) -> xr.Dataset:
    """Open the headline channels of all forecasts, by `time` (the start) and `lead` (hours), read when used.

    Raises:
        ArchiveError: no forecast has been made.
    """
    store, starts = branch.archive.forecasts, sorted(_committed(branch, _sources(branch)))
    if not starts or branch.name not in store.branches():
        raise ArchiveError(
            f"{branch.archive.folder}: {branch.name} has no forecasts; make them with `dacycle drift {branch.name}`"
        )
    return store.dataset(branch.name, "forecasts").sel(time=starts)


# --- which starts -----------------------------------------------------------------------------------------------------


def leads(branch: Branch) -> NDArray[np.int64]:
    """Return the leads (n,) that are stored, in hours: 0, 12, ... up to the experiment's `drift.lead`."""
    return np.arange(0, branch.experiment.drift.lead // pd.Timedelta(hours=1) + 1, LEAD_STEP)


def _sources(branch: Branch) -> dict[pd.Timestamp, str]:
    """Return the starts that an experiment asks for, each with the fingerprint of the two cycles it starts from."""
    records: dict[pd.Timestamp, CycleRecord] = {r.time: r for r in branch.records}
    hours = branch.experiment.drift.starts
    return {
        time: fingerprint([records[time - STEP], record])
        for time, record in records.items()
        if record.status != "cold_start" and time.hour in hours and time - STEP in records
    }


def _committed(branch: Branch, sources: Mapping[pd.Timestamp, str]) -> set[pd.Timestamp]:
    """Return the starts whose forecast is in the archive and was made from the analyses that are there now, `sources`.

    A forked experiment without forecasts of its own uses its donor's, as far as it got their scores when it was forked.
    """
    store, name = branch.archive.forecasts, _stored_under(branch)
    if name is None or not len(store.times(name, "starts")):
        return set()
    made_from = {
        pd.Timestamp(record["time"]): record["made_from"]
        for record in map(json.loads, store.column(name, "starts", "record"))
    }
    starts = {start for start, fingerprint_then in made_from.items() if sources.get(start) == fingerprint_then}
    return starts if name == branch.name else {s for s in starts if scored_leads(branch, s, sources[s]) is not None}


def _made(branch: Branch) -> pd.DatetimeIndex:
    """Return the starts whose forecast is stored and has a file of scores, in order.

    A rewind removes the files of the starts that it takes back, so that these are those of `_committed`, unless one was
    killed; no record is read.
    """
    store, name = branch.archive.forecasts, _stored_under(branch)
    stored = np.array([], "datetime64[s]") if name is None else store.times(name, "starts").astype("datetime64[s]")
    return pd.DatetimeIndex([start for start in pd.DatetimeIndex(stored) if has_scores(branch, start)])


def _stored_under(branch: Branch) -> str | None:
    """Return the branch of the forecasts' store that is read: the experiment's own, else its donor's, else None."""
    origin = branch.experiment.cold_start.from_
    names = [branch.name, *([] if origin is None else [parse_donor(origin)[0]])]
    return next((name for name in names if name in branch.archive.forecasts.branches()), None)


def _prepare(branch: Branch) -> None:
    """Create the branch of forecasts, or take back the forecasts made from analyses that are no longer there."""
    store = branch.archive.forecasts
    branch.archive.make(store)
    if branch.name not in store.branches():
        store.create_branch(branch.name, _shared_past(branch))
    sources = _sources(branch)
    current = _committed(branch, sources)
    stored = pd.DatetimeIndex(store.times(branch.name, "starts").astype("datetime64[s]"))
    stale = [start for start in stored if start not in current]
    # The store only appends in order of time: to add an earlier start, those after it are taken back.
    # A start whose states were removed stays without a forecast.
    restarts = set(branch.restarts)
    possible = [start for start in sources if start in restarts]
    skipped = [start for start in possible if len(stored) and start < stored[-1] and start not in stored]
    if stale or skipped:
        first = cycle_id(min([*stale, *skipped]))
        before = next(c for c in store.commits(branch.name) if c.metadata.get("time", "") < first)
        store.reset(branch.name, str(before.id))


def _shared_past(branch: Branch) -> str | None:
    """Return the commit of the donor that a forked experiment's forecasts continue from; None where there is none."""
    origin = branch.experiment.cold_start.from_
    if origin is None:
        return None
    donor, time = parse_donor(origin)
    store = branch.archive.forecasts
    if donor not in store.branches():
        return None
    return next(str(c.id) for c in store.commits(donor) if c.metadata.get("time", "") <= cycle_id(time))


def verifiable_leads(branch: Branch, world: World, start: pd.Timestamp) -> list[int]:
    """Return the leads whose valid time the reference holds."""
    return [int(h) for h in leads(branch) if np.datetime64(start, "h") + int(h) in world.reference]


def _is_covered(branch: Branch, world: World, start: pd.Timestamp) -> bool:
    """Whether the reference holds both frames of a start and all leads."""
    frames = (np.datetime64(start - STEP, "h"), np.datetime64(start, "h"))
    return not world.reference.missing(frames) and len(verifiable_leads(branch, world, start)) == len(leads(branch))


# --- scoring stored forecasts -----------------------------------------------------------------------------------------


def _fill_in(branch: Branch, world: World, skipped: list[pd.Timestamp]) -> Iterator[pd.Timestamp]:
    sources, name = _sources(branch), _stored_under(branch)
    for start in sorted(_committed(branch, sources) - set(skipped)):
        scored = scored_leads(branch, start, sources[start], world)
        new = [lead for lead in verifiable_leads(branch, world, start) if scored is not None and lead not in scored]
        if new and name is not None:
            stored = branch.archive.forecasts.read(name, "forecasts", start, list(HEADLINE))
            fields = dict(zip(leads(branch).tolist(), np.stack(list(stored.values()), axis=1), strict=True))
            tables = [_score_stored(world, np.datetime64(start, "h"), lead, fields[lead]) for lead in new]
            old = to_pandas(current(read_scores_of(branch, start, sources[start]), world, start))
            write_scores(branch, world, start, join([old, *tables]), sources[start])
            yield start


def _score_stored(world: World, start: np.datetime64, lead: int, headline: NDArray) -> pd.DataFrame:
    """Score stored fields (6, H, W), and the forecasts that need no model, in the same channels."""
    # Put into a whole state, as sums over another number of channels round differently.
    state = world.reference.array(start + lead).copy()
    state[[index(name) for name in HEADLINE]] = headline
    table = join([score_states(world, start, [(lead, {"analysis": state, **simple_states(world, start, lead)})])])
    return table[table["channel"].isin(HEADLINE)]


# --- one forecast -----------------------------------------------------------------------------------------------------


def _forecast(
    branch: Branch, world: World, model: ForecastModel, start: pd.Timestamp
) -> tuple[NDArray[np.float32], pd.DataFrame]:
    """Run the model from the analyses and, where it is there, from the reference; return headline fields and scores."""
    times = [np.datetime64(start - STEP, "h"), np.datetime64(start, "h")]
    stored_leads, verifiable = leads(branch), verifiable_leads(branch, world, start)
    previous, current = StoredFrames(branch).pair(start)
    headline, fields = [index(name) for name in HEADLINE], []

    def states() -> Iterator[tuple[int, dict[str, NDArray]]]:
        for lead, state in forecast_states(model, previous, current, stored_leads):
            fields.append(state[headline])
            if lead in verifiable:
                yield lead, {"analysis": state}

    # One forecast after the other, as a batch of two may round differently: the forecast from the analyses must not
    # depend on whether the reference is there. While another run makes what both share, this one makes its own.
    shared = try_shared_scores(branch.archive, world, model, start, verifiable)
    own = score_states(world, times[1], states())
    if shared is None:
        shared = shared_scores(branch.archive, world, model, start, verifiable)
    return np.stack(fields), join([own, shared])


def _field_dataset(branch: Branch, start: pd.Timestamp, stored_leads: NDArray, fields: NDArray) -> xr.Dataset:
    dims = ("time", "lead", "latitude", "longitude")
    variables = {
        name: (dims, fields[None, :, i], {"units": CHANNELS[index(name)].unit}) for i, name in enumerate(HEADLINE)
    }
    coordinates = {
        "time": [start],
        "lead": ("lead", stored_leads, {"long_name": "lead in hours"}),
        "latitude": ("latitude", branch.grid.latitude, {"units": "degrees_north"}),
        "longitude": ("longitude", branch.grid.longitude, {"units": "degrees_east"}),
    }
    return xr.Dataset(variables, coordinates)


def _start_dataset(made: Made) -> xr.Dataset:
    one, start = made.due, made.due.start
    record = {"time": cycle_id(start), "made_from": one.made_from, "model": made.model, "digest": one.digest}
    text = np.array([json.dumps(record, sort_keys=True)], dtype=object)
    return xr.Dataset({"record": ("time", text)}, {"time": [start]})
