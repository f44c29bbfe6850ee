"""A backup is whole at every moment, a restored archive goes on as if nothing had happened, single files are mended."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dacycle.cycler.archive.branches import Archive, ArchiveError
from dacycle.cycler.experiment import write_experiment
from dacycle.cycler.keeping.backup import backup, restore
from dacycle.cycler.keeping.check import check, remedies
from dacycle.cycler.keeping.tidy import tidy
from tests.cycler import replays
from tests.cycler.runs import make_run

DACYCLE = [sys.executable, "-c", "import tests.worlds; tests.worlds.register_doubles(); "
           "from dacycle.cycler.cli import main; main()"]  # fmt: skip
ROOT = Path(__file__).parents[3]


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    command = [*DACYCLE, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def dacycle(*arguments: str | Path) -> str:
    process = start(*arguments)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return output


def chunks(copy: Path) -> int:
    return len(list(copy.glob("*.icechunk/chunks/[!.]*")))


def contents(archive: Path, name: str = "run") -> dict[str, object]:
    return replays.everything(archive, name)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny):
    return make_run(tmp_path_factory.mktemp("whole") / "archive", tiny, cycles=14, keep={"cycles": "2d"})


@pytest.fixture
def run(whole, tmp_path):
    subprocess.run(["cp", "-a", whole.archive.folder, tmp_path / "archive"], check=True)
    return Archive(tmp_path / "archive").branch("run")


def test_a_backup_copies_what_is_new_and_drops_what_is_gone(run, tmp_path, tiny):
    copy, archive = tmp_path / "copy", run.archive
    first = backup(archive, copy)
    (copy / "notes.txt").write_text("of somebody else")
    assert contents(copy) == contents(archive.folder)
    assert backup(archive, copy).files == 0
    make_run(archive.folder, tiny, cycles=15, keep={"cycles": "2d"})
    second = backup(archive, copy)
    assert 0 < second.files < first.files / 4
    tidy(archive)
    assert check(archive, copy).differing == [], "what was removed since is not damaged"
    third = backup(archive, copy)
    assert third.removed > 0
    assert (copy / "notes.txt").read_text() == "of somebody else"
    assert contents(copy) == contents(archive.folder)
    assert check(Archive(copy)).is_whole


def test_a_restored_archive_goes_on_to_the_same_archive(run, tmp_path, tiny):
    backup(run.archive, tmp_path / "copy")
    restore(tmp_path / "copy", tmp_path / "restored")
    for folder in (run.archive.folder, tmp_path / "restored"):
        make_run(folder, tiny, cycles=16, keep={"cycles": "2d"})
    assert contents(tmp_path / "restored") == contents(run.archive.folder)
    with pytest.raises(ArchiveError, match="holds something else already"):
        restore(tmp_path / "copy", tmp_path / "restored")


def test_backups_that_are_killed_while_cycles_run_are_whole(world, tmp_path):
    """Three are killed once they have copied a chunk; after each, and at the end, the copy is an undamaged archive."""
    content = replays.content(world.folder, world.model, tmp_path, end="2024-01-06T18", assimilator="none")
    file, archive, copy = tmp_path / "demo.yaml", tmp_path / "archive", tmp_path / "copy"
    file.write_text(write_experiment(content))
    dacycle("hindcast", file, "--archive", archive, "--limit", "1")
    running = start("hindcast", file, "--archive", archive)
    lengths, had_begun = [], []
    for is_killed in (True, True, True, False):
        before = chunks(copy)
        process = start("archive", "backup", archive, copy)
        if is_killed:
            while process.poll() is None and chunks(copy) == before:
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            had_begun.append(process.returncode == -signal.SIGKILL)
        else:
            assert process.wait() == 0
        if (copy / "states.icechunk/refs/branch.demo").exists():
            found = Archive(copy)
            assert check(found).is_whole
            lengths.append(len(found.branch("demo").times))
    running.communicate()
    assert running.returncode == 0
    assert any(had_begun)
    assert lengths == sorted(lengths)
    assert lengths
    restore(copy, tmp_path / "restored")
    dacycle("hindcast", file, "--archive", tmp_path / "restored")
    assert contents(tmp_path / "restored", "demo") == contents(archive, "demo")


def test_the_check_names_what_the_backup_mends(run, tmp_path):
    backup(run.archive, tmp_path / "copy")
    chunks = run.archive.folder / "states.icechunk/chunks"
    largest = max(chunks.iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 0x11
    largest.write_bytes(content)
    damaged = run.archive.folder / "branches/run/departures/20240103T12.parquet"
    damaged.write_bytes(b"")

    health = check(Archive(run.archive.folder), tmp_path / "copy")
    assert len(health.damaged["run"]) == 2
    assert health.differing == [f"states.icechunk/chunks/{largest.name}"]
    assert "dacycle rewind run" in remedies(health, run.archive.folder, None)[-1]
    ended = subprocess.run(
        [*DACYCLE, "archive", "check", run.archive.folder, "--backup", tmp_path / "copy"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 1
    assert f"--only states.icechunk/chunks/{largest.name}" in ended.stdout

    restore(tmp_path / "copy", run.archive.folder, [*health.differing, str(damaged)])
    assert check(Archive(run.archive.folder), tmp_path / "copy").is_whole


def test_a_branch_whose_newest_commit_cannot_be_found_is_mended_from_the_backup(run, tmp_path):
    backup(run.archive, tmp_path / "copy")
    shutil.rmtree(run.archive.folder / "states.icechunk/refs/branch.run")
    health = check(Archive(run.archive.folder), tmp_path / "copy")
    assert isinstance(health.differing, list), "the backup is no other archive's"


def test_nothing_is_removed_while_a_backup_or_a_check_is_made(run, tmp_path):
    with run.archive.removing(alone=True):
        for remove in (lambda: tidy(run.archive), lambda: run.archive.rewind("run", run.times[-2])):
            with pytest.raises(ArchiveError, match="is being written by process"):
                remove()
    with run.archive.removing(), pytest.raises(ArchiveError, match="is in use, last taken by process"):
        check(run.archive)
    run.archive.rewind("run", run.times[-2])


def test_the_copy_of_another_archive_is_not_overwritten(run, tmp_path, tiny):
    make_run(tmp_path / "other", tiny, cycles=2, name="other")
    backup(run.archive, tmp_path / "copy")
    make_run(tmp_path / "same name", tiny, cycles=1)
    for other in ("other", "same name"):
        for use in (backup, check):
            with pytest.raises(ArchiveError, match="is a copy of another archive"):
                use(Archive(tmp_path / other), tmp_path / "copy")
    with pytest.raises(ArchiveError, match="is not an archive"):
        restore(tmp_path / "other/branches", tmp_path / "restored")


def test_a_copy_in_its_archive_or_around_it_is_refused(run):
    folder = run.archive.folder
    for place in (folder, folder.parent, folder / "copy"):
        for copied in (lambda to: backup(run.archive, to), lambda to: restore(folder, to)):
            with pytest.raises(ArchiveError, match="lie in one another"):
                copied(place)


# --- buckets ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def bucket(monkeypatch):
    """Return the place of an empty bucket on a server on loopback that speaks S3 (moto)."""
    server = shutil.which("moto_server")
    if server is None:
        pytest.skip("needs a server that speaks S3: pip install 'moto[server]'")
    pytest.importorskip("s3fs")
    process = subprocess.Popen([server, "-p", "5066"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    variables = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_ENDPOINT_URL": "http://127.0.0.1:5066"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    import s3fs

    for _ in range(100):
        try:
            s3fs.S3FileSystem(skip_instance_cache=True).mkdir("backups")
            break
        except OSError:
            time.sleep(0.2)
    yield "s3://backups/archive"
    process.terminate()
    process.wait()


@pytest.mark.trial
def test_an_archive_is_copied_to_a_bucket_read_there_and_restored(run, tmp_path, bucket, tiny):
    import dacycle as package

    folder = run.archive.folder
    tidy(run.archive)
    assert "files copied" in dacycle("archive", "backup", folder, bucket)
    assert " 0 files copied" in dacycle("archive", "backup", folder, bucket)
    make_run(folder, tiny, cycles=15, keep={"cycles": "2d"})
    process = start("archive", "backup", folder, bucket)
    time.sleep(2.5)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    dacycle("archive", "backup", folder, bucket)

    there = package.open(bucket, "run")
    np.testing.assert_array_equal(there.frame(there.times[-1]), run.frame(run.times[-1]))
    assert there.records == run.records
    pd.testing.assert_frame_equal(there.departures(), run.departures())
    assert "20240105T12" in dacycle("status", bucket)
    assert "run: whole" in dacycle("archive", "check", bucket, "--backup", bucket)
    dacycle("report", "run", "--archive", bucket, "--out", tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size > 100_000
    with pytest.raises(ArchiveError, match="only read"):
        Archive(bucket).rewind("run", pd.Timestamp("2024-01-04T00"))

    dacycle("archive", "restore", bucket, tmp_path / "restored")
    for place in (folder, tmp_path / "restored"):
        make_run(place, tiny, cycles=16, keep={"cycles": "2d"})
    assert contents(tmp_path / "restored") == contents(folder)
