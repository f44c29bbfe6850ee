"""Archives of observations of the test year, in their true form, read off the nature run: stations, soundings, OLR."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd

from dacycle.forecast_adapter.channels import index
from dacycle.forecast_adapter.grid import Grid, regrid
from dacycle.forecast_adapter.physics import GRAVITY, dewpoint, wind_direction
from tests.archives import content
from tests.rehearsal.stores import nature, truth_of_2022

ONE_DEGREE = Grid("1deg", np.arange(89.5, -90, -1), np.arange(0.5, 360))
LEVELS = (1000, 925, 850, 700, 500, 400, 300, 250, 200, 150, 100, 50)
OLR_FILE = "olr-daily_v01r02_20220101_20221231.nc"
CUT_OFF, NOISY, DAMAGED = 3, 7, 11
"""Stations whose file of ISD ends in the middle of a line, or has noise in one, and whose soundings are damaged."""
_ERRORS = {"t2m": 1.0, "td2m": 1.5, "msl": 60.0, "ps": 60.0, "u10": 1.0, "v10": 1.0}


def fill(root: Path, stations: int = 160, sondes: int = 50) -> None:
    """Write the archives of the test year below a folder."""
    world, draw = nature(), np.random.default_rng(2022)
    rows, columns = np.meshgrid(np.arange(2, 30), np.arange(64), indexing="ij")
    chosen = draw.permutation(rows.size)
    places = [(int(rows.flat[i]), int(columns.flat[i])) for i in chosen[:stations]]
    reports: dict[int, list[dict[str, object]]] = defaultdict(list)
    soundings: dict[int, list[str]] = defaultdict(list)
    olr: dict[np.datetime64, list[np.ndarray]] = defaultdict(list)
    described = [_place(world, row, column, number) for number, (row, column) in enumerate(places)]
    for time, state, surface in truth_of_2022(world):
        noise = {name: size * draw.standard_normal(stations) for name, size in _ERRORS.items()}
        fields = {name: state[index(name)] for name in ("t2m", "msl", "u10", "v10")}
        fields |= {name: surface[name].values for name in ("td2m", "ps")}
        for number, (row, column) in enumerate(places):
            values = {name: float(fields[name][row, column] + noise[name][number]) for name in _ERRORS}
            u, v = values.pop("u10"), values.pop("v10")
            wind = {"direction": float(wind_direction(u, v)), "speed": float(np.hypot(u, v))}
            reports[number].append({"time": pd.Timestamp(time), "tp": np.nan, **values, **wind})
        if str(time)[-2:] in ("00", "12"):
            for number in range(sondes):
                levels = _levels(state[:, places[number][0], places[number][1]], draw)
                soundings[number].append(content.igra_sounding(described[number][1], pd.Timestamp(time), levels))
        olr[time.astype("datetime64[D]")].append(surface["olr"].values)
    _write(root, described, reports, soundings, len(chosen[:sondes]))
    _damage(root, described)
    days = [regrid(np.mean(fields, axis=0), world.grid, ONE_DEGREE)[::-1] for fields in olr.values()]
    content.write_olr(root / content.OLR / OLR_FILE, list(olr), np.stack(days))
    content.write(root / content.OLR / OLR_FILE.replace("2022", "2021"), "another year, never asked for\n")


def _place(world, row: int, column: int, number: int) -> tuple[dict[str, object], dict[str, object]]:
    """Return a station at the centre of a cell, as ISD and as IGRA describe it."""
    latitude, longitude = float(world.grid.latitude[row]), float(world.grid.longitude[column])
    where = {
        "latitude": latitude,
        "longitude": longitude if longitude <= 180 else longitude - 360,
        "elevation": round(float(world.orography[row, column]), 1),
    }
    isd = {"station": f"{10000 + number:06d}99999", **where, "begin": 19500101, "end": 20251231}
    return isd, {"station": f"USM{number:08d}", **where, "begin": 1950, "end": 2025}


def _levels(column: np.ndarray, draw: np.random.Generator) -> list[tuple[float, float, float, float, float, float]]:
    """Return a sounding of a column (69,), with errors."""
    levels = []
    for level in LEVELS:
        z, q, u, v, t = (float(column[index(f"{name}{level}")]) for name in "zquvt")
        t += draw.normal(0, 0.5)
        u, v = u + draw.normal(0, 1), v + draw.normal(0, 1)
        moist = float(dewpoint(np.float64(max(q, 1e-7)), np.float64(100.0 * level))) if level >= 300 else np.nan
        wind = float(wind_direction(u, v)), float(np.hypot(u, v))
        levels.append((100.0 * level, z / GRAVITY, t, min(moist, t), *wind))
    return levels


def _write(root: Path, described, reports, soundings, sondes: int) -> None:
    isd, igra = (pd.DataFrame([pair[k] for pair in described]) for k in (0, 1))
    content.write(root / "pub/data/noaa/isd-history.csv", content.isd_history(isd))
    content.write(root / content.IGRA / "doc/igra2-station-list.txt", content.igra_list(igra[:sondes]))
    for number, (place, sounding) in enumerate(described):
        text = content.isd_file(place, pd.DataFrame(reports[number]))
        content.write(root / content.ISD / f"2022/{place['station']}.csv", text)
        if number < sondes:
            name = f"access/data-por/{sounding['station']}-data.txt.zip"
            content.write_igra(root / content.IGRA / name, "".join(soundings[number]))


def _damage(root: Path, described) -> None:
    """Damage three files, as they would be in the archives."""
    cut_off, noisy = (root / content.ISD / f"2022/{described[k][0]['station']}.csv" for k in (CUT_OFF, NOISY))
    cut_off.write_text(cut_off.read_text()[:-20])
    lines = noisy.read_text().splitlines(keepends=True)
    noisy.write_text("".join([*lines[:3], "\x07\x1f noise, ;;\n", *lines[4:]]))
    packed = root / content.IGRA / f"access/data-por/{described[DAMAGED][1]['station']}-data.txt.zip"
    whole = bytearray(packed.read_bytes())
    whole[len(whole) // 3] ^= 0xFF
    packed.write_bytes(whole)
