"""Faults of disks and clocks: each run ends as an undisturbed one, or stops with a sentence that names the remedy.

    make test ARGS="-m trial tests/cycler/reliability/test_faults.py -n0"

Disks are file systems of their own (tmpfs, ext4 on a loop device), which needs root. Clocks are `faketime`'s.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dacycle.cycler.archive.branches import Archive
from dacycle.cycler.experiment import write_experiment
from tests.cycler import replays

ROOT = Path(__file__).parents[3]
DACYCLE = [sys.executable, "-c", "import tests.worlds; tests.worlds.register_doubles(); "
           "from dacycle.cycler.cli import main; main()"]  # fmt: skip

pytestmark = pytest.mark.trial


def dacycle(*arguments: str | Path, before: tuple[str, ...] = ()) -> tuple[int, str]:
    """Run a command; return its exit status and what it printed."""
    command = [*before, *DACYCLE, *map(str, arguments)]
    ended = subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    return ended.returncode, ended.stdout


@pytest.fixture(scope="module")
def demo(world, tmp_path_factory) -> Path:
    """Return the file of an experiment of ten cycles."""
    folder = tmp_path_factory.mktemp("demo")
    content = replays.content(world.folder, world.model, folder, end="2024-01-05T18", assimilator="none")
    (folder / "demo.yaml").write_text(write_experiment(content))
    return folder / "demo.yaml"


@pytest.fixture(scope="module")
def undisturbed(demo) -> dict:
    archive = demo.parent / "undisturbed"
    assert dacycle("hindcast", demo, "--archive", archive)[0] == 0
    return replays.everything(archive)


def complete(archive: Path, demo: Path, undisturbed: dict) -> None:
    """Run the rest, and compare everything."""
    status, said = dacycle("hindcast", demo, "--archive", archive)
    assert status == 0, said
    assert replays.everything(archive) == undisturbed
    assert dacycle("archive", "check", archive)[0] == 0


@contextlib.contextmanager
def mounted(*arguments: str | Path) -> Iterator[Path]:
    """Mount a file system; the last argument is where."""
    where = Path(arguments[-1])
    where.mkdir(exist_ok=True)
    if os.geteuid() or subprocess.run(["mount", *map(str, arguments)], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount file systems")
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", where], check=True)


def test_a_full_disk_is_named_and_the_run_goes_on_once_there_is_room(demo, undisturbed, tmp_path):
    with mounted("-t", "tmpfs", "-o", "size=7m", "tmpfs", tmp_path / "disk") as disk:
        archive = disk / "archive"
        status, said = dacycle("hindcast", demo, "--archive", archive)
        assert status == 2, said
        assert "Traceback" not in said
        assert "No space left on device" in said
        done = len(Archive(archive).branch("demo").times)
        assert 2 < done < 12
        assert dacycle("archive", "check", archive)[0] == 0
        subprocess.run(["mount", "-o", "remount,size=100m", disk], check=True)
        complete(archive, demo, undisturbed)


def test_a_disk_that_turns_read_only_is_named_and_can_be_read(demo, undisturbed, tmp_path):
    with mounted("-t", "tmpfs", "-o", "size=100m", "tmpfs", tmp_path / "disk") as disk:
        archive = disk / "archive"
        assert dacycle("hindcast", demo, "--archive", archive, "--limit", "4")[0] == 0
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        status, said = dacycle("hindcast", demo, "--archive", archive)
        assert (status, "Read-only file system" in said, "Traceback" in said) == (2, True, False), said
        assert dacycle("status", archive)[0] == 0
        assert dacycle("archive", "backup", archive, tmp_path / "copy")[0] == 0
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
        complete(archive, demo, undisturbed)
    complete(tmp_path / "copy", demo, undisturbed)


def test_a_clock_set_back_stops_the_run_and_one_set_forth_does_not(demo, undisturbed, tmp_path):
    faketime = shutil.which("faketime")
    if faketime is None:
        pytest.skip("needs faketime")
    archive = tmp_path / "archive"
    assert dacycle("hindcast", demo, "--archive", archive, "--limit", "3")[0] == 0
    before = replays.everything(archive)
    status, said = dacycle("hindcast", demo, "--archive", archive, before=(faketime, "-f", "-3h"))
    assert (status, "set the clock right" in said, "Traceback" in said) == (2, True, False), said
    assert replays.everything(archive).keys() >= before.keys()
    ahead = (faketime, "-f", "+2s")
    assert dacycle("hindcast", demo, "--archive", archive, "--limit", "3", before=ahead)[0] == 0
    time.sleep(3)
    complete(archive, demo, undisturbed)


def test_the_newest_chunk_damaged_stops_the_run_with_the_way_out(demo, undisturbed, tmp_path):
    archive = tmp_path / "archive"
    assert dacycle("hindcast", demo, "--archive", archive, "--limit", "5")[0] == 0
    chunks = sorted((archive / "states.icechunk/chunks").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    for path in [path for path in chunks if path.stat().st_size > 20_000][-8:]:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0x40
        path.write_bytes(content)
    status, said = dacycle("hindcast", demo, "--archive", archive)
    assert (status, "is damaged" in said, "rewind" in said, "Traceback" in said) == (2, True, True, False), said
    status, said = dacycle("archive", "check", archive)
    assert status == 1
    command = next(line for line in said.splitlines() if "dacycle rewind demo" in line).split("#")[0].split()
    assert dacycle(*command[1:], "--yes")[0] == 0
    complete(archive, demo, undisturbed)


def test_of_two_writers_one_is_refused(demo, undisturbed, tmp_path):
    archive = tmp_path / "archive"
    assert dacycle("hindcast", demo, "--archive", archive, "--limit", "1")[0] == 0
    commands = [[*DACYCLE, "hindcast", str(demo), "--archive", str(archive)] for _ in range(2)]
    both = [
        subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for command in commands
    ]
    said = [process.communicate()[0] for process in both]
    assert 0 in [process.returncode for process in both]
    for process, text in zip(both, said, strict=True):
        assert process.returncode == 0 or "is being written by process" in text
    complete(archive, demo, undisturbed)


@pytest.mark.parametrize("number", range(4))
def test_power_cuts_on_a_disk_of_its_own(demo, undisturbed, tmp_path, number):
    """What the system had written to an ext4 file system on a loop device at some moment is all that is left."""
    image, cut = tmp_path / "disk.img", tmp_path / "cut.img"
    with image.open("wb") as file:
        file.truncate(96 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    with mounted("-o", "loop,commit=300", image, tmp_path / "disk") as disk:
        assert dacycle("hindcast", demo, "--archive", disk / "archive", "--limit", "1")[0] == 0
        command = [*DACYCLE, "hindcast", str(demo), "--archive", str(disk / "archive")]
        running = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _wait_for_cycle(disk / "archive", 4 + number)
        running.send_signal(signal.SIGSTOP)
        subprocess.run(["cp", image, cut], check=True)
        running.send_signal(signal.SIGKILL)
        running.wait()
    with mounted("-o", "loop", cut, tmp_path / "after") as disk:
        assert dacycle("archive", "check", disk / "archive")[0] == 0
        assert len(Archive(disk / "archive").branch("demo").times) >= 3 + number
        complete(disk / "archive", demo, undisturbed)


def _wait_for_cycle(archive: Path, number: int) -> None:
    departures = archive / "branches/demo/departures"
    while len(list(departures.glob("[!.]*.parquet"))) < number:
        time.sleep(0.002)
