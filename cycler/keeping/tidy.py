"""Retention: drop the states of old cycles as an experiment's `keep` says, and collect what nothing leads to any more.

Records, departures, scores and headline fields of every cycle stay. Each experiment's states are dropped by one commit
without a past, so that a process that is killed leaves the states dropped or not; then garbage is collected. Both are
done again by the next call as far as they are missing.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import pandas as pd
import xarray as xr

from dacycle.common.errors import DacycleError
from dacycle.cycler.archive.branches import HEADLINE_FIELDS, Archive, ArchiveError, Branch
from dacycle.cycler.archive.members import MEMBERS, SMOOTHED, SMOOTHED_MEMBERS
from dacycle.cycler.archive.progress import read_holding
from dacycle.cycler.archive.removal import Times
from dacycle.cycler.archive.store import Rows
from dacycle.cycler.cycle.late import start_of
from dacycle.cycler.experiment import STEP, Experiment, cycle_id
from dacycle.cycler.verification.cycles import unverified, verify
from dacycle.forecast_adapter.channels import CHANNELS, HEADLINE, index
from dacycle.forecast_adapter.worlds.world import load_world

__all__ = ["Tidied", "is_due", "removable", "tidy"]

_PAIRS, _SINGLE = ("analysis", MEMBERS), ("background", SMOOTHED, SMOOTHED_MEMBERS)
"""Groups of which a forecast needs both frames, and those of which it needs that of its own time."""


@dataclass(frozen=True)
class Tidied:
    """Hold what was removed.

    Attributes:
        states: by experiment and group, the times whose states were removed.
        bytes: what collecting garbage has freed.
    """

    states: Mapping[str, Mapping[str, pd.DatetimeIndex]] = field(default_factory=dict)
    bytes: int = 0


def removable(branch: Branch) -> dict[str, pd.DatetimeIndex]:
    """Return by group the times whose states the experiment's `keep` no longer asks for, and that are still there.

    Whole days are removed. The two frames before the experiment's own first cycle stay, so that it can be forked there,
    and so does what an experiment has still to read of its late chain.
    """
    keep, times = branch.experiment.keep, branch.times
    if keep is None or not len(times):
        return {}
    first, boundary = branch.experiment.start - STEP, _boundary(branch)
    found = {}
    for group in (*_PAIRS, *_SINGLE):
        there = branch.kept(group)
        old = there[there < boundary]
        stays = old.isin([first - STEP, first])
        if keep.then == "daily":
            stays |= (old.hour == 0) | ((old + STEP).hour == 0) & (group in _PAIRS)
        if len(gone := old[~stays]):
            found[group] = gone
    return found


def _boundary(branch: Branch) -> pd.Timestamp:
    """Return the time from which every cycle keeps its states."""
    assert branch.experiment.keep is not None
    return (min(branch.times[-1], _awaited(branch)) - branch.experiment.keep.cycles).floor("D")


def _awaited(branch: Branch) -> pd.Timestamp:
    """Return the time of the first analysis of a late chain that its experiment has still to start from.

    Of any other run, nothing is waited for.
    """
    early = branch.name.removesuffix("-late")
    if early == branch.name:
        return pd.Timestamp.max
    if early not in branch.archive.branches():
        return branch.times[0]
    begun = branch.archive.branch(early)
    experiment = begun.experiment
    return pd.Timestamp.max if experiment.late is None else start_of(experiment, begun.next_time or experiment.start)


def is_due(archive: Archive, experiment: Experiment) -> bool:
    """Return whether an experiment, or its free run, has states to remove: at most once a day of its cycles."""
    names = {run.name for run in experiment.runs()} & set(archive.branches())
    return any(removable(archive.branch(name)) for name in names)


def tidy(archive: Archive, plan: bool = False) -> Tidied:
    """Remove the states that no experiment of an archive keeps, and collect garbage.

    Cycles are verified before their states go. What cannot be done of one experiment is done of the others.

    Args:
        archive: with all its experiments; no other process may add to it, or make a backup of it, meanwhile.
        plan: change nothing, wait for nobody, and count only the garbage that is there already.

    Raises:
        ArchiveError: another process adds to the archive, it is damaged, or an experiment's world cannot be read.
    """
    if plan:
        return _tidy(archive, plan)
    with archive.adding(alone=True), archive.removing():
        return _tidy(archive, plan)


def _tidy(archive: Archive, plan: bool) -> Tidied:
    states, problems = dict[str, Mapping[str, pd.DatetimeIndex]](), list[str]()
    for name in archive.branches():
        branch = archive.branch(name)
        try:
            if gone := removable(branch):
                if not plan:
                    _remove(branch, gone)
                states[name] = gone
        except (DacycleError, OSError) as error:
            problems.append(f"the states of {name} that are not kept stay: {error}")
    stores = [store for store in (archive.states, archive.forecasts) if store.exists]
    freed = sum(store.collect(plan) for store in stores)
    if problems:
        raise ArchiveError("\n".join(problems))
    return Tidied(states, freed)


def _remove(branch: Branch, gone: Mapping[str, pd.DatetimeIndex]) -> None:
    world = load_world(branch.experiment.world)
    verify(branch, world)
    if not gone.get("background", pd.DatetimeIndex([])).intersection(unverified(branch, world)).empty:
        folder = branch.folder / "verification"
        raise ArchiveError(f"{folder}: the scores of {branch.name} could not be written; its states are not removed")
    store, boundary = branch.archive.states, _boundary(branch)
    kept_since = cycle_id(boundary)
    notes = list(takewhile(lambda note: note["time"] >= kept_since, store.notes(branch.name)))
    metadata: dict[str, Any] = {"carried": notes}
    store.remove(
        branch.name,
        {group: _hours(times) for group, times in gone.items()},
        _headline_fields(branch, boundary),
        f"states before {kept_since} as `keep` says",
        metadata,
        read_holding(store.folder, branch.name).to_json(),
    )


def _hours(times: pd.DatetimeIndex) -> Times:
    return times.values.astype("datetime64[h]")


def _headline_fields(branch: Branch, until: pd.Timestamp) -> Iterator[Mapping[str, xr.Dataset | Rows]]:
    """Yield the headline fields of each state before a time whose fields are not kept on their own yet."""
    for kind, group in HEADLINE_FIELDS.items():
        own, times = branch.kept(group), branch.kept(kind)
        for time in times[(times < until) & (times > own[-1] if len(own) else True)]:
            fields = branch.headline_fields(kind, time)
            variables = {
                name: (("time", "latitude", "longitude"), fields[i : i + 1], {"units": CHANNELS[index(name)].unit})
                for i, name in enumerate(HEADLINE)
            }
            coordinates = {
                "time": [time],
                "latitude": ("latitude", branch.grid.latitude, {"units": "degrees_north"}),
                "longitude": ("longitude", branch.grid.longitude, {"units": "degrees_east"}),
            }
            yield {group: xr.Dataset(variables, coordinates)}
