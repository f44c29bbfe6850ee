"""A finished run written straight into an archive: known errors, so that what is made of it can be checked.

The analyses are the reference plus `error` standard deviations of smooth noise, the backgrounds plus half as
much again.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.cycler.archive.branches import Archive, Branch
from dacycle.cycler.archive.record import CycleRecord, SourceRecord
from dacycle.cycler.archive.writer import Writer, write
from dacycle.cycler.experiment import STEP, Experiment, cycle_id
from dacycle.forecast_adapter.worlds.world import World
from dacycle.obs_ingest.operators.columns import equivalents
from dacycle.obs_ingest.table import add_departures, check_table
from tests.cycler.experiments import base
from tests.worlds import smooth

START, END = pd.Timestamp("2024-01-02T00"), pd.Timestamp("2024-01-05T18")


def experiment(world: World, name: str = "run", **changes: object) -> Experiment:
    """Return an experiment over the tiny world, as a user would write it."""
    usual = {
        "cold_start": {"climatology": True},
        "assimilator": "oi",
        "observations": [{"source": "stations", "cutoff": "none"}],
        "drift": {"starts": [0, 12], "lead": "36h"},
    }
    return Experiment.model_validate(base(name, world.folder, "double", START, END, **(usual | changes)))


def make_run(
    folder: Path,
    world: World,
    cycles: int = 12,
    error: float = 0.3,
    model_digest: str = "m" * 64,
    seed: int = 0,
    notes: Mapping[str, object] | None = None,
    **changes: object,
) -> Branch:
    """Write a cold start and `cycles` cycles of an experiment, with notes; return the branch to read."""
    archive, asked = Archive(folder, create=True), experiment(world, **changes)
    digests = {"experiment": asked.digest, "model": model_digest, "assimilator": "a" * 64}
    with write(archive, asked) as writer:
        if writer.next_time is None and asked.cold_start.from_ is not None:
            writer.fork()
        elif writer.next_time is None:
            before = [START - 2 * STEP, START - STEP]
            frames = np.stack([world.climatology.at(np.datetime64(time, "h")) for time in before])
            writer.commit_start(frames, digests)
        while writer.next_time < START + cycles * STEP:
            number = int((writer.next_time - START) / STEP)
            rng = np.random.default_rng([seed, number])
            _commit(writer, world, writer.next_time, error, digests, rng, notes or {})
    return archive.branch(asked.name)


def _commit(
    writer: Writer,
    world: World,
    time: pd.Timestamp,
    error: float,
    digests: dict[str, str],
    rng: np.random.Generator,
    notes: Mapping[str, object],
) -> None:
    truth = world.reference.array(np.datetime64(time, "h"))
    noise = error * world.statistics.std[:, None, None] * smooth(rng, len(truth))
    background, analysis = (truth + 1.5 * noise).astype(np.float32), (truth + noise).astype(np.float32)
    humid = slice(17, 30)
    background[humid], analysis[humid] = np.maximum(background[humid], 0), np.maximum(analysis[humid], 0)
    table = departures(world, time, background, analysis, rng)
    fallback = time.hour == 6 and time.day == 3
    uses = table["use"].value_counts().to_dict()
    record = CycleRecord(
        time=time,
        status="fallback" if fallback else "ok",
        digests={**digests, "observations": cycle_id(time)},
        experiment=writer.name,
        reason="increment of t850 reaches 7.1 standard deviations, the limit is 6.0" if fallback else "",
        uses={name: int(count) for name, count in uses.items()},
        sources={name: _source(name, time) for name in ("stations", "sondes")},
    )
    writer.commit_cycle(background, background if fallback else analysis, table, record, notes)


def _source(name: str, time: pd.Timestamp) -> SourceRecord:
    """Return what a source found: 40 of 42 reports, and on 2 January at 12 UTC a damaged message."""
    damaged = name == "sondes" and time == pd.Timestamp("2024-01-02T12")
    skipped = {"not readable": 1} if damaged else {}
    problems = ["temp.bufr, message 3: <truncated>"] if damaged else []
    return SourceRecord(name, 42, 40, 2, 1, 50.0, skipped=skipped, values={}, files=[], problems=problems)


def departures(
    world: World, time: pd.Timestamp, background: NDArray, analysis: NDArray, rng: np.random.Generator, sites: int = 40
) -> pd.DataFrame:
    """Surface and upper-air values drawn from the reference at fixed sites, with their departures."""
    truth = world.reference.array(np.datetime64(time, "h"))
    places = np.random.default_rng(7)
    latitude, longitude = places.uniform(-80, 80, sites), places.uniform(0, 360, sites)
    kinds = [("stations", name, np.nan, error) for name, error in (("t2m", 0.8), ("u10", 1.0), ("msl", 80.0))]
    kinds += [("sondes", "t", pressure, 0.5) for pressure in (10000.0, 50000.0, 85000.0)]
    tables = []
    for source, variable, pressure, error in kinds:
        columns = {"time": time, "period": 0.0, "received": time, "latitude": latitude, "longitude": longitude}
        columns |= {"site": [f"s{i}" for i in range(sites)], "station": [f"s{i}" for i in range(sites)]}
        columns |= {"elevation": np.nan, "pressure": pressure, "variable": variable, "error": error, "source": source}
        columns |= {"value": 280.0 if variable != "msl" else 101325.0, "use": "assimilated", "reason": ""}
        table = pd.DataFrame(columns)
        table.loc[table.index % 10 == 0, ["use", "reason"]] = "withheld", "withheld_site"
        table.loc[table.index % 10 == 1, ["use", "reason"]] = "rejected", "background_check"
        tables.append(table)
    table = check_table(pd.concat(tables, ignore_index=True), "drawn for a test")
    exact, b, a = (equivalents(table, x, world.grid, world.orography) for x in (truth, background, analysis))
    table["value"] = exact + table["error"] * rng.standard_normal(len(table))
    return add_departures(table, b, a)
