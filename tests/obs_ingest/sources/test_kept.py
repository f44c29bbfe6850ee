"""What files are decoded to is kept by content: the same to the bit, whatever becomes of the entries."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dacycle.obs_ingest.sources import kept as module
from dacycle.obs_ingest.sources.base import build_source
from dacycle.obs_ingest.sources.kept import folder, kept
from dacycle.obs_ingest.window import Window
from tests.obs_ingest.test_fuzz import FORMATS

READ = """
import sys
import numpy as np
from dacycle.obs_ingest.sources.base import build_source
from dacycle.obs_ingest.window import Window
source, path, time, out = sys.argv[1:]
reader = build_source({"source": source, "path": path, "cutoff": "none"}, None, 0)
reader.read(Window(np.datetime64(time)))[0].to_pickle(out)
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Use a folder of the test's own, and nothing of the tests before."""
    monkeypatch.setenv("DACYCLE_CACHE", str(tmp_path_factory.mktemp("cache")))
    new_process(monkeypatch)


def new_process(monkeypatch):
    """Forget what is in memory, as a new process has nothing there."""
    monkeypatch.setattr(module, "_memory", module._Memory())
    monkeypatch.setattr(module, "_disk", module._Disk())


def entries():
    return sorted(path for path in folder().rglob("*") if path.is_file())


def read(form, path):
    network = {} if form.network is None else {"network": form.network}
    source = build_source({"source": form.source, "path": str(path), "cutoff": "none", **network}, None, 0)
    table, inventory = source.read(Window(np.datetime64(form.time)))
    return table, inventory.as_dict()


def same(one, other):
    pd.testing.assert_frame_equal(one[0], other[0], check_exact=True)
    assert one[1] == other[1]


class Counted:
    """Makes a number of a file, and counts how often."""

    def __init__(self):
        self.made = 0

    def __call__(self, path, *options, final=True):
        def make():
            self.made += 1
            return np.frombuffer(path.read_bytes(), np.uint8).astype(float)

        return kept(path, Counted, options, make, lambda result: final)


@pytest.mark.parametrize("name", sorted(FORMATS.keys() - {"table"}))
def test_what_was_kept_is_what_would_be_read(name, tmp_path, monkeypatch):
    form = FORMATS[name]
    form.make(tmp_path / form.file)
    fresh = read(form, tmp_path / form.file)
    assert entries()
    same(read(form, tmp_path / form.file), fresh)
    new_process(monkeypatch)
    same(read(form, tmp_path / form.file), fresh)
    new_process(monkeypatch)
    shutil.rmtree(folder())
    same(read(form, tmp_path / form.file), fresh)


def test_damage_is_counted_alike_and_names_the_file_at_its_new_place(tmp_path, monkeypatch):
    form = FORMATS["isd csv"]
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    file = tmp_path / "one" / form.file
    form.make(file)
    file.write_bytes(file.read_bytes() + b"a,b\n")
    shutil.copy(file, tmp_path / "two")
    first, made = read(form, file)[1], len(entries())
    second = read(form, tmp_path / "two" / form.file)[1]
    assert len(entries()) == made
    assert first["problems"]
    assert second["problems"] == [
        text.replace(str(tmp_path / "one"), str(tmp_path / "two")) for text in first["problems"]
    ]


@given(contents=st.lists(st.binary(max_size=40), min_size=1, max_size=8))
def test_results_belong_to_contents(tmp_path_factory, contents):
    path, counted = tmp_path_factory.mktemp("files") / "a", Counted()
    seen = set()
    for content in contents:
        path.write_bytes(content)
        os.utime(path, ns=(0, len(seen) + int(np.random.default_rng().integers(1 << 40))))
        assert counted(path, "option").tolist() == list(content)
        seen.add(content)
    assert counted.made <= len(seen)


def test_options_and_new_content_make_new_results(tmp_path):
    path, counted = tmp_path / "a", Counted()
    path.write_bytes(b"abc")
    for options in ((), (1,), (1.0,), ("1",)):
        for _ in range(2):
            assert counted(path, *options).tolist() == list(b"abc")
    assert counted.made == 4
    assert len(entries()) == 4
    assert counted(path, 2, final=False).tolist() == counted(path, 2, final=False).tolist()
    assert counted.made == 6


def test_other_code_or_libraries_make_new_results(tmp_path, monkeypatch):
    path, counted = tmp_path / "a", Counted()
    path.write_bytes(b"abc")
    counted(path)
    monkeypatch.setattr(module, "_versions", lambda: "others")
    counted(path)
    assert counted.made == 2


def damaged(path):
    content = path.read_bytes()
    middle = len(content) // 2
    yield b""
    yield content[:-1]
    yield content + b"."
    for at in (0, 20, middle, len(content) - 1):
        yield content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def test_a_damaged_entry_is_made_again(tmp_path, monkeypatch):
    path, counted = tmp_path / "a", Counted()
    path.write_bytes(b"abcdefghi" * 9)
    expected = counted(path)
    (entry,) = entries()
    good = entry.read_bytes()
    for number, content in enumerate(damaged(entry), 2):
        entry.write_bytes(content)
        new_process(monkeypatch)
        assert counted(path).tolist() == expected.tolist()
        assert counted.made == number
        assert entry.read_bytes() == good


def test_a_foreign_entry_is_not_opened(tmp_path, monkeypatch):
    """Another entry's content, one that others may write, one of another user, a folder in its place."""
    path, counted = tmp_path / "a", Counted()
    path.write_bytes(b"abc")
    counted(path)
    counted(path, 1)
    one, other = entries()
    other.write_bytes(one.read_bytes())
    new_process(monkeypatch)
    counted(path), counted(path, 1)
    assert counted.made == 3
    one.chmod(0o666)
    new_process(monkeypatch)
    counted(path), counted(path, 1)
    assert counted.made == 4
    assert all(entry.stat().st_mode & 0o777 == 0o600 for entry in entries())
    new_process(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(os, "getuid", lambda: 12345)
        counted(path), counted(path, 1)
    assert counted.made == 6
    one.unlink()
    one.mkdir()
    new_process(monkeypatch)
    counted(path), counted(path, 1)
    assert counted.made == 7


def test_the_folder_is_bounded_and_the_entries_used_last_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LIMIT", 40000)
    counted = Counted()
    for number in range(60):
        for entry in entries():  # each a day after the one before
            os.utime(entry, (entry.stat().st_mtime - 86400,) * 2)
        path = tmp_path / str(number)
        path.write_bytes(np.full(110, number, np.uint8).tobytes())
        counted(path)
        new_process(monkeypatch)
        counted(tmp_path / "0")
    assert counted.made == 60
    size = entries()[0].stat().st_size
    assert 0.8 * 40000 < len(entries()) * size <= 40000
    new_process(monkeypatch)
    counted(tmp_path / "0")
    counted(tmp_path / "59")
    assert counted.made == 60
    counted(tmp_path / "1")
    assert counted.made == 61


@pytest.mark.parametrize("obstacle", ["a file", "no folder can be made", "full"])
def test_without_a_folder_everything_works(tmp_path, monkeypatch, obstacle):
    form = FORMATS["isd csv"]
    form.make(tmp_path / form.file)
    expected = read(form, tmp_path / form.file)
    shutil.rmtree(folder())
    new_process(monkeypatch)
    if obstacle == "a file":
        folder().parent.mkdir(exist_ok=True)
        folder().write_text("")
    elif obstacle == "full":

        def full(*arguments, **options):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(module, "whole", full)
    else:
        monkeypatch.setenv("DACYCLE_CACHE", "/proc/none")
    for _ in range(2):
        same(read(form, tmp_path / form.file), expected)
    assert not entries()


def test_two_processes_at_once(tmp_path):
    """Both make the same entries at the same time, and a third uses them."""
    form = FORMATS["isd csv"]
    path = tmp_path / form.file
    form.make(path)
    tables = [tmp_path / name for name in ("one", "two", "three")]

    def start(out):
        return subprocess.Popen([sys.executable, "-c", READ, form.source, str(path), str(form.time), str(out)])

    for process in [start(out) for out in tables[:2]]:
        assert process.wait() == 0
    made = {entry: entry.stat().st_mtime_ns for entry in entries()}
    assert made
    assert start(tables[2]).wait() == 0
    assert {entry: entry.stat().st_mtime_ns for entry in entries()} == made
    one, two, three = map(pd.read_pickle, tables)
    pd.testing.assert_frame_equal(one, two, check_exact=True)
    pd.testing.assert_frame_equal(one, three, check_exact=True)


def test_a_measurement_keeps_nothing_and_uses_nothing(tmp_path):
    path, counted = tmp_path / "a", Counted()
    path.write_bytes(b"abc")
    with module.anew():
        counted(path), counted(path)
    assert not entries()
    counted(path)
    assert counted.made == 3
    with module.anew():
        counted(path)
    assert counted.made == 4
