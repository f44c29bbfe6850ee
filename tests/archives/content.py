"""Archives with a few stations, in their true form: lists, folders and files of ISD, GHCNh, IGRA and OLR.

The functions that write one file take what it shall hold, so that they serve for draws from a world too.
"""

import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

ISD = "data/global-hourly/access"
IGRA = "data/integrated-global-radiosonde-archive"
OLR = "data/outgoing-longwave-radiation-daily/access"
GHCNH = "oa/global-historical-climatology-network/hourly"

_ISD_COLUMNS = (
    "STATION", "DATE", "SOURCE", "LATITUDE", "LONGITUDE", "ELEVATION", "NAME", "REPORT_TYPE", "CALL_SIGN",
    "QUALITY_CONTROL", "WND", "CIG", "VIS", "TMP", "DEW", "SLP", "AA1", "MA1", "REM",
)  # fmt: skip


def isd_history(stations: pd.DataFrame) -> str:
    """Return isd-history.csv of stations (station: 11 digits, latitude, longitude, elevation, begin, end)."""
    lines = [
        '"USAF","WBAN","STATION NAME","CTRY","STATE","ICAO","LAT","LON","ELEV(M)","BEGIN","END"',
        *(
            f'"{s.station[:6]}","{s.station[6:]}","STATION {s.Index}","","","","{s.latitude:+07.3f}",'
            f'"{s.longitude:+08.3f}","{s.elevation:+07.1f}","{s.begin}","{s.end}"'
            for s in stations.itertuples()
        ),
    ]
    return "\n".join(lines) + "\n"


def isd_file(place: Mapping[str, object], reports: pd.DataFrame) -> str:
    """Return a year of Global-Hourly.

    Args:
        place: station, latitude, longitude, elevation.
        reports: time, and t2m, td2m (K), msl, ps (Pa), direction (degrees), speed (m/s), tp (kg/m2 in 6 h); NaN where
            there is none.
    """
    rows = [",".join(f'"{name}"' for name in _ISD_COLUMNS)]
    for r in reports.itertuples():
        wind = "999,9,9,9999,9" if np.isnan(r.speed) else f"{r.direction:03.0f},1,N,{10 * r.speed:04.0f},1"
        cells = (
            place["station"], f"{r.time:%Y-%m-%dT%H:%M:%S}", "4", f"{place['latitude']:.3f}",
            f"{place['longitude']:.3f}", f"{place['elevation']:.1f}", "A STATION", "FM-12", "99999", "V020", wind,
            "99999,9,9,N", "999999,9,9,9", _tenths(r.t2m - 273.15), _tenths(r.td2m - 273.15),
            "99999,9" if np.isnan(r.msl) else f"{r.msl / 10:05.0f},1",
            "" if np.isnan(r.tp) else f"06,{10 * r.tp:04.0f},3,1",
            "" if np.isnan(r.ps) else f"99999,9,{r.ps / 10:05.0f},1", "SYN",
        )  # fmt: skip
        rows.append(",".join(f'"{cell}"' for cell in cells))
    return "\n".join(rows) + "\n"


def _tenths(celsius: float) -> str:
    return "+9999,9" if np.isnan(celsius) else f"{10 * celsius:+05.0f},1"


def ghcnh_file(place: Mapping[str, object], reports: pd.DataFrame) -> str:
    """Return a year of GHCNh; arguments as of `isd_file`."""
    values = {
        "temperature": reports["t2m"] - 273.15, "dew_point_temperature": reports["td2m"] - 273.15,
        "station_level_pressure": reports["ps"] / 100, "sea_level_pressure": reports["msl"] / 100,
        "wind_direction": reports["direction"], "wind_speed": reports["speed"],
    }  # fmt: skip
    table = pd.DataFrame(
        {"STATION": place["station"], "Station_name": "A", "DATE": reports["time"].dt.strftime("%FT%T")}
    )
    for name in ("latitude", "longitude", "elevation"):
        table[name.upper()] = place[name]
    for name, column in values.items():
        table[name] = column.round(1)
        for code, text in (("Measurement", ""), ("Quality", "1"), ("Report_Type", "FM12"), ("Source", "343")):
            table[f"{name}_{code}_Code".replace("Type_Code", "Type")] = text
        table[f"{name}_Source_Station_ID"] = "0"
    return table.to_csv(sep="|", index=False)


def igra_list(stations: pd.DataFrame) -> str:
    """Return igra2-station-list.txt (station: 11 characters, latitude, longitude, elevation, begin, end: years)."""
    return "".join(
        f"{s.station} {s.latitude:8.4f} {s.longitude:9.4f} {s.elevation:6.1f} {'':2} {f'STATION {s.Index}':30} "
        f"{s.begin} {s.end} {1000:6}\n"
        for s in stations.itertuples()
    )


def igra_sounding(
    place: Mapping[str, object], time: pd.Timestamp, levels: Iterable[tuple[float, float, float, float, float, float]]
) -> str:
    """Return a sounding: levels of pressure (Pa), height (m), temperature and dewpoint (K), direction, speed (m/s)."""
    lines = [
        f"{10 if p in _MANDATORY else 20} -9999 {p:6.0f} {z:5.0f} {10 * (t - 273.15):5.0f} -9999 "
        f"{10 * (t - td) if td == td else -9999:5.0f} {direction:5.0f} {10 * speed:5.0f} \n"
        for p, z, t, td, direction, speed in levels
    ]
    lat, lon = round(1e4 * float(place["latitude"])), round(1e4 * float(place["longitude"]))
    head = f"#{place['station']} {time:%Y %m %d %H %H%M} {len(lines):4} {'ncdc-gts':8} {'':8} {lat:7} {lon:8}\n"
    return head + "".join(lines)


_MANDATORY = {100000, 92500, 85000, 70000, 50000, 40000, 30000, 25000, 20000, 15000, 10000, 7000, 5000}


def write_igra(path: Path, soundings: str) -> None:
    """Write a station's zip file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(path.name.removesuffix(".zip"), soundings)


def write_olr(path: Path, days: Sequence[np.datetime64], olr: np.ndarray) -> None:
    """Write a year of the climate data record: olr (days, 180, 360), W/m2, latitudes ascending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    start = np.array(days, "M8[ns]")
    dataset = xr.Dataset(
        {
            "olr": (
                ("time", "lat", "lon"),
                olr.astype("f4"),
                {
                    "standard_name": "toa_outgoing_longwave_flux",
                    "units": "W m-2",
                    "cell_methods": "time: mean area: mean",
                },
            ),
            "time_bounds": (("time", "nv"), np.stack([start, start + np.timedelta64(1, "D")], axis=1)),
        },
        {
            "time": ("time", start, {"bounds": "time_bounds"}),
            "lat": ("lat", np.arange(-89.5, 90), {"units": "degrees_north"}),
            "lon": ("lon", np.arange(0.5, 360), {"units": "degrees_east"}),
        },
    )
    dataset.to_netcdf(
        path, engine="h5netcdf", encoding={"olr": {"zlib": True}, "time": {"units": "days since 1970-01-01"}}
    )


def write(path: Path, text: str) -> None:
    """Write a text, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def reports(days: int, year: int = 2022, seed: int = 0) -> pd.DataFrame:
    """Return plausible reports of a station, one an hour from 1 January."""
    draw, hours = np.random.default_rng(seed), 24 * days
    t2m = 283 + 5 * np.sin(np.arange(hours) * np.pi / 12) + draw.normal(0, 1, hours)
    return pd.DataFrame(
        {
            "time": pd.date_range(f"{year}-01-01", periods=hours, freq="h"),
            "t2m": t2m,
            "td2m": t2m - 4,
            "msl": 101300 + draw.normal(0, 200, hours),
            "ps": 100000 + draw.normal(0, 200, hours),
            "direction": draw.integers(1, 360, hours),
            "speed": draw.uniform(0.5, 12, hours),
            "tp": np.where(np.arange(hours) % 6, np.nan, 0.4),
        }
    )


STATIONS = pd.DataFrame(
    {
        "station": ["01001099999", "01002099999", "01415099999", "72530094846", "94767099999", "99999900001"],
        "latitude": [70.9, 71.5, 58.9, 41.96, -33.95, 0.0],
        "longitude": [-8.7, -9.5, 5.6, -87.93, 151.18, 0.0],
        "elevation": [9.0, 12.0, 7.0, 204.8, 6.0, 0.0],
        "begin": [19310101, 19310101, 19730101, 19461001, 19450101, 19900101],
        "end": [20251231] * 5 + [20001231],
    }
)
"""Two in one cell of 5.625 degrees, three others, and one without a position that ended long ago."""

SONDES = pd.DataFrame(
    {
        "station": ["ASM00094767", "NOM00001415", "USM00072530"],
        "latitude": [-33.95, 58.9, 41.96],
        "longitude": [151.18, 5.6, -87.93],
        "elevation": [6.0, 7.0, 204.8],
        "begin": [1945, 1973, 1946],
        "end": [2025, 2001, 2025],
    }
)


def sounding_levels() -> list[tuple[float, float, float, float, float, float]]:
    """Return a sounding in hydrostatic balance, of 250 K throughout."""
    pressures = np.array(sorted(_MANDATORY, reverse=True), float)
    heights = 287.05 * 250 / 9.80665 * np.log(101325 / pressures)
    return [(p, z, 250.0, 245.0, 270, 10) for p, z in zip(pressures, heights, strict=True)]


def make(root: Path, years: Sequence[int] = (2022,), days: int = 10) -> None:
    """Fill a folder with archives of a few stations; one of those that should report has no file."""
    write(root / "pub/data/noaa/isd-history.csv", isd_history(STATIONS))
    igra = root / IGRA
    write(igra / "doc/igra2-station-list.txt", igra_list(SONDES))
    write(root / GHCNH / "doc/ghcnh-station-list.txt", "".join(
        f"{s.station} {s.latitude:8.4f} {s.longitude:9.4f} {s.elevation:6.1f}    {'A STATION':39}\n"
        for s in SONDES.itertuples()
    ))  # fmt: skip
    months = "JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC"
    counts = [f"{s.station} {year}{' 700' * 12}\n" for s in SONDES.itertuples() for year in years]
    write(root / GHCNH / "doc/ghcnh-inventory.txt", f"GHCNh_ID    YEAR {months}\n{''.join(counts)}")
    for place in SONDES.to_dict("records"):
        for year in years:
            name = f"GHCNh_{place['station']}_{year}.psv"
            write(root / GHCNH / f"access/by-year/{year}/psv/{name}", ghcnh_file(place, reports(days, year)))
    for number, place in enumerate(STATIONS.to_dict("records")[:4]):
        for year in years:
            text = isd_file(place, reports(days if number != 1 else 1, year, number))
            write(root / ISD / f"{year}/{place['station']}.csv", text)
    for place in SONDES.to_dict("records"):
        times = [time for year in years for time in pd.date_range(f"{year}-01-01", periods=2 * days, freq="12h")]
        soundings = "".join(igra_sounding(place, time, sounding_levels()) for time in times)
        write_igra(igra / f"access/data-por/{place['station']}-data.txt.zip", soundings)
    write_igra(igra / "access/data-y2d/ASM00094767-data-beg2025.txt.zip", igra_sounding(place, times[0], []))
    for year in years:
        when = np.arange(f"{year}-01-01", f"{year}-01-11", dtype="M8[D]")
        field = np.random.default_rng(year).uniform(150, 300, (len(when), 180, 360)).round(0)
        write_olr(root / OLR / f"olr-daily_v01r02_{year}0101_{year}1231.nc", when, field)
