"""Arrays that grow without zarr's own way of writing hold what zarr would write, to the byte."""

import asyncio
from pathlib import Path

import icechunk
import numpy as np
import pytest
import xarray as xr
import zarr
from zarr.buffer import default_buffer_prototype
from zarr.codecs import Crc32cCodec, ZstdCodec

from dacycle.cycler.archive.store import ArchiveError, Store

HOURS = np.arange(6, 6 * 151, 6)
"""More times than a chunk of texts holds."""
FIELDS = np.random.default_rng(1).normal(size=(len(HOURS), 3, 4)).astype(np.float32)
TEXTS = np.array([f"record {hour} °" * (1 + hour % 5) for hour in HOURS], dtype=object)


def dataset(rows: slice) -> xr.Dataset:
    return xr.Dataset(
        {"field": (("time", "y", "x"), FIELDS[rows], {"units": "K"}), "record": ("time", TEXTS[rows])},
        {"time": HOURS[rows].astype("datetime64[h]").astype("datetime64[s]"), "x": [1.0, 2.0, 3.0, 4.0]},
    )


def contents(store: zarr.abc.store.Store) -> dict[str, bytes]:
    async def read() -> dict[str, bytes]:
        found = {}
        async for key in store.list():
            content = await store.get(key, default_buffer_prototype())
            assert content is not None
            found[key] = content.to_bytes()
        return found

    return asyncio.run(read())


def written(folder: Path) -> dict[str, bytes]:
    repository = icechunk.Repository.open(icechunk.local_filesystem_storage(str(folder)))
    return contents(repository.readonly_session("run").store)


def expected(rows: int) -> dict[str, bytes]:
    """Return what zarr itself writes of the first rows."""
    store = zarr.storage.MemoryStore()
    group = zarr.open_group(store, mode="w").create_group("states")
    common = {"compressors": (ZstdCodec(level=1), Crc32cCodec())}
    of_time = {"units": "hours since 1970-01-01", "calendar": "proleptic_gregorian"}
    for name, values, chunks, fill, attributes in (
        ("field", FIELDS[:rows], (1, 3, 4), np.nan, {"units": "K"}),
        ("record", TEXTS[:rows], (64,), "", {}),
        ("time", HOURS[:rows], (512,), 0, of_time),
    ):
        array = group.create_array(
            name,
            shape=values.shape,
            chunks=chunks,
            dtype=str if name == "record" else values.dtype,
            fill_value=fill,
            attributes=attributes,
            dimension_names=["time", "y", "x"][: values.ndim],
            **common,
        )
        array[...] = values
    return contents(store)


@pytest.mark.parametrize("opened_again", [False, True])
def test_a_group_holds_what_zarr_would_write(tmp_path: Path, opened_again: bool) -> None:
    store = Store(tmp_path / "store")
    store.make()
    store.create_branch("run")
    last = 0
    for rows in (1, 2, 63, 64, 65, 130, 150):
        store.append("run", {"states": dataset(slice(last, rows))}, "rows")
        last = rows
        found, other = written(store.folder), expected(rows)
        for key, content in other.items():
            if key.startswith(("states/field", "states/record", "states/time")):
                assert found[key] == content, (rows, key)
        extra = {key for key in found if "/c/" in key and not key.startswith("states/x")} - other.keys()
        assert not extra
        if opened_again:
            store = Store(store.folder)
    np.testing.assert_array_equal(store.column("run", "states", "field"), FIELDS)
    assert store.column("run", "states", "record").tolist() == TEXTS.tolist()


def test_arrays_that_another_program_made_are_refused_and_stay_as_they_are(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.make()
    store.create_branch("run")
    repository = icechunk.Repository.open(icechunk.local_filesystem_storage(str(store.folder)))
    session = repository.writable_session("run")
    group = zarr.open_group(session.store, mode="a").create_group("states")
    for name, values in (("field", FIELDS[:1]), ("time", HOURS[:1])):
        group.create_array(name, data=values, chunks=(1, *values.shape[1:]))
    session.commit("by another program")
    with pytest.raises(ArchiveError, match=r"states/(field|time) has codecs or chunks that this version of dacycle"):
        store.append("run", {"states": dataset(slice(1, 2)).drop_vars("record")}, "rows")
    np.testing.assert_array_equal(Store(store.folder).column("run", "states", "field"), FIELDS[:1])
